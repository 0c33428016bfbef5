//! How checked servers stand, for who tells another process.
//!
//! Decides:  that it can be asked from any thread, whatever the checker is doing.
//! Not here: what is told (memory.rs), when (run/upgrade.rs).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use portcullis_proxy::health::{Health, Standing};

use super::warm_up::Warming;
use super::{Checker, Running, locked};
use crate::memory::ServerMemory;

/// When a server is checked next.
#[derive(Debug, Clone, Default)]
pub(super) struct Due(Arc<Mutex<Option<Instant>>>);

impl Due {
    /// Then.
    pub(super) fn at(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Until then, ms; 0: it is being checked.
    fn in_ms(&self) -> u32 {
        let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = at.map(|at| at.saturating_duration_since(Instant::now()));
        left.map_or(0, |left| {
            u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
        })
    }
}

/// How checked servers stand, whenever it is asked: also when the checker is busy with something else.
#[derive(Debug, Clone)]
pub(crate) struct Looker(Vec<Looked>);

#[derive(Debug, Clone)]
struct Looked {
    backend: String,
    server: String,
    health: Arc<Mutex<Health>>,
    warming: Arc<Warming>,
    due: Due,
}

impl Looker {
    /// How they stand now.
    pub(crate) fn look(&self) -> Vec<ServerMemory> {
        let memory = |it: &Looked| {
            let health = locked(&it.health).clone();
            let Standing { count, of, up } = health.standing();
            ServerMemory {
                backend: it.backend.clone(),
                server: it.server.clone(),
                up,
                count,
                of,
                status: health.status().name().to_owned(),
                due_ms: it.due.in_ms(),
                warm_s: it.warming.elapsed_s(),
            }
        };
        self.0.iter().map(memory).collect()
    }
}

impl Checker {
    /// For who wants to tell another process.
    pub(crate) fn looker(&self) -> Looker {
        let looked = |((backend, server), running): (&(String, String), &Running)| Looked {
            backend: backend.clone(),
            server: server.clone(),
            health: Arc::clone(&running.health),
            warming: Arc::clone(&running.warming),
            due: running.due.clone(),
        };
        Looker(self.running.iter().map(looked).collect())
    }
}
