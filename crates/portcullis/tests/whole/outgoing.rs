//! What connections carry: addresses of ours and of others, keepalive, fast open.
//!
//! Source:   HAProxy's manual, `source`, `usesrc`, `option tcpka` and its like, `tfo`; HAProxy 2.6 is
//!           held to the same with `PORTCULLIS_PEER=haproxy`.
//! Kernel:   ip(7) IP_TRANSPARENT, tcp(7) TCP_KEEPIDLE and its like, TCP_FASTOPEN_CONNECT

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_testkit::{need_program, private_network, set_sysctl, wait_for};
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::clients::{ask, connect, connect_from, drain, read_line};
use super::harness::{Balancer, DEFAULTS, SOON, local, ours_only};
use super::servers::Server;

const FRONT: u16 = 8000;

fn config(bind: &str, lines: &str) -> String {
    let defaults = DEFAULTS
        .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
        .replace("mode tcp", "mode tcp\n    log global\n    option tcplog");
    format!("{defaults}\nlisten front\n    bind 127.0.0.1:{FRONT} {bind}\n{lines}\n")
}

/// Says the address that each connection comes from.
fn mirror(port: u16) -> Server {
    Server::start(local(port), |mut stream| {
        let from = stream.peer_addr().unwrap();
        let _ = stream.write_all(format!("{from}\n").as_bytes());
        let _ = stream.read(&mut [0; 64]);
    })
}

#[track_caller]
fn seen(stream: &mut TcpStream) -> SocketAddr {
    read_line(stream).parse().unwrap()
}

/// Lets answers to 203.0.113.0/24 come back to this host, which does not own it: `bind` to one of
/// its addresses is refused but for `IP_TRANSPARENT`. False is a visible skip.
fn route_foreign_answers_here() -> bool {
    let Some(ip) = need_program("ip") else {
        return false;
    };
    for words in [
        "rule add iif lo lookup 100",
        "route add local 203.0.113.0/24 dev lo table 100",
    ] {
        let done = Command::new(&ip).args(words.split(' ')).status().unwrap();
        assert!(done.success(), "ip {words}");
    }
    true
}

#[test]
fn a_server_sees_the_clients_address_by_usesrc() {
    private_network(|| {
        if !route_foreign_answers_here() {
            return;
        }
        let _server = mirror(9001);
        let client_ip = Ipv4Addr::new(203, 0, 113, 7);
        for (usesrc, port_is_kept) in [("clientip", false), ("client", true)] {
            let lines = format!("    server s1 127.0.0.1:9001 source 0.0.0.0 usesrc {usesrc}");
            let balancer = Balancer::start(&config("accept-proxy", &lines), &[local(FRONT)]);
            let mut client = connect(local(FRONT));
            client
                .write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 4567 443\r\n")
                .unwrap();
            let from = seen(&mut client);
            assert_eq!(from.ip(), client_ip, "{usesrc}");
            assert_eq!(from.port() == 4567, port_is_kept, "{usesrc}: {from}");
            balancer.stop();
        }
        // Without a header it is the address that the client has.
        let lines = "    source 127.0.0.5 usesrc clientip\n    server s1 127.0.0.1:9001";
        let balancer = Balancer::start(&config("", lines), &[local(FRONT)]);
        let mut client = connect_from(Ipv4Addr::new(127, 9, 8, 7), local(FRONT));
        assert_eq!(seen(&mut client).ip(), Ipv4Addr::new(127, 9, 8, 7));
        balancer.stop();
    });
}

#[test]
fn a_server_sees_an_address_that_is_not_ours_by_usesrc() {
    private_network(|| {
        if !route_foreign_answers_here() {
            return;
        }
        let _server = mirror(9001);
        let told = SocketAddr::from(([203, 0, 113, 9], 7777));
        for (usesrc, port) in [("203.0.113.9", None), ("203.0.113.9:7777", Some(7777))] {
            let lines = format!("    server s1 127.0.0.1:9001 source 0.0.0.0 usesrc {usesrc}");
            let balancer = Balancer::start(&config("", &lines), &[local(FRONT)]);
            let from = seen(&mut connect(local(FRONT)));
            assert_eq!(from.ip(), told.ip(), "{usesrc}");
            assert!(
                port.is_none_or(|port| port == from.port()),
                "{usesrc}: {from}"
            );
            balancer.stop();
        }
    });
}

