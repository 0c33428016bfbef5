//! The log writer: from the workers' queue and the control plane's messages to the targets.
//!
//! Decides:  that nobody waits for a log line. Two threads of their own take lines from bounded
//!           queues and write them; what a full queue or a target cannot take is dropped, counted,
//!           and reported once in a while. Everything that needs files, names or privileges is
//!           opened by [`LogWriter::start`], so that a chroot and another user change nothing.
//! Source:   HAProxy's manual, `log`; src/log.c, __send_log(), 2.6 to 3.5.
//! Not here: how lines read (the proxy crate's log module), how each kind of target is written
//!           to (logs/output.rs), which targets a configuration names (logs/plan.rs).

mod output;
mod plan;
mod ring;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis_proxy::log::session::session_level;
use portcullis_proxy::log::{Level, Moment, Zone, session_line};
use portcullis_proxy::record::{LogSource, SessionRecord};

use output::Outputs;
pub use plan::{Destination, LogPlan, Notices, Route, SessionLog, Target};

/// Messages of the control plane that may wait to be written.
const MESSAGES: usize = 1_024;
/// Records written before buffers are flushed.
const BATCH: usize = 256;
/// What a target could not take is offered again after this time.
const RETRY: Duration = Duration::from_millis(200);
/// Dropped lines are reported at most this often.
const REPORT: Duration = Duration::from_secs(10);

/// Whose log a message of the control plane belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// The `global` section's targets.
    Global,
    /// A frontend's, by name.
    Frontend(String),
    /// A backend's, by name.
    Backend(String),
}

/// How many lines were lost, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// A queue was full.
    pub by_queues: u64,
    /// A target could not take them.
    pub by_targets: u64,
}

impl Dropped {
    /// All of them.
    pub fn total(self) -> u64 {
        self.by_queues + self.by_targets
    }

    /// That `new` lines were lost since it was last said.
    fn words(self, new: u64) -> String {
        format!(
            "{new} log lines were dropped (in all {} by full queues, {} by targets that could \
             not take them).",
            self.by_queues, self.by_targets
        )
    }
}

/// The running log writer.
#[derive(Debug)]
pub struct LogWriter {
    handle: LogHandle,
    threads: Vec<JoinHandle<()>>,
}

/// What others say through. It is cheap to clone and never blocks.
#[derive(Debug, Clone)]
pub struct LogHandle {
    messages: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Message {
    to: Audience,
    level: Level,
    text: String,
}

#[derive(Debug)]
struct Shared {
    outputs: Mutex<Outputs>,
    /// Messages that found the queue full.
    lost_messages: AtomicU64,
    /// Sessions that found theirs full, as last looked up.
    lost_sessions: AtomicU64,
    /// Lost lines that reports have told of.
    told: AtomicU64,
}

impl LogWriter {
    /// Opens every target of `plan` and starts to write what comes from `sessions`.
    ///
    /// Call it before privileges are dropped, and after `daemon` has forked (threads do not
    /// survive that). A target that is not there yet (a syslog socket) is no error: it is in the
    /// returned warnings, and tried again later.
    pub fn start(
        plan: LogPlan,
        zone: Zone,
        sessions: LogSource,
    ) -> io::Result<(Self, Vec<String>)> {
        let (outputs, warnings) = Outputs::open(plan, zone)?;
        let shared = Arc::new(Shared {
            outputs: Mutex::new(outputs),
            lost_messages: AtomicU64::new(0),
            lost_sessions: AtomicU64::new(0),
            told: AtomicU64::new(0),
        });
        let (sender, receiver) = mpsc::sync_channel(MESSAGES);
        let handle = LogHandle {
            messages: sender,
            shared: Arc::clone(&shared),
        };
        let for_messages = Arc::clone(&shared);
        let threads = vec![
            std::thread::Builder::new()
                .name("log-sessions".to_owned())
                .spawn(move || write_sessions(&shared, &sessions))?,
            std::thread::Builder::new()
                .name("log-messages".to_owned())
                .spawn(move || write_messages(&for_messages, &receiver))?,
        ];
        Ok((Self { handle, threads }, warnings))
    }

