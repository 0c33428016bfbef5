//! Taking connections from listeners, within limits.
//!
//! Decides:  a connection has its places (process, frontend, address) before it is taken; without
//!           one the listener is left alone until a place is given back, by whichever worker;
//!           when descriptors or memory run out, all listeners of the worker rest for a moment; one
//!           that fails by itself (somebody who shares it shut it down) rests alone.
//! Source:   accept(2), "Error handling": which errors belong to one connection only.
//!           HAProxy 3.5-dev5, src/listener.c listener_accept(): the order of the limits.
//! Not here: the limits' arithmetic (limits.rs).

use std::rc::Rc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{Door, Engine, STARVED_MS};
use crate::limits;
use crate::net::{ClientOptions, Net};
use crate::rate::Counted;
use crate::record::PeerAddress;
use crate::session::{Route, Session};
use crate::slab::Key;
use crate::snapshot::{Sharing, Tuning};

use super::leave::Reply;
use super::token::Token;

/// Connections taken from one listener's queue before it is closed.
pub(super) const MOST_DRAINED: u32 = 65_536;

/// A listener in an engine.
#[derive(Debug)]
pub(super) struct Gate<L> {
    pub(super) listener: L,
    pub(super) sharing: Sharing,
    pub(super) route: Rc<Route>,
    pub(super) options: ClientOptions,
    pub(super) watched: bool,
    /// It waits for a place.
    pub(super) limited: bool,
    /// Accepting failed in a way that is about this listener; it rests for a moment.
    pub(super) resting: bool,
    /// The configuration has it no more: what is in its queue is taken, then it is closed.
    pub(super) retiring: bool,
    /// Somebody else says when it is closed: an empty queue is no reason.
    pub(super) held: bool,
    /// Who waits for an empty queue.
    pub(super) asked: Vec<Reply>,
    /// The installation that asked for it last.
    pub(super) asked_at: u64,
    /// How many to take at the next event.
    pub(super) burst: u32,
    /// The wake-up at which it was full of them.
    full_at: u64,
}

impl<L> Gate<L> {
    pub(super) fn new(listener: L, sharing: Sharing, route: Rc<Route>, tuning: &Tuning) -> Self {
        let options = options_of(&route, tuning);
        Gate {
            listener,
            sharing,
            route,
            options,
            watched: false,
            limited: false,
            resting: false,
            retiring: false,
            held: false,
            asked: Vec::new(),
            asked_at: 0,
            burst: 1,
            full_at: 0,
        }
    }
}

impl<L> Gate<L> {
    /// Is all to be taken that waits in its queue, at a stretch?
    pub(super) fn is_emptied(&self) -> bool {
        self.retiring && (!self.held || !self.asked.is_empty())
    }
}

/// The options of connections that come in by this route.
pub(super) fn options_of(route: &Route, tuning: &Tuning) -> ClientOptions {
    ClientOptions {
        keepalive: route.frontend.keepalive,
        no_linger: route.frontend.no_linger,
        receive_buffer: tuning.client_receive_buffer,
        send_buffer: tuning.client_send_buffer,
    }
}

/// Why no more was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The queue is empty.
    Empty,
    /// A limit was reached.
    Limited,
    /// Descriptors or memory ran out.
    Starved,
    /// The listener does not work (any more).
    Broken,
    /// As many were taken as a second may have; after so many ms there may be more.
    Paced(u64),
    /// Enough for one turn.
    Quota,
}

/// After a burst: may another one take more at once?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// There may be more.
    Some,
    /// Nothing that can be taken now.
    Nothing,
}

/// The three limits of a route: count, limit, waiters.
fn limits_of(route: &Route) -> [(&std::sync::atomic::AtomicU32, u32, &limits::Waiters); 3] {
    let (process, frontend, listener) = (&route.process, &route.frontend, &route.listener);
    let process_limit = process.maxconn.load(Ordering::Relaxed);
    let listener_limit = listener.maxconn.load(Ordering::Relaxed);
    [
        (&process.connections, process_limit, &process.waiters),
        (
            &frontend.state.connections,
            frontend.maxconn,
            &frontend.state.waiters,
        ),
        (&listener.connections, listener_limit, &listener.waiters),
    ]
}

/// Takes a place under each limit, or none; then says which limit refused.
fn take_places(route: &Route) -> Result<(), usize> {
    let all = limits_of(route);
    for (refused, (count, limit, _)) in all.iter().enumerate() {
        if !limits::take(count, *limit) {
            for (count, _, waiters) in &all[..refused] {
                limits::give_back(count, waiters);
            }
            return Err(refused);
        }
    }
    Ok(())
}

/// Gives all places back.
pub(super) fn give_places_back(route: &Route) {
    for (count, _, waiters) in limits_of(route) {
        limits::give_back(count, waiters);
    }
}

/// Where one connection was counted towards the rates.
struct Pace {
    process: Option<Counted>,
    frontend: Option<Counted>,
}