#[test]
fn an_address_that_cannot_be_ours_is_said_and_ends_the_session_with_sc() {
    private_network(|| {
        let server = mirror(9001);
        let lines = "    retries 1\n    server s1 127.0.0.1:9001 source 203.0.113.9";
        let mut balancer = Balancer::start(&config("", lines), &[local(FRONT)]);
        let mut client = connect(local(FRONT));
        let port = client.local_addr().unwrap().port();
        assert_eq!(drain(&mut client).0, 0);
        let said = "Cannot bind to source address before connect() for backend front";
        balancer.process.wait_line(said, SOON);
        let line = balancer
            .process
            .wait_line(&format!("127.0.0.1:{port} ["), SOON);
        assert!(
            line.contains(" front/s1 ") && line.contains(" SC "),
            "{line}"
        );
        assert_eq!(server.connections(), 0);
        balancer.stop();
    });
}

#[test]
fn without_a_free_port_a_session_ends_at_once_with_sc_or_goes_to_another_server() {
    private_network(|| {
        let _servers = [mirror(9001), mirror(9002)];
        let lines = "    server s1 127.0.0.1:9001 source 127.0.0.77:7000-7003";
        let mut balancer = Balancer::start(&config("", lines), &[local(FRONT)]);
        let mut held: Vec<_> = (0..4).map(|_| connect(local(FRONT))).collect();
        for client in &mut held {
            assert_eq!(seen(client).ip(), Ipv4Addr::new(127, 0, 0, 77));
        }
        let began = Instant::now();
        let mut fifth = connect(local(FRONT));
        let port = fifth.local_addr().unwrap().port();
        assert_eq!(drain(&mut fifth).0, 0);
        // No attempt waits: another one may find a port at once.
        assert!(began.elapsed() < Duration::from_millis(900));
        balancer.process.wait_line("for backend front", SOON);
        let line = balancer
            .process
            .wait_line(&format!("127.0.0.1:{port} ["), SOON);
        assert!(line.contains(" SC "), "{line}");
        let retries = line
            .split(' ')
            .nth(7)
            .and_then(|counts| counts.rsplit('/').next());
        assert_eq!(retries, Some("3"), "{line}");
        drop(held);
        balancer.stop();

        let lines = format!(
            "    balance roundrobin\n    option redispatch\n{lines}\n    server s2 127.0.0.1:9002"
        );
        let balancer = Balancer::start(&config("", &lines), &[local(FRONT)]);
        let mut held: Vec<_> = (0..12).map(|_| connect(local(FRONT))).collect();
        let from: Vec<_> = held.iter_mut().map(|client| seen(client).ip()).collect();
        let ours = Ipv4Addr::new(127, 0, 0, 77);
        assert_eq!(from.iter().filter(|ip| **ip == ours).count(), 4, "{from:?}");
        drop(held);
        balancer.stop();
    });
}

#[test]
fn expect_proxy_is_accept_proxy_of_every_address() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let lines = "    bind 127.0.0.1:8001
    tcp-request connection expect-proxy layer4
    server s1 127.0.0.1:9001";
        let mut balancer = Balancer::start(&config("", lines), &[local(FRONT), local(FRONT + 1)]);
        for port in [FRONT, FRONT + 1] {
            let mut client = connect(local(port));
            let header = format!("PROXY TCP4 203.0.113.7 192.0.2.1 {port} 443\r\n");
            client.write_all(header.as_bytes()).unwrap();
            assert_eq!(ask(&mut client, "x"), "one x");
            drop(client);
            balancer
                .process
                .wait_line(&format!("203.0.113.7:{port} ["), SOON);
        }
        let mut client = connect(local(FRONT));
        client
            .write_all(b"no header at all, but long enough\n")
            .unwrap();
        assert_eq!(drain(&mut client).0, 0);
        assert_eq!(server.connections(), 2);
        balancer.stop();
    });
}

/// The connections of a process whose other end is `port`, as descriptors of our own.
fn connections_to(pid: u32, port: u16) -> Vec<OwnedFd> {
    let pid = Pid::from_raw(pid as i32).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let directory = format!("/proc/{}/fd", pid.as_raw_nonzero());
    std::fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| {
            let number = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let flags = PidfdGetfdFlags::empty();
            let socket = rustix::process::pidfd_getfd(pidfd.as_fd(), number, flags).ok()?;
            let name = rustix::net::getpeername(&socket).ok()?;
            let peer = SocketAddr::try_from(name?).ok()?;
            (peer.port() == port).then_some(socket)
        })
        .collect()
}

/// `SO_KEEPALIVE`, and the count, idle time and interval in seconds.
type Alive = (bool, u32, u64, u64);

fn alive(socket: &OwnedFd) -> Alive {
    (
        sockopt::socket_keepalive(socket).unwrap(),
        sockopt::tcp_keepcnt(socket).unwrap(),
        sockopt::tcp_keepidle(socket).unwrap().as_secs(),
        sockopt::tcp_keepintvl(socket).unwrap().as_secs(),
    )
}

