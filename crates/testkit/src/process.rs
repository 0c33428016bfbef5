//! A child process that a test can watch, and that never outlives it.
//!
//! Decides:  output is collected line by line from both streams as it comes; dropping kills by pid.
//! Not here: processes that fork away (`daemon`): those are ended by the pid in their pidfile.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A running child with its output so far. Killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    status: Option<ExitStatus>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    name: String,
}

#[derive(Debug, Default)]
struct Output {
    streams: Mutex<Streams>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Streams {
    stdout: String,
    stderr: String,
    open: u8,
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

impl Process {
    /// Starts the command with its output collected and, unless the caller set one, no input. It is
    /// killed when this object is dropped, and in a private network at the end of the test.
    ///
    /// # Panics
    ///
    /// When the program cannot be started.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Process {
        Process::spawn_inner(command.stdin(Stdio::null()))
    }

    /// As [`spawn`](Process::spawn), with the command's own stdin setting (none: inherited).
    #[track_caller]
    pub fn spawn_with_stdin(command: &mut Command) -> Process {
        Process::spawn_inner(command)
    }

    #[track_caller]
    fn spawn_inner(command: &mut Command) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        let spawned = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => panic!("cannot start {name}: {error}"),
        };
        let output = Arc::new(Output::default());
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(collect(pipe, Stream::Stdout, &output));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(collect(pipe, Stream::Stderr, &output));
        }
        Process {
            child,
            status: None,
            output,
            readers,
            name,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process itself, for its stdin.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// All it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        self.streams().stdout.clone()
    }

    /// All it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.streams().stderr.clone()
    }

    /// Is it still running?
    #[track_caller]
    pub fn running(&mut self) -> bool {
        self.poll_exit().is_none()
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        // Reaped already: the pid may be another's by now.
        assert!(
            self.running(),
            "{} has ended:\n{}",
            self.name,
            self.transcript()
        );
        if let Err(error) = rustix::process::kill_process(Pid::from_child(&self.child), signal) {
            panic!("cannot signal {}: {error}", self.name);
        }
    }

    /// Waits for a line that contains `text`, on either stream, and returns it.
    ///
    /// # Panics
    ///
    /// When it does not come within the time, or the process ends without having written it.
    #[track_caller]
    pub fn wait_line(&mut self, text: &str, within: Duration) -> String {
        self.wait_line_of(&[text], within)
    }

    /// Waits for a line that contains every one of `texts`, on either stream, and returns it.
    ///
    /// # Panics
    ///
    /// As [`Process::wait_line`].
    #[track_caller]
    pub fn wait_line_of(&mut self, texts: &[&str], within: Duration) -> String {
        let deadline = Instant::now() + within;
        let mut streams = self.streams();
        loop {
            let found = [&streams.stdout, &streams.stderr]
                .into_iter()
                .flat_map(|stream| stream.lines())
                .find(|line| texts.iter().all(|text| line.contains(text)));
            if let Some(line) = found {
                return line.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || streams.open == 0 {
                break;
            }
            let waited = self.output.more.wait_timeout(streams, left);
            streams = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(streams);
        panic!(
            "{} did not say {texts:?} within {within:?}:\n{}",
            self.name,
            self.transcript()
        );
    }

    /// Waits until something listens on `address` in this network namespace, without connecting.
    ///
    /// # Panics
    ///
    /// When nothing does within the time, or the process ends.
    #[track_caller]
    pub fn wait_port(&mut self, address: SocketAddr, within: Duration) {
        let mut ended = false;
        let up = crate::eventually(within, || {
            ended = !self.running();
            ended || crate::listening(address)
        });
        let up = up && !ended;
        assert!(
            up,
            "{} does not listen on {address}:\n{}",
            self.name,
            self.transcript()
        );
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not come within the time.
    #[track_caller]
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let mut status = None;
        let ended = crate::eventually(within, || {
            status = self.poll_exit();
            status.is_some()
        });
        if let (true, Some(status)) = (ended, status) {
            // Its last words are complete once both pipes are closed; a grandchild may keep them.
            let _ = crate::eventually(Duration::from_millis(500), || self.streams().open == 0);
            return status;
        }
        panic!(
            "{} did not end within {within:?}:\n{}",
            self.name,
            self.transcript()
        );
    }

    /// Its exit code, waited for; a death by signal N is 128 + N, as in a shell.
    #[track_caller]
    pub fn exit_code(&mut self, within: Duration) -> i32 {
        let status = self.wait_exit(within);
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Both streams, labelled, for a failure's message.
    pub fn transcript(&self) -> String {
        let streams = self.streams();
        format!(
            "--- stdout\n{}--- stderr\n{}---",
            streams.stdout, streams.stderr
        )
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.output
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            match self.child.try_wait() {
                Ok(status) => self.status = status,
                Err(error) => panic!("cannot wait for {}: {error}", self.name),
            }
        }
        self.status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A grandchild may hold the pipes open: only readers that are done are joined.
        for reader in self.readers.drain(..).filter(JoinHandle::is_finished) {
            let _ = reader.join();
        }
    }
}

fn collect(
    pipe: impl Read + Send + 'static,
    which: Stream,
    output: &Arc<Output>,
) -> JoinHandle<()> {
    let output = Arc::clone(output);
    output
        .streams
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .open += 1;
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            let more = reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0);
            let mut streams = output
                .streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let text = String::from_utf8_lossy(&line);
            match which {
                Stream::Stdout => streams.stdout.push_str(&text),
                Stream::Stderr => streams.stderr.push_str(&text),
            }
            streams.open -= u8::from(!more);
            drop(streams);
            output.more.notify_all();
            if !more {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn lines_exit_codes_and_signals_of_a_child_are_seen() {
        let script = "echo ready; read line; echo got $line >&2; exit 3";
        let mut shell = Command::new("sh");
        let mut child = Process::spawn_with_stdin(shell.args(["-c", script]).stdin(Stdio::piped()));
        child.wait_line("ready", SOON);
        let mut stdin = child.child_mut().stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"hello\n").unwrap();
        assert_eq!(child.wait_line("got", SOON), "got hello");
        assert_eq!(child.exit_code(SOON), 3);
        assert_eq!(
            (child.stdout().as_str(), child.stderr().as_str()),
            ("ready\n", "got hello\n")
        );

        let mut sleeper = Process::spawn(Command::new("sleep").arg("60"));
        sleeper.signal(Signal::TERM);
        assert_eq!(sleeper.exit_code(SOON), 128 + 15);
    }

    #[test]
    fn a_dropped_child_is_gone() {
        let child = Process::spawn(Command::new("sleep").arg("60"));
        let directory = format!("/proc/{}", child.pid());
        assert!(std::fs::exists(&directory).unwrap());
        drop(child);
        assert!(!std::fs::exists(&directory).unwrap());
    }

    #[test]
    #[should_panic(expected = "did not say")]
    fn a_line_that_never_comes_fails_when_the_child_ends() {
        let mut child = Process::spawn(&mut Command::new("true"));
        child.wait_line("never", Duration::from_secs(60));
    }
}
