//! `balance static-rr`: each in turn by the weight it began with.
//!
//! Decides:  the fixed order of turns, and that it begins anew when a server comes or
//!           goes, at the same place in the row. A row has as many turns as the weights
//!           together (the group has taken their common divisor out).
//! Source:   HAProxy's manual, `balance static-rr`; src/lb_map.c, recalc_server_map()
//!           and map_get_server_rr(), 2.6 to 3.5.
//! Cases:    tests/haproxy_sequences.rs, recorded from HAProxy 2.6.12
//! Not here: that a weight set at run time counts only as zero or not (group.rs).
//!
//! The rule: before each turn every server earns its weight. Who has earned the most
//! whole rows' worth (in steps of the total weight) goes next, the first in the
//! configuration among equals, and pays one total. HAProxy computes the whole row at
//! each change, in (turns × servers) steps. Here a server waits in a queue for the turn
//! at which it will have earned its next total, and turns are computed when first
//! needed, in O(log servers) each.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::schedule::{Candidate, Room, entry_of};

/// Eligible servers, and their turns as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct StaticRoundRobin {
    /// Weights in the order of the configuration: by (ordinal, slot).
    members: BTreeMap<(u32, u32), u16>,
    /// Ordinals by slot.
    ordinals: Vec<Option<u32>>,
    /// The next turn to take.
    next: usize,
    /// The turns; `None` since a server came or went, until it is needed.
    row: Option<Row>,
}

/// One row of turns, made as far as it was needed.
#[derive(Debug, Default)]
struct Row {
    /// Slots in their turns.
    turns: Vec<u32>,
    /// Turns of the whole row.
    length: usize,
    /// By place in the configuration.
    earners: Vec<Earner>,
    /// (turn at which the next total will have been earned, place).
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// Those who have earned at least one unpaid total: (most first, place).
    ready: BTreeSet<(Reverse<u64>, usize)>,
}

#[derive(Debug)]
struct Earner {
    slot: u32,
    weight: u64,
    /// Totals earned; the first is given.
    earned: u64,
    /// Turns taken.
    paid: u64,
}

impl StaticRoundRobin {
    pub(crate) fn new(candidates: &[Candidate]) -> Self {
        let mut all = Self::default();
        for &candidate in candidates {
            all.add(candidate);
        }
        all
    }

    pub(crate) fn add(&mut self, candidate: Candidate) {
        self.remove(candidate.slot);
        *entry_of(&mut self.ordinals, candidate.slot) = Some(candidate.ordinal);
        self.members
            .insert((candidate.ordinal, candidate.slot), candidate.weight);
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(ordinal) = entry_of(&mut self.ordinals, slot).take() {
            self.members.remove(&(ordinal, slot));
        }
        self.row = None;
    }

    pub(crate) fn pick(&mut self, avoid: Option<u32>, room: &Room<'_>) -> Option<u32> {
        if self.members.is_empty() {
            return None;
        }
        let row = self.row.get_or_insert_with(|| Row::new(&self.members));
        if self.next >= row.length {
            self.next = 0;
        }
        // The avoided one's turns are skipped, and those of servers without room.
        let mut avoided = None;
        for step in 0..row.length {
            let turn = (self.next + step) % row.length;
            let slot = row.turn(turn);
            if !room.has(slot) {
                continue;
            }
            if Some(slot) != avoid {
                self.next = turn + 1;
                return Some(slot);
            }
            avoided.get_or_insert((turn, slot));
        }
        let (turn, slot) = avoided?;
        self.next = turn + 1;
        Some(slot)
    }

    /// `hash-type map-based`: the server of the turn that the hash names; turns are not taken.
    pub(crate) fn pick_by_hash(&mut self, hash: u32) -> Option<u32> {
        if self.members.is_empty() {
            return None;
        }
        let row = self.row.get_or_insert_with(|| Row::new(&self.members));
        Some(row.turn(hash as usize % row.length))
    }
}

