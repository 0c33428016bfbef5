//! From the typed configuration to a plan that can be put to work.
//!
//! Decides:  what is looked up (names, users, groups), which defaults depend on more than one
//!           section, and which configurations are consistent as text but cannot be run.
//! Source:   HAProxy's manual, and `check_config_validity()`, `listener_backlog()` for the
//!           order of defaults (2.6 and 3.x).
//! Not here: opening anything, runtime state (registry.rs), privileges' use (privileges.rs).

mod admin;
mod backends;
mod duplicates;
mod frontends;
mod listeners;
pub mod lookup;
mod numbers;
mod problems;
mod process;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use portcullis_balance::{AddressHash, Algorithm, Member};
use portcullis_config::model::{self, Config};
use portcullis_config::{Diagnostic, Place};
use portcullis_listener::ListenerSpec;
use portcullis_proxy::proxy_protocol::Version;
use portcullis_proxy::snapshot::{Keepalive, ServerAddress, Tuning};

use crate::logs::LogPlan;
use crate::privileges;

pub use admin::{AdminPlan, AdminSocket};
pub use lookup::{HostLookup, Lookup};
use problems::Problems;

/// What the command line says over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `-n`: connections of the process.
    pub maxconn: Option<u32>,
    /// `-D`: go to the background.
    pub daemon: bool,
    /// `-db`: stay in the foreground whatever the file says.
    pub foreground: bool,
    /// `-p`: where the process id is written.
    pub pidfile: Option<PathBuf>,
    /// `-q`: no messages at start.
    pub quiet: bool,
}

/// A configuration with everything looked up, ready to be opened and run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The listeners, in the order of the file.
    pub listeners: Vec<ListenerPlan>,
    /// The runtime sockets.
    pub admin: AdminPlan,
    /// The enabled frontends.
    pub frontends: Vec<FrontendPlan>,
    /// The enabled backends.
    pub backends: Vec<BackendPlan>,
    /// Worker threads.
    pub workers: u16,
    /// The processors that workers are bound to, in their order; empty: none is bound.
    pub pinned: Vec<u32>,
    /// The process: limits, privileges, files.
    pub process: ProcessPlan,
    /// Where log lines go.
    pub logs: LogPlan,
    /// The workers' tuning. How many pipes there may be follows from the limits at the start.
    pub tuning: Tuning,
}

/// A socket that is to be open while the plan serves.
#[derive(Debug, Clone, Copy)]
pub struct ToOpen<'a> {
    /// What to open.
    pub spec: &'a ListenerSpec,
    /// The address in the file.
    pub place: Place,
    /// The frontend that it is for; `None`: it is a runtime socket.
    pub frontend: Option<&'a FrontendPlan>,
}

impl Plan {
    /// Every socket to open: the listeners, then the runtime sockets. Their places in this order are
    /// their numbers wherever sockets are opened and held.
    pub fn to_open(&self) -> Vec<ToOpen<'_>> {
        let listeners = self.listeners.iter().map(|listener| ToOpen {
            spec: &listener.spec,
            place: listener.place,
            frontend: self.frontends.get(listener.frontend),
        });
        let admin = self.admin.sockets.iter().map(|socket| ToOpen {
            spec: &socket.spec,
            place: socket.place,
            frontend: None,
        });
        listeners.chain(admin).collect()
    }
}

/// One listener: one address of one `bind` line.
#[derive(Debug, Clone)]
pub struct ListenerPlan {
    /// What to open. `shards` is the number wished; fewer may be opened.
    pub spec: ListenerSpec,
    /// The address in the file.
    pub place: Place,
    /// Index into [`Plan::frontends`].
    pub frontend: usize,
    /// Its number among the frontend's addresses.
    pub number: u32,
    /// `name` of its line.
    pub name: Option<String>,
    /// `accept-proxy`
    pub accepts_proxy: bool,
    /// `maxconn` of the address over its shards; 0: no limit of its own.
    pub maxconn: u32,
}

