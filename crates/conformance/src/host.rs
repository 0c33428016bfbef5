//! The hosts of a conformance run: interfaces, users, and sets of sysctls, for both sides.
//!
//! Decides:  what the private network of a worker looks like, and what the model is told of it.
//! Kernel:   network_namespaces(7); Documentation/networking/ip-sysctl.rst
//! Not here: which scripts run there.

use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream,
};
use std::os::fd::AsFd;
use std::time::Duration;

use portcullis_kernel_model::{
    Addr6, Caps, Host, Interface, Kernel, State, Sysctls, Uid, UserNsId, Vrf,
};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::netlink;
use crate::step::{Ports, RANGE_WIDTH};

/// One of those who call: a user with all capabilities, or with none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// How a script names it.
    pub name: &'static str,
    /// File-system user id.
    pub uid: u32,
    /// Whether it has the network capabilities.
    pub capable: bool,
}

/// Those who call. Without root only those of the first user exist.
pub const CALLERS: &[Caller] = &[
    Caller {
        name: "root",
        uid: 0,
        capable: true,
    },
    Caller {
        name: "alice",
        uid: 1001,
        capable: false,
    },
    Caller {
        name: "bob",
        uid: 1002,
        capable: false,
    },
    Caller {
        name: "admin",
        uid: 1001,
        capable: true,
    },
    Caller {
        name: "nobody",
        uid: 0,
        capable: false,
    },
];

/// A set of sysctls: a name and what differs from the kernel's own values.
pub struct Profile {
    /// How a report names it.
    pub name: &'static str,
    /// What is different.
    pub change: fn(&mut Sysctls),
}

/// Every set of sysctls. The first is the kernel's own.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "default",
        change: |_| (),
    },
    Profile {
        name: "nonlocal-bind",
        change: |s| {
            s.ip_nonlocal_bind = true;
            s.ip6_nonlocal_bind = true;
        },
    },
    Profile {
        name: "bindv6only",
        change: |s| s.bindv6only = true,
    },
    Profile {
        name: "autobind-reuse",
        change: |s| s.ip_autobind_reuse = true,
    },
    Profile {
        name: "migrate-req",
        change: |s| s.tcp_migrate_req = true,
    },
    Profile {
        name: "reserved-ports",
        change: |s| {
            let low = s.ip_local_port_range.0;
            s.ip_local_reserved_ports = vec![(low + 1, low + 2), (low + 4, low + 4)];
        },
    },
    Profile {
        name: "unprivileged-all",
        change: |s| s.ip_unprivileged_port_start = 0,
    },
    Profile {
        name: "small-somaxconn",
        change: |s| s.somaxconn = 1,
    },
    Profile {
        name: "fastopen-all",
        change: |s| s.tcp_fastopen = 0x403,
    },
    Profile {
        name: "abort-on-overflow",
        change: |s| s.tcp_abort_on_overflow = true,
    },
    Profile {
        name: "odd-range",
        change: |s| s.ip_local_port_range.1 -= 1,
    },
    Profile {
        name: "range-of-one",
        change: |s| s.ip_local_port_range.1 = s.ip_local_port_range.0,
    },
    Profile {
        name: "range-of-three",
        change: |s| s.ip_local_port_range.1 = s.ip_local_port_range.0 + 2,
    },
    Profile {
        name: "odd-range-autobind-reuse",
        change: |s| {
            s.ip_local_port_range.1 -= 1;
            s.ip_autobind_reuse = true;
        },
    },
    Profile {
        name: "tw-reuse-everywhere",
        change: |s| s.tcp_tw_reuse = 1,
    },
    Profile {
        name: "tw-reuse-nowhere",
        change: |s| s.tcp_tw_reuse = 0,
    },
    Profile {
        name: "no-cookies",
        change: |s| {
            s.tcp_syncookies = 0;
            s.tcp_max_syn_backlog = 4;
        },
    },
    Profile {
        name: "cookies-always",
        change: |s| s.tcp_syncookies = 2,
    },
    Profile {
        name: "migrate-and-abort",
        change: |s| {
            s.tcp_migrate_req = true;
            s.tcp_abort_on_overflow = true;
            s.somaxconn = 1;
        },
    },
];

