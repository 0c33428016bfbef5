//! Clients of the runtime sockets: bytes in, answers out.
//!
//! Decides:  how many clients there are at once, how long one may be silent or not read, and when its
//!           connection ends: after the first line, unless it wants to be asked for more.
//! Source:   HAProxy's management guide, chapter 9.3; src/cli.c, cli_io_handler(), 2.6.
//! Not here: what a command is (dialect.rs) and what it is answered (commands.rs), what the process
//!           does about it (run/).
//!
//! All of it runs on the control thread, as tasks: a client that is slow is waited for by its own
//! task, and the workers know nothing of it.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis_config::model::StatsOptions;
use portcullis_listener::LocalAddress;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::commands::{self, Question, Reply, Session, Severity};
use super::dialect::{Next, Reader};
use crate::control_socket::{self, Outcome};

/// After accepting failed, since descriptors ran out, most likely.
const BREATH: Duration = Duration::from_millis(100);
/// How long a process that ends waits for clients to take their answers.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes read at once.
const CHUNK: usize = 4096;

/// The process's answer: a message with its severity, or a text without.
#[derive(Debug)]
pub(crate) enum Answer {
    Text(String),
    Message(Severity, String),
}

/// What a client wants of the process.
#[derive(Debug)]
pub(crate) enum Ask {
    /// An answer.
    Question(Question, oneshot::Sender<Answer>),
    /// Its listeners, through this connection.
    Sockets(StdUnixStream),
    /// Its place, through this connection.
    HandOver(StdUnixStream),
}

/// A socket that clients come to.
#[derive(Debug)]
pub(crate) enum Door {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Door {
    /// A listening socket as it was opened.
    pub(crate) fn new(fd: std::os::fd::OwnedFd, local: &LocalAddress) -> Door {
        match local {
            LocalAddress::Inet(_) => Door::Tcp(fd.into()),
            _ => Door::Unix(fd.into()),
        }
    }
}

/// How clients of a door are treated.
#[derive(Debug, Clone)]
pub(crate) struct House {
    pub(crate) options: StatsOptions,
    pub(crate) timeout: Duration,
    /// Those who are there at once; others wait in the socket's queue.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) asks: UnboundedSender<Ask>,
    pub(crate) answering: Answering,
}

/// Clients who have asked something and have not got all of the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answering(Arc<AtomicUsize>);

/// One of them.
struct Asking(Answering);

impl Answering {
    fn one(&self) -> Asking {
        self.0.fetch_add(1, Ordering::AcqRel);
        Asking(self.clone())
    }

    /// Until there is none, and not for long: one may not read.
    pub(crate) async fn done(&self) {
        let until = tokio::time::Instant::now() + LAST_WORDS;
        while self.0.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A task that accepts; dropped, it ends, and closes its descriptor. Clients that are there stay.
#[derive(Debug)]
pub(crate) struct Accepting(JoinHandle<()>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets clients in. To be called within a runtime.
pub(crate) fn open(door: Door, house: House) -> io::Result<Accepting> {
    Ok(Accepting(match door {
        Door::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            tokio::spawn(async move {
                loop {
                    let Some(place) = house.place().await else {
                        return;
                    };
                    match listener.accept().await {
                        Ok((stream, _)) => {
                            let house = house.clone();
                            tokio::spawn(async move {
                                house.serve_unix(stream).await;
                                drop(place);
                            });
                        }
                        Err(_) => tokio::time::sleep(BREATH).await,
                    }
                }
            })
        }
        Door::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(async move {
                loop {
                    let Some(place) = house.place().await else {
                        return;
                    };
                    match listener.accept().await {
                        Ok((mut stream, _)) => {
                            let house = house.clone();
                            tokio::spawn(async move {
                                // There is no way to hand descriptors over.
                                let _ = house.converse(&mut stream).await;
                                drop(place);
                            });
                        }
                        Err(_) => tokio::time::sleep(BREATH).await,
                    }
                }
            })
        }
    }))
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    /// It wants the listeners.
    WantsSockets,
    /// It wants the process's place.
    WantsPlace,
}

impl House {
    async fn place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        if self.asks.is_closed() {
            return None;
        }
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    async fn serve_unix(&self, mut stream: tokio::net::UnixStream) {
        let ask = match self.converse(&mut stream).await {
            End::Closed => return,
            End::WantsSockets => Ask::Sockets,
            End::WantsPlace => Ask::HandOver,
        };
        if let Ok(stream) = stream.into_std() {
            let _ = self.asks.send(ask(stream));
        }
    }

