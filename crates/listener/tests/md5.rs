//! TCP-MD5: does a client without the signature stay out, and one with it get in?
//!
//! Decides:  nothing; asked of the live kernel, over loopback.
//! Kernel:   net/ipv4/tcp_ipv4.c, tcp_inbound_md5_hash(): an unsigned SYN is dropped silently, so
//!           a refused client runs into its own time limit.
//! Not here: which entries a key becomes (src/options.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use portcullis_listener::spec::{Ipv6Only, Md5Key};
use portcullis_listener::{ListenerSpec, Step, adjust, open};
use portcullis_sys::sockopt as sys;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

/// Long enough for loopback, short enough to wait out.
const LIMIT: Duration = Duration::from_millis(300);
const SECRET: &str = "correct horse";

fn listener(address: &str, keys: Vec<Md5Key>, only: Option<Ipv6Only>) -> Option<TcpListener> {
    let mut spec = ListenerSpec::tcp(address.parse().unwrap());
    spec.md5_keys = keys;
    spec.ipv6_only = only;
    match open(&spec) {
        Ok(opened) => {
            assert_eq!(opened.reports, []);
            let listener = opened.listeners.into_iter().next().unwrap();
            Some(TcpListener::try_from(listener).unwrap())
        }
        Err(error) if error.errno() == Some(libc::ENOPROTOOPT) => {
            assert_eq!(error.step(), Step::Md5);
            portcullis_testkit::skip("this kernel was built without CONFIG_TCP_MD5SIG");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn every_peer() -> Vec<Md5Key> {
    vec![Md5Key {
        peers: None,
        secret: SECRET.to_owned(),
    }]
}

fn unsigned_gets_in(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, LIMIT).is_ok()
}

fn signed_gets_in(to: SocketAddr, secret: &str) -> bool {
    let family = match to.ip() {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None).unwrap();
    sys::set_md5_peer(&socket, to.ip(), secret.as_bytes()).unwrap();
    assert_eq!(connect(&socket, &to), Err(Errno::INPROGRESS));
    let mut poll = [rustix::event::PollFd::new(
        &socket,
        rustix::event::PollFlags::OUT,
    )];
    let limit = rustix::event::Timespec::try_from(LIMIT).unwrap();
    let ready = rustix::event::poll(&mut poll, Some(&limit)).unwrap();
    ready == 1 && rustix::net::sockopt::socket_error(&socket).unwrap().is_ok()
}

#[track_caller]
fn only_signed_clients_get_in(to: SocketAddr) {
    assert!(!unsigned_gets_in(to), "unsigned got in at {to}");
    assert!(
        !signed_gets_in(to, "wrong horse"),
        "a wrong key got in at {to}"
    );
    assert!(
        signed_gets_in(to, SECRET),
        "the right key stayed out at {to}"
    );
}

fn at(listener: &TcpListener, ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), listener.local_addr().unwrap().port())
}

#[test]
fn a_key_for_every_peer_keeps_unsigned_ipv4_clients_out() {
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let Some(listener) = listener(address, every_peer(), None) else {
            return;
        };
        only_signed_clients_get_in(at(&listener, "127.0.0.1"));
        listener.accept().unwrap();
    }
}

#[test]
fn a_key_for_every_peer_covers_both_families_of_a_dual_socket() {
    let Some(listener) = listener("[::]:0", every_peer(), Some(Ipv6Only::Off)) else {
        return;
    };
    only_signed_clients_get_in(at(&listener, "::1"));
    only_signed_clients_get_in(at(&listener, "127.0.0.1"));
}

#[test]
fn a_key_for_every_peer_covers_an_ipv6_only_socket() {
    let Some(listener) = listener("[::]:0", every_peer(), Some(Ipv6Only::On)) else {
        return;
    };
    only_signed_clients_get_in(at(&listener, "::1"));
}

