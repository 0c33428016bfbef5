//! A worker's thread: the loop around an engine on the real network, and the handle to it.
//!
//! Decides:  one clock reading a wake-up; commands come by a channel and a bell; a panic is told.
//! Not here: what an event means (worker.rs).

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::EventfdFlags;

use super::leave::{Reply, Sessions};
use super::token::Token;
use super::{Engine, Opening, Reports};
use crate::limits::Bell;
use crate::net::linux::LinuxNet;
use crate::record::{EndCause, LogSink, ObserverSink};
use crate::snapshot::{Snapshot, WorkerListener};
use crate::state::ServerState;

/// How long the wall clock's distance from the monotonic one is believed, ms.
const WALL_CLOCK_MS: u64 = 1000;

/// What a worker reports, on its own thread; the receiver must not block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerEvent {
    /// It runs by the snapshot that it was given.
    Installed {
        /// Which.
        worker: u32,
        /// The snapshot's.
        generation: u64,
        /// How long it did nothing else.
        took: Duration,
    },
    /// It takes no connections any more, and its last session ended.
    Drained {
        /// Which.
        worker: u32,
    },
    /// Its thread ended as told.
    Stopped {
        /// Which.
        worker: u32,
    },
    /// Its thread ended by a panic or an error of the kernel's; its sessions are gone.
    Failed {
        /// Which.
        worker: u32,
        /// What it said.
        message: String,
    },
}

/// Who hears of events.
pub type EventSink = Arc<dyn Fn(WorkerEvent) + Send + Sync>;

/// How to start a worker.
#[derive(Clone)]
pub struct WorkerConfig {
    /// Its number, from 0.
    pub worker: u32,
    /// The CPU to run on.
    pub cpu: Option<usize>,
    /// Where records go.
    pub log: Option<LogSink>,
    /// Where live events go.
    pub observer: Option<ObserverSink>,
    /// Who hears of its events.
    pub events: EventSink,
}

impl std::fmt::Debug for WorkerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerConfig")
            .field("worker", &self.worker)
            .field("cpu", &self.cpu)
            .finish_non_exhaustive()
    }
}

/// What a worker can be told.
#[derive(Debug)]
enum Command {
    Install(Arc<Snapshot>, Vec<WorkerListener>),
    Leave(Arc<OwnedFd>),
    EmptyQueue(Arc<OwnedFd>, Reply),
    LetGo(Arc<OwnedFd>),
    WindDown(Sessions),
    StopAccepting,
    Pause,
    Resume,
    EndSessions,
    EndSessionsOf(Arc<ServerState>, EndCause),
    Ping,
    Stop,
}

/// A worker that runs. Dropping the handle leaves it running; `stop` and `join` end it.
#[derive(Debug)]
pub struct WorkerHandle {
    worker: u32,
    commands: mpsc::Sender<Command>,
    bell: Arc<Bell>,
    sessions: Arc<AtomicU32>,
    told: Arc<AtomicU32>,
    obeyed: Arc<AtomicU32>,
    thread: JoinHandle<Result<(), String>>,
}

/// Starts a worker; it idles until something is installed.
///
/// The process should ignore SIGPIPE, as Rust's runtime does: splicing to a socket that is gone
/// raises it.
pub fn spawn(config: WorkerConfig) -> io::Result<WorkerHandle> {
    let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let eventfd = Arc::new(eventfd);
    let ringer = Arc::clone(&eventfd);
    let bell = Bell::new(move || {
        // It fails only when the counter is full, and then it is rung already.
        let _ = rustix::io::write(&*ringer, &1u64.to_ne_bytes());
    });
    let (sender, receiver) = mpsc::channel();
    let sessions = Arc::new(AtomicU32::new(0));
    let obeyed = Arc::new(AtomicU32::new(0));
    let worker = config.worker;
    let (started, starting) = mpsc::sync_channel(1);
    let setting = Setting {
        config,
        commands: receiver,
        bell: Arc::clone(&bell),
        sessions: Arc::clone(&sessions),
        obeyed: Arc::clone(&obeyed),
        eventfd,
        started,
    };
    let thread = std::thread::Builder::new()
        .name(format!("worker-{worker}"))
        .spawn(move || setting.run())?;
    match starting.recv() {
        Ok(outcome) => outcome?,
        Err(_) => return Err(io::Error::other("the worker's thread ended at its start")),
    }
    Ok(WorkerHandle {
        worker,
        commands: sender,
        bell,
        sessions,
        told: Arc::default(),
        obeyed,
        thread,
    })
}

