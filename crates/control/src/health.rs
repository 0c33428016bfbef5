//! Health checks: one task a server connects now and then and says what it found.
//!
//! Decides:  when checks start (spread over an interval), how long they may take, and that a
//!           change reaches the group at once and the log in HAProxy's words.
//! Source:   HAProxy's manual, `check`, `inter`, `timeout check`, `spread-checks`; src/check.c,
//!           start_checks(), process_chk_conn(), and src/tcpcheck.c for the time of a connection.
//! Not here: what results mean (the proxy crate's health.rs), the connection (health/connect.rs).

mod connect;
mod warm_up;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portcullis_balance::{Group, MemberId, Tier};
use portcullis_config::model::{InitState, OnError};
use portcullis_proxy::health::{
    Change, CheckStatus, Errors, Health, HealthSettings, Outcome, Standing, Start, start_delay_ms,
    start_pace_ms,
};
use portcullis_proxy::log::health::{
    Finding, Section, Subject, change_line, check_line, none_left_line,
};
use portcullis_proxy::record::EndCause;
use portcullis_proxy::snapshot::ServerAddress;
use portcullis_proxy::state::ServerState;
use portcullis_proxy::worker::thread::Remote;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::compile::{BackendPlan, CheckPlan, Plan, ServerPlan};
use crate::logs::{Audience, LogHandle};
use crate::registry::{Alarm, BackendRuntime, Registry};
use warm_up::Warming;

pub use connect::{Opening, check};

/// All checks of a configuration.
#[derive(Debug, Clone)]
pub struct HealthPlan {
    /// In the order of the file.
    pub checks: Vec<Check>,
    /// `spread-checks`, percent.
    pub spread: u8,
}

/// The check of one server.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its backend's name.
    pub backend: String,
    /// Whether that is half of a `listen` section.
    pub section: Section,
    /// The server's name.
    pub server: String,
    /// Active or backup.
    pub tier: Tier,
    /// The group that is told.
    pub group: Arc<Group>,
    /// The server's slot there.
    pub slot: MemberId,
    /// Where the check connects to.
    pub target: ServerAddress,
    /// How its connection begins.
    pub opening: Opening,
    /// Intervals and thresholds.
    pub settings: HealthSettings,
    /// How long a connection may take.
    pub timeout: Duration,
    /// How a server begins that was not checked before.
    pub start: Start,
    /// `slowstart`, s; 0: none.
    pub slow_start_s: u32,
    /// `option log-health-checks`
    pub log_each: bool,
    /// `observe layer4`
    pub observed: Option<Observed>,
    /// Whose sessions end when it goes down: its own, with `on-marked-down shutdown-sessions`.
    pub ends_when_down: Vec<Arc<ServerState>>,
    /// Whose sessions end when it comes up: the backups', with `on-marked-up`.
    pub ends_when_up: Vec<Arc<ServerState>>,
}

/// `observe layer4`
#[derive(Debug, Clone)]
pub struct Observed {
    alarm: Arc<Alarm>,
    limit: u32,
    on_error: Errors,
}

impl HealthPlan {
    /// From a compiled configuration that `registry` has applied.
    #[must_use]
    pub fn new(plan: &Plan, registry: &Registry) -> Self {
        let mut checks = Vec::new();
        for (index, backend) in plan.backends.iter().enumerate() {
            let Some(runtime) = registry.backend(&backend.name) else {
                continue;
            };
            let half = |frontend: &crate::compile::FrontendPlan| {
                frontend.name == backend.name && frontend.backend == Some(index)
            };
            let section = match plan.frontends.iter().any(half) {
                true => Section::Listen,
                false => Section::Backend,
            };
            for server in &backend.servers {
                let name = &server.member.name;
                let (Some(check), Some(&slot)) = (&server.check, runtime.slots.get(name)) else {
                    continue;
                };
                checks.push(Check {
                    backend: backend.name.clone(),
                    section,
                    server: name.clone(),
                    tier: server.member.tier,
                    group: Arc::clone(&runtime.group),
                    slot,
                    target: check.target.clone(),
                    opening: Opening {
                        header: check.header,
                        source: check.source.clone(),
                    },
                    settings: settings(check),
                    timeout: timeout(backend, check),
                    start: match server.init_state {
                        InitState::Up => Start::Up,
                        InitState::FullyUp => Start::FullyUp,
                        InitState::Down => Start::Down,
                        InitState::FullyDown => Start::FullyDown,
                    },
                    slow_start_s: server.slow_start_s,
                    log_each: backend.log_health_checks,
                    observed: observed(check, runtime.alarms.get(name)),
                    ends_when_down: states(backend, runtime, |it| {
                        server.ends_sessions_when_down && it.member.name == *name
                    }),
                    ends_when_up: states(backend, runtime, |it| {
                        server.ends_backup_sessions_when_up && it.member.tier == Tier::Backup
                    }),
                });
            }
        }
        Self {
            checks,
            spread: plan.process.spread_checks,
        }
    }
}

