//! A socket that is listening, and the facts about it that a descriptor does not tell.
//!
//! Decides:  what it means to hold a `Listener`: LISTEN, non-blocking, close-on-exec, polled by nobody.
//! Source:   HAProxy's state LI_LISTEN: bound and listening, not enabled yet.
//! Not here: how it came to be (open.rs), polling and accepting (its user).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::net::sockopt::socket_acceptconn;
use serde::{Deserialize, Serialize};

use crate::address::LocalAddress;
use crate::unix;

/// A socket that is listening.
///
/// It is in the state LISTEN, non-blocking and close-on-exec, and nobody polls it yet: connections
/// wait in its queue until its holder accepts them. It turns into the standard library's types,
/// or into a bare descriptor for an event loop:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis_listener::{ListenerSpec, open};
///
/// let mut opened = open(&ListenerSpec::tcp("127.0.0.1:0".parse()?))?;
/// let listener = opened.listeners.remove(0);
/// let address = listener.facts().local.inet().unwrap();
/// let std = std::net::TcpListener::try_from(listener)?;
/// assert_eq!(std.local_addr()?, address);
/// # Ok(()) }
/// ```
///
/// Dropping it closes the socket, which resets connections that wait in its queue. The file of a
/// Unix socket stays; see [`Listener::remove_path`].
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    facts: ListenerFacts,
}

/// What is known about a listener besides its descriptor; it can be sent along with one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListenerFacts {
    /// Index of the specification in its set.
    pub spec: usize,
    /// The specification's name; may be empty.
    pub name: String,
    /// The address that the socket is bound to, with the port that the kernel chose.
    pub local: LocalAddress,
    /// Which socket of the specification's, from 0.
    pub shard: u16,
    /// How many sockets the specification has.
    pub shards: u16,
    /// The number under which the descriptor was inherited, and the file that it stood for.
    pub inherited: Option<i32>,
    /// The file of a Unix socket that was bound here.
    pub socket_file: Option<SocketFile>,
    /// It listens: all do but those of [`ListenerSpec::listen_later`](crate::ListenerSpec::listen_later).
    #[serde(default = "yes")]
    pub listens: bool,
    /// It was taken from another process ([`crate::Pool`]), which may hold it still.
    #[serde(default)]
    pub adopted: bool,
    /// Its place among the shards is its place in the group: they called `listen` in this order, as far as those
    /// know who had them.
    #[serde(default)]
    pub in_order: bool,
    /// Its place in its `SO_REUSEPORT` group, from 0, where it came from a process that knew.
    #[serde(default)]
    pub place: Option<u32>,
}

fn yes() -> bool {
    true
}

/// The file of a Unix socket, by path and identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    /// Where it is.
    #[serde(with = "crate::address::path_as_text")]
    pub path: PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Listener {
    pub(crate) fn new(fd: OwnedFd, facts: ListenerFacts) -> Self {
        Listener { fd, facts }
    }

    pub(crate) fn set_shards(&mut self, shards: u16) {
        self.facts.shards = shards;
    }

    /// A listener from its parts, as they arrive from another process. The descriptor must be a
    /// socket that listens, if the facts say so (`EINVAL` otherwise); it is made non-blocking and close-on-exec.
    pub fn from_parts(fd: OwnedFd, facts: ListenerFacts) -> io::Result<Self> {
        if !socket_acceptconn(&fd)? && facts.listens {
            return Err(rustix::io::Errno::INVAL.into());
        }
        crate::inherited::add_non_blocking(fd.as_fd())?;
        let flags = rustix::io::fcntl_getfd(&fd)?;
        rustix::io::fcntl_setfd(&fd, flags | rustix::io::FdFlags::CLOEXEC)?;
        Ok(Listener { fd, facts })
    }

    /// The descriptor and the facts.
    pub fn into_parts(self) -> (OwnedFd, ListenerFacts) {
        (self.fd, self.facts)
    }

    /// What is known about it.
    pub fn facts(&self) -> &ListenerFacts {
        &self.facts
    }

    /// Index of the specification in its set.
    pub fn spec(&self) -> usize {
        self.facts.spec
    }

    /// The address that it is bound to.
    pub fn local(&self) -> &LocalAddress {
        &self.facts.local
    }

    /// Another descriptor of the same socket: both accept from one queue.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener {
            fd: self.fd.try_clone()?,
            facts: self.facts.clone(),
        })
    }

    /// Removes the file of a Unix socket, if the path still leads to this very socket; false where
    /// it does not, or where there is no file. Clients that come then are refused, those in the
    /// queue are not.
    pub fn remove_path(&self) -> io::Result<bool> {
        match &self.facts.socket_file {
            Some(file) => Ok(unix::remove_if_same(file)?),
            None => Ok(false),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl IntoRawFd for Listener {
    fn into_raw_fd(self) -> RawFd {
        self.fd.into_raw_fd()
    }
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> OwnedFd {
        listener.fd
    }
}

/// The socket is not of the family that it was to be turned into.
#[derive(Debug)]
pub struct WrongFamily(
    /// The listener, unchanged.
    pub Listener,
);

impl std::fmt::Display for WrongFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] is of another address family", self.0.local())
    }
}

impl std::error::Error for WrongFamily {}

impl TryFrom<Listener> for std::net::TcpListener {
    type Error = WrongFamily;

    fn try_from(listener: Listener) -> Result<Self, WrongFamily> {
        match listener.local() {
            LocalAddress::Inet(_) => Ok(listener.fd.into()),
            _ => Err(WrongFamily(listener)),
        }
    }
}

impl TryFrom<Listener> for std::os::unix::net::UnixListener {
    type Error = WrongFamily;

    fn try_from(listener: Listener) -> Result<Self, WrongFamily> {
        match listener.local() {
            LocalAddress::Inet(_) => Err(WrongFamily(listener)),
            _ => Ok(listener.fd.into()),
        }
    }
}
