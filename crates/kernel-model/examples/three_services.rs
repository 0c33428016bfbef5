//! Can these three services share port 443?
//!
//!     cargo run -p portcullis-kernel-model --example three_services
//!
//! Decides:  nothing; it asks the model, and prints what would have to differ.
//! Not here: a live host read into the model (`portcullis why`).

#![allow(clippy::print_stdout, clippy::expect_used)]

use std::net::IpAddr;

use portcullis_kernel_model::{
    Answer, Call, Family, Host, Interface, Kernel, Opt, ProcessId, SockAddr, SocketId, Vrf, World,
};

const ROOT: ProcessId = ProcessId(0);

/// A service as its configuration has it.
struct Service {
    name: &'static str,
    ip: &'static str,
    options: &'static [Opt],
}

const SERVICES: &[Service] = &[
    Service {
        name: "vpn",
        ip: "192.0.2.7",
        options: &[Opt::ReuseAddr(true)],
    },
    Service {
        name: "api",
        ip: "127.0.0.1",
        options: &[Opt::ReuseAddr(true)],
    },
    Service {
        name: "web",
        ip: "::",
        options: &[Opt::ReuseAddr(true)],
    },
];

fn main() {
    for line in report() {
        println!("{line}");
    }
}

/// Starts the services in order, as the host would, and tells of each what became of it.
pub fn report() -> Vec<String> {
    let mut host = Host::new(Kernel::V6_18);
    host.namespaces[0].interfaces.push(Interface {
        index: 2,
        name: "eth0".into(),
        up: true,
        vrf: Vrf::Outside,
        v4: vec![([192, 0, 2, 7].into(), 24)],
        v6: vec![],
    });
    let mut world = World::new(host);
    let mut started: Vec<(SocketId, &str)> = Vec::new();
    let mut lines = Vec::new();
    for service in SERVICES {
        let ip: IpAddr = service.ip.parse().expect("an address");
        let family = if ip.is_ipv6() {
            Family::Inet6
        } else {
            Family::Inet
        };
        let socket = world.socket(ROOT, family);
        for &option in service.options {
            world.call(socket, Call::Set(option));
        }
        let bind = Call::Bind(SockAddr::new(ip, 443));
        let before = world.clone();
        let (answer, why) = world.explain(ROOT, socket, bind);
        started.push((socket, service.name));
        if answer.is_ok() && world.call(socket, Call::Listen(128)).is_ok() {
            lines.push(format!("{} listens on {ip}, port 443", service.name));
            continue;
        }
        let name = |socket: SocketId| {
            let known = started.iter().find(|entry| entry.0 == socket);
            known.map_or("somebody", |entry| entry.1)
        };
        let rule = why.decided_by().expect("a refusal has a rule");
        let error = match answer {
            Answer::Err(errno) => errno.name(),
            _ => "no error",
        };
        let holder = why.because_of().map_or("nobody", name);
        lines.push(format!(
            "{} cannot have {ip}, port 443: {error} because of {holder} ({})",
            service.name,
            rule.info().id
        ));
        for way in before.ways_out(ROOT, socket, bind) {
            let say = |socket: SocketId, out: &mut dyn std::fmt::Write| out.write_str(name(socket));
            lines.push(format!("    it could, if you {}", way.told(&say)));
        }
    }
    lines
}
