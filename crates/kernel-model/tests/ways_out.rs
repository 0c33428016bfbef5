//! Ways out of a refusal, as a program asks for them.
//!
//! Decides:  that asking changes nothing, and that what is told is typed, tried and complete.
//! Not here: the ways out of every rule (crates/conformance/tests/ways_out.rs).
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use portcullis_kernel_model::{
    Answer, Call, Caps, Difference, Errno, Family, Host, Kernel, NetId, Opt, ProcessId, SockAddr,
    SocketId, State, Uid, World,
};

const ROOT: ProcessId = ProcessId(0);
const PORT: u16 = 10_000;

fn bind(text: &str) -> Call {
    Call::Bind(SockAddr::new(text.parse::<IpAddr>().unwrap(), PORT))
}

fn listener(world: &mut World, text: &str, options: &[Opt]) -> SocketId {
    let socket = world.socket(ROOT, Family::Inet);
    for &option in options {
        assert_eq!(world.call(socket, Call::Set(option)), Answer::Ok);
    }
    assert_eq!(world.call(socket, bind(text)), Answer::Ok);
    assert_eq!(world.call(socket, Call::Listen(8)), Answer::Ok);
    socket
}

fn told(world: &World, socket: SocketId, call: Call) -> Vec<Vec<Difference>> {
    let ways = world.ways_out(ROOT, socket, call);
    ways.into_iter().map(|way| way.differences).collect()
}

#[test]
fn a_call_that_succeeds_needs_no_way_out_and_asking_changes_nothing() {
    let mut world = World::new(Host::new(Kernel::V6_18));
    let socket = world.socket(ROOT, Family::Inet);
    assert_eq!(
        world.ask(ROOT, socket, bind("127.0.0.1")).0,
        Answer::Ok,
        "asked"
    );
    assert!(told(&world, socket, bind("127.0.0.1")).is_empty());
    assert_eq!(world.port(socket), 0, "nothing was bound");
    assert_eq!(world.owners_of_port(NetId(0), PORT), 0);
}

#[test]
fn all_holders_of_a_port_are_closed_or_restarted_together() {
    let mut world = World::new(Host::new(Kernel::V6_18));
    let one = listener(&mut world, "127.0.0.1", &[]);
    let two = listener(&mut world, "127.0.0.2", &[]);
    let socket = world.socket(ROOT, Family::Inet);
    let refused = bind("0.0.0.0");
    assert_eq!(
        world.ask(ROOT, socket, refused).0,
        Answer::Err(Errno::EADDRINUSE)
    );
    let ways = told(&world, socket, refused);
    let share = Opt::ReusePort(true);
    let (first, second) = (two, one);
    assert!(ways.contains(&vec![Difference::Port(PORT + 1)]), "{ways:?}");
    assert!(
        ways.contains(&vec![Difference::Close(first), Difference::Close(second)]),
        "{ways:?}"
    );
    assert!(
        ways.contains(&vec![
            Difference::Option(share),
            Difference::Restart(first, share),
            Difference::Restart(second, share)
        ]),
        "{ways:?}"
    );
    // Both listen: SO_REUSEADDR on all three would not do.
    let helps = |way: &Vec<Difference>| way.contains(&Difference::Option(Opt::ReuseAddr(true)));
    assert!(!ways.iter().any(helps), "{ways:?}");
    // The world is as it was.
    assert_eq!(world.state(one), Some(State::Listen));
    assert_eq!(world.state(two), Some(State::Listen));
}

#[test]
fn another_users_holder_is_passed_by_giving_the_socket_away() {
    let mut host = Host::new(Kernel::V6_18);
    let alice = host.add_process(Uid(1000), Caps::NONE);
    let mut world = World::new(host);
    let share = Call::Set(Opt::ReusePort(true));
    let first = world.socket(alice, Family::Inet);
    assert_eq!(world.call_as(alice, first, share), Answer::Ok);
    assert_eq!(world.call_as(alice, first, bind("0.0.0.0")), Answer::Ok);
    let second = world.socket(ROOT, Family::Inet);
    world.call(second, share);
    let ways = told(&world, second, bind("0.0.0.0"));
    assert!(
        ways.contains(&vec![Difference::Owner(Uid(1000))]),
        "{ways:?}"
    );
    // Without the option, both are needed.
    let third = world.socket(ROOT, Family::Inet);
    let ways = told(&world, third, bind("0.0.0.0"));
    let both = vec![
        Difference::Owner(Uid(1000)),
        Difference::Option(Opt::ReusePort(true)),
    ];
    assert!(ways.contains(&both), "{ways:?}");
}

#[test]
fn more_holders_than_anybody_would_close_are_not_listed() {
    let mut world = World::new(Host::new(Kernel::V6_18));
    for host in 1..=100 {
        listener(&mut world, &format!("127.0.0.{host}"), &[]);
    }
    let socket = world.socket(ROOT, Family::Inet);
    let ways = told(&world, socket, bind("0.0.0.0"));
    let closes = |way: &Vec<Difference>| matches!(way[0], Difference::Close(_));
    assert!(!ways.iter().any(closes), "{ways:?}");
    assert!(ways.contains(&vec![Difference::Port(PORT + 1)]), "{ways:?}");
}

#[test]
fn a_way_out_is_one_sentence_with_the_names_that_the_reader_knows() {
    let mut world = World::new(Host::new(Kernel::V6_18));
    let nginx = listener(&mut world, "0.0.0.0", &[]);
    let socket = world.socket(ROOT, Family::Inet);
    let ways = world.ways_out(ROOT, socket, bind("0.0.0.0"));
    let name = |other: SocketId, out: &mut dyn std::fmt::Write| {
        out.write_str(if other == nginx {
            "nginx (pid 812)"
        } else {
            "?"
        })
    };
    let lines: Vec<String> = ways.iter().map(|way| way.told(&name).to_string()).collect();
    let expected = [
        "use port 10001",
        "close nginx (pid 812)",
        "set SO_REUSEPORT first and restart nginx (pid 812) with SO_REUSEPORT",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_way_out_of_bind_alone_is_none_where_listen_would_be_refused_behind_it() {
    // An old bucket lets SO_REUSEADDR in unseen; listen asks the owners again.
    let mut world = World::new(Host::new(Kernel::new(6, 1)));
    let at = bind("127.0.0.1");
    let owner = world.socket(ROOT, Family::Inet);
    world.call(owner, Call::Set(Opt::ReuseAddr(true)));
    assert!(world.call(owner, at).is_ok());
    world.call(owner, Call::Set(Opt::ReuseAddr(false)));
    let socket = world.socket(ROOT, Family::Inet);
    let reuse = [Difference::Option(Opt::ReuseAddr(true))];
    assert!(told(&world, socket, at).contains(&reuse.to_vec()));
    let then = [Call::Listen(5)];
    let all = world.ways_out_of_all(ROOT, socket, at, &then);
    assert!(all.iter().all(|way| way.differences != reuse), "{all:?}");
    let close = [Difference::Close(owner)];
    assert!(all.iter().any(|way| way.differences == close), "{all:?}");
    // A bind that succeeds needs ways out where the listen behind it would not.
    world.call(socket, Call::Set(Opt::ReuseAddr(true)));
    assert_eq!(world.ways_out(ROOT, socket, at), []);
    let all = world.ways_out_of_all(ROOT, socket, at, &then);
    assert!(all.iter().any(|way| way.differences == close), "{all:?}");
}
