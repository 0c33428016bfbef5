//! Servers, clients and hosts at their worst: each ends in HAProxy's policy and code, and nothing stays.
//!
//! Decides:  the termination state of each fault, for HAProxy too, and that the balancer serves on.
//! Not here: PROXY headers (proxy_protocol.rs), logs whose target is gone (logs.rs).

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use portcullis_testkit::private_network;

use super::clients::{ask, connect, drain, read_line, reset};
use super::harness::{Balancer, DEFAULTS, SOON, local};
use super::servers::Server;

const GOOD: u16 = 8100;
const BAD: u16 = 8000;

/// One port to a server that is well, and one to a server that is not.
fn config(defaults: &str, bad: &str) -> String {
    let head = DEFAULTS
        .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
        .replace(
            "mode tcp",
            "mode tcp\n    log global\n    option tcplog\n    retries 1",
        );
    format!(
        "{head}    {defaults}\nlisten good\n    bind 127.0.0.1:8100\n    server g 127.0.0.1:9100\n\
         listen bad\n    bind 127.0.0.1:8000\n    {bad}\n"
    )
}

struct Test {
    balancer: Balancer,
    _good: Server,
}

impl Test {
    fn start(defaults: &str, bad: &str) -> Test {
        let good = Server::echo(local(9100), "good");
        let config = config(defaults, bad);
        let balancer = Balancer::start(&config, &[local(GOOD), local(BAD)]);
        Test {
            balancer,
            _good: good,
        }
    }

    /// A client of the bad port says something, and its connection ends; its log line's code.
    fn code(&mut self) -> String {
        let mut client = connect(local(BAD));
        let _ = client.write_all(b"hello\n");
        let port = client.local_addr().unwrap().port();
        drain(&mut client);
        self.code_of(port)
    }

    fn code_of(&mut self, port: u16) -> String {
        let line = self
            .balancer
            .process
            .wait_line(&format!("127.0.0.1:{port} ["), SOON);
        line.split(' ').nth(6).unwrap().to_owned()
    }

    /// Others are served, no session is stuck, and the processor is at rest.
    fn end(mut self) {
        assert_eq!(ask(&mut connect(local(GOOD)), "x"), "good x");
        let before = cpu_ticks(self.balancer.pid());
        std::thread::sleep(Duration::from_millis(400));
        let spent = cpu_ticks(self.balancer.pid()) - before;
        assert!(spent <= 10, "it spins: {spent} ticks of 10 ms in 400 ms");
        self.balancer.assert_well();
        self.balancer.stop();
    }
}

/// User and system time, in ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let number = |at: usize| fields[at].parse::<u64>().unwrap();
    number(11) + number(12)
}

#[test]
fn a_server_that_refuses() {
    private_network(|| {
        let mut test = Test::start("", "server b 127.0.0.1:9999");
        assert_eq!(test.code(), "SC");
        test.end();
    });
}

#[test]
fn a_server_that_resets_at_once_or_in_the_middle() {
    private_network(|| {
        let _resetting = Server::start(local(9001), |mut stream| {
            let _ = read_line(&mut stream);
            let _ = stream.write_all(b"half an ans");
            std::thread::sleep(Duration::from_millis(100));
            reset(stream);
        });
        let mut test = Test::start("", "server b 127.0.0.1:9001");
        assert_eq!(test.code(), "SD");
        test.end();
    });
}

#[test]
fn a_server_that_hangs_in_the_handshake() {
    private_network(|| {
        // A full queue of the kernel's: SYNs are dropped.
        let listener = TcpListener::bind(local(9001)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let _fill: Vec<_> = (0..2)
            .map(|_| {
                let stream =
                    std::net::TcpStream::connect_timeout(&local(9001), Duration::from_millis(300));
                stream.ok()
            })
            .collect();
        let mut test = Test::start("timeout connect 400ms", "server b 127.0.0.1:9001");
        assert_eq!(test.code(), "sC");
        test.end();
    });
}

#[test]
fn a_server_that_floods_a_client_who_does_not_read() {
    private_network(|| {
        let _flood = Server::start(local(9001), |mut stream| {
            let junk = vec![b'x'; 256 * 1024];
            while stream.write_all(&junk).is_ok() {}
        });
        let mut test = Test::start("timeout client 700ms", "server b 127.0.0.1:9001");
        let mut client = connect(local(BAD));
        let port = client.local_addr().unwrap().port();
        client.write_all(b"go\n").unwrap();
        // Nothing is read; the client's time runs out.
        let code = test.code_of(port);
        assert_eq!(code, "cD");
        let memory = memory_kib(test.balancer.pid());
        assert!(memory < 200_000, "{memory} KiB");
        test.end();
    });
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

#[test]
fn a_server_that_sends_a_byte_now_and_then_is_alive() {
    private_network(|| {
        let _slow = Server::start(local(9001), |mut stream| {
            for _ in 0..8 {
                std::thread::sleep(Duration::from_millis(150));
                if stream.write_all(b".").is_err() {
                    return;
                }
            }
        });
        // Longer in all than the idle time allows, but never silent for so long.
        let mut test = Test::start(
            "timeout server 800ms\n    timeout client 800ms",
            "server b 127.0.0.1:9001",
        );
        let mut client = connect(local(BAD));
        let port = client.local_addr().unwrap().port();
        assert_eq!(drain(&mut client).0, 8);
        drop(client);
        assert_eq!(test.code_of(port), "--");
        test.end();
    });
}

#[test]
fn a_client_who_says_nothing() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let mut test = Test::start("timeout client 400ms", "server b 127.0.0.1:9001");
        let mut client = connect(local(BAD));
        let port = client.local_addr().unwrap().port();
        drain(&mut client);
        assert_eq!(test.code_of(port), "cD");
        test.end();
    });
}

