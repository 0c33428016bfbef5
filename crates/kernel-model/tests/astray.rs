//! Sequence numbers that are not the clock's: where the kernel's answer is drawn, and the model permits both.
//!
//! Decides:  nothing.
//! Not here: what a scenario shows (cases/numbers_after_a_disconnect_begin_anywhere.bind and its neighbours): a
//!           kernel gives one of two answers there, so a run cannot tell whether the model permits the other.

#![allow(clippy::unwrap_used)]

use portcullis_kernel_model::{
    Addr6, Answer, Call, Errno, Family, Host, Interface, Kernel, Opt, ProcessId, SockAddr,
    SocketId, State, Vrf, World,
};

const WEB: u16 = 443;
const MINE: u16 = 40_000;
/// Somebody behind a device, whom only IPv6 reaches.
const NEIGHBOUR: &str = "2001:db8::2";

fn at(port: u16) -> SockAddr {
    SockAddr::new("127.0.0.1".parse().unwrap(), port)
}

fn world() -> World {
    let mut host = Host::new(Kernel::V6_18);
    host.namespaces[0].interfaces.push(Interface {
        index: 2,
        name: "eth0".into(),
        up: true,
        vrf: Vrf::Outside,
        v4: Vec::new(),
        v6: vec![Addr6 {
            addr: "2001:db8::1".parse().unwrap(),
            prefix: 64,
            tentative: false,
        }],
    });
    World::new(host)
}

fn bound(world: &mut World, port: u16) -> SocketId {
    let socket = world.socket(ProcessId(0), Family::Inet);
    world.call(socket, Call::Set(Opt::ReuseAddr(true)));
    assert_eq!(world.call(socket, Call::Bind(at(port))), Answer::Ok);
    socket
}

/// A bound socket whose numbers go on from what they were: it has been disconnected.
fn astray(world: &mut World, port: u16) -> SocketId {
    let socket = world.socket(ProcessId(0), Family::Inet);
    world.call(socket, Call::Set(Opt::ReuseAddr(true)));
    let none = Call::Connect(SockAddr::unspecified());
    assert_eq!(world.call(socket, none), Answer::Ok);
    assert_eq!(world.call(socket, Call::Bind(at(port))), Answer::Ok);
    socket
}

fn listener(world: &mut World) -> SocketId {
    let listener = bound(world, WEB);
    assert_eq!(world.call(listener, Call::Listen(5)), Answer::Ok);
    listener
}

/// Connects, and closes both ends, the server's first, so that it stays in TIME_WAIT.
fn end_on_the_servers_side(world: &mut World, listener: SocketId, client: SocketId) {
    assert_eq!(world.call(client, Call::Connect(at(WEB))), Answer::Ok);
    let Answer::Accepted(child) = world.call(listener, Call::Accept) else {
        panic!("nobody to accept")
    };
    world.call(child, Call::Close);
    world.call(client, Call::Close);
    world.forget_told();
}

/// How much was drawn when a socket calls its peer's TIME_WAIT.
fn drawn_by_a_call(world: &mut World, from: SocketId) -> usize {
    world.call(from, Call::SetNonblocking(true));
    world.call(from, Call::Connect(at(WEB)));
    world.choices_made().len()
}

#[test]
fn a_later_connection_is_later_by_the_clock() {
    let mut world = world();
    let listener = listener(&mut world);
    let first = bound(&mut world, MINE);
    end_on_the_servers_side(&mut world, listener, first);
    let second = bound(&mut world, MINE);
    assert_eq!(drawn_by_a_call(&mut world, second), 0);
    assert_eq!(world.state(second), Some(State::Established));
}

#[test]
fn a_client_that_was_disconnected_may_begin_before_the_last_connection() {
    let mut world = world();
    let listener = listener(&mut world);
    let first = bound(&mut world, MINE);
    end_on_the_servers_side(&mut world, listener, first);
    let second = astray(&mut world, MINE);
    assert_eq!(drawn_by_a_call(&mut world, second), 1);
}

#[test]
fn a_connection_behind_that_of_a_disconnected_client_may_begin_before_it() {
    let mut world = world();
    let listener = listener(&mut world);
    let first = astray(&mut world, MINE);
    end_on_the_servers_side(&mut world, listener, first);
    let second = bound(&mut world, MINE);
    assert_eq!(drawn_by_a_call(&mut world, second), 1);
}

