//! The servers of one backend, and the one atomic step that chooses and counts.
//!
//! Decides:  what can be asked of a group; every question is one atomic step, exact for all workers
//!           together, and who was waiting is told after it.
//! Source:   HAProxy's manual, `backup`, `option allbackups`, `weight`, `maxconn`, `minconn`,
//!           `fullconn`, `maxqueue`, `slowstart`, `option redispatch`.
//! Not here: which servers are eligible (members.rs), waiting for a free slot (waiting.rs), which of
//!           the eligible is next (one file an algorithm), whether a server is healthy (it is told).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use members::Inner;
use waiting::Notice;
pub use waiting::{Choice, Grant, Ticket, Waited, Waiter};

mod members;
#[cfg(test)]
mod tests;
mod waiting;

/// The largest weight of a server; a larger one is taken as this.
pub const MAX_WEIGHT: u16 = 256;

/// How the next server is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Of `draws` servers drawn by weight, the least loaded for its weight.
    Random {
        /// At least 1; 0 is taken as 1.
        draws: u32,
    },
    /// Each in turn by weight; weights may change at run time.
    RoundRobin,
    /// Each in turn by the weight it began with.
    StaticRoundRobin,
    /// The least loaded for its weight; among equals, each in turn.
    LeastConn,
    /// The one with the lowest number that has room.
    First,
    /// By a hash that the caller gives.
    Hash(HashTable),
}

/// How a hash finds its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashTable {
    /// `map-based`: a row of turns by weight; it changes as a whole when a server comes or goes.
    Map,
    /// `consistent`: others keep their servers when one comes or goes.
    Ring {
        /// `hash-balance-factor`, percent; 0: off.
        balance_factor: u32,
        /// `hash-preserve-affinity`
        affinity: Affinity,
    },
}

/// `hash-preserve-affinity`: when a hash gives its server up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// Never.
    #[default]
    Always,
    /// When it is at its `maxconn`.
    MaxConn,
    /// When its queue is full too.
    MaxQueue,
}

/// Whether a server serves always, or only when no other one can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Serves whenever it is usable.
    Active,
    /// Serves when no active server is usable: the first one, or all with `allbackups`.
    Backup,
}

/// Whether all backup servers share the load, or the first usable one takes it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllBackups {
    /// The first usable one.
    No,
    /// `option allbackups`
    Yes,
}

/// What a configuration says of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name: by it a server keeps its slot and counts over a reconfiguration.
    pub name: String,
    /// Its number (`id`), for `first` and the ring; 0: its place in the configuration, from 1.
    pub id: u32,
    /// 0 to [`MAX_WEIGHT`]; 0 takes no new connection.
    pub weight: u16,
    /// Active or backup.
    pub tier: Tier,
    /// Up, not in maintenance.
    pub usable: bool,
    /// What it can take.
    pub limits: Limits,
}

impl Default for Member {
    /// An active, usable server of weight 1 without limits, name and number.
    fn default() -> Self {
        Self {
            name: String::new(),
            id: 0,
            weight: 1,
            tier: Tier::Active,
            usable: true,
            limits: Limits::default(),
        }
    }
}

/// How many connections a server takes at once; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `maxconn`
    pub maxconn: u32,
    /// `minconn`: the limit while the backend has few connections; 0: as `maxconn`.
    pub minconn: u32,
    /// `maxqueue`: how many may wait for this very server.
    pub maxqueue: u32,
}

/// How far a server is in its `slowstart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarmUp {
    /// Seconds since it came up.
    pub elapsed_s: u32,
    /// Seconds that it takes; from then on it is warm.
    pub of_s: u32,
}

impl WarmUp {
    /// It is warm.
    pub const DONE: WarmUp = WarmUp {
        elapsed_s: 0,
        of_s: 0,
    };
}

/// A server's slot in its group; never reused while connections are counted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u32);

/// How many servers could take a connection: usable, and with a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usable {
    /// Of the active ones.
    pub active: u32,
    /// Of the backups.
    pub backup: u32,
}

/// The servers of one backend, shared by all workers; every method is one atomic step.
#[derive(Debug)]
pub struct Group {
    inner: Mutex<Inner>,
}

