//! A listener that somebody else retires: it is served until it is let go of.
//!
//! Decides:  it is polled, and what comes is taken, within limits, all the time; an empty queue is told and does
//!           not close it; a worker that is to end does so when its last listener and session are gone.
//! Not here: what keeps new connections from it, and when it is closed (the control plane, by the library's
//!           retire.rs); a listener that is missing in an installation, and closes when it is empty (install.rs).

use std::fmt;

use super::Engine;
use crate::net::Net;
use crate::slab::Key;

/// Tells somebody that it is done, when it is dropped: a worker that is gone has answered.
pub struct Reply(Option<Box<dyn FnOnce() + Send>>);

impl Reply {
    /// Calls this, once, in the worker's thread: it must not block.
    pub fn new(answer: impl FnOnce() + Send + 'static) -> Reply {
        Reply(Some(Box::new(answer)))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer();
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// What becomes of the sessions of a worker that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// The process ends: they go on as long as `timeout drain-age` allows.
    Drain,
    /// Others serve in its place: they go on as ever.
    GoOn,
}

impl<N: Net> Engine<N> {
    /// No installation asks for this listener any more, and none closes it: that is for
    /// [`Engine::let_go`]. Until then it is served as the configuration that it came to says.
    pub fn leave(&mut self, listener: &N::Listener) {
        let id = self.net.listener_id(listener);
        let Some(key) = self.wanted.remove(&id) else {
            return;
        };
        if let Some(gate) = self.gates.get_mut(key) {
            gate.retiring = true;
            gate.held = true;
        }
    }

    /// Takes all that waits in the queue of a listener that leaves, and then drops the reply. Limits hold: what
    /// they keep in the queue is taken when there is a place.
    pub fn empty_queue(&mut self, listener: &N::Listener, reply: Reply) {
        let Some(key) = self.leaving(listener) else {
            return;
        };
        if let Some(gate) = self.gates.get_mut(key) {
            gate.asked.push(reply);
        }
        self.empty(key);
    }

    /// Lets go of a listener, at once: one that leaves, or one that others serve.
    pub fn let_go(&mut self, listener: &N::Listener) {
        let id = self.net.listener_id(listener);
        let key = self.wanted.remove(&id).or_else(|| self.leaving(listener));
        if let Some(key) = key {
            self.close_gate(key);
            self.pass_rings_on();
        }
    }

    /// It is drained when its last listener was let go of and its last session ended.
    pub fn wind_down(&mut self, sessions: Sessions) {
        self.ending = true;
        if sessions == Sessions::GoOn {
            return;
        }
        // After a pause too: nobody comes to end it.
        self.resume();
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.draining = true;
                self.arm(key);
            }
        }
    }

    fn leaving(&self, listener: &N::Listener) -> Option<Key> {
        let id = self.net.listener_id(listener);
        self.gates.keys().into_iter().find(|key| {
            let gate = self.gates.get(*key);
            gate.is_some_and(|gate| gate.held && self.net.listener_id(&gate.listener) == id)
        })
    }
}
