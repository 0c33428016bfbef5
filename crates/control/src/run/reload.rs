//! A reload: another configuration takes the place of the one that serves, in the running process.
//!
//! Decides:  the order. What can fail is prepared in a thread of its own while the old plan serves;
//!           a failure of it changes nothing. Then the new plan is put in place: state by name,
//!           checks, one message to each worker; it is over when all workers have it. One at a time:
//!           whoever asks meanwhile gets one more afterwards.
//! Source:   HAProxy starts another process instead, and forgets (doc/management.txt, chapter 4).
//! Not here: what is prepared (reload/prepare.rs), how a worker takes it (the proxy crate), which
//!           signal asks for it (serve.rs).

mod fate;
mod fixed;
mod prepare;
pub(super) mod read;
mod shards;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portcullis_proxy::log::Level;
use portcullis_proxy::record::EndCause;
use portcullis_proxy::snapshot::Snapshot;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::asked::Admin;
use super::held::{self, Held};
use super::open::Opening;
use super::pausing::Paused;
use super::retire::{self, Retirer, Summary};
use super::supervise::Retiring;
use super::upgrade::Upgrades;
use super::workers::{NewWorkers, Workers};
use super::{Explain, status};
use crate::admin::server::Answer;
use crate::control_socket;
use crate::health::{Checker, HealthPlan};
use crate::life::Life;
use crate::logs::{Audience, LogHandle};
use crate::notify::Notifier;
use crate::{Plan, Registry};
use prepare::{Counts, Prepared, Refusal, Running};
use read::Read;

/// Lines of a report that are logged; the rest is counted.
const MOST_LINES: usize = 200;
pub(super) const STOPPING: &str = "not reloaded: the process is stopping";
const NOTHING_TO_READ: &str = "this process has no files to read again: nothing was changed";

/// What serves, and how something else would.
pub(super) struct Serving {
    pub(super) plan: Arc<Plan>,
    pub(super) registry: Registry,
    pub(super) held: Arc<Vec<Held>>,
    pub(super) opening: Arc<Mutex<Opening>>,
    pub(super) owner: Option<u32>,
    pub(super) explain: Option<Explain>,
    /// How the configuration is read again; `None`: it cannot be.
    pub(super) read: Option<Read>,
    pub(super) reloads: Reloads,
    /// Frontends that take no new connections.
    pub(super) paused: Paused,
    /// Who closes listeners.
    pub(super) retirer: Retirer,
    /// The runtime sockets.
    pub(super) admin: Admin,
    /// Another process that takes over.
    pub(super) upgrades: Upgrades,
    /// Sockets that leave an address which others serve.
    pub(super) retiring: Retiring,
    /// Where the opener hears what is served; `None`: it does not supervise.
    pub(super) teller: Option<std::sync::mpsc::Sender<String>>,
}

/// Whoever asks gets the answer here.
pub(super) type Asked = oneshot::Sender<Answer>;

/// What is under way.
pub(super) struct Reloads {
    state: State,
    /// Somebody asked meanwhile.
    again: bool,
    /// Who waits for the outcome of what is under way, and of the next one.
    waiting: Vec<Asked>,
    waiting_next: Vec<Asked>,
    prepared: UnboundedReceiver<Outcome>,
    sender: UnboundedSender<Outcome>,
}

/// What a preparation came to.
pub(super) type Outcome = Result<Box<Prepared>, Refusal>;

enum State {
    Idle,
    Preparing {
        began: Instant,
    },
    /// The workers have been told.
    Installing {
        began: Instant,
        counts: Counts,
        /// What was worth telling.
        notes: String,
        /// The last one to let go of it would stand still while it is freed: not a worker.
        _before: Arc<Snapshot>,
    },
}

impl Default for Reloads {
    fn default() -> Reloads {
        let (sender, prepared) = unbounded_channel();
        Reloads {
            state: State::Idle,
            again: false,
            waiting: Vec::new(),
            waiting_next: Vec::new(),
            prepared,
            sender,
        }
    }
}

impl Reloads {
    /// Is none under way?
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Tells those who wait for what was under way.
    fn answer(&mut self, done: bool, report: &str) {
        for asked in self.waiting.drain(..) {
            send(asked, done, report);
        }
    }

    /// None will come any more: tells those who wait for one.
    pub(super) fn refuse_all(&mut self, report: &str) {
        self.again = false;
        self.waiting.append(&mut self.waiting_next);
        self.answer(false, report);
    }

    /// What the preparation came to; waits for ever where none is under way.
    pub(super) async fn prepared(&mut self) -> Outcome {
        match self.prepared.recv().await {
            Some(outcome) => outcome,
            // We hold a sender.
            None => std::future::pending().await,
        }
    }
}

/// Who is told, and who has to do something.
pub(super) struct Others<'a> {
    pub(super) workers: &'a mut Workers,
    pub(super) checker: &'a mut Checker,
    pub(super) log: &'a LogHandle,
    pub(super) notifier: &'a Notifier,
    pub(super) life: &'a mut Life,
}

