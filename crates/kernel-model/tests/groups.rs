//! A full group of SO_REUSEPORT listeners: more than a scenario opens.
//!
//! Decides:  nothing.
//! Kernel:   net/core/sock_reuseport.c, reuseport_grow(), reuseport_resurrect(), 5.14 to 6.18
//! Not here: groups of a few (cases/).

#![allow(clippy::unwrap_used)]

use portcullis_kernel_model::{
    Answer, Call, Errno, Family, Host, Kernel, Opt, ProcessId, Program, Rule, SockAddr, SocketId,
    State, World,
};

const WEB: u16 = 443;
/// What sixteen bits can count of, doubled from 128.
const GROUP_MAX: usize = 32_768;

fn shard(world: &mut World, address: &str) -> SocketId {
    let shard = world.socket(ProcessId(0), Family::Inet);
    let address = SockAddr::new(address.parse().unwrap(), WEB);
    for call in [Call::Set(Opt::ReusePort(true)), Call::Bind(address)] {
        assert_eq!(world.call(shard, call), Answer::Ok);
    }
    shard
}

fn full(migrate: bool) -> (World, Vec<SocketId>) {
    let mut world = empty(migrate);
    let shards = fill(&mut world);
    (world, shards)
}

fn empty(migrate: bool) -> World {
    let mut host = Host::new(Kernel::V6_18);
    host.namespaces[0].sysctls.tcp_migrate_req = migrate;
    World::new(host)
}

fn fill(world: &mut World) -> Vec<SocketId> {
    let shards: Vec<SocketId> = (0..GROUP_MAX).map(|_| shard(world, "127.0.0.1")).collect();
    for &one in &shards {
        assert_eq!(world.call(one, Call::Listen(1)), Answer::Ok);
    }
    shards
}

#[test]
fn which_member_was_drawn_is_told_and_among_how_many() {
    let mut world = empty(false);
    for _ in 0..3 {
        let one = shard(&mut world, "127.0.0.1");
        assert_eq!(world.call(one, Call::Listen(5)), Answer::Ok);
    }
    world.tell_choices(&[2]);
    let client = world.socket(ProcessId(0), Family::Inet);
    let to = SockAddr::new("127.0.0.1".parse().unwrap(), WEB);
    assert_eq!(world.call(client, Call::Connect(to)), Answer::Ok);
    assert_eq!(world.choices_made(), [(3, 2)]);
}

#[test]
fn a_full_group_takes_nobody_until_somebody_has_gone() {
    let (mut world, shards) = full(false);
    let late = shard(&mut world, "127.0.0.1");
    let (answer, explanation) = world.explain(ProcessId(0), late, Call::Listen(1));
    assert_eq!(answer, Answer::Err(Errno::ENOMEM));
    let rule = explanation.steps.last().map(|step| step.0);
    assert_eq!(rule, Some(Rule::GroupFull));
    world.call(shards[7], Call::Close);
    let late = shard(&mut world, "127.0.0.1");
    assert_eq!(world.call(late, Call::Listen(1)), Answer::Ok);
}

#[test]
fn a_full_group_lets_a_closed_member_go() {
    let (mut world, shards) = full(true);
    world.call(shards[7], Call::Shutdown(0));
    let late = shard(&mut world, "127.0.0.1");
    assert_eq!(world.call(late, Call::Listen(1)), Answer::Ok);
    // Whom it let go is a newcomer, and finds no room.
    let again = world.call(shards[7], Call::Listen(1));
    assert_eq!(again, Answer::Err(Errno::ENOMEM));
}

#[test]
fn a_closed_member_of_another_group_finds_no_room_in_a_full_one() {
    let mut world = empty(true);
    let first = shard(&mut world, "127.0.0.1");
    assert_eq!(world.call(first, Call::Listen(1)), Answer::Ok);
    world.call(first, Call::Shutdown(0));
    let shards = fill(&mut world);
    assert_eq!(
        world.call(first, Call::Listen(1)),
        Answer::Err(Errno::ENOMEM)
    );
    world.call(shards[7], Call::Close);
    assert_eq!(world.call(first, Call::Listen(1)), Answer::Ok);
}

/// Closes a member of a full group: one more finds room, another does not.
fn one_goes_and_one_comes(world: &mut World, goes: SocketId) -> SocketId {
    world.call(goes, Call::Close);
    let late = shard(world, "127.0.0.1");
    assert_eq!(world.call(late, Call::Listen(1)), Answer::Ok);
    let later = shard(world, "127.0.0.1");
    assert_eq!(
        world.call(later, Call::Listen(1)),
        Answer::Err(Errno::ENOMEM)
    );
    world.call(later, Call::Close);
    late
}

#[test]
fn who_came_back_is_a_closed_member_no_more() {
    let (mut world, shards) = full(true);
    world.call(shards[3], Call::Shutdown(0));
    assert_eq!(world.call(shards[3], Call::Listen(1)), Answer::Ok);
    one_goes_and_one_comes(&mut world, shards[7]);
    one_goes_and_one_comes(&mut world, shards[3]);
}

#[test]
fn a_closed_member_that_is_closed_for_good_leaves_no_trace() {
    let mut world = empty(true);
    let join = |world: &mut World| {
        let one = shard(world, "127.0.0.1");
        assert_eq!(world.call(one, Call::Listen(1)), Answer::Ok);
        one
    };
    let first: Vec<SocketId> = (0..GROUP_MAX - 2).map(|_| join(&mut world)).collect();
    world.call(first[3], Call::Shutdown(0));
    world.call(first[3], Call::Close);
    let in_its_place = join(&mut world);
    for _ in 0..2 {
        join(&mut world);
    }
    one_goes_and_one_comes(&mut world, in_its_place);
}

#[test]
fn who_comes_back_to_a_full_group_drives_nobody_out() {
    let (mut world, shards) = full(true);
    let to = SockAddr::new("127.0.0.1".parse().unwrap(), WEB);
    for option in [Opt::ReuseportCbpf(Program::Index(4)), Opt::DeferAccept(5)] {
        assert_eq!(world.call(shards[4], Call::Set(option)), Answer::Ok);
    }
    let client = world.socket(ProcessId(0), Family::Inet);
    assert_eq!(world.call(client, Call::Connect(to)), Answer::Ok);
    assert_eq!(world.half_open_len(shards[4]), 1);
    for at in [3, 4] {
        world.call(shards[at], Call::Shutdown(0));
    }
    assert_eq!(world.call(shards[3], Call::Listen(1)), Answer::Ok);
    // The half-open connection finds its way through the group, in which its listener still is.
    world.call(client, Call::Shutdown(1));
    assert_eq!(world.state(client), Some(State::FinWait2));
}