#[test]
fn a_queue_that_takes_too_long() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let mut test = Test::start("timeout queue 400ms", "server b 127.0.0.1:9001 maxconn 1");
        let mut first = connect(local(BAD));
        assert_eq!(ask(&mut first, "x"), "one x");
        assert_eq!(test.code(), "sQ");
        drop(first);
        test.end();
    });
}

#[test]
fn every_server_in_maintenance_or_down() {
    private_network(|| {
        let mut test = Test::start("", "server a 127.0.0.1:9001 disabled");
        assert_eq!(test.code(), "SC");
        test.end();
        let bad = "server a 127.0.0.1:9998 check inter 100ms fall 1\n    \
                   server b 127.0.0.1:9999 check inter 100ms fall 1";
        let mut test = Test {
            balancer: Balancer::start(&config("", bad), &[local(GOOD), local(BAD)]),
            _good: Server::echo(local(9101), "unused"),
        };
        test.balancer.process.wait_line("no server available", SOON);
        let begun = Instant::now();
        assert_eq!(test.code(), "SC");
        assert!(begun.elapsed() < Duration::from_millis(900), "no retries");
        test.balancer.assert_well();
        test.balancer.stop();
    });
}

#[test]
fn thousands_of_clients_at_a_limit_of_a_thousand_beyond_the_backlog() {
    private_network(|| {
        super::clients::raise_descriptor_limit();
        let server = Server::echo(local(9100), "good");
        let config = DEFAULTS.replace("nbthread 2", "nbthread 2\n    maxconn 1000")
            + "listen good\n    bind 127.0.0.1:8100 backlog 4000\n    server g 127.0.0.1:9100\n";
        let mut balancer = Balancer::start(&config, &[local(GOOD)]);
        let clients: Vec<_> = (0..2_000)
            .map(|_| {
                let mut client = connect(local(GOOD));
                client.write_all(b"x\n").unwrap();
                client
            })
            .collect();
        for mut client in clients {
            assert_eq!(read_line(&mut client), "good x");
        }
        assert!(server.most() <= 1_000, "{}", server.most());
        balancer.assert_well();
        balancer.stop();
    });
}

#[test]
fn no_descriptors_left_lets_clients_wait_and_serves_them() {
    if super::harness::ours_only() {
        return;
    }
    private_network(|| {
        let server = Server::echo(local(9100), "good");
        let text = DEFAULTS.replace(
            "nbthread 2",
            "nbthread 1\n    no strict-limits\n    maxconn 500",
        ) + "listen good\n    bind 127.0.0.1:8100\n    server g 127.0.0.1:9100\n";
        let mut balancer = Balancer::start(&text, &[local(GOOD)]);
        let pid = rustix::process::Pid::from_raw(balancer.pid() as i32);
        let few = rustix::process::Rlimit {
            current: Some(60),
            maximum: Some(60),
        };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, few).unwrap();
        let clients: Vec<_> = (0..100).map(|_| connect(local(GOOD))).collect();
        std::thread::sleep(Duration::from_millis(500));
        let before = cpu_ticks(balancer.pid());
        std::thread::sleep(Duration::from_millis(500));
        assert!(cpu_ticks(balancer.pid()) - before <= 15, "it spins");
        let mut served = 0;
        for mut client in clients {
            // Some found no descriptor for their server, and may be gone already; all the others are served in
            // the end.
            let mut byte = [0];
            let said = client.write_all(b"x\n");
            served +=
                usize::from(said.is_ok() && client.read(&mut byte).is_ok_and(|count| count == 1));
        }
        assert!(served >= 50, "{served} of 100");
        balancer.assert_well();
        assert_eq!(ask(&mut connect(local(GOOD)), "after"), "good after");
        portcullis_testkit::wait_for("all to end", SOON, || server.now() == 0);
        balancer.stop();
    });
}

#[test]
fn no_source_port_left() {
    private_network(|| {
        let _server = Server::start(local(9001), |mut stream| {
            let _ = drain(&mut stream);
        });
        let mut test = Test::start("", "server b 127.0.0.1:9001 source 127.0.0.1:4000-4001");
        let held: Vec<_> = (0..2)
            .map(|_| {
                let mut client = connect(local(BAD));
                client.write_all(b"x\n").unwrap();
                client
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        let code = test.code();
        // The manual's letter for source ports is R; HAProxy logs S, from 2.6 to its newest version.
        assert_eq!(code, "SC");
        drop(held);
        test.end();
    });
}
