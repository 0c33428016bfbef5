//! What is remembered of a session once it is over, and how it leaves the worker.
//!
//! Decides:  the facts of a log line, the letters of a termination state, and that a full queue
//!           drops (and counts) rather than blocks.
//! Source:   HAProxy 3.5-dev5, doc/configuration.txt chapter 8.5 "Session state at disconnection".
//! Not here: how a record is written as text (log), where it goes (the control plane).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::proxy_protocol::Fault;
use crate::snapshot::{Backend, Frontend, Server};
use crate::source::NoAddress;

/// The other end of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAddress {
    /// Over IP.
    Ip(SocketAddr),
    /// Over a Unix socket: its peer has no name worth telling.
    Unix,
}

/// Why a session ended: the first letter of the termination state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// `-`: both sides closed.
    Normal,
    /// `C`: the client aborted.
    ClientAbort,
    /// `S`: the server aborted or refused, or there is none.
    ServerAbort,
    /// `c`: the client's time ran out.
    ClientTimeout,
    /// `s`: the server's time ran out.
    ServerTimeout,
    /// `R`: descriptors, memory or ports ran out here.
    Resource,
    /// `K`: ended by an operator, or by the process's end.
    Killed,
    /// `L`: dealt with here, by policy.
    Local,
    /// `D`: the server was marked down and its sessions ended with it.
    Down,
    /// `U`: a backup's session, ended because an active server came up.
    Up,
    /// `I`: an error of ours.
    Internal,
    /// `M`: it had lasted as long as `timeout lifetime` allows.
    Lifetime,
    /// `A`: it was as old as `timeout drain-age` allows once no new sessions were taken.
    Drained,
}

/// In which phase it ended: the second letter of the termination state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndPhase {
    /// `-`: after the end of transfers.
    Over,
    /// `Q`: waiting for a free server.
    Queue,
    /// `C`: connecting to the server.
    Connect,
    /// `D`: data flowed.
    Data,
    /// `L`: the server was done, the last data was going to the client.
    LastData,
}

/// How a session ended: `--`, `CD`, `sC`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Termination {
    /// Why.
    pub cause: EndCause,
    /// When.
    pub phase: EndPhase,
}

impl Termination {
    /// Both sides closed and nothing was lost.
    pub const NORMAL: Termination = Termination {
        cause: EndCause::Normal,
        phase: EndPhase::Over,
    };

    /// The two letters.
    pub fn letters(self) -> [char; 2] {
        let cause = match self.cause {
            EndCause::Normal => '-',
            EndCause::ClientAbort => 'C',
            EndCause::ServerAbort => 'S',
            EndCause::ClientTimeout => 'c',
            EndCause::ServerTimeout => 's',
            EndCause::Resource => 'R',
            EndCause::Killed => 'K',
            EndCause::Local => 'L',
            EndCause::Down => 'D',
            EndCause::Up => 'U',
            EndCause::Internal => 'I',
            EndCause::Lifetime => 'M',
            EndCause::Drained => 'A',
        };
        let phase = match self.phase {
            EndPhase::Over => '-',
            EndPhase::Queue => 'Q',
            EndPhase::Connect => 'C',
            EndPhase::Data => 'D',
            EndPhase::LastData => 'L',
        };
        [cause, phase]
    }
}

impl std::fmt::Display for Termination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [cause, phase] = self.letters();
        write!(f, "{cause}{phase}")
    }
}

/// At what moment of a session a record was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// At accept: for the one-line "Connect from" log. Only addresses and counts are meaningful.
    Accepted,
    /// When a server was connected, with `option logasap`: what is counted still grows.
    Connected,
    /// At the end.
    Ended,
    /// At the end of a connection that never became a session: it had no PROXY header.
    Refused(Fault),
    /// When a connection to a server got no address of ours, for the first time in its session.
    NoAddress(NoAddress),
}

