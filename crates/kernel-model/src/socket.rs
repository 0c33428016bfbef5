//! One socket: the fields that a rule reads.
//!
//! Decides:  which fields belong to the descriptor (its holders, blocking, connect's progress) and
//!           which to the protocol's half that can outlive it.
//! Kernel:   include/net/sock.h, struct sock; include/net/inet_sock.h, struct inet_sock;
//!           include/net/inet_timewait_sock.h, 3.9 to 6.18
//! Not here: the buckets, chains and groups that it stands in.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::addr::Family;
use crate::bucket::{BucketIx, OwnersIx};
use crate::call::State;
use crate::errno::Errno;
use crate::host::{FilesId, NetId, Uid};
use crate::reuseport::GroupIx;
use crate::wire::Tuple;

/// A socket's place in the slab.
pub(crate) type SockIx = u32;
/// No socket.
pub(crate) const NONE: u32 = u32::MAX;

/// `sk_reuse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Reuse {
    No = 0,
    Can = 1,
    /// `TCP_REPAIR` is on.
    Force = 2,
}

/// `socket->state`: how far `connect` came, from the descriptor's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Unconnected,
    Connecting,
    Connected,
    Disconnecting,
}

/// Which table finds the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashed {
    No,
    Listening,
    Established,
}

/// The address was bound by the user (`SOCK_BINDADDR_LOCK`).
pub(crate) const ADDR_LOCK: u8 = 1;
/// The port was bound by the user (`SOCK_BINDPORT_LOCK`).
pub(crate) const PORT_LOCK: u8 = 2;
/// The port was chosen by connect (`SOCK_CONNECT_BIND`).
pub(crate) const CONNECT_BIND: u8 = 4;

/// `SHUT_RD`'s bit.
pub(crate) const RCV_SHUTDOWN: u8 = 1;
/// `SHUT_WR`'s bit.
pub(crate) const SEND_SHUTDOWN: u8 = 2;

#[derive(Debug, Clone)]
pub(crate) struct Sock {
    /// Counts the lives of this place, so that an old handle is seen.
    pub generation: u32,
    /// The protocol's half exists.
    pub alive: bool,
    /// Descriptors that hold it; 0 for orphans, children not yet accepted and TIME_WAIT.
    pub holders: u32,
    /// In which tables they are, and their numbers there; the newest last.
    pub held: Vec<(FilesId, u32)>,
    /// No descriptor will ever name it again (`SOCK_DEAD`).
    pub dead: bool,
    pub nonblocking: bool,
    pub progress: Progress,

    pub net: NetId,
    pub family: Family,
    pub state: State,
    /// Of a TIME_WAIT socket: FIN_WAIT2 while the peer's FIN is missing.
    pub substate: State,
    pub uid: Uid,
    pub reuse: Reuse,
    pub reuseport: bool,
    pub v6only: bool,
    pub device: u32,
    pub locks: u8,
    pub shutdown: u8,
    pub error: Option<Errno>,
    /// An error that ends nothing, and that SO_ERROR tells after the other (`sk_err_soft`).
    pub soft_error: Option<Errno>,

    /// Where it receives (`rcv_saddr`), where it sends from (`saddr`; over IPv6 that is the same), the peer.
    pub rcv4: u32,
    pub src4: u32,
    pub peer4: u32,
    pub rcv6: u128,
    pub peer6: u128,
    /// The port that the bucket knows; 0 while unbound.
    pub num: u16,
    /// The port that `getsockname` tells: it stays when the bucket's is given back.
    pub sport: u16,
    pub dport: u16,

    pub freebind: bool,
    pub transparent: bool,
    pub bind_address_no_port: bool,
    pub local_port_range: u32,
    pub linger_on: bool,
    pub linger_s: u16,
    pub incoming_cpu: i32,
    pub repair: bool,
    /// An IPv6 socket that has connected to a mapped address sends through IPv4 ever after.
    pub sends_ipv4: bool,
    /// Its connection was made up under TCP_REPAIR: the peer never opened a window.
    pub windowless: bool,
    /// The route that it keeps was found with `IP_TRANSPARENT` on (`sk_dst_cache`).
    pub routed_any: bool,
    /// Both ends sent timestamps, which a handshake settles.
    pub timestamps: bool,
    /// The ends between which its sequence numbers began by the clock; `None`: nowhere, as after a
    /// disconnect before any connection (`tcp_disconnect()` goes on from the last number, or from 0).
    pub numbers_of: Option<Tuple>,
    /// Its peer's numbers did not begin by the clock of these two ends.
    pub peer_astray: bool,
    pub fastopen_queue: u32,
    /// `TCP_DEFER_ACCEPT` in retransmissions.
    pub defer_accept: u8,