#[test]
fn keepalive_reaches_the_sockets_of_the_side_that_it_is_said_for() {
    private_network(|| {
        for (name, value) in [
            ("net.ipv4.tcp_keepalive_probes", "9"),
            ("net.ipv4.tcp_keepalive_time", "7200"),
            ("net.ipv4.tcp_keepalive_intvl", "75"),
        ] {
            set_sysctl(name, value);
        }
        let _server = Server::echo(local(9001), "one");
        const CLIENT: &str = "    clitcpka-cnt 5\n    clitcpka-idle 33s\n    clitcpka-intvl 11\n";
        const SERVER: &str = "    srvtcpka-cnt 4\n    srvtcpka-idle 44\n    srvtcpka-intvl 22s\n";
        let off = (false, 9, 7200, 75);
        let plain = (true, 9, 7200, 75);
        let (client, server) = ((true, 5, 33, 11), (true, 4, 44, 22));
        for (options, expected) in [
            (String::new(), [off, off]),
            ("    option tcpka\n".into(), [plain, plain]),
            (
                format!("    option tcpka\n{CLIENT}{SERVER}"),
                [client, server],
            ),
            (
                format!("    option clitcpka\n{CLIENT}{SERVER}"),
                [client, off],
            ),
            (
                format!("    option srvtcpka\n{CLIENT}{SERVER}"),
                [off, server],
            ),
            (format!("    option srvtcpka\n{CLIENT}"), [off, plain]),
        ] {
            let lines = format!("{options}    server s1 127.0.0.1:9001");
            let balancer = Balancer::start(&config("", &lines), &[local(FRONT)]);
            let mut held = connect(local(FRONT));
            assert_eq!(ask(&mut held, "x"), "one x");
            let port = held.local_addr().unwrap().port();
            for (port, expected) in [(port, expected[0]), (9001, expected[1])] {
                let found: Vec<Alive> = connections_to(balancer.pid(), port)
                    .iter()
                    .map(alive)
                    .collect();
                assert_eq!(found, [expected], "towards {port} with {options:?}");
            }
            drop(held);
            balancer.stop();
        }
    });
}

/// A counter of `TcpExt` in /proc/net/netstat, of this network namespace.
pub fn tcp_counter(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let found = names.split(' ').zip(values.split(' '));
    let value = found.into_iter().find(|(at, _)| *at == name);
    value
        .unwrap_or_else(|| panic!("no {name}"))
        .1
        .parse()
        .unwrap()
}

#[test]
fn what_a_client_said_already_goes_with_the_syn_by_tfo() {
    // HAProxy asks for `retry-on` besides.
    if ours_only() {
        return;
    }
    private_network(|| {
        // Client and server side, neither with a cookie, the server without a socket option.
        set_sysctl("net.ipv4.tcp_fastopen", "1543");
        let server = Server::echo(local(9001), "one");
        for (options, expected) in [("", 0), ("tfo", 1)] {
            let before = tcp_counter("TCPFastOpenPassive");
            // The client is heard before a server is sought: its header comes with its first bytes.
            let lines = format!("    server s1 127.0.0.1:9001 {options}");
            let balancer = Balancer::start(&config("accept-proxy", &lines), &[local(FRONT)]);
            let mut client = connect(local(FRONT));
            client.write_all(b"PROXY UNKNOWN\r\nearly\n").unwrap();
            assert_eq!(read_line(&mut client), "one early", "{options}");
            let more = "y".repeat(5000);
            assert_eq!(ask(&mut client, &more), format!("one {more}"));
            assert_eq!(
                tcp_counter("TCPFastOpenPassive") - before,
                expected,
                "{options}"
            );
            // A client that says nothing yet is connected all the same.
            let mut silent = connect(local(FRONT));
            silent.write_all(b"PROXY UNKNOWN\r\n").unwrap();
            wait_for("both to be connected", SOON, || server.now() == 2);
            assert_eq!(ask(&mut silent, "late"), "one late");
            drop((client, silent));
            wait_for("both to be gone", SOON, || server.now() == 0);
            balancer.stop();
        }
    });
}

/// As [`route_foreign_answers_here`], for 2001:db8:7::/48.
fn route_foreign_ipv6_answers_here() -> bool {
    let Some(ip) = need_program("ip") else {
        return false;
    };
    for words in [
        "-6 rule add iif lo lookup 100",
        "-6 route add local 2001:db8:7::/48 dev lo table 100",
    ] {
        let done = Command::new(&ip).args(words.split(' ')).status().unwrap();
        assert!(done.success(), "ip {words}");
    }
    true
}

