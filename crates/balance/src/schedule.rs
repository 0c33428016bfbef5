//! What an algorithm answers to, and which algorithm answers.
//!
//! Decides:  the five questions that a group puts to an algorithm.
//! Not here: who is eligible, tiers, and counting (group.rs).

use crate::first::First;
use crate::group::{Algorithm, HashTable};
use crate::leastconn::LeastConn;
use crate::random::Random;
use crate::ring::Ring;
use crate::roundrobin::RoundRobin;
use crate::static_rr::StaticRoundRobin;

/// An eligible server, as an algorithm sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its slot in the group.
    pub slot: u32,
    /// Its place in the configuration.
    pub ordinal: u32,
    /// Its number, by which `first` and the ring know it.
    pub id: u32,
    /// 1 to 256; with a static algorithm, common divisors are taken out.
    pub weight: u16,
    /// In sixteenths, and less while it warms up: for algorithms that follow a weight.
    pub scaled: u16,
    /// Connections counted on it.
    pub load: u32,
}

/// What servers have room for, as the group knows it.
pub(crate) struct Room<'a> {
    /// May no connection be given to it at once?
    pub full: &'a dyn Fn(u32) -> bool,
    /// Is it so full that a hash gives it up (`hash-preserve-affinity`)?
    pub given_up: &'a dyn Fn(u32) -> bool,
}

impl Room<'_> {
    pub(crate) fn has(&self, slot: u32) -> bool {
        !(self.full)(slot)
    }

    pub(crate) fn keeps(&self, slot: u32) -> bool {
        !(self.given_up)(slot)
    }
}

/// The state of one algorithm over the eligible servers of one tier.
#[derive(Debug)]
pub(crate) enum Schedule {
    /// `balance random`
    Random(Random),
    /// `balance roundrobin`
    RoundRobin(RoundRobin),
    /// `balance static-rr`
    StaticRoundRobin(StaticRoundRobin),
    /// `balance leastconn`
    LeastConn(LeastConn),
    /// `balance first`
    First(First),
    /// `hash-type map-based`
    Map(StaticRoundRobin),
    /// `hash-type consistent`
    Ring(Ring),
}

impl Schedule {
    /// A schedule over servers that are all there from the start, in the order of the configuration.
    pub(crate) fn new(algorithm: Algorithm, candidates: &[Candidate]) -> Self {
        match algorithm {
            Algorithm::Random { draws } => Self::Random(Random::new(draws, candidates)),
            Algorithm::RoundRobin => Self::RoundRobin(RoundRobin::new(candidates)),
            Algorithm::StaticRoundRobin => {
                Self::StaticRoundRobin(StaticRoundRobin::new(candidates))
            }
            Algorithm::LeastConn => Self::LeastConn(LeastConn::new(candidates)),
            Algorithm::First => Self::First(First::new(candidates)),
            Algorithm::Hash(HashTable::Map) => Self::Map(StaticRoundRobin::new(candidates)),
            Algorithm::Hash(HashTable::Ring { balance_factor, .. }) => {
                Self::Ring(Ring::new(balance_factor, candidates))
            }
        }
    }

    /// A server became eligible.
    pub(crate) fn add(&mut self, candidate: Candidate) {
        match self {
            Self::Random(it) => it.add(candidate),
            Self::RoundRobin(it) => it.add(candidate),
            Self::StaticRoundRobin(it) | Self::Map(it) => it.add(candidate),
            Self::LeastConn(it) => it.add(candidate),
            Self::First(it) => it.add(candidate),
            Self::Ring(it) => it.add(candidate),
        }
    }

    /// A server is eligible no longer.
    pub(crate) fn remove(&mut self, slot: u32) {
        match self {
            Self::Random(it) => it.remove(slot),
            Self::RoundRobin(it) => it.remove(slot),
            Self::StaticRoundRobin(it) | Self::Map(it) => it.remove(slot),
            Self::LeastConn(it) => it.remove(slot),
            Self::First(it) => it.remove(slot),
            Self::Ring(it) => it.remove(slot),
        }
    }

    /// An eligible server's weight or place in the configuration changed.
    pub(crate) fn update(&mut self, candidate: Candidate) {
        match self {
            Self::Random(it) => it.add(candidate),
            Self::RoundRobin(it) => it.reweigh(candidate.slot, candidate.scaled),
            Self::StaticRoundRobin(it) | Self::Map(it) => it.add(candidate),
            Self::LeastConn(it) => it.reweigh(candidate),
            Self::First(it) => it.add(candidate),
            Self::Ring(it) => it.add(candidate),
        }
    }

    /// The number of connections counted on an eligible server changed.
    pub(crate) fn load_changed(&mut self, slot: u32, load: u32) {
        match self {
            Self::Random(it) => it.load_changed(slot, load),
            Self::LeastConn(it) => it.load_changed(slot, load),
            Self::Ring(it) => it.load_changed(slot, load),
            Self::RoundRobin(_) | Self::StaticRoundRobin(_) | Self::First(_) | Self::Map(_) => {}
        }
    }

    /// The next server that has room; `avoid` only if there is no other. By hash it is the server of
    /// the hash, with room or without.
    pub(crate) fn pick(&mut self, word: u64, avoid: Option<u32>, room: &Room<'_>) -> Option<u32> {
        match self {
            Self::Random(it) => it.pick(word, avoid, room),
            Self::RoundRobin(it) => it.pick(avoid, room),
            Self::StaticRoundRobin(it) => it.pick(avoid, room),
            Self::LeastConn(it) => it.pick(avoid, room),
            Self::First(it) => it.pick(avoid, room),
            Self::Map(it) => it.pick_by_hash(word as u32),
            Self::Ring(it) => it.pick(word as u32, avoid, room),
        }
    }
}

/// The entry of `slot` in a table indexed by slot, which grows as needed.
pub(crate) fn entry_of<T: Default>(table: &mut Vec<T>, slot: u32) -> &mut T {
    let index = slot as usize;
    if table.len() <= index {
        table.resize_with(index + 1, T::default);
    }
    &mut table[index]
}

/// Everybody has room.
#[cfg(test)]
pub(crate) const ROOMY: Room<'static> = Room {
    full: &|_| false,
    given_up: &|_| false,
};