    pub bucket: Option<BucketIx>,
    /// Its neighbours among the owners of its address.
    pub older_owner: SockIx,
    pub newer_owner: SockIx,
    pub owners: Option<OwnersIx>,
    pub group: Option<GroupIx>,
    pub hashed: Hashed,
    /// Of a listener: its chain (chain.rs), and its neighbours there.
    pub chain: u32,
    pub previous_listener: SockIx,
    pub next_listener: SockIx,
    /// When its timer fires, and its place among those that fire then.
    pub deadline: Option<(u64, u64)>,

    /// Of a listener: the limit, and who waits to be accepted.
    pub backlog: u32,
    pub queue: VecDeque<SockIx>,
    /// Of a child in such a queue, and of a half-open connection: the listener.
    pub parent: u32,
    /// Of a listener: how many connections are half open; they keep its place until they end.
    pub requests: u32,
    /// How many the kernel counts, which can fall below zero: a half-open connection of a listener that
    /// is gone is counted there, and taken off the one that its reset moved it to (tcp_check_req()).
    pub syn_queue_len: i32,
    /// It is gone but for them.
    pub awaited: bool,
    /// It has answered SYNs by cookies.
    pub cookies_given: bool,

    /// `snd_una`, `snd_nxt`, `rcv_nxt`; of a half-open connection the first is that of its SYN.
    pub snd_una: u32,
    pub snd_nxt: u32,
    pub rcv_nxt: u32,
    /// How much of this connection was acknowledged (`bytes_acked`): as far back, an acknowledgement is
    /// only late.
    pub acked_len: u32,
    /// The largest window that the peer has opened.
    pub max_window: u32,
    /// How often the SYN, or a half-open connection's answer, was sent again.
    pub retries: u8,
    /// Its SYN waits for a neighbour's link address.
    pub searching: bool,
    /// A half-open connection whose last acknowledgement came, but did not count.
    pub acked: bool,
    /// The handshake's last acknowledgement is held back.
    pub ack_held: bool,
    /// When it last answered what it cannot use, plus one; 0 for never.
    pub complained: u64,
}

impl Sock {
    const FRESH: Sock = Sock {
        generation: 0,
        alive: false,
        holders: 0,
        held: Vec::new(),
        dead: false,
        nonblocking: false,
        progress: Progress::Unconnected,
        net: NetId(0),
        family: Family::Inet,
        state: State::Close,
        substate: State::Close,
        uid: Uid(0),
        reuse: Reuse::No,
        reuseport: false,
        v6only: false,
        device: 0,
        locks: 0,
        shutdown: 0,
        error: None,
        soft_error: None,
        rcv4: 0,
        src4: 0,
        peer4: 0,
        rcv6: 0,
        peer6: 0,
        num: 0,
        sport: 0,
        dport: 0,
        freebind: false,
        transparent: false,
        bind_address_no_port: false,
        local_port_range: 0,
        linger_on: false,
        linger_s: 0,
        incoming_cpu: -1,
        repair: false,
        sends_ipv4: false,
        windowless: false,
        routed_any: false,
        timestamps: false,
        numbers_of: None,
        peer_astray: false,
        fastopen_queue: 0,
        defer_accept: 0,
        bucket: None,
        older_owner: NONE,
        newer_owner: NONE,
        owners: None,
        group: None,
        hashed: Hashed::No,
        chain: NONE,
        previous_listener: NONE,
        next_listener: NONE,
        deadline: None,
        backlog: 0,
        queue: VecDeque::new(),
        parent: NONE,
        requests: 0,
        syn_queue_len: 0,
        awaited: false,
        cookies_given: false,
        snd_una: 0,
        snd_nxt: 0,
        rcv_nxt: 0,
        acked_len: 0,
        max_window: 0,
        retries: 0,
        searching: false,
        acked: false,
        ack_held: false,
        complained: 0,
    };

    pub(crate) fn fresh() -> Sock {
        Sock::FRESH
    }

    /// Makes a used place fresh; only the room of its lists and the count of lives stay.
    pub(crate) fn renew(&mut self) {
        debug_assert!(self.queue.is_empty() && self.held.is_empty());
        *self = Sock {
            generation: self.generation,
            queue: core::mem::take(&mut self.queue),
            held: core::mem::take(&mut self.held),
            ..Sock::fresh()
        };
    }

    pub(crate) fn locked(&self, lock: u8) -> bool {
        self.locks & lock != 0
    }

    /// The address under which the second hash and the listeners' hash know it.
    pub(crate) fn hash_addr(&self) -> u128 {
        match self.family {
            Family::Inet => crate::addr::mapped(self.rcv4),
            Family::Inet6 => self.rcv6,
        }
    }

    /// Forgets the local address (`inet_reset_saddr`).
    pub(crate) fn reset_addr(&mut self) {
        self.rcv4 = 0;
        self.src4 = 0;
        if self.family == Family::Inet6 {
            self.rcv6 = 0;
        }
    }
}
