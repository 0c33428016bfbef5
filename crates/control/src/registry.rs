//! Runtime state by name: what outlives a configuration.
//!
//! Decides:  that a frontend, backend, server or listener of the same name keeps its counters,
//!           health and connection counts when a new snapshot is made.
//! Not here: the snapshot's use (the proxy crate), who writes the counters (workers).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use portcullis_balance::group::AllBackups;
use portcullis_balance::{Group, Member, MemberId};
use portcullis_config::model;
use portcullis_proxy::snapshot::{
    Backend, Frontend, FrontendLog, LogMoment, Observe, Outgoing, Server, ServerAddress, Snapshot,
    Watcher,
};
use portcullis_proxy::source::{Ports, Seen, Source};
use portcullis_proxy::state::{
    BackendState, FrontendState, ListenerState, ProcessState, ServerState,
};

use crate::compile::{BackendPlan, FrontendPlan, Plan, ServerPlan};

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
    /// Rung when connections to a server failed too often in a row, by name.
    pub(crate) alarms: BTreeMap<String, Arc<Alarm>>,
    /// Ports lent to connections to each server, by name and range.
    ports: BTreeMap<(String, (u16, u16)), Arc<Ports>>,
    /// Slots of the servers of the newest plan, by name.
    pub slots: BTreeMap<String, MemberId>,
}

/// Wakes a server's check.
#[derive(Debug, Default)]
pub(crate) struct Alarm(pub(crate) tokio::sync::Notify);

impl Watcher for Alarm {
    fn too_many_errors(&self) {
        self.0.notify_one();
    }
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
        let max_rate = plan.process.max_rate;
        self.process.max_rate.store(max_rate, Ordering::Relaxed);
        let backends: Vec<Arc<Backend>> = plan
            .backends
            .iter()
            .enumerate()
            .map(|(index, backend)| {
                let fullconn = backend
                    .fullconn
                    .unwrap_or_else(|| default_fullconn(plan, index, maxconn));
                Arc::new(self.backend_snapshot(backend, fullconn))
            })
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
                state.maxconn.store(listener.maxconn, Ordering::Relaxed);
                state.number.store(listener.number, Ordering::Relaxed);
                let accepts_proxy = listener.accepts_proxy;
                state.accepts_proxy.store(accepts_proxy, Ordering::Relaxed);
                let mut name = state.name.lock().unwrap_or_else(PoisonError::into_inner);
                *name = listener.name.as_deref().map(Into::into);
                drop(name);
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
            maxconn: plan.maxconn.unwrap_or(0),
            session_rate: plan.session_rate,
            lifetime_ms: plan.lifetime_ms,
            drain_age_ms: plan.drain_age_ms,
            greeting_timeout_ms: plan.greeting_timeout_ms,
            client_timeout_ms: plan.client_timeout_ms,
            client_fin_timeout_ms: plan.client_fin_timeout_ms,
            log: frontend_log(index, plan),
            keepalive: plan.keepalive,
            no_linger: plan.no_linger,
            independent: plan.independent,
            splice: plan.splice,
            state: Arc::clone(state),
        }
    }

    fn backend_snapshot(&mut self, plan: &BackendPlan, fullconn: u32) -> Backend {
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
                ports: BTreeMap::new(),
                alarms: BTreeMap::new(),
                slots: BTreeMap::new(),
            });
        runtime.group.set_fullconn(fullconn);
        let slots = runtime
            .group
            .reconfigure(plan.algorithm, all_backups, &members);
        let mut servers: Vec<Option<Arc<Server>>> = Vec::new();
        runtime.slots.clear();
        for (server, slot) in plan.servers.iter().zip(slots) {
            let name = &server.member.name;
            runtime.slots.insert(name.clone(), slot);
            let state = Arc::clone(runtime.servers.entry(name.clone()).or_default());
            let Some(address) = &server.address else {
                continue;
            };
            let at = slot.0 as usize;
            if servers.len() <= at {
                servers.resize(at + 1, None);
            }
            let address = address.clone();
            servers[at] = Some(Arc::new(runtime.server(server, slot, address, state)));
        }
        Backend {
            name: plan.name.as_str().into(),
            group: Arc::clone(&runtime.group),
            servers,
            hash: plan.hash,
            queue_timeout_ms: plan.queue_timeout_ms,
            connect_timeout_ms: plan.connect_timeout_ms,
            server_timeout_ms: plan.server_timeout_ms,
            server_fin_timeout_ms: plan.server_fin_timeout_ms,
            tunnel_timeout_ms: plan.tunnel_timeout_ms,
            retries: plan.retries,
            redispatch: plan.redispatch,
            keepalive: plan.keepalive,
            no_linger: plan.no_linger,
            independent: plan.independent,
            splice: plan.splice,
            abort_on_close: plan.abort_on_close,
            smart_connect: plan.smart_connect,
            state: Arc::clone(&runtime.state),
        }
    }
}

