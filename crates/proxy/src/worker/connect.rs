//! From an accepted client to a connected server: choice, attempts, retries.
//!
//! Decides:  a refused attempt is repeated after min(1 s, timeout connect), at the same server or at
//!           another one by `option redispatch`; a client that goes away meanwhile is noticed, once
//!           the attempt takes long enough to be worth watching him.
//! Source:   HAProxy 3.5-dev5, src/backend.c back_handle_st_con(), back_handle_st_cer();
//!           include/haproxy/stream.h stream_choose_redispatch()
//! Not here: which server (the balance crate), how to connect (net.rs).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use portcullis_balance::{Algorithm, MemberId};
use rustix::io::Errno;

use super::Engine;
use super::queue::Chosen;
use super::relay::Carry;
use super::token::Token;
use crate::net::{Close, ConnectOptions, Interest, Net, Readiness, Then, Unconnected};
use crate::proxy_protocol::{self, Addresses};
use crate::record::{EndCause, EndPhase, PeerAddress, SessionEvent, Termination};
use crate::session::{Phase, Session, Step, redispatches};
use crate::slab::Key;
use crate::snapshot::{Backend, Server, ServerAddress};
use crate::source::NoAddress;

/// The longest wait before a refused attempt is repeated, ms.
const TURN_AROUND_MS: u32 = 1000;
/// An attempt that takes longer has its client watched meanwhile, ms: most never do, and are spared
/// the events.
const WATCH_CLIENT_AFTER_MS: u64 = 50;

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server, or something before it, said no.
    Refused,
    /// Nobody said anything in time.
    TimedOut,
    /// Here: no port, no address. Another attempt need not wait.
    Local(NoAddress),
    /// Here: descriptors or memory ran out.
    Exhausted,
}

impl Failure {
    fn of(error: Errno) -> Failure {
        match error {
            Errno::TIMEDOUT => Failure::TimedOut,
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Failure::Exhausted,
            _ => Failure::Refused,
        }
    }

    /// What is missing here is told as a failed attempt too, once retries are over: HAProxy's manual
    /// has `R` for it, its back_handle_st_cer() has not (2.6 to 3.5).
    fn cause(self) -> EndCause {
        match self {
            Failure::Refused | Failure::Local(_) | Failure::Exhausted => EndCause::ServerAbort,
            Failure::TimedOut => EndCause::ServerTimeout,
        }
    }
}

impl From<Unconnected> for Failure {
    fn from(why: Unconnected) -> Self {
        match why {
            Unconnected::NoAddress(why) => Failure::Local(why),
            Unconnected::Failed(error) => Failure::of(error),
        }
    }
}

/// What to do after an attempt.
enum Next {
    /// Wait for an event or an alarm, or it is over.
    Rest,
    /// Try again at once.
    Again,
}

impl<N: Net> Engine<N> {
    /// The first attempt of a session.
    pub(super) fn begin(&mut self, key: Key) {
        if self.choose(key, None) == Chosen::Now {
            self.attempt(key);
        }
    }

    /// Attempts until one is under way or has to wait.
    pub(super) fn attempt(&mut self, key: Key) {
        while let Next::Again = self.attempt_once(key) {}
    }

