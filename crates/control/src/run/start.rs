//! The start, step by step.
//!
//! Decides:  what each process of the start does: launcher, opener, worker process.
//! Source:   HAProxy's order (src/haproxy.c, main()); daemon.rs and listener/opener for the
//!           process tree.
//! Not here: serving (serve.rs), how sockets are opened (the listener crate).

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_config::Sources;
use portcullis_listener::opener::{InProcess, OpenerProcess, Split, split};
use portcullis_listener::{ListenerSpec, OpenContext, Pool};
use portcullis_proxy::log::{Level, Zone};
use portcullis_proxy::record;
use portcullis_sys::process::Signals;

use super::asked::Admin;
use super::groups::Groups;
use super::held::{self, Held};
use super::messages::Messages;
use super::open::{self, Opening, Telling, Wanted};
use super::pausing::Paused;
use super::reload::read::Clerk;
use super::reload::{Reloads, Serving};
use super::retire::Retirer;
use super::serve::{self, Control, SIGNALS};
use super::workers::{Ears, Workers};
use super::{End, Job, Ready, RunError};
use crate::control_socket::{self, ControlSocket, SocketFile};
use crate::daemon::{self, Launch, Readiness};
use crate::health::HealthPlan;
use crate::life::Life;
use crate::limits;
use crate::logs::LogWriter;
use crate::notify::Notifier;
use crate::pidfile::Pidfile;
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
    let readiness = match background(&plan)? {
        Background::Launcher(end) => return Ok(end),
        Background::Foreground => None,
        Background::Daemon(readiness) => Some(readiness),
    };
    // Before there is an opener that passes signals on, and before the first thread: until the
    // control thread takes them, they wait, and none ends or stops a half-started process.
    let signals = Signals::block(&SIGNALS).map_err(RunError::host("take over signals"))?;
    let owner = dropping.owner_uid(&present);
    let takes_over = !job.pool.is_empty();
    let opening = match dropping.needs_opener() {
        false => Opening::Here(in_process(owner, &job.pool)),
        true => match split().map_err(RunError::host("start the opener"))? {
            Split::Opener(process) => {
                drop(readiness);
                let clerk = Clerk::new(&plan, job.read);
                let mut opener = in_process(owner, &job.pool);
                return be_the_opener(process, &plan, &clerk, &mut opener);
            }
            Split::Worker(parent) => {
                // The opener has them; this process is given what they become.
                job.pool.close_rest();
                Opening::There(parent)
            }
        },
    };
    let stage = Stage {
        takes_over,
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
        let pidfile = write_pidfile(&self.plan, &self.dropping)?;
        let (asking, file) = self.control_socket().unzip();
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
    fn control_socket(&self) -> Option<(UnixListener, SocketFile)> {
        let path = control_socket::beside(self.plan.process.pidfile.as_deref()?);
        match ControlSocket::bind(&path) {
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
        let mut control = self.control(held, ears, signals, &writer, job)?;
        control.beside = asking;
        let result = serve::serve(control, || self.announce(count, ready));
        if result.is_ok() {
            // After a failure a worker may still hold its end, and this would wait for it.
            writer.finish();
        }
        result
    }

    /// Joins the plan with its state and starts the workers.
    fn control(
        &self,
        held: Vec<Held>,
        ears: Ears,
        signals: Signals,
        writer: &LogWriter,
        job: Job,
    ) -> Result<Control, RunError> {
        let plan = &*self.plan;
        let (admin, asks) = Admin::new();
        let mut registry = Registry::default();
        let applied = registry.apply(plan, None, self.maxconn);
        let health = HealthPlan::new(plan, &registry);
        let sockets = held::deal(&held, &applied.listeners, plan);
        let retirer = Retirer::start(self.groups.clone());
        let retirer = retirer.map_err(RunError::host("start a thread"))?;
        let workers = Workers::start(&applied.snapshot, sockets, &plan.pinned, ears)?;
        Ok(Control {
            life: Life::new(plan.process.grace, plan.process.hard_stop_after),
            signals,
            workers,
            log: writer.handle(),
            notifier: self.notifier.clone(),
            health,
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
                paused: Paused::default(),
                retirer,
                admin,
            },
            run_for: job.run_for,
            on_hangup: job.on_hangup,
        })
    }

    /// Tells everyone who waits that the ports are open.
    fn announce(&mut self, listeners: usize, ready: Option<Ready>) -> Result<(), RunError> {
        let serving = format!(
            "serving {listeners} listening sockets with {} workers, maxconn {}",
            self.plan.workers, self.maxconn
        );
        self.messages.notice(&serving);
        self.notifier.ready(&serving);
        if let Some(readiness) = self.readiness.take() {
            let detached = self.opening().opener().detach();
            detached.map_err(|error| RunError::Daemon(io::Error::other(error)))?;
            readiness.ready().map_err(RunError::Daemon)?;
        }
        if let Some(ready) = ready {
            ready();
        }
        Ok(())
    }
}

/// Writes the id of the process to signal: the opener where there is one, which passes signals on.
fn write_pidfile(plan: &Plan, dropping: &privileges::Plan) -> Result<Option<Pidfile>, RunError> {
    let Some(path) = &plan.process.pidfile else {
        return Ok(None);
    };
    let own = std::process::id();
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    let pid = match dropping.needs_opener() {
        true => parent.unwrap_or(own),
        false => own,
    };
    match Pidfile::write(path, pid) {
        Ok(file) => Ok(Some(file)),
        Err(error) => Err(RunError::Pidfile {
            path: path.clone(),
            error,
        }),
    }
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

fn in_process(owner: Option<u32>, pool: &Pool) -> InProcess {
    let mut context = OpenContext::default();
    context.pool = pool.clone();
    let opener = owner.map_or_else(InProcess::new, InProcess::for_user);
    opener.with_context(context)
}

/// The privileged parent's whole life: it opens what the configuration says and nothing else, reads
/// it again when asked to, passes signals on, and ends as the worker process ends.
fn be_the_opener(
    process: OpenerProcess,
    plan: &Plan,
    clerk: &Clerk,
    opener: &mut InProcess,
) -> Result<End, RunError> {
    let mut permit = |spec: &ListenerSpec| clerk.permit(spec);
    let mut answer = |question: &str| clerk.answer(question);
    let end = process
        .serve_with(opener, &mut permit, &mut answer)
        .map_err(RunError::host("open for the worker process"))?;
    if let Some(path) = &plan.process.pidfile
        && let Ok(file) = Pidfile::claim(path, std::process::id())
    {
        // The worker's user may not remove what stands beside it.
        if file.remove_if_ours() {
            let _ = std::fs::remove_file(control_socket::beside(file.path()));
        }
    }
    Ok(End::Role {
        code: end.exit_code(),
        message: None,
    })
}