/// The place of the profile in which connect takes TIME_WAIT over everywhere.
pub const TW_REUSE_EVERYWHERE: u8 = 14;
/// The place of the one in which it does so nowhere.
pub const TW_REUSE_NOWHERE: u8 = 15;

/// The index of the loopback, and of both ends of the pair.
pub const LOOPBACK: u32 = 1;
/// One end.
pub const LEFT: u32 = 2;
/// The other end.
pub const RIGHT: u32 = 3;
/// How long the kernel may take to notice that interfaces are up (net/core/link_watch.c: at most 1 s).
pub(crate) const SETTLE: Duration = Duration::from_millis(1100);
/// How often a network is set right before it is given up.
const ATTEMPTS_MAX: u32 = 5;
const LEFT_NAME: &str = "pc2";
const RIGHT_NAME: &str = "pc3";
/// The index of an interface that is down; the other end of its pair is nobody's.
pub const DOWN: u32 = 4;
const DOWN_NAME: &str = "pc4";
const FAR_OF_DOWN: u32 = 1004;

/// 10.1.0.1/16, on `lo`: the whole network is this host's.
pub const NET_ON_LO: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const NET_ON_LO_PREFIX: u8 = 16;
/// 198.51.100.7/24, on `pc2`: the second address of its network.
pub const SECONDARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// 203.0.113.33/29, on `pc4`, which is down.
pub const ON_DOWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 33);

/// 192.0.2.1, on `lo`.
pub const ON_LO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// 198.51.100.1/24, on `pc2`.
pub const ON_LEFT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The broadcast address of `pc2`'s network.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 255);
/// 203.0.113.9, nobody's.
pub const FOREIGN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// 2001:db8::1, on `lo`.
pub const ON_LO6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// 2001:db8:2::1/64, on `pc2`.
pub const ON_LEFT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// 2001:db8:f::9, nobody's.
pub const FOREIGN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 9);
/// fe80::2, on `pc2`.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// The name of an interface; of one that does not exist for other numbers.
#[must_use]
pub fn device_name(index: u32) -> &'static str {
    match index {
        0 => "",
        LOOPBACK => "lo",
        LEFT => LEFT_NAME,
        RIGHT => RIGHT_NAME,
        DOWN => DOWN_NAME,
        _ => "no-such-device",
    }
}

/// The sysctls of a profile, with the range of ports that these names stand for.
#[must_use]
pub fn sysctls(profile: u8, ports: &Ports) -> Sysctls {
    let range = (ports.range, ports.range + RANGE_WIDTH - 1);
    let mut sysctls = Sysctls {
        ip_local_port_range: range,
        // What is remembered of peers would reach from one script to the next.
        tcp_no_metrics_save: true,
        ..Sysctls::default()
    };
    if let Some(profile) = PROFILES.get(usize::from(profile)) {
        (profile.change)(&mut sysctls);
    }
    sysctls
}

/// The model of the private network. `user` is the id that the worker runs as.
#[must_use]
pub fn model(kernel: Kernel, user: u32, profile: u8, ports: &Ports) -> Host {
    let mut host = Host::new(kernel);
    host.processes.clear();
    for caller in CALLERS {
        let caps = if caller.capable {
            Caps::ALL
        } else {
            Caps::NONE
        };
        let uid = if caller.uid == 0 { user } else { caller.uid };
        host.add_process(Uid(uid), caps);
    }
    let net = &mut host.namespaces[0];
    net.user_ns = UserNsId(0);
    net.sysctls = sysctls(profile, ports);
    net.interfaces[0].v4.push((ON_LO, 32));
    net.interfaces[0].v4.push((NET_ON_LO, NET_ON_LO_PREFIX));
    net.interfaces[0].v6.push(Addr6 {
        addr: ON_LO6,
        prefix: 128,
        tentative: false,
    });
    let settled = |addr| Addr6 {
        addr,
        prefix: 64,
        tentative: false,
    };
    net.interfaces.push(Interface {
        index: LEFT,
        name: LEFT_NAME.into(),
        up: true,
        vrf: Vrf::Outside,
        v4: vec![(ON_LEFT, 24), (SECONDARY, 24)],
        v6: vec![settled(ON_LEFT6), settled(LINK_LOCAL)],
    });
    net.interfaces.push(Interface {
        index: RIGHT,
        name: RIGHT_NAME.into(),
        up: true,
        vrf: Vrf::Outside,
        v4: Vec::new(),
        v6: Vec::new(),
    });
    net.interfaces.push(Interface {
        index: DOWN,
        name: DOWN_NAME.into(),
        up: false,
        vrf: Vrf::Outside,
        v4: vec![(ON_DOWN, 29)],
        v6: Vec::new(),
    });
    host
}

