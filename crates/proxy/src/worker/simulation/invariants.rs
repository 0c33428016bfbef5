//! What holds after every wake-up of a simulated engine.
//!
//! Decides:  a session is in one place: it waits, or a server counts it; no socket belongs to two;
//!           no server has more than its `maxconn`; who came to the queue first leaves it first;
//!           nobody is older than `timeout lifetime`, or `timeout drain-age` once it drains; a server
//!           is up or down as its checks have it, and chosen accordingly; nobody waits for a server that
//!           has room.
//! Not here: what holds at the end (simulation.rs), idle times (idle.rs).

use std::collections::BTreeSet;

use portcullis_balance::{MemberId, Ticket};

use super::super::token::Token;
use super::super::{Engine, SessionOf};
use super::setting::Setting;
use crate::net::simulated::SimulatedNet;
use crate::session::Phase;
use crate::slab::Key;
use crate::snapshot::Backend;

/// Who waits in the backend's queue, and since which wake-up.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: Vec<(usize, Key, Ticket, u64)>,
}

/// Every session of every worker.
fn all<'a>(
    engines: &'a [&Engine<SimulatedNet>],
) -> impl Iterator<Item = (usize, &'a Engine<SimulatedNet>, Key)> {
    let of = |(at, engine): (usize, &'a &Engine<SimulatedNet>)| {
        let engine: &Engine<SimulatedNet> = engine;
        let keys = engine.sessions.keys().into_iter();
        keys.map(move |key| (at, engine, key))
    };
    engines.iter().enumerate().flat_map(of)
}

/// Nobody waits for what has room, and no queue is longer than it may be.
pub(super) fn check_queues(backend: &Backend, setting: &Setting) -> Result<(), String> {
    let group = &backend.group;
    let serving = setting.serving(|at| group.is_usable(MemberId(at)));
    for (at, member) in setting.members.iter().enumerate() {
        let slot = MemberId(at as u32);
        let (own, common) = group.queue_lengths(slot);
        let most = member.limits.maxqueue;
        // Who waited for a server that went down may come on top.
        if most > 0 && own > most {
            return Err(format!("server {at} has {own} in a queue of {most}"));
        }
        let (active, maxconn) = (group.active_connections(slot), member.limits.maxconn);
        let room = maxconn == 0 || active < maxconn;
        let waits = own > 0 || common > 0 && serving.contains(&(at as u32));
        if setting.has_fixed_limits() && waits && group.is_usable(slot) && room {
            return Err(format!(
                "{own} and {common} wait while server {at} has {active} of {maxconn}"
            ));
        }
    }
    Ok(())
}

/// Checks everything of every session.
pub(super) fn check(
    engines: &[&Engine<SimulatedNet>],
    woken: usize,
    backend: &Backend,
    limits: [u32; 3],
) -> Result<(), String> {
    let mut sockets = BTreeSet::new();
    let mut counted = [0; 3];
    for (at, engine, key) in all(engines) {
        let Some(session) = engine.sessions.get(key) else {
            continue;
        };
        in_one_place(session)?;
        // One alarm a session rings at a time: another one that is due is next. Who sleeps finds out
        // when he wakes up.
        let next = engine.wheel.deadline(key.index);
        if at == woken && next.is_none_or(|at| at > engine.now_ms + 1) {
            not_too_old(session, engine.now_ms)?;
        }
        for socket in [Some(session.client), session.server].into_iter().flatten() {
            if !sockets.insert(socket) {
                return Err(format!("connection {socket} is in two places"));
            }
        }
        if let Some(member) = session.member {
            counted[member.0 as usize] += 1;
        }
    }
    for (at, limit) in limits.into_iter().enumerate() {
        let active = backend.group.active_connections(MemberId(at as u32));
        if limit > 0 && active > limit {
            return Err(format!("server {at} has {active} of {limit}"));
        }
        // More may be counted: a grant on its way.
        if active < counted[at] {
            return Err(format!(
                "server {at}: {active} counted, {} there",
                counted[at]
            ));
        }
    }
    Ok(())
}

fn in_one_place(session: &SessionOf<SimulatedNet>) -> Result<(), String> {
    let (waits, has) = (session.ticket.is_some(), session.member.is_some());
    let good = match session.phase {
        Phase::Queued => waits && session.server.is_none(),
        Phase::Connecting | Phase::Relaying => has && !waits && session.server.is_some(),
        Phase::Waiting => !waits && session.server.is_none(),
        Phase::Greeting => !waits && !has,
    };
    match good {
        true => Ok(()),
        false => Err(format!(
            "{:?} with ticket {waits}, member {has}, server {}",
            session.phase,
            session.server.is_some()
        )),
    }
}

fn not_too_old(session: &SessionOf<SimulatedNet>, now_ms: u64) -> Result<(), String> {
    let times = &session.route.times;
    let age = now_ms - session.start_ms;
    let over = |limit: u32| limit > 0 && age >= u64::from(limit);
    if over(times.lifetime) || (session.draining && over(times.drain_age)) {
        return Err(format!("a session is {age} ms old, with {times:?}"));
    }
    Ok(())
}

impl Line {
    /// Compares who waits now with who waited before.
    pub(super) fn check(
        &mut self,
        engines: &[&Engine<SimulatedNet>],
        wake_up: u64,
    ) -> Result<(), String> {
        let mut now = Vec::new();
        for (at, engine, key) in all(engines) {
            // Whose letter lies in his worker's mailbox waits no more.
            let told = engine.mailbox.has_letter_for(Token::Client(key).pack());
            let ticket = engine.sessions.get(key).and_then(|session| session.ticket);
            if let Some(ticket) = ticket.filter(|ticket| !told && ticket.server().is_none()) {
                let known = self.waiting.iter();
                let mut known = known.filter(|(_, _, before, _)| *before == ticket);
                let since = known.next().map_or(wake_up, |&(.., since)| since);
                now.push((at, key, ticket, since));
            }
        }
        let longest = now.iter().map(|&(.., since)| since).min();
        for (at, key, ticket, since) in &self.waiting {
            let left = !now.iter().any(|(_, _, still, _)| still == ticket);
            let session = engines[*at].sessions.get(*key);
            let served = session
                .is_some_and(|session| session.phase != Phase::Queued && session.member.is_some());
            if left && served && longest.is_some_and(|longest| longest < *since) {
                return Err(format!(
                    "served since wake-up {since}, while somebody waits since {longest:?}"
                ));
            }
        }
        self.waiting = now;
        Ok(())
    }
}

/// Up or down, said once more: `fall` failures in a row take a server down, `rise` successes bring it
/// up, and of a server that was never checked the first failure is enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    rise: u32,
    fall: u32,
    up: bool,
    /// Results in a row that would change it.
    left: u32,
}

impl Reference {
    pub(super) fn new(rise: u32, fall: u32) -> Reference {
        Reference {
            rise,
            fall,
            up: true,
            left: 1,
        }
    }

    /// Is it up after this result?
    pub(super) fn observe(&mut self, passed: bool) -> bool {
        let against = passed != self.up;
        self.left = match (against, self.up) {
            (true, _) => self.left - 1,
            (false, true) => self.fall,
            (false, false) => self.rise,
        };
        if self.left == 0 {
            self.up = !self.up;
            self.left = if self.up { self.fall } else { self.rise };
        }
        self.up
    }
}