    /// For those who have something to say.
    #[must_use]
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    /// Writes what is left and ends. Returns once every [`LogHandle`] and every worker's sink is
    /// gone: drop them first.
    pub fn finish(self) -> Dropped {
        let shared = Arc::clone(&self.handle.shared);
        drop(self.handle);
        for thread in self.threads {
            // A thread that panicked has said so; what it could write is written.
            let _ = thread.join();
        }
        shared.outputs().close();
        let dropped = shared.dropped();
        // What targets had not taken by now; they will not take a word of it either.
        let new = dropped.total() - shared.told.load(Ordering::Relaxed).min(dropped.total());
        if new > 0 {
            let words = dropped.words(new);
            shared.outputs().last_words(Level::Warning, &words);
        }
        dropped
    }
}

impl LogHandle {
    /// Hands a message over, or counts it as dropped.
    pub fn say(&self, to: Audience, level: Level, text: impl Into<String>) {
        let message = Message {
            to,
            level,
            text: text.into(),
        };
        if self.messages.try_send(message).is_err() {
            self.shared.lost_messages.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Shows what the rings keep on standard error, where messages go there.
    pub fn show_rings(&self) {
        let mut outputs = self.shared.outputs();
        outputs.show_rings();
        outputs.flush();
    }

    /// How many lines were lost until now.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.shared.dropped()
    }

    /// For whoever may take other targets.
    #[must_use]
    pub fn targets(&self) -> LogTargets {
        LogTargets {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The targets; the writer does not wait for whoever holds this.
#[derive(Debug, Clone)]
pub struct LogTargets {
    shared: Arc<Shared>,
}

impl LogTargets {
    /// Takes a new plan. Targets that both plans name stay open; if a new one cannot be opened,
    /// the old plan stays.
    pub fn replace(&self, plan: LogPlan) -> io::Result<Vec<String>> {
        self.shared.outputs().replace(plan)
    }
}

impl Shared {
    fn dropped(&self) -> Dropped {
        let messages = self.lost_messages.load(Ordering::Relaxed);
        Dropped {
            by_queues: messages + self.lost_sessions.load(Ordering::Relaxed),
            by_targets: self.outputs().dropped(),
        }
    }

    fn outputs(&self) -> MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time as lines show it.
fn now() -> Moment {
    Moment(u64::try_from(date().as_micros()).unwrap_or(u64::MAX))
}

/// The date, since 1970: only to be shown.
pub(crate) fn date() -> std::time::Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

fn write_messages(shared: &Shared, messages: &Receiver<Message>) {
    while let Ok(message) = messages.recv() {
        let mut outputs = shared.outputs();
        outputs.message(&message.to, message.level, &message.text, now());
        outputs.flush();
    }
}

fn write_sessions(shared: &Shared, source: &LogSource) {
    let mut report = Report::default();
    loop {
        let first = match shared.outputs().unflushed() || report.waits {
            false => source.receiver().recv().map_err(RecvTimeoutError::from),
            true => source.receiver().recv_timeout(RETRY),
        };
        match first {
            Ok(record) => {
                let mut outputs = shared.outputs();
                let at = now();
                write_session(&mut outputs, &record, at);
                for record in source.receiver().try_iter().take(BATCH - 1) {
                    write_session(&mut outputs, &record, at);
                }
                outputs.flush();
            }
            Err(RecvTimeoutError::Timeout) => shared.outputs().flush(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        shared
            .lost_sessions
            .store(source.dropped(), Ordering::Relaxed);
        report.write_when_due(shared);
    }
    shared
        .lost_sessions
        .store(source.dropped(), Ordering::Relaxed);
    report.last = None;
    report.write_when_due(shared);
}

fn write_session(outputs: &mut Outputs, record: &SessionRecord, at: Moment) {
    outputs.session(record, at, |log, zone| {
        let mut text = String::with_capacity(160);
        session_line(log.style, record, zone, &mut text);
        (session_level(record, log.separate_errors), text)
    });
}

/// What has been said of dropped lines.
#[derive(Debug, Default)]
struct Report {
    last: Option<Instant>,
    /// There is something to tell, but it is too early.
    waits: bool,
}

impl Report {
    fn write_when_due(&mut self, shared: &Shared) {
        let dropped = shared.dropped();
        let new = dropped
            .total()
            .saturating_sub(shared.told.load(Ordering::Relaxed));
        self.waits = new > 0 && self.last.is_some_and(|last| last.elapsed() < REPORT);
        if new == 0 || self.waits {
            return;
        }
        let text = dropped.words(new);
        let mut outputs = shared.outputs();
        outputs.message(&Audience::Global, Level::Warning, &text, now());
        outputs.flush();
        drop(outputs);
        // What this very report lost is not worth another one.
        let told = shared.dropped().total();
        shared.told.store(told, Ordering::Relaxed);
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests;