impl Serving {
    /// Somebody asks for a reload through a runtime socket, and waits for its outcome.
    pub(super) fn asked(&mut self, asked: Asked, others: Others<'_>) {
        let why = match &self.read {
            _ if !others.life.serves() => STOPPING,
            None => NOTHING_TO_READ,
            Some(_) => {
                // What runs may have read the files already.
                self.reloads.waiting_next.push(asked);
                return self.reload(others.workers, others.log, others.notifier);
            }
        };
        send(asked, false, &format!("error: {why}\n"));
    }

    /// Somebody asks for a reload.
    pub(super) fn reload(&mut self, workers: &Workers, log: &LogHandle, notifier: &Notifier) {
        let Some(read) = &self.read else {
            return log.say(Audience::Global, Level::Notice, NOTHING_TO_READ);
        };
        if !self.reloads.is_idle() || self.upgrades.is_under_way() {
            self.reloads.again = true;
            return;
        }
        self.reloads.state = State::Preparing {
            began: Instant::now(),
        };
        self.reloads.waiting = std::mem::take(&mut self.reloads.waiting_next);
        notifier.reloading("reading the configuration again");
        let running = Running {
            read: Arc::clone(read),
            opening: Arc::clone(&self.opening),
            explain: self.explain.clone(),
            owner: self.owner,
            logs: log.targets(),
            plan: Arc::clone(&self.plan),
            held: Arc::downgrade(&self.held),
            groups: self.retirer.groups().clone(),
            hiring: workers.hiring(),
        };
        let sender = self.reloads.sender.clone();
        let started = std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || {
                let prepared = prepare::prepare(&running);
                // A process that ends needs none.
                let _ = sender.send(prepared.map(Box::new));
            });
        if let Err(why) = started {
            let report = format!("error: cannot start a thread: {why}\n");
            let _ = self.reloads.sender.send(Err(report.into()));
        }
    }

    /// The preparation is over: puts the plan in place, or tells why not.
    pub(super) fn prepared(&mut self, outcome: Outcome, others: Others<'_>) {
        let State::Preparing { began } = self.reloads.state else {
            return;
        };
        match outcome {
            Ok(prepared) if others.life.serves() => {
                let counts = prepared.counts;
                let notes = prepared.notes.iter();
                let notes = notes.map(|(_, text)| format!("{text}\n")).collect();
                let before = self.put_in_place(*prepared, others);
                self.reloads.state = State::Installing {
                    began,
                    counts,
                    notes,
                    _before: before,
                };
            }
            Ok(_) => {
                self.reloads.state = State::Idle;
                others.log.say(Audience::Global, Level::Notice, STOPPING);
                self.reloads.answer(false, &format!("error: {STOPPING}\n"));
            }
            Err(Refusal { report, beside }) => {
                self.reloads.state = State::Idle;
                refused(&report, others.log);
                self.reloads.answer(false, &report);
                self.retire_beside(beside, others.workers, others.log);
                self.tell_opener();
                others.notifier.ready("reload refused: nothing was changed");
                self.once_more(others.workers, others.log, others.notifier);
            }
        }
    }

    /// From here on nothing fails.
    fn put_in_place(&mut self, prepared: Prepared, others: Others<'_>) -> Arc<Snapshot> {
        let Prepared {
            plan,
            maxconn,
            held,
            mut gone,
            gone_admin,
            excess,
            hired,
            notes,
            counts: _,
        } = prepared;
        for (level, text) in notes {
            for line in text.lines() {
                others.log.say(Audience::Global, level, line);
            }
        }
        let before = std::mem::replace(&mut self.plan, Arc::new(plan));
        let plan = &*self.plan;
        let applied = self.registry.apply(plan, Some(&before), maxconn);
        others.checker.apply(&HealthPlan::new(plan, &self.registry));
        others
            .life
            .set_times(plan.process.grace, plan.process.hard_stop_after);
        tell_of_proxies(&before, plan, &self.registry, others.log);
        for (level, text) in self.paused.carry_over(plan, &held) {
            others.log.say(Audience::Global, level, text);
        }
        let sockets = held::deal(&held, &applied.listeners, plan);
        self.admin.open(plan, &held, others.log);
        self.held = Arc::new(held);
        gone.iter().chain(&gone_admin).for_each(Held::remove_path);
        gone.extend(excess);
        // Before the workers are given what they have besides.
        self.retire(&gone, others.workers, others.log);
        drop(gone);
        let old = others.workers.install(&applied.snapshot, sockets, hired);
        others.checker.tell(others.workers.remotes());
        for server in &applied.ended {
            others.workers.end_sessions_of(server, EndCause::Down);
        }
        old
    }

    /// Closes what a reload had opened beside these listeners before it was refused: workers serve it until then.
    fn retire_beside(
        &mut self,
        beside: Vec<(usize, Held)>,
        workers: &mut Workers,
        log: &LogHandle,
    ) {
        let mut all = (*self.held).clone();
        let mut gone = Vec::new();
        for (old, held) in beside {
            // A process that stops has none.
            if let Some(place) = all.get_mut(old) {
                place.sockets.extend(held.sockets.iter().cloned());
                gone.push(held);
            }
        }
        if gone.is_empty() {
            return;
        }
        let plan = Arc::clone(&self.plan);
        let maxconn = self.registry.process().maxconn.load(Ordering::Relaxed);
        let applied = self.registry.apply(&plan, Some(&plan), maxconn);
        let snapshot = &applied.snapshot;
        let with_them = held::deal(&all, &applied.listeners, &plan);
        // The last one to let go of it is not to be a worker.
        self.admin.before = Some(workers.install(snapshot, with_them, NewWorkers::default()));
        self.retire(&gone, workers, log);
        let without = held::deal(&self.held, &applied.listeners, &plan);
        workers.install(snapshot, without, NewWorkers::default());
    }

    /// Closes these as the library says; it goes on after the reload.
    pub(super) fn retire(&self, gone: &[Held], workers: &Workers, log: &LogHandle) {
        let batch = retire::leaving(gone, &*self.held);
        if batch.is_empty() {
            return;
        }
        let log = log.clone();
        let retiring = self.retiring.of(&batch);
        let told = Box::new(move |summary: Summary| {
            drop(retiring);
            for why in &summary.kept {
                log.say(
                    Audience::Global,
                    Level::Warning,
                    format!("not closed: {why}"),
                );
            }
            log.say(Audience::Global, summary.level(), summary.to_string());
        });
        self.retirer.retire(batch, workers.remotes(), told);
    }

    /// All listeners go, since the process does.
    pub(super) fn retire_all(&mut self, workers: &Workers, log: &LogHandle) {
        let held = std::mem::take(&mut self.held);
        let listeners = held.get(..self.plan.listeners.len()).unwrap_or(&held);
        self.retire(listeners, workers, log);
    }

    /// All workers have the new plan; the slowest did nothing else for so long.
    pub(super) fn installed(&mut self, pause: Duration, others: Others<'_>) {
        self.admin.before = None;
        // That of the start is no reload.
        if !matches!(self.reloads.state, State::Installing { .. }) {
            return;
        }
        let State::Installing {
            began,
            counts,
            notes,
            ..
        } = std::mem::replace(&mut self.reloads.state, State::Idle)
        else {
            return;
        };
        let Counts {
            kept,
            adjusted,
            opened,
            retired,
        } = counts;
        self.tell_opener();
        let text = format!(
            "reloaded in {:.1} ms (listeners: {kept} kept, {adjusted} with other options, {opened} \
             opened, {retired} retired; longest pause of a worker {:.2} ms)",
            milliseconds(began.elapsed()),
            milliseconds(pause)
        );
        others.notifier.ready(&text);
        self.reloads.answer(true, &format!("{notes}{text}\n"));
        others.log.say(Audience::Global, Level::Notice, text);
        self.once_more(others.workers, others.log, others.notifier);
    }

    pub(super) fn once_more(&mut self, workers: &Workers, log: &LogHandle, notifier: &Notifier) {
        if std::mem::take(&mut self.reloads.again) {
            self.reload(workers, log, notifier);
        }
    }
}