#[test]
fn a_server_sees_a_foreign_ipv6_address_by_usesrc() {
    private_network(|| {
        if !route_foreign_ipv6_answers_here() {
            return;
        }
        let six = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let _server = Server::start(six("[::1]:9001"), |mut stream| {
            let from = stream.peer_addr().unwrap();
            let _ = stream.write_all(format!("{from}\n").as_bytes());
            let _ = stream.read(&mut [0; 64]);
        });
        let told = "PROXY TCP6 2001:db8:7::5 2001:db8::1 4567 443\r\n";
        for (bind, usesrc, expected) in [
            ("accept-proxy", "client", "[2001:db8:7::5]:4567"),
            ("accept-proxy", "clientip", "[2001:db8:7::5]:"),
            ("", "[2001:db8:7::9]", "[2001:db8:7::9]:"),
            ("", "[2001:db8:7::9]:7777", "[2001:db8:7::9]:7777"),
        ] {
            let lines = format!("    server s1 [::1]:9001 source [::] usesrc {usesrc}");
            let balancer = Balancer::start(&config(bind, &lines), &[local(FRONT)]);
            let mut client = connect(local(FRONT));
            if !bind.is_empty() {
                client.write_all(told.as_bytes()).unwrap();
            }
            let from = read_line(&mut client);
            assert!(from.starts_with(expected), "{usesrc}: {from}");
            balancer.stop();
        }
    });
}

/// What a session's line says of its end, and its retries.
#[track_caller]
fn end_of(balancer: &mut Balancer, client: &TcpStream) -> (String, String) {
    let about = format!("127.0.0.1:{} [", client.local_addr().unwrap().port());
    let line = balancer.process.wait_line(&about, SOON);
    let words: Vec<&str> = line.split(' ').collect();
    let retries = words[7].rsplit('/').next().unwrap();
    (words[6].to_owned(), retries.to_owned())
}

#[test]
fn without_a_free_port_on_the_host_a_session_ends_with_sc_and_the_next_is_served() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        set_sysctl("net.ipv4.ip_local_port_range", "40000 40003");
        let mut balancer = Balancer::start(
            &config("", "    retries 1\n    server s1 127.0.0.1:9001"),
            &[local(FRONT)],
        );
        // The clients' own ports are none of the range.
        let client = |port: u16| {
            use rustix::net::{AddressFamily, SocketType, bind, socket};
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&socket, &SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            rustix::net::connect(&socket, &local(FRONT)).unwrap();
            super::clients::with_deadlines(TcpStream::from(socket))
        };
        let mut held: Vec<_> = (50_000..50_004).map(client).collect();
        for client in &mut held {
            assert_eq!(ask(client, "x"), "one x");
        }
        let mut fifth = client(50_004);
        assert_eq!(drain(&mut fifth).0, 0);
        balancer
            .process
            .wait_line("Connect() failed for backend front", SOON);
        balancer.process.wait_line("no free ports", SOON);
        let (code, retries) = end_of(&mut balancer, &fifth);
        assert_eq!((code.as_str(), retries.as_str()), ("SC", "1"));
        assert_eq!(server.connections(), 4);
        // A reset leaves no TIME_WAIT that would keep the port.
        held.drain(..).for_each(super::clients::reset);
        wait_for("all to be gone", SOON, || server.now() == 0);
        assert_eq!(ask(&mut client(50_005), "x"), "one x");
        balancer.stop();
    });
}

#[test]
fn a_servers_port_that_would_be_none_is_said_and_a_log_of_the_backend_gets_it() {
    // HAProxy takes the port modulo 65,536, and connects to another service.
    if ours_only() {
        return;
    }
    private_network(|| {
        let wrapped = Server::echo(local(464), "another service");
        let place = super::harness::Place::new();
        let path = place.path().join("log");
        let log = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        log.set_read_timeout(Some(SOON)).unwrap();
        let text = format!(
            "{DEFAULTS}
frontend front
    bind 127.0.0.1:{FRONT}
    default_backend far
backend far
    log {} format raw local0
    retries 0
    server s1 127.0.0.1:+58000
",
            path.display()
        );
        let balancer = Balancer::start(&text, &[local(FRONT)]);
        let mut client = connect(local(FRONT));
        assert_eq!(drain(&mut client).0, 0);
        let mut buffer = [0; 4096];
        let said = loop {
            let count = log.recv(&mut buffer).expect("a line about the attempt");
            let line = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if line.contains("onnect") {
                break line;
            }
        };
        assert_eq!(
            said.trim_end(),
            "Connect() failed for backend far, server s1: the server's port would be 66000."
        );
        assert_eq!(wrapped.connections(), 0);
        balancer.stop();
    });
}
