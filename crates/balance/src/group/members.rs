//! The servers of a group: who is eligible, in which tier, with which weight.
//!
//! Decides:  what a reconfiguration keeps; which tier serves; what weights come to.
//! Source:   HAProxy's manual, `backup`, `option allbackups`, `weight`, `slowstart`; src/server.c,
//!           server_recalc_eweight(), 2.6 to 3.5.
//! Not here: admission and queues (waiting.rs).

use std::collections::{BTreeMap, BTreeSet};

use super::waiting::{Notice, Queue};
use super::{Algorithm, AllBackups, HashTable, Limits, MAX_WEIGHT, Member, MemberId, Tier, WarmUp};
use crate::schedule::{Candidate, Schedule};

/// A weight of 1, where weights can be a part of one.
const WEIGHT_SCALE: u32 = 16;

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) algorithm: Algorithm,
    pub(super) all_backups: AllBackups,
    pub(super) slots: Vec<Slot>,
    /// Connections on all of them.
    pub(super) total: u32,
    /// `fullconn`
    pub(super) fullconn: u32,
    /// Sessions in all queues.
    pub(super) waiting: u32,
    /// Who waits for any server.
    pub(super) queue: Queue,
    /// Numbers those who wait, in the order in which they came.
    pub(super) arrivals: u64,
    /// Who is to be told once the step is over.
    pub(super) notices: Vec<Notice>,
    /// Common divisor of the configured weights.
    divisor: u16,
    pub(super) active: Pool,
    pub(super) backup: Pool,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    /// As set last, at run time or by the configuration.
    pub(super) weight: u16,
    pub(super) usable: bool,
    pub(super) limits: Limits,
    pub(super) warm_up: WarmUp,
    /// Connections.
    pub(super) count: u32,
    /// Who waits for this very server.
    pub(super) queue: Queue,
    /// `None`: the server is gone from the configuration.
    pub(super) configured: Option<Configured>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Configured {
    ordinal: u32,
    id: u32,
    weight: u16,
    pub(super) tier: Tier,
}

/// The eligible servers of one tier.
#[derive(Debug)]
pub(super) struct Pool {
    /// (ordinal, slot)
    pub(super) eligible: BTreeSet<(u32, u32)>,
    pub(super) schedule: Schedule,
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
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            all_backups: AllBackups::No,
            slots: Vec::new(),
            total: 0,
            fullconn: 0,
            waiting: 0,
            queue: Queue::default(),
            arrivals: 0,
            notices: Vec::new(),
            divisor: 1,
            active: Pool::new(algorithm),
            backup: Pool::new(algorithm),
        }
    }

    pub(super) fn reconfigure(
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
            if slot.name != member.name {
                slot.warm_up = WarmUp::DONE;
            }
            slot.name.clone_from(&member.name);
            slot.weight = member.weight.min(MAX_WEIGHT);
            slot.usable = member.usable;
            slot.limits = member.limits;
            slot.configured = Some(Configured {
                ordinal,
                id: match member.id {
                    0 => ordinal + 1,
                    id => id,
                },
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

    pub(super) fn load_changed(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        let count = slot.count;
        if let Some(configured) = slot.configured
            && self.is_eligible(slot)
        {
            self.pool(configured.tier).schedule.load_changed(at, count);
        }
    }

    /// Changes a configured server, and tells its schedule what that means.
    pub(super) fn change(&mut self, member: MemberId, change: impl FnOnce(&mut Slot)) {
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

    pub(super) fn slot(&self, member: MemberId) -> Option<&Slot> {
        self.slots.get(member.0 as usize)
    }

    fn pool(&mut self, tier: Tier) -> &mut Pool {
        match tier {
            Tier::Active => &mut self.active,
            Tier::Backup => &mut self.backup,
        }
    }

    /// Do weights set at run time count only as zero or not?
    fn is_static(&self) -> bool {
        matches!(
            self.algorithm,
            Algorithm::StaticRoundRobin | Algorithm::Hash(HashTable::Map)
        )
    }

    /// The weight that counts.
    pub(super) fn effective(&self, slot: &Slot) -> u16 {
        match slot.configured {
            Some(configured) if self.is_static() && slot.weight > 0 => configured.weight,
            _ => slot.weight,
        }
    }

    pub(super) fn is_eligible(&self, slot: &Slot) -> bool {
        slot.configured.is_some() && slot.usable && self.effective(slot) > 0
    }

    fn candidate(&self, at: u32) -> Option<(Tier, Candidate)> {
        let slot = self.slots.get(at as usize)?;
        let configured = slot.configured?;
        if !self.is_eligible(slot) {
            return None;
        }
        let weight = match self.is_static() {
            true => configured.weight / self.divisor,
            false => slot.weight,
        };
        Some((
            configured.tier,
            Candidate {
                slot: at,
                ordinal: configured.ordinal,
                id: configured.id,
                weight,
                scaled: weight * sixteenths(slot.warm_up),
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
            limits: Limits::default(),
            warm_up: WarmUp::DONE,
            count: 0,
            queue: Queue::default(),
            configured: None,
        }
    }
}

/// The share of its weight that a server has, in sixteenths: 1 at first, 16 once it is warm.
fn sixteenths(warm_up: WarmUp) -> u16 {
    let WarmUp { elapsed_s, of_s } = warm_up;
    if elapsed_s >= of_s {
        return WEIGHT_SCALE as u16;
    }
    let share =
        (u64::from(WEIGHT_SCALE) * u64::from(elapsed_s) + u64::from(of_s)) / u64::from(of_s);
    share.min(WEIGHT_SCALE.into()) as u16
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}