pub(super) fn send(asked: Asked, done: bool, report: &str) {
    let report = report.to_owned();
    let outcome = control_socket::Outcome { done, report };
    // Who went away does not want to know.
    let _ = asked.send(Answer::Text(control_socket::text(&outcome)));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The report goes where all messages go, line by line.
fn refused(report: &str, log: &LogHandle) {
    let say = |line: &str| log.say(Audience::Global, Level::Error, line);
    say("reload refused: nothing was changed");
    for line in report.lines().take(MOST_LINES) {
        say(line);
    }
    let more = report.lines().count().saturating_sub(MOST_LINES);
    if more > 0 {
        say(&format!("and {more} lines more, which `check` shows"));
    }
}

/// What HAProxy says of each proxy that starts or stops.
fn tell_of_proxies(before: &Plan, now: &Plan, registry: &Registry, log: &LogHandle) {
    let names = |plan: &Plan| -> BTreeSet<String> {
        let proxies = status::proxies(plan);
        proxies
            .into_iter()
            .map(|(_, name)| name.to_owned())
            .collect()
    };
    let (old, new) = (names(before), names(now));
    for (audience, name) in status::proxies(now) {
        if !old.contains(name) {
            log.say(audience, Level::Info, status::started(name));
        }
    }
    for (_, name) in status::proxies(before) {
        if !new.contains(name) {
            // Its own targets are gone with it.
            let line = status::stopped(name, registry);
            log.say(Audience::Global, Level::Warning, line);
        }
    }
}
