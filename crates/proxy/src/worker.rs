//! The engine of one worker: listeners, sessions, timers, on any network.
//!
//! Decides:  what happens on an event, an alarm, a command; a batch of events is handled, then
//!           sessions with work left, then alarms, then slots are freed.
//! Not here: the loop and its thread (worker/thread.rs), the steps themselves (accept.rs,
//!           connect.rs, relay.rs, ending.rs), the network (net.rs).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::limits::Bell;
use crate::net::{Net, Readiness};
use crate::proxy_protocol::Fault;
use crate::record::{EndCause, EndPhase, LogSink, ObserverSink, Termination};
use crate::session::{Alarm, Phase, Session};
use crate::slab::{Key, Slab};
use crate::snapshot::{Sharing, Snapshot};
use crate::state::{ListenerState, ServerState};
use crate::wheel::Wheel;

use accept::Gate;
use mailbox::Mailbox;
use pools::{BufferPool, PipePool};
use relay::{Kit, Turn};
use token::Token;

mod accept;
mod connect;
mod ending;
pub mod gather;
mod greeting;
mod install;
pub mod leave;
mod mailbox;
pub mod pools;
mod queue;
pub mod relay;
pub mod thread;
mod token;

/// The smallest scratch buffer.
const SMALLEST_SCRATCH: usize = 4096;
/// How long a worker that ran out of descriptors or memory leaves its listeners alone, ms.
const STARVED_MS: u64 = 100;

/// A session on a network.
type SessionOf<N> = Session<<N as Net>::Socket, <N as Net>::Pipe>;

/// Where an engine reports to.
#[derive(Debug, Default)]
pub struct Reports {
    /// Records of sessions.
    pub log: Option<LogSink>,
    /// Sessions live.
    pub observer: Option<ObserverSink>,
}

/// A listener as an engine takes it.
#[derive(Debug)]
pub struct Opening<L> {
    /// The listening socket.
    pub listener: L,
    /// Is it this worker's alone?
    pub sharing: Sharing,
    /// Index into [`Snapshot::frontends`].
    pub frontend: usize,
    /// What the limit of its address counts.
    pub state: Arc<ListenerState>,
}

/// Does a worker take connections?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// Listeners are kept and their queues fill, but nobody takes from them.
    Paused,
    /// Listeners are gone.
    Closed,
}

/// One worker's state.
pub struct Engine<N: Net> {
    net: N,
    worker: u32,
    sessions: Slab<SessionOf<N>>,
    wheel: Wheel,
    ready: VecDeque<Key>,
    freed: Vec<u32>,
    due: Vec<u32>,
    scratch: Vec<u8>,
    buffers: BufferPool,
    pipes: PipePool<N::Pipe>,
    gates: Slab<Gate<N::Listener>>,
    /// The gates that are wanted, by what tells their listeners apart.
    wanted: HashMap<u64, Key>,
    installs: u64,
    /// It ends with its last listener and session.
    ending: bool,
    door: Door,
    /// Until when listeners are left alone since something ran out; 0: nothing did.
    starved_until_ms: u64,
    /// Until when listeners that failed are left alone; 0: none did.
    rest_until_ms: u64,
    snapshot: Option<Arc<Snapshot>>,
    wake_ups: u64,
    now_ms: u64,
    /// Wall-clock time less the engine's, ms.
    wall_offset_ms: u64,
    bell: Arc<Bell>,
    mailbox: Arc<Mailbox>,
    reports: Reports,
}

impl<N: Net> std::fmt::Debug for Engine<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("worker", &self.worker)
            .field("sessions", &self.sessions.len())
            .field("door", &self.door)
            .finish_non_exhaustive()
    }
}

impl<N: Net> Engine<N> {
    /// An engine without listeners.
    pub fn new(net: N, worker: u32, bell: Arc<Bell>, reports: Reports, now_ms: u64) -> Self {
        Engine {
            net,
            worker,
            sessions: Slab::default(),
            wheel: Wheel::new(now_ms),
            ready: VecDeque::new(),
            freed: Vec::new(),
            due: Vec::new(),
            scratch: vec![0; SMALLEST_SCRATCH],
            buffers: BufferPool::default(),
            pipes: PipePool::none(),
            gates: Slab::default(),
            wanted: HashMap::new(),
            installs: 0,
            ending: false,
            door: Door::Open,
            starved_until_ms: 0,
            rest_until_ms: 0,
            snapshot: None,
            wake_ups: 0,
            now_ms,
            wall_offset_ms: 0,
            mailbox: Mailbox::new(Arc::clone(&bell)),
            bell,
            reports,
        }
    }