/// One enabled frontend.
#[derive(Debug, Clone)]
pub struct FrontendPlan {
    /// Its name.
    pub name: String,
    /// Index into [`Plan::backends`].
    pub backend: Option<usize>,
    /// Connections at once; `None`: no limit but the process's.
    pub maxconn: Option<u32>,
    /// `rate-limit sessions`; 0: no limit.
    pub session_rate: u32,
    /// Time that a session may last in all, ms; 0: for ever.
    pub lifetime_ms: u32,
    /// `timeout drain-age`, ms; 0: none.
    pub drain_age_ms: u32,
    /// Time for a PROXY header, ms; 0: none.
    pub greeting_timeout_ms: u32,
    /// Idle time of the client's side, ms; 0: none.
    pub client_timeout_ms: u32,
    /// Likewise once half closed; 0: as `client_timeout_ms`.
    pub client_fin_timeout_ms: u32,
    /// What is logged, and where.
    pub log: model::ProxyLog,
    /// Keepalive of accepted connections.
    pub keepalive: Option<Keepalive>,
    /// `option nolinger`.
    pub no_linger: bool,
    /// `option independent-streams`
    pub independent: bool,
    /// May bulk be spliced?
    pub splice: bool,
}

/// One enabled backend.
#[derive(Debug, Clone)]
pub struct BackendPlan {
    /// Its name.
    pub name: String,
    /// How a server is chosen.
    pub algorithm: Algorithm,
    /// What a hash is made of, where one chooses.
    pub hash: Option<AddressHash>,
    /// `fullconn`; `None`: a tenth of what its frontends may have.
    pub fullconn: Option<u32>,
    /// `option allbackups`.
    pub all_backups: bool,
    /// The servers, in the order of the file.
    pub servers: Vec<ServerPlan>,
    /// ms; 0: none.
    pub queue_timeout_ms: u32,
    /// ms; 0: none.
    pub connect_timeout_ms: u32,
    /// ms; 0: none.
    pub server_timeout_ms: u32,
    /// ms; 0: as `server_timeout_ms`.
    pub server_fin_timeout_ms: u32,
    /// ms; 0: none.
    pub tunnel_timeout_ms: u32,
    /// `timeout check`.
    pub check_timeout: Option<Duration>,
    /// Attempts after the first.
    pub retries: u32,
    /// 0 off; n: every n-th retry elsewhere; -n: from the n-th last on.
    pub redispatch: i32,
    /// Keepalive of connections to servers.
    pub keepalive: Option<Keepalive>,
    /// `option nolinger`.
    pub no_linger: bool,
    /// `option independent-streams`
    pub independent: bool,
    /// May bulk be spliced?
    pub splice: bool,
    /// `option abortonclose`.
    pub abort_on_close: bool,
    /// `option tcp-smart-connect`.
    pub smart_connect: bool,
    /// Where health events are logged.
    pub log: model::ProxyLog,
    /// `option log-health-checks`.
    pub log_health_checks: bool,
}

/// One server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerPlan {
    /// What the balance crate knows of it.
    pub member: Member,
    /// Where it is; `None` where `init-addr none` let it start without an address.
    pub address: Option<ServerAddress>,
    /// `TCP_USER_TIMEOUT`, ms; 0: the system's.
    pub user_timeout_ms: u32,
    /// `TCP_CONGESTION`.
    pub congestion_control: Option<String>,
    /// `source`
    pub source: Option<model::Source>,
    /// `send-proxy`, `send-proxy-v2`
    pub header: Option<Version>,
    /// `tfo`
    pub fast_open: bool,
    /// `slowstart`, s; 0: none.
    pub slow_start_s: u32,
    /// `on-marked-down shutdown-sessions`
    pub ends_sessions_when_down: bool,
    /// `on-marked-up shutdown-backup-sessions`
    pub ends_backup_sessions_when_up: bool,
    /// `init-state`
    pub init_state: model::InitState,
    /// Its health check.
    pub check: Option<CheckPlan>,
}

/// A TCP check, with its target looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckPlan {
    /// Where the check connects to: a fixed address or a Unix socket.
    pub target: ServerAddress,
    /// Intervals and thresholds, as the file gives them.
    pub settings: model::Check,
    /// The PROXY header that it begins with.
    pub header: Option<Version>,
    /// Where it comes from.
    pub source: Option<model::Source>,
}

