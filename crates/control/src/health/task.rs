//! The check of one server, again and again.
//!
//! Decides:  that a change reaches the group at once, then the sessions, then the log.
//! Source:   HAProxy's src/check.c, process_chk_conn(); src/server.c, srv_update_status(), 2.6.
//! Not here: which checks there are (../health.rs), what results mean (the proxy crate's health.rs).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_proxy::health::{Change, Health, Outcome};
use portcullis_proxy::log::health::{Finding, Subject, change_line, check_line, none_left_line};
use portcullis_proxy::record::EndCause;
use portcullis_proxy::state::ServerState;
use portcullis_proxy::worker::thread::Remote;

use super::looker::Due;
use super::warm_up::Warming;
use super::{Check, Observed, check, locked, random};
use crate::logs::{Audience, LogHandle};

/// The workers that there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(pub(super) Arc<Mutex<Vec<Remote>>>);

/// Ends the sessions of these servers, on all workers.
pub(super) fn end_sessions(workers: &Told, servers: &[Arc<ServerState>], cause: EndCause) {
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
pub(super) struct Task {
    pub(super) check: Arc<Check>,
    pub(super) spread: u8,
    pub(super) health: Arc<Mutex<Health>>,
    pub(super) log: LogHandle,
    pub(super) workers: Told,
    pub(super) warming: Arc<Warming>,
    pub(super) due: Due,
}

impl Task {
    pub(super) async fn run(self, first_delay_ms: u32) {
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
            self.due.at(due.into_std());
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
    pub(super) fn conclude(&self, health: &mut Health, finding: &Finding<'_>) {
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
            Warmer::new(check, &self.log, &self.workers).start(&self.warming, 0);
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

    fn say(&self, (level, text): (portcullis_proxy::log::Level, String)) {
        let to = Audience::Backend(self.check.backend.clone());
        self.log.say(to, level, text);
    }
}

/// `slowstart`: once it is over, HAProxy says once more that the server is up, for no reason, and
/// acts on it once more.
pub(super) struct Warmer {
    check: Arc<Check>,
    log: LogHandle,
    workers: Told,
}

impl Warmer {
    /// Of this server.
    pub(super) fn new(check: &Arc<Check>, log: &LogHandle, workers: &Told) -> Warmer {
        Warmer {
            check: Arc::clone(check),
            log: log.clone(),
            workers: workers.clone(),
        }
    }

    /// Begins so many seconds after the server came up.
    pub(super) fn start(self, warming: &Warming, elapsed_s: u32) {
        let check = Arc::clone(&self.check);
        if elapsed_s >= check.slow_start_s {
            return;
        }
        let Warmer {
            check: warmed,
            log,
            workers,
        } = self;
        warming.start(&check, elapsed_s, move || {
            let check = warmed;
            end_sessions(&workers, &check.ends_when_up, EndCause::Up);
            let left = check.group.usable();
            let sessions = check.group.active_connections(check.slot);
            let (level, text) = change_line(&subject(&check), Change::Up, None, left, sessions);
            log.say(Audience::Backend(check.backend.clone()), level, text);
        });
    }
}