impl Row {
    fn new(members: &BTreeMap<(u32, u32), u16>) -> Self {
        let mut row = Self::default();
        for (place, (&(_, slot), &weight)) in members.iter().enumerate() {
            row.length += usize::from(weight);
            row.earners.push(Earner {
                slot,
                weight: weight.into(),
                earned: 0,
                paid: 0,
            });
            row.waiting.push(Reverse((0, place)));
        }
        row
    }

    /// Whose turn is it? The row must have members, and `turn` be below its length.
    fn turn(&mut self, turn: usize) -> u32 {
        while self.turns.len() <= turn {
            self.make_turn();
        }
        self.turns[turn]
    }

    fn make_turn(&mut self) {
        let now = self.turns.len() as u64 + 1;
        while let Some(&Reverse((due, place))) = self.waiting.peek()
            && due <= now
        {
            self.waiting.pop();
            let earner = &mut self.earners[place];
            self.ready
                .remove(&(Reverse(earner.earned - earner.paid), place));
            earner.earned += 1;
            self.ready
                .insert((Reverse(earner.earned - earner.paid), place));
            let next_due = (earner.earned * self.length as u64).div_ceil(earner.weight);
            self.waiting.push(Reverse((next_due, place)));
        }
        // The weights earned in a turn are one total and one total is paid, so somebody's
        // account is never below zero, which is to have earned one more than was paid.
        let (_, place) = self
            .ready
            .pop_first()
            .unwrap_or((Reverse(0), self.turns.len() % self.earners.len()));
        let earner = &mut self.earners[place];
        earner.paid += 1;
        if earner.earned > earner.paid {
            self.ready
                .insert((Reverse(earner.earned - earner.paid), place));
        }
        self.turns.push(earner.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ROOMY;

    /// The rule as it is written above, computed the slow way.
    fn naive_row(weights: &[u16]) -> Vec<u32> {
        let total: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
        let mut account = vec![0_i64; weights.len()];
        let mut turns = Vec::new();
        for _ in 0..total {
            for (account, &weight) in account.iter_mut().zip(weights) {
                *account += i64::from(weight);
            }
            let most = account
                .iter()
                .map(|account| account.div_euclid(total))
                .max()
                .unwrap();
            let place = account
                .iter()
                .position(|account| account.div_euclid(total) == most)
                .unwrap();
            account[place] -= total;
            turns.push(place as u32);
        }
        turns
    }

    fn row(weights: &[u16]) -> Vec<u32> {
        let candidates: Vec<_> = (0..)
            .zip(weights)
            .map(|(slot, &weight)| Candidate {
                slot,
                ordinal: slot,
                id: slot,
                weight,
                scaled: weight,
                load: 0,
            })
            .collect();
        let mut all = StaticRoundRobin::new(&candidates);
        (0..weights.iter().map(|&weight| u32::from(weight)).sum())
            .map(|_| all.pick(None, &ROOMY).unwrap())
            .collect()
    }

    #[test]
    fn row_equals_the_rule_for_all_small_weights() {
        for a in 1..=5 {
            for b in 1..=5 {
                assert_eq!(row(&[a, b]), naive_row(&[a, b]), "{a} {b}");
                for c in 1..=5 {
                    assert_eq!(row(&[a, b, c]), naive_row(&[a, b, c]), "{a} {b} {c}");
                    for d in 1..=5 {
                        let weights = [a, b, c, d];
                        assert_eq!(row(&weights), naive_row(&weights), "{weights:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn row_equals_the_rule_for_uneven_weights() {
        for weights in [
            vec![256, 1, 255],
            vec![1, 256, 3, 7],
            vec![97, 89, 83, 79, 73, 71],
            (1..=40).collect(),
            (1..=40).rev().collect(),
        ] {
            assert_eq!(row(&weights), naive_row(&weights), "{weights:?}");
        }
    }
}
