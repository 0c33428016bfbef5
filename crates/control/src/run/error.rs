//! Why running could not begin, or had to end.
//!
//! Decides:  the kind of each failure, from which the exit code follows.
//! Not here: the codes (the binary's exit.rs).

use std::fmt;
use std::io;
use std::path::PathBuf;

use portcullis_sys::errno;

/// Whose fault it is, as exit codes tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The configuration cannot be run.
    Configuration,
    /// A listener does not open.
    Listener,
    /// A limit, a privilege or a file of the process.
    Privileges,
    /// The program or the host.
    Internal,
}

/// A failure, as facts.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// There is nothing to listen on.
    NoListener,
    /// One or more listeners do not open. None is left open.
    Open {
        /// One text for each listener that failed: the error, its place, and what may help.
        errors: Vec<String>,
    },
    /// A limit cannot be had.
    Limits(String),
    /// Privileges cannot be dropped as the configuration says.
    Privileges(String),
    /// The pid file cannot be written.
    Pidfile {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Going to the background failed.
    Daemon(io::Error),
    /// A thread, a descriptor, the runtime: what was done, and why it failed.
    Host {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// A worker thread ended by a fault of ours.
    Worker(String),
    /// The process whose place this one was to take goes on, and why.
    Superfluous(String),
    /// The process in the background ended with this code; it has told why.
    Elsewhere(u8),
}

impl RunError {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            RunError::NoListener => Kind::Configuration,
            RunError::Open { .. } => Kind::Listener,
            RunError::Limits(_)
            | RunError::Privileges(_)
            | RunError::Pidfile { .. }
            | RunError::Daemon(_) => Kind::Privileges,
            RunError::Host { .. }
            | RunError::Worker(_)
            | RunError::Superfluous(_)
            | RunError::Elsewhere(_) => Kind::Internal,
        }
    }

    /// For `map_err`: what was done.
    pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
        move |error| RunError::Host { what, error }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::NoListener => {
                f.write_str("no enabled frontend has a bind line: there is nothing to run")
            }
            RunError::Open { errors } => {
                for (number, error) in errors.iter().enumerate() {
                    if number > 0 {
                        f.write_str("\nerror: ")?;
                    }
                    f.write_str(error)?;
                }
                Ok(())
            }
            RunError::Limits(why) | RunError::Privileges(why) => f.write_str(why),
            RunError::Pidfile { path, error } => {
                let why = errno::of(error);
                write!(f, "cannot write the pid file {}: {why}", path.display())
            }
            RunError::Daemon(error) => {
                write!(f, "cannot go to the background: {}", errno::of(error))
            }
            RunError::Host { what, error } => write!(f, "cannot {what}: {}", errno::of(error)),
            RunError::Worker(why) => write!(f, "a worker thread failed: {why}"),
            RunError::Superfluous(why) => write!(f, "the process before this one goes on: {why}"),
            RunError::Elsewhere(code) => {
                write!(f, "the process in the background ended with code {code}")
            }
        }
    }
}

impl std::error::Error for RunError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_lowercase_line_with_the_errno_by_name() {
        let error = RunError::Pidfile {
            path: PathBuf::from("/run/x.pid"),
            error: io::Error::from_raw_os_error(13),
        };
        assert_eq!(
            error.to_string(),
            "cannot write the pid file /run/x.pid: permission denied (EACCES)"
        );
        assert_eq!(error.kind(), Kind::Privileges);
    }
}