/// The counters of those servers of a backend.
fn states(
    backend: &BackendPlan,
    runtime: &BackendRuntime,
    which: impl Fn(&ServerPlan) -> bool,
) -> Vec<Arc<ServerState>> {
    let servers = backend.servers.iter().filter(|server| which(server));
    servers
        .filter_map(|server| runtime.servers.get(&server.member.name).cloned())
        .collect()
}

fn observed(check: &CheckPlan, alarm: Option<&Arc<Alarm>>) -> Option<Observed> {
    let observe = check.settings.observe?;
    Some(Observed {
        alarm: Arc::clone(alarm?),
        limit: observe.error_limit,
        on_error: match observe.on_error {
            OnError::FastInter => Errors::HurryOnly,
            OnError::FailCheck => Errors::FailedCheck,
            OnError::SuddenDeath => Errors::LastButOne,
            OnError::MarkDown => Errors::Down,
        },
    })
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

fn settings(check: &CheckPlan) -> HealthSettings {
    HealthSettings {
        inter_ms: milliseconds(check.settings.inter),
        fast_inter_ms: check.settings.fast_inter.map(milliseconds),
        down_inter_ms: check.settings.down_inter.map(milliseconds),
        rise: check.settings.rise,
        fall: check.settings.fall,
    }
}

/// `inter`; with `timeout check`, which itself is for answers, `timeout connect` if that is less.
fn timeout(backend: &BackendPlan, check: &CheckPlan) -> Duration {
    let inter = check.settings.inter;
    match (backend.check_timeout, backend.connect_timeout_ms) {
        (Some(_), connect @ 1..) => inter.min(Duration::from_millis(connect.into())),
        _ => inter,
    }
}

/// How a checked server stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHealth {
    /// Its backend's name.
    pub backend: String,
    /// Its name.
    pub server: String,
    /// How the last check ended.
    pub status: CheckStatus,
    /// Up or down, and how far.
    pub standing: Standing,
}

/// The running checks. They end when it is dropped.
#[derive(Debug)]
pub struct Checker {
    runtime: Handle,
    log: LogHandle,
    workers: Told,
    running: BTreeMap<(String, String), Running>,
}

#[derive(Debug)]
struct Running {
    check: Arc<Check>,
    spread: u8,
    health: Arc<Mutex<Health>>,
    warming: Arc<Warming>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    /// A checker whose tasks run on `runtime`, and may tell these workers to end sessions.
    #[must_use]
    pub fn new(runtime: Handle, log: LogHandle, workers: Vec<Remote>) -> Self {
        Self {
            runtime,
            log,
            workers: Told::default(),
            running: BTreeMap::new(),
        }
        .telling(workers)
    }

    fn telling(self, workers: Vec<Remote>) -> Self {
        self.tell(workers);
        self
    }

    /// These are the workers from now on.
    pub fn tell(&self, workers: Vec<Remote>) {
        *self
            .workers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = workers;
    }

