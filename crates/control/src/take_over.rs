//! A start that takes the place of another process: its sockets, and its name in the end.
//!
//! Decides:  how the other process is found (a socket that it answers at: the one beside its pid file), that
//!           it must be this user's or root's, and the words of the request. Old and new may differ in version:
//!           the line is the same for ever, what follows is versioned.
//! Kernel:   net/unix/af_unix.c: SO_PEERCRED is who connected, and who listened; 6.1 to 6.18
//! Not here: the conversation (the listener crate's handover.rs), the old process's side (run/upgrade.rs).

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::memory::Memory;
use portcullis_listener::Pool;
use portcullis_listener::handover::{Agreed, Link, Taking, take};
use portcullis_sys::{errno, pass};
use rustix::process::{Resource, getrlimit, setrlimit};

/// The command that begins it.
pub const COMMAND: &str = "_hand-over";
/// What comes before the descriptor of the conversation.
const AGREED: u8 = b'+';
/// How long the other process may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// It is busy with something that ends soon: ask again so often, for so long.
const AGAIN: Duration = Duration::from_millis(100);
const BUSY_PATIENCE: Duration = Duration::from_secs(20);
/// The longest refusal.
const MOST_WORDS: u64 = 64 << 10;
/// How a refusal begins that may be over soon.
pub(crate) const BUSY: &str = "busy: ";

/// The other process, which waits until this one serves. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct TakeOver {
    taking: Arc<Mutex<Option<Taking>>>,
}

/// Why the sockets of another process are not had.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotTaken {
    /// Nobody answers there.
    Unreachable {
        /// Where.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
    /// It is of another user.
    Stranger {
        /// The other user.
        uid: u32,
    },
    /// It does not give them, and says why.
    Refused(String),
    /// It does not keep to the protocol, or ended.
    Broken(String),
    /// It speaks another language: HAProxy, most likely.
    Foreign(String),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotTaken::Unreachable { path, error } => {
                let why = errno::of(error);
                write!(f, "cannot connect to {}: {why}", path.display())
            }
            NotTaken::Stranger { uid } => write!(
                f,
                "the process at the socket is of user {uid}, and its sockets are not trusted"
            ),
            NotTaken::Refused(why) => write!(f, "the running process does not hand over: {why}"),
            NotTaken::Broken(why) => write!(f, "the hand-over broke off: {why}"),
            NotTaken::Foreign(said) => {
                write!(f, "what answers there does not know the hand-over: {said}")
            }
        }
    }
}

impl std::error::Error for NotTaken {}

impl TakeOver {
    /// Asks the process that listens at `path` for its sockets, which are in `pool` then. It goes on until
    /// `ready`.
    pub fn begin(path: &Path, pool: &Pool) -> Result<TakeOver, NotTaken> {
        // Its descriptors are as many as it was allowed; the start sets the limit it wants later.
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
        let until = Instant::now() + BUSY_PATIENCE;
        let end = loop {
            match ask(path) {
                Err(NotTaken::Refused(why)) if why.starts_with(BUSY) && Instant::now() < until => {
                    std::thread::sleep(AGAIN);
                }
                other => break other?,
            }
        };
        let taking = take(Link::of(end), pool).map_err(NotTaken::Broken)?;
        Ok(TakeOver {
            taking: Arc::new(Mutex::new(Some(taking))),
        })
    }

    /// Is there another process?
    pub fn is_under_way(&self) -> bool {
        self.lock().is_some()
    }

    /// How many sockets came.
    pub fn count(&self) -> usize {
        self.lock().as_ref().map_or(0, Taking::count)
    }

    /// What the other process wants known.
    pub(crate) fn state(&self) -> Option<String> {
        self.lock().as_ref().map(|it| it.state().to_owned())
    }

    /// What the other process knew when it gave its sockets.
    pub(crate) fn memory(&self) -> Memory {
        let taking = self.lock();
        taking
            .as_ref()
            .map_or_else(Memory::default, |it| Memory::of(it.notes()))
    }

    /// Another process of ours goes on with it: this one lets go, without a word.
    pub(crate) fn leave(&self) {
        drop(self.lock().take());
    }

    /// The start has failed, and why; the other process goes on.
    pub fn refuse(&self, why: &str) {
        if let Some(taking) = self.lock().take() {
            taking.refuse(why);
        }
    }

    /// This process serves; see [`Taking::ready`]. `None` where there is no other process.
    pub(crate) fn ready(&self, pid: u32, claim: impl FnOnce()) -> Option<Result<Agreed, String>> {
        let taking = self.lock().take()?;
        Some(taking.ready(pid, claim))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Taking>> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ask(path: &Path) -> Result<OwnedFd, NotTaken> {
    let unreachable = |error| NotTaken::Unreachable {
        path: path.to_owned(),
        error,
    };
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream);
    let peer = peer.map_err(|errno| unreachable(errno.into()))?;
    if !is_trusted(peer.uid.as_raw()) {
        let uid = peer.uid.as_raw();
        return Err(NotTaken::Stranger { uid });
    }
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(unreachable)?;
    let line = format!("{COMMAND}\n");
    let broken = |error: io::Error| NotTaken::Broken(errno::of(&error));
    stream.write_all(line.as_bytes()).map_err(broken)?;
    let mut first = [0];
    let received = pass::receive(&stream, &mut first).map_err(broken)?;
    match (
        received.length,
        first,
        received.descriptors.into_iter().next(),
    ) {
        (1, [AGREED], Some(end)) => Ok(end),
        (0, ..) => Err(NotTaken::Broken("it ended".to_owned())),
        _ if received.lost_descriptors => {
            Err(NotTaken::Broken("no descriptor is left here".to_owned()))
        }
        _ => {
            let mut rest = Vec::new();
            let _ = stream.take(MOST_WORDS).read_to_end(&mut rest);
            let mut said = String::from_utf8_lossy(&first).into_owned();
            said += &String::from_utf8_lossy(&rest);
            match said.strip_prefix("refused: ") {
                Some(why) => Err(NotTaken::Refused(why.trim().to_owned())),
                None => Err(NotTaken::Foreign(said.trim().to_owned())),
            }
        }
    }
}

/// May a process of this user have our sockets, or give us its own?
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// The old process's side of the request: our end of the conversation, or the refusal is said.
pub(crate) fn agree(stream: &UnixStream) -> Result<Link, String> {
    let say = |why: &str| {
        refuse(stream, why);
        Err(why.to_owned())
    };
    let peer = match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) => peer.uid.as_raw(),
        Err(errno) => return say(&format!("who asks cannot be told: {errno}")),
    };
    if !is_trusted(peer) {
        return say(&format!("user {peer} may not have this process's sockets"));
    }
    let agreed = Link::pair().and_then(|(link, theirs)| {
        pass::send(stream, &[AGREED], &[std::os::fd::AsFd::as_fd(&theirs)])?;
        Ok(link)
    });
    agreed.or_else(|error| say(&format!("no conversation can be opened: {error}")))
}

/// Says why not.
pub(crate) fn refuse(mut stream: &UnixStream, why: &str) {
    // Who went away does not want to know.
    let _ = stream.write_all(format!("refused: {why}\n").as_bytes());
}
