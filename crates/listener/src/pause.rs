//! A listener that takes no new connections for a while, and loses none.
//!
//! Decides:  the filter: a SYN is dropped as if the network had lost it, anything else passes; whose filter it
//!           is, so that another one is never taken off or replaced; a minimum TTL where no filter is allowed.
//! Kernel:   net/ipv4/tcp_ipv4.c, tcp_v4_rcv(): tcp_filter() runs on the listener for SYNs, and for what comes
//!           to its half-open connections; net/core/sock.c, sk_clone(): what is accepted begins with the
//!           listener's filter; net/mptcp/sockopt.c: EOPNOTSUPP, 4.4 to 6.18
//! Not here: the close (retire.rs); the minimum TTL (pause/min_ttl.rs).
//!
//! A client sends its SYN again after 1 s, then after 3, 7 and 15 s: a short pause only makes it wait.
//! Connections under way, those half-open (their last acknowledgement, its repetitions, data) and those that
//! wait for `accept` go on. So does the end of a handshake by SYN cookie, which is an acknowledgement. A SYN
//! with data (TCP Fast Open) is dropped too: the client sends both again, the SYN without the data first.
//!
//! The filter belongs to the socket, not to the process: who takes a listener over calls [`resume`].
//!
//! A filter needs CAP_NET_ADMIN over the socket's network namespace since Linux commit 5d39580f68e6 (2026;
//! 6.18.44 has it). Without it a minimum TTL keeps SYNs away, which is coarser ([`min_ttl`]): who pauses as an
//! ordinary user asks [`min_ttl::used`] at each `accept`, and calls [`min_ttl::admit`].

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use portcullis_sys::filter::{self, Instruction};
use rustix::io::Errno;
use rustix::net::{AddressFamily, ipproto, sockopt};

pub mod min_ttl;

/// Byte 13 of the TCP header, where a filter's packet begins: neither ACK nor anything but SYN of these two.
const DROP_SYNS: [Instruction; 5] = [
    (0x30, 0, 0, 13),      // ldb [13]
    (0x54, 0, 0, 0x12),    // and SYN | ACK
    (0x15, 0, 1, 0x02),    // SYN alone?
    (0x06, 0, 0, 0),       // then nothing of it is kept,
    (0x06, 0, 0, 0x40000), // else all
];

/// Of a listener that nothing depends on, in its last moment.
const DROP_ALL: [Instruction; 1] = [(0x06, 0, 0, 0)];

/// What can be done to keep new connections from a listener depends on what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// TCP over IPv4 or IPv6: programs and filters.
    Tcp,
    /// Multipath TCP: takes neither.
    Mptcp,
    /// A Unix socket, where filters do not see `connect`.
    Unix,
    /// Something else.
    Other,
}

/// What a socket is, by `SO_DOMAIN` and `SO_PROTOCOL`.
pub fn kind(listener: impl AsFd) -> io::Result<Kind> {
    let listener = listener.as_fd();
    Ok(match sockopt::socket_domain(listener)? {
        AddressFamily::UNIX => Kind::Unix,
        AddressFamily::INET | AddressFamily::INET6 => match sockopt::socket_protocol(listener)? {
            Some(ipproto::TCP) => Kind::Tcp,
            Some(ipproto::MPTCP) => Kind::Mptcp,
            _ => Kind::Other,
        },
        _ => Kind::Other,
    })
}

/// Why a listener cannot be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CannotPause {
    /// Only plain TCP sockets can.
    NotTcp(Kind),
    /// It has a filter already, of somebody else, which may keep out more than we know.
    ForeignFilter,
    /// It takes no filter without a capability, and has a minimum TTL of somebody else (`IP_MINTTL` or
    /// `IPV6_MINHOPCOUNT`), in whose place ours would be.
    ForeignMinTtl(u8),
    /// The kernel refused: `ENOMEM` with a small `net.core.optmem_max`.
    Refused(Errno),
}

impl fmt::Display for CannotPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotPause::NotTcp(Kind::Mptcp) => {
                f.write_str("a Multipath TCP socket takes no filter, so it cannot be paused")
            }
            CannotPause::NotTcp(Kind::Unix) => {
                f.write_str("no filter sees who connects to a Unix socket, so it cannot be paused")
            }
            CannotPause::NotTcp(_) => f.write_str("only a TCP socket can be paused"),
            CannotPause::ForeignFilter => {
                f.write_str("the socket has a filter of somebody else, which stays")
            }
            CannotPause::ForeignMinTtl(ttl) => write!(
                f,
                "without CAP_NET_ADMIN the kernel allows no filter, and the socket has a minimum TTL of {ttl}, of \
                 somebody else, which stays"
            ),
            CannotPause::Refused(errno) => {
                let errno = portcullis_sys::errno::describe(errno.raw_os_error());
                write!(f, "the socket takes no filter: {errno}")
            }
        }
    }
}

impl std::error::Error for CannotPause {}

