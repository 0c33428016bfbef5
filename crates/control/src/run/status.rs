//! How things stand, in a few lines: what QUIT shows.
//!
//! Decides:  which counters are shown.
//! Not here: the counters themselves (proxy::state), statistics for machines.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

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

    /// What HAProxy says of a proxy that ends.
    pub(super) fn stopped(&self) -> Vec<String> {
        let backends = self.backends.iter().map(|(name, _)| name);
        let mut names: Vec<&String> = self.frontends.iter().collect();
        names.extend(backends.filter(|name| !self.frontends.contains(name)));
        names
            .into_iter()
            .map(|name| {
                let front = self.registry.frontend(name);
                let back = self.registry.backend(name);
                format!(
                    "Proxy {name} stopped (cumulated conns: FE: {}, BE: {}).",
                    front.map_or(0, |state| state.total.load(Relaxed)),
                    back.map_or(0, |runtime| runtime.state.total.load(Relaxed)),
                )
            })
            .collect()
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
