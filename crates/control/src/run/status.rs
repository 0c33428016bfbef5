//! How things stand, in a few lines: what QUIT shows.
//!
//! Decides:  which counters are shown.
//! Not here: the counters themselves (proxy::state), statistics for machines.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use crate::logs::Audience;
use crate::{Plan, Registry};

/// The counters of the names of a plan.
pub(super) struct Report<'a> {
    pub(super) plan: &'a Plan,
    pub(super) registry: &'a Registry,
}

/// Every proxy once: the two halves of a `listen` are one.
pub(super) fn proxies(plan: &Plan) -> Vec<(Audience, &str)> {
    let frontends = plan.frontends.iter().map(|it| it.name.as_str());
    let known: BTreeSet<&str> = frontends.clone().collect();
    let backends = plan.backends.iter().map(|it| it.name.as_str());
    let backends = backends.filter(|name| !known.contains(name));
    frontends
        .map(|name| (Audience::Frontend(name.to_owned()), name))
        .chain(backends.map(|name| (Audience::Backend(name.to_owned()), name)))
        .collect()
}

/// What HAProxy says of a proxy that starts.
pub(super) fn started(name: &str) -> String {
    format!("Proxy {name} started.")
}

/// What HAProxy says of a proxy that ends.
pub(super) fn stopped(name: &str, registry: &Registry) -> String {
    let front = registry.frontend(name);
    let back = registry.backend(name);
    format!(
        "Proxy {name} stopped (cumulated conns: FE: {}, BE: {}).",
        front.map_or(0, |state| state.total.load(Relaxed)),
        back.map_or(0, |runtime| runtime.state.total.load(Relaxed)),
    )
}

impl Report<'_> {
    /// That descriptors or memory ran out, if they did: clients waited meanwhile.
    pub(super) fn shortage(&self) -> Option<String> {
        let times = self.registry.process().starved.load(Relaxed);
        (times > 0).then(|| {
            format!("descriptors or memory ran out {times} times: new connections had to wait")
        })
    }
}

impl fmt::Display for Report<'_> {
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
        for frontend in &self.plan.frontends {
            let name = &frontend.name;
            if let Some(state) = self.registry.frontend(name) {
                let (now, total) = (state.connections.load(Relaxed), state.total.load(Relaxed));
                write!(f, "\n  frontend {name}: {now} now, {total} in all")?;
            }
        }
        for plan in &self.plan.backends {
            let name = &plan.name;
            let Some(backend) = self.registry.backend(name) else {
                continue;
            };
            for server in &plan.servers {
                let server = &server.member.name;
                let (Some(slot), Some(state)) =
                    (backend.slots.get(server), backend.servers.get(server))
                else {
                    continue;
                };
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
