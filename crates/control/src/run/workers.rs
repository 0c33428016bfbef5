//! The workers as one: commands go to all, and their news come back in one place.
//!
//! Decides:  that drained means all are drained, and that one worker's fault is the process's.
//! Not here: what a worker does (the proxy crate), which sockets each has (share.rs).

use std::collections::BTreeSet;
use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use portcullis_proxy::record::{EndCause, LogSink, ObserverSink};
use portcullis_proxy::snapshot::{Snapshot, WorkerListener};
use portcullis_proxy::state::ServerState;
use portcullis_proxy::worker::leave::Sessions;
use portcullis_proxy::worker::thread::{
    self, EventSink, Remote, WorkerConfig, WorkerEvent, WorkerHandle,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::RunError;

/// A worker that was told to stop is waited for so long.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What all workers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Stop polling the listeners; keep them and their queues.
    Pause,
    /// Poll them again.
    Resume,
    /// Close the listeners at once.
    StopAccepting,
    /// End with the last listener and session; who retires the listeners lets go of them.
    WindDown,
    /// End all sessions.
    EndSessions,
}

/// What the workers report.
#[derive(Debug)]
pub(super) enum News {
    /// All run by the snapshot that they were given last; the slowest stood still for so long.
    Installed(Duration),
    /// No worker has a session or a listener left.
    Drained,
    /// A worker ended by a fault.
    Failed(String),
}

/// Where workers report to, besides their commands' end.
#[derive(Debug, Default)]
pub(super) struct Ears {
    /// Records of sessions.
    pub(super) log: Option<LogSink>,
    /// Sessions live.
    pub(super) observer: Option<ObserverSink>,
}

/// All workers of the process.
pub(super) struct Workers {
    handles: Vec<WorkerHandle>,
    events: UnboundedReceiver<WorkerEvent>,
    drained: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    snapshot: Arc<Snapshot>,
    /// Those that have the snapshot, and the longest that one stood still for it.
    installed: (BTreeSet<u32>, Duration),
}

impl Workers {
    /// Starts one worker for each element of `sockets`, on the processor of the same place in
    /// `cpus` where there is one. They accept at once.
    pub(super) fn start(
        snapshot: &Arc<Snapshot>,
        sockets: Vec<Vec<WorkerListener>>,
        cpus: &[u32],
        ears: Ears,
    ) -> Result<Workers, RunError> {
        let (sender, events) = unbounded_channel();
        let sink: EventSink = Arc::new(move |event| {
            // The control thread that is gone needs no news.
            let _ = sender.send(event);
        });
        let mut handles = Vec::with_capacity(sockets.len());
        for (worker, _) in sockets.iter().enumerate() {
            let config = WorkerConfig {
                worker: worker as u32,
                cpu: cpus.get(worker).map(|&cpu| cpu as usize),
                log: ears.log.clone(),
                observer: ears.observer.clone(),
                events: Arc::clone(&sink),
            };
            handles.push(thread::spawn(config).map_err(RunError::host("start a worker thread"))?);
        }
        // Only when all are there: none takes a connection in a process that cannot start.
        for (handle, mine) in handles.iter().zip(sockets) {
            handle.install(Arc::clone(snapshot), mine);
        }
        Ok(Workers {
            handles,
            events,
            drained: BTreeSet::new(),
            gone: BTreeSet::new(),
            snapshot: Arc::clone(snapshot),
            installed: Default::default(),
        })
    }

    /// What the checks may tell the workers.
    pub(super) fn remotes(&self) -> Vec<Remote> {
        self.handles.iter().map(WorkerHandle::remote).collect()
    }

    /// Gives all of them a snapshot and its listeners; the answer is the one that they had.
    /// [`News::Installed`] tells when all have it.
    pub(super) fn install(
        &mut self,
        snapshot: &Arc<Snapshot>,
        sockets: Vec<Vec<WorkerListener>>,
    ) -> Arc<Snapshot> {
        self.installed = Default::default();
        for (handle, mine) in self.handles.iter().zip(sockets) {
            handle.install(Arc::clone(snapshot), mine);
        }
        replace(&mut self.snapshot, Arc::clone(snapshot))
    }

    /// Ends the sessions of a server.
    pub(super) fn end_sessions_of(&self, server: &Arc<ServerState>, cause: EndCause) {
        for handle in &self.handles {
            handle.remote().end_sessions_of(server, cause);
        }
    }

    /// Has every worker's loop come by since the last call? Asks all of them for the next one.
    pub(super) fn are_alive(&self) -> bool {
        let alive = self.handles.iter().all(WorkerHandle::has_obeyed);
        for handle in &self.handles {
            if handle.has_obeyed() {
                handle.ping();
            }
        }
        alive
    }

    /// Tells all workers.
    pub(super) fn tell(&self, command: Command) {
        for handle in &self.handles {
            match command {
                Command::Pause => handle.pause(),
                Command::Resume => handle.resume(),
                Command::StopAccepting => handle.stop_accepting(),
                Command::WindDown => handle.remote().wind_down(Sessions::Drain),
                Command::EndSessions => handle.end_sessions(),
            }
        }
    }

    /// The next thing that concerns all of them.
    pub(super) async fn news(&mut self) -> News {
        loop {
            // The sender lives in every worker: without one left there is nothing to wait for.
            let Some(event) = self.events.recv().await else {
                return News::Drained;
            };
            match event {
                WorkerEvent::Installed {
                    worker,
                    generation,
                    took,
                } => {
                    if generation != self.snapshot.generation {
                        continue;
                    }
                    let (have_it, longest) = &mut self.installed;
                    have_it.insert(worker);
                    *longest = (*longest).max(took);
                    match have_it.len() == self.handles.len() {
                        true => return News::Installed(*longest),
                        false => continue,
                    }
                }
                WorkerEvent::Drained { worker } => {
                    self.drained.insert(worker);
                }
                WorkerEvent::Stopped { worker } => {
                    self.gone.insert(worker);
                }
                WorkerEvent::Failed { worker, message } => {
                    self.gone.insert(worker);
                    return News::Failed(format!("worker {worker}: {message}"));
                }
            }
            if self.drained.union(&self.gone).count() == self.handles.len() {
                return News::Drained;
            }
        }
    }

    /// Stops the threads, and waits for them; not for ever.
    pub(super) async fn stop(mut self) -> Result<(), RunError> {
        for handle in &self.handles {
            handle.stop();
        }
        let all = self.handles.len();
        let ended = async {
            while self.gone.len() < all {
                match self.events.recv().await {
                    Some(WorkerEvent::Stopped { worker } | WorkerEvent::Failed { worker, .. }) => {
                        self.gone.insert(worker);
                    }
                    Some(WorkerEvent::Drained { .. } | WorkerEvent::Installed { .. }) => {}
                    None => break,
                }
            }
        };
        if tokio::time::timeout(STOP_PATIENCE, ended).await.is_err() {
            let silent = all - self.gone.len();
            return Err(RunError::Worker(format!("{silent} did not end when told")));
        }
        for handle in self.handles {
            // How it ended was in its event.
            let _ = handle.join();
        }
        Ok(())
    }
}
