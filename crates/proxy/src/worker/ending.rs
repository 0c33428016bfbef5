//! The end of a session: sockets closed, places given back, a record written.
//!
//! Decides:  the order of it, and which counts a record shows; a reset is not sent to a client who
//!           was not sent yet all that was written to him, since it would take that away.
//! Source:   HAProxy 2.6 run on loopback: its log counts the session itself in the process and the
//!           frontend, no longer in the backend and the server.
//! Not here: when a session is over (session.rs).

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::accept::give_places_back;
use super::greeting::is_null;
use super::relay::{Kit, drop_carry};
use super::token::Token;
use super::{Engine, SessionOf};
use crate::net::{Close, Net};
use crate::proxy_protocol::Fault;
use crate::record::{EndCause, EndPhase, RecordKind, SessionEvent, SessionRecord, Termination};
use crate::session::{Phase, Verdict};
use crate::slab::Key;
use crate::snapshot::LogMoment;
use crate::source::NoAddress;

impl<N: Net> Engine<N> {
    /// Ends a session for `cause`, in the phase that it is in.
    pub(super) fn end_with(&mut self, key: Key, cause: EndCause) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let verdict = Verdict {
            termination: session.decided.unwrap_or(session.ending(cause)),
            reset_client: false,
            reset_server: false,
        };
        self.end(key, verdict);
    }

    /// Ends a session that may not become older.
    pub(super) fn end_of_age(&mut self, key: Key, cause: EndCause) {
        match self.sessions.get(key).map(|session| session.phase) {
            Some(Phase::Greeting) => self.end_greeting(key, Fault::TimedOut),
            Some(Phase::Queued) => self.end_in_queue(key, cause),
            Some(_) => self.end_with(key, cause),
            None => {}
        }
    }

    /// Ends a session.
    pub(super) fn end(&mut self, key: Key, verdict: Verdict) {
        self.publish(key);
        let Some(mut session) = self.sessions.evict(key) else {
            return;
        };
        self.wheel.cancel(key.index);
        self.freed.push(key.index);
        self.drop_carries(&mut session);
        self.leave_queue(&mut session);
        if let Some((backend, member)) = session.route.backend.as_ref().zip(session.member) {
            backend.group.release(member);
        }
        if let Some(backend) = &session.route.backend {
            backend.state.connections.fetch_sub(1, Ordering::Relaxed);
            if session.connect_ms.is_none() {
                backend.state.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.report(key, &session, verdict.termination);
        let route = self.close_sockets(session, verdict);
        give_places_back(&route);
    }

    fn drop_carries(&mut self, session: &mut SessionOf<N>) {
        if session.up.carry.is_empty() && session.down.carry.is_empty() {
            return;
        }
        let mut kit = Kit {
            net: &mut self.net,
            scratch: &mut self.scratch,
            buffers: &mut self.buffers,
            pipes: &mut self.pipes,
            splice: false,
            now_ms: self.now_ms,
        };
        drop_carry(&mut session.up, &mut kit);
        drop_carry(&mut session.down, &mut kit);
    }

    fn close_sockets(
        &mut self,
        session: SessionOf<N>,
        verdict: Verdict,
    ) -> std::rc::Rc<crate::session::Route> {
        if session.phase != Phase::Relaying {
            // What the client said and nobody read would turn his end of stream into a reset.
            let _ = self.net.read(&session.client, &mut self.scratch);
        }
        if let Some(server) = session.server {
            let reset = verdict.reset_server;
            let how = if reset { Close::Reset } else { Close::Orderly };
            self.net.close(server, how);
        }
        let reset = verdict.reset_client && self.net.unsent(&session.client) == 0;
        let how = if reset { Close::Reset } else { Close::Orderly };
        self.net.close(session.client, how);
        session.route
    }

    /// Adds what a session moved since the last time to the counters.
    pub(super) fn publish(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let (up, down) = (session.up.bytes, session.down.bytes);
        let (more_in, more_out) = (up - session.published.0, down - session.published.1);
        if more_in == 0 && more_out == 0 {
            return;
        }
        session.published = (up, down);
        let frontend = &session.route.frontend.state;
        frontend.bytes_in.fetch_add(more_in, Ordering::Relaxed);
        frontend.bytes_out.fetch_add(more_out, Ordering::Relaxed);
        if let Some(backend) = &session.route.backend {
            backend.state.bytes_in.fetch_add(more_in, Ordering::Relaxed);
            backend
                .state
                .bytes_out
                .fetch_add(more_out, Ordering::Relaxed);
            if let Some(server) = &session.tried {
                server.state.bytes_in.fetch_add(more_in, Ordering::Relaxed);
                server
                    .state
                    .bytes_out
                    .fetch_add(more_out, Ordering::Relaxed);
            }
        }
    }

    /// Writes a session's record, if anybody wants it.
    fn report(&mut self, key: Key, session: &SessionOf<N>, termination: Termination) {
        if session.phase == Phase::Greeting {
            return self.report_refused(session, termination);
        }
        let log = session.route.frontend.log;
        let logged = log.filter(|log| log.moment != LogMoment::Accept && !session.logged);
        let wanted = self.reports.log.is_some() && logged.is_some();
        if !wanted && self.reports.observer.is_none() {
            return;
        }
        let record = self.record(session, termination);
        if let Some(observer) = &self.reports.observer {
            observer.send(SessionEvent::Closed {
                id: Token::Client(key).pack(),
                worker: self.worker,
                record: Box::new(record.clone()),
            });
        }
        let (Some(sink), Some(log)) = (&self.reports.log, logged) else {
            return;
        };
        // What he said counts, also if no server was found to take it.
        let null = log.skip_null && record.bytes_in == 0 && self.net.unread(&session.client) == 0;
        let normal = log.skip_normal && !record.is_error();
        if !null && !normal {
            sink.send(record);
        }
    }

    /// Writes the record of a connection that never became a session.
    fn report_refused(&self, session: &SessionOf<N>, termination: Termination) {
        let log = session.route.frontend.log;
        let (Some(sink), Some(log)) = (&self.reports.log, log) else {
            return;
        };
        let fault = session.fault.unwrap_or(Fault::Aborted);
        if log.skip_null && is_null(fault) {
            return;
        }
        let mut record = self.record(session, termination);
        record.kind = RecordKind::Refused(fault);
        let name = session.route.listener.name.lock();
        record.listener_name = name.unwrap_or_else(PoisonError::into_inner).clone();
        sink.send(record);
    }

    /// Writes, besides the session's own record, that its first attempt found no address: in the
    /// backend's log, as HAProxy does.
    pub(super) fn report_no_address(&self, key: Key, why: NoAddress) {
        let (Some(sink), Some(session)) = (&self.reports.log, self.sessions.get(key)) else {
            return;
        };
        // Whoever writes it knows whether the backend has a log.
        let mut record = self.record(session, Termination::NORMAL);
        record.kind = RecordKind::NoAddress(why);
        sink.send(record);
    }

    /// Writes the record of a session that was just connected, with `option logasap`.
    pub(super) fn report_early(&mut self, key: Key) {
        let (Some(sink), Some(session)) = (&self.reports.log, self.sessions.get(key)) else {
            return;
        };
        let log = session.route.frontend.log;
        let Some(log) = log.filter(|log| log.moment == LogMoment::Connect) else {
            return;
        };
        let mut record = self.record(session, Termination::NORMAL);
        // As in HAProxy, `dontlognull` cannot know yet, and `dontlog-normal` waits for the end.
        if log.skip_normal && !record.is_error() {
            return;
        }
        record.kind = RecordKind::Connected;
        sink.send(record);
        if let Some(session) = self.sessions.get_mut(key) {
            session.logged = true;
        }
    }

    /// The facts of a session as they are now.
    pub(super) fn record(&self, session: &SessionOf<N>, termination: Termination) -> SessionRecord {
        let route = &session.route;
        let backend = route.backend.as_ref();
        let server = session.tried.as_ref();
        let server_connections = backend.zip(server).map_or(0, |(backend, server)| {
            backend.group.active_connections(server.slot)
        });
        SessionRecord {
            kind: RecordKind::Ended,
            frontend: Arc::clone(&route.frontend),
            backend: backend.cloned(),
            server: server.cloned(),
            client: session.peer,
            listener: route.listener.number.load(Ordering::Relaxed),
            listener_name: None,
            local: None,
            accepted_ms: session.start_ms.wrapping_add(self.wall_offset_ms),
            queue_ms: match session.queue_ms {
                Some(waited) => Some(waited.into()),
                // Into a queue that is full it never came.
                None if termination.phase == EndPhase::Queue => None,
                None => server.map(|_| 0),
            },
            connect_ms: session.connect_ms.map(u64::from),
            total_ms: self.now_ms.saturating_sub(session.start_ms),
            bytes_in: session.up.bytes,
            bytes_out: session.down.bytes,
            termination,
            process_connections: route.process.connections.load(Ordering::Relaxed),
            frontend_connections: route.frontend.state.connections.load(Ordering::Relaxed),
            backend_connections: backend.map_or(0, |b| b.state.connections.load(Ordering::Relaxed)),
            server_connections,
            retries: session.retries,
            redispatched: session.redispatched,
            server_queue: session.waited.server,
            backend_queue: session.waited.backend,
        }
    }
}