impl BackendRuntime {
    /// A server as workers see it.
    fn server(
        &mut self,
        plan: &ServerPlan,
        slot: MemberId,
        address: ServerAddress,
        state: Arc<ServerState>,
    ) -> Server {
        let name = &plan.member.name;
        let source = plan.source.as_ref();
        let source = source.map(|source| self.source(name, source));
        let observe = plan.check.as_ref().and_then(|it| it.settings.observe);
        let alarm = Arc::clone(self.alarms.entry(name.clone()).or_default());
        Server {
            name: name.as_str().into(),
            slot,
            address,
            user_timeout_ms: plan.user_timeout_ms,
            congestion_control: plan.congestion_control.as_deref().map(Into::into),
            outgoing: Outgoing {
                source,
                header: plan.header,
                fast_open: plan.fast_open,
            },
            observe: observe.map(|observe| Observe {
                limit: observe.error_limit,
                tell: alarm,
            }),
            state,
        }
    }

    /// A server's `source`; the ports of a range are lent over reloads.
    fn source(&mut self, server: &str, source: &portcullis_config::model::Source) -> Source {
        let ports = source.ports.map(|(low, high)| {
            let lent = self.ports.entry((server.to_owned(), (low, high)));
            Arc::clone(lent.or_insert_with(|| Ports::new(low..=high)))
        });
        Source {
            ip: source.address,
            ports,
            interface: source.interface.as_deref().map(Into::into),
            seen: source.seen.map(seen),
        }
    }
}

fn seen(seen: model::Seen) -> Seen {
    match seen {
        model::Seen::Client => Seen::Client,
        model::Seen::ClientIp => Seen::ClientIp,
        model::Seen::Address(address) => Seen::Address(address),
    }
}

/// `fullconn` where the file does not say it: a tenth, rounded up, of the connections that the
/// frontends which lead to the backend may have (HAProxy's src/proxy.c, proxy_finalize()).
fn default_fullconn(plan: &Plan, backend: usize, process_maxconn: u32) -> u32 {
    let leading = plan
        .frontends
        .iter()
        .filter(|frontend| frontend.backend == Some(backend));
    let most: u64 = leading
        .map(|frontend| u64::from(frontend.maxconn.unwrap_or(process_maxconn)))
        .sum();
    u32::try_from(most.div_ceil(10)).unwrap_or(u32::MAX).max(1)
}

