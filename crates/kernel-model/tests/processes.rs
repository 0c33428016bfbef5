//! Processes with descriptors of their own: who can call, and whose close is the last.

#![allow(clippy::unwrap_used)]

use portcullis_kernel_model::{
    Answer, Call, Caps, Errno, Family, Host, Kernel, Namespace, NetId, Opt, ProcessId, SockAddr,
    State, Uid, UserNamespace, UserNsId, World,
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

#[test]
fn what_the_host_does_not_have_is_answered_and_not_a_panic() {
    let mut world = World::new(Host::new(Kernel::V6_18));
    // The first of those that are not there, once another has been added.
    let nowhere = NetId(2);
    let home = "127.0.0.1".parse().unwrap();
    assert_eq!(world.listeners_for(nowhere, home, 80, 1), []);
    assert_eq!(world.owners_of_port(nowhere, 80), 0);
    assert_eq!(world.bucket(nowhere, 80), None);
    // A namespace that was added, before its first socket.
    let another = Namespace::with_loopback(Kernel::V6_18, UserNsId(0));
    world.host_mut().namespaces.push(another);
    assert_eq!(world.listeners_for(NetId(1), home, 80, 1), []);
    assert_eq!(world.owners_of_port(NetId(1), 80), 0);
    // A process in a namespace that is not there.
    let held = world.socket(ProcessId(0), Family::Inet);
    world.host_mut().processes[0].net = nowhere;
    let socket = world.socket(ProcessId(0), Family::Inet);
    assert_eq!(
        world.call(socket, Call::Listen(1)),
        Answer::Err(Errno::EBADF)
    );
    assert_eq!(world.state(socket), None);
    let to = Call::Connect(SockAddr::new(home, 80));
    let (answer, _) = world.ask(ProcessId(0), held, to);
    assert_eq!(answer, Answer::Err(Errno::ECONNREFUSED));
    // Nobody can be made to listen there: no way out, and no panic.
    let ways = world.ways_out(ProcessId(0), held, to);
    assert_eq!(ways, []);
    // A socket of another world, whose place is behind all of this one's.
    let mut larger = World::new(Host::new(Kernel::V6_18));
    larger.socket(ProcessId(0), Family::Inet);
    let last = larger.socket(ProcessId(0), Family::Inet);
    assert_eq!(world.state(last), None);
    assert_eq!(world.call(last, Call::Close), Answer::Err(Errno::EBADF));
    // Nothing at all.
    let mut empty = Host::new(Kernel::V6_18);
    empty.namespaces.clear();
    empty.user_namespaces.clear();
    let mut world = World::new(empty);
    let socket = world.socket(ProcessId(0), Family::Inet6);
    assert_eq!(world.call(socket, Call::Close), Answer::Err(Errno::EBADF));
    assert_eq!(world.listeners_for(NetId(0), home, 80, 1), []);
}

#[test]
fn user_namespaces_that_lead_nowhere_give_no_capability() {
    // Its parent is not there, is itself, or comes later.
    for parent in [7, 1, 2] {
        let mut host = Host::new(Kernel::V6_18);
        for parent in [parent, 1] {
            let (parent, owner) = (UserNsId(parent), Uid(0));
            host.user_namespaces.push(UserNamespace { parent, owner });
        }
        let net = Namespace::with_loopback(Kernel::V6_18, UserNsId(1));
        host.namespaces.push(net);
        host.processes[0].net = NetId(1);
        let mut world = World::new(host);
        let socket = world.socket(ProcessId(0), Family::Inet);
        let repair = Call::Set(Opt::Repair(1));
        assert_eq!(
            world.call(socket, repair),
            Answer::Err(Errno::EPERM),
            "{parent}"
        );
    }
}
