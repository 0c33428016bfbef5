//! Runtime state by name: what outlives a configuration.
//!
//! Decides:  that a frontend, backend, server or listener of the same name keeps its counters,
//!           health and connection counts when a new snapshot is made; that what did not change is
//!           the same object in the new snapshot; when state of a name that is gone is let go.
//! Not here: the snapshot's use (the proxy crate), who writes the counters (workers).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use portcullis_balance::group::AllBackups;
use portcullis_balance::{Group, Member, MemberId, WarmUp};
use portcullis_config::model::{self, InitState};
use portcullis_proxy::snapshot::{
    Backend, Frontend, FrontendLog, LogMoment, Observe, Outgoing, Server, ServerAddress,
    ServerTable, Snapshot, Watcher,
};
use portcullis_proxy::source::{Ports, Seen, Source};
use portcullis_proxy::state::{
    BackendState, FrontendState, ListenerState, ProcessState, ServerState,
};

use crate::compile::{BackendPlan, FrontendPlan, ListenerPlan, Plan, ServerPlan};
use crate::memory::{Living, Memory, ServerMemory};

mod same;

/// All runtime state, by name.
#[derive(Debug, Default)]
pub struct Registry {
    generation: u64,
    process: Arc<ProcessState>,
    frontends: BTreeMap<String, FrontendRuntime>,
    backends: BTreeMap<String, BackendRuntime>,
    listeners: BTreeMap<(String, String), Arc<ListenerState>>,
    /// What the process before this one knew, until the first plan is applied.
    remembered: Memory,
}

/// What a frontend keeps.
#[derive(Debug, Default)]
struct FrontendRuntime {
    state: Arc<FrontendState>,
    /// As it stands in the newest snapshot.
    made: Option<Arc<Frontend>>,
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
    /// Those of them that are checked: the group knows how they stand.
    checked: BTreeSet<String>,
    /// The servers by slot, for all snapshots.
    table: Arc<ServerTable>,
    /// As it stands in the newest snapshot, and its `fullconn`.
    made: Option<(Arc<Backend>, u32)>,
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
    /// Servers that are gone, and whose sessions are to end (`on-marked-down shutdown-sessions`).
    pub ended: Vec<Arc<ServerState>>,
}

impl Registry {
    /// The servers of the first plan stand as the process before this one knew them.
    pub fn remembering(remembered: Memory) -> Registry {
        Registry {
            remembered,
            ..Registry::default()
        }
    }

    /// Everything that is counted.
    pub(crate) fn living(&self) -> Living {
        let backends = self.backends.iter();
        let servers = backends.clone().flat_map(|(backend, runtime)| {
            let servers = runtime.servers.iter();
            servers.map(|(name, state)| ((backend.clone(), name.clone()), Arc::clone(state)))
        });
        let frontends = self.frontends.iter();
        let listeners = self.listeners.iter();
        Living {
            process: Arc::clone(&self.process),
            frontends: frontends
                .map(|(name, runtime)| (name.clone(), Arc::clone(&runtime.state)))
                .collect(),
            listeners: listeners
                .map(|(name, state)| (name.clone(), Arc::clone(state)))
                .collect(),
            backends: backends
                .map(|(name, runtime)| (name.clone(), Arc::clone(&runtime.state)))
                .collect(),
            servers: servers.collect(),
        }
    }

    /// The process's counters.
    pub fn process(&self) -> &Arc<ProcessState> {
        &self.process
    }

    /// A frontend's counters.
    pub fn frontend(&self, name: &str) -> Option<&Arc<FrontendState>> {
        self.frontends.get(name).map(|runtime| &runtime.state)
    }

    /// What a backend keeps.
    pub fn backend(&self, name: &str) -> Option<&BackendRuntime> {
        self.backends.get(name)
    }

