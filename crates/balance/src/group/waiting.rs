//! Admission: a server with room is chosen and counted, else one waits for it, in order.
//!
//! Decides:  how many connections a server takes now (`maxconn`, `minconn`, `fullconn`, `slowstart`);
//!           who waits for one server (by hash, and for the only backup) and who for any; that a
//!           connection given back goes to whoever has waited longest, and that nobody overtakes.
//! Source:   HAProxy's manual, `maxconn`, `minconn`, `fullconn`, `maxqueue`; src/backend.c,
//!           assign_server() and assign_server_and_queue(), src/queue.c, srv_dynamic_maxconn(),
//!           process_srv_queue(), pendconn_redistribute(), 2.6 to 3.5.
//! Not here: how long one waits (the session), who is eligible (members.rs).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::members::{Inner, Slot};
use super::{Affinity, Algorithm, AllBackups, HashTable, MemberId, Tier};
use crate::schedule::Room;

/// Who is told that its turn has come. It is called after the step that gave it, on any thread.
pub trait Waiter: Send + Sync + fmt::Debug {
    /// The turn of `token` has come.
    fn granted(&self, token: u64, grant: Grant);
}

/// What waiting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The server, where the connection is counted already. `None`: no server is usable any more.
    pub member: Option<MemberId>,
    /// How long the queues were.
    pub waited: Waited,
}

/// How many were served from the queues meanwhile, oneself counted, as HAProxy logs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waited {
    /// From the server's queue.
    pub server: u32,
    /// From the backend's queue.
    pub backend: u32,
}

/// What a choice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This server; the connection is counted on it.
    Server(MemberId),
    /// All are full: one stands in a queue.
    Wait(Ticket),
    /// This server is full and so is its queue (`maxqueue`); `None`: all are, and nobody may wait.
    Full(Option<MemberId>),
    /// No server is usable.
    Nobody,
}

/// A place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    arrival: u64,
    server: Option<MemberId>,
}

impl Ticket {
    /// The server whose queue it is; `None`: the backend's queue.
    #[must_use]
    pub fn server(&self) -> Option<MemberId> {
        self.server
    }
}

/// Those who wait, by arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<u64, Waiting>,
    /// How many were served from it since the start.
    served: u64,
}

#[derive(Debug)]
struct Waiting {
    waiter: Arc<dyn Waiter>,
    token: u64,
    /// What the queue had served when one came to it.
    served_before: u64,
    /// In queues that one stood in before.
    waited: Waited,
}

/// Somebody to be told.
#[derive(Debug)]
pub(super) struct Notice {
    waiter: Arc<dyn Waiter>,
    token: u64,
    grant: Grant,
}

impl Notice {
    pub(super) fn deliver(self) {
        self.waiter.granted(self.token, self.grant);
    }
}

/// Which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Server,
    Backend,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn first(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(&arrival, _)| arrival)
    }

    /// Takes somebody out; what he waited for in this queue is counted.
    fn take(&mut self, arrival: u64, of: Of) -> Option<Waiting> {
        let mut waiting = self.waiting.remove(&arrival)?;
        let before = self.served - waiting.served_before + 1;
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        match of {
            Of::Server => waiting.waited.server += before,
            Of::Backend => waiting.waited.backend += before,
        }
        Some(waiting)
    }

    fn put(&mut self, arrival: u64, mut waiting: Waiting) {
        waiting.served_before = self.served;
        self.waiting.insert(arrival, waiting);
    }
}

impl Inner {
    pub(super) fn choose(
        &mut self,
        word: u64,
        avoid: Option<MemberId>,
        waiter: Option<(&Arc<dyn Waiter>, u64)>,
    ) -> Choice {
        let Some(tier) = self.serving_tier() else {
            return Choice::Nobody;
        };
        // With these algorithms there is a queue only if all are full.
        let all_full = matches!(
            self.algorithm,
            Algorithm::First | Algorithm::RoundRobin | Algorithm::StaticRoundRobin
        ) && self.queue.len() > 0;
        let only_backup = tier == Tier::Backup && self.all_backups == AllBackups::No;
        let chosen = match all_full && !only_backup {
            true => None,
            false => self.pick(tier, word, avoid.map(|member| member.0), 1),
        };
        match chosen {
            Some(at) if !self.is_full(at, 1) => {
                self.count(at);
                Choice::Server(MemberId(at))
            }
            chosen => match waiter {
                Some((waiter, token)) => self.join_queue(chosen, waiter, token),
                None => Choice::Full(None),
            },
        }
    }

