//! One session: a client, a server, a flow of bytes each way, and when it is over.
//!
//! Decides:  the phases and their moves (one table), which idle time runs when, what a timeout does,
//!           and how a session ends, as HAProxy names it.
//! Source:   HAProxy 3.5-dev5, src/stream.c process_stream(), src/backend.c back_handle_st_cer();
//!           doc/configuration.txt, "timeout client-fin", "timeout tunnel", "option redispatch";
//!           behaviour compared with HAProxy 2.6 run on loopback.
//! Not here: moving bytes (worker/relay.rs), sockets (net.rs). No clock: times are handed in, in ms.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use portcullis_balance::{MemberId, Ticket, Waited, Waiter};

use crate::net::Readiness;
use crate::proxy_protocol::Fault;
use crate::record::{EndCause, EndPhase, PeerAddress, Termination};
use crate::snapshot::{Backend, Frontend, Server};
use crate::source::Lease;
use crate::state::{ListenerState, ProcessState};
use crate::worker::gather::{self, Gather};
use crate::worker::relay::Carry;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the PROXY header.
    Greeting,
    /// A connection to a server is under way.
    Connecting,
    /// All servers are full; waiting for one.
    Queued,
    /// A server refused; waiting before the next attempt.
    Waiting,
    /// Bytes flow.
    Relaying,
}

/// What moves a session on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The header came.
    Greeted,
    /// There is no server with room.
    Full,
    /// A server has room now.
    Granted,
    /// The server accepted.
    Connected,
    /// The attempt failed and another one is due later.
    Refused,
    /// Another attempt begins.
    Retried,
}

impl Phase {
    /// The table of moves; `None` is a move that there is not.
    pub const fn after(self, step: Step) -> Option<Phase> {
        match (self, step) {
            (Phase::Greeting, Step::Greeted) => Some(Phase::Connecting),
            (Phase::Greeting, _) | (_, Step::Greeted) => None,
            (Phase::Connecting, Step::Full) => Some(Phase::Queued),
            (Phase::Queued, Step::Granted) => Some(Phase::Connecting),
            (Phase::Connecting, Step::Connected) => Some(Phase::Relaying),
            (Phase::Connecting, Step::Refused) => Some(Phase::Waiting),
            (Phase::Connecting | Phase::Waiting, Step::Retried) => Some(Phase::Connecting),
            (Phase::Waiting, Step::Connected | Step::Refused) => None,
            (Phase::Queued | Phase::Waiting, Step::Full) => None,
            (Phase::Connecting | Phase::Waiting, Step::Granted) => None,
            (Phase::Queued, Step::Connected | Step::Refused | Step::Retried) => None,
            (Phase::Relaying, _) => None,
        }
    }
}

/// What is known of one end of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Side {
    /// Reading may give something.
    pub readable: bool,
    /// Writing may take something.
    pub writable: bool,
    /// The kernel told of an end: read until it comes.
    pub hung_up: bool,
    /// The end was read (or decided by a timeout): nothing more is read.
    pub end_seen: bool,
    /// The connection failed: a reset, or a time-out of the kernel's.
    pub failed: bool,
    /// We sent our end.
    pub end_sent: bool,
    /// `TCP_NODELAY` is set, or not needed.
    pub no_delay: bool,
    /// It is watched.
    pub watched: bool,
    /// It is watched for room to write too.
    pub watched_both: bool,
    /// An event told of an error.
    pub error_told: bool,
    /// A short read may leave more than the end: there was an urgent mark, or the socket is not TCP.
    pub reads_stop_early: bool,
}

impl Side {
    /// Adds what an event told. Nothing is unlearned: only a read or a write shows that.
    pub fn learn(&mut self, readiness: Readiness) {
        let more = readiness.readable || readiness.hung_up || readiness.failed;
        self.readable |= more && !self.end_seen;
        self.writable |= readiness.writable;
        self.hung_up |= readiness.hung_up || readiness.failed;
        self.error_told |= readiness.failed;
        self.reads_stop_early |= readiness.urgent;
    }