    fn attempt_once(&mut self, key: Key) -> Next {
        let Some(session) = self.sessions.get_mut(key) else {
            return Next::Rest;
        };
        let counted = session.tried.as_ref();
        let counted = counted.filter(|server| session.member == Some(server.slot));
        let Some((backend, server)) = session.route.backend.as_ref().zip(counted) else {
            self.end_with(key, EndCause::ServerAbort);
            return Next::Rest;
        };
        server.state.total.fetch_add(1, Ordering::Relaxed);
        let tuning = self.snapshot.as_ref().map(|snapshot| snapshot.tuning);
        let options = ConnectOptions {
            server,
            client: session.peer,
            destination: session.destination.as_deref().copied(),
            first: session.retries == 0,
            keepalive: backend.keepalive,
            no_linger: backend.no_linger,
            smart_connect: backend.smart_connect,
            receive_buffer: tuning.and_then(|tuning| tuning.server_receive_buffer),
            send_buffer: tuning.and_then(|tuning| tuning.server_send_buffer),
        };
        let begun = match self.net.connect(&session.client, &options) {
            Ok(begun) => begun,
            Err(why) => return self.after_failure(key, why.into()),
        };
        if begun.refused_options > 0 {
            let refused = u64::from(begun.refused_options);
            server
                .state
                .option_errors
                .fetch_add(refused, Ordering::Relaxed);
        }
        let token = Token::Server(key).pack();
        if let Err(error) = self.net.watch(&begun.socket, token, Interest::Both) {
            self.net.close(begun.socket, Close::Orderly);
            return self.after_failure(key, Failure::of(error));
        }
        let connect_timeout = u64::from(session.route.times.connect);
        session.server = Some(begun.socket);
        session.lease = begun.lease;
        session.server_side = Default::default();
        session.server_side.watched = true;
        session.server_side.watched_both = true;
        session.server_side.reads_stop_early = matches!(server.address, ServerAddress::Unix(_));
        session.phase_end_ms = match connect_timeout {
            0 => 0,
            timeout => self.now_ms + timeout,
        };
        session.watch_at_ms = match session.client_side.watched {
            true => 0,
            false => self.now_ms + WATCH_CLIENT_AFTER_MS,
        };
        if begun.used_reserve {
            self.starve();
        }
        if begun.connected {
            self.connected(key);
        } else {
            self.arm(key);
        }
        Next::Rest
    }

    /// An attempt failed, by an event or an alarm.
    pub(super) fn attempt_failed(&mut self, key: Key, failure: Failure) {
        if let Next::Again = self.after_failure(key, failure) {
            self.attempt(key);
        }
    }

    fn after_failure(&mut self, key: Key, failure: Failure) -> Next {
        if failure == Failure::Exhausted {
            self.starve();
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return Next::Rest;
        };
        if let Some(socket) = session.server.take() {
            self.net.close(socket, Close::Orderly);
        }
        session.lease = None;
        let Some((backend, member)) = session.route.backend.clone().zip(session.member) else {
            self.end_with(key, EndCause::ServerAbort);
            return Next::Rest;
        };
        if let Some(server) = session.counted() {
            server.state.connect_errors.fetch_add(1, Ordering::Relaxed);
            if matches!(failure, Failure::Refused | Failure::TimedOut) {
                count_error(server);
            }
        }
        if let (Failure::Local(why), 0) = (failure, session.retries) {
            self.report_no_address(key, why);
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return Next::Rest;
        };
        if session.retries >= backend.retries {
            self.end_with(key, failure.cause());
            return Next::Rest;
        }
        session.retries += 1;
        backend.state.retries.fetch_add(1, Ordering::Relaxed);
        let mut elsewhere = false;
        let mut chosen_anew = false;
        if self.goes_elsewhere(key, &backend, member) {
            backend.group.release(member);
            if let Some(session) = self.sessions.get_mut(key) {
                session.member = None;
            }
            match self.choose(key, Some(member)) {
                Chosen::Now => chosen_anew = true,
                Chosen::Later => {
                    if let Some(session) = self.sessions.get_mut(key) {
                        session.leaving = Some(member);
                    }
                    return Next::Rest;
                }
                Chosen::Never => return Next::Rest,
            }
            elsewhere = self.note_redispatch(key, &backend, member);
        }
        if failure == Failure::Refused && !elsewhere || failure == Failure::Exhausted {
            self.wait_before_retry(key, &backend, chosen_anew);
            return Next::Rest;
        }
        if chosen_anew {
            self.note_choice(key);
        }
        Next::Again
    }

