//! Who gets connections, told beside what connections then do.
//!
//! Decides:  that the receiver that is named accepts, and that each fault is one.
//! Not here: the words (crates/portcullis/tests/whole/why_ask.rs).

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use portcullis_inspect::snapshot::{Snapshot, Socket, State};
use portcullis_inspect::traffic::{Served, Traffic, traffic};
use portcullis_inspect::{Wanted, read};
use portcullis_testkit::{add_address, private_network_as_root};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

const PORT: u16 = 8080;

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), PORT)
}

fn told(ip: &str, from: Option<&str>) -> Traffic {
    let snapshot = read(&Wanted::default()).unwrap();
    let from: Option<IpAddr> = from.map(|from| from.parse().unwrap());
    traffic(&snapshot, at(ip), from).unwrap()
}

fn kinds(traffic: &Traffic) -> Vec<&'static str> {
    let faults = traffic.findings.iter().filter(|one| one.fault);
    faults.map(|one| one.kind).collect()
}

fn listener(ip: &str, prepare: impl Fn(&OwnedFd), backlog: i32) -> TcpListener {
    let family = match at(ip) {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let fd = socket(family, SocketType::STREAM, None).unwrap();
    prepare(&fd);
    bind(&fd, &at(ip)).unwrap();
    listen(&fd, backlog).unwrap();
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true).unwrap();
    listener
}

fn connect(ip: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&at(ip), Duration::from_millis(300))
}

#[test]
fn the_listener_on_the_very_address_gets_what_a_wildcard_is_thought_to_get() {
    private_network_as_root(|| {
        add_address("192.0.2.1".parse().unwrap()).unwrap();
        let wild = listener("0.0.0.0", |_| (), 5);
        let served = told("192.0.2.1", None);
        assert_eq!(served.outcome, Served::All, "{served}");
        assert_eq!(
            served.ways[0].receivers[0].address,
            wild.local_addr().unwrap()
        );
        drop(wild);
        let share = |fd: &OwnedFd| portcullis_sys::sockopt::set_int(fd, 1, 15, 1).unwrap();
        let wild = listener("0.0.0.0", share, 5);
        let exact = listener("192.0.2.1", share, 5);
        let missed = told("0.0.0.0", None);
        assert_eq!(kinds(&missed), ["other-listener"], "{missed}");
        let of = missed
            .ways
            .iter()
            .find(|way| way.to == at("192.0.2.1").ip());
        assert_eq!(
            of.unwrap().receivers[0].address,
            exact.local_addr().unwrap()
        );
        connect("192.0.2.1").unwrap();
        assert!(exact.accept().is_ok() && wild.accept().is_err());
    });
}

#[test]
fn a_bound_device_a_missing_address_and_nobody_are_told_apart() {
    private_network_as_root(|| {
        let nobody = told("127.0.0.1", None);
        assert_eq!(
            (nobody.outcome, kinds(&nobody)),
            (Served::None, vec!["nobody-listens"])
        );
        assert!(connect("127.0.0.1").is_err());
        let device = |fd: &OwnedFd| portcullis_sys::sockopt::set_device(fd, "lo").unwrap();
        let bound = listener("0.0.0.0", device, 5);
        assert_eq!(told("127.0.0.1", None).outcome, Served::All);
        connect("127.0.0.1").unwrap();
        assert!(bound.accept().is_ok());
        let missing = told("192.0.2.9", None);
        assert_eq!(missing.outcome, Served::None, "{missing}");
        assert_eq!(kinds(&missing)[0], "address-not-here", "{missing}");
        assert!(connect("192.0.2.9").is_err());
        let six = told("::1", None);
        assert_eq!(
            (six.outcome, kinds(&six)),
            (Served::None, vec!["nobody-listens"]),
            "{six}"
        );
        assert!(connect("::1").is_err());
    });
}

#[test]
fn a_full_accept_queue_is_told_with_the_counters_that_show_it() {
    private_network_as_root(|| {
        let listener = listener("127.0.0.1", |_| (), 1);
        let one = connect("127.0.0.1").unwrap();
        let waits = told("127.0.0.1", None);
        assert_eq!(waits.outcome, Served::All, "{waits}");
        assert_eq!(waits.findings[0].kind, "connections-wait", "{waits}");
        let two = connect("127.0.0.1").unwrap();
        assert!(connect("127.0.0.1").is_err(), "the SYN is dropped");
        let full = told("127.0.0.1", None);
        assert_eq!(
            (full.outcome, kinds(&full)),
            (Served::None, vec!["accept-queue-full"]),
            "{full}"
        );
        assert!(full.counters.listen_overflows.unwrap() > 0, "{full}");
        let _accepted = (listener.accept().unwrap(), listener.accept().unwrap());
        let served = told("127.0.0.1", None);
        assert_eq!(
            (served.outcome, kinds(&served)),
            (Served::All, vec![]),
            "{served}"
        );
        drop((one, two));
    });
}