    /// After a short read: is the end all that is left to be read? The kernel told of it before that
    /// read, so whatever came before the end was there to be read.
    pub fn end_is_next(&self) -> bool {
        self.hung_up && !self.error_told && !self.failed && !self.reads_stop_early
    }
}

/// One direction.
#[derive(Debug)]
pub struct Flow<P> {
    /// Bytes read.
    pub bytes: u64,
    /// Bytes that were read and not written yet.
    pub carry: Carry<P>,
    /// Full reads in a row (copying), or small ones (splicing).
    pub streak: u8,
    /// Does it move by splice now?
    pub splicing: bool,
    /// Does its source gather more before it tells of it?
    pub gather: Gather,
    /// It never will.
    pub never_splice: bool,
    /// Something was written.
    pub written: bool,
    /// Nothing more comes from the source.
    pub source_done: bool,
    /// Nothing more can be delivered; what was not, is lost.
    pub broken: bool,
}

impl<P> Flow<P> {
    fn new() -> Self {
        Flow {
            bytes: 0,
            carry: Carry::Nothing,
            streak: 0,
            splicing: false,
            gather: Gather::default(),
            never_splice: false,
            written: false,
            source_done: false,
            broken: false,
        }
    }

    /// Nothing more will be delivered.
    pub fn is_over(&self) -> bool {
        self.broken || (self.source_done && self.carry.is_empty())
    }
}

/// What the sessions of one listener have in common; a worker's own, so counted without atomics.
#[derive(Debug)]
pub struct Route {
    /// Where they come in.
    pub frontend: Arc<Frontend>,
    /// Where they go.
    pub backend: Option<Arc<Backend>>,
    /// Counts of the listener's address.
    pub listener: Arc<ListenerState>,
    /// Counts of the process.
    pub process: Arc<ProcessState>,
    /// Where the worker is told that a server has room; with every backend.
    pub waiter: Option<Arc<dyn Waiter>>,
    /// They begin with a PROXY header.
    pub accepts_proxy: bool,
    /// Accepted connections begin with `TCP_NODELAY`.
    pub inherits_no_delay: bool,
    /// Idle times.
    pub times: Times,
}

/// Times of a route, ms; 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// In all.
    pub lifetime: u32,
    /// Of a whole session, once no new ones are taken.
    pub drain_age: u32,
    /// For a PROXY header.
    pub greeting: u32,
    /// In a queue for a server.
    pub queue: u32,
    /// Of one attempt to connect.
    pub connect: u32,
    /// Idle, the client's side.
    pub client: u32,
    /// Idle, the server's side.
    pub server: u32,
    /// Idle, the client's side, once the server is done.
    pub client_fin: u32,
    /// Idle, the server's side, once the client is done.
    pub server_fin: u32,
    /// Idle, either side's, once a server is connected; 0: the times above hold.
    pub tunnel: u32,
}

impl Times {
    /// The times of a frontend and its backend.
    pub fn of(frontend: &Frontend, backend: Option<&Backend>) -> Times {
        let of_backend = |pick: fn(&Backend) -> u32| backend.map_or(0, pick);
        Times {
            lifetime: frontend.lifetime_ms,
            drain_age: frontend.drain_age_ms,
            greeting: frontend.greeting_timeout_ms,
            queue: of_backend(|backend| backend.queue_timeout_ms),
            connect: of_backend(|backend| backend.connect_timeout_ms),
            client: frontend.client_timeout_ms,
            server: of_backend(|backend| backend.server_timeout_ms),
            client_fin: frontend.client_fin_timeout_ms,
            server_fin: of_backend(|backend| backend.server_fin_timeout_ms),
            tunnel: of_backend(|backend| backend.tunnel_timeout_ms),
        }
    }
}

/// Why a session's timer was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// The session lasts too long.
    Lifetime,
    /// It is as old as it may be once no new ones are taken.
    Drained,
    /// The PROXY header takes too long.
    Greeting,
    /// The queue takes too long.
    Queue,
    /// The attempt to connect takes too long.
    Connect,
    /// The attempt takes long enough that the client should be watched meanwhile.
    WatchClient,
    /// The wait before the next attempt is over.
    Retry,
    /// The client's side was idle too long.
    Client,
    /// The server's side was idle too long.
    Server,
    /// What a source gathers takes too long.
    Gather,
}

