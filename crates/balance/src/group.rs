//! The servers of one backend, and the one atomic step that chooses and counts.
//!
//! Decides:  which servers are eligible, which tier serves, and what is counted, exactly
//!           for all workers together.
//! Source:   HAProxy's manual, `backup`, `option allbackups`, `weight`, `option redispatch`.
//! Not here: which of the eligible is next (one file an algorithm), whether a server is
//!           healthy (it is told), waiting for a free slot (queues).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::schedule::{Candidate, Schedule};

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
    /// 0 to [`MAX_WEIGHT`]; 0 takes no new connection.
    pub weight: u16,
    /// Active or backup.
    pub tier: Tier,
    /// Up, not in maintenance.
    pub usable: bool,
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
        let mut inner = Inner {
            algorithm,
            all_backups,
            slots: Vec::new(),
            total: 0,
            divisor: 1,
            active: Pool::new(algorithm),
            backup: Pool::new(algorithm),
        };
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
        self.lock().reconfigure(algorithm, all_backups, members)
    }

    /// Chooses a server and counts a connection on it; `None` if no server is usable.
    ///
    /// `random` is only used by [`Algorithm::Random`], which derives as many numbers from it as
    /// it needs (splitmix64). `avoid` is chosen only if there is no other server, and always if
    /// it is the one backup that serves.
    pub fn choose(&self, random: u64, avoid: Option<MemberId>) -> Option<MemberId> {
        self.lock().choose(random, avoid)
    }

    /// Gives one counted connection back; returns how many are left on this server.
    pub fn release(&self, member: MemberId) -> u32 {
        self.lock().release(member)
    }

    /// Says whether a server may be chosen. Ignored for a slot that no configured server has.
    pub fn set_usable(&self, member: MemberId, usable: bool) {
        self.lock().change(member, |slot| slot.usable = usable);
    }

    /// Sets a server's weight at run time. With [`Algorithm::StaticRoundRobin`] 0 takes the
    /// server out and anything else brings it back at its configured weight, as in HAProxy,
    /// which accepts only 0% and 100% there.
    pub fn set_weight(&self, member: MemberId, weight: u16) {
        let weight = weight.min(MAX_WEIGHT);
        self.lock().change(member, |slot| slot.weight = weight);
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under this lock would be a defect of ours; counts stay usable after it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Inner {
    algorithm: Algorithm,
    all_backups: AllBackups,
    slots: Vec<Slot>,
    total: u32,
    /// Common divisor of the configured weights.
    divisor: u16,
    active: Pool,
    backup: Pool,
}

#[derive(Debug)]
struct Slot {
    name: String,
    /// As set last, at run time or by the configuration.
    weight: u16,
    usable: bool,
    /// Connections.
    count: u32,
    /// `None`: the server is gone from the configuration.
    configured: Option<Configured>,
}

#[derive(Debug, Clone, Copy)]
struct Configured {
    ordinal: u32,
    weight: u16,
    tier: Tier,
}

/// The eligible servers of one tier.
#[derive(Debug)]
struct Pool {
    /// (ordinal, slot)
    eligible: BTreeSet<(u32, u32)>,
    schedule: Schedule,
}

impl Pool {
    fn new(algorithm: Algorithm) -> Self {
        Self {
            eligible: BTreeSet::new(),
            schedule: Schedule::new(algorithm, &[]),
        }
    }
}

impl Inner {
    fn reconfigure(
        &mut self,
        algorithm: Algorithm,
        all_backups: AllBackups,
        members: &[Member],
    ) -> Vec<MemberId> {
        let old_divisor = self.divisor;
        let fresh = algorithm != self.algorithm || self.slots.is_empty();
        (self.algorithm, self.all_backups) = (algorithm, all_backups);
        self.divisor = members
            .iter()
            .map(|member| member.weight.min(MAX_WEIGHT))
            .fold(0, gcd)
            .max(1);

        let ids = self.assign_slots(members);
        let before = self.eligible_candidates();
        for slot in &mut self.slots {
            slot.configured = None;
        }
        for (ordinal, (member, id)) in (0..).zip(members.iter().zip(&ids)) {
            let slot = &mut self.slots[id.0 as usize];
            slot.name.clone_from(&member.name);
            slot.weight = member.weight.min(MAX_WEIGHT);
            slot.usable = member.usable;
            slot.configured = Some(Configured {
                ordinal,
                weight: slot.weight,
                tier: member.tier,
            });
        }
        let after = self.eligible_candidates();
        if fresh || self.divisor != old_divisor {
            self.start_pools(&after);
        } else {
            self.adapt_pools(&before, &after);
        }
        ids
    }

    /// A slot for each member: its own by name, else a free one, else a new one.
    fn assign_slots(&mut self, members: &[Member]) -> Vec<MemberId> {
        let mut by_name = BTreeMap::new();
        let mut free = Vec::new();
        for (at, slot) in self.slots.iter().enumerate().rev() {
            if slot.configured.is_some() {
                by_name.insert(slot.name.clone(), at);
            } else if slot.count == 0 {
                free.push(at);
            } else {
                // Came back before its last connection ended: the same server again.
                by_name.entry(slot.name.clone()).or_insert(at);
            }
        }
        let known: Vec<Option<usize>> = members
            .iter()
            .map(|member| by_name.remove(&member.name))
            .collect();
        let mut ids = Vec::with_capacity(members.len());
        for at in known {
            let at = at.or_else(|| free.pop()).unwrap_or_else(|| {
                self.slots.push(Slot::empty());
                self.slots.len() - 1
            });
            ids.push(MemberId(at as u32));
        }
        ids
    }

    /// Begins both schedules anew.
    fn start_pools(&mut self, candidates: &[(Tier, Candidate)]) {
        for tier in [Tier::Active, Tier::Backup] {
            let of_tier: Vec<Candidate> = candidates
                .iter()
                .filter(|(of, _)| *of == tier)
                .map(|(_, candidate)| *candidate)
                .collect();
            let schedule = Schedule::new(self.algorithm, &of_tier);
            let pool = self.pool(tier);
            pool.eligible = of_tier.iter().map(|it| (it.ordinal, it.slot)).collect();
            pool.schedule = schedule;
        }
    }

    /// Tells both schedules what changed, so that those who stay keep their turns.
    fn adapt_pools(&mut self, before: &[(Tier, Candidate)], after: &[(Tier, Candidate)]) {
        let old: BTreeMap<u32, (Tier, Candidate)> =
            before.iter().map(|it| (it.1.slot, *it)).collect();
        let new: BTreeMap<u32, (Tier, Candidate)> =
            after.iter().map(|it| (it.1.slot, *it)).collect();
        for (slot, (tier, candidate)) in &old {
            let pool = self.pool(*tier);
            pool.eligible.remove(&(candidate.ordinal, *slot));
            if new.get(slot).is_none_or(|(now, _)| now != tier) {
                pool.schedule.remove(*slot);
            }
        }
        for (tier, candidate) in after {
            let pool = self.pool(*tier);
            pool.eligible.insert((candidate.ordinal, candidate.slot));
            match old.get(&candidate.slot) {
                Some((was, _)) if was != tier => pool.schedule.add(*candidate),
                None => pool.schedule.add(*candidate),
                Some((_, same)) if same == candidate => {}
                Some(_) => pool.schedule.update(*candidate),
            }
        }
    }

    fn choose(&mut self, random: u64, avoid: Option<MemberId>) -> Option<MemberId> {
        let avoid = avoid.map(|member| member.0);
        let chosen = if !self.active.eligible.is_empty() {
            self.active.schedule.pick(random, avoid)?
        } else if self.all_backups == AllBackups::Yes {
            self.backup.schedule.pick(random, avoid)?
        } else {
            self.backup.eligible.first()?.1
        };
        self.slots[chosen as usize].count += 1;
        self.total += 1;
        self.load_changed(chosen);
        Some(MemberId(chosen))
    }

    fn release(&mut self, member: MemberId) -> u32 {
        let Some(slot) = self.slots.get_mut(member.0 as usize) else {
            debug_assert!(false, "released {member:?}, which is no slot");
            return 0;
        };
        debug_assert!(
            slot.count > 0,
            "released {member:?}, which has no connection"
        );
        if slot.count == 0 {
            return 0;
        }
        slot.count -= 1;
        self.total -= 1;
        let left = slot.count;
        self.load_changed(member.0);
        left
    }

    fn load_changed(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        let count = slot.count;
        if let Some(configured) = slot.configured
            && self.is_eligible(slot)
        {
            self.pool(configured.tier).schedule.load_changed(at, count);
        }
    }

    /// Changes a configured server, and tells its schedule what that means.
    fn change(&mut self, member: MemberId, change: impl FnOnce(&mut Slot)) {
        let at = member.0;
        let Some(configured) = self.slot(member).and_then(|slot| slot.configured) else {
            return;
        };
        let before = self.candidate(at);
        change(&mut self.slots[at as usize]);
        let after = self.candidate(at);
        let pool = self.pool(configured.tier);
        let key = (configured.ordinal, at);
        match (before, after) {
            (None, Some((_, candidate))) => {
                pool.eligible.insert(key);
                pool.schedule.add(candidate);
            }
            (Some(_), None) => {
                pool.eligible.remove(&key);
                pool.schedule.remove(at);
            }
            (Some(before), Some(after)) if before != after => pool.schedule.update(after.1),
            _ => {}
        }
    }

    fn slot(&self, member: MemberId) -> Option<&Slot> {
        self.slots.get(member.0 as usize)
    }

    fn pool(&mut self, tier: Tier) -> &mut Pool {
        match tier {
            Tier::Active => &mut self.active,
            Tier::Backup => &mut self.backup,
        }
    }

    /// The weight that counts.
    fn effective(&self, slot: &Slot) -> u16 {
        match (self.algorithm, slot.configured) {
            (Algorithm::StaticRoundRobin, Some(configured)) if slot.weight > 0 => configured.weight,
            _ => slot.weight,
        }
    }

    fn is_eligible(&self, slot: &Slot) -> bool {
        slot.configured.is_some() && slot.usable && self.effective(slot) > 0
    }

    fn candidate(&self, at: u32) -> Option<(Tier, Candidate)> {
        let slot = self.slots.get(at as usize)?;
        let configured = slot.configured?;
        if !self.is_eligible(slot) {
            return None;
        }
        let weight = match self.algorithm {
            Algorithm::StaticRoundRobin => configured.weight / self.divisor,
            _ => slot.weight,
        };
        Some((
            configured.tier,
            Candidate {
                slot: at,
                ordinal: configured.ordinal,
                weight,
                load: slot.count,
            },
        ))
    }

    /// All who are eligible, in the order of the configuration.
    fn eligible_candidates(&self) -> Vec<(Tier, Candidate)> {
        let mut all: Vec<_> = (0..self.slots.len() as u32)
            .filter_map(|at| self.candidate(at))
            .collect();
        all.sort_unstable_by_key(|(_, candidate)| candidate.ordinal);
        all
    }
}

impl Slot {
    fn empty() -> Self {
        Self {
            name: String::new(),
            weight: 0,
            usable: false,
            count: 0,
            configured: None,
        }
    }
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}