    /// The network, for the loop that waits on it.
    pub fn net(&mut self) -> &mut N {
        &mut self.net
    }

    /// Sessions now.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Buffers that sessions hold after short writes, and pipes with something in them.
    pub fn held(&self) -> (usize, usize) {
        (self.buffers.in_use(), self.pipes.in_use())
    }

    /// Are there sessions with work that needs no event?
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Will it take no connections any more, and are all gone?
    pub fn is_drained(&self) -> bool {
        let no_listener = self.door == Door::Closed || (self.ending && self.gates.is_empty());
        no_listener && self.sessions.is_empty()
    }

    /// Sets the clocks; once a wake-up, before anything else.
    pub fn tick(&mut self, now_ms: u64, wall_ms: u64) {
        self.wake_ups += 1;
        self.mailbox.wake();
        self.now_ms = now_ms;
        self.wall_offset_ms = wall_ms.wrapping_sub(now_ms);
    }

    /// How long to wait for events, ms; `None` is for ever.
    pub fn patience_ms(&self) -> Option<u64> {
        if self.has_ready() || self.mailbox.doze() {
            return Some(0);
        }
        let of_listeners = [self.starved_until_ms, self.rest_until_ms]
            .into_iter()
            .filter(|&at| at > 0);
        let stop = self.wheel.next_stop().into_iter().chain(of_listeners).min();
        stop.map(|at| at.saturating_sub(self.now_ms))
    }

