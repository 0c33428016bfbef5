//! The start, step by step.
//!
//! Decides:  what each process of the start does: launcher, opener, worker process.
//! Source:   HAProxy's order (src/haproxy.c, main()); daemon.rs and listener/opener for the
//!           process tree.
//! Not here: serving (serve.rs), how sockets are opened (the listener crate).

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_config::Sources;
use portcullis_listener::ListenerSpec;
use portcullis_listener::handover::Agreed;
use portcullis_listener::pause::min_ttl;
use portcullis_proxy::log::{Level, Zone};
use portcullis_proxy::record;
use portcullis_sys::process::Signals;

use super::asked::Admin;
use super::groups::Groups;
use super::held::{self, Held};
use super::messages::Messages;
use super::office;
use super::open::{self, Opening, Telling, Wanted};
use super::pausing::Paused;
use super::reload::{Reloads, Serving};
use super::retire::Retirer;
use super::roles::{self, Beginning, Role};
use super::serve::{self, Begins, Control, SIGNALS};
use super::supervise;
use super::upgrade::{State, Upgrades};
use super::workers::{Ears, Workers};
use super::{End, Job, Ready, RunError};
use crate::control_socket::{self, ControlSocket, SocketFile};
use crate::daemon::{self, Launch, Readiness};
use crate::health::HealthPlan;
use crate::life::Life;
use crate::limits;
use crate::logs::LogWriter;
use crate::memory::Memory;
use crate::notify::Notifier;
use crate::pidfile::Pidfile;
use crate::take_over::TakeOver;
use crate::{Plan, Registry, privileges};

/// Session records that may wait to be written; more are counted, not written.
const RECORDS: usize = 16_384;

/// Everything up to the point where only serving is left.
pub(super) fn start(mut plan: Plan, sources: &Sources, job: Job) -> Result<End, RunError> {
    let messages = Messages::new(plan.process.quiet);
    let notifier = Notifier::from_environment();
    let maxconn = set_limits(&mut plan, messages)?;
    let present = privileges::present().map_err(RunError::host("read this process's ids"))?;
    let refused = |error: privileges::PrivilegeError| RunError::Privileges(error.to_string());
    let identity =
        privileges::resolve(&plan.process.privileges, &privileges::HostNames).map_err(refused)?;
    let dropping = privileges::plan(&identity, &present);
    for warning in &dropping.warnings {
        messages.notice(&warning.to_string());
    }
    let mut readiness = match background(&plan)? {
        Background::Launcher(end) => return Ok(end),
        Background::Foreground => None,
        Background::Daemon(readiness) => Some(readiness),
    };
    // Before there is an opener that passes signals on, and before the first thread: until the
    // control thread takes them, they wait, and none ends or stops a half-started process.
    let signals = Signals::block(&SIGNALS).map_err(RunError::host("take over signals"))?;
    let owner = dropping.owner_uid(&present);
    let mut takes_over = !job.pool.is_empty() || job.take_over.is_under_way();
    let pidfile = plan.process.pidfile.as_deref().map(std::path::absolute);
    let pidfile = pidfile
        .transpose()
        .map_err(RunError::host("find the directory that this process is in"))?;
    let beginning = Beginning {
        plan: &plan,
        job: &job,
        pidfile: pidfile.as_deref(),
        owner,
        splits: dropping.needs_opener() || job.supervise,
        messages,
    };
    let (opening, restarted) = match roles::split_up(&beginning, &mut readiness)? {
        Role::Opener(end) => return Ok(end),
        Role::Worker { opening, restarted } => (opening, restarted),
    };
    takes_over |= restarted.is_some();
    let newer = restarted.flatten();
    let sources = match &newer {
        Some(newer) => {
            plan = newer.0.clone();
            &newer.1
        }
        None => sources,
    };
    let stage = Stage {
        takes_over,
        pidfile,
        take_over: job.take_over.clone(),
        plan: Arc::new(plan),
        owner,
        maxconn,
        dropping,
        opening: Arc::new(Mutex::new(opening)),
        readiness,
        notifier,
        messages,
        groups: Groups::default(),
    };
    stage.serve(signals, sources, job).map(|()| End::Served)
}

