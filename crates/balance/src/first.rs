//! `balance first`: the server with the lowest number that has room.
//!
//! Decides:  the order is by number (`id`), not by place in the configuration; weights do not count.
//! Source:   HAProxy's manual, `balance first`; src/lb_fas.c, fas_get_next_server(), 2.6 to 3.5.
//! Cases:    tests/haproxy_sequences.rs, recorded from HAProxy 2.6.12
//! Not here: what room is (group.rs).

use std::collections::{BTreeMap, BTreeSet};

use crate::schedule::{Candidate, Room};

/// Eligible servers by number.
#[derive(Debug, Default)]
pub(crate) struct First {
    order: BTreeSet<(u32, u32)>,
    ids: BTreeMap<u32, u32>,
}

impl First {
    pub(crate) fn new(candidates: &[Candidate]) -> Self {
        let mut all = Self::default();
        for &candidate in candidates {
            all.add(candidate);
        }
        all
    }

    pub(crate) fn add(&mut self, candidate: Candidate) {
        self.remove(candidate.slot);
        self.ids.insert(candidate.slot, candidate.id);
        self.order.insert((candidate.id, candidate.slot));
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(id) = self.ids.remove(&slot) {
            self.order.remove(&(id, slot));
        }
    }

    pub(crate) fn pick(&self, avoid: Option<u32>, room: &Room<'_>) -> Option<u32> {
        let mut with_room = self
            .order
            .iter()
            .map(|&(_, slot)| slot)
            .filter(|&slot| room.has(slot));
        let first = with_room.next()?;
        match Some(first) == avoid {
            true => with_room.next().or(Some(first)),
            false => Some(first),
        }
    }
}