/// Drops new SYNs from now on; its queue is kept and can be served. Nothing changes where it is paused already.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Duration;
/// use portcullis_listener::pause;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// pause::pause(&listener)?;
/// let early = TcpStream::connect_timeout(&address, Duration::from_millis(50));
/// assert!(early.is_err()); // silence
/// pause::resume(&listener)?;
/// TcpStream::connect(address)?;
/// # Ok(()) }
/// ```
pub fn pause(listener: impl AsFd) -> Result<(), CannotPause> {
    let listener = listener.as_fd();
    tcp(listener)?;
    match owner(listener).map_err(|error| refused(&error))? {
        Owner::Ours => Ok(()),
        Owner::Foreign => Err(CannotPause::ForeignFilter),
        Owner::Nobody => keep_out(listener, &DROP_SYNS),
    }
}

/// By this filter, else by a minimum TTL.
fn keep_out(listener: BorrowedFd<'_>, filter: &[Instruction]) -> Result<(), CannotPause> {
    match filter::attach_filter(listener, filter) {
        Err(Errno::PERM) => match min_ttl::is_set(listener).map_err(|error| refused(&error))? {
            Ok(_) => min_ttl::set(listener).map_err(CannotPause::Refused),
            Err(foreign) => Err(CannotPause::ForeignMinTtl(foreign.0)),
        },
        done => done.map_err(CannotPause::Refused),
    }
}

/// Pauses all of them, or none: those of one address belong together. The error names the first that cannot.
pub fn pause_all<F: AsFd>(listeners: &[F]) -> Result<(), (usize, CannotPause)> {
    let mut fresh = Vec::new();
    for (number, listener) in listeners.iter().enumerate() {
        let paused_before = is_paused(listener).unwrap_or(false);
        if let Err(error) = pause(listener) {
            for listener in fresh {
                // It was attached a moment ago, so it can be detached.
                let _ = resume(listener);
            }
            return Err((number, error));
        }
        if !paused_before {
            fresh.push(listener);
        }
    }
    Ok(())
}

/// Drops whatever comes to a listener itself, in the moment before it is closed.
///
/// A member of a group that closes leaves the group before it leaves the table of listeners, and is listening
/// all that time: a SYN that is looked up in between, and finds this one first, is given to it, whatever the
/// group's program says. The client has its answer, says more, and is reset, since the listener is gone by then.
/// With this filter the SYN is lost instead, and the client sends it again, a second later.
///
/// Only for a listener on which nothing depends any more: the rest of a handshake would be lost too. It takes
/// the place of our filter of [`pause`]; [`resume`] takes it off.
pub fn seal(listener: impl AsFd) -> Result<(), CannotPause> {
    let listener = listener.as_fd();
    tcp(listener)?;
    match owner(listener).map_err(|error| refused(&error))? {
        Owner::Foreign => Err(CannotPause::ForeignFilter),
        Owner::Ours | Owner::Nobody => keep_out(listener, &DROP_ALL),
    }
}

fn tcp(listener: BorrowedFd<'_>) -> Result<(), CannotPause> {
    match kind(listener) {
        Ok(Kind::Tcp) => Ok(()),
        Ok(other) => Err(CannotPause::NotTcp(other)),
        Err(error) => Err(refused(&error)),
    }
}

/// Takes filter and minimum TTL off again; `false` where the listener was not paused. Those of others stay.
pub fn resume(listener: impl AsFd) -> io::Result<bool> {
    let listener = listener.as_fd();
    let filtered = filter_owner(listener)? == Owner::Ours;
    if filtered {
        filter::detach_filter(listener)?;
    }
    let limited = min_ttl::is_set(listener)? == Ok(true);
    if limited {
        // Another process may have set it.
        min_ttl::remember();
        min_ttl::clear(listener)?;
    }
    Ok(filtered || limited)
}

/// Whether it is paused, by whichever process.
pub fn is_paused(listener: impl AsFd) -> io::Result<bool> {
    Ok(owner(listener.as_fd())? == Owner::Ours)
}

/// Takes the filter from a connection that was accepted while its listener was paused, or soon after; not a
/// minimum TTL, for which there is [`min_ttl::admit`].
///
/// It changes next to nothing: an established connection gets no SYNs, but from a peer that has lost its state
/// and begins anew from the same port; without the answer that the filter prevents it must wait.
pub fn unfilter(connection: impl AsFd) -> io::Result<bool> {
    match filter::detach_filter(connection) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Ours,
    Foreign,
}

fn owner(listener: BorrowedFd<'_>) -> io::Result<Owner> {
    Ok(match filter_owner(listener)? {
        Owner::Nobody if min_ttl::is_set(listener)? == Ok(true) => Owner::Ours,
        owner => owner,
    })
}

fn filter_owner(listener: BorrowedFd<'_>) -> io::Result<Owner> {
    match filter::filter(listener) {
        Ok(code) if code.is_empty() => Ok(Owner::Nobody),
        Ok(code) if code == DROP_SYNS || code == DROP_ALL => Ok(Owner::Ours),
        // Extended BPF cannot be read back.
        Ok(_) | Err(Errno::ACCESS) => Ok(Owner::Foreign),
        // Multipath TCP knows of no filters.
        Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT) => Ok(Owner::Nobody),
        Err(errno) => Err(errno.into()),
    }
}

fn refused(error: &io::Error) -> CannotPause {
    CannotPause::Refused(Errno::from_io_error(error).unwrap_or(Errno::IO))
}