    /// Answers until the client has had enough.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) -> End {
        let mut session = Session::new(self.options, self.timeout);
        let mut reader = Reader::default();
        let mut bytes = [0; CHUNK];
        loop {
            let mut asking = None;
            let text = match reader.take_next() {
                Next::Command(command) => match commands::reply(&mut session, &command) {
                    Reply::Text(text) => text,
                    Reply::Message(severity, text) => {
                        commands::with_severity(&session, severity, &text)
                    }
                    Reply::Ask(question) => {
                        asking = Some(self.answering.one());
                        match self.ask(question).await {
                            Some(Answer::Text(text)) => text,
                            Some(Answer::Message(severity, text)) => {
                                commands::with_severity(&session, severity, &text)
                            }
                            None => return End::Closed,
                        }
                    }
                    Reply::GiveSockets => return End::WantsSockets,
                    Reply::HandOver => return End::WantsPlace,
                    Reply::Close => return End::Closed,
                },
                Next::PayloadLine if session.interactive => {
                    if write(stream, "+ ", session.timeout).await.is_err() {
                        return End::Closed;
                    }
                    continue;
                }
                Next::PayloadLine => continue,
                Next::TooLong => return End::Closed,
                Next::More => {
                    let read = stream.read(&mut bytes);
                    match tokio::time::timeout(session.timeout, read).await {
                        Ok(Ok(length)) if length > 0 => reader.push(&bytes[..length]),
                        // Gone, or silent for too long.
                        _ => return End::Closed,
                    }
                    continue;
                }
            };
            let end = if session.interactive { "\n> " } else { "\n" };
            let text = text + end;
            let written = write(stream, &text, session.timeout).await;
            drop(asking);
            if written.is_err() {
                return End::Closed;
            }
            if !session.interactive && reader.is_empty() {
                return End::Closed;
            }
        }
    }

    async fn ask(&self, question: Question) -> Option<Answer> {
        let is_reload = matches!(question, Question::Reload | Question::Upgrade);
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Question(question, answer)).ok()?;
        match answered.await {
            Ok(answer) => Some(answer),
            // The process ends.
            Err(_) if is_reload => Some(Answer::Text(control_socket::text(&Outcome {
                done: false,
                report: "the process is stopping\n".to_owned(),
            }))),
            Err(_) => None,
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    text: &str,
    timeout: Duration,
) -> io::Result<()> {
    match tokio::time::timeout(timeout, stream.write_all(text.as_bytes())).await {
        Ok(written) => written,
        Err(late) => Err(late.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::path::Path;

    use portcullis_config::model::StatsLevel;
    use tokio::sync::mpsc::unbounded_channel;

    /// Two at once, who may be silent for 300 ms; every question is answered with its name, and a
    /// reload after 100 ms. Served until the answer is dropped.
    fn serve(directory: &Path) -> oneshot::Sender<()> {
        let listener = std::os::unix::net::UnixListener::bind(directory.join("s")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let (asks, mut asked) = unbounded_channel();
                let house = House {
                    options: StatsOptions {
                        level: StatsLevel::Admin,
                        exposes_listeners: true,
                        ..StatsOptions::default()
                    },
                    timeout: Duration::from_millis(300),
                    places: Arc::new(Semaphore::new(2)),
                    asks,
                    answering: Answering::default(),
                };
                let _open = open(Door::Unix(listener), house).unwrap();
                tokio::spawn(async move {
                    while let Some(ask) = asked.recv().await {
                        match ask {
                            Ask::Question(Question::Reload, answer) => {
                                tokio::time::sleep(Duration::from_millis(100)).await;
                                drop(answer);
                            }
                            Ask::Question(question, answer) => {
                                let text = format!("{question:?}\n");
                                let _ = answer.send(Answer::Message(Severity::Error, text));
                            }
                            Ask::Sockets(mut stream) | Ask::HandOver(mut stream) => {
                                stream.write_all(b"sockets").unwrap();
                            }
                        }
                    }
                });
                let _ = stopped.await;
            });
        });
        stop
    }

