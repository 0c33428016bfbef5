//! The opener: whoever has the privilege to open listening sockets.
//!
//! Decides:  the one narrow interface through which a privileged socket is asked for, and which
//!           user it is given to.
//! Kernel:   net/socket.c, sockfs_setattr(): `fchown` sets the user that SO_REUSEPORT compares
//!           (net/ipv4/inet_connection_sock.c, `sk_uid`); 6.1 to 6.18
//! Not here: how a socket is opened (open.rs, set.rs); who drops which privilege (the program).
//!
//! A program that gives up its privileges still has to open listeners later: at a reload, below
//! port 1024, beside shards that it has, from a file that its chroot hides. So opening is a role:
//!
//! * [`InProcess`]: the process itself, as long as nothing was given up.
//! * [`Parent`]: a small privileged process, made by [`split`] before anything is given up. It has
//!   one thread, no async runtime, no view of the traffic, and stays outside the chroot. It also
//!   is the supervisor: it passes signals on, and ends as the worker ends.
//!
//! ```no_run
//! use portcullis_listener::opener::{InProcess, Opener, Split, permit_all, split};
//! use portcullis_listener::ListenerSpec;
//!
//! # fn drop_privileges() {}
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Still one thread, still root.
//! let mut opener = match split()? {
//!     Split::Opener(process) => {
//!         let end = process.serve(&mut InProcess::for_user(65534), &mut permit_all)?;
//!         std::process::exit(end.exit_code().into());
//!     }
//!     Split::Worker(parent) => parent,
//! };
//! drop_privileges();
//! let opened = opener.open(&[ListenerSpec::tcp("0.0.0.0:443".parse()?)])?;
//! # Ok(()) }
//! ```
//!
//! If the opener dies (only SIGKILL does that), the worker goes on serving what it has, and a
//! later open answers [`OpenerError::Gone`]: traffic matters more than tidiness, and a service
//! manager ends the whole group anyway. So no parent-death signal is set; the worker may watch
//! the descriptor of [`Parent`], which becomes readable when the opener is gone.

pub(crate) mod channel;
pub mod codec;
pub(crate) mod message;
mod parent;
mod process;

use std::fmt;
use std::io;
use std::time::Duration;

use codec::ProtocolError;

use crate::{ListenerSpec, OpenContext, Opened, SetError, open_set};

pub use parent::Parent;
pub use process::{ChildEnd, Ended, OpenerProcess, Split, split};

/// Whoever has the privilege to open listening sockets.
pub trait Opener: Send {
    /// Opens all of these, or none and says why.
    fn open(&mut self, specs: &[ListenerSpec]) -> Result<Opened, OpenerError>;

    /// Lets go of the terminal: standard input, output and error of the opener, where it is a
    /// process of its own, become /dev/null. Part of becoming a daemon.
    fn detach(&mut self) -> Result<(), OpenerError>;
}

/// Why listeners were not opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenerError {
    /// They cannot be opened; nothing of the set is open.
    NotOpened(SetError),
    /// The opener does not open this for us.
    Refused {
        /// The listener: its name, else its address.
        listener: String,
        /// Why not.
        reason: String,
    },
    /// The other process has ended, or has closed its end.
    Gone,
    /// The other process does not answer, or does not read.
    TimedOut {
        /// For how long.
        waited: Duration,
    },
    /// What came is not the protocol.
    Protocol(ProtocolError),
    /// A system call failed.
    Io {
        /// What was tried.
        doing: &'static str,
        /// How it failed.
        error: io::Error,
    },
}

impl OpenerError {
    fn io(doing: &'static str, error: io::Error) -> Self {
        OpenerError::Io { doing, error }
    }
}

impl From<ProtocolError> for OpenerError {
    fn from(error: ProtocolError) -> Self {
        OpenerError::Protocol(error)
    }
}

impl From<SetError> for OpenerError {
    fn from(error: SetError) -> Self {
        OpenerError::NotOpened(error)
    }
}

impl fmt::Display for OpenerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenerError::NotOpened(error) => error.fmt(f),
            OpenerError::Refused { listener, reason } => {
                write!(f, "the opener refuses to open {listener}: {reason}")
            }
            OpenerError::Gone => f.write_str(
                "the opener process is gone: what is open stays open, and nothing new can be opened \
                 until a restart",
            ),
            OpenerError::TimedOut { waited } => write!(
                f,
                "the other process has not answered for {} s",
                waited.as_secs_f32()
            ),
            OpenerError::Protocol(error) => write!(f, "the opener's protocol is broken: {error}"),
            OpenerError::Io { doing, error } => write!(f, "{doing}: {error}"),
        }
    }
}

impl std::error::Error for OpenerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenerError::NotOpened(error) => Some(error),
            OpenerError::Protocol(error) => Some(error),
            OpenerError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Which listeners an opener opens for the other process: `Err` says why not.
///
/// The worker is the one that speaks to strangers. Who must not trust it further than its
/// configuration compares each specification with it here.
pub type Permit<'a> = dyn FnMut(&ListenerSpec) -> Result<(), String> + 'a;

/// Who answers the program's own questions, in the privileged process; `Err` says why not. It is
/// asked by a process that speaks to strangers: the question may not say which file to read.
pub type Answer<'a> = dyn FnMut(&str) -> Result<String, String> + 'a;

/// A [`Permit`] that opens whatever the other process asks for.
pub fn permit_all(_: &ListenerSpec) -> Result<(), String> {
    Ok(())
}

/// Opens in this process.
#[derive(Debug, Clone, Default)]
pub struct InProcess {
    context: OpenContext,
    owner_uid: Option<u32>,
}

impl InProcess {
    /// Opens with this process's own rights, and keeps them: sockets belong to its user.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens for the user that will run: every socket is given to it with `fchown` before it is
    /// bound, whatever a specification says of its owner.
    ///
    /// Needs CAP_CHOWN. Without it a shard that is opened later would be refused (`EADDRINUSE`),
    /// since SO_REUSEPORT compares the users of the sockets.
    pub fn for_user(uid: u32) -> Self {
        InProcess {
            owner_uid: Some(uid),
            ..Self::default()
        }
    }

    /// Closes what is in the pool of sockets that were handed in, and takes none from it any more: another process
    /// opens.
    pub fn forget_pool(&mut self) {
        self.context.pool.close_rest();
    }

    /// With another descriptor limit, retries or activation than the defaults.
    #[must_use]
    pub fn with_context(mut self, context: OpenContext) -> Self {
        self.context = context;
        self
    }
}

impl Opener for InProcess {
    /// Sockets of the pool that do not fit the first set are closed: others hold them.
    fn open(&mut self, specs: &[ListenerSpec]) -> Result<Opened, OpenerError> {
        let opened = self.open_all(specs)?;
        self.context.pool.close_rest();
        Ok(opened)
    }

    fn detach(&mut self) -> Result<(), OpenerError> {
        Ok(())
    }
}

impl InProcess {
    fn open_all(&self, specs: &[ListenerSpec]) -> Result<Opened, SetError> {
        if self.owner_uid.is_none() {
            return open_set(specs, &self.context);
        }
        let owned: Vec<ListenerSpec> = specs
            .iter()
            .map(|spec| {
                let mut spec = spec.clone();
                spec.owner_uid = self.owner_uid;
                spec
            })
            .collect();
        open_set(&owned, &self.context)
    }
}
