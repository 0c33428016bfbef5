//! How things stand, in a few lines: what QUIT shows.
//!
//! Decides:  which counters are shown.
//! Not here: the counters themselves (proxy::state), statistics for machines.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use crate::logs::Audience;
use crate::{Plan, Registry};

/// The counters of the names of a plan.
pub(super) struct Report {
    registry: Registry,
    frontends: Vec<String>,
    backends: Vec<(String, Vec<String>)>,
}

impl Report {
    /// Of the names of `plan`.
    pub(super) fn new(plan: &Plan, registry: Registry) -> Report {
        Report {
            registry,
            frontends: plan.frontends.iter().map(|f| f.name.clone()).collect(),
            backends: plan
                .backends
                .iter()
                .map(|backend| {
                    let servers = backend.servers.iter().map(|s| s.member.name.clone());
                    (backend.name.clone(), servers.collect())
                })
                .collect(),
        }
    }

    /// What HAProxy says of each proxy that starts.
    pub(super) fn started(&self) -> Vec<(Audience, String)> {
        self.proxies()
            .map(|(audience, name)| (audience, format!("Proxy {name} started.")))
            .collect()
    }

    /// What HAProxy says of each proxy that ends.
    pub(super) fn stopped(&self) -> Vec<(Audience, String)> {
        let shortage = self.shortage().map(|line| (Audience::Global, line));
        let proxies = self.proxies().map(|(audience, name)| {
            let front = self.registry.frontend(name);
            let back = self.registry.backend(name);
            let line = format!(
                "Proxy {name} stopped (cumulated conns: FE: {}, BE: {}).",
                front.map_or(0, |state| state.total.load(Relaxed)),
                back.map_or(0, |runtime| runtime.state.total.load(Relaxed)),
            );
            (audience, line)
        });
        shortage.into_iter().chain(proxies).collect()
    }

    /// That descriptors or memory ran out, if they did: clients waited meanwhile.
    fn shortage(&self) -> Option<String> {
        let times = self.registry.process().starved.load(Relaxed);
        (times > 0).then(|| {
            format!("descriptors or memory ran out {times} times: new connections had to wait")
        })
    }

    /// Every proxy once: the two halves of a `listen` are one.
    fn proxies(&self) -> impl Iterator<Item = (Audience, &String)> {
        let backends = self.backends.iter().map(|(name, _)| name);
        let backends = backends.filter(|name| !self.frontends.contains(name));
        let frontends = self.frontends.iter();
        frontends
            .map(|name| (Audience::Frontend(name.clone()), name))
            .chain(backends.map(|name| (Audience::Backend(name.clone()), name)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.registry.process();
        write!(
            f,
            "{} connections of {}",
            process.connections.load(Relaxed),
            process.maxconn.load(Relaxed)
        )?;
        if let Some(line) = self.shortage() {
            write!(f, "\n  {line}")?;
        }
        for name in &self.frontends {
            if let Some(state) = self.registry.frontend(name) {
                let (now, total) = (state.connections.load(Relaxed), state.total.load(Relaxed));
                write!(f, "\n  frontend {name}: {now} now, {total} in all")?;
            }
        }
        for (name, servers) in &self.backends {
            let Some(backend) = self.registry.backend(name) else {
                continue;
            };
            for server in servers {
                let Some(slot) = backend.slots.get(server) else {
                    continue;
                };
                let state = &backend.servers[server];
                write!(
                    f,
                    "\n  server {name}/{server}: {}, {} now, {} in all, {} connects failed",
                    match backend.group.is_usable(*slot) {
                        true => "usable",
                        false => "not usable",
                    },
                    backend.group.active_connections(*slot),
                    state.total.load(Relaxed),
                    state.connect_errors.load(Relaxed),
                )?;
            }
        }
        Ok(())
    }
}