/// How a session is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Why, and when.
    pub termination: Termination,
    /// The client's connection is to be reset.
    pub reset_client: bool,
    /// The server's connection is to be reset.
    pub reset_server: bool,
}

/// One session.
#[derive(Debug)]
pub struct Session<S, P> {
    /// The client's connection.
    pub client: S,
    /// The server's connection, under way or made.
    pub server: Option<S>,
    /// What is known of the client's end.
    pub client_side: Side,
    /// What is known of the server's end.
    pub server_side: Side,
    /// Where it stands.
    pub phase: Phase,
    /// It is in the ready list.
    pub queued: bool,
    /// No new sessions are taken: `timeout drain-age` holds.
    pub draining: bool,
    /// Its record was written already, when it was connected.
    pub logged: bool,
    /// A retry went to another server.
    pub redispatched: bool,
    /// The server was chosen anew, and is tried after a wait.
    pub chosen_anew: bool,
    /// Why there was no PROXY header.
    pub fault: Option<Fault>,
    /// What a PROXY header said that the client connected to.
    pub destination: Option<Box<SocketAddr>>,
    /// The source port lent to the connection to the server.
    pub lease: Option<Box<Lease>>,
    /// Attempts after the first.
    pub retries: u32,
    /// The server that is counted for it in the backend's group.
    pub member: Option<MemberId>,
    /// The server last tried, or waited for; for the record.
    pub tried: Option<Arc<Server>>,
    /// Its place in a queue.
    pub ticket: Option<Ticket>,
    /// How many were served from queues that it stood in.
    pub waited: Waited,
    /// The server that it leaves for another one, while it waits for that.
    pub leaving: Option<MemberId>,
    /// Client to server.
    pub up: Flow<P>,
    /// Server to client.
    pub down: Flow<P>,
    /// Bytes already added to the counters.
    pub published: (u64, u64),
    /// Its listener, frontend, backend.
    pub route: Rc<Route>,
    /// The client.
    pub peer: PeerAddress,
    /// When it was accepted.
    pub start_ms: u64,
    /// When the current attempt or wait ends; 0: never.
    pub phase_end_ms: u64,
    /// When to begin watching the client while connecting; 0: never (it is watched).
    pub watch_at_ms: u64,
    /// How long it took until the last server was chosen, if it had to wait or others failed before.
    pub queue_ms: Option<u32>,
    /// How long it took from then until a server was connected.
    pub connect_ms: Option<u32>,
    /// Last sign of life at the client's side.
    pub client_active_ms: u64,
    /// Last sign of life at the server's side.
    pub server_active_ms: u64,
    /// When the client last sent something; differs from the above by what was sent to him.
    pub client_heard_ms: u64,
    /// The same of the server.
    pub server_heard_ms: u64,
    /// The cause that stands already, though the session goes on for what is left.
    pub decided: Option<Termination>,
}

impl<S, P> Session<S, P> {
    /// A session at accept.
    pub fn new(client: S, peer: PeerAddress, route: Rc<Route>, now_ms: u64) -> Self {
        let client_side = Side {
            writable: true,
            no_delay: route.inherits_no_delay,
            reads_stop_early: peer == PeerAddress::Unix,
            ..Side::default()
        };
        Session {
            client,
            server: None,
            client_side,
            server_side: Side::default(),
            phase: Phase::Connecting,
            queued: false,
            draining: false,
            logged: false,
            redispatched: false,
            chosen_anew: false,
            fault: None,
            destination: None,
            lease: None,
            retries: 0,
            member: None,
            tried: None,
            ticket: None,
            waited: Waited::default(),
            leaving: None,
            up: Flow::new(),
            down: Flow::new(),
            published: (0, 0),
            route,
            peer,
            start_ms: now_ms,
            phase_end_ms: 0,
            watch_at_ms: 0,
            queue_ms: None,
            connect_ms: None,
            client_active_ms: now_ms,
            server_active_ms: now_ms,
            client_heard_ms: now_ms,
            server_heard_ms: now_ms,
            decided: None,
        }
    }

