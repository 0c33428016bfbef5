//! May a descriptor that this process was started with be trusted as a listener?
//!
//! Decides:  yes, if it is a bound and unconnected stream socket of TCP, MPTCP or Unix; that each
//!           user of a number holds a duplicate; that its flags are kept.
//! Source:   systemd.socket(5), haproxy(1) `fd@N`; HAProxy throws the file status flags away here.
//! Not here: which options are set on it (options.rs), the variables of systemd (activation.rs).
//!
//! The number itself stays open, close-on-exec, so that a later reload finds it again; every
//! listener on it is a duplicate. [`release`] closes the number when nobody will ask for it.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use portcullis_sockopt as sockopt;
use portcullis_sys::sockopt::{get_int, is_connecting_or_connected};
use portcullis_sys::{errno, fd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::getpeername;
use serde::{Deserialize, Serialize};

use crate::Listener;
use crate::address::LocalAddress;
use crate::options::Kind;

const SOCK_STREAM: i32 = 1;
const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_MPTCP: i32 = 262;

/// Why an inherited descriptor cannot be a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InheritedFault {
    /// The number is not open.
    NotOpen,
    /// It is a file or a pipe.
    NotASocket,
    /// It is a datagram or other socket.
    NotAStream {
        /// `SO_TYPE`
        socket_type: i32,
    },
    /// It is of a family that cannot be a listener here.
    UnknownFamily {
        /// `SO_DOMAIN`
        family: i32,
    },
    /// It speaks another protocol than TCP, such as SCTP.
    UnknownProtocol {
        /// `SO_PROTOCOL`
        protocol: i32,
    },
    /// It has no address yet.
    NotBound,
    /// It is a connection, or is about to be one.
    Connected,
    /// It cannot be looked at.
    Errno(i32),
}

impl InheritedFault {
    /// The kernel's error number that says the same.
    pub fn errno(&self) -> Option<i32> {
        match self {
            InheritedFault::NotOpen => Some(Errno::BADF.raw_os_error()),
            InheritedFault::NotASocket => Some(Errno::NOTSOCK.raw_os_error()),
            InheritedFault::Connected => Some(Errno::ISCONN.raw_os_error()),
            InheritedFault::Errno(errno) => Some(*errno),
            _ => None,
        }
    }
}

impl fmt::Display for InheritedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InheritedFault::NotOpen => f.write_str("it is not open (EBADF)"),
            InheritedFault::NotASocket => f.write_str("it is not a socket (ENOTSOCK)"),
            InheritedFault::NotAStream { socket_type } => {
                write!(f, "it is not a stream socket (type {socket_type})")
            }
            InheritedFault::UnknownFamily { family } => {
                write!(
                    f,
                    "it is not an IPv4, IPv6 or Unix socket (family {family})"
                )
            }
            InheritedFault::UnknownProtocol { protocol } => {
                write!(f, "it is not a TCP socket (protocol {protocol})")
            }
            InheritedFault::NotBound => f.write_str("it is not bound to an address"),
            InheritedFault::Connected => {
                f.write_str("it is a connection, not a listener (EISCONN)")
            }
            InheritedFault::Errno(number) => f.write_str(&errno::describe(*number)),
        }
    }
}

/// What an inherited socket turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checked {
    pub kind: Kind,
    pub local: LocalAddress,
}

/// What [`open`](crate::open) would say to a number, asked beforehand: its address, or why it is no listener.
/// Nothing is changed, and the number stays as it is.
///
/// # Errors
///
/// Where it would not be trusted as a listener.
pub fn look(number: i32) -> Result<LocalAddress, InheritedFault> {
    let socket = duplicate(number).map_err(|errno| match errno {
        Errno::BADF => InheritedFault::NotOpen,
        other => fault(other),
    })?;
    Ok(check(std::os::fd::AsFd::as_fd(&socket))?.local)
}

/// A descriptor of one's own for an inherited number.
pub(crate) fn duplicate(number: i32) -> rustix::io::Result<OwnedFd> {
    fd::duplicate_inherited(number).map(|(duplicate, _)| duplicate)
}

/// Looks at everything that makes a descriptor a listener to be trusted, and changes nothing.
pub(crate) fn check(socket: BorrowedFd<'_>) -> Result<Checked, InheritedFault> {
    let socket_type = match read(socket, &sockopt::SO_TYPE) {
        Err(Errno::NOTSOCK) => return Err(InheritedFault::NotASocket),
        other => other.map_err(fault)?,
    };
    if socket_type != SOCK_STREAM {
        return Err(InheritedFault::NotAStream { socket_type });
    }
    let family = read(socket, &sockopt::SO_DOMAIN).map_err(fault)?;
    let protocol = read(socket, &sockopt::SO_PROTOCOL).map_err(fault)?;
    let kind = match (family, protocol) {
        (AF_UNIX, _) => Kind::Unix,
        (AF_INET, IPPROTO_TCP | IPPROTO_MPTCP) => Kind::V4,
        (AF_INET6, IPPROTO_TCP | IPPROTO_MPTCP) => Kind::V6,
        (AF_INET | AF_INET6, _) => return Err(InheritedFault::UnknownProtocol { protocol }),
        _ => return Err(InheritedFault::UnknownFamily { family }),
    };
    let connected = getpeername(socket).is_ok_and(|peer| peer.is_some());
    if connected
        || (protocol == IPPROTO_TCP && is_connecting_or_connected(socket).map_err(fault)?)
    {
        return Err(InheritedFault::Connected);
    }
    let local = LocalAddress::of(socket).map_err(fault)?;
    let bound = match &local {
        LocalAddress::Inet(address) => address.port() != 0,
        LocalAddress::UnixUnnamed => false,
        LocalAddress::UnixPath(_) | LocalAddress::UnixAbstract(_) => true,
    };
    if !bound {
        return Err(InheritedFault::NotBound);
    }
    Ok(Checked { kind, local })
}

/// `O_NONBLOCK` besides the file status flags that are set already.
///
/// The flags belong to the open file, so a program that shares it sees the change too.
pub(crate) fn add_non_blocking(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = fcntl_getfl(socket)?;
    if flags.contains(OFlags::NONBLOCK) {
        return Ok(());
    }
    fcntl_setfl(socket, flags | OFlags::NONBLOCK)
}

/// Closes the number under which a listener's socket was inherited; nobody can ask for it then.
///
/// False where the listener was not inherited, or the number stands for something else by now.
/// The numbers 0, 1 and 2 are refused (`InvalidInput`).
pub fn release(listener: &Listener) -> io::Result<bool> {
    let Some(number) = listener.facts().inherited else {
        return Ok(false);
    };
    match fd::close_inherited(number, fd::Identity::of(listener)?) {
        Err(Errno::BADF) => Ok(false),
        other => Ok(other?),
    }
}

fn read(socket: BorrowedFd<'_>, option: &sockopt::SockOpt) -> rustix::io::Result<i32> {
    get_int(socket, option.level.number(), option.number)
}

fn fault(errno: Errno) -> InheritedFault {
    InheritedFault::Errno(errno.raw_os_error())
}