    /// Joins `plan` with the state of the names that it has, and makes state for new names; `before`
    /// is the plan that was applied last. What both have alike is not made anew. From this moment
    /// servers are chosen by the new plan, also by workers that have not heard of it.
    ///
    /// State of names that it has not is let go by the next call that finds it unused.
    pub fn apply(&mut self, plan: &Plan, before: Option<&Plan>, maxconn: u32) -> Applied {
        self.generation += 1;
        self.let_go(plan);
        self.process.maxconn.store(maxconn, Ordering::Relaxed);
        let max_rate = plan.process.max_rate;
        self.process.max_rate.store(max_rate, Ordering::Relaxed);
        let before = Before::of(before);
        let fullconns = default_fullconns(plan, maxconn);
        let backends: Vec<Arc<Backend>> = plan
            .backends
            .iter()
            .zip(fullconns)
            .map(|(backend, fullconn)| {
                let fullconn = backend.fullconn.unwrap_or(fullconn);
                let before = before.backends.get(backend.name.as_str()).copied();
                self.backend_snapshot(backend, before, fullconn)
            })
            .collect();
        let frontends = plan
            .frontends
            .iter()
            .map(|frontend| {
                let backend = frontend.backend.map(|b| Arc::clone(&backends[b]));
                let before = before.frontends.get(frontend.name.as_str()).copied();
                self.frontend_snapshot(frontend, before, backend)
            })
            .collect();
        let listeners = plan.listeners.iter();
        let listeners = listeners
            .map(|listener| self.listener_state(listener, &plan.frontends[listener.frontend].name))
            .collect();
        self.remembered = Memory::default();
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            frontends,
            tuning: plan.tuning,
            process: Arc::clone(&self.process),
        });
        Applied {
            snapshot,
            listeners,
            ended: self.ended(&before),
        }
    }

    /// Forgets what `plan` has not and nobody uses: a session that goes on keeps its state here, so
    /// that a name that comes back finds it.
    fn let_go(&mut self, plan: &Plan) {
        let frontends: BTreeSet<&str> = plan.frontends.iter().map(|f| f.name.as_str()).collect();
        self.frontends.retain(|name, runtime| {
            let stays = frontends.contains(name.as_str());
            if !stays {
                runtime.made = None;
            }
            stays || Arc::strong_count(&runtime.state) > 1
        });
        let backends: BTreeSet<&str> = plan.backends.iter().map(|b| b.name.as_str()).collect();
        self.backends.retain(|name, runtime| {
            let stays = backends.contains(name.as_str());
            if !stays {
                runtime.made = None;
                // Nobody checks them any more.
                runtime.checked.clear();
            }
            stays || Arc::strong_count(&runtime.group) > 1 || Arc::strong_count(&runtime.state) > 1
        });
        self.listeners
            .retain(|(frontend, _), state| frontends.contains(frontend.as_str()) || in_use(state));
    }

    /// The servers that are gone, and take their sessions with them.
    fn ended(&self, before: &Before<'_>) -> Vec<Arc<ServerState>> {
        let mut ended = Vec::new();
        for plan in before.backends.values() {
            let Some(runtime) = self.backends.get(&plan.name) else {
                continue;
            };
            let gone = plan.servers.iter().filter(|server| {
                let stays = runtime.made.is_some() && runtime.slots.contains_key(name_of(server));
                server.ends_sessions_when_down && !stays
            });
            ended.extend(gone.filter_map(|server| runtime.servers.get(name_of(server)).cloned()));
        }
        ended
    }

    fn listener_state(&mut self, plan: &ListenerPlan, frontend: &str) -> Arc<ListenerState> {
        let address = format!("{:?}", plan.spec.address);
        let key = (frontend.to_owned(), address);
        let state = self.listeners.entry(key).or_default();
        state.maxconn.store(plan.maxconn, Ordering::Relaxed);
        state.number.store(plan.number, Ordering::Relaxed);
        let accepts_proxy = plan.accepts_proxy;
        state.accepts_proxy.store(accepts_proxy, Ordering::Relaxed);
        let mut name = state.name.lock().unwrap_or_else(PoisonError::into_inner);
        if name.as_deref() != plan.name.as_deref() {
            *name = plan.name.as_deref().map(Into::into);
        }
        drop(name);
        Arc::clone(state)
    }

    fn frontend_snapshot(
        &mut self,
        plan: &FrontendPlan,
        before: Option<&FrontendPlan>,
        backend: Option<Arc<Backend>>,
    ) -> Arc<Frontend> {
        let runtime = self.frontends.entry(plan.name.clone()).or_default();
        let log = frontend_log(plan);
        if let Some(made) = &runtime.made {
            let same_backend = match (&made.backend, &backend) {
                (Some(made), Some(new)) => Arc::ptr_eq(made, new),
                (made, new) => made.is_none() && new.is_none(),
            };
            if same_backend && made.log == log && before.is_some_and(|it| same::frontend(it, plan))
            {
                return Arc::clone(made);
            }
        }
        let made = Arc::new(Frontend {
            name: plan.name.as_str().into(),
            backend,
            maxconn: plan.maxconn.unwrap_or(0),
            session_rate: plan.session_rate,
            lifetime_ms: plan.lifetime_ms,
            drain_age_ms: plan.drain_age_ms,
            greeting_timeout_ms: plan.greeting_timeout_ms,
            client_timeout_ms: plan.client_timeout_ms,
            client_fin_timeout_ms: plan.client_fin_timeout_ms,
            log,
            keepalive: plan.keepalive,
            no_linger: plan.no_linger,
            independent: plan.independent,
            splice: plan.splice,
            state: Arc::clone(&runtime.state),
        });
        runtime.made = Some(Arc::clone(&made));
        made
    }

    fn backend_snapshot(
        &mut self,
        plan: &BackendPlan,
        before: Option<&BackendPlan>,
        fullconn: u32,
    ) -> Arc<Backend> {
        let runtime = self
            .backends
            .entry(plan.name.clone())
            .or_insert_with(|| BackendRuntime::new(plan));
        match &runtime.made {
            Some((made, of))
                if *of == fullconn && before.is_some_and(|it| same::backend(it, plan)) =>
            {
                return Arc::clone(made);
            }
            _ => {}
        }
        runtime.let_go(plan);
        runtime.group.set_fullconn(fullconn);
        runtime.reconfigure(plan, before, &self.remembered);
        let made = Arc::new(Backend {
            name: plan.name.as_str().into(),
            group: Arc::clone(&runtime.group),
            servers: Arc::clone(&runtime.table),
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
        });
        runtime.made = Some((Arc::clone(&made), fullconn));
        made
    }
}

