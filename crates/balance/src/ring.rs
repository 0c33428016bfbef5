//! `hash-type consistent`: servers stand many times on a ring of hashes; the nearest serves.
//!
//! Decides:  a server stands as often as its weight in sixteenths says, at places that follow from
//!           its number alone, so that others keep theirs when it comes or goes; of the places
//!           before and after a hash the nearer one serves, the earlier among equals; a server
//!           that is to be avoided, or has more than its share, is passed by.
//! Source:   HAProxy's manual, `hash-type consistent`, `hash-balance-factor`,
//!           `hash-preserve-affinity`; src/lb_chash.c, chash_get_server_hash(),
//!           chash_server_is_eligible(), 2.6 to 3.5; Mirrokni, Thorup, Zadimoghaddam:
//!           "Consistent Hashing with Bounded Loads" (arXiv:1608.01350).
//! Cases:    tests/haproxy_sequences.rs, recorded from HAProxy 2.6.12
//! Not here: hashing (hash.rs), what `maxconn` allows (group.rs tells).

use std::collections::BTreeMap;

use crate::hash::mix;
use crate::schedule::{Candidate, Room};

/// The most places that one server has on the ring.
const MOST_PLACES: u32 = 4096;

/// Eligible servers and their places.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// Percent of its share that a server may have; 0: any.
    balance_factor: u32,
    /// By place in the configuration.
    members: BTreeMap<(u32, u32), Member>,
    ordinals: BTreeMap<u32, u32>,
    total_weight: u64,
    /// (place, slot), sorted; `None` since a server came or went, until it is needed.
    places: Option<Vec<(u32, u32)>>,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    id: u32,
    weight: u32,
    load: u32,
}

impl Ring {
    pub(crate) fn new(balance_factor: u32, candidates: &[Candidate]) -> Self {
        let mut all = Self {
            balance_factor,
            ..Self::default()
        };
        for &candidate in candidates {
            all.add(candidate);
        }
        all
    }

    pub(crate) fn add(&mut self, candidate: Candidate) {
        self.remove(candidate.slot);
        self.ordinals.insert(candidate.slot, candidate.ordinal);
        let member = Member {
            id: candidate.id,
            weight: candidate.scaled.into(),
            load: candidate.load,
        };
        self.total_weight += u64::from(member.weight);
        self.members
            .insert((candidate.ordinal, candidate.slot), member);
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        self.places = None;
        if let Some(ordinal) = self.ordinals.remove(&slot)
            && let Some(member) = self.members.remove(&(ordinal, slot))
        {
            self.total_weight -= u64::from(member.weight);
        }
    }

    pub(crate) fn load_changed(&mut self, slot: u32, load: u32) {
        if let Some(&ordinal) = self.ordinals.get(&slot)
            && let Some(member) = self.members.get_mut(&(ordinal, slot))
        {
            member.load = load;
        }
    }

    pub(crate) fn pick(&mut self, hash: u32, avoid: Option<u32>, room: &Room<'_>) -> Option<u32> {
        if self.places.is_none() {
            self.places = Some(self.all_places());
        }
        let places = self.places.as_deref().unwrap_or_default();
        let last = places.len().checked_sub(1)?;
        let next = match places.partition_point(|&(place, _)| place < hash) {
            beyond if beyond > last => 0,
            next => next,
        };
        let before = next.checked_sub(1).unwrap_or(last);
        let behind = hash.wrapping_sub(places[before].0);
        let ahead = places[next].0.wrapping_sub(hash);
        let nearest = if behind <= ahead { before } else { next };
        // Once around, no more: then the nearest one serves after all.
        let acceptable = (0..places.len())
            .map(|step| places[(nearest + step) % places.len()].1)
            .find(|&slot| Some(slot) != avoid && self.within_share(slot) && room.keeps(slot));
        acceptable.or(Some(places[nearest].1))
    }

    fn all_places(&self) -> Vec<(u32, u32)> {
        let mut places: Vec<(u32, u32)> = self
            .members
            .iter()
            .flat_map(|(&(_, slot), member)| {
                let base = member.id.wrapping_mul(MOST_PLACES);
                (0..member.weight.min(MOST_PLACES))
                    .map(move |index| (mix(base.wrapping_add(index)), slot))
            })
            .collect();
        places.sort_by_key(|&(place, _)| place);
        places
    }

    /// Has it less than its share of all connections, this one counted, times the factor?
    fn within_share(&self, slot: u32) -> bool {
        if self.balance_factor == 0 {
            return true;
        }
        let Some(&ordinal) = self.ordinals.get(&slot) else {
            return false;
        };
        let mut weight_before = 0;
        let mut own = None;
        let mut connections = 0;
        for (&key, member) in &self.members {
            connections += u64::from(member.load);
            if key == (ordinal, slot) {
                own = Some(member);
            } else if own.is_none() {
                weight_before += u64::from(member.weight);
            }
        }
        let Some(own) = own else {
            return false;
        };
        let weight = u64::from(own.weight);
        let total = self.total_weight.max(1);
        let slots = ((connections + 1) * u64::from(self.balance_factor)).div_ceil(100);
        let (whole, rest) = (slots / total, slots % total);
        let share =
            weight * whole + (weight_before + weight) * rest / total - weight_before * rest / total;
        u64::from(own.load) < share.max(1)
    }
}