    /// A server was chosen after another: until now it was the queue's time, as HAProxy counts it.
    fn note_choice(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            let waited = self.now_ms.saturating_sub(session.start_ms);
            session.queue_ms = Some(u32::try_from(waited).unwrap_or(u32::MAX));
        }
    }

    /// By `option redispatch`: on the retries that it names, when the server went down, and on every
    /// retry where no hash binds the client to a server and there is another one
    /// (stream_choose_redispatch(), since 2.7 and backported).
    fn goes_elsewhere(&self, key: Key, backend: &Backend, member: MemberId) -> bool {
        let Some(session) = self.sessions.get(key) else {
            return false;
        };
        if backend.redispatch == 0 {
            return false;
        }
        let group = &backend.group;
        let by_hash = matches!(group.algorithm(), Algorithm::Hash(_));
        redispatches(session.retries, backend.retries, backend.redispatch)
            || !by_hash && group.usable().active > 1
            || !group.is_usable(member)
    }

    /// True if the choice fell on another server.
    pub(super) fn note_redispatch(
        &mut self,
        key: Key,
        backend: &Backend,
        before: MemberId,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        if session.member == Some(before) {
            return false;
        }
        session.redispatched = true;
        backend.state.redispatches.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn wait_before_retry(&mut self, key: Key, backend: &Backend, chosen_anew: bool) {
        let wait = match backend.connect_timeout_ms {
            0 => TURN_AROUND_MS,
            timeout => timeout.min(TURN_AROUND_MS),
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.step(Step::Refused);
        session.chosen_anew = chosen_anew;
        session.phase_end_ms = self.now_ms + u64::from(wait);
        session.watch_at_ms = 0;
        self.watch_client_early(key);
    }

    /// The wait is over.
    pub(super) fn retry(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.step(Step::Retried);
            if std::mem::take(&mut session.chosen_anew) {
                self.note_choice(key);
            }
            self.attempt(key);
        }
    }

    /// An event of a connection under way.
    pub(super) fn connect_event(&mut self, key: Key, readiness: Readiness) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let Some(socket) = &session.server else {
            return;
        };
        if (readiness.failed || readiness.hung_up)
            && let Err(error) = self.net.connect_outcome(socket)
        {
            return self.attempt_failed(key, Failure::of(error));
        }
        if readiness.writable {
            self.connected(key);
        }
    }

    /// A server accepted: bytes flow from now on.
    fn connected(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.step(Step::Connected);
        let queued = u64::from(session.queue_ms.unwrap_or(0));
        let took = self.now_ms.saturating_sub(session.start_ms + queued);
        session.connect_ms = Some(u32::try_from(took).unwrap_or(u32::MAX));
        session.phase_end_ms = 0;
        session.watch_at_ms = 0;
        session.server_side.writable = true;
        session.client_active_ms = self.now_ms;
        session.server_active_ms = self.now_ms;
        session.client_heard_ms = self.now_ms;
        session.server_heard_ms = self.now_ms;
        // Most clients speak first: looking at once saves a wait for the event, and watching him only
        // then saves the event.
        session.client_side.readable = !session.client_side.end_seen;
        if let Some(server) = self.server_now(key)
            && server.observe.is_some()
        {
            server.state.errors_in_a_row.store(0, Ordering::Relaxed);
        }
        self.send_header(key);
        self.tell_opened(key);
        self.report_early(key);
        self.pump(key);
        self.watch_client(key);
    }

    /// The server that is counted for a session.
    pub(super) fn server_now(&self, key: Key) -> Option<&Arc<Server>> {
        self.sessions.get(key)?.counted()
    }

    /// The PROXY header goes first, before what the client says.
    fn send_header(&mut self, key: Key) {
        let header = self
            .server_now(key)
            .and_then(|server| server.outgoing.header);
        let Some(version) = header else {
            return;
        };
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let told = session.destination.as_deref().copied();
        let to = match told {
            Some(told) => Some(PeerAddress::Ip(told)),
            None => self.net.local_address(&session.client).ok(),
        };
        let addresses = match (session.peer, to) {
            (PeerAddress::Ip(source), Some(PeerAddress::Ip(destination))) => Some(Addresses {
                source,
                destination,
            }),
            _ => None,
        };
        let header = proxy_protocol::encode(version, addresses);
        let Some(socket) = &session.server else {
            return;
        };
        // A new connection takes a few bytes at once; if not, they go before the client's.
        let written = self
            .net
            .write(socket, header.as_bytes(), Then::Wait)
            .unwrap_or(0);
        let left = &header.as_bytes()[written..];
        if !left.is_empty() {
            session.up.carry = Carry::Buffer(self.buffers.take(left));
        }
        session.up.written = true;
    }

    fn tell_opened(&self, key: Key) {
        let (Some(observer), Some(session)) = (&self.reports.observer, self.sessions.get(key))
        else {
            return;
        };
        if let Some((backend, server)) = session.route.backend.as_ref().zip(session.counted()) {
            observer.send(SessionEvent::Opened {
                id: Token::Client(key).pack(),
                worker: self.worker,
                client: session.peer,
                frontend: Arc::clone(&session.route.frontend),
                backend: Arc::clone(backend),
                server: Arc::clone(server),
            });
        }
    }

    /// Watches the client, if he is not watched yet. False: that failed, and the session is over.
    pub(super) fn watch_client(&mut self, key: Key) -> bool {
        let Some(session) = self.sessions.get_mut(key) else {
            return false;
        };
        if session.client_side.watched {
            return true;
        }
        let token = Token::Client(key).pack();
        // Most clients always have room: those that have not are watched for it from then on.
        let interest = match session.client_side.writable {
            true => Interest::Reading,
            false => Interest::Both,
        };
        if self.net.watch(&session.client, token, interest).is_err() {
            self.end_with(key, EndCause::Resource);
            return false;
        }
        session.client_side.watched = true;
        session.client_side.watched_both = interest == Interest::Both;
        true
    }

    /// The attempt takes its time: from now on a client that goes away is noticed.
    pub(super) fn watch_client_early(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.watch_at_ms = 0;
        }
        if self.watch_client(key) {
            self.arm(key);
        }
    }

    /// The client's time ran out while he waits for his server. If he spoke, it is not he who is idle:
    /// what he said lies in his socket until there is a server to say it to.
    pub(super) fn client_silent(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if self.net.unread(&session.client) == 0 {
            return self.end_with(key, EndCause::ClientTimeout);
        }
        session.client_active_ms = self.now_ms;
        session.client_heard_ms = self.now_ms;
        self.arm(key);
    }

    /// An event of a client who waits for his server. One who hung up with nothing to say, or whose
    /// backend has `option abortonclose`, does not wait any more; what one said is still delivered.
    pub(super) fn client_while_connecting(&mut self, key: Key, readiness: Readiness) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        debug_assert_ne!(session.phase, Phase::Relaying);
        if readiness.failed {
            // HAProxy's process_stream() knows of the reset before it asks what the session was at.
            session.decided.get_or_insert(Termination {
                cause: EndCause::ClientAbort,
                phase: EndPhase::Data,
            });
        }
        let aborts = session
            .route
            .backend
            .as_ref()
            .is_some_and(|b| b.abort_on_close);
        let gone = readiness.failed
            || readiness.hung_up && (aborts || self.net.unread(&session.client) == 0);
        match session.phase {
            _ if !gone => {}
            Phase::Queued => self.left_while_queued(key),
            _ => self.end_with(key, EndCause::ClientAbort),
        }
    }
}

/// `observe layer4`: one more failed, and who is to know is told.
fn count_error(server: &Server) {
    let Some(observe) = &server.observe else {
        return;
    };
    let errors = &server.state.errors_in_a_row;
    if errors.fetch_add(1, Ordering::Relaxed) + 1 >= observe.limit {
        errors.store(0, Ordering::Relaxed);
        observe.tell.too_many_errors();
    }
}

impl<S, P> Session<S, P> {
    /// The server on which it is counted.
    pub(super) fn counted(&self) -> Option<&Arc<Server>> {
        (self.tried.as_ref()).filter(|it| self.member == Some(it.slot))
    }
}