#[test]
fn a_prefix_signs_its_own_peers_and_lets_others_in_unsigned() {
    let prefix = |ip: &str, len| Md5Key {
        peers: Some((ip.parse().unwrap(), len)),
        secret: SECRET.to_owned(),
    };
    for address in ["0.0.0.0:0", "[::]:0"] {
        let keys = vec![prefix("127.0.0.0", 8)];
        let Some(inside) = listener(address, keys, None) else {
            return;
        };
        only_signed_clients_get_in(at(&inside, "127.0.0.1"));
        let outside = listener(address, vec![prefix("10.0.0.0", 8)], None).unwrap();
        assert!(unsigned_gets_in(at(&outside, "127.0.0.1")));
    }
}

#[test]
fn a_key_that_the_kernel_refuses_leaves_nothing_open() {
    for (peers, secret) in [
        (None, "s".repeat(81)),
        (Some(("10.0.0.0".parse().unwrap(), 33)), "s".to_owned()),
    ] {
        let mut spec = ListenerSpec::tcp("127.0.0.1:0".parse().unwrap());
        spec.md5_keys = vec![Md5Key { peers, secret }];
        let error = open(&spec).unwrap_err();
        assert_eq!(
            (error.step(), error.errno()),
            (Step::Md5, Some(libc::EINVAL))
        );
    }
}

#[test]
fn a_key_that_would_take_another_away_leaves_nothing_open() {
    let key = |peers: Option<&str>, secret: &str| Md5Key {
        peers: peers.map(|ip| (ip.parse().unwrap(), 8)),
        secret: secret.to_owned(),
    };
    let table = [
        (vec![key(None, "")], "without a secret"),
        (vec![key(None, "a"), key(None, "")], "without a secret"),
        (vec![key(None, "a"), key(None, "b")], "two secrets for ::/0"),
        (
            vec![
                key(Some("10.0.0.0"), "a"),
                key(None, "b"),
                key(Some("10.0.0.0"), "c"),
            ],
            "two secrets for ::ffff:10.0.0.0/8",
        ),
    ];
    for (keys, said) in table {
        let mut spec = ListenerSpec::tcp("[::]:0".parse().unwrap());
        spec.ipv6_only = Some(Ipv6Only::Off);
        spec.md5_keys = keys;
        let error = open(&spec).unwrap_err();
        assert_eq!(error.step(), Step::Md5);
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_secret_is_not_shown() {
    let mut spec = ListenerSpec::unix("/nonexistent-portcullis/x");
    spec.md5_keys = every_peer();
    let error = open(&spec).unwrap_err();
    assert_eq!(error.step(), Step::Md5);
    assert!(!format!("{error} {error:?} {spec:?}").contains(SECRET));
}

#[test]
fn keys_come_change_and_go_under_a_listener() {
    let Some(listener) = listener("127.0.0.1:0", Vec::new(), None) else {
        return;
    };
    let to = listener.local_addr().unwrap();
    let with = |keys: Vec<Md5Key>| {
        let mut spec = ListenerSpec::tcp(to);
        spec.md5_keys = keys;
        spec
    };
    let another = |secret: &str| {
        let mut keys = every_peer();
        keys[0].secret = secret.to_owned();
        with(keys)
    };
    let (none, first, second) = (with(Vec::new()), with(every_peer()), another("wrong horse"));
    if let Err(error) = adjust(&listener, 0, &none, &first, 0) {
        assert_eq!(error.errno(), Some(libc::ENOPROTOOPT), "{error}");
        return portcullis_testkit::skip("this kernel was built without CONFIG_TCP_MD5SIG");
    }
    only_signed_clients_get_in(to);
    adjust(&listener, 0, &first, &second, 0).unwrap();
    assert!(!signed_gets_in(to, SECRET), "the old key got in");
    assert!(signed_gets_in(to, "wrong horse"));
    adjust(&listener, 0, &second, &none, 0).unwrap();
    assert!(unsigned_gets_in(to));
}
