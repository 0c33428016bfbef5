//! What an algorithm answers to, and which algorithm answers.
//!
//! Decides:  the five questions that a group puts to an algorithm.
//! Not here: who is eligible, tiers, and counting (group.rs).

use crate::group::Algorithm;
use crate::leastconn::LeastConn;
use crate::random::Random;
use crate::roundrobin::RoundRobin;
use crate::static_rr::StaticRoundRobin;

/// An eligible server, as an algorithm sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its slot in the group.
    pub slot: u32,
    /// Its place in the configuration.
    pub ordinal: u32,
    /// 1 to 256.
    pub weight: u16,
    /// Connections counted on it.
    pub load: u32,
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
        }
    }

    /// A server became eligible.
    pub(crate) fn add(&mut self, candidate: Candidate) {
        match self {
            Self::Random(it) => it.add(candidate),
            Self::RoundRobin(it) => it.add(candidate),
            Self::StaticRoundRobin(it) => it.add(candidate),
            Self::LeastConn(it) => it.add(candidate),
        }
    }

    /// A server is eligible no longer.
    pub(crate) fn remove(&mut self, slot: u32) {
        match self {
            Self::Random(it) => it.remove(slot),
            Self::RoundRobin(it) => it.remove(slot),
            Self::StaticRoundRobin(it) => it.remove(slot),
            Self::LeastConn(it) => it.remove(slot),
        }
    }

    /// An eligible server's weight or place in the configuration changed.
    pub(crate) fn update(&mut self, candidate: Candidate) {
        match self {
            Self::Random(it) => it.add(candidate),
            Self::RoundRobin(it) => it.reweigh(candidate.slot, candidate.weight),
            Self::StaticRoundRobin(it) => it.add(candidate),
            Self::LeastConn(it) => it.reweigh(candidate),
        }
    }

    /// The number of connections counted on an eligible server changed.
    pub(crate) fn load_changed(&mut self, slot: u32, load: u32) {
        match self {
            Self::Random(it) => it.load_changed(slot, load),
            Self::LeastConn(it) => it.load_changed(slot, load),
            Self::RoundRobin(_) | Self::StaticRoundRobin(_) => {}
        }
    }

    /// The next server; `avoid` only if there is no other.
    pub(crate) fn pick(&mut self, random: u64, avoid: Option<u32>) -> Option<u32> {
        match self {
            Self::Random(it) => it.pick(random, avoid),
            Self::RoundRobin(it) => it.pick(avoid),
            Self::StaticRoundRobin(it) => it.pick(avoid),
            Self::LeastConn(it) => it.pick(avoid),
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