/// The sections of the plan before, by name.
#[derive(Default)]
struct Before<'a> {
    frontends: BTreeMap<&'a str, &'a FrontendPlan>,
    backends: BTreeMap<&'a str, &'a BackendPlan>,
}

impl<'a> Before<'a> {
    fn of(plan: Option<&'a Plan>) -> Before<'a> {
        let Some(plan) = plan else {
            return Before::default();
        };
        let frontends = plan.frontends.iter().map(|it| (it.name.as_str(), it));
        let backends = plan.backends.iter().map(|it| (it.name.as_str(), it));
        Before {
            frontends: frontends.collect(),
            backends: backends.collect(),
        }
    }
}

fn in_use<T>(state: &Arc<T>) -> bool {
    Arc::strong_count(state) > 1
}

fn name_of(server: &ServerPlan) -> &str {
    &server.member.name
}

fn all_backups(plan: &BackendPlan) -> AllBackups {
    match plan.all_backups {
        true => AllBackups::Yes,
        false => AllBackups::No,
    }
}

impl BackendRuntime {
    fn new(plan: &BackendPlan) -> BackendRuntime {
        BackendRuntime {
            group: Arc::new(Group::new(plan.algorithm, all_backups(plan), &[])),
            state: Arc::default(),
            servers: BTreeMap::new(),
            ports: BTreeMap::new(),
            alarms: BTreeMap::new(),
            slots: BTreeMap::new(),
            checked: BTreeSet::new(),
            table: Arc::default(),
            made: None,
        }
    }

    /// Forgets servers that `plan` has not and no session uses.
    fn let_go(&mut self, plan: &BackendPlan) {
        let names: BTreeSet<&str> = plan.servers.iter().map(name_of).collect();
        self.servers
            .retain(|name, state| names.contains(name.as_str()) || in_use(state));
        self.alarms
            .retain(|name, alarm| names.contains(name.as_str()) || in_use(alarm));
        self.ports
            .retain(|(name, _), ports| names.contains(name.as_str()) || in_use(ports));
    }

