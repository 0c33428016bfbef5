//! A reading about one port beside the whole reading.
//!
//! Decides:  that of the ports in question nothing is lost, and of the others nothing told: by sock_diag, by
//!           BPF, of every state, at both ends of the range.
//! Not here: what is read at all (host.rs); what the kernel does then (agreement.rs).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use portcullis_inspect::snapshot::{Bucket, Known, Options, Protocol, Snapshot, Socket, State};
use portcullis_inspect::{Means, Wanted, read};
use portcullis_testkit::{private_network_as_root, wait_for};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};

const PORTS: [u16; 7] = [1, 1399, 1400, 1500, 1600, 1601, u16::MAX];
const QUESTIONS: [(u16, u16); 6] = [
    (1500, 100),
    (1500, 99),
    (1500, 0),
    (1, 100),
    (u16::MAX, 100),
    (700, 10),
];

/// Listeners of both families, sockets that are bound, connections, one in TIME_WAIT, and one of MPTCP.
fn sockets_of_all_kinds() -> (Vec<OwnedFd>, Vec<TcpStream>) {
    let (mut held, mut streams) = (Vec::new(), Vec::new());
    for port in PORTS {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind(to).unwrap();
        for _ in 0..2 {
            let client = TcpStream::connect(to).unwrap();
            streams.extend([client, listener.accept().unwrap().0]);
        }
        // Whose server closes first.
        let client = TcpStream::connect(to).unwrap();
        drop(listener.accept().unwrap());
        drop(client);
        held.push(listener.into());
        held.push(TcpListener::bind(("::1", port)).unwrap().into());
        let bound = |protocol| {
            socket_with(
                AddressFamily::INET,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                protocol,
            )
        };
        let one = bound(None).unwrap();
        bind(&one, &SocketAddr::from(([127, 0, 0, 2], port))).unwrap();
        held.push(one);
        // Not every kernel has it.
        if let Ok(one) = bound(Some(ipproto::MPTCP)) {
            bind(&one, &SocketAddr::from(([127, 0, 0, 3], port))).unwrap();
            listen(&one, 5).unwrap();
            held.push(one);
        }
    }
    (held, streams)
}

type Told = (BTreeMap<(u64, bool), Socket>, Vec<Bucket>);

/// What is told of ports, without clocks; each socket by its number (MPTCP's has the same as its subflow).
fn told(snapshot: &Snapshot, of: impl Fn(u16) -> bool) -> Told {
    let net = &snapshot.namespaces[0];
    let sockets = net.sockets.iter().filter(|one| of(one.local.port()));
    let by_number = sockets.map(|one| {
        let without_clock = Socket {
            timer_ms: None,
            ..one.clone()
        };
        ((one.cookie, one.protocol == Protocol::Mptcp), without_clock)
    });
    let buckets = net.buckets.iter().filter(|one| of(one.port));
    (by_number.collect(), buckets.cloned().collect())
}

#[test]
fn a_reading_about_one_port_is_the_whole_one_without_what_is_far_from_it() {
    private_network_as_root(|| {
        let kept = sockets_of_all_kinds();
        wait_for("TIME_WAIT", Duration::from_secs(5), || {
            let all = read(&Wanted::default()).unwrap();
            let left = |one: &&Socket| one.state == State::TimeWait;
            all.namespaces[0].sockets.iter().filter(left).count() == PORTS.len()
        });
        for means in [Means::Everything, Means::Descriptors, Means::SockDiag] {
            let whole = Wanted {
                means,
                ..Wanted::default()
            };
            let all = read(&whole).unwrap();
            for (port, near) in QUESTIONS {
                let wanted = Wanted {
                    port: Some(port),
                    near,
                    means,
                    ..Wanted::default()
                };
                let some = read(&wanted).unwrap();
                let mut expected = told(&all, |one| one.abs_diff(port) <= near);
                let mut found = told(&some, |_| true);
                if near == 0 {
                    // The holders of its connections are asked for options too.
                    for one in expected.0.values_mut().chain(found.0.values_mut()) {
                        if !matches!(one.state, State::Listen | State::Bound) {
                            one.options = Options::default();
                        }
                    }
                }
                assert_eq!(found, expected, "{means:?}, port {port} and {near} beside");
                let none = PORTS.iter().all(|one| one.abs_diff(port) > near);
                assert_eq!(found.0.is_empty(), none, "port {port}");
                let owners = &some.sources.processes;
                assert_eq!(*owners == Known::Untried, none, "port {port}: {owners:?}");
            }
        }
        drop(kept);
    });
}
