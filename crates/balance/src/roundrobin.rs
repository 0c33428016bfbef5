//! `balance roundrobin`: each in turn by weight; weights may change at run time.
//!
//! Decides:  the order of turns: smooth, in proportion to the weights, and without a
//!           jump when a weight changes or a server comes or goes.
//! Source:   HAProxy's manual, `balance roundrobin`; the rule of src/lb_fwrr.c, 2.6 to 3.5,
//!           including its scale, window and order of equals, so that sequences are the same.
//! Cases:    tests/haproxy_sequences.rs, recorded from HAProxy 2.6.12
//! Not here: HAProxy's limit of 4095 servers; one scheduler a thread group (3.x).
//!
//! The rule: a clock ticks once a choice. A server that was chosen at clock p is due
//! again at p + total / weight; the remainder is carried. The earliest due goes next,
//! but while nobody is due yet, servers that have not had their first turn go, the
//! heaviest first. What is due beyond the window of one total (weights are in
//! sixteenths, so a window is sixteen rows) waits in the next window's queue of
//! newcomers: there weights that changed meanwhile take effect.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::schedule::{Candidate, Room, entry_of};

/// Weights come in these fractions.
const WEIGHT_SCALE: u64 = 16;

/// Eligible servers and when they are due.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    /// The clock.
    now: u64,
    /// The window's length, which is also the clock's reading at its begin.
    window: u64,
    /// All weights together, as they are now.
    total: u64,
    /// Waiting for a first turn in this window.
    newcomers: BTreeSet<ByWeight>,
    /// Had a turn in this window and will have another.
    due: BTreeSet<ByTime>,
    /// Done with this window; newcomers of the next.
    later: BTreeSet<ByWeight>,
    /// By slot; `None` is not eligible.
    entries: Vec<Option<Entry>>,
    /// By slot: the remainder with which a server left, and comes back.
    left_with: Vec<u64>,
    /// Keeps equals in the order in which they came.
    arrivals: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ByWeight {
    heaviest: Reverse<u64>,
    arrival: u64,
    slot: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ByTime {
    at: u64,
    /// Of those due together: the less remainder and the more weight, the earlier.
    lag: u64,
    arrival: u64,
    slot: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    weight: u64,
    /// When it had, or should have had, its last turn.
    last: u64,
    /// When it is due; of [`Place::Later`], in the next window.
    at: u64,
    /// Of total / weight, carried from turn to turn.
    remainder: u64,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Taken out for a moment.
    Nowhere,
    Newcomer(ByWeight),
    Due(ByTime),
    Later(ByWeight),
}

impl RoundRobin {
    pub(crate) fn new(candidates: &[Candidate]) -> Self {
        let mut all = Self::default();
        for candidate in candidates {
            let entry = Entry::new(candidate.scaled);
            all.total += entry.weight;
            *entry_of(&mut all.entries, candidate.slot) = Some(entry);
            all.queue_newcomer(candidate.slot);
        }
        (all.window, all.now) = (all.total, all.total);
        all
    }

    /// A server comes in the middle of things: its first turn is one interval from now.
    pub(crate) fn add(&mut self, candidate: Candidate) {
        self.remove(candidate.slot);
        let mut entry = Entry::new(candidate.scaled);
        entry.remainder = *entry_of(&mut self.left_with, candidate.slot) % entry.weight;
        self.total += entry.weight;
        let rest = (self.total + self.window).saturating_sub(self.now);
        entry.at = self.now + rest / entry.weight;
        *entry_of(&mut self.entries, candidate.slot) = Some(entry);
        self.queue(candidate.slot);
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        self.take_out(slot);
        if let Some(entry) = entry_of(&mut self.entries, slot).take() {
            self.total -= entry.weight;
            *entry_of(&mut self.left_with, slot) = entry.remainder;
        }
    }

    /// A weight changes: sooner if that is sooner, but never twice at once.
    pub(crate) fn reweigh(&mut self, slot: u32, weight: u16) {
        let Some(old) = *entry_of(&mut self.entries, slot) else {
            return;
        };
        let mut new = Entry {
            weight: u64::from(weight),
            ..old
        };
        if new.weight == old.weight {
            return;
        }
        self.total = self.total - old.weight + new.weight;
        self.take_out(slot);
        new.place = Place::Nowhere;
        if let Place::Newcomer(_) = old.place {
            self.entries[slot as usize] = Some(new);
            self.queue_newcomer(slot);
            return;
        }
        let before = match old.place {
            Place::Later(_) => old.at + self.window,
            _ => old.at,
        };
        let interval = self.total / new.weight;
        new.remainder = 0;
        new.at = before.min(new.last + interval);
        if new.at < self.now + 2 {
            new.at = self.now + interval;
        }
        self.entries[slot as usize] = Some(new);
        self.queue(slot);
    }

    pub(crate) fn pick(&mut self, avoid: Option<u32>, room: &Room<'_>) -> Option<u32> {
        let mut switched = false;
        let mut avoided = None;
        // The turns of the avoided and the full pass, and they are queued again at the end.
        let mut passed = Vec::new();
        if self.window == 0 {
            (self.window, self.now) = (self.total, self.total);
        }
        let chosen = loop {
            let Some(slot) = self.first() else {
                if switched {
                    break avoided;
                }
                switched = true;
                std::mem::swap(&mut self.newcomers, &mut self.later);
                self.newcomers_moved_in();
                (self.window, self.now) = (self.total, self.total);
                continue;
            };
            self.take_turn(slot);
            self.now += 1;
            if room.has(slot) {
                if Some(slot) != avoid || avoided.is_some() {
                    break Some(slot);
                }
                avoided = Some(slot);
            }
            passed.push(slot);
        };
        if let Some(slot) = chosen {
            self.queue(slot);
        }
        for slot in passed
            .into_iter()
            .rev()
            .filter(|&slot| Some(slot) != chosen)
        {
            // After a switch its place is lost, and only its weight counts.
            if switched {
                self.queue_newcomer(slot);
            } else {
                self.queue(slot);
            }
        }
        chosen
    }

    /// Who is next, apart from the next window?
    fn first(&self) -> Option<u32> {
        let due = self.due.first();
        match due {
            Some(due) if due.at <= self.now => Some(due.slot),
            _ => match self.newcomers.first() {
                Some(newcomer) => Some(newcomer.slot),
                None => due.map(|due| due.slot),
            },
        }
    }

    /// Takes a server out and moves it one interval on.
    fn take_turn(&mut self, slot: u32) {
        self.take_out(slot);
        let (now, total) = (self.now, self.total);
        let Some(entry) = entry_of(&mut self.entries, slot) else {
            return;
        };
        if entry.at == 0 {
            entry.at = now;
        }
        entry.last = entry.at;
        entry.at += total / entry.weight;
        entry.remainder += total % entry.weight;
        if entry.remainder >= entry.weight {
            entry.remainder -= entry.weight;
            entry.at += 1;
        }
    }

    /// Takes a server out of its queue; a newcomer's time starts anew.
    fn take_out(&mut self, slot: u32) {
        let Some(entry) = entry_of(&mut self.entries, slot) else {
            return;
        };
        match std::mem::replace(&mut entry.place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::Due(key) => {
                self.due.remove(&key);
            }
            Place::Later(key) => {
                self.later.remove(&key);
            }
            Place::Newcomer(key) => {
                (entry.at, entry.remainder) = (0, 0);
                self.newcomers.remove(&key);
            }
        }
    }

    fn queue_newcomer(&mut self, slot: u32) {
        let arrival = self.arrive();
        if let Some(entry) = entry_of(&mut self.entries, slot) {
            let key = ByWeight {
                heaviest: Reverse(entry.weight),
                arrival,
                slot,
            };
            entry.place = Place::Newcomer(key);
            self.newcomers.insert(key);
        }
    }

    /// Queues a server for its time, in this window or the next.
    fn queue(&mut self, slot: u32) {
        let arrival = self.arrive();
        let end = self.window + self.window.min(self.total);
        let Some(entry) = entry_of(&mut self.entries, slot) else {
            return;
        };
        if entry.at >= end {
            entry.at -= self.window;
            let key = ByWeight {
                heaviest: Reverse(entry.weight),
                arrival,
                slot,
            };
            entry.place = Place::Later(key);
            self.later.insert(key);
        } else {
            let key = ByTime {
                at: entry.at,
                lag: (256 * WEIGHT_SCALE + entry.remainder - entry.weight) / WEIGHT_SCALE,
                arrival,
                slot,
            };
            entry.place = Place::Due(key);
            self.due.insert(key);
        }
    }

    /// After a switch: those who waited for this window are its newcomers.
    fn newcomers_moved_in(&mut self) {
        for key in &self.newcomers {
            if let Some(entry) = &mut self.entries[key.slot as usize] {
                entry.place = Place::Newcomer(*key);
            }
        }
    }

    fn arrive(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }
}

impl Entry {
    fn new(weight: u16) -> Self {
        Self {
            weight: u64::from(weight),
            last: 0,
            at: 0,
            remainder: 0,
            place: Place::Nowhere,
        }
    }
}