    /// Gives group and table the servers of `plan`, in one step. A server that was checked and is
    /// checked stands as it stood; one that is checked from now on as another process knew it, or as it is to
    /// begin; others are up.
    fn reconfigure(
        &mut self,
        plan: &BackendPlan,
        before: Option<&BackendPlan>,
        remembered: &Memory,
    ) {
        let known = |server: &ServerPlan| remembered.server(&plan.name, name_of(server));
        let members: Vec<Member> = plan
            .servers
            .iter()
            .map(|server| Member {
                usable: server.member.usable && self.is_up(server, known(server)),
                ..server.member.clone()
            })
            .collect();
        let before: BTreeMap<&str, &ServerPlan> = before
            .into_iter()
            .flat_map(|plan| &plan.servers)
            .map(|server| (name_of(server), server))
            .collect();
        let (group, table) = (Arc::clone(&self.group), Arc::clone(&self.table));
        table.update(|servers| {
            let slots = group.reconfigure(plan.algorithm, all_backups(plan), &members);
            let old_slots = std::mem::take(&mut self.slots);
            let count = slots.iter().map(|slot| slot.0 as usize + 1).max();
            servers.resize(count.unwrap_or(0).max(servers.len()), None);
            let mut wanted = vec![false; servers.len()];
            for (server, slot) in plan.servers.iter().zip(slots) {
                let (name, at) = (name_of(server), slot.0 as usize);
                wanted[at] = true;
                let stays = old_slots.get(name) == Some(&slot)
                    && before.get(name).is_some_and(|&it| it == server);
                if !stays || servers[at].is_none() {
                    let address = server.address.clone();
                    let made = address.map(|address| Arc::new(self.server(server, slot, address)));
                    servers[at] = made;
                }
                self.slots.insert(name.to_owned(), slot);
                let of_s = server.slow_start_s;
                let warm_s = known(server).and_then(|known| known.warm_s);
                if let Some(elapsed_s) = warm_s.filter(|&warm_s| warm_s < of_s) {
                    group.set_warm_up(slot, WarmUp { elapsed_s, of_s });
                }
            }
            for (at, server) in servers.iter_mut().enumerate() {
                // Whoever was chosen for it and has not looked it up yet is counted.
                let slot = MemberId(at as u32);
                if !wanted[at] && server.is_some() && group.active_connections(slot) == 0 {
                    *server = None;
                }
            }
        });
        let checked = plan.servers.iter().filter(|server| server.check.is_some());
        self.checked = checked.map(|server| name_of(server).to_owned()).collect();
    }

    fn is_up(&self, server: &ServerPlan, known: Option<&ServerMemory>) -> bool {
        let name = name_of(server);
        match self.slots.get(name).filter(|_| self.checked.contains(name)) {
            _ if server.check.is_none() => true,
            Some(slot) => self.group.is_up(*slot),
            None => known.map_or(
                matches!(server.init_state, InitState::Up | InitState::FullyUp),
                |known| known.up,
            ),
        }
    }

