//! `balance leastconn`: the least loaded for its weight; among equals, each in turn.
//!
//! Decides:  servers without a connection first, whatever their weights; else the
//!           smallest (connections + 1) / weight; among equals the one that came to
//!           this load longest ago.
//! Source:   HAProxy's manual, `balance leastconn`; the order of idle servers and the
//!           resolution of the quotient as src/lb_fwlc.c, fwlc_get_key(), 2.6 to 3.5.
//! Cases:    tests/haproxy_sequences.rs, recorded from HAProxy 2.6.12
//! Not here: HAProxy 3.x starts at a random one of several equal servers; we keep turns.

use std::collections::BTreeSet;

use crate::schedule::{Candidate, Room, entry_of};

/// Quotients are compared in units of this fraction of a connection, as HAProxy does; weights come in
/// sixteenths.
const RESOLUTION: u64 = 256 * 16;

/// Eligible servers by load.
#[derive(Debug, Default)]
pub(crate) struct LeastConn {
    /// (quotient, turn, slot), so the first is next.
    order: BTreeSet<(u64, u64, u32)>,
    /// By slot; `None` is not eligible.
    entries: Vec<Option<Entry>>,
    /// The turn that the next server to be placed gets.
    turn: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    weight: u16,
    quotient: u64,
    turn: u64,
}

fn quotient(load: u32, weight: u16) -> u64 {
    match load {
        0 => 0,
        _ => (u64::from(load) + 1) * RESOLUTION / u64::from(weight),
    }
}

impl LeastConn {
    pub(crate) fn new(candidates: &[Candidate]) -> Self {
        let mut all = Self::default();
        for &candidate in candidates {
            all.add(candidate);
        }
        all
    }

    pub(crate) fn add(&mut self, candidate: Candidate) {
        self.remove(candidate.slot);
        self.place(
            candidate.slot,
            candidate.scaled,
            quotient(candidate.load, candidate.scaled),
        );
    }

    /// A server whose weight is the same keeps its turn.
    pub(crate) fn reweigh(&mut self, candidate: Candidate) {
        let old = *entry_of(&mut self.entries, candidate.slot);
        if old.is_none_or(|old| old.weight != candidate.scaled) {
            self.add(candidate);
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(entry) = entry_of(&mut self.entries, slot).take() {
            self.order.remove(&(entry.quotient, entry.turn, slot));
        }
    }

    pub(crate) fn load_changed(&mut self, slot: u32, load: u32) {
        let Some(entry) = *entry_of(&mut self.entries, slot) else {
            return;
        };
        let new = quotient(load, entry.weight);
        if new != entry.quotient {
            self.remove(slot);
            self.place(slot, entry.weight, new);
        }
    }

    pub(crate) fn pick(&self, avoid: Option<u32>, room: &Room<'_>) -> Option<u32> {
        let mut avoided = None;
        for &(_, _, slot) in &self.order {
            if !room.has(slot) {
                continue;
            }
            if Some(slot) != avoid {
                return Some(slot);
            }
            avoided = Some(slot);
        }
        avoided
    }

    fn place(&mut self, slot: u32, weight: u16, quotient: u64) {
        let turn = self.turn;
        self.turn += 1;
        self.order.insert((quotient, turn, slot));
        *entry_of(&mut self.entries, slot) = Some(Entry {
            weight,
            quotient,
            turn,
        });
    }
}