impl Group {
    /// A group of `members`, in the order of the configuration; member `n` has slot `n`.
    #[must_use]
    pub fn new(algorithm: Algorithm, all_backups: AllBackups, members: &[Member]) -> Self {
        let mut inner = Inner::new(algorithm);
        inner.reconfigure(algorithm, all_backups, members);
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Takes a new configuration; returns the slot of each of `members`, in their order.
    ///
    /// A server that was there before, by name, keeps its slot, its count and, with the same
    /// algorithm, its turn. The slot of one that is gone takes no connection any more, and is
    /// free for another server once its connections have ended. Of several members with one
    /// name, the first is the old server and the others are new ones.
    pub fn reconfigure(
        &self,
        algorithm: Algorithm,
        all_backups: AllBackups,
        members: &[Member],
    ) -> Vec<MemberId> {
        self.step(|inner| inner.reconfigure(algorithm, all_backups, members))
    }

    /// `fullconn`: the connections of the backend at which servers have all their `maxconn`; 0: they
    /// always have.
    pub fn set_fullconn(&self, fullconn: u32) {
        self.step(|inner| inner.fullconn = fullconn);
    }

    /// Chooses a server that has room and counts a connection on it; `None` if there is none.
    ///
    /// `word` is random bits for [`Algorithm::Random`], which derives as many numbers from it as it
    /// needs (splitmix64), and the hash for [`Algorithm::Hash`]. `avoid` is chosen only if there is
    /// no other server, and always if it is the one backup that serves.
    pub fn choose(&self, word: u64, avoid: Option<MemberId>) -> Option<MemberId> {
        match self.lock().choose(word, avoid, None) {
            Choice::Server(member) => Some(member),
            _ => None,
        }
    }

    /// The same; where all that it could choose are full, `waiter` stands in a queue from now on, and
    /// will be told once, with this `token`, unless [`Group::leave_queue`] takes it out before.
    pub fn choose_or_wait(
        &self,
        word: u64,
        avoid: Option<MemberId>,
        waiter: &Arc<dyn Waiter>,
        token: u64,
    ) -> Choice {
        self.lock().choose(word, avoid, Some((waiter, token)))
    }

    /// Leaves a queue. `None`: it was told already, or will be in a moment.
    pub fn leave_queue(&self, ticket: Ticket) -> Option<Waited> {
        self.lock().leave_queue(ticket)
    }

    /// Gives one counted connection back; returns how many are left on this server. Who waited for
    /// it the longest has it from then on.
    pub fn release(&self, member: MemberId) -> u32 {
        let (left, notice) = {
            let mut inner = self.lock();
            let left = inner.release(member);
            if inner.waiting == 0 {
                return left;
            }
            inner.serve(member.0);
            (left, inner.take_notices())
        };
        notice.into_iter().for_each(Notice::deliver);
        left
    }

    /// Says whether a server may be chosen. Ignored for a slot that no configured server has. Who
    /// waits for one that is not usable any more waits for any other one, in his place.
    pub fn set_usable(&self, member: MemberId, usable: bool) {
        self.step(|inner| inner.change(member, |slot| slot.usable = usable));
    }

    /// Sets a server's weight at run time. With [`Algorithm::StaticRoundRobin`] and
    /// [`HashTable::Map`] 0 takes the server out and anything else brings it back at its configured
    /// weight, as in HAProxy, which accepts only 0% and 100% there.
    pub fn set_weight(&self, member: MemberId, weight: u16) {
        let weight = weight.min(MAX_WEIGHT);
        self.step(|inner| inner.change(member, |slot| slot.weight = weight));
    }

    /// Sets what a server takes at run time.
    pub fn set_limits(&self, member: MemberId, limits: Limits) {
        self.step(|inner| inner.change(member, |slot| slot.limits = limits));
    }

    /// Says how far a server is in its `slowstart`: it has that share of its weight, where weights
    /// can change at run time, and of its `maxconn`.
    pub fn set_warm_up(&self, member: MemberId, warm_up: WarmUp) {
        self.step(|inner| inner.change(member, |slot| slot.warm_up = warm_up));
    }

    /// The weight that counts now, as [`Group::set_weight`] left it.
    #[must_use]
    pub fn weight(&self, member: MemberId) -> u16 {
        let inner = self.lock();
        inner.slot(member).map_or(0, |slot| inner.effective(slot))
    }

    /// Connections counted on a server now.
    #[must_use]
    pub fn active_connections(&self, member: MemberId) -> u32 {
        self.lock().slot(member).map_or(0, |slot| slot.count)
    }

    /// How the next server is chosen.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.lock().algorithm
    }

    /// Connections counted on all servers now, those of retired slots included.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.lock().total
    }

    /// How many servers could take a connection, by tier, whether or not their tier serves.
    #[must_use]
    pub fn usable(&self) -> Usable {
        let inner = self.lock();
        Usable {
            active: inner.active.eligible.len() as u32,
            backup: inner.backup.eligible.len() as u32,
        }
    }

    /// How many servers could take a connection, both tiers together.
    #[must_use]
    pub fn usable_members(&self) -> u32 {
        let usable = self.usable();
        usable.active + usable.backup
    }

    /// Could this server take a connection, if its tier serves?
    #[must_use]
    pub fn is_usable(&self, member: MemberId) -> bool {
        let inner = self.lock();
        inner
            .slot(member)
            .is_some_and(|slot| inner.is_eligible(slot))
    }

    /// As [`Group::set_usable`] or the configuration said it last, whatever its weight.
    #[must_use]
    pub fn is_up(&self, member: MemberId) -> bool {
        self.lock().slot(member).is_some_and(|slot| slot.usable)
    }

    /// The slot of a configured server.
    #[must_use]
    pub fn slot_of(&self, name: &str) -> Option<MemberId> {
        let inner = self.lock();
        let at = inner
            .slots
            .iter()
            .position(|slot| slot.configured.is_some() && slot.name == name)?;
        Some(MemberId(at as u32))
    }

    /// One more than the largest slot ever in use.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.lock().slots.len()
    }

    /// Who waits: for this very server, and for any server of the backend.
    #[must_use]
    pub fn queue_lengths(&self, member: MemberId) -> (u32, u32) {
        let inner = self.lock();
        let of_server = inner.slot(member).map_or(0, |slot| slot.queue.len());
        (of_server as u32, inner.queue.len() as u32)
    }

    /// One step, after which whoever waits may have something.
    fn step<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        let (result, notices) = {
            let mut inner = self.lock();
            let result = change(&mut inner);
            if inner.waiting > 0 {
                inner.serve_all();
            }
            (result, inner.take_notices())
        };
        notices.into_iter().for_each(Notice::deliver);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under this lock would be a defect of ours; counts stay usable after it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