    /// Moves on by the table. A move that is not in it is a mistake of ours.
    pub fn step(&mut self, step: Step) {
        match self.phase.after(step) {
            Some(phase) => self.phase = phase,
            None => debug_assert!(false, "no {step:?} from {:?}", self.phase),
        }
    }

    /// The second letter, if the session ended now.
    pub fn end_phase(&self) -> EndPhase {
        match self.phase {
            Phase::Queued => EndPhase::Queue,
            Phase::Greeting | Phase::Connecting | Phase::Waiting => EndPhase::Connect,
            Phase::Relaying => {
                let server_done = self.server_side.end_seen || self.server_side.failed;
                if server_done && (self.server_side.end_sent || self.up.is_over()) {
                    EndPhase::LastData
                } else {
                    EndPhase::Data
                }
            }
        }
    }

    /// `cause`, in the phase that the session is in.
    pub fn ending(&self, cause: EndCause) -> Termination {
        Termination {
            cause,
            phase: self.end_phase(),
        }
    }

    /// Is it over, and how? Asked after every turn of a session that relays.
    pub fn verdict(&self) -> Option<Verdict> {
        let verdict = |cause| Verdict {
            termination: self.decided.unwrap_or(match cause {
                EndCause::Normal => Termination::NORMAL,
                cause => Termination {
                    cause,
                    phase: EndPhase::Data,
                },
            }),
            reset_client: cause == EndCause::ServerAbort,
            reset_server: cause == EndCause::ClientAbort,
        };
        // What a client sent before its reset is passed on if the server takes it at once.
        if self.client_side.failed && (self.up.is_over() || !self.up.carry.is_empty()) {
            return Some(verdict(EndCause::ClientAbort));
        }
        // What a server sent before its reset is the client's.
        if self.server_side.failed && self.down.is_over() {
            return Some(verdict(EndCause::ServerAbort));
        }
        (self.up.is_over() && self.down.is_over()).then(|| verdict(EndCause::Normal))
    }

    /// When the session's timer must ring, and for what. The client's wins a tie, as in HAProxy.
    pub fn alarm(&self) -> Option<(u64, Alarm)> {
        let end = self.last_moment();
        if self.phase == Phase::Greeting {
            let greeting = some_time(self.phase_end_ms).map(|at| (at, Alarm::Greeting));
            return greeting.into_iter().chain(end).min_by_key(|&(at, _)| at);
        }
        let client = self.client_deadline().map(|at| (at, Alarm::Client));
        let others = match self.phase {
            Phase::Greeting => [None, None],
            Phase::Connecting => [
                some_time(self.phase_end_ms).map(|at| (at, Alarm::Connect)),
                some_time(self.watch_at_ms).map(|at| (at, Alarm::WatchClient)),
            ],
            Phase::Queued => [
                some_time(self.phase_end_ms).map(|at| (at, Alarm::Queue)),
                None,
            ],
            Phase::Waiting => [
                some_time(self.phase_end_ms).map(|at| (at, Alarm::Retry)),
                None,
            ],
            Phase::Relaying => [
                self.server_deadline().map(|at| (at, Alarm::Server)),
                gather::deadline(self).map(|at| (at, Alarm::Gather)),
            ],
        };
        [client, others[0], others[1], end]
            .into_iter()
            .flatten()
            .min_by_key(|&(at, _)| at)
    }

    /// When it must be over, whatever it does.
    fn last_moment(&self) -> Option<(u64, Alarm)> {
        let times = &self.route.times;
        let of = |age: u32| some_time(age.into()).map(|age| self.start_ms + age);
        let lifetime = of(times.lifetime).map(|at| (at, Alarm::Lifetime));
        let drained = match self.draining {
            true => of(times.drain_age).map(|at| (at, Alarm::Drained)),
            false => None,
        };
        lifetime
            .into_iter()
            .chain(drained)
            .min_by_key(|&(at, _)| at)
    }

