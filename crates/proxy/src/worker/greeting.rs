//! Before a session: the PROXY header that the listener expects.
//!
//! Decides:  nothing is chosen, logged or sent before the header is there; the header is looked at in
//!           the kernel's buffer until it is whole, and then taken, exactly; what is no header ends
//!           the connection, with a line of its own.
//! Source:   HAProxy 3.5-dev5, src/connection.c conn_recv_proxy(), src/session.c
//!           session_kill_embryonic(): which ends `dontlognull` keeps quiet about.
//! Not here: what a header is (proxy_protocol.rs).

use rustix::io::Errno;

use super::Engine;
use crate::net::{Net, Readiness};
use crate::proxy_protocol::{self, Addresses, Decoded, Fault, LONGEST};
use crate::record::{EndCause, PeerAddress, RecordKind};
use crate::session::{Phase, Step};
use crate::slab::Key;
use crate::snapshot::LogMoment;

impl<N: Net> Engine<N> {
    /// A connection was taken: is there to be a header first?
    pub(super) fn greet(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if !session.route.accepts_proxy {
            return self.welcome(key);
        }
        session.phase = Phase::Greeting;
        session.phase_end_ms = match session.route.times.greeting {
            0 => 0,
            timeout => self.now_ms + u64::from(timeout),
        };
        if self.watch_client(key) {
            self.look_for_header(key);
        }
    }

    /// An event of a client whose header is awaited.
    pub(super) fn look_for_header(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let length = self.scratch.len().min(LONGEST);
        let ended = session.client_side.hung_up;
        let decoded = match self.net.peek(&session.client, &mut self.scratch[..length]) {
            Ok(0) => Decoded::Invalid(Fault::Empty),
            Ok(count) => match proxy_protocol::decode(&self.scratch[..count]) {
                Decoded::Incomplete if count == length => Decoded::Invalid(Fault::Malformed),
                Decoded::Incomplete if ended => Decoded::Invalid(Fault::Truncated),
                decoded => decoded,
            },
            Err(Errno::AGAIN | Errno::INTR) => Decoded::Incomplete,
            Err(_) => Decoded::Invalid(Fault::Aborted),
        };
        match decoded {
            Decoded::Incomplete => self.arm(key),
            Decoded::Invalid(fault) => self.end_greeting(key, fault),
            Decoded::Header(header) => self.take_header(key, header.length, header.addresses),
        }
    }

    fn take_header(&mut self, key: Key, length: usize, addresses: Option<Addresses>) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        // It lies in the buffer whole, so that it comes whole.
        let taken = self.net.read(&session.client, &mut self.scratch[..length]);
        if taken != Ok(length) {
            return self.end_greeting(key, Fault::Aborted);
        }
        if let Some(addresses) = addresses {
            session.peer = PeerAddress::Ip(addresses.source);
            session.destination = Some(Box::new(addresses.destination));
        }
        session.step(Step::Greeted);
        session.phase_end_ms = 0;
        session.client_active_ms = self.now_ms;
        session.client_heard_ms = self.now_ms;
        self.welcome(key);
        self.notice_early_end(key);
    }

    /// The header came with the end of the connection: there is no other event that tells of it.
    fn notice_early_end(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if session.client_side.hung_up && session.phase != Phase::Relaying {
            let readiness = Readiness {
                hung_up: true,
                ..Readiness::default()
            };
            self.client_while_connecting(key, readiness);
        }
    }

    /// There is no header, and so no session.
    pub(super) fn end_greeting(&mut self, key: Key, fault: Fault) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.fault = Some(fault);
        }
        self.end_with(key, EndCause::ClientAbort);
    }

    /// The session begins.
    fn welcome(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let log = session.route.frontend.log;
        let at_accept = log.is_some_and(|log| log.moment == LogMoment::Accept);
        if let (true, Some(sink)) = (at_accept, &self.reports.log) {
            let mut record = self.record(session, session.ending(EndCause::Normal));
            record.kind = RecordKind::Accepted;
            record.local = match &session.destination {
                Some(told) => Some(PeerAddress::Ip(**told)),
                None => self.net.local_address(&session.client).ok(),
            };
            sink.send(record);
        }
        self.begin(key);
    }
}

/// Would `option dontlognull` keep quiet about it?
pub(super) fn is_null(fault: Fault) -> bool {
    matches!(fault, Fault::Empty | Fault::Aborted | Fault::TimedOut)
}
