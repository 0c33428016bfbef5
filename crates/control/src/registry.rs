//! Runtime state by name: what outlives a configuration.
//!
//! Decides:  that a frontend, backend, server or listener of the same name keeps its counters,
//!           health and connection counts when a new snapshot is made.
//! Not here: the snapshot's use (the proxy crate), who writes the counters (workers).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use portcullis_balance::group::AllBackups;
use portcullis_balance::{Group, Member, MemberId};
use portcullis_proxy::snapshot::{Backend, Frontend, FrontendLog, Server, Snapshot};
use portcullis_proxy::state::{
    BackendState, FrontendState, ListenerState, ProcessState, ServerState,
};

use crate::compile::{BackendPlan, FrontendPlan, Plan};

/// All runtime state, by name.
#[derive(Debug, Default)]
pub struct Registry {
    generation: u64,
    process: Arc<ProcessState>,
    frontends: BTreeMap<String, Arc<FrontendState>>,
    backends: BTreeMap<String, BackendRuntime>,
    listeners: BTreeMap<(String, String), Arc<ListenerState>>,
}

/// What a backend keeps.
#[derive(Debug, Clone)]
pub struct BackendRuntime {
    /// The choice of a server, and the connections counted on each.
    pub group: Arc<Group>,
    /// Counters.
    pub state: Arc<BackendState>,
    /// Counters of each server, by name.
    pub servers: BTreeMap<String, Arc<ServerState>>,
    /// Slots of the servers of the newest plan, by name.
    pub slots: BTreeMap<String, MemberId>,
}

/// A plan joined with its state.
#[derive(Debug)]
pub struct Applied {
    /// For the workers.
    pub snapshot: Arc<Snapshot>,
    /// The state of each listener of the plan, in its order.
    pub listeners: Vec<Arc<ListenerState>>,
}

impl Registry {
    /// The process's counters.
    pub fn process(&self) -> &Arc<ProcessState> {
        &self.process
    }

    /// A frontend's counters.
    pub fn frontend(&self, name: &str) -> Option<&Arc<FrontendState>> {
        self.frontends.get(name)
    }

    /// What a backend keeps.
    pub fn backend(&self, name: &str) -> Option<&BackendRuntime> {
        self.backends.get(name)
    }

    /// Joins `plan` with the state of the names that it has, and makes state for new names.
    /// State of names that it has not stays, for sessions that still use it.
    pub fn apply(&mut self, plan: &Plan, maxconn: u32) -> Applied {
        self.generation += 1;
        self.process.maxconn.store(maxconn, Ordering::Relaxed);
        let backends: Vec<Arc<Backend>> = plan
            .backends
            .iter()
            .map(|backend| Arc::new(self.backend_snapshot(backend)))
            .collect();
        let frontends = plan
            .frontends
            .iter()
            .enumerate()
            .map(|(index, frontend)| {
                let backend = frontend.backend.map(|b| Arc::clone(&backends[b]));
                Arc::new(self.frontend_snapshot(index, frontend, backend))
            })
            .collect();
        let listeners = plan
            .listeners
            .iter()
            .map(|listener| {
                let frontend = &plan.frontends[listener.frontend].name;
                let address = format!("{:?}", listener.spec.address);
                let state = self
                    .listeners
                    .entry((frontend.clone(), address))
                    .or_default();
                state
                    .maxconn
                    .store(limit(listener.maxconn), Ordering::Relaxed);
                Arc::clone(state)
            })
            .collect();
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            frontends,
            tuning: plan.tuning,
            process: Arc::clone(&self.process),
        });
        Applied {
            snapshot,
            listeners,
        }
    }

    fn frontend_snapshot(
        &mut self,
        index: usize,
        plan: &FrontendPlan,
        backend: Option<Arc<Backend>>,
    ) -> Frontend {
        let state = self.frontends.entry(plan.name.clone()).or_default();
        Frontend {
            name: plan.name.as_str().into(),
            backend,
            maxconn: plan.maxconn.unwrap_or(u32::MAX),
            client_timeout_ms: plan.client_timeout_ms,
            client_fin_timeout_ms: plan.client_fin_timeout_ms,
            log: frontend_log(index, plan),
            keepalive: plan.keepalive,
            no_linger: plan.no_linger,
            splice: plan.splice,
            state: Arc::clone(state),
        }
    }

    fn backend_snapshot(&mut self, plan: &BackendPlan) -> Backend {
        let members: Vec<Member> = plan.servers.iter().map(|s| s.member.clone()).collect();
        let all_backups = match plan.all_backups {
            true => AllBackups::Yes,
            false => AllBackups::No,
        };
        let runtime = self
            .backends
            .entry(plan.name.clone())
            .or_insert_with(|| BackendRuntime {
                group: Arc::new(Group::new(plan.algorithm, all_backups, &[])),
                state: Arc::default(),
                servers: BTreeMap::new(),
                slots: BTreeMap::new(),
            });
        let slots = runtime
            .group
            .reconfigure(plan.algorithm, all_backups, &members);
        let mut servers: Vec<Option<Arc<Server>>> = Vec::new();
        runtime.slots.clear();
        for (server, slot) in plan.servers.iter().zip(slots) {
            let name = &server.member.name;
            runtime.slots.insert(name.clone(), slot);
            let state = runtime.servers.entry(name.clone()).or_default();
            let Some(address) = &server.address else {
                continue;
            };
            let at = slot.0 as usize;
            if servers.len() <= at {
                servers.resize(at + 1, None);
            }
            servers[at] = Some(Arc::new(Server {
                name: name.as_str().into(),
                slot,
                address: address.clone(),
                user_timeout_ms: server.user_timeout_ms,
                congestion_control: server.congestion_control.as_deref().map(Into::into),
                state: Arc::clone(state),
            }));
        }
        Backend {
            name: plan.name.as_str().into(),
            group: Arc::clone(&runtime.group),
            servers,
            connect_timeout_ms: plan.connect_timeout_ms,
            server_timeout_ms: plan.server_timeout_ms,
            server_fin_timeout_ms: plan.server_fin_timeout_ms,
            tunnel_timeout_ms: plan.tunnel_timeout_ms,
            retries: plan.retries,
            redispatch: plan.redispatch,
            keepalive: plan.keepalive,
            no_linger: plan.no_linger,
            splice: plan.splice,
            abort_on_close: plan.abort_on_close,
            smart_connect: plan.smart_connect,
            state: Arc::clone(&runtime.state),
        }
    }
}

/// A limit where 0 says that there is none.
fn limit(n: u32) -> u32 {
    if n == 0 { u32::MAX } else { n }
}

/// What the workers hand to the log writer; the sink's number is the frontend's index.
fn frontend_log(index: usize, plan: &FrontendPlan) -> Option<FrontendLog> {
    use portcullis_config::model::LogStyle;
    if plan.log.targets.is_empty() {
        return None;
    }
    Some(FrontendLog {
        sink: u32::try_from(index).unwrap_or(u32::MAX),
        at_accept: plan.log.style == LogStyle::Connect || plan.log.as_soon_as_possible,
        skip_null: plan.log.skip_null,
        skip_normal: plan.log.skip_normal,
    })
}
