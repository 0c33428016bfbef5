//! The listeners of the running plan, and who polls their sockets.
//!
//! Decides:  how the sockets are dealt to the workers.
//! Not here: opening them (open.rs), which of them stay at a reload (reload/fate.rs).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use portcullis_listener::{Listener, ListenerFacts, ListenerSpec};
use portcullis_proxy::snapshot::WorkerListener;
use portcullis_proxy::state::ListenerState;

use super::open::Placed;
use super::share::{Socket, share};
use crate::Plan;

/// A listener that is open.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// As its sockets have it.
    pub(super) spec: ListenerSpec,
    /// Its sockets: several where it is sharded, or where systemd passed several.
    pub(super) sockets: Vec<HeldSocket>,
}

/// One of its sockets. Workers hold it too; whoever lets go last closes it.
#[derive(Debug, Clone)]
pub(super) struct HeldSocket {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) facts: ListenerFacts,
}

impl Held {
    /// No socket yet.
    pub(super) fn nothing(spec: &ListenerSpec) -> Held {
        Held {
            spec: spec.clone(),
            sockets: Vec::new(),
        }
    }

    /// Removes the file of a Unix socket, if it is still this one's.
    pub(super) fn remove_path(&self) {
        for socket in &self.sockets {
            if socket.facts.socket_file.is_none() {
                continue;
            }
            let copy = socket.fd.try_clone();
            let listener = copy.and_then(|fd| Listener::from_parts(fd, socket.facts.clone()));
            // In a chroot, and for a user who may not, it stays: connecting to it is refused.
            let _ = listener.and_then(|listener| listener.remove_path());
        }
    }
}

/// Gives each listener that was opened to the place of `held` that comes with it.
pub(super) fn put(held: &mut [Held], opened: Vec<Placed>) {
    for (index, listener) in opened {
        if let Some(held) = held.get_mut(index) {
            let (fd, facts) = listener.into_parts();
            let fd = Arc::new(fd);
            held.sockets.push(HeldSocket { fd, facts });
        }
    }
}

/// The listening sockets of each worker. `held` is in the order of [`Plan::to_open`].
pub(super) fn deal(
    held: &[Held],
    states: &[Arc<ListenerState>],
    plan: &Plan,
) -> Vec<Vec<WorkerListener>> {
    // The runtime sockets come after the listeners, and no worker has them.
    let all: Vec<(usize, &HeldSocket)> = held
        .iter()
        .take(plan.listeners.len())
        .enumerate()
        .flat_map(|(index, held)| held.sockets.iter().map(move |socket| (index, socket)))
        .collect();
    let sockets: Vec<Socket> = all.iter().map(|(_, it)| socket(&it.facts)).collect();
    share(&sockets, plan.workers)
        .into_iter()
        .map(|mine| {
            mine.into_iter()
                .map(|(at, sharing)| {
                    let (index, socket) = all[at];
                    WorkerListener {
                        socket: Arc::clone(&socket.fd),
                        sharing,
                        frontend: plan.listeners[index].frontend,
                        state: Arc::clone(&states[index]),
                    }
                })
                .collect()
        })
        .collect()
}

/// Only sockets that we opened as one SO_REUSEPORT group share one queue of connections; those
/// that were inherited may be anything, so each is polled by all.
fn socket(facts: &ListenerFacts) -> Socket {
    match facts.inherited {
        Some(_) => Socket {
            shard: 0,
            shards: 1,
        },
        None => Socket {
            shard: facts.shard,
            shards: facts.shards,
        },
    }
}
