//! Listeners from another process that gives them as HAProxy does.
//!
//! Decides:  how long it may take, and what is said where it does not give any.
//! Source:   src/sock.c, sock_get_old_sockets(), 2.6, which waits one second for each message.
//! Kernel:   net/unix/af_unix.c, unix_stream_connect(): connecting needs the right to write to the
//!           socket's file; unix_stream_read_generic(): a message with descriptors ends a read, 6.1 to
//!           6.18
//! Not here: the messages (getsocks.rs), which of them fit (the listener crate's adopt.rs). It
//!           blocks: it is for the start.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_listener::Pool;
use portcullis_sys::pass;

use super::getsocks::{COMMAND, MOST_MESSAGE, Malformed, Names, Taking, WORD};

/// How long the other side may take over each message. One of ours may steer connections first.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there are none.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotTaken {
    /// Nobody is there, or this user may not ask.
    Unreachable {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke, or took too long.
    Broken(io::Error),
    /// It closed the connection without a word.
    NotExposed,
    /// What came was not the protocol.
    Malformed(Malformed),
    /// This process has too few descriptors left: some of the sockets did not come.
    TooFewDescriptors,
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotTaken::Unreachable { path, error } => {
                let why = portcullis_sys::errno::of(error);
                write!(f, "cannot connect to {}: {why}", path.display())
            }
            NotTaken::Broken(error) => write!(f, "the sockets did not come: {error}"),
            NotTaken::NotExposed => f.write_str(
                "it gives no sockets: its `stats socket` line needs `expose-fd listeners`",
            ),
            NotTaken::Malformed(why) => write!(f, "what came is not HAProxy's protocol: {why}"),
            NotTaken::TooFewDescriptors => {
                f.write_str("this process may not have so many descriptors: raise its limit")
            }
        }
    }
}

impl std::error::Error for NotTaken {}

/// A socket that could not be put into the pool, in words.
pub type Refused = String;

/// Takes the sockets of the process that listens at `path` into the pool; the answer says how many
/// there are, and what is no listener that could be taken.
pub fn fill(path: &Path, pool: &Pool) -> Result<(usize, Vec<Refused>), NotTaken> {
    let unreachable = |error| NotTaken::Unreachable {
        path: path.to_owned(),
        error,
    };
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .map_err(NotTaken::Broken)?;
    stream.write_all(COMMAND).map_err(NotTaken::Broken)?;
    let mut refused = Vec::new();
    let mut count = 0;
    for (fd, names) in receive(&stream)? {
        let text = match portcullis_listener::LocalAddress::of(&fd) {
            Ok(local) => local.to_string(),
            Err(_) => "a socket".to_owned(),
        };
        match pool.give(fd, None) {
            Ok(()) => count += 1,
            Err(fault) => refused.push(format!("{text}{names} is closed here: {fault}")),
        }
    }
    Ok((count, refused))
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, " in the namespace `{}`", self.namespace)?;
        }
        if !self.interface.is_empty() {
            write!(f, " on `{}`", self.interface)?;
        }
        Ok(())
    }
}

/// Takes what comes after the question.
pub(crate) fn receive(stream: &UnixStream) -> Result<Vec<(OwnedFd, Names)>, NotTaken> {
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(NotTaken::Broken)?;
    let mut stream = stream;
    let mut count = [0; WORD];
    stream
        .read_exact(&mut count)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => NotTaken::NotExposed,
            _ => NotTaken::Broken(error),
        })?;
    let mut taking = Taking::new(count).map_err(NotTaken::Malformed)?;
    // One byte more than a message may have: what is longer is noticed.
    let mut bytes = vec![0; MOST_MESSAGE + 1];
    while !taking.is_whole() {
        let message = pass::receive(stream, &mut bytes).map_err(NotTaken::Broken)?;
        if message.lost_descriptors {
            return Err(NotTaken::TooFewDescriptors);
        }
        if message.length == 0 {
            break;
        }
        let answer = taking
            .message(&bytes[..message.length], message.descriptors)
            .map_err(NotTaken::Malformed)?;
        stream.write_all(&answer).or_else(|error| {
            // Nobody waits for the last one.
            match taking.is_whole() {
                true => Ok(()),
                false => Err(NotTaken::Broken(error)),
            }
        })?;
    }
    taking.finish().map_err(NotTaken::Malformed)
}