    /// Takes what waits in the listeners' queues, then closes them. Sessions go on, as long as
    /// `timeout drain-age` allows.
    pub fn stop_accepting(&mut self) {
        if self.door != Door::Closed {
            self.drain_gates();
        }
        self.door = Door::Closed;
        self.close_gates();
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key) {
                session.draining = true;
                self.arm(key);
            }
        }
    }

    /// Leaves the listeners alone; their queues fill.
    pub fn pause(&mut self) {
        if self.door == Door::Open {
            self.door = Door::Paused;
            self.poll_gates();
            self.pass_rings_on();
        }
    }

    /// Takes from the listeners again.
    pub fn resume(&mut self) {
        if self.door == Door::Paused {
            self.door = Door::Open;
            self.poll_gates();
            self.go_on_retiring();
            // Rings heard meanwhile were passed on: they may have been the last ones.
            self.woken();
        }
    }

    /// Ends the sessions of one server, as its counters know it.
    pub fn end_sessions_of(&mut self, server: &Arc<ServerState>, cause: EndCause) {
        for key in self.sessions.keys() {
            let here = self.server_now(key);
            let is_here = here.is_some_and(|here| Arc::ptr_eq(&here.state, server));
            let Some(session) = self.sessions.get_mut(key).filter(|_| is_here) else {
                continue;
            };
            // As HAProxy logs it: in no phase.
            session.decided.get_or_insert(Termination {
                cause,
                phase: EndPhase::Over,
            });
            self.end_with(key, cause);
        }
        self.finish_batch();
    }

    /// Ends every session now.
    pub fn end_sessions(&mut self) {
        for key in self.sessions.keys() {
            if let Some(session) = self.sessions.get_mut(key)
                && session.phase == Phase::Relaying
            {
                // As HAProxy logs it: in no phase. (One still without a server HAProxy leaves alone.)
                session.decided.get_or_insert(Termination {
                    cause: EndCause::Killed,
                    phase: EndPhase::Over,
                });
            }
            self.end_with(key, EndCause::Killed);
        }
        self.finish_batch();
    }

    /// Handles one event; false if it is the bell's, which is the loop's affair.
    pub fn handle(&mut self, token: u64, readiness: Readiness) -> bool {
        match Token::unpack(token) {
            Token::Bell => return false,
            Token::Listener(key) => self.accept_from(key),
            Token::Client(key) => {
                let Some(session) = self.sessions.get_mut(key) else {
                    return true;
                };
                session.client_side.learn(readiness);
                match session.phase {
                    Phase::Relaying => self.pump(key),
                    Phase::Greeting => self.look_for_header(key),
                    _ => self.client_while_connecting(key, readiness),
                }
            }
            Token::Server(key) => {
                let Some(session) = self.sessions.get_mut(key) else {
                    return true;
                };
                session.server_side.learn(readiness);
                match session.phase {
                    Phase::Relaying => self.pump(key),
                    Phase::Connecting => self.connect_event(key, readiness),
                    Phase::Greeting | Phase::Queued | Phase::Waiting => {}
                }
            }
        }
        true
    }

    /// Gives each session of the ready list one turn.
    pub fn run_ready(&mut self) {
        self.read_mail();
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            if let Some(session) = self.sessions.get_mut(key) {
                session.queued = false;
                self.pump(key);
            }
        }
    }

    /// Acts on what time brought.
    pub fn run_alarms(&mut self) {
        if self.starved_until_ms > 0 && self.starved_until_ms <= self.now_ms {
            self.after_starvation();
        }
        if self.rest_until_ms > 0 && self.rest_until_ms <= self.now_ms {
            self.after_rest();
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(self.now_ms, &mut due);
        for index in due.drain(..) {
            if let Some(key) = self.sessions.key_at(index) {
                self.ring(key);
            }
        }
        self.due = due;
    }

    /// Gives the slots of ended sessions to new ones: after all events of a batch.
    pub fn finish_batch(&mut self) {
        for index in self.freed.drain(..) {
            self.sessions.free(index);
        }
    }

    /// A session's timer rang: is what it was set for still due?
    fn ring(&mut self, key: Key) {
        self.publish(key);
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let alarm = match session.alarm() {
            Some((at, alarm)) if at <= self.now_ms => alarm,
            _ => return self.arm(key),
        };
        match (alarm, session.phase) {
            (Alarm::Lifetime, _) => self.end_of_age(key, EndCause::Lifetime),
            (Alarm::Drained, _) => self.end_of_age(key, EndCause::Drained),
            (Alarm::Greeting, _) => self.end_greeting(key, Fault::TimedOut),
            (Alarm::Queue, _) => self.queue_timed_out(key),
            (Alarm::Connect, _) => self.attempt_failed(key, connect::Failure::TimedOut),
            (Alarm::WatchClient, _) => self.watch_client_early(key),
            (Alarm::Retry, _) => self.retry(key),
            (Alarm::Client, Phase::Relaying) => {
                session.client_idle(self.now_ms);
                self.pump(key);
            }
            (Alarm::Client, _) => self.client_silent(key),
            (Alarm::Server, _) => {
                session.server_idle(self.now_ms);
                self.pump(key);
            }
            (Alarm::Gather, _) => {
                gather::stop(session, &mut self.net, self.now_ms);
                self.pump(key);
            }
        }
    }

    /// One turn of a session that relays.
    fn pump(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let backend_splices = session.route.backend.as_ref().is_none_or(|b| b.splice);
        let mut kit = Kit {
            splice: session.route.frontend.splice && backend_splices,
            net: &mut self.net,
            scratch: &mut self.scratch,
            buffers: &mut self.buffers,
            pipes: &mut self.pipes,
            now_ms: self.now_ms,
        };
        let turn = relay::turn(session, &mut kit);
        if let Some(verdict) = session.verdict() {
            return self.end(key, verdict);
        }
        let side = &mut session.client_side;
        if !side.writable && side.watched && !side.watched_both {
            side.watched_both = true;
            let token = Token::Client(key).pack();
            if self.net.watch_both(&session.client, token).is_err() {
                return self.end_with(key, EndCause::Resource);
            }
        }
        if turn == Turn::More && !session.queued {
            session.queued = true;
            self.ready.push_back(key);
        }
        self.arm(key);
    }

    /// Sets a session's timer, if it must ring before it would.
    fn arm(&mut self, key: Key) {
        let Some((at, _)) = self.sessions.get(key).and_then(Session::alarm) else {
            return;
        };
        if self.wheel.deadline(key.index).is_none_or(|set| set > at) {
            self.wheel.set(key.index, at);
        }
    }
}

impl<N: Net> Drop for Engine<N> {
    /// Whatever ends a worker, its sessions are no longer counted.
    fn drop(&mut self) {
        for key in self.sessions.keys() {
            self.end_with(key, EndCause::Killed);
        }
        self.mailbox.close();
        self.close_gates();
    }
}

#[cfg(test)]
mod simulation;
