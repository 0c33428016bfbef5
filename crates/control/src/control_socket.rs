//! The socket beside the pid file: who may ask for a reload and hear how it went.
//!
//! Decides:  where it is (the pid file's path and `.sock`), that it is its owner's alone (mode 0600,
//!           and root), the answer to `reload`, and what a client makes of it. Everything else on it is
//!           as on any runtime socket; nothing there is a command of its own.
//! Source:   HAProxy 3.5-dev5, doc/management.txt, 9.4.1, `reload`: `Success=0` or `Success=1`, a line
//!           of two dashes, the messages.
//! Kernel:   net/unix/af_unix.c: connecting needs the right to write to the file; a name in the file
//!           system is found from every network namespace, 6.1 to 6.18
//! Not here: the reload (run/reload.rs), commands and clients (admin.rs).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest report that a client takes.
const MOST_REPORT: u64 = 8 << 20;

/// How a reload went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The new configuration serves.
    pub done: bool,
    /// What is to be told.
    pub report: String,
}

/// Where the socket of a process with this pid file is.
pub fn beside(pidfile: &Path) -> PathBuf {
    let mut name = pidfile.as_os_str().to_owned();
    name.push(".sock");
    PathBuf::from(name)
}

/// Where the socket of a process is before it has its path.
pub fn aside(path: &Path, pid: u32) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{pid}"));
    PathBuf::from(aside)
}

/// The socket, and its file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl ControlSocket {
    /// Listens at `path`, in the place of a socket that is there; anything else there is left, and is
    /// an error. To be called before privileges are dropped.
    pub fn bind(path: &Path) -> io::Result<ControlSocket> {
        let socket = ControlSocket::bind_aside(path)?;
        let beside = aside(&socket.path, std::process::id());
        if let Err(error) = fs::rename(&beside, &socket.path) {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        Ok(socket)
    }

    /// Listens at a name beside `path` ([`aside`]), from where it can be renamed when another process
    /// has no use for the path any more.
    pub fn bind_aside(path: &Path) -> io::Result<ControlSocket> {
        let path = std::path::absolute(path)?;
        match fs::symlink_metadata(&path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(io::Error::other("something that is not a socket is there"));
            }
            _ => {}
        }
        let aside = aside(&path, std::process::id());
        // Left by a process that had our id and died half way.
        let _ = fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside)?;
        let bound = fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::symlink_metadata(&aside))
            .map(|file| (file.dev(), file.ino()));
        match bound {
            Ok(identity) => Ok(ControlSocket {
                listener,
                path,
                identity,
            }),
            Err(error) => {
                let _ = fs::remove_file(&aside);
                Err(error)
            }
        }
    }

    /// The part that is asked, and the part that removes the file in the end.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        let file = SocketFile {
            path: self.path,
            identity: self.identity,
        };
        (self.listener, file)
    }
}

/// The socket's file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Removes it, if it is still ours and can be removed.
    pub fn remove_if_ours(&self) {
        // It may never have got its path.
        for path in [aside(&self.path, std::process::id()), self.path.clone()] {
            let there = fs::symlink_metadata(&path);
            if there.is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// The answer to `reload`.
pub(crate) fn text(outcome: &Outcome) -> String {
    format!("Success={}\n--\n{}", u8::from(outcome.done), outcome.report)
}

/// Asks the process whose pid file this is for a reload, and waits for its end.
pub fn ask_for_reload(pidfile: &Path) -> io::Result<Outcome> {
    ask(pidfile, "reload")
}

/// Asks it for a new program in its place, and waits until that serves.
pub fn ask_for_upgrade(pidfile: &Path) -> io::Result<Outcome> {
    ask(pidfile, "upgrade")
}

fn ask(pidfile: &Path, command: &str) -> io::Result<Outcome> {
    let mut stream = UnixStream::connect(beside(pidfile))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut text = String::new();
    stream.take(MOST_REPORT).read_to_string(&mut text)?;
    // The empty line at the end of every answer.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    understand(text).ok_or_else(|| io::Error::other("the answer is not understood"))
}

fn understand(text: &str) -> Option<Outcome> {
    let (done, report) = text.strip_prefix("Success=")?.split_once("\n--\n")?;
    let done = match done {
        "1" => true,
        "0" => false,
        _ => return None,
    };
    let report = report.to_owned();
    Some(Outcome { done, report })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_takes_the_place_of_an_old_one_and_of_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = beside(&directory.path().join("x.pid"));
        assert_eq!(path, directory.path().join("x.pid.sock"));
        fs::write(&path, "a file").unwrap();
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_file(&path).unwrap();
        let (_, first) = ControlSocket::bind(&path).unwrap().into_parts();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (_listener, second) = ControlSocket::bind(&path).unwrap().into_parts();
        first.remove_if_ours();
        assert!(path.exists(), "it is another process's now");
        second.remove_if_ours();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_an_answer_is_an_answer() {
        let outcome = |done, report: &str| {
            let report = report.to_owned();
            Some(Outcome { done, report })
        };
        for (text, expected) in [
            ("Success=1\n--\n", outcome(true, "")),
            ("Success=0\n--\na\n--\nb\n", outcome(false, "a\n--\nb\n")),
            ("Success=2\n--\n", None),
            ("Success=1\n", None),
            ("", None),
            ("unknown command `x`; this socket knows `reload`\n", None),
        ] {
            assert_eq!(understand(text), expected, "{text:?}");
        }
    }
}