    fn client_deadline(&self) -> Option<u64> {
        let reading = match self.phase {
            Phase::Relaying => {
                !self.client_side.end_seen && self.up.carry.is_empty() && !self.up.broken
            }
            Phase::Greeting | Phase::Connecting | Phase::Queued | Phase::Waiting => {
                !self.client_side.end_seen
            }
        };
        if !reading && self.down.carry.is_empty() {
            return None;
        }
        let times = &self.route.times;
        let idle = self.idle_time(self.client_side, times.client, times.client_fin)?;
        let since = match reading && self.route.frontend.independent {
            true => self.client_heard_ms,
            false => self.client_active_ms,
        };
        Some(since + idle)
    }

    fn server_deadline(&self) -> Option<u64> {
        let reading = !self.server_side.end_seen && self.down.carry.is_empty() && !self.down.broken;
        if !reading && self.up.carry.is_empty() {
            return None;
        }
        let times = &self.route.times;
        let idle = self.idle_time(self.server_side, times.server, times.server_fin)?;
        let backend = self.route.backend.as_ref();
        let since = match reading && backend.is_some_and(|backend| backend.independent) {
            true => self.server_heard_ms,
            false => self.server_active_ms,
        };
        Some(since + idle)
    }

    /// How long a side may be idle: `fin` once it is half closed, by us, or in a tunnel by either;
    /// else the tunnel's time, which holds from the connection to the server on; else `usual`.
    fn idle_time(&self, side: Side, usual: u32, fin: u32) -> Option<u64> {
        let tunnel = match self.phase {
            Phase::Relaying => self.route.times.tunnel,
            Phase::Greeting | Phase::Connecting | Phase::Queued | Phase::Waiting => 0,
        };
        let half_closed = side.end_sent || tunnel > 0 && side.end_seen;
        let time = match (fin, tunnel) {
            (1.., _) if half_closed => fin,
            (_, 1..) => tunnel,
            _ => usual,
        };
        some_time(time.into())
    }

    /// The client was idle too long: its end is taken as sent, and what it does not take is lost.
    /// With `option independent-streams` he may be silent, and yet take what he is sent.
    pub fn client_idle(&mut self, now_ms: u64) {
        let times = &self.route.times;
        let idle = self.idle_time(self.client_side, times.client, times.client_fin);
        let stalled = idle.is_some_and(|idle| now_ms >= self.client_active_ms + idle);
        self.decide(EndCause::ClientTimeout);
        self.client_side.end_seen = true;
        self.client_side.readable = false;
        self.up.source_done = true;
        if stalled && !self.down.carry.is_empty() {
            self.down.broken = true;
        }
    }

    /// The same at the server's side.
    pub fn server_idle(&mut self, now_ms: u64) {
        let times = &self.route.times;
        let idle = self.idle_time(self.server_side, times.server, times.server_fin);
        let stalled = idle.is_some_and(|idle| now_ms >= self.server_active_ms + idle);
        self.decide(EndCause::ServerTimeout);
        self.server_side.end_seen = true;
        self.server_side.readable = false;
        self.down.source_done = true;
        if stalled && !self.up.carry.is_empty() {
            self.up.broken = true;
        }
    }

    /// The first cause stands.
    pub fn decide(&mut self, cause: EndCause) {
        if self.decided.is_none() {
            self.decided = Some(self.ending(cause));
        }
    }
}

fn some_time(ms: u64) -> Option<u64> {
    (ms > 0).then_some(ms)
}

/// Does retry number `retry` (from 1) go to another server? `option redispatch` with `interval`:
/// 0 never; n every n-th; -n counted so that the n-th from the last is one.
pub fn redispatches(retry: u32, retries: u32, interval: i32) -> bool {
    match interval {
        0 => false,
        every if every > 0 => retry.is_multiple_of(every.unsigned_abs()),
        before_last => {
            let every = i64::from(retries) + 1 + i64::from(before_last);
            every > 0 && i64::from(retry) % every == 0
        }
    }
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