impl WorkerHandle {
    /// Its number.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// Its sessions, as of its last wake-up.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Has it done all that it was told so far?
    pub fn has_obeyed(&self) -> bool {
        self.obeyed.load(Ordering::SeqCst) == self.told.load(Ordering::SeqCst)
    }

    /// Runs by `snapshot` from now on, with these listeners in place of the ones it has. Sessions
    /// go on with what they began with.
    pub fn install(&self, snapshot: Arc<Snapshot>, listeners: Vec<WorkerListener>) {
        self.tell(Command::Install(snapshot, listeners));
    }

    /// Serves what waits in its listeners' queues, closes them, and reports
    /// [`WorkerEvent::Drained`] when its last session ended.
    pub fn stop_accepting(&self) {
        self.tell(Command::StopAccepting);
    }

    /// Asks for a sign of life: [`WorkerHandle::has_obeyed`] once its loop came by.
    pub fn ping(&self) {
        self.tell(Command::Ping);
    }

    /// Leaves its listeners alone; their queues fill. Sessions go on.
    pub fn pause(&self) {
        self.tell(Command::Pause);
    }

    /// The end of a pause.
    pub fn resume(&self) {
        self.tell(Command::Resume);
    }

    /// Ends all its sessions now.
    pub fn end_sessions(&self) {
        self.tell(Command::EndSessions);
    }

    /// Ends all its sessions, and the thread.
    pub fn stop(&self) {
        self.tell(Command::Stop);
    }

    /// Waits for the thread's end. The error is what it failed with.
    pub fn join(self) -> Result<(), String> {
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => Err(message_of(panic.as_ref())),
        }
    }

    /// What others than its owner may tell it.
    pub fn remote(&self) -> Remote {
        Remote {
            commands: self.commands.clone(),
            bell: Arc::clone(&self.bell),
            told: Arc::clone(&self.told),
        }
    }

    fn tell(&self, command: Command) {
        self.remote().tell(command);
    }
}

/// Tells a worker some things, from anywhere.
#[derive(Debug, Clone)]
pub struct Remote {
    commands: mpsc::Sender<Command>,
    bell: Arc<Bell>,
    told: Arc<AtomicU32>,
}

impl Remote {
    /// Ends the sessions of a server.
    pub fn end_sessions_of(&self, server: &Arc<ServerState>, cause: EndCause) {
        self.tell(Command::EndSessionsOf(Arc::clone(server), cause));
    }

    /// It serves this listener until it is let go of, whatever is installed meanwhile; to be told before an
    /// installation that does not have it. A worker without the listener does nothing.
    pub fn leave(&self, listener: &Arc<OwnedFd>) {
        self.tell(Command::Leave(Arc::clone(listener)));
    }

    /// Drops the reply when there was nothing left to accept from a listener that leaves; at once where it has
    /// no such listener.
    pub fn empty_queue(&self, listener: &Arc<OwnedFd>, reply: Reply) {
        self.tell(Command::EmptyQueue(Arc::clone(listener), reply));
    }

    /// It has no more to do with this listener. Whoever lets go last closes it.
    pub fn let_go(&self, listener: &Arc<OwnedFd>) {
        self.tell(Command::LetGo(Arc::clone(listener)));
    }

    /// Reports [`WorkerEvent::Drained`] when its last listener was let go of and its last session ended.
    pub fn wind_down(&self, sessions: Sessions) {
        self.tell(Command::WindDown(sessions));
    }

    fn tell(&self, command: Command) {
        self.told.fetch_add(1, Ordering::SeqCst);
        // A worker that is gone has reported why.
        let _ = self.commands.send(command);
        self.bell.ring();
    }
}

/// What a thread begins with.
struct Setting {
    config: WorkerConfig,
    commands: mpsc::Receiver<Command>,
    bell: Arc<Bell>,
    sessions: Arc<AtomicU32>,
    obeyed: Arc<AtomicU32>,
    eventfd: Arc<OwnedFd>,
    started: mpsc::SyncSender<io::Result<()>>,
}

