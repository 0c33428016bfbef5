//! A socket that is given to the user that will run: who may bind beside it?
//!
//! Decides:  nothing. Needs the real root, because of the second user id.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_bind_conflict(), compares sk_uid, which
//!           net/socket.c, sockfs_setattr() changes with fchown, 4.10 to 6.18
//! Not here: the opener that adds shards for a process without privilege (opener tests).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use portcullis_listener::{ListenerSpec, OpenError, Opened, Step, open};
use portcullis_testkit::private_network_as_root;
use rustix::process::Uid;

const NOBODY: u32 = 65_534;

fn spec(owner: Option<u32>) -> ListenerSpec {
    let mut spec = ListenerSpec::tcp("127.0.0.1:8080".parse().unwrap());
    spec.owner_uid = owner;
    spec.shards = 2;
    spec
}

/// Opens on a thread of another user, as far as the kernel's comparison goes.
fn open_as(uid: u32, spec: &ListenerSpec) -> Result<Opened, OpenError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let uid = Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            open(spec)
        });
        thread.join().unwrap()
    })
}

#[track_caller]
fn refused(done: Result<Opened, OpenError>) {
    let error = done.unwrap_err();
    assert_eq!(
        (error.step(), error.errno()),
        (Step::Bind, Some(libc::EADDRINUSE))
    );
}

#[test]
fn a_shard_of_the_user_that_runs_finds_its_siblings_given_to_it() {
    private_network_as_root(|| {
        let first = open(&spec(Some(NOBODY))).unwrap();
        assert_eq!(first.reports, []);
        assert_eq!(first.listeners.len(), 2);
        // By the user itself; by root, given to the user; but not by root alone.
        assert_eq!(open_as(NOBODY, &spec(None)).unwrap().listeners.len(), 2);
        assert_eq!(open(&spec(Some(NOBODY))).unwrap().listeners.len(), 2);
        refused(open(&spec(None)));
    });
}

#[test]
fn without_the_gift_the_kernel_refuses_a_sibling_of_another_user() {
    private_network_as_root(|| {
        let _first = open(&spec(None)).unwrap();
        refused(open_as(NOBODY, &spec(None)));
        refused(open(&spec(Some(NOBODY))));
    });
}

#[test]
fn a_socket_that_cannot_be_given_away_is_a_warning() {
    private_network_as_root(|| {
        let opened = open_as(NOBODY, &spec(Some(1))).unwrap();
        assert_eq!(opened.listeners.len(), 2);
        assert_eq!(opened.reports.len(), 1);
        assert_eq!(opened.reports[0].step, Step::Owner);
    });
}

#[test]
fn multipath_tcp_is_compared_by_the_same_user() {
    private_network_as_root(|| {
        let mut mptcp = ListenerSpec::mptcp("127.0.0.1:8080".parse().unwrap());
        mptcp.owner_uid = Some(NOBODY);
        let Ok(_first) = open(&mptcp) else {
            return portcullis_testkit::skip("no MPTCP here");
        };
        // A later shard comes from the same opener, with the same owner.
        open(&mptcp).unwrap();
    });
}
