//! What clients of the runtime sockets ask of the process.
//!
//! Decides:  which sockets are served, and every answer that depends on the process: HAProxy's words.
//! Source:   HAProxy's src/proxy.c, cli_parse_disable_frontend() and cli_parse_enable_frontend();
//!           src/cli.c, cli_io_handler_show_cli_sock(), 2.6.
//! Not here: the commands (admin/commands.rs), their clients (admin/server.rs), a reload (reload.rs).

use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use portcullis_config::model::{StatsLevel, StatsOptions};
use portcullis_listener::Address;
use portcullis_proxy::log::Level;
use portcullis_proxy::snapshot::Snapshot;
use rustix::process::Resource;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::held::Held;
use super::pausing::{Change, NotPaused};
use super::reload::Serving;
use crate::Plan;
use crate::admin::commands::{Question, Severity};
use crate::admin::info::{self, Facts};
use crate::admin::server::{self, Accepting, Answer, Answering, Ask, Door, House};
use crate::life::Life;
use crate::logs::{self, Audience, LogHandle};

/// Clients of the socket beside the pid file at once; they have places of their own.
const MOST_BESIDE: usize = 8;
/// How long those may be silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// The runtime sockets, while the process serves.
pub(super) struct Admin {
    sender: UnboundedSender<Ask>,
    accepting: Vec<Accepting>,
    /// The socket beside the pid file.
    beside: Option<Accepting>,
    /// `stats maxconn`, and the places.
    places: (u32, Arc<Semaphore>),
    began: Instant,
    /// Since 1970.
    started: Duration,
    /// Those who wait for an answer.
    pub(super) answering: Answering,
    /// Those who ask for the listeners while a reload is under way.
    pub(super) askers: Vec<UnixStream>,
    /// One more for each to whom the listeners are being given.
    pub(super) giving: Arc<()>,
    /// What workers have let go of: freeing it is not for one of them.
    pub(super) before: Option<Arc<Snapshot>>,
}

impl Admin {
    /// No socket yet; what clients ask comes out of the receiver.
    pub(super) fn new() -> (Admin, UnboundedReceiver<Ask>) {
        let (sender, receiver) = unbounded_channel();
        let admin = Admin {
            sender,
            accepting: Vec::new(),
            beside: None,
            places: (0, Arc::new(Semaphore::new(0))),
            began: Instant::now(),
            started: logs::date(),
            answering: Answering::default(),
            askers: Vec::new(),
            giving: Arc::new(()),
            before: None,
        };
        (admin, receiver)
    }

    /// Serves the socket beside the pid file, for its owner: everything is allowed there.
    pub(super) fn open_beside(
        &mut self,
        listener: std::os::unix::net::UnixListener,
    ) -> std::io::Result<()> {
        let house = House {
            options: StatsOptions {
                level: StatsLevel::Admin,
                ..StatsOptions::default()
            },
            timeout: PATIENCE,
            places: Arc::new(Semaphore::new(MOST_BESIDE)),
            asks: self.sender.clone(),
            answering: self.answering.clone(),
        };
        self.beside = Some(server::open(Door::Unix(listener), house)?);
        Ok(())
    }

    /// Serves the runtime sockets of this plan, and no others. `held` is in the order of
    /// [`Plan::to_open`]. What cannot be served is told.
    pub(super) fn open(&mut self, plan: &Plan, held: &[Held], log: &LogHandle) {
        let most = plan.admin.maxconn;
        if self.places.0 != most {
            self.places = (most, Arc::new(Semaphore::new(most as usize)));
        }
        // Tasks end before others begin on the same sockets; connections wait in the queue.
        self.accepting.clear();
        let held = held.iter().skip(plan.listeners.len());
        for (socket, held) in plan.admin.sockets.iter().zip(held) {
            let house = House {
                options: socket.options,
                timeout: plan.admin.timeout,
                places: Arc::clone(&self.places.1),
                asks: self.sender.clone(),
                answering: self.answering.clone(),
            };
            for one in &held.sockets {
                let door = one.fd.try_clone();
                let door = door.map(|fd| Door::new(fd, &one.facts.local));
                match door.and_then(|door| server::open(door, house.clone())) {
                    Ok(accepting) => self.accepting.push(accepting),
                    Err(why) => {
                        let text = format!("nobody serves {}: {why}", socket.spec.address);
                        log.say(Audience::Global, Level::Error, text);
                    }
                }
            }
        }
    }

