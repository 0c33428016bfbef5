//! What only the opener can do for its worker besides opening and reading: the program's own files and children.
//!
//! Decides:  that the worker, which speaks to strangers, can name neither a program nor a file: it says what is
//!           to be done, and nothing else.
//! Not here: when it is done (upgrade.rs, start.rs), the configuration (reload/read.rs).

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Child;

use super::supervise::{Kept, SERVING};
use super::upgrade::{self, Relaunch};
use crate::control_socket;
use crate::pidfile::Pidfile;

/// What is asked for where the worker's process id follows: the pid file, and the socket beside it.
pub(super) const CLAIM: &str = "claim ";

/// In the opener.
#[derive(Debug, Default)]
pub(in crate::run) struct Office {
    pub(super) relaunch: Option<Relaunch>,
    /// Absolute.
    pub(super) pidfile: Option<PathBuf>,
    pub(super) child: RefCell<Option<Child>>,
    /// Where it supervises.
    pub(super) kept: Option<Kept>,
}

impl Office {
    /// The answer, where it is a question for this office.
    pub(super) fn answer(&self, question: &str) -> Option<Result<String, String>> {
        if let Some(worker) = question.strip_prefix(CLAIM) {
            return Some(self.claim(worker));
        }
        if let (Some(inodes), Some(kept)) = (question.strip_prefix(SERVING), &self.kept) {
            let done = kept.serving(inodes).ok_or("not the numbers of sockets");
            return Some(done.map(|()| String::new()).map_err(str::to_owned));
        }
        let mut child = self.child.borrow_mut();
        if child
            .as_mut()
            .is_some_and(|child| upgrade::ended(child).is_some())
            && question == upgrade::START
        {
            *child = None;
        }
        match (question, child.as_mut()) {
            (upgrade::START, Some(_)) => Some(Err("one was started already".to_owned())),
            (upgrade::START, _) => {
                let (Some(relaunch), Some(pidfile)) = (&self.relaunch, &self.pidfile) else {
                    return Some(Err("this process cannot be started again".to_owned()));
                };
                let started = relaunch.start(&control_socket::beside(pidfile));
                Some(match started {
                    Ok(new) => {
                        *child = Some(new);
                        Ok(String::new())
                    }
                    Err(why) => Err(why.to_string()),
                })
            }
            (upgrade::LOOKED_AT, Some(child)) => {
                Some(Ok(upgrade::ended(child).unwrap_or_default()))
            }
            (upgrade::KILL, Some(child)) => {
                let done = child.kill().and_then(|()| child.wait());
                Some(done.map(|_| String::new()).map_err(|why| why.to_string()))
            }
            (upgrade::LOOKED_AT | upgrade::KILL, None) => Some(Err("none was started".to_owned())),
            _ => None,
        }
    }

    fn claim(&self, worker: &str) -> Result<String, String> {
        let worker: u32 = worker.parse().map_err(|_| "not a process id".to_owned())?;
        let Some(path) = &self.pidfile else {
            return Ok(String::new());
        };
        let claimed = claim(path, std::process::id(), worker);
        claimed
            .map(|()| String::new())
            .map_err(|why| why.to_string())
    }
}

/// Puts `pid` into the pid file, and the socket that the process `worker` listens at aside beside it.
pub(super) fn claim(pidfile: &std::path::Path, pid: u32, worker: u32) -> std::io::Result<()> {
    Pidfile::write(pidfile, pid)?;
    let path = control_socket::beside(pidfile);
    let aside = control_socket::aside(&path, worker);
    match std::fs::rename(aside, path) {
        // It could not be bound, which was told.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