/// Sets what the scale of a window follows (`tcp_select_initial_window`) to the value that the model's
/// constant is made for, since a namespace begins with what the machine's own has.
pub(crate) fn set_window_scale() -> io::Result<()> {
    match write_sysctl("net/ipv4/tcp_rmem", "4096 131072 33554432") {
        // Before 4.15 there is one value for all namespaces.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Makes the network of this process that of [`model`]. It must be in a fresh network namespace.
pub fn set_up() -> io::Result<()> {
    set_window_scale()?;
    // No addresses of the kernel's own making, which come late and go through detection.
    match write_sysctl("net/ipv6/conf/default/addr_gen_mode", "1") {
        // Before 4.11 there is no such choice: the pair has one more address each, which nothing uses.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => outcome?,
    }
    write_sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    netlink::up(LOOPBACK)?;
    netlink::add_address(LOOPBACK, ON_LO.into(), 32)?;
    netlink::add_address(LOOPBACK, ON_LO6.into(), 128)?;
    netlink::add_pair((LEFT, LEFT_NAME), (RIGHT, RIGHT_NAME))?;
    netlink::up(LEFT)?;
    netlink::up(RIGHT)?;
    netlink::add_address(LOOPBACK, NET_ON_LO.into(), NET_ON_LO_PREFIX)?;
    netlink::add_address(LEFT, ON_LEFT.into(), 24)?;
    netlink::add_address(LEFT, SECONDARY.into(), 24)?;
    netlink::add_pair((DOWN, DOWN_NAME), (FAR_OF_DOWN, "far"))?;
    netlink::add_address(DOWN, ON_DOWN.into(), 29)?;
    netlink::add_address(LEFT, ON_LEFT6.into(), 64)?;
    netlink::add_address(LEFT, LINK_LOCAL.into(), 64)?;
    // The kernel adds routes of its own when it has noticed that the pair is up, and that an address
    // needs no detection; its own route to an address would come before the one that is made here.
    std::thread::sleep(SETTLE);
    let loopback = Ipv4Addr::new(127, 0, 0, 0);
    netlink::acknowledge_at_once(LOOPBACK, loopback.into(), 8, Ipv4Addr::LOCALHOST.into())?;
    let of_lo = NET_ON_LO.to_bits() & (u32::MAX << (32 - NET_ON_LO_PREFIX));
    netlink::acknowledge_at_once(
        LOOPBACK,
        Ipv4Addr::from(of_lo).into(),
        NET_ON_LO_PREFIX,
        NET_ON_LO.into(),
    )?;
    for (device, address) in acknowledging() {
        // What is sent to a secondary address comes from the first of its network.
        let source = if address == IpAddr::V4(SECONDARY) {
            ON_LEFT.into()
        } else {
            address
        };
        netlink::acknowledge_at_once(device, address, host_prefix(address), source)?;
        let mut attempts = 0;
        while !is_acknowledged_at_once(address)? {
            attempts += 1;
            if attempts > ATTEMPTS_MAX {
                return Err(io::Error::other(format!(
                    "{address} does not acknowledge at once"
                )));
            }
            // The kernel's own route came back.
            std::thread::sleep(SETTLE);
            netlink::forget_route(device, address, host_prefix(address))?;
        }
    }
    Ok(())
}

/// The addresses that connections are made to, with their interfaces.
fn acknowledging() -> [(u32, IpAddr); 10] {
    [
        (LOOPBACK, Ipv4Addr::LOCALHOST.into()),
        (LOOPBACK, ON_LO.into()),
        (LOOPBACK, NET_ON_LO.into()),
        (LEFT, ON_LEFT.into()),
        (LEFT, SECONDARY.into()),
        (DOWN, ON_DOWN.into()),
        (LOOPBACK, Ipv6Addr::LOCALHOST.into()),
        (LOOPBACK, ON_LO6.into()),
        (LEFT, ON_LEFT6.into()),
        (LEFT, LINK_LOCAL.into()),
    ]
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether a FIN towards the address is acknowledged within the call that sends it.
fn is_acknowledged_at_once(address: IpAddr) -> io::Result<bool> {
    let scope = match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => LEFT,
        _ => 0,
    };
    let at = |port| match address {
        IpAddr::V4(v4) => SocketAddr::from((v4, port)),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
    };
    let listener = TcpListener::bind(at(0))?;
    let client = TcpStream::connect(at(listener.local_addr()?.port()))?;
    client.shutdown(Shutdown::Write)?;
    let state = portcullis_sys::bare::tcp_state(client.as_fd())?;
    // Nothing of it stays: what would is reset with the queue of the listener.
    drop(listener);
    Ok(state == State::FinWait2 as u8)
}

/// Writes every sysctl that a profile can change. One that this kernel does not have may be missing
/// where it has its usual value; else the error is `NotFound`, and the profile does not exist here.
pub fn apply(sysctls: &Sysctls) -> io::Result<()> {
    // Those that a kernel lacks have no value of their own there.
    let usual = written(&Sysctls::default());
    for ((name, value), (_, usual)) in written(sysctls).into_iter().zip(usual) {
        match write_sysctl(name, &value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && value == usual => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn written(sysctls: &Sysctls) -> Vec<(&'static str, String)> {
    let flag = |on: bool| String::from(if on { "1" } else { "0" });
    let reserved: Vec<String> = sysctls
        .ip_local_reserved_ports
        .iter()
        .map(|(low, high)| format!("{low}-{high}"))
        .collect();
    let (low, high) = sysctls.ip_local_port_range;
    let start = sysctls.ip_unprivileged_port_start.to_string();
    let overflow = flag(sysctls.tcp_abort_on_overflow);
    let backlog = sysctls.tcp_max_syn_backlog.to_string();
    vec![
        // The unprivileged start must stay below the range (net/ipv4/sysctl_net_ipv4.c).
        ("net/ipv4/ip_local_port_range", format!("{low} {high}")),
        (
            "net/ipv4/ip_local_reserved_ports",
            format!("{}\n", reserved.join(",")),
        ),
        ("net/ipv4/ip_unprivileged_port_start", start),
        ("net/ipv4/ip_nonlocal_bind", flag(sysctls.ip_nonlocal_bind)),
        ("net/ipv6/ip_nonlocal_bind", flag(sysctls.ip6_nonlocal_bind)),
        ("net/ipv6/bindv6only", flag(sysctls.bindv6only)),
        (
            "net/ipv4/ip_autobind_reuse",
            flag(sysctls.ip_autobind_reuse),
        ),
        ("net/ipv4/tcp_migrate_req", flag(sysctls.tcp_migrate_req)),
        ("net/core/somaxconn", sysctls.somaxconn.to_string()),
        ("net/ipv4/tcp_fastopen", sysctls.tcp_fastopen.to_string()),
        ("net/ipv4/tcp_abort_on_overflow", overflow),
        (
            "net/ipv4/tcp_no_metrics_save",
            flag(sysctls.tcp_no_metrics_save),
        ),
        ("net/ipv4/tcp_max_syn_backlog", backlog),
        (
            "net/ipv4/tcp_syncookies",
            sysctls.tcp_syncookies.to_string(),
        ),
        ("net/ipv4/tcp_tw_reuse", sysctls.tcp_tw_reuse.to_string()),
    ]
}

fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value)
        .map_err(|error| io::Error::new(error.kind(), format!("{name} = {value:?}: {error}")))
}

/// Makes this thread one of [`CALLERS`]: the owner of its sockets, and what it may.
pub fn become_caller(caller: Caller, may_change_user: bool) -> io::Result<()> {
    if may_change_user {
        portcullis_sys::bare::set_file_system_user(caller.uid)?;
    }
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    if !caller.capable {
        let network =
            CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
        sets.effective.remove(network);
    }
    rustix::thread::set_capabilities(None, CapabilitySets { ..sets })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_stand_at_the_places_that_have_names() {
        let name = |at: u8| PROFILES[usize::from(at)].name;
        assert_eq!(name(TW_REUSE_EVERYWHERE), "tw-reuse-everywhere");
        assert_eq!(name(TW_REUSE_NOWHERE), "tw-reuse-nowhere");
    }
}
