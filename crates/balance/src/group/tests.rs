//! Limits and queues of a group.
//!
//! Decides:  nobody overtakes, nobody sleeps on a free slot, every grant is counted once.
//! Not here: choices without limits (../../tests).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;

use super::*;

/// Keeps what it was told.
#[derive(Debug, Default)]
struct Ear(Mutex<Vec<(u64, Grant)>>);

impl Waiter for Ear {
    fn granted(&self, token: u64, grant: Grant) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.push((token, grant));
    }
}

impl Ear {
    fn told(&self) -> Vec<(u64, Grant)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Hall {
    group: Group,
    ear: Arc<Ear>,
    waiter: Arc<dyn Waiter>,
    token: u64,
}

fn server(name: &str, maxconn: u32) -> Member {
    Member {
        name: name.to_owned(),
        limits: Limits {
            maxconn,
            ..Limits::default()
        },
        ..Member::default()
    }
}

impl Hall {
    fn new(algorithm: Algorithm, members: &[Member]) -> Self {
        let ear = Arc::new(Ear::default());
        let waiter: Arc<dyn Waiter> = ear.clone();
        Self {
            group: Group::new(algorithm, AllBackups::No, members),
            ear,
            waiter,
            token: 0,
        }
    }

    fn come(&mut self, word: u64) -> (u64, Choice) {
        self.token += 1;
        let choice = self
            .group
            .choose_or_wait(word, None, &self.waiter, self.token);
        (self.token, choice)
    }
}

fn members_told(told: &[(u64, Grant)]) -> Vec<(u64, Option<u32>)> {
    told.iter()
        .map(|(token, grant)| (*token, grant.member.map(|member| member.0)))
        .collect()
}

#[test]
fn a_freed_slot_goes_to_who_waited_longest() {
    let mut hall = Hall::new(Algorithm::RoundRobin, &[server("a", 1), server("b", 1)]);
    assert_eq!(hall.come(0).1, Choice::Server(MemberId(0)));
    assert_eq!(hall.come(0).1, Choice::Server(MemberId(1)));
    assert!(matches!(hall.come(0).1, Choice::Wait(_)));
    assert!(matches!(hall.come(0).1, Choice::Wait(_)));
    assert_eq!(hall.group.queue_lengths(MemberId(0)), (0, 2));
    hall.group.release(MemberId(1));
    assert_eq!(members_told(&hall.ear.told()), [(3, Some(1))]);
    assert_eq!(hall.group.active_connections(MemberId(1)), 1);
    hall.group.release(MemberId(0));
    let told = hall.ear.told();
    assert_eq!(members_told(&told), [(4, Some(0))]);
    assert_eq!(
        told[0].1.waited,
        Waited {
            server: 0,
            backend: 2
        }
    );
}

#[test]
fn who_leaves_the_queue_is_not_told_and_who_was_told_cannot_leave() {
    let mut hall = Hall::new(Algorithm::LeastConn, &[server("a", 1)]);
    hall.come(0);
    let (_, Choice::Wait(first)) = hall.come(0) else {
        panic!("the second has to wait");
    };
    let (_, Choice::Wait(second)) = hall.come(0) else {
        panic!("the third has to wait");
    };
    assert!(hall.group.leave_queue(first).is_some());
    hall.group.release(MemberId(0));
    assert_eq!(members_told(&hall.ear.told()), [(3, Some(0))]);
    assert_eq!(hall.group.leave_queue(second), None);
}

#[test]
fn a_hash_waits_for_its_own_server_up_to_maxqueue() {
    let mut members = [server("a", 1), server("b", 1)];
    members[0].limits.maxqueue = 1;
    let mut hall = Hall::new(Algorithm::Hash(HashTable::Map), &members);
    assert_eq!(hall.come(0).1, Choice::Server(MemberId(0)));
    assert!(matches!(hall.come(0).1, Choice::Wait(_)));
    assert!(matches!(hall.come(0).1, Choice::Full(Some(_))));
    assert_eq!(hall.come(1).1, Choice::Server(MemberId(1)));
    assert!(matches!(hall.come(1).1, Choice::Wait(_)));
    hall.group.release(MemberId(0));
    assert_eq!(members_told(&hall.ear.told()), [(2, Some(0))]);
    // The one whose server goes down takes the next free slot of the other.
    hall.group.set_usable(MemberId(1), false);
    assert_eq!(members_told(&hall.ear.told()), []);
    hall.group.release(MemberId(0));
    assert_eq!(members_told(&hall.ear.told()), [(5, Some(0))]);
}

#[test]
fn without_a_usable_server_all_who_wait_are_told_so() {
    let mut hall = Hall::new(Algorithm::RoundRobin, &[server("a", 1)]);
    hall.come(0);
    hall.come(0);
    hall.come(0);
    hall.group.set_usable(MemberId(0), false);
    assert_eq!(members_told(&hall.ear.told()), [(2, None), (3, None)]);
    assert_eq!(hall.come(0).1, Choice::Nobody);
}

#[test]
fn a_server_that_comes_up_takes_as_many_as_it_has_slots_for() {
    let mut hall = Hall::new(Algorithm::RoundRobin, &[server("a", 1), server("b", 2)]);
    hall.group.set_usable(MemberId(1), false);
    for _ in 0..5 {
        hall.come(0);
    }
    hall.group.set_usable(MemberId(1), true);
    assert_eq!(members_told(&hall.ear.told()), [(2, Some(1)), (3, Some(1))]);
    hall.group.set_limits(
        MemberId(0),
        Limits {
            maxconn: 2,
            ..Limits::default()
        },
    );
    assert_eq!(members_told(&hall.ear.told()), [(4, Some(0))]);
}

#[test]
fn minconn_grows_to_maxconn_with_the_load_of_the_backend() {
    // maxconn 10, minconn 2, fullconn 20: with n connections in the backend max(2, n / 2).
    let mut members = [server("a", 10), server("b", 0)];
    members[0].limits.minconn = 2;
    let mut hall = Hall::new(Algorithm::First, &members);
    hall.group.set_fullconn(20);
    let to = |hall: &mut Hall| match hall.come(0).1 {
        Choice::Server(member) => member.0,
        other => panic!("{other:?}"),
    };
    let taken: Vec<u32> = (0..24).map(|_| to(&mut hall)).collect();
    let expected: Vec<u32> = {
        let mut on_a = 0;
        (1..=24_u32)
            .map(|load| {
                let limit = if load >= 20 { 10 } else { (load / 2).max(2) };
                match on_a < limit {
                    true => {
                        on_a += 1;
                        0
                    }
                    false => 1,
                }
            })
            .collect()
    };
    assert_eq!(taken, expected);
    assert_eq!(hall.group.active_connections(MemberId(0)), 10);
}

#[test]
fn a_server_that_warms_up_has_a_part_of_its_weight_and_of_its_slots() {
    let hall = Hall::new(Algorithm::RoundRobin, &[server("a", 0), server("b", 0)]);
    hall.group.set_warm_up(
        MemberId(1),
        WarmUp {
            elapsed_s: 3,
            of_s: 15,
        },
    );
    // (16 * 3 + 15) / 15 = 4 sixteenths: one of five.
    let mut counts = [0; 2];
    for _ in 0..500 {
        let member = hall.group.choose(0, None).unwrap();
        counts[member.0 as usize] += 1;
        hall.group.release(member);
    }
    assert_eq!(counts, [400, 100]);
    let mut limited = Hall::new(Algorithm::RoundRobin, &[server("a", 10)]);
    limited.group.set_warm_up(
        MemberId(0),
        WarmUp {
            elapsed_s: 3,
            of_s: 10,
        },
    );
    let served = (0..5).filter(|_| matches!(limited.come(0).1, Choice::Server(_)));
    assert_eq!(served.count(), 3);
    limited.group.set_warm_up(MemberId(0), WarmUp::DONE);
    assert_eq!(limited.ear.told().len(), 2);
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Come(u64),
    End(usize),
    Leave(usize),
    Usable(u32, bool),
    Maxconn(u32, u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u64>().prop_map(Event::Come),
        4 => (0..64_usize).prop_map(Event::End),
        1 => (0..64_usize).prop_map(Event::Leave),
        1 => (0..3_u32, any::<bool>()).prop_map(|(at, usable)| Event::Usable(at, usable)),
        1 => (0..3_u32, 1..4_u32).prop_map(|(at, most)| Event::Maxconn(at, most)),
    ]
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(vec![
        Algorithm::RoundRobin,
        Algorithm::StaticRoundRobin,
        Algorithm::LeastConn,
        Algorithm::First,
        Algorithm::Random { draws: 2 },
        Algorithm::Hash(HashTable::Map),
        Algorithm::Hash(HashTable::Ring {
            balance_factor: 150,
            affinity: Affinity::Always,
        }),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, .. ProptestConfig::default() })]