    /// A server as workers see it.
    fn server(&mut self, plan: &ServerPlan, slot: MemberId, address: ServerAddress) -> Server {
        let name = &plan.member.name;
        let state = Arc::clone(self.servers.entry(name.clone()).or_default());
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

/// `fullconn` of each backend where the file does not say it: a tenth, rounded up, of the connections
/// that the frontends which lead to it may have (HAProxy's src/proxy.c, proxy_finalize()).
fn default_fullconns(plan: &Plan, process_maxconn: u32) -> Vec<u32> {
    let mut most = vec![0u64; plan.backends.len()];
    for frontend in &plan.frontends {
        if let Some(sum) = frontend.backend.and_then(|backend| most.get_mut(backend)) {
            *sum += u64::from(frontend.maxconn.unwrap_or(process_maxconn));
        }
    }
    let tenth = |sum: u64| u32::try_from(sum.div_ceil(10)).unwrap_or(u32::MAX).max(1);
    most.into_iter().map(tenth).collect()
}

/// What the workers hand to the log writer, which knows the targets by the frontend's name.
fn frontend_log(plan: &FrontendPlan) -> Option<FrontendLog> {
    use portcullis_config::model::LogStyle;
    if plan.log.targets.is_empty() {
        return None;
    }
    Some(FrontendLog {
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
        let applied = registry.apply(&plan(vec![server("a", 1), server("b", 2)]), None, 100);
        let backend = applied.snapshot.frontends[0].backend.clone().unwrap();
        for (slot, server) in backend.servers.all().iter().enumerate() {
            assert_eq!(server.slot.0 as usize, slot);
            assert_eq!(backend.group.slot_of(&server.name), Some(server.slot));
        }
        assert_eq!(backend.servers.all().len(), 2);
        assert_eq!(registry.process().maxconn.load(Ordering::Relaxed), 100);
        assert_eq!(applied.listeners[0].maxconn.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_second_plan_keeps_counters_and_connection_counts_of_the_names_that_stay() {
        let mut registry = Registry::default();
        let first = registry.apply(&plan(vec![server("a", 1), server("b", 2)]), None, 100);
        let frontend = Arc::clone(&first.snapshot.frontends[0]);
        frontend.state.total.fetch_add(5, Ordering::Relaxed);
        let backend = frontend.backend.clone().unwrap();
        let chosen = backend.group.choose(0, None).unwrap();
        first.listeners[0].total.fetch_add(3, Ordering::Relaxed);

        let second = registry.apply(
            &plan(vec![server("c", 3), server("b", 9), server("a", 1)]),
            Some(&plan(vec![server("a", 1), server("b", 2)])),
            50,
        );
        assert_eq!(second.snapshot.generation, 2);
        let again = Arc::clone(&second.snapshot.frontends[0]);
        assert_eq!(again.state.total.load(Ordering::Relaxed), 5);
        assert_eq!(second.listeners[0].total.load(Ordering::Relaxed), 3);
        let now = again.backend.clone().unwrap();
        assert!(Arc::ptr_eq(&now.group, &backend.group));
        assert_eq!(now.group.active_connections(chosen), 1);
        let moved = now.group.slot_of("b").unwrap();
        let moved = now.servers.get(moved).unwrap();
        assert_eq!(moved.address, at_port(9));
        let state = &registry.backend("back").unwrap().servers["b"];
        assert!(Arc::ptr_eq(state, &moved.state), "counters go with it");
    }

    fn at_port(port: u16) -> ServerAddress {
        ServerAddress::Tcp {
            address: ([127, 0, 0, 1], port).into(),
            mptcp: false,
        }
    }

    fn checked(name: &str, port: u16) -> ServerPlan {
        let settings = model::Check {
            inter: std::time::Duration::from_secs(2),
            fast_inter: None,
            down_inter: None,
            rise: 2,
            fall: 3,
            port: None,
            addr: None,
            observe: None,
            send_proxy: false,
        };
        ServerPlan {
            check: Some(crate::compile::CheckPlan {
                target: at_port(port),
                settings,
                header: None,
                source: None,
            }),
            ..server(name, port)
        }
    }

    #[test]
    fn what_did_not_change_is_the_same_object_in_the_next_snapshot() {
        let mut registry = Registry::default();
        let one = plan(vec![server("a", 1), server("b", 2)]);
        let first = registry.apply(&one, None, 100);
        let again = registry.apply(&one.clone(), Some(&one), 100);
        assert_eq!(again.snapshot.generation, 2);
        let frontends = [&first, &again].map(|it| Arc::clone(&it.snapshot.frontends[0]));
        assert!(Arc::ptr_eq(&frontends[0], &frontends[1]));

        let mut other = one.clone();
        other.frontends[0].client_timeout_ms = 7;
        let third = registry.apply(&other, Some(&one), 100);
        let frontend = &third.snapshot.frontends[0];
        assert!(!Arc::ptr_eq(frontend, &frontends[0]));
        let backends = [frontend, &frontends[0]].map(|it| it.backend.clone().unwrap());
        assert!(Arc::ptr_eq(&backends[0], &backends[1]));

        let changed = plan(vec![server("a", 1), server("b", 9)]);
        let fourth = registry.apply(&changed, Some(&other), 100);
        let backend = fourth.snapshot.frontends[0].backend.clone().unwrap();
        assert!(!Arc::ptr_eq(&backend, &backends[0]));
        let addresses = backend
            .servers
            .all()
            .into_iter()
            .map(|it| it.address.clone());
        assert_eq!(addresses.collect::<Vec<_>>(), [at_port(1), at_port(9)]);
    }

    #[test]
    fn health_is_kept_where_a_server_is_checked_before_and_after() {
        let down = |servers: Vec<ServerPlan>| {
            let mut registry = Registry::default();
            let before = plan(vec![checked("a", 1), checked("b", 2)]);
            registry.apply(&before, None, 100);
            let runtime = registry.backend("back").unwrap();
            runtime.group.set_usable(runtime.slots["a"], false);
            registry.apply(&plan(servers), Some(&before), 100);
            let runtime = registry.backend("back").unwrap();
            let slots = runtime.slots.iter();
            let down = slots.filter(|(_, slot)| !runtime.group.is_up(**slot));
            down.map(|(name, _)| name.clone()).collect::<String>()
        };
        let begins_down = ServerPlan {
            init_state: InitState::Down,
            ..checked("c", 3)
        };
        for (label, servers, expected) in [
            ("the same", vec![checked("a", 1), checked("b", 2)], "a"),
            (
                "an address changed",
                vec![checked("a", 9), checked("b", 2)],
                "a",
            ),
            (
                "one more",
                vec![checked("a", 1), begins_down, checked("d", 4)],
                "ac",
            ),
            (
                "no check any more",
                vec![server("a", 1), checked("b", 2)],
                "",
            ),
        ] {
            assert_eq!(down(servers), expected, "{label}");
        }
    }

    #[test]
    fn a_name_that_is_gone_is_kept_as_long_as_a_session_uses_it_and_then_let_go() {
        let mut registry = Registry::default();
        let one = plan(vec![server("a", 1), server("b", 2)]);
        let first = registry.apply(&one, None, 100);
        let backend = first.snapshot.frontends[0].backend.clone().unwrap();
        let session = backend.group.choose(0, None).unwrap();
        let gone = backend.servers.get(session).unwrap();
        assert_eq!(&*gone.name, "a");
        let two = plan(vec![server("b", 2)]);
        registry.apply(&two, Some(&one), 100);
        assert!(backend.servers.get(session).is_some(), "it is counted");
        drop(gone);
        backend.group.release(session);
        let three = plan(vec![server("b", 3)]);
        registry.apply(&three, Some(&two), 100);
        assert!(backend.servers.get(session).is_none());
        let four = plan(vec![server("b", 4)]);
        registry.apply(&four, Some(&three), 100);
        let names = registry.backend("back").unwrap().servers.keys();
        assert_eq!(names.collect::<Vec<_>>(), ["b"]);

        let mut empty = plan(vec![]);
        empty.frontends.clear();
        empty.backends.clear();
        empty.listeners.clear();
        registry.apply(&empty, Some(&four), 100);
        assert!(registry.frontend("front").is_some(), "a snapshot has it");
        drop((first, backend));
        registry.apply(&empty, Some(&empty), 100);
        assert!(registry.frontend("front").is_none());
        assert!(registry.backend("back").is_none());
        assert!(registry.listeners.is_empty());
    }

    #[test]
    fn a_server_that_is_gone_takes_its_sessions_along_where_the_file_says_so() {
        let mut registry = Registry::default();
        let ending = ServerPlan {
            ends_sessions_when_down: true,
            ..server("a", 1)
        };
        let one = plan(vec![ending.clone(), server("b", 2)]);
        assert!(registry.apply(&one, None, 100).ended.is_empty());
        assert!(registry.apply(&one, Some(&one), 100).ended.is_empty());
        let state = Arc::clone(&registry.backend("back").unwrap().servers["a"]);
        let two = plan(vec![server("c", 3)]);
        let ended = registry.apply(&two, Some(&one), 100).ended;
        assert_eq!(ended.len(), 1, "b's sessions go on");
        assert!(Arc::ptr_eq(&ended[0], &state));
    }

    #[test]
    fn a_server_without_an_address_has_a_slot_and_takes_nothing() {
        let mut nowhere = server("a", 1);
        nowhere.address = None;
        nowhere.member.usable = false;
        let mut registry = Registry::default();
        let applied = registry.apply(&plan(vec![nowhere, server("b", 2)]), None, 100);
        let backend = applied.snapshot.frontends[0].backend.clone().unwrap();
        let slot = backend.group.slot_of("a").unwrap();
        assert!(backend.servers.get(slot).is_none());
        for random in 0..8 {
            let chosen = backend.group.choose(random, None).unwrap();
            assert_ne!(chosen, slot);
        }
    }
}
