//! A session's server: chosen at once, or waited for.
//!
//! Decides:  what is chosen by (a hash of the client's address, or random bits); how long one waits
//!           (`timeout queue`), and that a client who goes away meanwhile leaves the queue.
//! Source:   HAProxy 3.5-dev5, src/backend.c back_try_conn_req(), back_handle_st_que(),
//!           src/queue.c, pendconn_add(): which codes a failed wait ends with (`sQ`, `SQ`, `CQ`).
//! Not here: the queues (the balance crate), attempts to connect (connect.rs).

use std::sync::Arc;

use portcullis_balance::{Choice, MemberId, Waited};

use super::mailbox::{Letter, give_back};
use super::token::Token;
use super::{Engine, SessionOf};
use crate::net::Net;
use crate::record::{EndCause, EndPhase, PeerAddress, Termination};
use crate::session::Step;
use crate::slab::Key;
use crate::snapshot::Backend;

/// What a choice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    /// There is a server, and it is counted.
    Now,
    /// The session waits in a queue.
    Later,
    /// The session is over.
    Never,
}

impl<N: Net> Engine<N> {
    /// Chooses and counts a server, or waits for one.
    pub(super) fn choose(&mut self, key: Key, avoid: Option<MemberId>) -> Chosen {
        let Some(session) = self.sessions.get_mut(key) else {
            return Chosen::Never;
        };
        session.tried = None;
        let route = &session.route;
        let (Some(backend), Some(waiter)) = (&route.backend, &route.waiter) else {
            self.end_with(key, EndCause::ServerAbort);
            return Chosen::Never;
        };
        let word = match (backend.hash, session.peer) {
            (Some(hash), PeerAddress::Ip(client)) => hash.of(client.ip()).into(),
            _ => self.net.random(),
        };
        let token = Token::Client(key).pack();
        match backend.group.choose_or_wait(word, avoid, waiter, token) {
            Choice::Server(member) => self.take_server(key, member),
            Choice::Wait(ticket) => {
                let servers = &backend.servers;
                session.tried = ticket.server().and_then(|member| servers.get(member));
                session.ticket = Some(ticket);
                self.wait_in_queue(key);
                Chosen::Later
            }
            Choice::Full(member) => {
                session.tried = member.and_then(|member| backend.servers.get(member));
                self.never_in_queue(key);
                Chosen::Never
            }
            Choice::Nobody => {
                self.end_with(key, EndCause::ServerAbort);
                Chosen::Never
            }
        }
    }

    /// The session's server is counted; does it still know it?
    fn take_server(&mut self, key: Key, member: MemberId) -> Chosen {
        let Some(session) = self.sessions.get_mut(key) else {
            return Chosen::Never;
        };
        session.member = Some(member);
        let backend = session.route.backend.as_deref();
        session.tried = backend.and_then(|backend| backend.servers.get(member));
        if session.tried.is_some() {
            return Chosen::Now;
        }
        self.end_with(key, EndCause::ServerAbort);
        Chosen::Never
    }

    fn wait_in_queue(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.step(Step::Full);
        session.phase_end_ms = match session.route.times.queue {
            0 => 0,
            timeout => self.now_ms + u64::from(timeout),
        };
        self.watch_client_early(key);
    }

    /// The session ends since the queue that it is for is full.
    fn never_in_queue(&mut self, key: Key) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.decided.get_or_insert(Termination {
                cause: EndCause::ServerAbort,
                phase: EndPhase::Queue,
            });
        }
        self.end_with(key, EndCause::ServerAbort);
    }

    /// The session ends without having got out of the queue.
    pub(super) fn end_in_queue(&mut self, key: Key, cause: EndCause) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let waited = self.now_ms.saturating_sub(session.start_ms);
        session.queue_ms = Some(u32::try_from(waited).unwrap_or(u32::MAX));
        session.decided.get_or_insert(Termination {
            cause,
            phase: EndPhase::Queue,
        });
        self.end_with(key, cause);
    }

    /// It took too long.
    pub(super) fn queue_timed_out(&mut self, key: Key) {
        self.end_in_queue(key, EndCause::ServerTimeout);
    }

    /// The client who waited is gone.
    pub(super) fn left_while_queued(&mut self, key: Key) {
        self.end_in_queue(key, EndCause::ClientAbort);
    }

    /// Gives up a session's place in a queue, when it ends.
    pub(super) fn leave_queue(&mut self, session: &mut SessionOf<N>) {
        let Some(ticket) = session.ticket.take() else {
            return;
        };
        if let Some(backend) = &session.route.backend
            && let Some(waited) = backend.group.leave_queue(ticket)
        {
            add(&mut session.waited, waited);
        }
        // Else its grant is on the way; `read_mail` finds nobody and gives it back.
    }

    /// Reads what came for the sessions that wait.
    pub(super) fn read_mail(&mut self) {
        for letter in self.mailbox.take() {
            let waits = match Token::unpack(letter.token) {
                Token::Client(key) => self
                    .sessions
                    .get(key)
                    .is_some_and(|session| session.ticket.is_some())
                    .then_some(key),
                _ => None,
            };
            match waits {
                Some(key) => self.granted(key, &letter),
                None => give_back(&letter),
            }
        }
    }

    fn granted(&mut self, key: Key, letter: &Letter) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.ticket = None;
        add(&mut session.waited, letter.grant.waited);
        let waited = self.now_ms.saturating_sub(session.start_ms);
        session.queue_ms = Some(u32::try_from(waited).unwrap_or(u32::MAX));
        session.phase_end_ms = 0;
        session.step(Step::Granted);
        let chosen = match letter.grant.member {
            Some(member) => self.take_server(key, member),
            None => self.choose(key, None),
        };
        if chosen == Chosen::Now {
            self.note_queued_redispatch(key);
            self.attempt(key);
        }
    }

    /// A session that was to go elsewhere waited for it: did it get there?
    fn note_queued_redispatch(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let before = session.leaving.take();
        let backend: Option<Arc<Backend>> = session.route.backend.clone();
        if let (Some(before), Some(backend)) = (before, backend) {
            self.note_redispatch(key, &backend, before);
        }
    }
}

fn add(to: &mut Waited, more: Waited) {
    to.server = to.server.saturating_add(more.server);
    to.backend = to.backend.saturating_add(more.backend);
}
