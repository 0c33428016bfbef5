//! When a side of a session is idle too long, said once more from what the network saw.
//!
//! Decides:  neither side is given up before its time, nor kept beyond it. The time is the tunnel's,
//!           from the connection to the server on, else the side's own; it begins anew with each byte
//!           to or from the side; once its end was sent to a side that has a time for that, this
//!           one holds, from then on.
//! Source:   HAProxy's manual, `timeout client`, `server`, `client-fin`, `server-fin`, `tunnel`,
//!           `option independent-streams`.
//! Not here: a side that cannot take what it is sent: its time is only known not to be shorter.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Engine, SessionOf};
use crate::net::simulated::{SimulatedNet, World};
use crate::record::{EndCause, EndPhase, PeerAddress, SessionRecord, Termination};
use crate::session::{Phase, Times};
use crate::slab::Key;

/// One of a session's two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Client,
    Server,
}

/// What is known from earlier wake-ups of the sessions, by their clients.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Since when each is connected to a server.
    connected: BTreeMap<usize, u64>,
    /// Whose end was decided before.
    decided: BTreeSet<usize>,
}

/// What holds for all sessions of a trial.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub times: Times,
    pub client_independent: bool,
    pub server_independent: bool,
}

/// A side's time: how long it may be idle, and since when it is.
struct Clock {
    since_ms: u64,
    /// As long as its end was not sent to it.
    open_ms: u64,
    fin_ms: u64,
    ended_ms: u64,
    /// Something happened there in this very wake-up.
    fresh: bool,
}

impl Rules {
    fn clock(&self, edge: Edge, socket: usize, connected: u64, world: &World) -> Clock {
        let stamps = world.connections[socket].stamps;
        let (usual, fin, independent) = match edge {
            Edge::Client => (
                self.times.client,
                self.times.client_fin,
                self.client_independent,
            ),
            Edge::Server => (
                self.times.server,
                self.times.server_fin,
                self.server_independent,
            ),
        };
        let told = if independent { 0 } else { stamps.told_ms };
        let open = match self.times.tunnel {
            0 => usual,
            tunnel => tunnel,
        };
        Clock {
            since_ms: connected.max(stamps.heard_ms).max(told),
            open_ms: open.into(),
            fin_ms: fin.into(),
            ended_ms: stamps.ended_ms,
            fresh: stamps.heard_ms == world.now_ms || stamps.told_ms == world.now_ms,
        }
    }

    /// May a side be given up now?
    fn may_end(&self, clock: &Clock, now_ms: u64) -> bool {
        let idle = now_ms - clock.since_ms;
        let open = clock.open_ms > 0 && idle >= clock.open_ms;
        let fin = clock.fin_ms > 0 && idle >= clock.fin_ms;
        match clock.ended_ms {
            // What is seen to end is half closed too, in a tunnel.
            0 => open || fin && self.times.tunnel > 0,
            // Its end may have been sent since, in this very wake-up.
            ended if ended == now_ms => open,
            _ if clock.fin_ms == 0 => open,
            ended => fin && now_ms - ended >= clock.fin_ms,
        }
    }
}

impl Clock {
    /// When a side that is only waited for is given up.
    fn due(&self) -> Option<u64> {
        let (limit, since) = match (self.fin_ms, self.ended_ms) {
            (1.., ended @ 1..) => (self.fin_ms, self.since_ms.max(ended)),
            _ => (self.open_ms, self.since_ms),
        };
        (limit > 0).then_some(since + limit)
    }
}

impl Idle {
    /// After a wake-up of `engine` that wrote these records.
    pub(super) fn check(
        &mut self,
        engine: &Engine<SimulatedNet>,
        rules: &Rules,
        records: &[SessionRecord],
        world: &World,
    ) -> Result<(), String> {
        for record in records {
            if let PeerAddress::Ip(client) = record.client {
                self.not_too_early(client.port().into(), record.termination, rules, world)?;
            }
        }
        for key in engine.sessions.keys() {
            let Some(session) = engine.sessions.get(key) else {
                continue;
            };
            if session.phase == Phase::Relaying {
                self.connected.entry(session.client).or_insert(world.now_ms);
            }
            match session.decided {
                Some(end) => self.not_too_early(session.client, end, rules, world)?,
                None => self.not_too_late(engine, key, session, rules, world)?,
            }
        }
        Ok(())
    }

    fn not_too_early(
        &mut self,
        client: usize,
        end: Termination,
        rules: &Rules,
        world: &World,
    ) -> Result<(), String> {
        if !self.decided.insert(client) || end.phase != EndPhase::Data {
            return Ok(());
        }
        let (edge, socket) = match end.cause {
            EndCause::ClientTimeout => (Edge::Client, Some(client)),
            EndCause::ServerTimeout => (Edge::Server, world.connections[client].partner),
            _ => return Ok(()),
        };
        // Who was connected and given up in one wake-up is not known here.
        let (Some(socket), Some(&connected)) = (socket, self.connected.get(&client)) else {
            return Ok(());
        };
        let clock = rules.clock(edge, socket, connected, world);
        match clock.fresh || rules.may_end(&clock, world.now_ms) {
            true => Ok(()),
            false => Err(format!(
                "{edge:?} of client {client} was given up too early: at {}, idle since {}, end sent at {}, {:?}",
                world.now_ms, clock.since_ms, clock.ended_ms, rules.times
            )),
        }
    }

    fn not_too_late(
        &self,
        engine: &Engine<SimulatedNet>,
        key: Key,
        session: &SessionOf<SimulatedNet>,
        rules: &Rules,
        world: &World,
    ) -> Result<(), String> {
        let (up, down) = (&session.up, &session.down);
        let flows = up.carry.is_empty() && down.carry.is_empty() && !up.broken && !down.broken;
        let failed = session.client_side.failed || session.server_side.failed;
        // One alarm a session rings at a time: another one that is due is next.
        let next = engine.wheel.deadline(key.index);
        let rings = next.is_some_and(|at| at <= engine.now_ms + 1);
        if session.phase != Phase::Relaying || !flows || failed || rings || session.queued {
            return Ok(());
        }
        let connected = self.connected[&session.client];
        let sides = [
            (Edge::Client, Some(session.client), session.client_side),
            (Edge::Server, session.server, session.server_side),
        ];
        for (edge, socket, side) in sides {
            let Some(socket) = socket.filter(|_| !side.end_seen) else {
                continue;
            };
            let clock = rules.clock(edge, socket, connected, world);
            if let Some(due) = clock.due().filter(|&due| due <= engine.now_ms) {
                return Err(format!(
                    "{edge:?} of client {} is kept too long: due at {due}, now {}, end sent at {}, {:?}",
                    session.client, engine.now_ms, clock.ended_ms, rules.times
                ));
            }
        }
        Ok(())
    }
}
