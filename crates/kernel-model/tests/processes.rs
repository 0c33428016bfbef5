//! Processes with descriptors of their own: who can call, and whose close is the last.

#![allow(clippy::unwrap_used)]

use portcullis_kernel_model::{
    Answer, Call, Caps, Errno, Family, Host, Kernel, ProcessId, SockAddr, State, Uid, World,
};

const ROOT: ProcessId = ProcessId(0);
const PORT: u16 = 20001;

fn here(port: u16) -> SockAddr {
    SockAddr::new("127.0.0.1".parse().unwrap(), port)
}

fn world() -> World {
    World::new(Host::new(Kernel::V6_18))
}

#[test]
fn a_child_keeps_its_parents_socket_open_until_it_ends() {
    let mut world = world();
    let socket = world.socket(ROOT, Family::Inet);
    assert_eq!(world.call(socket, Call::Bind(here(PORT))), Answer::Ok);
    let child = world.fork(ROOT);
    assert_eq!(world.holders(socket), [ROOT, child]);
    assert_eq!(world.call(socket, Call::Close), Answer::Ok);
    assert_eq!(
        world.call(socket, Call::Listen(1)),
        Answer::Err(Errno::EBADF),
        "the parent has closed its own"
    );
    assert_eq!(
        world.call_as(child, socket, Call::Listen(1)),
        Answer::Ok,
        "the child has not"
    );
    assert_eq!(world.state(socket), Some(State::Listen));
    world.exit(child);
    assert_eq!(world.state(socket), None);
    assert_eq!(world.holders(socket), []);
}

#[test]
fn a_process_has_only_the_sockets_that_it_made_or_was_given() {
    let mut world = world();
    let other = world.fork(ROOT);
    let socket = world.socket(ROOT, Family::Inet);
    assert_eq!(
        world.call_as(other, socket, Call::GetSockName),
        Answer::Err(Errno::EBADF)
    );
    assert_eq!(world.call(socket, Call::Pass(other)), Answer::Ok);
    assert_eq!(world.call(socket, Call::Close), Answer::Ok);
    assert_eq!(
        world.call_as(other, socket, Call::Bind(here(PORT))),
        Answer::Ok
    );
    let of_other = world.socket(other, Family::Inet);
    assert_eq!(
        world.call(of_other, Call::Close),
        Answer::Err(Errno::EBADF),
        "a stranger cannot close it"
    );
    assert_eq!(world.holders(of_other), [other]);
}

#[test]
fn a_process_that_has_ended_holds_nothing_that_others_hold() {
    let mut world = world();
    let socket = world.socket(ROOT, Family::Inet);
    let child = world.fork(ROOT);
    assert_eq!(world.holders(socket), [ROOT, child]);
    world.exit(child);
    assert_eq!(world.holders(socket), [ROOT]);
}

#[test]
fn threads_share_their_descriptors_and_end_alone() {
    let mut host = Host::new(Kernel::V6_18);
    let thread = host.add_process(Uid(1000), Caps::NONE);
    let mut world = World::new(host);
    let socket = world.socket(thread, Family::Inet);
    assert_eq!(world.holders(socket), [ROOT, thread]);
    world.exit(thread);
    assert_eq!(
        world.call(socket, Call::Bind(here(PORT))),
        Answer::Ok,
        "the process lives on"
    );
}

#[test]
fn a_process_that_ends_closes_by_number() {
    // Both ends of a connection are one process's, and the end that closes first keeps TIME_WAIT: the
    // client's leaves the listener's port free. Number 0 is given back for the one or for the other.
    let in_use = Answer::Err(Errno::EADDRINUSE);
    let table = [
        (Kernel::V6_18, false, Answer::Ok),
        (Kernel::V6_18, true, in_use),
        (Kernel::new(4, 2), true, Answer::Ok),
        (Kernel::new(4, 2), false, in_use),
    ];
    for (kernel, client_has_0, expected) in table {
        let mut world = World::new(Host::new(kernel));
        let process = world.fork(ROOT);
        let spare = world.socket(process, Family::Inet);
        let listener = world.socket(process, Family::Inet);
        for call in [Call::Bind(here(PORT)), Call::Listen(1)] {
            assert_eq!(world.call_as(process, listener, call), Answer::Ok);
        }
        if client_has_0 {
            world.call_as(process, spare, Call::Close);
        }
        let client = world.socket(process, Family::Inet);
        let connected = world.call_as(process, client, Call::Connect(here(PORT)));
        assert_eq!(connected, Answer::Ok);
        if !client_has_0 {
            world.call_as(process, spare, Call::Close);
        }
        let accepted = world.call_as(process, listener, Call::Accept);
        assert!(matches!(accepted, Answer::Accepted(_)), "{accepted:?}");
        world.exit(process);
        let again = world.socket(ROOT, Family::Inet);
        let answer = world.call(again, Call::Bind(here(PORT)));
        let what = format!("{kernel}, the client has number 0: {client_has_0}");
        assert_eq!(answer, expected, "{what}");
    }
}

#[test]
fn a_used_place_forgets_who_held_it() {
    let mut world = world();
    let child = world.fork(ROOT);
    for _ in 0..3 {
        let socket = world.socket(ROOT, Family::Inet);
        world.call(socket, Call::Dup);
        world.call(socket, Call::Pass(child));
        assert_eq!(world.holders(socket), [ROOT, child]);
        for (process, times) in [(ROOT, 2), (child, 1)] {
            for _ in 0..times {
                assert_eq!(world.call_as(process, socket, Call::Close), Answer::Ok);
            }
            assert_eq!(
                world.call_as(process, socket, Call::Close),
                Answer::Err(Errno::EBADF)
            );
        }
        assert_eq!(world.holders(socket), []);
    }
}
