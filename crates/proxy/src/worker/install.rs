//! A worker takes a snapshot and its listeners, the first one or another one while it runs.
//!
//! Decides:  a listener that stays is left as it is: it is polled all the time, nothing is asked of
//!           the kernel, and what waits in its queue is taken by the new configuration; one that is
//!           wanted no more is retired. Sessions go on with what they began with.
//! Not here: who decides which listeners stay (the control plane); accepting (accept.rs).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::accept::{Gate, Left, MOST_DRAINED, options_of};
use super::mailbox::Desk;
use super::{Door, Engine, Opening, SMALLEST_SCRATCH};
use crate::net::Net;
use crate::session::{Route, Times};
use crate::slab::Key;
use crate::snapshot::{Frontend, Snapshot, Tuning};

/// A retiring listener that had more than can be taken at a stretch is looked at again after this, ms.
const RETRY_MS: u64 = 1;

impl<N: Net> Engine<N> {
    /// Runs by `snapshot` from now on, and takes from these listeners instead of the old ones:
    /// those that it has already stay, the others are new, and what is missing is retired.
    pub fn install(&mut self, snapshot: Arc<Snapshot>, listeners: Vec<Opening<N::Listener>>) {
        let tuning = snapshot.tuning;
        let scratch = (tuning.buffer_size as usize).max(SMALLEST_SCRATCH);
        if self.scratch.len() != scratch {
            self.scratch.resize(scratch, 0);
        }
        self.pipes
            .configure(tuning.pipe_size, tuning.max_pipes, &snapshot.process);
        if self.door == Door::Closed {
            self.door = Door::Open;
        }
        self.installs += 1;
        for opening in listeners {
            let Some(frontend) = snapshot.frontends.get(opening.frontend) else {
                debug_assert!(false, "a listener of frontend {}", opening.frontend);
                continue;
            };
            let id = self.net.listener_id(&opening.listener);
            match self.wanted.get(&id).copied() {
                Some(key) => self.keep(key, opening, frontend, &snapshot, &tuning),
                None => {
                    let key = self.take_on(opening, frontend, &snapshot, &tuning);
                    self.wanted.insert(id, key);
                }
            }
        }
        self.snapshot = Some(snapshot);
        let installs = self.installs;
        let gates = &self.gates;
        let mut gone = Vec::new();
        self.wanted.retain(|_, key| {
            let stays = gates
                .get(*key)
                .is_some_and(|gate| gate.asked_at == installs);
            if !stays {
                gone.push(*key);
            }
            stays
        });
        gone.sort_unstable_by_key(|key| key.index);
        self.poll_gates();
        for key in gone {
            self.retire(key);
        }
    }

    /// A listener that it has: whatever is new about it counts from the next connection on.
    fn keep(
        &mut self,
        key: Key,
        opening: Opening<N::Listener>,
        frontend: &Arc<Frontend>,
        snapshot: &Arc<Snapshot>,
        tuning: &Tuning,
    ) {
        let accepts_proxy = opening.state.accepts_proxy.load(Ordering::Relaxed);
        let Some(gate) = self.gates.get_mut(key) else {
            return;
        };
        gate.asked_at = self.installs;
        // Limits may have changed: it is tried again, and waits again if it has to.
        gate.limited = false;
        if gate.sharing != opening.sharing {
            gate.sharing = opening.sharing;
            if std::mem::take(&mut gate.watched) {
                self.net.unwatch_listener(&gate.listener);
            }
        }
        let route = &gate.route;
        let same = Arc::ptr_eq(&route.frontend, frontend)
            && Arc::ptr_eq(&route.listener, &opening.state)
            && Arc::ptr_eq(&route.process, &snapshot.process)
            && route.accepts_proxy == accepts_proxy;
        if !same {
            let inherits = route.inherits_no_delay;
            let route = route_of(&self.mailbox, frontend, &opening, snapshot, inherits);
            gate.route = Rc::new(route);
        }
        gate.options = options_of(&gate.route, tuning);
    }

    /// A listener that is new.
    fn take_on(
        &mut self,
        opening: Opening<N::Listener>,
        frontend: &Arc<Frontend>,
        snapshot: &Arc<Snapshot>,
        tuning: &Tuning,
    ) -> Key {
        let inherits = self.net.inherits_no_delay(&opening.listener);
        let route = route_of(&self.mailbox, frontend, &opening, snapshot, inherits);
        let mut gate = Gate::new(opening.listener, opening.sharing, Rc::new(route), tuning);
        gate.asked_at = self.installs;
        self.gates.insert(gate)
    }

    /// A listener that nobody wants any more: what waits in its queue is still served, by the
    /// configuration that it came to, as limits allow; once the queue is empty, it is closed.
    fn retire(&mut self, key: Key) {
        if let Some(gate) = self.gates.get_mut(key) {
            gate.retiring = true;
            gate.limited = false;
        }
        self.empty(key);
    }

    /// Listeners that were being retired while nothing could be accepted: are they empty now?
    pub(super) fn go_on_retiring(&mut self) {
        for key in self.gates.keys() {
            if self.gates.get(key).is_some_and(Gate::is_emptied) {
                self.empty(key);
            }
        }
    }

    /// Takes what is in a retiring listener's queue. An empty one is closed; what limits leave in it
    /// is taken when there is a place.
    pub(super) fn empty(&mut self, key: Key) {
        let most = self.most_at_once();
        for _ in 0..MOST_DRAINED / most.min(MOST_DRAINED) {
            if let Some(gate) = self.gates.get_mut(key) {
                gate.burst = most;
            }
            if self.accept_burst(key) == Left::Nothing {
                return;
            }
        }
        // No event tells that a queue is empty.
        if let Some(gate) = self.gates.get_mut(key) {
            gate.resting = true;
            self.rest(RETRY_MS);
        }
        self.poll_gate(key);
    }
}

fn route_of<L>(
    mailbox: &Arc<super::mailbox::Mailbox>,
    frontend: &Arc<Frontend>,
    opening: &Opening<L>,
    snapshot: &Arc<Snapshot>,
    inherits_no_delay: bool,
) -> Route {
    let backend = frontend.backend.clone();
    let waiter = backend
        .as_ref()
        .map(|backend| Desk::of(mailbox, &backend.group));
    Route {
        waiter,
        accepts_proxy: opening.state.accepts_proxy.load(Ordering::Relaxed),
        times: Times::of(frontend, backend.as_deref()),
        frontend: Arc::clone(frontend),
        backend,
        listener: Arc::clone(&opening.state),
        process: Arc::clone(&snapshot.process),
        inherits_no_delay,
    }
}