/// The process that serves, before it does.
struct Stage {
    /// From another process, which may serve the same addresses meanwhile.
    takes_over: bool,
    /// The one that waits until this one serves.
    take_over: TakeOver,
    /// Absolute.
    pidfile: Option<PathBuf>,
    plan: Arc<Plan>,
    /// The user that sockets are given to.
    owner: Option<u32>,
    maxconn: u32,
    dropping: privileges::Plan,
    opening: Arc<Mutex<Opening>>,
    readiness: Option<Readiness>,
    notifier: Notifier,
    messages: Messages,
    groups: Groups,
}

impl Stage {
    /// Opens, writes the pid file, works, and removes it however that ends.
    fn serve(mut self, signals: Signals, sources: &Sources, job: Job) -> Result<(), RunError> {
        let held = self.open(sources, &job)?;
        // Another process has both until this one serves.
        let later = self.take_over.is_under_way();
        let pidfile = match (&self.pidfile, later) {
            (Some(path), false) => Some(write_pidfile(path, self.pid_to_signal())?),
            (Some(path), true) => Pidfile::claim(path, self.pid_to_signal()).ok(),
            (None, _) => None,
        };
        let (asking, file) = self.control_socket(later).unzip();
        let result = self.work(held, asking, signals, job);
        if let Some(file) = file {
            file.remove_if_ours();
        }
        if let Some(pidfile) = pidfile {
            pidfile.remove_if_ours();
        }
        result
    }

    /// The socket beside the pid file. Without it there are the signals.
    fn control_socket(&self, later: bool) -> Option<(UnixListener, SocketFile)> {
        let path = control_socket::beside(self.pidfile.as_deref()?);
        let bound = match later {
            true => ControlSocket::bind_aside(&path),
            false => ControlSocket::bind(&path),
        };
        match bound {
            Ok(socket) => Some(socket.into_parts()),
            Err(error) => {
                let text = format!("no `portcullis reload` through {}: {error}", path.display());
                self.messages.warning(&text);
                None
            }
        }
    }

    /// Opens all listeners of the plan.
    fn open(&self, sources: &Sources, job: &Job) -> Result<Vec<Held>, RunError> {
        let telling = Telling {
            plan: &self.plan,
            sources,
            owner: self.owner,
            explain: job.explain.as_ref(),
        };
        let all = self.plan.to_open();
        // Whose sockets are taken over has them still, and is no surprise.
        let ours: Vec<&ListenerSpec> = match self.takes_over {
            true => all.iter().map(|it| it.spec).collect(),
            false => Vec::new(),
        };
        let wanted = Wanted {
            indexes: &(0..all.len()).collect::<Vec<_>>(),
            ours: &ours,
            later: self.takes_over,
        };
        let all = self.plan.to_open();
        let mut opening = self.opening();
        let mut orders = self.groups.hold();
        orders.begin(all.iter().map(|it| it.spec));
        let (listeners, notes) = open::open(opening.opener(), telling, wanted)?;
        for (level, text) in notes {
            match level <= Level::Warning {
                true => self.messages.warning(&text),
                false => self.messages.notice(&text),
            }
        }
        let mut held: Vec<Held> = all.iter().map(|it| Held::nothing(it.spec)).collect();
        held::put(&mut held, listeners, &mut orders);
        orders.opened();
        Ok(held)
    }