    /// Lets nobody in any more, and gives nothing away; who is there stays.
    pub(super) fn close(&mut self) {
        self.accepting.clear();
        self.askers.clear();
    }
}

/// What answers are made from.
pub(super) struct Known<'a> {
    pub(super) life: &'a Life,
    pub(super) log: &'a LogHandle,
}

impl Serving {
    /// The answer to everything that can be answered at once.
    pub(super) fn answer(&mut self, question: &Question, known: &Known<'_>) -> Answer {
        match question {
            // It takes its time, and is answered then (reload.rs).
            Question::Reload | Question::Upgrade => Answer::Text(String::new()),
            Question::Info(form) => Answer::Text(info::show(&self.facts(known), *form)),
            Question::Sockets => Answer::Text(self.runtime_sockets()),
            Question::Disable(name) => {
                let done = self.pause_frontend(name);
                told(done, name, &PAUSING, known.log)
            }
            Question::Enable(name) => {
                let done = self.resume_frontend(name);
                told(done, name, &RESUMING, known.log)
            }
        }
    }

    fn runtime_sockets(&self) -> String {
        let mut text = "# socket lvl processes\n".to_owned();
        for socket in &self.plan.admin.sockets {
            let address = match &socket.spec.address {
                Address::UnixPath(path) => format!("unix@{}", path.display()),
                other => other.to_string(),
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{address} {} all", socket.options.level.word());
        }
        text
    }

    fn facts(&self, known: &Known<'_>) -> Facts {
        let process = self.registry.process();
        let frontends = self.plan.frontends.iter();
        let states = frontends.filter_map(|frontend| self.registry.frontend(&frontend.name));
        Facts {
            workers: self.plan.workers,
            pid: std::process::id(),
            uptime: self.admin.began.elapsed(),
            started: self.admin.started,
            descriptors: rustix::process::getrlimit(Resource::Nofile)
                .current
                .unwrap_or(u64::MAX),
            maxconn: process.maxconn.load(Relaxed),
            connections: process.connections.load(Relaxed),
            total: process.total.load(Relaxed),
            most_pipes: self.plan.tuning.max_pipes,
            pipes: process.pipes.load(Relaxed),
            rate_limit: process.max_rate.load(Relaxed),
            node: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            stopping: !known.life.serves(),
            listeners: self.held.iter().map(|held| held.sockets.len()).sum(),
            dropped_logs: known.log.dropped().total(),
            bytes_out: states.map(|state| state.bytes_out.load(Relaxed)).sum(),
        }
    }
}

/// HAProxy's words for a frontend's change.
struct Words {
    logged: &'static str,
    already: &'static str,
    failed: &'static str,
}

const PAUSING: Words = Words {
    logged: "Paused",
    already: "All sockets are already disabled.\n",
    failed: "Failed to pause frontend",
};

const RESUMING: Words = Words {
    logged: "Resumed",
    already: "All sockets are already enabled.\n",
    failed: "Failed to resume frontend",
};

fn told(done: Result<Change, NotPaused>, name: &str, words: &Words, log: &LogHandle) -> Answer {
    let error = |text: String| Answer::Message(Severity::Error, text);
    match done {
        Ok(Change::Made) => {
            let text = format!("{} frontend {name}.", words.logged);
            log.say(Audience::Frontend(name.to_owned()), Level::Warning, text);
            Answer::Text(String::new())
        }
        Ok(Change::None) => Answer::Message(Severity::Notice, words.already.to_owned()),
        Err(NotPaused::NoFrontend) => error("No such frontend.\n".to_owned()),
        Err(why) => error(format!("{}: {why}.\n", words.failed)),
    }
}
