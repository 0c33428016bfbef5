//! Calls and answers: the alphabet that the model, the live runner and every script share.
//!
//! Decides:  nothing; plain data, so that a script can be kept, shrunk, printed and replayed.
//! Not here: the answers themselves (one file for each call).

use core::fmt;
use core::net::SocketAddr;

use crate::addr::SockAddr;
use crate::errno::Errno;
use crate::host::{ProcessId, Uid};
use crate::world::SocketId;

/// A call on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// `setsockopt`.
    Set(Opt),
    /// `setsockopt` with another length than the value's: its first bytes, or zeros behind it.
    SetLen(Opt, i32),
    /// `getsockopt`.
    Get(OptName),
    /// `getsockopt` with this much room for the value: too little, too much, or negative.
    GetLen(OptName, i32),
    /// `bind`.
    Bind(SockAddr),
    /// `listen` with this backlog.
    Listen(i32),
    /// `connect`; `AF_UNSPEC` disconnects.
    Connect(SockAddr),
    /// `accept`.
    Accept,
    /// `shutdown` with this `how`, any value: 0 reads, 1 writes, 2 both.
    Shutdown(i32),
    /// `close` of one descriptor: the last one releases the socket.
    Close,
    /// `dup`: one more descriptor in the caller's table.
    Dup,
    /// The descriptor is sent to this process through a Unix socket (`SCM_RIGHTS`), and received.
    Pass(ProcessId),
    /// `fchown` to this user.
    Fchown(Uid),
    /// `fcntl` sets or clears `O_NONBLOCK`.
    SetNonblocking(bool),
    /// `getsockname`.
    GetSockName,
    /// `getpeername`.
    GetPeerName,
}

/// An option and the value to give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opt {
    /// `SO_REUSEADDR`.
    ReuseAddr(bool),
    /// `SO_REUSEPORT`.
    ReusePort(bool),
    /// `IPV6_V6ONLY`.
    V6Only(bool),
    /// `IP_FREEBIND`.
    Freebind(bool),
    /// `IPV6_FREEBIND`.
    Freebind6(bool),
    /// `IP_TRANSPARENT`.
    Transparent(bool),
    /// `IPV6_TRANSPARENT`.
    Transparent6(bool),
    /// `SO_BINDTODEVICE`, by index; 0 lifts it; an index that does not exist stands for a name that
    /// does not.
    BindToDevice(u32),
    /// `SO_BINDTOIFINDEX`: any index is taken.
    BindToIfindex(i32),
    /// `IP_BIND_ADDRESS_NO_PORT`.
    BindAddressNoPort(bool),
    /// `IP_LOCAL_PORT_RANGE`: the low port in the low half, the high one in the high half.
    LocalPortRange(u32),
    /// `SO_LINGER`: seconds, or off.
    Linger(Option<u16>),
    /// `SO_INCOMING_CPU`.
    IncomingCpu(i32),
    /// `SO_ATTACH_REUSEPORT_CBPF` with a program that always answers this index.
    ReuseportCbpf(Program),
    /// `SO_DETACH_REUSEPORT_BPF`.
    DetachReuseport,
    /// `TCP_REPAIR`: 1 on, 0 off, -1 off without a window probe.
    Repair(i32),
    /// `TCP_FASTOPEN`: the length of the queue.
    FastOpen(i32),
    /// `TCP_DEFER_ACCEPT`: seconds.
    DeferAccept(i32),
}

/// A classic BPF program, as far as the model runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// `return N`.
    Index(u32),
    /// `return cpu % N`: the processor that handles the SYN.
    CpuModulo(u32),
}

