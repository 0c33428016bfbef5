//! Half-open connections and time: what no scenario can wait for.
//!
//! Decides:  nothing.
//! Not here: what a scenario shows on the live kernel too (cases/).

#![allow(clippy::unwrap_used)]

use portcullis_kernel_model::{
    Answer, Call, Errno, Family, Host, Interface, Kernel, NetId, Opt, OptName, ProcessId, SockAddr,
    SocketId, State, Vrf, World,
};

const WEB: u16 = 443;

fn at(port: u16) -> SockAddr {
    SockAddr::new("127.0.0.1".parse().unwrap(), port)
}

fn world(kernel: Kernel) -> World {
    World::new(Host::new(kernel))
}

fn socket(world: &mut World) -> SocketId {
    let socket = world.socket(ProcessId(0), Family::Inet);
    world.call(socket, Call::SetNonblocking(true));
    socket
}

fn listener(world: &mut World, defer: i32, backlog: i32) -> SocketId {
    let listener = socket(world);
    world.call(listener, Call::Set(Opt::DeferAccept(defer)));
    assert_eq!(world.call(listener, Call::Bind(at(WEB))), Answer::Ok);
    assert_eq!(world.call(listener, Call::Listen(backlog)), Answer::Ok);
    listener
}

fn client(world: &mut World) -> SocketId {
    let client = socket(world);
    let answer = world.call(client, Call::Connect(at(WEB)));
    assert_eq!(answer, Answer::Err(Errno::EINPROGRESS));
    client
}

/// The millisecond at which something becomes true, looked at every half second.
fn when(world: &mut World, until_s: u64, is: impl Fn(&World) -> bool) -> Option<u64> {
    (0..until_s * 2)
        .find(|_| {
            world.pass_time(500);
            is(world)
        })
        .map(|halves| (halves + 1) * 500)
}

#[test]
fn deferring_ends_with_the_repetition_that_its_seconds_stand_for() {
    // Seconds asked for, and when the connection is accepted all the same.
    for (seconds, ends_s) in [(1, 1), (2, 3), (3, 3), (5, 7), (8, 15)] {
        let mut world = world(Kernel::V6_18);
        let listener = listener(&mut world, seconds, 5);
        client(&mut world);
        assert_eq!(
            (world.queue_len(listener), world.half_open_len(listener)),
            (0, 1)
        );
        let accepted = when(&mut world, 60, |world| world.queue_len(listener) == 1);
        assert_eq!(
            accepted,
            Some(ends_s * 1000),
            "TCP_DEFER_ACCEPT of {seconds}"
        );
        assert_eq!(world.half_open_len(listener), 0);
    }
}

#[test]
fn a_syn_that_nobody_answers_gives_up_after_its_repetitions() {
    // A full accept queue drops every SYN; 6.5 repeats the first four after a second each.
    for (kernel, ends_s) in [(Kernel::V6_18, 131), (Kernel::new(6, 1), 127)] {
        let mut world = world(kernel);
        let _full = listener(&mut world, 0, 0);
        client(&mut world);
        let late = client(&mut world);
        assert_eq!(world.state(late), Some(State::SynSent));
        let over = when(&mut world, 200, |world| {
            world.state(late) == Some(State::Close)
        });
        assert_eq!(over, Some(ends_s * 1000), "{kernel}");
        let error = world.call(late, Call::Get(OptName::Error));
        assert_eq!(error, Answer::Value(Errno::ETIMEDOUT.number()));
    }
}

#[test]
fn a_syn_that_finds_no_way_any_more_leaves_its_error_for_the_end() {
    // Sent again after a second, by a device that 127.0.0.1 may not leave by. Seen on 6.18 with TCP_SYNCNT 2.
    let mut host = Host::new(Kernel::V6_18);
    host.namespaces[0].interfaces.push(Interface {
        index: 2,
        name: "eth0".into(),
        up: true,
        vrf: Vrf::Outside,
        v4: vec![("198.51.100.1".parse().unwrap(), 24)],
        v6: Vec::new(),
    });
    let mut world = World::new(host);
    let _full = listener(&mut world, 0, 0);
    client(&mut world);
    let late = client(&mut world);
    let device = Call::Set(Opt::BindToIfindex(2));
    assert_eq!(world.call(late, device), Answer::Ok);
    let over = when(&mut world, 200, |world| {
        world.state(late) == Some(State::Close)
    });
    assert!(over.is_some());
    let error = world.call(late, Call::Get(OptName::Error));
    assert_eq!(error, Answer::Value(Errno::EINVAL.number()));
}

