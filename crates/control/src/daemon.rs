//! `daemon`: into the background, and only when the ports are open.
//!
//! Decides:  what the launching process waits for and how it ends.
//! Source:   HAProxy 3.5-dev5, src/haproxy.c, apply_daemon_mode(); configuration.txt 3.1 `daemon`;
//!           daemon(7), "SysV daemons".
//! Not here: the opener and the worker (listener/opener), the pid file (pidfile.rs).
//!
//! ```text
//! launcher            waits for one message on a pipe, then exits: 0, or the failure's code
//!   └─ opener         with `daemon`: leader of a new session; privileged; its id is in the pid file
//!        └─ worker    unprivileged; opens through the opener; says "ready" on the pipe
//! ```
//!
//! Without anything to drop there is no opener and the worker takes its place; without `daemon`
//! there is no launcher. One fork, as HAProxy: a second one would keep the session's leader from
//! ever getting a terminal, but none is opened here, and the launcher could not see how its
//! grandchild ended. Standard input, output and error stay what they are until the ports are
//! open, so every message of the start reaches the terminal; then they become /dev/null.

use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;

use portcullis_sys::process::{self, Fork};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

/// The message "the ports are open".
const READY: u8 = b'R';
/// The message "it failed": then the exit code, the length (two bytes) and the text.
const FAILED: u8 = b'F';
/// The longest text of a failure, so that the message is written at once (`PIPE_BUF` is 4096).
const MAX_TEXT: usize = 4000;

/// Which process this is after [`launch`].
#[derive(Debug)]
pub enum Launch {
    /// The one that was started: it must [`Launcher::wait`] and exit.
    Launcher(Launcher),
    /// The one that stays, in a session of its own: it must say how the start went.
    Daemon(Readiness),
}

/// The process that was started, waiting for the daemon's word.
#[derive(Debug)]
pub struct Launcher {
    child: Pid,
    pipe: File,
}

/// How the launching process is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchEnd {
    /// Its exit code.
    pub code: u8,
    /// What to print to standard error first.
    pub message: Option<String>,
}

/// The daemon's duty to say how its start went. Dropped without a word, or with the process, it
/// means that the start failed, with the process's own exit code.
#[derive(Debug)]
pub struct Readiness {
    pipe: PipeWriter,
    null: OwnedFd,
}

/// Forks into launcher and daemon. To be called while there is one thread only (`EDEADLK`
/// otherwise), before listeners are opened and before the opener is split off.
pub fn launch() -> io::Result<Launch> {
    let null = process::open_null()?;
    let (reader, pipe) = io::pipe()?;
    process::default_action(Signal::CHILD)?;
    match process::fork()? {
        Fork::Parent(child) => Ok(Launch::Launcher(Launcher {
            child,
            pipe: File::from(OwnedFd::from(reader)),
        })),
        Fork::Child => {
            rustix::process::setsid()?;
            Ok(Launch::Daemon(Readiness { pipe, null }))
        }
    }
}

impl Readiness {
    /// The ports are open: lets go of the terminal, and the launcher exits with 0.
    ///
    /// With an opener, let it go of the terminal first (`Parent::detach`).
    pub fn ready(mut self) -> io::Result<()> {
        process::replace_stdio(&self.null)?;
        match self.pipe.write_all(&[READY]) {
            // The launcher was killed meanwhile, which changes nothing for the service.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// The start failed: the launcher prints the text and exits with the code.
    ///
    /// Needed only for a text that is not written to standard error already.
    pub fn failed(mut self, code: u8, text: &str) -> io::Result<()> {
        let text = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)];
        let length = text.len() as u16; // at most MAX_TEXT
        let mut message = vec![FAILED, code];
        message.extend_from_slice(&length.to_le_bytes());
        message.extend_from_slice(text);
        self.pipe.write_all(&message)
    }
}

impl Launcher {
    /// The daemon's process id.
    pub fn child(&self) -> Pid {
        self.child
    }

    /// Waits until the daemon says how its start went, or ends.
    pub fn wait(mut self) -> io::Result<LaunchEnd> {
        match read_word(&mut self.pipe)? {
            Some(Ok(())) => Ok(LaunchEnd {
                code: 0,
                message: None,
            }),
            Some(Err((code, text))) => Ok(LaunchEnd {
                code,
                message: Some(text),
            }),
            None => {
                let status = wait_for(self.child)?;
                let code = exit_code(status);
                Ok(LaunchEnd {
                    code,
                    message: Some(ended_early(self.child, status, code)),
                })
            }
        }
    }
}

/// The daemon's word: ready, or code and text of the failure; `None` if it ended without one.
fn read_word(pipe: &mut impl Read) -> io::Result<Option<Result<(), (u8, String)>>> {
    let mut kind = [0];
    if !read_whole(pipe, &mut kind)? {
        return Ok(None);
    }
    if kind == [READY] {
        return Ok(Some(Ok(())));
    }
    let mut head = [0; 3];
    if kind != [FAILED] || !read_whole(pipe, &mut head)? {
        return Ok(None);
    }
    let [code, low, high] = head;
    let mut text = vec![0; u16::from_le_bytes([low, high]).into()];
    if !read_whole(pipe, &mut text)? {
        return Ok(None);
    }
    Ok(Some(Err((
        code,
        String::from_utf8_lossy(&text).into_owned(),
    ))))
}

/// Fills the buffer; `false` at the end of the pipe.
fn read_whole(pipe: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match pipe.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn wait_for(child: Pid) -> io::Result<WaitStatus> {
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A status as an exit code: 128 and the signal for one that was killed, as shells have it.
fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => i32::from(u8::MAX),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn ended_early(child: Pid, status: WaitStatus, code: u8) -> String {
    let pid = child.as_raw_nonzero();
    match status.terminating_signal() {
        Some(signal) => {
            format!("process {pid} was killed by signal {signal} before its ports were open")
        }
        None => format!("process {pid} exited with code {code} before its ports were open"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8]) -> Option<Result<(), (u8, String)>> {
        read_word(&mut &bytes[..]).unwrap()
    }

    #[test]
    fn a_word_is_ready_or_a_code_and_a_text_and_anything_less_is_none() {
        assert_eq!(word(b"R"), Some(Ok(())));
        let failure = b"F\x03\x05\x00taken";
        assert_eq!(word(failure), Some(Err((3, "taken".into()))));
        for length in 0..failure.len() {
            assert_eq!(word(&failure[..length]), None, "{length}");
        }
        assert_eq!(word(b"X"), None);
    }

    #[test]
    fn the_longest_failure_is_cut_between_characters_and_fits_one_write() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let readiness = Readiness {
            pipe,
            null: process::open_null().unwrap(),
        };
        readiness.failed(4, &"é".repeat(MAX_TEXT)).unwrap();
        let (code, text) = read_word(&mut reader).unwrap().unwrap().unwrap_err();
        assert_eq!(code, 4);
        assert!(text.chars().all(|char| char == 'é') && text.len() == MAX_TEXT);
    }
}