/// The process: limits, privileges, files.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// Connections of the process; `None`: from the descriptor limit.
    pub maxconn: Option<u32>,
    /// `maxconnrate`, `maxsessrate`: the lesser; 0: no limit.
    pub max_rate: u32,
    /// `maxpipes`; `None`: from `maxconn`.
    pub max_pipes: Option<u32>,
    /// `ulimit-n`.
    pub ulimit_n: Option<u64>,
    /// `fd-hard-limit`.
    pub fd_hard_limit: Option<u64>,
    /// A limit that cannot be raised is an error.
    pub strict_limits: bool,
    /// Go to the background.
    pub daemon: bool,
    /// Where the process id is written.
    pub pidfile: Option<PathBuf>,
    /// User, group, chroot and capabilities, names looked up.
    pub privileges: privileges::Wanted,
    /// `hard-stop-after`.
    pub hard_stop_after: Option<Duration>,
    /// `grace`.
    pub grace: Option<Duration>,
    /// `spread-checks`, percent.
    pub spread_checks: u8,
    /// `log-tag`.
    pub log_tag: Option<String>,
    /// `log-send-hostname`.
    pub log_send_hostname: Option<Option<String>>,
    /// The global `log` lines.
    pub logs: Vec<model::LogTarget>,
    /// `ring` sections.
    pub rings: Vec<model::Ring>,
    /// No messages at start.
    pub quiet: bool,
}

/// Turns `config` into a plan. Every problem is reported at once; a plan comes with warnings at most.
pub fn compile(
    config: &Config,
    lookup: &dyn Lookup,
    overrides: &Overrides,
) -> (Option<Plan>, Vec<Diagnostic>) {
    let mut problems = Problems::default();
    let plan = planned(config, lookup, overrides, &mut problems);
    problems.finish(plan)
}

/// What of a configuration can be understood, whatever is wrong with the rest: to be judged, never to be put
/// to work.
pub fn readable(config: &Config, lookup: &dyn Lookup, overrides: &Overrides) -> Plan {
    planned(config, lookup, overrides, &mut Problems::default())
}

fn planned(
    config: &Config,
    lookup: &dyn Lookup,
    overrides: &Overrides,
    problems: &mut Problems,
) -> Plan {
    let process = process::plan(&config.global, &config.rings, lookup, overrides, problems);
    let workers = process::workers(&config.global, lookup, problems);
    let (backends, backend_index) = backends::plan(config, lookup, problems);
    let (frontends, frontend_index) = frontends::plan(config, &backend_index, problems);
    let cpus = lookup.cpus();
    let listeners = listeners::plan(
        config,
        &frontend_index,
        listeners::Surroundings {
            workers,
            process_maxconn: process.maxconn,
            cpus: &cpus,
        },
        lookup,
        problems,
    );
    let admin = admin::plan(config, lookup, problems);
    backends::may_be_foreign(config, &process.privileges, problems);
    duplicates::find(&listeners, config.global.no_reuse_port, problems);
    let tuning = process::tuning(&config.global);
    // SO_INCOMING_CPU gives a shard the connections of a processor: its worker belongs there.
    let by_cpu = listeners.iter().any(|l| !l.spec.incoming_cpus.is_empty());
    let pinned = (0..usize::from(workers))
        .filter_map(|worker| cpus.get(worker.checked_rem(cpus.len())?).copied())
        .filter(|_| by_cpu)
        .collect();
    let logs = LogPlan::new(&process, &frontends, &backends, lookup).unwrap_or_else(|found| {
        for (place, why) in found {
            problems.error("unresolved-name", Some(place), why);
        }
        LogPlan::default()
    });
    Plan {
        listeners,
        admin,
        frontends,
        backends,
        workers,
        pinned,
        process,
        logs,
        tuning,
    }
}

/// A time as the workers count it: whole milliseconds, at least 1; `None` is 0.
fn milliseconds(time: Option<Duration>) -> u32 {
    match time {
        None => 0,
        Some(t) if t.is_zero() => 0,
        Some(t) => u32::try_from(t.as_millis()).unwrap_or(u32::MAX).max(1),
    }
}

/// Keepalive as the workers apply it.
fn keepalive(from: Option<model::Keepalive>) -> Option<Keepalive> {
    let seconds = |t: Option<Duration>| {
        t.map_or(0, |t| u32::try_from(t.as_secs()).unwrap_or(u32::MAX).max(1))
    };
    from.map(|k| Keepalive {
        count: k.count.unwrap_or(0),
        idle_s: seconds(k.idle),
        interval_s: seconds(k.interval),
    })
}