/// The facts of one session.
#[derive(Debug, Clone)]
pub struct SessionRecord {
    /// Made at accept, when a server was connected, or at the end.
    pub kind: RecordKind,
    /// Where the connection came in.
    pub frontend: Arc<Frontend>,
    /// Where it went; `None`: the frontend had no backend.
    pub backend: Option<Arc<Backend>>,
    /// The last server tried; `None`: no server could be chosen (`<NOSRV>`).
    pub server: Option<Arc<Server>>,
    /// The client.
    pub client: PeerAddress,
    /// The number of the listener in its frontend, which a Unix client is logged with.
    pub listener: u32,
    /// The name of the listener, with [`RecordKind::Refused`], if it has one.
    pub listener_name: Option<Arc<str>>,
    /// The address that the client connected to; only with [`RecordKind::Accepted`].
    pub local: Option<PeerAddress>,
    /// Wall-clock time of accept, ms since 1970 UTC.
    pub accepted_ms: u64,
    /// `%Tw`: ms in queues; `None`: never got through them.
    pub queue_ms: Option<u64>,
    /// `%Tc`: ms from the choice of a server to its connection, retries included; `None`: never connected.
    pub connect_ms: Option<u64>,
    /// `%Tt`: ms from accept to the end.
    pub total_ms: u64,
    /// `%U`: bytes from the client.
    pub bytes_in: u64,
    /// `%B`: bytes to the client.
    pub bytes_out: u64,
    /// `%ts`
    pub termination: Termination,
    /// `%ac`: connections of the process, this one counted.
    pub process_connections: u32,
    /// `%fc`: connections of the frontend, this one counted.
    pub frontend_connections: u32,
    /// `%bc`: connections of the backend, this one no longer counted.
    pub backend_connections: u32,
    /// `%sc`: connections of the server, this one no longer counted.
    pub server_connections: u32,
    /// `%rc`: connection attempts after the first.
    pub retries: u32,
    /// The `+` before `%rc`: a retry went to another server.
    pub redispatched: bool,
    /// `%sq`: sessions that were before this one in the server's queue.
    pub server_queue: u32,
    /// `%bq`: sessions that were before this one in the backend's queue.
    pub backend_queue: u32,
}

impl SessionRecord {
    /// Is it anything but an ordinary session (what `option dontlog-normal` still logs, and what
    /// `option log-separate-errors` raises in level)?
    pub fn is_error(&self) -> bool {
        self.redispatched
            || self.retries > 0
            || !matches!(self.termination.cause, EndCause::Normal | EndCause::Local)
    }
}

/// A live view of a session, for whoever watches (the demo).
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// Connected to a server.
    Opened {
        /// Counts up in one worker.
        id: u64,
        /// Of which worker.
        worker: u32,
        /// The client.
        client: PeerAddress,
        /// Where it came in.
        frontend: Arc<Frontend>,
        /// Where it went.
        backend: Arc<Backend>,
        /// The server.
        server: Arc<Server>,
    },
    /// Over, connected or not.
    Closed {
        /// Counts up in one worker.
        id: u64,
        /// Of which worker.
        worker: u32,
        /// All about it.
        record: Box<SessionRecord>,
    },
}

/// The worker's end of a bounded queue: never blocks, drops and counts when it is full.
#[derive(Debug)]
pub struct Sink<T> {
    sender: mpsc::SyncSender<T>,
    dropped: Arc<AtomicU64>,
}

impl<T> Clone for Sink<T> {
    fn clone(&self) -> Self {
        Sink {
            sender: self.sender.clone(),
            dropped: Arc::clone(&self.dropped),
        }
    }
}

/// The reader's end of a [`Sink`]. Reading ends when every sink is gone.
#[derive(Debug)]
pub struct Source<T> {
    receiver: mpsc::Receiver<T>,
    dropped: Arc<AtomicU64>,
}

/// Where session records go.
pub type LogSink = Sink<SessionRecord>;
/// Where session records are read.
pub type LogSource = Source<SessionRecord>;
/// Where live events go.
pub type ObserverSink = Sink<SessionEvent>;
/// Where live events are read.
pub type ObserverSource = Source<SessionEvent>;

/// A queue of at most `capacity` items from any number of workers to one reader.
pub fn bounded<T>(capacity: usize) -> (Sink<T>, Source<T>) {
    let (sender, receiver) = mpsc::sync_channel(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    (
        Sink {
            sender,
            dropped: Arc::clone(&dropped),
        },
        Source { receiver, dropped },
    )
}

impl<T> Sink<T> {
    /// Hands `item` over, or counts it as dropped.
    pub fn send(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<T> Source<T> {
    /// The channel itself: `recv`, `try_recv`, `recv_timeout`, iteration.
    pub fn receiver(&self) -> &mpsc::Receiver<T> {
        &self.receiver
    }

    /// How many items were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_and_counts_and_keeps_what_it_has() {
        let (sink, source) = bounded(2);
        for item in 0..5 {
            sink.send(item);
        }
        assert_eq!(source.dropped(), 3);
        drop(sink);
        assert_eq!(source.receiver().iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn termination_is_two_letters() {
        assert_eq!(Termination::NORMAL.to_string(), "--");
        let timeout = Termination {
            cause: EndCause::ServerTimeout,
            phase: EndPhase::Connect,
        };
        assert_eq!(timeout.to_string(), "sC");
    }
}
