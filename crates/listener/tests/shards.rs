//! One specification, several sockets: do they share a port, and each have a backlog and a CPU?
//!
//! Decides:  nothing.
//! Not here: what cannot be sharded by its kind (src/shards.rs), refused SO_REUSEPORT
//!           (refusals.rs), other users (owner.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use portcullis_listener::shards::NotSharded;
use portcullis_listener::{Cause, ListenerSpec, Opened, Step, open};
use portcullis_sockopt as sockopt;
use portcullis_sys::sockopt as sys;

fn sharded(address: &str, shards: u16) -> ListenerSpec {
    let mut spec = ListenerSpec::tcp(address.parse().unwrap());
    spec.shards = shards;
    spec
}

fn ports(opened: &Opened) -> BTreeSet<u16> {
    let port = |l: &portcullis_listener::Listener| l.local().inet().unwrap().port();
    opened.listeners.iter().map(port).collect()
}

#[test]
fn shards_share_the_port_that_the_kernel_chose_for_the_first() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let opened = open(&sharded(address, 5)).unwrap();
        assert_eq!(opened.reports, []);
        assert_eq!(ports(&opened).len(), 1);
        let facts: Vec<(u16, u16)> = opened
            .listeners
            .iter()
            .map(|l| (l.facts().shard, l.facts().shards))
            .collect();
        assert_eq!(facts, [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5)]);
    }
}

#[test]
fn the_kernel_spreads_connections_over_the_shards() {
    let opened = open(&sharded("127.0.0.1:0", 2)).unwrap();
    let address = opened.listeners[0].local().inet().unwrap();
    let servers: Vec<TcpListener> = opened
        .listeners
        .into_iter()
        .map(|l| TcpListener::try_from(l).unwrap())
        .collect();
    let mut clients = Vec::new();
    let mut accepted = [0u32; 2];
    // A fair coin shows both of its sides within 64 tosses, but once in 2^63.
    while accepted.contains(&0) && clients.len() < 64 {
        clients.push(TcpStream::connect(address).unwrap());
        portcullis_testkit::wait_for("the connection", Duration::from_secs(5), || {
            let took = servers.iter().position(|server| server.accept().is_ok());
            took.map(|shard| accepted[shard] += 1).is_some()
        });
    }
    assert!(!accepted.contains(&0), "{accepted:?}");
}

#[test]
fn each_shard_has_the_whole_backlog() {
    let mut spec = sharded("127.0.0.1:0", 3);
    spec.backlog = Some(40);
    for listener in open(&spec).unwrap().listeners {
        assert_eq!(sys::accept_queue(&listener).unwrap().unwrap().limit, 40);
    }
}

#[test]
fn shards_take_the_cpus_in_turn() {
    let mut spec = sharded("127.0.0.1:0", 3);
    spec.incoming_cpus = vec![1, 0];
    let option = &sockopt::SO_INCOMING_CPU;
    let cpus: Vec<i32> = open(&spec)
        .unwrap()
        .listeners
        .iter()
        .map(|l| sys::get_int(l, option.level.number(), option.number).unwrap())
        .collect();
    assert_eq!(cpus, [1, 0, 1]);
}

#[test]
fn multipath_tcp_can_be_sharded_too() {
    let mut spec = ListenerSpec::mptcp("127.0.0.1:0".parse().unwrap());
    spec.shards = 3;
    match open(&spec) {
        Ok(opened) => assert_eq!((opened.listeners.len(), ports(&opened).len()), (3, 1)),
        Err(error) => {
            assert_eq!(error.step(), Step::Create);
            portcullis_testkit::skip("no MPTCP here");
        }
    }
}

#[test]
fn what_cannot_be_sharded_is_one_socket_and_a_note_why() {
    let directory = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut no_reuseport = sharded("127.0.0.1:0", 1);
    no_reuseport.reuse_port = false;
    let table = [
        (
            ListenerSpec::unix(directory.path().join("door")),
            NotSharded::Unix,
        ),
        (
            ListenerSpec::inherited(std::os::fd::AsRawFd::as_raw_fd(&held)),
            NotSharded::Inherited,
        ),
        (no_reuseport, NotSharded::ReusePortOff),
    ];
    for (mut spec, why) in table {
        spec.shards = 4;
        let opened = open(&spec).unwrap();
        assert_eq!(opened.listeners.len(), 1);
        assert_eq!(opened.listeners[0].facts().shards, 1);
        let [report] = opened.reports.as_slice() else {
            panic!("{:?}", opened.reports);
        };
        assert_eq!(
            (report.step, &report.cause),
            (Step::Shards, &Cause::NotSharded(why))
        );
        assert!(report.flags.is_empty());
        // Several threads accept from one socket by a descriptor each.
        let clone = opened.listeners[0].try_clone().unwrap();
        assert_eq!(clone.facts(), opened.listeners[0].facts());
    }
}

#[test]
fn a_refusal_that_all_shards_share_is_told_once() {
    let mut spec = sharded("127.0.0.1:0", 4);
    spec.mss = Some(1);
    let opened = open(&spec).unwrap();
    assert_eq!(opened.listeners.len(), 4);
    assert_eq!(opened.reports.len(), 1);
}

#[test]
fn a_port_held_by_a_stranger_is_an_error_for_all_shards() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = ListenerSpec::tcp(held.local_addr().unwrap());
    spec.shards = 4;
    assert_eq!(open(&spec).unwrap_err().errno(), Some(libc::EADDRINUSE));
}