/// Counts one connection towards the rates, or none; then says when to try again.
fn keep_pace(route: &Route, now_ms: u64) -> Result<Pace, u64> {
    let (process, frontend) = (&route.process, &route.frontend);
    let of_process = process.max_rate.load(Ordering::Relaxed);
    let mut pace = Pace {
        process: process.rate.take(of_process, now_ms)?,
        frontend: None,
    };
    match frontend.state.rate.take(frontend.session_rate, now_ms) {
        Ok(counted) => pace.frontend = counted,
        Err(wait) => {
            give_pace_back(route, pace);
            return Err(wait);
        }
    }
    Ok(pace)
}

fn give_pace_back(route: &Route, pace: Pace) {
    if let Some(counted) = pace.process {
        route.process.rate.give_back(counted);
    }
    if let Some(counted) = pace.frontend {
        route.frontend.state.rate.give_back(counted);
    }
}

/// Does this error say something of one connection only?
fn is_about_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::TIMEDOUT
    )
}

impl<N: Net> Engine<N> {
    /// A listener has something: takes some of it, and all where it is being retired.
    pub(super) fn accept_from(&mut self, key: Key) {
        match self.gates.get(key) {
            Some(gate) if gate.is_emptied() => self.empty(key),
            Some(_) => {
                self.accept_burst(key);
            }
            None => {}
        }
    }

    /// Takes what a listener has, up to the quota of a turn.
    pub(super) fn accept_burst(&mut self, key: Key) -> Left {
        if self.door != Door::Open || self.starved_until_ms > 0 {
            return Left::Nothing;
        }
        let Some(gate) = self.gates.get(key) else {
            return Left::Nothing;
        };
        let most = self.most_at_once();
        let burst = gate.burst.min(most);
        let (stop, taken) = self.accept_some(key, burst);
        let Some(gate) = self.gates.get_mut(key) else {
            return Left::Nothing;
        };
        match stop {
            // Its socket was shut down: it has nothing any more.
            Stop::Broken if gate.retiring => {
                self.close_gate(key);
                return Left::Nothing;
            }
            Stop::Empty if gate.retiring && !gate.held => {
                self.close_gate(key);
                return Left::Nothing;
            }
            // Replies answer when they are dropped.
            Stop::Empty => gate.asked.clear(),
            _ => {}
        }
        // A listener is level-triggered: what is left rings again at the next wake-up. So only then
        // is more taken at once, and a quiet listener is not asked twice.
        gate.burst = match stop {
            Stop::Quota if gate.full_at + 1 == self.wake_ups => (burst * 2).min(most),
            Stop::Quota => burst,
            _ => taken.max(1),
        };
        if stop == Stop::Quota {
            gate.full_at = self.wake_ups;
        }
        gate.limited = stop == Stop::Limited;
        gate.resting = matches!(stop, Stop::Broken | Stop::Paced(_));
        match stop {
            Stop::Starved => {
                self.starve();
                return Left::Nothing;
            }
            Stop::Broken => self.rest(STARVED_MS),
            Stop::Paced(wait) => self.rest(wait),
            _ => {}
        }
        self.poll_gate(key);
        match stop {
            Stop::Quota => Left::Some,
            _ => Left::Nothing,
        }
    }

    /// Connections taken from one listener at a stretch.
    pub(super) fn most_at_once(&self) -> u32 {
        let snapshot = self.snapshot.as_ref();
        snapshot.map_or(1, |snapshot| snapshot.tuning.max_accept.max(1))
    }

    fn accept_some(&mut self, key: Key, most: u32) -> (Stop, u32) {
        let mut taken = 0;
        while taken < most {
            let Some(gate) = self.gates.get(key) else {
                return (Stop::Empty, taken);
            };
            let route = Rc::clone(&gate.route);
            if let Err(refused) = take_places(&route) {
                limits_of(&route)[refused].2.wait(&self.bell);
                // A place given back before we stood in the queue rang for nobody.
                if take_places(&route).is_err() {
                    return (Stop::Limited, taken);
                }
            }
            let pace = match keep_pace(&route, self.now_ms) {
                Ok(pace) => pace,
                Err(wait) => {
                    give_places_back(&route);
                    return (Stop::Paced(wait), taken);
                }
            };
            match self.net.accept(&gate.listener, &gate.options) {
                Ok((socket, peer)) => {
                    taken += 1;
                    self.open(route, socket, peer);
                    if self.starved_until_ms > 0 {
                        return (Stop::Starved, taken);
                    }
                }
                Err(error) => {
                    give_pace_back(&route, pace);
                    give_places_back(&route);
                    match error {
                        Errno::AGAIN => return (Stop::Empty, taken),
                        error if is_about_one_connection(error) => taken += 1,
                        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => {
                            return (Stop::Starved, taken);
                        }
                        _ => return (Stop::Broken, taken),
                    }
                }
            }
        }
        (Stop::Quota, taken)
    }

