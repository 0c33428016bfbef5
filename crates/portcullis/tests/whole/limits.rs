//! More than there is room for: connections, descriptors.

use std::net::TcpStream;
use std::time::Duration;

use portcullis_testkit::{
    Signal, cpu_time, descriptors, eventually, private_network, set_sysctl, wait_for,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::clients::{ask, connect, raise_descriptor_limit};
use super::harness::{Balancer, Peer, SOON, listen, local, peer};
use super::servers::Server;

const FRONT: u16 = 8000;

#[test]
fn three_thousand_clients_at_a_limit_of_a_thousand_are_all_served() {
    private_network(|| {
        const CLIENTS: usize = 3000;
        const LIMIT: usize = 1000;
        if raise_descriptor_limit() < 8192 {
            return portcullis_testkit::skip("needs 8,192 descriptors (`ulimit -Hn`)");
        }
        set_sysctl("net.core.somaxconn", "8192");
        set_sysctl("net.ipv4.tcp_max_syn_backlog", "8192");
        let server = Server::echo(local(9001), "one");
        let config = listen("127.0.0.1:8000", &[server.address])
            .replace("mode tcp", "mode tcp\n    maxconn 1000\n    backlog 8192")
            .replace("nbthread 2", "nbthread 2\n    maxconn 4000");
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        let mut waiting: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(local(FRONT))).collect();
        wait_for("the limit to be reached", SOON, || server.now() == LIMIT);
        let idle = cpu_time(balancer.pid());
        let over = eventually(Duration::from_secs(1), || server.now() > LIMIT);
        assert!(!over, "{} at once", server.now());
        let used = cpu_time(balancer.pid()) - idle;
        assert!(
            used < Duration::from_millis(400),
            "{used:?} of a second spent at the limit"
        );
        // Those that were accepted first are answered first; as they leave, the others get in.
        while !waiting.is_empty() {
            let batch: Vec<_> = waiting.drain(..waiting.len().min(50)).collect();
            for mut client in batch {
                assert_eq!(ask(&mut client, "x"), "one x");
            }
        }
        assert_eq!(server.connections(), CLIENTS);
        // A slot is free once the balancer has closed; the server's own count comes a moment later.
        assert!(server.most() <= LIMIT + 50, "{} at once", server.most());
        wait_for("all to be gone", SOON, || server.now() == 0);
        balancer.assert_well();
        balancer.stop();
    });
}

#[test]
fn a_limit_of_one_listener_leaves_the_other_alone() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let config = listen("127.0.0.1:8000 maxconn 2", &[server.address])
            .replace("    server", "    bind 127.0.0.1:8001\n    server");
        let balancer = Balancer::start(&config, &[local(FRONT), local(8001)]);
        let mut first = connect(local(FRONT));
        let mut second = connect(local(FRONT));
        assert_eq!(ask(&mut first, "1"), "one 1");
        assert_eq!(ask(&mut second, "2"), "one 2");
        let mut third = connect(local(FRONT));
        assert_eq!(ask(&mut connect(local(8001)), "other"), "one other");
        third
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let early = std::io::Read::read(&mut third, &mut [0]);
        assert!(early.is_err(), "the third waits");
        drop(first);
        let mut third = super::clients::with_deadlines(third);
        assert_eq!(ask(&mut third, "3"), "one 3");
        balancer.stop();
    });
}

#[test]
fn without_descriptors_left_it_waits_without_spinning_and_goes_on() {
    private_network(|| {
        const CLIENTS: usize = 60;
        let server = Server::echo(local(9001), "one");
        let mut balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        let mut first = connect(local(FRONT));
        assert_eq!(ask(&mut first, "x"), "one x");
        // From now on: room for about ten more sessions of two descriptors.
        limit_descriptors(balancer.pid(), descriptors(balancer.pid()) as u64 + 20);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(local(FRONT))).collect();
        wait_for("some of them to be served", SOON, || server.now() >= 5);
        std::thread::sleep(Duration::from_millis(500));
        let idle = cpu_time(balancer.pid());
        std::thread::sleep(Duration::from_secs(2));
        let used = cpu_time(balancer.pid()) - idle;
        assert!(
            used < Duration::from_millis(600),
            "{used:?} of two seconds spent without descriptors"
        );
        assert!(server.now() < CLIENTS, "the limit was no limit");
        assert_eq!(ask(&mut first, "y"), "one y", "sessions go on");
        if peer() == Peer::Portcullis {
            balancer.signal(Signal::QUIT);
            balancer
                .process
                .wait_line("descriptors or memory ran out", SOON);
        }
        // Whoever was accepted and found no descriptor may be let go; who waits gets in, and the
        // end of one client makes room for the next.
        limit_descriptors(
            balancer.pid(),
            getrlimit(Resource::Nofile).maximum.unwrap_or(4096),
        );
        clients.clear();
        let served = || ask_quietly().as_deref() == Some("one again");
        assert!(eventually(SOON, served), "it serves no more");
        balancer.assert_well();
        balancer.stop();
    });
}

fn limit_descriptors(pid: u32, limit: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let now = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: Some(limit),
        maximum: now.maximum,
    };
    prlimit(pid, Resource::Nofile, limit).unwrap();
}

fn ask_quietly() -> Option<String> {
    use std::io::{BufRead as _, Write as _};
    let mut stream = connect(local(FRONT));
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    stream.write_all(b"again\n").ok()?;
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line).ok()?;
    Some(line.trim_end().to_owned())
}