    fn connect(directory: &Path) -> StdUnixStream {
        let stream = StdUnixStream::connect(directory.join("s")).unwrap();
        let long = Some(Duration::from_secs(20));
        stream.set_read_timeout(long).unwrap();
        stream
    }

    fn say(directory: &Path, text: &str) -> String {
        let mut stream = connect(directory);
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn one_line_is_answered_and_the_connection_ends_unless_more_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let _server = serve(directory.path());
        let version = env!("CARGO_PKG_VERSION");
        for (text, expected) in [
            ("show version\n", format!("{version}\n\n")),
            (
                "show version;show cli level\n",
                format!("{version}\n\nadmin\n\n"),
            ),
            (
                "show version\nshow cli level\n",
                format!("{version}\n\nadmin\n\n"),
            ),
            ("show cli sockets\n", "Sockets\n\n".to_owned()),
            (
                "set severity-output number;show cli sockets\n",
                "\n[3]: Sockets\n\n".to_owned(),
            ),
            ("# nothing\n", "\n".to_owned()),
            ("quit\n", String::new()),
            (
                "prompt\nshow cli level\n\\;\nset x <<\na\n\nquit\n",
                "\n> admin\n\n> ".to_owned(),
            ),
            ("_getsocks\n", "sockets".to_owned()),
            ("_hand-over\n", "sockets".to_owned()),
            (
                "reload\n",
                "Success=0\n--\nthe process is stopping\n\n".to_owned(),
            ),
        ] {
            let answer = say(directory.path(), text);
            match text.starts_with("prompt") {
                true => {
                    assert!(answer.starts_with(&expected), "{text:?}: {answer:?}");
                    assert_eq!(answer.matches("Unknown command").count(), 2, "{answer}");
                    assert!(answer.contains("\n> + + Unknown"), "{answer:?}");
                    assert!(answer.ends_with("\n> "), "{answer:?}");
                }
                false => assert_eq!(answer, expected, "{text:?}"),
            }
        }
    }

    #[test]
    fn who_is_silent_or_reads_nothing_holds_nobody_up_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let _server = serve(directory.path());
        let silent = connect(directory.path());
        // Asks for more than a socket holds, and reads none of it.
        let deaf = connect(directory.path());
        deaf.set_nonblocking(true).unwrap();
        let _ = (&deaf).write_all("help;".repeat(100_000).as_bytes());
        // Both places are taken: this one waits until one of them is given up on.
        let began = std::time::Instant::now();
        let answer = say(directory.path(), "show cli level\n");
        assert_eq!(answer, "admin\n\n");
        assert!(
            began.elapsed() >= Duration::from_millis(250),
            "{:?}",
            began.elapsed()
        );
        drop((silent, deaf));
    }

    #[test]
    fn who_goes_away_or_never_ends_a_line_frees_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let _server = serve(directory.path());
        for _ in 0..10 {
            let mut gone = connect(directory.path());
            gone.write_all(b"reload\nshow info\nprompt\n").unwrap();
            drop(gone);
            let mut long = connect(directory.path());
            let _ = long.write_all(&[b'x'; 20_000]);
        }
        assert_eq!(say(directory.path(), "show cli level\n"), "admin\n\n");
    }
}