    /// A connection was taken; its places are too.
    fn open(&mut self, route: Rc<Route>, socket: N::Socket, peer: PeerAddress) {
        route.process.total.fetch_add(1, Ordering::Relaxed);
        route.frontend.state.total.fetch_add(1, Ordering::Relaxed);
        route.listener.total.fetch_add(1, Ordering::Relaxed);
        if let Some(backend) = &route.backend {
            backend.state.connections.fetch_add(1, Ordering::Relaxed);
            backend.state.total.fetch_add(1, Ordering::Relaxed);
        }
        let session = Session::new(socket, peer, route, self.now_ms);
        let key = self.sessions.insert(session);
        self.greet(key);
    }

    /// A place may be free: tries every listener that waits for one, and hands on what it cannot use.
    pub fn woken(&mut self) {
        for index in 0..self.gates.slots() {
            let Some(key) = self.gates.key_at(index) else {
                continue;
            };
            if self.gates.get(key).is_some_and(|gate| gate.limited) {
                self.accept_from(key);
            }
        }
        self.pass_rings_on();
    }

    /// Rings the next worker wherever there is a place.
    pub(super) fn pass_rings_on(&self) {
        for gate in self.gates.iter() {
            for (count, limit, waiters) in limits_of(&gate.route) {
                limits::pass_on(count, limit, waiters);
            }
        }
    }

    /// Something ran out: leaves all listeners alone for a moment, rather than spin.
    pub(super) fn starve(&mut self) {
        if let Some(snapshot) = &self.snapshot {
            snapshot.process.starved.fetch_add(1, Ordering::Relaxed);
        }
        self.starved_until_ms = self.now_ms + STARVED_MS;
        self.pipes.shrink();
        self.poll_gates();
    }

    /// Leaves the listeners that rest alone for so long, or as long as others rest already.
    pub(super) fn rest(&mut self, for_ms: u64) {
        let until = self.now_ms + for_ms;
        self.rest_until_ms = match self.rest_until_ms {
            0 => until,
            before => before.min(until),
        };
    }

    /// The moment is over; is the reserved descriptor there again?
    pub(super) fn after_starvation(&mut self) {
        if self.net.restore_reserve() {
            self.starved_until_ms = 0;
            self.poll_gates();
            self.go_on_retiring();
            // Rings heard meanwhile were passed on: they may have been the last ones.
            self.woken();
        } else {
            self.starved_until_ms = self.now_ms + STARVED_MS;
        }
    }

    /// Listeners that failed are tried again.
    pub(super) fn after_rest(&mut self) {
        self.rest_until_ms = 0;
        for key in self.gates.keys() {
            if let Some(gate) = self.gates.get_mut(key) {
                gate.resting = false;
            }
        }
        self.poll_gates();
        self.go_on_retiring();
    }

    /// Polls each listener or not, as things stand.
    pub(super) fn poll_gates(&mut self) {
        for key in self.gates.keys() {
            self.poll_gate(key);
        }
    }

    pub(super) fn poll_gate(&mut self, key: Key) {
        let rested = self.door == Door::Open && self.starved_until_ms == 0;
        let Some(gate) = self.gates.get_mut(key) else {
            return;
        };
        let wanted = rested && !gate.limited && !gate.resting;
        if wanted == gate.watched {
            return;
        }
        if !wanted {
            self.net.unwatch_listener(&gate.listener);
            gate.watched = false;
            return;
        }
        let token = Token::Listener(key).pack();
        match self.net.watch_listener(&gate.listener, gate.sharing, token) {
            Ok(()) => gate.watched = true,
            // Memory ran out: tried again after a moment.
            Err(_) => self.starved_until_ms = self.now_ms + STARVED_MS,
        }
    }

    /// Takes what waits in the queues, since closing a listener resets it.
    pub(super) fn drain_gates(&mut self) {
        if self.starved_until_ms > 0 {
            return;
        }
        for key in self.gates.keys() {
            self.accept_some(key, MOST_DRAINED);
        }
    }

    /// Lets go of all listeners.
    pub(super) fn close_gates(&mut self) {
        let keys = self.gates.keys();
        for &key in &keys {
            if let Some(gate) = self.gates.get_mut(key) {
                gate.limited = false;
            }
        }
        for key in keys {
            self.close_gate(key);
        }
        self.wanted.clear();
        self.pass_rings_on();
    }

    /// Lets go of a listener: whoever lets go last closes it, and what is left in its queue is reset.
    pub(super) fn close_gate(&mut self, key: Key) {
        let Some(gate) = self.gates.evict(key) else {
            return;
        };
        self.gates.free(key.index);
        if gate.watched {
            self.net.unwatch_listener(&gate.listener);
        }
        // Another one of this worker's may wait in the same queues: it must be rung.
        let others_wait = self.gates.iter().any(|gate| gate.limited);
        for (count, limit, waiters) in limits_of(&gate.route) {
            if !others_wait {
                waiters.leave(&self.bell);
            }
            limits::pass_on(count, limit, waiters);
        }
    }
}