    fn join_queue(&mut self, server: Option<u32>, waiter: &Arc<dyn Waiter>, token: u64) -> Choice {
        let queue = match server {
            None => &mut self.queue,
            Some(at) => {
                let slot = &mut self.slots[at as usize];
                let most = slot.limits.maxqueue as usize;
                if most > 0 && slot.queue.len() >= most {
                    return Choice::Full(Some(MemberId(at)));
                }
                &mut slot.queue
            }
        };
        self.arrivals += 1;
        self.waiting += 1;
        let waiting = Waiting {
            waiter: Arc::clone(waiter),
            token,
            served_before: 0,
            waited: Waited::default(),
        };
        queue.put(self.arrivals, waiting);
        Choice::Wait(Ticket {
            arrival: self.arrivals,
            server: server.map(MemberId),
        })
    }

    pub(super) fn leave_queue(&mut self, ticket: Ticket) -> Option<Waited> {
        let arrival = ticket.arrival;
        let found = self.queue.take(arrival, Of::Backend).or_else(|| {
            let mut queues = self.slots.iter_mut().map(|slot| &mut slot.queue);
            queues.find_map(|queue| queue.take(arrival, Of::Server))
        })?;
        self.waiting -= 1;
        Some(found.waited)
    }

    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    pub(super) fn release(&mut self, member: MemberId) -> u32 {
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

    fn count(&mut self, at: u32) {
        self.slots[at as usize].count += 1;
        self.total += 1;
        self.load_changed(at);
    }

    /// Whose turn it is to serve: backups only when no active server is eligible.
    fn serving_tier(&self) -> Option<Tier> {
        match (
            self.active.eligible.is_empty(),
            self.backup.eligible.is_empty(),
        ) {
            (false, _) => Some(Tier::Active),
            (true, false) => Some(Tier::Backup),
            (true, true) => None,
        }
    }

    /// The next server by the algorithm. `coming` counts towards the load of the backend.
    fn pick(&mut self, tier: Tier, word: u64, avoid: Option<u32>, coming: u32) -> Option<u32> {
        if tier == Tier::Backup && self.all_backups == AllBackups::No {
            return self.backup.eligible.first().map(|&(_, slot)| slot);
        }
        let load = self.total + self.waiting + coming;
        let (slots, fullconn) = (&self.slots, self.fullconn);
        let queues_up = self.algorithm == Algorithm::LeastConn;
        let full = |at: u32| is_full(&slots[at as usize], fullconn, load, queues_up);
        let affinity = match self.algorithm {
            Algorithm::Hash(HashTable::Ring { affinity, .. }) => affinity,
            _ => Affinity::Always,
        };
        let given_up = |at: u32| is_given_up(&slots[at as usize], fullconn, load, affinity);
        let room = Room {
            full: &full,
            given_up: &given_up,
        };
        let pool = match tier {
            Tier::Active => &mut self.active,
            Tier::Backup => &mut self.backup,
        };
        pool.schedule.pick(word, avoid, &room)
    }

    /// May it take no connection at once?
    fn is_full(&self, at: u32, coming: u32) -> bool {
        let load = self.total + self.waiting + coming;
        is_full(&self.slots[at as usize], self.fullconn, load, false)
    }

    /// Serves the queues of one server that has something to give.
    pub(super) fn serve(&mut self, at: u32) {
        if self.must_move_out(at) {
            return self.serve_all();
        }
        let takes_any = self.takes_from_backend(at);
        loop {
            let slot = &self.slots[at as usize];
            let load = self.total + self.waiting;
            if has_no_free_slot(slot, self.fullconn, load) {
                return;
            }
            let own = slot.queue.first();
            let any = self.queue.first().filter(|_| takes_any);
            let (arrival, of) = match (own, any) {
                (Some(own), Some(any)) if any < own => (any, Of::Backend),
                (Some(own), _) => (own, Of::Server),
                (None, Some(any)) => (any, Of::Backend),
                (None, None) => return,
            };
            self.grant(at, arrival, of);
        }
    }

    /// Serves all queues, after something changed.
    pub(super) fn serve_all(&mut self) {
        for at in 0..self.slots.len() as u32 {
            if self.must_move_out(at) {
                self.move_out(at);
            }
        }
        let Some(tier) = self.serving_tier() else {
            while let Some(arrival) = self.queue.first() {
                self.tell(arrival, None);
            }
            return;
        };
        for at in 0..self.slots.len() as u32 {
            self.serve_own(at);
        }
        // By turns, so that one server that comes back does not take them all.
        while let Some(arrival) = self.queue.first() {
            let picked = self.pick(tier, arrival, None, 0);
            // A hash may have picked a full one; its session waits for any.
            let with_room = picked
                .filter(|&at| !self.is_full(at, 0))
                .or_else(|| self.first_with_room(tier));
            match with_room {
                Some(at) => self.grant(at, arrival, Of::Backend),
                None => return,
            }
        }
    }

    fn first_with_room(&self, tier: Tier) -> Option<u32> {
        let pool = match tier {
            Tier::Active => &self.active,
            Tier::Backup => &self.backup,
        };
        let mut slots = pool.eligible.iter().map(|&(_, slot)| slot);
        slots.find(|&at| self.takes_from_backend(at) && !self.is_full(at, 0))
    }

    /// Serves those who wait for this very server.
    fn serve_own(&mut self, at: u32) {
        while let Some(arrival) = self.slots[at as usize].queue.first() {
            let load = self.total + self.waiting;
            if has_no_free_slot(&self.slots[at as usize], self.fullconn, load) {
                return;
            }
            self.grant(at, arrival, Of::Server);
        }
    }

    fn grant(&mut self, at: u32, arrival: u64, of: Of) {
        let queue = match of {
            Of::Server => &mut self.slots[at as usize].queue,
            Of::Backend => &mut self.queue,
        };
        let Some(waiting) = queue.take(arrival, of) else {
            return;
        };
        queue.served += 1;
        self.count(at);
        self.note(waiting, Some(MemberId(at)));
    }

    /// Tells somebody in the backend's queue that there is no server.
    fn tell(&mut self, arrival: u64, member: Option<MemberId>) {
        if let Some(waiting) = self.queue.take(arrival, Of::Backend) {
            self.note(waiting, member);
        }
    }

    fn note(&mut self, waiting: Waiting, member: Option<MemberId>) {
        self.waiting -= 1;
        self.notices.push(Notice {
            waiter: waiting.waiter,
            token: waiting.token,
            grant: Grant {
                member,
                waited: waiting.waited,
            },
        });
    }

    /// Does somebody wait for a server that nobody may wait for any more?
    fn must_move_out(&self, at: u32) -> bool {
        let slot = &self.slots[at as usize];
        slot.queue.len() > 0 && !self.is_eligible(slot)
    }

    /// Those who waited for a server that is gone wait for any other, each in his place.
    fn move_out(&mut self, at: u32) {
        while let Some(arrival) = self.slots[at as usize].queue.first() {
            if let Some(waiting) = self.slots[at as usize].queue.take(arrival, Of::Server) {
                self.queue.put(arrival, waiting);
            }
        }
    }

    /// May this server take from the backend's queue?
    fn takes_from_backend(&self, at: u32) -> bool {
        let slot = &self.slots[at as usize];
        let Some(configured) = slot.configured.filter(|_| self.is_eligible(slot)) else {
            return false;
        };
        match configured.tier {
            Tier::Active => true,
            Tier::Backup => {
                self.active.eligible.is_empty()
                    && (self.all_backups == AllBackups::Yes
                        || self.backup.eligible.first().is_some_and(|it| it.1 == at))
            }
        }
    }
}

/// How many connections a server takes now, with this many in its backend; `None`: any number.
fn limit(slot: &Slot, fullconn: u32, load: u32) -> Option<u32> {
    let limits = slot.limits;
    // A `minconn` above `maxconn` raises it.
    let most = limits.maxconn.max(limits.minconn);
    if most == 0 {
        return None;
    }
    let static_limit = limits.minconn == 0 || limits.minconn == most;
    let now = if static_limit || load >= fullconn {
        most
    } else {
        let share = u64::from(load) * u64::from(most) / u64::from(fullconn);
        limits.minconn.max(share as u32)
    };
    let warm_up = slot.warm_up;
    if warm_up.elapsed_s >= warm_up.of_s {
        return Some(now);
    }
    let percent = 100 * u64::from(warm_up.elapsed_s) / u64::from(warm_up.of_s);
    Some(((u64::from(now) * percent / 100) as u32).max(1))
}

fn has_no_free_slot(slot: &Slot, fullconn: u32, load: u32) -> bool {
    limit(slot, fullconn, load).is_some_and(|limit| slot.count >= limit)
}

/// Full: no free slot, or somebody waits for one. One that `queues_up` is full when its queue is.
fn is_full(slot: &Slot, fullconn: u32, load: u32, queues_up: bool) -> bool {
    let Some(limit) = limit(slot, fullconn, load) else {
        return false;
    };
    let waiting = slot.queue.len() as u32;
    if queues_up && slot.limits.maxqueue > 0 {
        return slot.count + waiting >= limit.saturating_add(slot.limits.maxqueue);
    }
    waiting > 0 || slot.count >= limit
}

fn is_given_up(slot: &Slot, fullconn: u32, load: u32, affinity: Affinity) -> bool {
    let Some(limit) = limit(slot, fullconn, load) else {
        return false;
    };
    let waiting = slot.queue.len() as u32;
    let most = slot.limits.maxqueue;
    match affinity {
        Affinity::Always => false,
        Affinity::MaxConn => slot.count >= limit,
        Affinity::MaxQueue => most > 0 && slot.count + waiting >= limit.saturating_add(most),
    }
}