#[test]
fn a_shard_that_nobody_accepts_on_is_named() {
    private_network_as_root(|| {
        let share = |fd: &OwnedFd| portcullis_sys::sockopt::set_int(fd, 1, 15, 1).unwrap();
        let shards = [(); 4].map(|()| listener("127.0.0.1", share, 64));
        let streams: Vec<TcpStream> = (0..40).map(|_| connect("127.0.0.1").unwrap()).collect();
        for served in &shards[1..] {
            while served.accept().is_ok() {}
        }
        let told = told("127.0.0.1", None);
        assert_eq!(
            (told.outcome, kinds(&told)),
            (Served::NotAll, vec!["shard-not-accepting"]),
            "{told}"
        );
        let cookie = portcullis_sys::trace::socket_cookie(&shards[0]).unwrap();
        let found = &told.findings[0];
        assert_eq!(found.socket.as_ref().unwrap().cookie, cookie, "{told}");
        drop(streams);
    });
}

#[test]
fn an_ipv6_wildcard_gets_ipv4_unless_it_is_for_ipv6_only() {
    private_network_as_root(|| {
        add_address("192.0.2.1".parse().unwrap()).unwrap();
        let _wild = listener("::", |_| (), 5);
        let both = told("192.0.2.1", Some("192.0.2.1"));
        assert_eq!(both.outcome, Served::All, "{both}");
        let only = |fd: &OwnedFd| portcullis_sys::sockopt::set_int(fd, 41, 26, 1).unwrap();
        drop(_wild);
        let _six = listener("::", only, 5);
        let four = told("192.0.2.1", None);
        assert_eq!(
            (four.outcome, kinds(&four)),
            (Served::None, vec!["nobody-listens"]),
            "{four}"
        );
        assert!(connect("192.0.2.1").is_err());
    });
}

#[test]
fn a_full_syn_queue_is_a_fault_where_no_cookies_are_sent() {
    private_network_as_root(|| {
        let _listener = listener("127.0.0.1", |_| (), 2);
        let mut snapshot = read(&Wanted::default()).unwrap();
        let mut half_open = Socket::unknown(at("127.0.0.1"));
        half_open.state = State::HalfOpen;
        for port in 1..=3 {
            half_open.peer = Some(SocketAddr::from(([127, 0, 0, 1], port)));
            snapshot.namespaces[0].sockets.push(half_open.clone());
        }
        let told = |cookies: u32, snapshot: &mut Snapshot| {
            snapshot.namespaces[0].sysctls.tcp_syncookies = Some(cookies);
            let told = traffic(snapshot, at("127.0.0.1"), None).unwrap();
            let found = told.findings.iter().map(|one| (one.kind, one.fault));
            (told.outcome, found.collect::<Vec<_>>())
        };
        let found = told(0, &mut snapshot);
        assert_eq!(found, (Served::NotAll, vec![("syn-queue-full", true)]));
        let found = told(1, &mut snapshot);
        assert_eq!(found, (Served::All, vec![("syn-queue-full", false)]));
        let found = told(2, &mut snapshot);
        assert_eq!(found, (Served::All, vec![("syn-cookies", false)]));
    });
}

#[test]
fn a_wildcard_in_a_network_without_addresses_is_not_to_blame() {
    private_network_as_root(|| {
        let ip = |words: &str| {
            let done = std::process::Command::new("ip")
                .args(words.split(' '))
                .status();
            assert!(done.unwrap().success(), "ip {words}");
        };
        if portcullis_testkit::need_program("ip").is_none() {
            return;
        }
        let _wild = listener("0.0.0.0", |_| (), 5);
        ip("addr flush dev lo");
        let none = told("0.0.0.0", None);
        assert_eq!(
            (none.outcome, kinds(&none)),
            (Served::None, vec!["no-address"]),
            "{none}"
        );
        assert!(none.to_string().contains("has an IPv4 address"), "{none}");
        ip("link set lo down");
        let down = told("0.0.0.0", None);
        assert_eq!(kinds(&down), ["interface-down"], "{down}");
        assert!(connect("127.0.0.1").is_err());
    });
}

#[test]
fn an_address_of_a_local_route_is_one_that_connections_come_to() {
    private_network_as_root(|| {
        if portcullis_testkit::need_program("ip").is_none() {
            return;
        }
        let mut route = std::process::Command::new("ip");
        route.args(["route", "add", "local", "10.50.0.0/16", "dev", "lo"]);
        assert!(route.status().unwrap().success());
        let wild = listener("0.0.0.0", |_| (), 5);
        let served = told("10.50.3.4", None);
        assert_eq!(
            (served.outcome, kinds(&served)),
            (Served::All, vec![]),
            "{served}"
        );
        let beyond = told("10.51.3.4", None);
        assert!(kinds(&beyond).contains(&"address-not-here"), "{beyond}");
        connect("10.50.3.4").unwrap();
        assert!(wild.accept().is_ok());
    });
}