    /// Starts the checks of `plan`, and ends those that it has not. A server that was checked
    /// before, by name, keeps its health, which its group has kept too, and goes on warming up.
    pub fn apply(&mut self, plan: &HealthPlan) {
        let mut before = std::mem::take(&mut self.running);
        let count = plan.checks.len();
        let pace = start_pace_ms(plan.checks.iter().map(|check| check.settings.inter_ms));
        for (position, check) in plan.checks.iter().enumerate() {
            let name = (check.backend.clone(), check.server.clone());
            let old = before.remove(&name);
            if let Some(old) = old {
                let kept = self.go_on(old, check, plan.spread);
                self.running.insert(name, kept);
                continue;
            }
            let health = Health::starting(check.settings, check.start);
            if !health.is_up() {
                check.group.set_usable(check.slot, false);
            }
            let delay = start_delay_ms(&health, pace, position, count, plan.spread, random());
            let health = Arc::new(Mutex::new(health));
            let check = Arc::new(check.clone());
            let started = self.start(check, plan.spread, health, Arc::default(), delay);
            self.running.insert(name, started);
        }
        for gone in before.values() {
            gone.warming.stop(&gone.check);
        }
    }

    /// How all checked servers stand.
    #[must_use]
    pub fn states(&self) -> Vec<ServerHealth> {
        let state = |((backend, server), running): (&(String, String), &Running)| {
            let health = locked(&running.health);
            ServerHealth {
                backend: backend.clone(),
                server: server.clone(),
                status: health.status(),
                standing: health.standing(),
            }
        };
        self.running.iter().map(state).collect()
    }

    fn go_on(&self, old: Running, check: &Check, spread: u8) -> Running {
        let (up, delay) = {
            let mut health = locked(&old.health);
            health.reconfigure(check.settings);
            (health.is_up(), health.next_delay_ms(spread, random()))
        };
        if !up {
            check.group.set_usable(check.slot, false);
        }
        if same(&old.check, check) && old.spread == spread {
            return old;
        }
        let (health, warming) = (Arc::clone(&old.health), Arc::clone(&old.warming));
        drop(old);
        self.start(Arc::new(check.clone()), spread, health, warming, delay)
    }

    fn start(
        &self,
        check: Arc<Check>,
        spread: u8,
        health: Arc<Mutex<Health>>,
        warming: Arc<Warming>,
        delay_ms: u32,
    ) -> Running {
        let task = Task {
            check: Arc::clone(&check),
            spread,
            health: Arc::clone(&health),
            log: self.log.clone(),
            workers: self.workers.clone(),
            warming: Arc::clone(&warming),
        };
        Running {
            check,
            spread,
            health,
            warming,
            task: self.runtime.spawn(task.run(delay_ms)),
        }
    }
}

/// Would a task for `new` do exactly what the one for `old` does?
fn same(old: &Check, new: &Check) -> bool {
    Arc::ptr_eq(&old.group, &new.group)
        && old.slot == new.slot
        && old.section == new.section
        && old.tier == new.tier
        && old.target == new.target
        && old.opening == new.opening
        && old.settings == new.settings
        && old.timeout == new.timeout
        && old.slow_start_s == new.slow_start_s
        && old.log_each == new.log_each
        && same_states(&old.ends_when_down, &new.ends_when_down)
        && same_states(&old.ends_when_up, &new.ends_when_up)
        && same_observed(old.observed.as_ref(), new.observed.as_ref())
}

fn same_states(old: &[Arc<ServerState>], new: &[Arc<ServerState>]) -> bool {
    let mut pairs = old.iter().zip(new);
    old.len() == new.len() && pairs.all(|(old, new)| Arc::ptr_eq(old, new))
}

fn same_observed(old: Option<&Observed>, new: Option<&Observed>) -> bool {
    match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            Arc::ptr_eq(&old.alarm, &new.alarm)
                && old.limit == new.limit
                && old.on_error == new.on_error
        }
        _ => false,
    }
}

fn locked(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random bits from the standard library's per-process keys; nothing secret depends on them.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// The workers that there are.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<Remote>>>);

/// Ends the sessions of these servers, on all workers.
fn end_sessions(workers: &Told, servers: &[Arc<ServerState>], cause: EndCause) {
    let workers = workers.0.lock().unwrap_or_else(PoisonError::into_inner);
    for server in servers {
        for worker in workers.iter() {
            worker.end_sessions_of(server, cause);
        }
    }
}

fn subject(check: &Check) -> Subject<'_> {
    Subject {
        backend: &check.backend,
        server: &check.server,
        tier: check.tier,
    }
}