    fn opening(&self) -> std::sync::MutexGuard<'_, Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the logs, drops privileges, and runs the workers to their end.
    fn work(
        &mut self,
        held: Vec<Held>,
        asking: Option<UnixListener>,
        signals: Signals,
        mut job: Job,
    ) -> Result<(), RunError> {
        let (sink, source) = record::bounded(RECORDS);
        let (writer, warnings) = LogWriter::start(self.plan.logs.clone(), Zone::system(), source)
            .map_err(RunError::host("open the logs"))?;
        for warning in warnings {
            self.messages.warning(&warning);
        }
        let applied = privileges::apply(&self.dropping)
            .map_err(|error| RunError::Privileges(error.to_string()))?;
        for warning in applied {
            self.messages.warning(&warning.to_string());
        }
        if job.verbose {
            for socket in held.iter().flat_map(|held| &held.sockets) {
                self.messages
                    .notice(&format!("listening on {}", socket.facts.local));
            }
        }
        let ears = Ears {
            log: Some(sink),
            observer: job.observer.take(),
        };
        let count = held.iter().map(|held| held.sockets.len()).sum();
        let ready = job.ready.take();
        let serving = job.supervise.then(|| supervise::serving(&held, &[]));
        let mut control = self.control(held, ears, signals, &writer, job)?;
        control.beside = asking;
        let result = serve::serve(control, || {
            if let (Some(said), Opening::There(parent)) = (serving, &mut *self.opening()) {
                // Whoever hears that this one serves can count on another one after it.
                let _ = parent.ask(&said);
            }
            self.announce(count, ready)
        });
        if result.is_ok() {
            // After a failure a worker may still hold its end, and this would wait for it.
            writer.finish();
        }
        result
    }

    /// Listens where that was put off.
    fn begin(&self, held: &mut [Held]) -> Result<(), RunError> {
        held::begin(held, &mut self.groups.hold()).map_err(|(index, why)| {
            let address = &self.plan.to_open()[index].spec.address;
            let error = format!("cannot listen on {address}, which was free a moment ago: {why}");
            RunError::Open {
                errors: vec![error],
            }
        })
    }

    /// Joins the plan with its state and starts the workers.
    fn control(
        &self,
        mut held: Vec<Held>,
        ears: Ears,
        signals: Signals,
        writer: &LogWriter,
        job: Job,
    ) -> Result<Control, RunError> {
        let plan = &*self.plan;
        let (admin, asks) = Admin::new();
        let state = self.take_over.state();
        let state: State = state
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        if state.min_ttl {
            min_ttl::remember();
        }
        let mut paused = Paused::of(state.paused);
        for (_, text) in paused.carry_over(plan, &held) {
            self.messages.warning(&text);
        }
        let remembered = self.take_over.memory();
        let mut registry = Registry::remembering(remembered.clone());
        let applied = registry.apply(plan, None, self.maxconn);
        let health = HealthPlan::new(plan, &registry);
        let sockets = held::deal(&held, &applied.listeners, plan);
        let retirer = Retirer::start(self.groups.clone());
        let retirer = retirer.map_err(RunError::host("start a thread"))?;
        // From then on clients come to sockets that nobody has beside us, so the workers are there already.
        let listen = || self.begin(&mut held);
        let workers = Workers::start(&applied.snapshot, sockets, &plan.pinned, ears, listen)?;
        Ok(Control {
            life: Life::new(plan.process.grace, plan.process.hard_stop_after),
            signals,
            workers,
            log: writer.handle(),
            notifier: self.notifier.clone(),
            health,
            remembered,
            beside: None,
            asks,
            serving: Serving {
                plan: Arc::clone(&self.plan),
                registry,
                held: Arc::new(held),
                opening: Arc::clone(&self.opening),
                owner: self.owner,
                explain: job.explain,
                read: job.read,
                reloads: Reloads::default(),
                paused,
                upgrades: Upgrades::new(
                    job.relaunch,
                    self.pidfile.as_deref().map(control_socket::beside),
                ),
                teller: match job.supervise {
                    true => Some(
                        supervise::teller(&self.opening)
                            .map_err(RunError::host("start a thread"))?,
                    ),
                    false => None,
                },
                retirer,
                retiring: supervise::Retiring::default(),
                admin,
            },
            run_for: job.run_for,
            on_hangup: job.on_hangup,
        })
    }

