//! The listeners of the running plan, and who polls their sockets.
//!
//! Decides:  how the sockets are dealt to the workers.
//! Not here: opening them (open.rs), which of them stay at a reload (reload/fate.rs).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use portcullis_listener::{Listener, ListenerFacts, ListenerSpec, listen_now};
use portcullis_proxy::snapshot::WorkerListener;
use portcullis_proxy::state::ListenerState;

use super::groups::Orders;
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
    /// Its number in this process, which no other socket ever has.
    pub(super) member: u32,
    /// Another process has it too, and serves it.
    pub(super) given: Arc<AtomicBool>,
}

impl HeldSocket {
    /// One that was opened just now, or came from somebody else.
    pub(super) fn new(listener: Listener) -> HeldSocket {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (fd, facts) = listener.into_parts();
        HeldSocket {
            fd: Arc::new(fd),
            facts,
            member: NEXT.fetch_add(1, Ordering::Relaxed),
            given: Arc::default(),
        }
    }

    /// It listens from now on, and is the last of its group.
    pub(super) fn begin(&mut self, spec: &ListenerSpec, orders: &mut Orders) -> io::Result<()> {
        listen_now(&*self.fd, spec)?;
        self.facts.listens = true;
        orders.joined(spec, std::slice::from_ref(self));
        Ok(())
    }

    /// Does another process have it too, which serves it?
    pub(super) fn is_given(&self) -> bool {
        self.given.load(Ordering::SeqCst)
    }

    /// Did we open it, and is it ours alone? Else somebody else may hold it too, and it is not to be shut down.
    pub(super) fn is_ours(&self) -> bool {
        self.facts.inherited.is_none() && !self.is_given()
    }
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
            if socket.is_given() || socket.facts.socket_file.is_none() {
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
pub(super) fn put(held: &mut [Held], opened: Vec<Placed>, orders: &mut Orders) {
    for (index, listener) in opened {
        if let Some(held) = held.get_mut(index) {
            let socket = HeldSocket::new(listener);
            if socket.facts.listens {
                orders.joined(&held.spec, std::slice::from_ref(&socket));
            }
            held.sockets.push(socket);
        }
    }
}

/// Those that do not listen yet do from now on, each the last of its group; else the place of one that is refused.
pub(super) fn begin(held: &mut [Held], orders: &mut Orders) -> Result<(), (usize, io::Error)> {
    let waits = |held: &&Held| held.sockets.iter().any(|socket| !socket.facts.listens);
    let waiting: Vec<ListenerSpec> = held
        .iter()
        .filter(waits)
        .map(|it| it.spec.clone())
        .collect();
    if waiting.is_empty() {
        return Ok(());
    }
    orders.begin(&waiting);
    for (index, held) in held.iter_mut().enumerate() {
        for socket in held.sockets.iter_mut().filter(|it| !it.facts.listens) {
            let begun = socket.begin(&held.spec, orders);
            begun.map_err(|error| (index, error))?;
        }
    }
    orders.opened();
    Ok(())
}

/// The listening sockets of each worker. `held` is in the order of [`Plan::to_open`].
pub(super) fn deal(
    held: &[Held],
    states: &[Arc<ListenerState>],
    plan: &Plan,
) -> Vec<Vec<WorkerListener>> {
    // The runtime sockets come after the listeners, and no worker has them.
    let all: Vec<(usize, Socket, &HeldSocket)> = held
        .iter()
        .take(plan.listeners.len())
        .enumerate()
        .flat_map(|(index, held)| {
            let sockets = held.sockets.iter().enumerate();
            sockets.map(move |(at, socket)| (index, shard(held, at), socket))
        })
        .collect();
    let sockets: Vec<Socket> = all.iter().map(|(_, shard, _)| *shard).collect();
    share(&sockets, plan.workers)
        .into_iter()
        .map(|mine| {
            mine.into_iter()
                .map(|(at, sharing)| {
                    let (index, _, socket) = all[at];
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
fn shard(held: &Held, at: usize) -> Socket {
    match held.sockets[at].facts.inherited {
        Some(_) => Socket {
            shard: 0,
            shards: 1,
        },
        // As many as there are now: some may have come or gone with a reload.
        None => Socket {
            shard: u16::try_from(at).unwrap_or(u16::MAX),
            shards: u16::try_from(held.sockets.len()).unwrap_or(u16::MAX),
        },
    }
}