/// What one task knows.
struct Task {
    check: Arc<Check>,
    spread: u8,
    health: Arc<Mutex<Health>>,
    log: LogHandle,
    workers: Told,
    warming: Arc<Warming>,
}

impl Task {
    async fn run(self, first_delay_ms: u32) {
        let mut delay = first_delay_ms;
        loop {
            self.wait(delay).await;
            let began = Instant::now();
            let (status, info) = {
                let Check {
                    target,
                    opening,
                    timeout,
                    ..
                } = &*self.check;
                check(target, opening, *timeout).await
            };
            let finding = Finding {
                status,
                info: &info,
                duration_ms: Some(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
            };
            delay = {
                let mut health = locked(&self.health);
                self.conclude(&mut health, &finding);
                health.next_delay_ms(self.spread, random())
            };
        }
    }

    /// Waits for the next check; errors that traffic has meanwhile count, and may bring it forward.
    async fn wait(&self, delay_ms: u32) {
        let mut due = tokio::time::Instant::now() + Duration::from_millis(delay_ms.into());
        loop {
            let Some(observed) = &self.check.observed else {
                return tokio::time::sleep_until(due).await;
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                () = observed.alarm.0.notified() => {}
            }
            let mut health = locked(&self.health);
            self.take_errors(&mut health, observed);
            if let Some(hurried) = health.hurried_delay_ms() {
                let sooner = tokio::time::Instant::now() + Duration::from_millis(hurried.into());
                due = due.min(sooner);
            }
        }
    }

    /// So many connections failed: what that counts as.
    fn take_errors(&self, health: &mut Health, observed: &Observed) {
        let info = format!(
            "Detected {} consecutive errors, last one was: L4 unsuccessful connection",
            observed.limit
        );
        if let Some(outcome) = health.analyzed(observed.on_error) {
            let finding = Finding {
                status: health.status(),
                info: &info,
                duration_ms: None,
            };
            self.act_on(health, outcome, &finding);
        }
    }

    /// Draws the conclusions from a finding: health, group, log, in this order.
    fn conclude(&self, health: &mut Health, finding: &Finding<'_>) {
        let outcome = health.observe(finding.status);
        self.act_on(health, outcome, finding);
    }

    fn act_on(&self, health: &Health, outcome: Outcome, finding: &Finding<'_>) {
        let check = &self.check;
        let subject = subject(check);
        if check.log_each && outcome.news {
            let weight = check.group.weight(check.slot);
            self.say(check_line(&subject, finding, health.standing(), weight));
        }
        let Some(change) = outcome.change else {
            return;
        };
        let before = check.group.usable_members();
        self.warming.stop(check);
        if change == Change::Up && check.slow_start_s > 0 {
            self.start_warming();
        }
        check.group.set_usable(check.slot, change == Change::Up);
        let left = check.group.usable();
        let sessions = check.group.active_connections(check.slot);
        // The reason was given by the line of the check, where each is logged.
        let reason = (!check.log_each).then_some(finding);
        match change {
            Change::Down => end_sessions(&self.workers, &check.ends_when_down, EndCause::Down),
            Change::Up => end_sessions(&self.workers, &check.ends_when_up, EndCause::Up),
        }
        self.say(change_line(&subject, change, reason, left, sessions));
        if before > 0 && left.active + left.backup == 0 {
            self.say(none_left_line(check.section, &check.backend));
        }
    }

    /// `slowstart`: once it is over, HAProxy says once more that the server is up, for no reason, and
    /// acts on it once more.
    fn start_warming(&self) {
        let (check, log, workers) = (
            Arc::clone(&self.check),
            self.log.clone(),
            self.workers.clone(),
        );
        self.warming.start(&self.check, move || {
            end_sessions(&workers, &check.ends_when_up, EndCause::Up);
            let left = check.group.usable();
            let sessions = check.group.active_connections(check.slot);
            let (level, text) = change_line(&subject(&check), Change::Up, None, left, sessions);
            log.say(Audience::Backend(check.backend.clone()), level, text);
        });
    }

    fn say(&self, (level, text): (portcullis_proxy::log::Level, String)) {
        let to = Audience::Backend(self.check.backend.clone());
        self.log.say(to, level, text);
    }
}

#[cfg(test)]
mod tests;