/// An option to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OptName {
    /// `SO_REUSEADDR`: 2 while `TCP_REPAIR` forces it.
    ReuseAddr,
    /// `SO_REUSEPORT`.
    ReusePort,
    /// `IPV6_V6ONLY`.
    V6Only,
    /// `IP_FREEBIND`.
    Freebind,
    /// `IP_TRANSPARENT`.
    Transparent,
    /// `IPV6_FREEBIND`.
    Freebind6,
    /// `IPV6_TRANSPARENT`.
    Transparent6,
    /// `SO_BINDTODEVICE`: the index of the device that it names, 0 for none.
    BindToDevice,
    /// `SO_BINDTOIFINDEX`.
    BindToIfindex,
    /// `IP_BIND_ADDRESS_NO_PORT`.
    BindAddressNoPort,
    /// `IP_LOCAL_PORT_RANGE`.
    LocalPortRange,
    /// `SO_LINGER`: seconds, or -1 for off.
    Linger,
    /// `SO_INCOMING_CPU`.
    IncomingCpu,
    /// `SO_ACCEPTCONN`.
    AcceptConn,
    /// `SO_ERROR`; reading it clears it.
    Error,
    /// `TCP_REPAIR`.
    Repair,
    /// `TCP_FASTOPEN`.
    FastOpen,
    /// `TCP_DEFER_ACCEPT`: seconds, rounded as retransmissions go.
    DeferAccept,
    /// The state, as `TCP_INFO` tells it.
    State,
}

/// What a call answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Success without a value.
    Ok,
    /// An error.
    Err(Errno),
    /// An option's value.
    Value(i32),
    /// What `getsockopt` wrote, with the room that it was given.
    Bytes(Bytes),
    /// An address, of `getsockname` or `getpeername`, with its scope for IPv6.
    Address(SocketAddr),
    /// `accept`'s new socket.
    Accepted(SocketId),
    /// The call would wait: a blocking `accept` or `connect` on a socket without `O_NONBLOCK`.
    Blocks,
}

/// An option's value as its bytes stand in memory, on a little-endian machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Bytes {
    bytes: [u8; Bytes::MAX],
    len: u8,
}

impl Bytes {
    /// The longest value: a device's name with its end.
    pub const MAX: usize = 16;

    /// Of these bytes, the first [`Bytes::MAX`].
    #[must_use]
    pub fn new(of: &[u8]) -> Bytes {
        let len = of.len().min(Bytes::MAX);
        let mut bytes = [0; Bytes::MAX];
        bytes[..len].copy_from_slice(&of[..len]);
        Bytes {
            bytes,
            len: len as u8,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Reads what [`Bytes`] is shown as, `0x01000000`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Bytes> {
        let digits = text.strip_prefix("0x")?.as_bytes();
        let (pairs, odd) = digits.as_chunks::<2>();
        if !odd.is_empty() || pairs.len() > Bytes::MAX {
            return None;
        }
        let mut bytes = [0; Bytes::MAX];
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = (digit(0)? << 4 | digit(1)?) as u8;
        }
        Some(Bytes::new(&bytes[..pairs.len()]))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.as_slice()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Answer {
    /// The error, if it is one.
    #[must_use]
    pub const fn error(self) -> Option<Errno> {
        match self {
            Answer::Err(errno) => Some(errno),
            _ => None,
        }
    }

    /// Whether it is [`Answer::Ok`].
    #[must_use]
    pub const fn is_ok(self) -> bool {
        matches!(self, Answer::Ok)
    }
}

impl From<Result<(), Errno>> for Answer {
    fn from(result: Result<(), Errno>) -> Answer {
        match result {
            Ok(()) => Answer::Ok,
            Err(errno) => Answer::Err(errno),
        }
    }
}

/// The state of a TCP socket, with the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// `TCP_ESTABLISHED`.
    Established = 1,
    /// `TCP_SYN_SENT`.
    SynSent = 2,
    /// `TCP_SYN_RECV`: its SYN and the peer's have crossed.
    SynRecv = 3,
    /// `TCP_FIN_WAIT1`.
    FinWait1 = 4,
    /// `TCP_FIN_WAIT2`.
    FinWait2 = 5,
    /// `TCP_TIME_WAIT`.
    TimeWait = 6,
    /// `TCP_CLOSE`.
    Close = 7,
    /// `TCP_CLOSE_WAIT`.
    CloseWait = 8,
    /// `TCP_LAST_ACK`.
    LastAck = 9,
    /// `TCP_LISTEN`.
    Listen = 10,
    /// `TCP_CLOSING`: both sides closed at once.
    Closing = 11,
    /// `TCP_NEW_SYN_RECV`: a half-open connection, which no descriptor holds.
    NewSynRecv = 12,
}
