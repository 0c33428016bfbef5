//! The socket beside the pid file: who may ask for a reload and hear how it went.
//!
//! Decides:  where it is (the pid file's path and `.sock`), that it is its owner's alone (mode 0600,
//!           and root), the words on it, and what a client makes of them. The words are those of
//!           HAProxy's master socket, so that an admin socket can answer them too.
//! Source:   HAProxy 3.5-dev5, doc/management.txt, 9.4.1, `reload`: `Success=0` or `Success=1`, a line
//!           of two dashes, the messages.
//! Kernel:   net/unix/af_unix.c: connecting needs the right to write to the file; a name in the file
//!           system is found from every network namespace, 6.1 to 6.18
//! Not here: the reload (run/reload.rs), other commands.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// The longest command.
const MOST_COMMAND: usize = 256;
/// Who asks at once; others wait in the socket's queue.
const MOST_ASKING: usize = 8;
/// How long a command may take to come, and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
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
        let path = std::path::absolute(path)?;
        match fs::symlink_metadata(&path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(io::Error::other("something that is not a socket is there"));
            }
            _ => {}
        }
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        // Left by a process that had our id and died half way.
        let _ = fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside)?;
        let taken = fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::symlink_metadata(&aside))
            .and_then(|file| fs::rename(&aside, &path).map(|()| (file.dev(), file.ino())));
        match taken {
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
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whoever asks gets the answer here.
pub(crate) type Asked = oneshot::Sender<Outcome>;

/// Takes questions, in tasks of the runtime, until the receiver is dropped.
pub(crate) fn listen(listener: UnixListener) -> io::Result<UnboundedReceiver<Asked>> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let (sender, receiver) = unbounded_channel();
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MOST_ASKING));
    tokio::spawn(async move {
        loop {
            let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                // Descriptors ran out, most likely.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if sender.is_closed() {
                return;
            }
            let sender = sender.clone();
            tokio::spawn(async move {
                answer(stream, &sender).await;
                drop(place);
            });
        }
    });
    Ok(receiver)
}

async fn answer(mut stream: tokio::net::UnixStream, sender: &UnboundedSender<Asked>) {
    let Ok(Ok(command)) = tokio::time::timeout(PATIENCE, command(&mut stream)).await else {
        return;
    };
    let text = match command.trim() {
        "reload" => {
            let (asked, outcome) = oneshot::channel();
            let _ = sender.send(asked);
            let outcome = outcome.await.unwrap_or_else(|_| Outcome {
                done: false,
                report: "the process is stopping\n".to_owned(),
            });
            format!("Success={}\n--\n{}", u8::from(outcome.done), outcome.report)
        }
        other => format!("unknown command `{other}`; this socket knows `reload`\n"),
    };
    // Who went away does not want to know.
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(text.as_bytes())).await;
}

/// The first line.
async fn command(stream: &mut tokio::net::UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.len() < MOST_COMMAND {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
            byte => line.push(byte),
        }
    }
    Err(io::Error::other("a command without an end"))
}

/// Asks the process whose pid file this is for a reload, and waits for its end.
pub fn ask_for_reload(pidfile: &Path) -> io::Result<Outcome> {
    let mut stream = UnixStream::connect(beside(pidfile))?;
    stream.write_all(b"reload\n")?;
    let mut text = String::new();
    stream.take(MOST_REPORT).read_to_string(&mut text)?;
    understand(&text).ok_or_else(|| io::Error::other("the answer is not understood"))
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

    #[test]
    fn who_asks_hears_the_outcome_and_who_says_nonsense_or_nothing_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let pidfile = directory.path().join("x.pid");
        let socket = ControlSocket::bind(&beside(&pidfile)).unwrap();
        let (listener, _file) = socket.into_parts();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let mut asked = listen(listener).unwrap();
                for done in [true, false] {
                    let report = format!("it is {done}\n");
                    let one = asked.recv().await.unwrap();
                    one.send(Outcome { done, report }).unwrap();
                }
                // The third is not answered: the process ends.
                drop(asked.recv().await.unwrap());
                tokio::time::sleep(Duration::from_millis(50)).await;
            });
        });
        let silent = UnixStream::connect(beside(&pidfile)).unwrap();
        let mut nonsense = UnixStream::connect(beside(&pidfile)).unwrap();
        nonsense.write_all(b"dance\n").unwrap();
        let mut said = String::new();
        nonsense.read_to_string(&mut said).unwrap();
        assert!(said.contains("unknown command `dance`"), "{said}");
        let mut long = UnixStream::connect(beside(&pidfile)).unwrap();
        let _ = long.write_all(&[b'x'; 2 * MOST_COMMAND]);
        for done in [true, false] {
            let outcome = ask_for_reload(&pidfile).unwrap();
            let report = format!("it is {done}\n");
            assert_eq!(outcome, Outcome { done, report });
        }
        let last = ask_for_reload(&pidfile).unwrap();
        assert!(!last.done && last.report.contains("stopping"));
        server.join().unwrap();
        drop((silent, long));
    }
}