    #[test]
    fn whatever_happens_counts_are_right_and_queues_are_served_in_order(
        algorithm in algorithm(),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let members = [server("a", 2), server("b", 1), server("c", 3)];
        let mut hall = Hall::new(algorithm, &members);
        let mut most = [2, 1, 3];
        let mut held: VecDeque<MemberId> = VecDeque::new();
        let mut waiting: BTreeMap<u64, Ticket> = BTreeMap::new();
        let any_queue = !matches!(algorithm, Algorithm::Hash(_));
        for event in events {
            match event {
                Event::Come(word) => {
                    let before = hall.group.total();
                    match hall.come(word) {
                        (_, Choice::Server(member)) => {
                            prop_assert!(!any_queue || waiting.is_empty(), "somebody overtook");
                            prop_assert_eq!(hall.group.total(), before + 1);
                            held.push_back(member);
                        }
                        (token, Choice::Wait(ticket)) => {
                            waiting.insert(token, ticket);
                        }
                        (_, Choice::Full(_)) => prop_assert!(false, "there is no maxqueue"),
                        (_, Choice::Nobody) => prop_assert_eq!(hall.group.usable_members(), 0),
                    }
                }
                Event::End(which) if !held.is_empty() => {
                    let which = which % held.len();
                    hall.group.release(held.remove(which).unwrap());
                }
                Event::Leave(which) if !waiting.is_empty() => {
                    let token = *waiting.keys().nth(which % waiting.len()).unwrap();
                    let ticket = waiting.remove(&token).unwrap();
                    prop_assert!(hall.group.leave_queue(ticket).is_some());
                }
                Event::Usable(at, usable) => hall.group.set_usable(MemberId(at), usable),
                Event::Maxconn(at, maxconn) => {
                    most[at as usize] = maxconn;
                    let limits = Limits { maxconn, ..Limits::default() };
                    hall.group.set_limits(MemberId(at), limits);
                }
                Event::End(_) | Event::Leave(_) => {}
            }
            let told = hall.ear.told();
            if any_queue {
                let first: Vec<u64> = waiting.keys().copied().take(told.len()).collect();
                let served: Vec<u64> = told.iter().map(|(token, _)| *token).collect();
                prop_assert_eq!(served, first, "not in the order in which they came");
            }
            for (token, grant) in told {
                prop_assert!(waiting.remove(&token).is_some(), "told twice, or never waited");
                match grant.member {
                    Some(member) => held.push_back(member),
                    None => prop_assert_eq!(hall.group.usable_members(), 0),
                }
            }
            for at in 0..3_u32 {
                let here = held.iter().filter(|member| member.0 == at).count() as u32;
                prop_assert_eq!(hall.group.active_connections(MemberId(at)), here);
                let free = here < most[at as usize] && hall.group.is_usable(MemberId(at));
                let (own, any) = hall.group.queue_lengths(MemberId(at));
                prop_assert!(!free || own + any == 0, "somebody sleeps on a free slot");
            }
            prop_assert_eq!(hall.group.total() as usize, held.len());
        }
    }
}
