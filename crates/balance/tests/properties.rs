//! What holds for every group, whatever is done to it.
//!
//! Decides:  exhaustive small groups, then random operations against a naive model; shares
//!           in proportion to weights; exactness across threads.
//! Not here: the order of turns (haproxy_sequences.rs).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_balance::{Algorithm, AllBackups, Group, Member, MemberId, Tier, Usable};
use proptest::prelude::*;

const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Random { draws: 1 },
    Algorithm::Random { draws: 2 },
    Algorithm::RoundRobin,
    Algorithm::StaticRoundRobin,
    Algorithm::LeastConn,
];

const IN_TURN: [Algorithm; 3] = [
    Algorithm::RoundRobin,
    Algorithm::StaticRoundRobin,
    Algorithm::LeastConn,
];

fn member(name: impl ToString, weight: u16) -> Member {
    Member {
        name: name.to_string(),
        weight,
        tier: Tier::Active,
        usable: true,
        ..Member::default()
    }
}

fn active(weights: &[u16]) -> Vec<Member> {
    (0..)
        .zip(weights)
        .map(|(n, &weight)| member(format!("s{n}"), weight))
        .collect()
}

fn spread(counts: &[u64]) -> u64 {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

#[test]
fn every_small_group_chooses_exactly_the_eligible_tier() {
    // Three servers, each: weight 0 or 2, active or backup, usable or not: all 512 groups.
    for algorithm in ALGORITHMS {
        for all_backups in [AllBackups::No, AllBackups::Yes] {
            for bits in 0..512_u32 {
                let members: Vec<Member> = (0..3)
                    .map(|n| Member {
                        name: n.to_string(),
                        weight: if bits >> (3 * n) & 1 == 1 { 2 } else { 0 },
                        tier: match bits >> (3 * n + 1) & 1 {
                            1 => Tier::Backup,
                            _ => Tier::Active,
                        },
                        usable: bits >> (3 * n + 2) & 1 == 1,
                        ..Member::default()
                    })
                    .collect();
                let group = Group::new(algorithm, all_backups, &members);
                let mut seen = Vec::new();
                for random in 0..60 {
                    seen.extend(group.choose(random, None).map(|id| id.0));
                }
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(
                    seen,
                    serving(&members, all_backups),
                    "{algorithm:?} {all_backups:?} {members:?}"
                );
            }
        }
    }
}

/// Who should take connections: the model of tiers.
fn serving(members: &[Member], all_backups: AllBackups) -> Vec<u32> {
    let eligible = |tier| {
        (0..)
            .zip(members)
            .filter(|(_, it)| it.tier == tier && it.usable && it.weight > 0)
            .map(|(n, _)| n)
            .collect::<Vec<u32>>()
    };
    let active = eligible(Tier::Active);
    let mut backup = eligible(Tier::Backup);
    if !active.is_empty() {
        return active;
    }
    if all_backups == AllBackups::No {
        backup.truncate(1);
    }
    backup
}

#[test]
fn avoided_server_is_chosen_only_when_alone() {
    for algorithm in ALGORITHMS {
        for weights in [vec![1], vec![3, 1], vec![1, 5, 2], vec![0, 4, 0]] {
            let eligible = weights.iter().filter(|&&weight| weight > 0).count();
            let group = Group::new(algorithm, AllBackups::No, &active(&weights));
            for random in 0..200 {
                let avoid = MemberId(random as u32 % weights.len() as u32);
                let chosen = group.choose(random, Some(avoid)).unwrap();
                let alone = eligible == 1 && weights[avoid.0 as usize] > 0;
                assert_eq!(chosen == avoid, alone, "{algorithm:?} {weights:?} {random}");
            }
        }
    }
}

#[test]
fn equal_servers_never_differ_by_more_than_one() {
    for algorithm in IN_TURN {
        for size in 1..=9 {
            let group = Group::new(algorithm, AllBackups::No, &active(&vec![7; size]));
            let mut counts = vec![0; size];
            for _ in 0..size * 40 {
                counts[group.choose(0, None).unwrap().0 as usize] += 1;
                assert!(spread(&counts) <= 1, "{algorithm:?} {counts:?}");
            }
        }
    }
}

/// The longest stretch of choices of [`shares`], in rows (totals of the weights).
const ROWS: u64 = 48;

/// Counts after each choice, for `ROWS` rows.
fn shares(group: &Group, weights: &[u16], mut check: impl FnMut(u64, &[u64])) -> Vec<u64> {
    let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    let mut counts = vec![0; weights.len()];
    for done in 1..=ROWS * total {
        counts[group.choose(0, None).unwrap().0 as usize] += 1;
        check(done, &counts);
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn shares_follow_weights_and_equal_weights_share_equally(
        weights in prop::collection::vec(1_u16..=20, 1..8),
        algorithm in prop::sample::select(&[Algorithm::RoundRobin, Algorithm::StaticRoundRobin][..]),
    ) {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let group = Group::new(algorithm, AllBackups::No, &active(&weights));
        let mut worst_ideal = 0_f64;
        let mut worst_equal = 0;
        shares(&group, &weights, |done, counts| {
            for (a, &count) in counts.iter().enumerate() {
                let ideal = done as f64 * f64::from(weights[a]) / total as f64;
                worst_ideal = worst_ideal.max((count as f64 - ideal).abs());
                for b in 0..a {
                    if weights[a] == weights[b] {
                        worst_equal = worst_equal.max(count.abs_diff(counts[b]));
                    }
                }
            }
        });
        prop_assert!(worst_equal <= 1, "equal weights differed by {worst_equal}");
        // Over 6,000 random groups of up to eight servers the worst was 3.16 and 1.70: the
        // rules, which are HAProxy's, are that far from ideal for a moment.
        let bound = if algorithm == Algorithm::RoundRobin { 4.0 } else { 2.5 };
        prop_assert!(worst_ideal <= bound, "{worst_ideal} off the ideal share");
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Choose { random: u64, avoid: Option<usize> },
    Release(usize),
    Usable(usize, bool),
    Weight(usize, u16),
    Reconfigure(Algorithm, AllBackups, Vec<Member>),
}

fn any_members() -> impl Strategy<Value = Vec<Member>> {
    let of = (0_u16..4, any::<bool>(), prop::bool::weighted(0.8));
    prop::collection::btree_map(0..6_u32, of, 0..6).prop_map(|chosen| {
        chosen
            .into_iter()
            .map(|(name, (weight, backup, usable))| Member {
                name: name.to_string(),
                weight,
                tier: if backup { Tier::Backup } else { Tier::Active },
                usable,
                ..Member::default()
            })
            .collect()
    })
}

fn any_setting() -> impl Strategy<Value = (Algorithm, AllBackups)> {
    (
        prop::sample::select(&ALGORITHMS[..]),
        prop::sample::select(&[AllBackups::No, AllBackups::Yes][..]),
    )
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (any::<u64>(), prop::option::of(0_usize..6))
            .prop_map(|(random, avoid)| Operation::Choose { random, avoid }),
        6 => any::<prop::sample::Index>().prop_map(|at| Operation::Release(at.index(1 << 16))),
        2 => (0_usize..6, any::<bool>()).prop_map(|(at, usable)| Operation::Usable(at, usable)),
        2 => (0_usize..6, 0_u16..4).prop_map(|(at, weight)| Operation::Weight(at, weight)),
        1 => (any_setting(), any_members())
            .prop_map(|((a, b), members)| Operation::Reconfigure(a, b, members)),
    ]
}

/// The naive model: who is configured in which slot, and which connections are held.
#[derive(Debug)]
struct Model {
    algorithm: Algorithm,
    all_backups: AllBackups,
    /// With the weight that counts now.
    members: Vec<Member>,
    /// The weights of the configuration.
    configured: Vec<u16>,
    ids: Vec<MemberId>,
    /// Who was last in a slot.
    names: BTreeMap<MemberId, String>,
    held: Vec<MemberId>,
}

impl Model {
    fn configure(
        &mut self,
        setting: (Algorithm, AllBackups),
        members: Vec<Member>,
        ids: Vec<MemberId>,
    ) {
        for (member, id) in members.iter().zip(&ids) {
            let before = self.members.iter().position(|old| old.name == member.name);
            if let Some(at) = before {
                assert_eq!(self.ids[at], *id, "server {} keeps its slot", member.name);
            }
            let same = self.names.get(id) == Some(&member.name);
            assert!(
                same || !self.held.contains(id),
                "{id:?} went to another server while connections were counted on it"
            );
            self.names.insert(*id, member.name.clone());
        }
        (self.algorithm, self.all_backups) = setting;
        self.configured = members.iter().map(|it| it.weight).collect();
        (self.members, self.ids) = (members, ids);
    }

    fn count(&self, id: MemberId) -> u32 {
        self.held.iter().filter(|held| **held == id).count() as u32
    }

    /// May `chosen` have been the answer?
    fn check_choice(&self, chosen: Option<MemberId>, avoid: Option<MemberId>) {
        let serving: Vec<MemberId> = serving(&self.members, self.all_backups)
            .into_iter()
            .map(|at| self.ids[at as usize])
            .collect();
        let Some(chosen) = chosen else {
            assert!(serving.is_empty(), "nobody was chosen of {serving:?}");
            return;
        };
        assert!(
            serving.contains(&chosen),
            "{chosen:?} is not of {serving:?}"
        );
        let others: Vec<_> = serving.iter().filter(|id| Some(**id) != avoid).collect();
        assert!(
            others.is_empty() || Some(chosen) != avoid,
            "avoided was chosen"
        );
        let backup = serving.len() == 1 || others.is_empty();
        if self.algorithm == Algorithm::LeastConn && !backup {
            let least = others.iter().map(|id| self.quotient(**id)).min().unwrap();
            assert_eq!(self.quotient(chosen), least, "not the least loaded");
        }
    }

    fn quotient(&self, id: MemberId) -> u32 {
        let at = self.ids.iter().position(|other| *other == id).unwrap();
        match self.count(id) {
            0 => 0,
            count => (count + 1) * 256 / u32::from(self.members[at].weight),
        }
    }

    fn check_counts(&self, group: &Group) {
        assert_eq!(group.total() as usize, self.held.len());
        for id in (0..group.slot_count() as u32).map(MemberId) {
            assert_eq!(group.active_connections(id), self.count(id), "{id:?}");
        }
        let usable = |tier| {
            let of = |it: &&Member| it.tier == tier && it.usable && it.weight > 0;
            self.members.iter().filter(of).count() as u32
        };
        let expected = Usable {
            active: usable(Tier::Active),
            backup: usable(Tier::Backup),
        };
        assert_eq!(group.usable(), expected);
    }

    fn apply(&mut self, group: &Group, operation: Operation) {
        match operation {
            Operation::Choose { random, avoid } => {
                let avoid = avoid.and_then(|at| self.ids.get(at).copied());
                let chosen = group.choose(random, avoid);
                self.check_choice(chosen, avoid);
                self.held.extend(chosen);
            }
            Operation::Release(at) => {
                if !self.held.is_empty() {
                    let id = self.held.swap_remove(at % self.held.len());
                    assert_eq!(group.release(id), self.count(id));
                }
            }
            Operation::Usable(at, usable) => {
                if let Some(member) = self.members.get_mut(at) {
                    member.usable = usable;
                    group.set_usable(self.ids[at], usable);
                }
            }
            Operation::Weight(at, weight) => {
                if let Some(member) = self.members.get_mut(at) {
                    let fixed = self.algorithm == Algorithm::StaticRoundRobin && weight > 0;
                    member.weight = if fixed { self.configured[at] } else { weight };
                    group.set_weight(self.ids[at], weight);
                    assert_eq!(group.weight(self.ids[at]), member.weight);
                }
            }
            Operation::Reconfigure(algorithm, all_backups, members) => {
                let ids = group.reconfigure(algorithm, all_backups, &members);
                self.configure((algorithm, all_backups), members, ids);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_operations_agree_with_the_naive_model(
        setting in any_setting(),
        members in any_members(),
        operations in prop::collection::vec(any_operation(), 0..120),
    ) {
        let group = Group::new(setting.0, setting.1, &members);
        let mut model = Model {
            algorithm: setting.0,
            all_backups: setting.1,
            members: Vec::new(),
            configured: Vec::new(),
            ids: Vec::new(),
            names: BTreeMap::new(),
            held: Vec::new(),
        };
        let ids = (0..members.len() as u32).map(MemberId).collect();
        model.configure(setting, members, ids);
        for operation in operations {
            model.apply(&group, operation);
            model.check_counts(&group);
        }
        while !model.held.is_empty() {
            model.apply(&group, Operation::Release(0));
        }
        model.check_counts(&group);
    }
}

#[test]
fn threads_together_choose_as_exactly_as_one() {
    const THREADS: usize = 4;
    const CHOICES: usize = 2_501;
    for algorithm in IN_TURN {
        let group = Arc::new(Group::new(algorithm, AllBackups::No, &active(&[1; 7])));
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                let group = Arc::clone(&group);
                std::thread::spawn(move || {
                    (0..CHOICES)
                        .map(|_| group.choose(0, None).unwrap())
                        .collect::<Vec<MemberId>>()
                })
            })
            .collect();
        let mut counts = [0_u64; 7];
        let mut held = Vec::new();
        for worker in workers {
            held.extend(worker.join().unwrap());
        }
        for id in &held {
            counts[id.0 as usize] += 1;
        }
        assert_eq!(held.len(), THREADS * CHOICES);
        assert!(spread(&counts) <= 1, "{algorithm:?} {counts:?}");
        assert_eq!(group.total() as usize, held.len());
        for id in held {
            group.release(id);
        }
        assert_eq!(group.total(), 0);
    }
}

#[test]
fn threads_that_release_too_leave_every_count_at_zero() {
    for algorithm in ALGORITHMS {
        let group = Arc::new(Group::new(algorithm, AllBackups::No, &active(&[1, 2, 3])));
        let workers: Vec<_> = (0..4_u64)
            .map(|worker| {
                let group = Arc::clone(&group);
                std::thread::spawn(move || {
                    for round in 0..3_000_u64 {
                        let first = group.choose(worker << 32 | round, None).unwrap();
                        if round % 64 == 0 {
                            group.set_usable(MemberId(worker as u32 % 2), round % 128 == 0);
                        }
                        let second = group.choose(round, Some(first)).unwrap();
                        group.release(first);
                        group.release(second);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(group.total(), 0, "{algorithm:?}");
        for id in 0..3 {
            assert_eq!(group.active_connections(MemberId(id)), 0);
        }
    }
}

#[test]
fn leastconn_is_even_at_rest_after_any_history() {
    // Connections come and go unevenly; then as many come as it takes to be even again.
    let group = Group::new(Algorithm::LeastConn, AllBackups::No, &active(&[5; 6]));
    let mut held: Vec<MemberId> = (0..60).map(|_| group.choose(0, None).unwrap()).collect();
    held.retain(|id| {
        let ends = id.0 % 2 == 0;
        if ends {
            group.release(*id);
        }
        !ends
    });
    for _ in 0..32 {
        group.choose(0, None).unwrap();
    }
    let counts: Vec<u64> = (0..6)
        .map(|id| group.active_connections(MemberId(id)).into())
        .collect();
    assert!(spread(&counts) <= 1, "{counts:?}");
}

#[test]
fn random_follows_weights() {
    // 40,000 draws: the standard deviation of a share is below 0.25%; 1.5% is six of them.
    let weights = [1, 2, 5, 0, 12];
    let group = Group::new(
        Algorithm::Random { draws: 1 },
        AllBackups::No,
        &active(&weights),
    );
    let mut counts = [0_u32; 5];
    for random in 0..40_000 {
        let id = group.choose(random, None).unwrap();
        counts[id.0 as usize] += 1;
        group.release(id);
    }
    for (weight, count) in weights.iter().zip(counts) {
        let (share, ideal) = (f64::from(count) / 40_000.0, f64::from(*weight) / 20.0);
        assert!((share - ideal).abs() < 0.015, "{share} for {ideal}");
    }
}

#[test]
fn two_draws_keep_loads_far_closer_than_one() {
    let worst = |draws| {
        let group = Group::new(
            Algorithm::Random { draws },
            AllBackups::No,
            &active(&[1; 50]),
        );
        for random in 0..5_000 {
            group.choose(random, None).unwrap();
        }
        let counts: Vec<u64> = (0..50)
            .map(|id| group.active_connections(MemberId(id)).into())
            .collect();
        spread(&counts)
    };
    assert!(worst(2) * 3 < worst(1), "{} against {}", worst(2), worst(1));
}

#[test]
fn twenty_thousand_servers_are_chosen_and_reconfigured() {
    let mut members: Vec<Member> = (0..20_000).map(|n| member(n, 1 + (n % 3) as u16)).collect();
    for algorithm in ALGORITHMS {
        members[777].usable = true;
        let group = Group::new(algorithm, AllBackups::No, &members);
        for random in 0..20_000 {
            let id = group.choose(random, None).unwrap();
            if random % 2 == 0 {
                group.release(id);
            }
            if random % 500 == 0 {
                group.set_usable(MemberId(random as u32), false);
            }
        }
        assert_eq!(group.total(), 10_000);
        members[777].usable = false;
        let ids = group.reconfigure(algorithm, AllBackups::No, &members);
        assert!(ids.iter().enumerate().all(|(n, id)| id.0 == n as u32));
        assert_eq!(group.usable_members(), 19_999);
    }
}

#[test]
fn reload_without_a_change_keeps_turns() {
    for algorithm in IN_TURN {
        let members = active(&[3, 1, 2, 2]);
        let undisturbed = Group::new(algorithm, AllBackups::No, &members);
        let reloaded = Group::new(algorithm, AllBackups::No, &members);
        for round in 0..200 {
            if round % 7 == 0 {
                reloaded.reconfigure(algorithm, AllBackups::No, &members);
            }
            assert_eq!(
                undisturbed.choose(0, None),
                reloaded.choose(0, None),
                "{algorithm:?} {round}"
            );
        }
    }
}
