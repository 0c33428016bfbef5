//! Health checks: one task a server connects now and then and says what it found.
//!
//! Decides:  when checks start (spread over an interval), how long they may take, and that a
//!           change reaches the group at once and the log in HAProxy's words.
//! Source:   HAProxy's manual, `check`, `inter`, `timeout check`, `spread-checks`; src/check.c,
//!           start_checks(), process_chk_conn(), and src/tcpcheck.c for the time of a connection.
//! Not here: what results mean (the proxy crate's health.rs), the connection (health/connect.rs).

mod connect;
mod looker;
mod same;
mod task;
mod warm_up;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_balance::{Group, MemberId, Tier};
use portcullis_config::model::{InitState, OnError};
use portcullis_proxy::health::{
    CheckStatus, Errors, Health, HealthSettings, Standing, Start, start_delay_ms, start_pace_ms,
};
use portcullis_proxy::log::health::Section;
use portcullis_proxy::record::EndCause;
use portcullis_proxy::snapshot::ServerAddress;
use portcullis_proxy::state::ServerState;
use portcullis_proxy::worker::thread::Remote;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::compile::{BackendPlan, CheckPlan, Plan, ServerPlan};
use crate::logs::LogHandle;
use crate::memory::Memory;
use crate::registry::{Alarm, BackendRuntime, Registry};
use looker::Due;
use same::same;
use task::{Task, Told, Warmer, end_sessions};
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
    /// What the process before this one knew.
    remembered: Memory,
}

#[derive(Debug)]
struct Running {
    check: Arc<Check>,
    spread: u8,
    health: Arc<Mutex<Health>>,
    warming: Arc<Warming>,
    due: Due,
    /// As the process before this one told it, until that one tells it again.
    told: Option<Health>,
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
            remembered: Memory::default(),
        }
        .telling(workers)
    }

    /// The first plan's servers begin as the process before this one knew them.
    #[must_use]
    pub fn remembering(self, remembered: Memory) -> Self {
        Self { remembered, ..self }
    }

    /// The process before this one has told once more how the servers stand: those that were not checked here
    /// meanwhile stand so.
    pub(crate) fn told_again(&mut self, last: &Memory) {
        let _inside = self.runtime.enter();
        for ((backend, server), running) in &mut self.running {
            let Some(told) = running.told.take() else {
                continue;
            };
            let Some(memory) = last.server(backend, server) else {
                continue;
            };
            let check = &running.check;
            let mut health = locked(&running.health);
            let now = memory.health(check.settings);
            if *health != told || now == told {
                continue;
            }
            *health = now;
            running.warming.stop(check);
            if let Some(warm_s) = memory.warm_s.filter(|_| health.is_up()) {
                let warmer = Warmer::new(check, &self.log, &self.workers);
                warmer.start(&running.warming, warm_s);
            }
            check.group.set_usable(check.slot, health.is_up());
            if !health.is_up() {
                end_sessions(&self.workers, &check.ends_when_down, EndCause::Down);
            }
        }
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
        let remembered = std::mem::take(&mut self.remembered);
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
            let known = remembered.server(&check.backend, &check.server);
            let health = match known {
                Some(known) => known.health(check.settings),
                None => Health::starting(check.settings, check.start),
            };
            if !health.is_up() {
                check.group.set_usable(check.slot, false);
            }
            let delay = match known {
                // When it would have been checked there, if that is not out of all bounds.
                Some(known) => known.due_ms.min(check.settings.longest_ms()),
                None => start_delay_ms(&health, pace, position, count, plan.spread, random()),
            };
            let check = Arc::new(check.clone());
            let warming = Arc::<Warming>::default();
            if let Some(warm_s) = known.and_then(|known| known.warm_s)
                && health.is_up()
            {
                let _inside = self.runtime.enter();
                Warmer::new(&check, &self.log, &self.workers).start(&warming, warm_s);
            }
            let told = known.map(|_| health.clone());
            let health = Arc::new(Mutex::new(health));
            let mut started = self.start(check, plan.spread, health, warming, delay);
            started.told = told;
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
        let due = Due::default();
        let task = Task {
            due: due.clone(),
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
            due,
            told: None,
            task: self.runtime.spawn(task.run(delay_ms)),
        }
    }
}

fn locked(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Random bits from the standard library's per-process keys; nothing secret depends on them.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

#[cfg(test)]
mod tests;