#[test]
fn a_half_open_connection_is_given_up_while_its_listener_is_closed() {
    let mut world = world(Kernel::V6_18);
    let listening = listener(&mut world, 5, 5);
    let client = client(&mut world);
    world.call(listening, Call::Close);
    let again = socket(&mut world);
    world.call(again, Call::Bind(at(WEB)));
    world.call(again, Call::Listen(5));
    // Its timer finds no listener; the new one knows nothing of it.
    world.pass_time(1000);
    assert_eq!(world.half_open_len(again), 0);
    world.call(client, Call::Shutdown(1));
    assert_eq!(world.state(client), Some(State::Close));
}

#[test]
fn a_timer_moves_a_half_open_connection_to_another_of_the_group() {
    let mut world = world(Kernel::V6_18);
    world.host_mut().namespaces[0].sysctls.tcp_migrate_req = true;
    let mut group = Vec::new();
    for defer in [5, 0] {
        let member = socket(&mut world);
        world.call(member, Call::Set(Opt::ReusePort(true)));
        world.call(member, Call::Set(Opt::DeferAccept(defer)));
        world.call(member, Call::Bind(at(WEB)));
        assert_eq!(world.call(member, Call::Listen(5)), Answer::Ok);
        if group.is_empty() {
            client(&mut world);
        }
        group.push(member);
    }
    world.call(group[0], Call::Close);
    assert_eq!(world.queue_len(group[1]), 0);
    // The answer is sent again for the new listener, who defers nothing.
    world.pass_time(1000);
    assert_eq!(world.queue_len(group[1]), 1);
}

#[test]
fn a_socket_that_connects_to_itself_ends_in_one_time_wait() {
    let mut world = world(Kernel::V6_18);
    let own = socket(&mut world);
    world.call(own, Call::Bind(at(1003)));
    world.call(own, Call::Connect(at(1003)));
    assert_eq!(world.state(own), Some(State::Established));
    world.call(own, Call::Close);
    assert_eq!(world.owners_of_port(NetId(0), 1003), 1);
    world.pass_time(60_000);
    assert_eq!(world.owners_of_port(NetId(0), 1003), 0);
}

#[test]
fn half_open_connections_leave_nothing_behind() {
    let mut world = world(Kernel::V6_18);
    for _ in 0..3 {
        let listening = listener(&mut world, 1, 5);
        let clients: Vec<SocketId> = (0..3).map(|_| client(&mut world)).collect();
        world.call(listening, Call::Close);
        for client in clients {
            world.call(client, Call::Set(Opt::Linger(Some(0))));
            world.call(client, Call::Close);
        }
        world.pass_time(100_000);
        assert_eq!(world.owners_of_port(NetId(0), WEB), 0);
    }
}

#[test]
fn a_cookie_comes_back_to_whom_the_hash_names_by_then() {
    for taker in 0..2 {
        let mut world = world(Kernel::V6_18);
        world.host_mut().namespaces[0].sysctls.tcp_syncookies = 2;
        let mut group = Vec::new();
        let client = socket(&mut world);
        world.call(client, Call::Set(Opt::DeferAccept(1)));
        for _ in 0..2 {
            let member = socket(&mut world);
            world.call(member, Call::Set(Opt::ReusePort(true)));
            world.call(member, Call::Bind(at(WEB)));
            assert_eq!(world.call(member, Call::Listen(5)), Answer::Ok);
            if group.is_empty() {
                // The client holds its last acknowledgement back until the group has grown.
                world.call(client, Call::Connect(at(WEB)));
            }
            group.push(member);
        }
        world.tell_member(group[taker]);
        world.call(client, Call::Shutdown(1));
        assert_eq!(world.queue_len(group[taker]), 1);
        assert_eq!(world.queue_len(group[1 - taker]), 0);
    }
}
