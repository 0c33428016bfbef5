//! The worker's boundary with the kernel: what a session may ask of sockets, listeners and pipes.
//!
//! Decides:  every call is one step that does not block; an error is an errno, for the caller to judge.
//! Not here: the real one (net/linux.rs); the simulated one, which injects faults (net/simulated.rs).

use rustix::io::Errno;

use std::net::SocketAddr;

use crate::record::PeerAddress;
use crate::snapshot::{Keepalive, Server, Sharing};
use crate::source::{Lease, NoAddress};

pub mod linux;
#[cfg(test)]
pub(crate) mod simulated;

/// What is ready at a descriptor, as an event tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, or an end, can be read.
    pub readable: bool,
    /// Bytes can be written.
    pub writable: bool,
    /// The peer will send no more (RDHUP), or the connection is over (HUP).
    pub hung_up: bool,
    /// The connection failed.
    pub failed: bool,
    /// The stream has an urgent mark (`MSG_OOB`): a read stops there, whatever follows.
    pub urgent: bool,
}

/// The options of an accepted connection that its listener does not pass on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// `SO_KEEPALIVE` and its times.
    pub keepalive: Option<Keepalive>,
    /// `SO_LINGER` 0: closing resets.
    pub no_linger: bool,
    /// `SO_RCVBUF`
    pub receive_buffer: Option<u32>,
    /// `SO_SNDBUF`
    pub send_buffer: Option<u32>,
}

/// How to connect to a server.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions<'a> {
    /// Where, and its own options.
    pub server: &'a Server,
    /// Where the client comes from, by itself or by a PROXY header.
    pub client: PeerAddress,
    /// What a PROXY header said that the client connected to.
    pub destination: Option<SocketAddr>,
    /// It is the session's first attempt.
    pub first: bool,
    /// `SO_KEEPALIVE` and its times.
    pub keepalive: Option<Keepalive>,
    /// `SO_LINGER` 0: closing resets.
    pub no_linger: bool,
    /// `TCP_QUICKACK` off if the client's data waits already: the ACK then carries the data.
    pub smart_connect: bool,
    /// `SO_RCVBUF`
    pub receive_buffer: Option<u32>,
    /// `SO_SNDBUF`
    pub send_buffer: Option<u32>,
}

/// A connection to a server that was begun.
#[derive(Debug)]
pub struct Begun<S> {
    /// The socket, not watched yet.
    pub socket: S,
    /// The source port that is lent to it; to be kept until it is closed.
    pub lease: Option<Box<Lease>>,
    /// Is it connected already?
    pub connected: bool,
    /// How many options the kernel refused.
    pub refused_options: u32,
    /// Descriptors had run out; the reserved one was given up for it.
    pub used_reserve: bool,
}

/// Why a connection to a server was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unconnected {
    /// Our own end could not be bound.
    NoAddress(NoAddress),
    /// Anything else.
    Failed(Errno),
}

impl From<Errno> for Unconnected {
    fn from(error: Errno) -> Self {
        match error {
            // connect(2) chooses the port where none is bound, and says so when there is none.
            Errno::ADDRNOTAVAIL | Errno::AGAIN => Unconnected::NoAddress(NoAddress::Ports),
            Errno::ADDRINUSE => Unconnected::NoAddress(NoAddress::InUse),
            error => Unconnected::Failed(error),
        }
    }
}

/// What comes after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing that is known of.
    Wait,
    /// More bytes, soon: those that do not fill a segment may wait for them.
    More,
    /// The end, at once: it may travel in the same segment.
    End,
}

/// What a connection is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// What it sends, and its end.
    Reading,
    /// Room to write too.
    Both,
}

/// How a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// What was written is still delivered.
    Orderly,
    /// The peer sees a reset.
    Reset,
}

/// Sockets, listeners and pipes.
pub trait Net {
    /// A connection; dropping it closes it.
    type Socket;
    /// A listening socket.
    type Listener;
    /// A pipe for splicing; dropping it closes it.
    type Pipe;

    /// Polls a listener.
    fn watch_listener(
        &mut self,
        listener: &Self::Listener,
        sharing: Sharing,
        token: u64,
    ) -> Result<(), Errno>;

    /// Polls a listener no more.
    fn unwatch_listener(&mut self, listener: &Self::Listener);

    /// What tells this listener from all others that are open.
    fn listener_id(&self, listener: &Self::Listener) -> u64;

    /// Do connections accepted from this listener begin with `TCP_NODELAY` (or need none)?
    fn inherits_no_delay(&mut self, listener: &Self::Listener) -> bool;

    /// Takes the next connection from the queue.
    fn accept(
        &mut self,
        listener: &Self::Listener,
        options: &ClientOptions,
    ) -> Result<(Self::Socket, PeerAddress), Errno>;

    /// The address that the client connected to.
    fn local_address(&mut self, client: &Self::Socket) -> Result<PeerAddress, Errno>;

    /// Begins a connection to a server.
    fn connect(
        &mut self,
        client: &Self::Socket,
        options: &ConnectOptions<'_>,
    ) -> Result<Begun<Self::Socket>, Unconnected>;

    /// How a begun connection came out, once an event spoke of it.
    fn connect_outcome(&mut self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Polls a connection, edge-triggered, from now on for its life.
    fn watch(&mut self, socket: &Self::Socket, token: u64, interest: Interest)
    -> Result<(), Errno>;

    /// Polls a connection that was watched for reading for everything.
    fn watch_both(&mut self, socket: &Self::Socket, token: u64) -> Result<(), Errno>;

    /// Reads; 0 is the end.
    fn read(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Reads and leaves it there; 0 is the end.
    fn peek(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes.
    fn write(&mut self, socket: &Self::Socket, bytes: &[u8], then: Then) -> Result<usize, Errno>;

    /// Sends the end.
    fn shut_down(&mut self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Closes.
    fn close(&mut self, socket: Self::Socket, how: Close);

    /// Bytes (and an end does not count) that wait to be read.
    fn unread(&mut self, socket: &Self::Socket) -> usize;

    /// Bytes written that were not sent yet.
    fn unsent(&mut self, socket: &Self::Socket) -> usize;

    /// `TCP_NODELAY`, where the socket has it.
    fn set_no_delay(&mut self, socket: &Self::Socket);

    /// `SO_RCVLOWAT`: fewer bytes than this are not told of. An end or an error is.
    fn set_low_water(&mut self, socket: &Self::Socket, bytes: u32);

    /// A pipe that holds `size` bytes, or what the limits allow, and how much that is.
    fn pipe(&mut self, size: u32) -> Result<(Self::Pipe, u32), Errno>;

    /// Moves up to `length` bytes from a connection to a pipe; 0 is the end.
    fn splice_in(
        &mut self,
        from: &Self::Socket,
        pipe: &Self::Pipe,
        length: usize,
    ) -> Result<usize, Errno>;

    /// Moves up to `length` bytes from a pipe to a connection.
    fn splice_out(
        &mut self,
        pipe: &Self::Pipe,
        to: &Self::Socket,
        length: usize,
        then: Then,
    ) -> Result<usize, Errno>;

    /// Takes the reserved descriptor back if it was used. False: there is none to be had.
    fn restore_reserve(&mut self) -> bool;

    /// A number nobody can foresee.
    fn random(&mut self) -> u64;
}