/// Two call each other, either of them astray or not. The one whose port is `kept`
/// closes first and stays in TIME_WAIT; then a listener takes that port over, and a new socket calls it from the
/// other's port. Says how much was drawn.
fn after_two_that_called_each_other(first_astray: bool, second_astray: bool, kept: u16) -> usize {
    let mut world = world();
    let make = |is_astray, world: &mut World, port| match is_astray {
        true => astray(world, port),
        false => bound(world, port),
    };
    // A listener whose queue is full answers nothing, so that the first SYN is lost.
    let full = bound(&mut world, WEB);
    world.call(full, Call::Listen(0));
    let in_queue = bound(&mut world, MINE + 1);
    assert_eq!(world.call(in_queue, Call::Connect(at(WEB))), Answer::Ok);
    let first = make(first_astray, &mut world, MINE);
    world.call(first, Call::SetNonblocking(true));
    let answer = world.call(first, Call::Connect(at(WEB)));
    assert_eq!(answer, Answer::Err(Errno::EINPROGRESS));
    world.call(full, Call::Close);
    let second = make(second_astray, &mut world, WEB);
    assert_eq!(world.call(second, Call::Connect(at(MINE))), Answer::Ok);
    assert_eq!(world.state(first), Some(State::Established));
    let mut ends = [(MINE, first), (WEB, second)];
    ends.sort_by_key(|&(port, _)| port != kept);
    for (_, end) in ends {
        world.call(end, Call::Close);
    }
    let listener = bound(&mut world, kept);
    assert_eq!(world.call(listener, Call::Listen(5)), Answer::Ok);
    world.forget_told();
    let next = bound(&mut world, ends[1].0);
    world.call(next, Call::SetNonblocking(true));
    world.call(next, Call::Connect(at(kept)));
    world.choices_made().len()
}

#[test]
fn two_that_call_each_other_hear_from_where_the_numbers_are() {
    for kept in [MINE, WEB] {
        assert_eq!(after_two_that_called_each_other(false, false, kept), 0);
    }
    // The second hears it of the first's answer, the first of the second's call.
    assert_eq!(after_two_that_called_each_other(true, false, WEB), 1);
    assert_eq!(after_two_that_called_each_other(false, true, MINE), 1);
}

#[test]
fn a_held_acknowledgement_goes_when_another_comes() {
    // Whether the stranger's SYN is in the half-open connection's window is drawn. If not, it is answered, and so
    // the client's acknowledgement goes out.
    for (choice, accepted, to) in [(1, true, "::1"), (0, false, "::1"), (1, true, NEIGHBOUR)] {
        let mut world = world();
        let listener = listener(&mut world);
        world.call(listener, Call::SetNonblocking(true));
        let client = world.socket(ProcessId(0), Family::Inet);
        world.call(client, Call::SetNonblocking(true));
        world.call(client, Call::Set(Opt::DeferAccept(1)));
        world.tell_port(MINE);
        world.call(client, Call::Connect(at(WEB)));
        assert_eq!(world.half_open_len(listener), 1);
        world.tell_choices(&[choice]);
        stranger(&mut world, to);
        let answer = world.call(listener, Call::Accept);
        let expected = matches!(answer, Answer::Accepted(_));
        assert_eq!(expected, accepted, "{answer:?}");
    }
}

/// Sends a SYN with the four numbers of the client's: an IPv6 socket that was connected over IPv4 once goes on to
/// send there, whomever it calls.
fn stranger(world: &mut World, to: &str) {
    let socket = world.socket(ProcessId(0), Family::Inet6);
    world.call(socket, Call::SetNonblocking(true));
    let nobody = SockAddr::new("::ffff:127.0.0.1".parse().unwrap(), WEB + 1);
    world.tell_port(MINE + 2);
    world.call(socket, Call::Connect(nobody));
    let web = Call::Connect(SockAddr::new(to.parse().unwrap(), WEB));
    let told_now = Answer::Err(Errno::ECONNREFUSED);
    assert_eq!(world.call(socket, web), told_now);
    world.tell_port(MINE);
    world.call(socket, web);
    assert_eq!(world.port(socket), MINE);
}