    /// The process to signal: the opener where there is one, which passes signals on.
    fn pid_to_signal(&self) -> u32 {
        let own = std::process::id();
        match &*self.opening() {
            Opening::There(parent) => parent.pid(),
            Opening::Here(_) => own,
        }
    }

    /// The other process hears that this one serves; pid file and socket are this one's then.
    fn succeed(&self) -> Begins {
        let pid = self.pid_to_signal();
        let claim = || {
            let Some(path) = &self.pidfile else { return };
            let own = std::process::id();
            let claimed = match &mut *self.opening() {
                Opening::Here(_) => office::claim(path, pid, own).map_err(|it| it.to_string()),
                Opening::There(parent) => parent
                    .ask(&format!("{}{own}", office::CLAIM))
                    .map(drop)
                    .map_err(|it| it.to_string()),
            };
            if let Err(why) = claimed {
                let path = path.display();
                let text = format!("{path} still names the process before this one: {why}");
                self.messages.warning(&text);
            }
        };
        match self.take_over.ready(pid, claim) {
            None => Begins::Serving(Memory::default()),
            Some(Ok(agreed)) => {
                if let Agreed::Alone(_) = agreed {
                    let text = "the process before this one has ended before it let go";
                    self.messages.warning(text);
                }
                Begins::Serving(Memory::of(agreed.notes()))
            }
            Some(Err(why)) => Begins::Leaving(why),
        }
    }

    /// Tells everyone who waits that the ports are open.
    fn announce(&mut self, listeners: usize, ready: Option<Ready>) -> Result<Begins, RunError> {
        let serving = format!(
            "serving {listeners} listening sockets with {} workers, maxconn {}",
            self.plan.workers, self.maxconn
        );
        self.messages.notice(&serving);
        let begins = self.succeed();
        if let Begins::Leaving(_) = begins {
            return Ok(begins);
        }
        self.notifier.ready(&serving);
        if let Some(readiness) = self.readiness.take() {
            let detached = self.opening().opener().detach();
            detached.map_err(|error| RunError::Daemon(io::Error::other(error)))?;
            readiness.ready().map_err(RunError::Daemon)?;
        }
        if let Some(ready) = ready {
            ready();
        }
        Ok(begins)
    }
}

fn write_pidfile(path: &Path, pid: u32) -> Result<Pidfile, RunError> {
    Pidfile::write(path, pid).map_err(|error| RunError::Pidfile {
        path: path.to_owned(),
        error,
    })
}

/// Sets the descriptor limit, and gives the process's `maxconn`.
fn set_limits(plan: &mut Plan, messages: Messages) -> Result<u32, RunError> {
    let (demand, wishes) = limits::of_plan(plan);
    let settled =
        limits::apply(&demand, &wishes).map_err(|error| RunError::Limits(error.to_string()))?;
    if let Some(warning) = &settled.warning {
        messages.warning(&warning.to_string());
    }
    plan.tuning.max_pipes = u32::try_from(settled.pipes).unwrap_or(u32::MAX);
    Ok(settled.maxconn)
}

/// Which process goes on after the fork of `daemon`.
enum Background {
    /// The one that was started; the other one has told how it went.
    Launcher(End),
    /// There was no fork.
    Foreground,
    /// The one in the background.
    Daemon(Readiness),
}

fn background(plan: &Plan) -> Result<Background, RunError> {
    if !plan.process.daemon {
        return Ok(Background::Foreground);
    }
    match daemon::launch().map_err(RunError::Daemon)? {
        Launch::Daemon(readiness) => Ok(Background::Daemon(readiness)),
        Launch::Launcher(launcher) => {
            let end = launcher.wait().map_err(RunError::Daemon)?;
            Ok(Background::Launcher(End::Role {
                code: end.code,
                message: end.message,
            }))
        }
    }
}