/// What the workers hand to the log writer; the sink's number is the frontend's index.
fn frontend_log(index: usize, plan: &FrontendPlan) -> Option<FrontendLog> {
    use portcullis_config::model::LogStyle;
    if plan.log.targets.is_empty() {
        return None;
    }
    Some(FrontendLog {
        sink: u32::try_from(index).unwrap_or(u32::MAX),
        moment: match plan.log.style {
            LogStyle::Connect => LogMoment::Accept,
            _ if plan.log.as_soon_as_possible => LogMoment::Connect,
            LogStyle::Tcplog | LogStyle::TcplogClf => LogMoment::End,
        },
        skip_null: plan.log.skip_null,
        skip_normal: plan.log.skip_normal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_balance::{Algorithm, Tier};
    use portcullis_config::Place;
    use portcullis_config::model::{ProxyLog, Shards};
    use portcullis_listener::{Address, ListenerSpec};
    use portcullis_proxy::snapshot::ServerAddress;

    use crate::compile::{ListenerPlan, Overrides, ServerPlan};

    fn server(name: &str, port: u16) -> ServerPlan {
        ServerPlan {
            member: Member {
                name: name.to_owned(),
                weight: 1,
                tier: Tier::Active,
                ..Member::default()
            },
            source: None,
            header: None,
            fast_open: false,
            slow_start_s: 0,
            ends_sessions_when_down: false,
            ends_backup_sessions_when_up: false,
            init_state: Default::default(),
            address: Some(ServerAddress::Tcp {
                address: ([127, 0, 0, 1], port).into(),
                mptcp: false,
            }),
            user_timeout_ms: 0,
            congestion_control: None,
            check: None,
        }
    }

    /// A plan of one frontend, one listener, and one backend with these servers.
    fn plan(servers: Vec<ServerPlan>) -> Plan {
        let empty = portcullis_config::Config {
            global: portcullis_config::model::Global {
                nbthread: Some(2),
                default_shards: Some(Shards::ByThread),
                ..Default::default()
            },
            frontends: vec![],
            backends: vec![],
            rings: Vec::new(),
        };
        let host = crate::compile::HostLookup::default();
        let (plan, _) = crate::compile(&empty, &host, &Overrides::default());
        let mut plan = plan.unwrap();
        plan.frontends.push(FrontendPlan {
            name: "front".to_owned(),
            backend: Some(0),
            maxconn: None,
            session_rate: 0,
            lifetime_ms: 0,
            drain_age_ms: 0,
            greeting_timeout_ms: 0,
            client_timeout_ms: 0,
            client_fin_timeout_ms: 0,
            log: ProxyLog::default(),
            keepalive: None,
            no_linger: false,
            independent: false,
            splice: true,
        });
        plan.backends.push(BackendPlan {
            name: "back".to_owned(),
            algorithm: Algorithm::RoundRobin,
            hash: None,
            fullconn: None,
            all_backups: false,
            servers,
            queue_timeout_ms: 0,
            connect_timeout_ms: 0,
            server_timeout_ms: 0,
            server_fin_timeout_ms: 0,
            tunnel_timeout_ms: 0,
            check_timeout: None,
            retries: 3,
            redispatch: 0,
            keepalive: None,
            no_linger: false,
            independent: false,
            splice: true,
            abort_on_close: false,
            smart_connect: false,
            log: ProxyLog::default(),
            log_health_checks: false,
        });
        plan.listeners.push(ListenerPlan {
            spec: ListenerSpec::new(Address::Tcp(([127, 0, 0, 1], 80).into())),
            place: Place {
                file: 0,
                line: 1,
                start: 0,
                end: 1,
            },
            frontend: 0,
            number: 1,
            name: None,
            accepts_proxy: false,
            maxconn: 7,
        });
        plan
    }

    #[test]
    fn every_server_of_the_snapshot_is_at_its_slot() {
        let mut registry = Registry::default();
        let applied = registry.apply(&plan(vec![server("a", 1), server("b", 2)]), 100);
        let backend = applied.snapshot.frontends[0].backend.clone().unwrap();
        for (slot, server) in backend.servers.iter().enumerate() {
            let server = server.as_ref().unwrap();
            assert_eq!(server.slot.0 as usize, slot);
            assert_eq!(backend.group.slot_of(&server.name), Some(server.slot));
        }
        assert_eq!(backend.servers.len(), 2);
        assert_eq!(registry.process().maxconn.load(Ordering::Relaxed), 100);
        assert_eq!(applied.listeners[0].maxconn.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_second_plan_keeps_counters_and_connection_counts_of_the_names_that_stay() {
        let mut registry = Registry::default();
        let first = registry.apply(&plan(vec![server("a", 1), server("b", 2)]), 100);
        let frontend = Arc::clone(&first.snapshot.frontends[0]);
        frontend.state.total.fetch_add(5, Ordering::Relaxed);
        let backend = frontend.backend.clone().unwrap();
        let chosen = backend.group.choose(0, None).unwrap();
        first.listeners[0].total.fetch_add(3, Ordering::Relaxed);

        let second = registry.apply(
            &plan(vec![server("c", 3), server("b", 9), server("a", 1)]),
            50,
        );
        assert_eq!(second.snapshot.generation, 2);
        let again = Arc::clone(&second.snapshot.frontends[0]);
        assert_eq!(again.state.total.load(Ordering::Relaxed), 5);
        assert_eq!(second.listeners[0].total.load(Ordering::Relaxed), 3);
        let now = again.backend.clone().unwrap();
        assert!(Arc::ptr_eq(&now.group, &backend.group));
        assert_eq!(now.group.active_connections(chosen), 1);
        let moved = now.servers[now.group.slot_of("b").unwrap().0 as usize]
            .clone()
            .unwrap();
        assert_eq!(
            moved.address,
            ServerAddress::Tcp {
                address: ([127, 0, 0, 1], 9).into(),
                mptcp: false
            }
        );
        let old = backend.servers[moved.slot.0 as usize].clone().unwrap();
        assert!(
            Arc::ptr_eq(&old.state, &moved.state),
            "counters go with the name"
        );
    }

    #[test]
    fn a_server_without_an_address_has_a_slot_and_takes_nothing() {
        let mut nowhere = server("a", 1);
        nowhere.address = None;
        nowhere.member.usable = false;
        let mut registry = Registry::default();
        let applied = registry.apply(&plan(vec![nowhere, server("b", 2)]), 100);
        let backend = applied.snapshot.frontends[0].backend.clone().unwrap();
        let slot = backend.group.slot_of("a").unwrap().0 as usize;
        assert!(backend.servers[slot].is_none());
        for random in 0..8 {
            let chosen = backend.group.choose(random, None).unwrap();
            assert_ne!(chosen.0 as usize, slot);
        }
    }
}