impl Setting {
    fn run(self) -> Result<(), String> {
        let (worker, events) = (self.config.worker, Arc::clone(&self.config.events));
        let sessions = Arc::clone(&self.sessions);
        let outcome = match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(message_of(panic.as_ref())),
        };
        sessions.store(0, Ordering::Relaxed);
        events(match &outcome {
            Ok(()) => WorkerEvent::Stopped { worker },
            Err(message) => WorkerEvent::Failed {
                worker,
                message: message.clone(),
            },
        });
        outcome
    }

    /// All that can fail before the first wait.
    fn prepare(&self) -> io::Result<LinuxNet> {
        if let Some(cpu) = self.config.cpu {
            let mut set = rustix::thread::CpuSet::new();
            set.set(cpu);
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        let mut net = LinuxNet::new()?;
        net.watch_bell(&self.eventfd, Token::Bell.pack())?;
        Ok(net)
    }

    fn serve(self) -> io::Result<()> {
        let net = match self.prepare() {
            Ok(net) => net,
            Err(error) => {
                // `spawn` returns it to its caller.
                let _ = self.started.send(Err(error));
                return Ok(());
            }
        };
        let _ = self.started.send(Ok(()));
        let reports = Reports {
            log: self.config.log.clone(),
            observer: self.config.observer.clone(),
        };
        let mut clock = Clock::new();
        let (now, _) = clock.read();
        let bell = Arc::clone(&self.bell);
        let mut engine = Engine::new(net, self.config.worker, bell, reports, now);
        let mut found = Vec::new();
        let mut drained = false;
        loop {
            let patience = engine.patience_ms();
            engine.net().wait(patience, &mut found)?;
            let (now, wall) = clock.read();
            engine.tick(now, wall);
            for (token, readiness) in found.drain(..) {
                engine.handle(token, readiness);
            }
            if self.bell.heard() {
                while let Ok(command) = self.commands.try_recv() {
                    if !self.obey(&mut engine, command) {
                        return Ok(());
                    }
                    self.obeyed.fetch_add(1, Ordering::SeqCst);
                }
                engine.woken();
            }
            engine.run_ready();
            engine.run_alarms();
            engine.finish_batch();
            let sessions = engine.session_count() as u32;
            self.sessions.store(sessions, Ordering::Relaxed);
            if engine.is_drained() != drained {
                drained = !drained;
                if drained {
                    let worker = self.config.worker;
                    (self.config.events)(WorkerEvent::Drained { worker });
                }
            }
        }
    }

    /// False: the worker is to stop.
    fn obey(&self, engine: &mut Engine<LinuxNet>, command: Command) -> bool {
        match command {
            Command::Install(snapshot, listeners) => {
                let (began, generation) = (Instant::now(), snapshot.generation);
                let openings = listeners.into_iter().map(|listener| Opening {
                    listener: listener.socket,
                    sharing: listener.sharing,
                    frontend: listener.frontend,
                    state: listener.state,
                });
                engine.install(snapshot, openings.collect());
                (self.config.events)(WorkerEvent::Installed {
                    worker: self.config.worker,
                    generation,
                    took: began.elapsed(),
                });
            }
            Command::Leave(listener) => engine.leave(&listener),
            Command::EmptyQueue(listener, reply) => engine.empty_queue(&listener, reply),
            Command::LetGo(listener) => engine.let_go(&listener),
            Command::WindDown(sessions) => engine.wind_down(sessions),
            Command::StopAccepting => engine.stop_accepting(),
            Command::Pause => engine.pause(),
            Command::Resume => engine.resume(),
            Command::EndSessionsOf(server, cause) => engine.end_sessions_of(&server, cause),
            Command::EndSessions => engine.end_sessions(),
            Command::Ping => {}
            Command::Stop => return false,
        }
        true
    }
}

/// What a panic said.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Monotonic time in ms, and the wall clock's, read now and then.
struct Clock {
    wall_offset_ms: u64,
    compared_at_ms: Option<u64>,
}

impl Clock {
    fn new() -> Self {
        Clock {
            wall_offset_ms: 0,
            compared_at_ms: None,
        }
    }

    fn read(&mut self) -> (u64, u64) {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000;
        if self
            .compared_at_ms
            .is_none_or(|at| now - at >= WALL_CLOCK_MS)
        {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH);
            let wall = wall.map_or(0, |since| since.as_millis() as u64);
            self.wall_offset_ms = wall.wrapping_sub(now);
            self.compared_at_ms = Some(now);
        }
        (now, now.wrapping_add(self.wall_offset_ms))
    }
}
