//! The workers as one: commands go to all, and their news come back in one place.
//!
//! Decides:  that drained means all are drained, and that one worker's fault is the process's; that a worker
//!           which is wanted no more lives until its last session and listener are gone.
//! Not here: what a worker does (the proxy crate), which sockets each has (share.rs).

use std::collections::BTreeSet;
use std::io;
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
#[derive(Debug, Default, Clone)]
pub(super) struct Ears {
    /// Records of sessions.
    pub(super) log: Option<LogSink>,
    /// Sessions live.
    pub(super) observer: Option<ObserverSink>,
}

/// Starts workers, in any thread.
#[derive(Clone)]
pub(super) struct Hiring {
    ears: Ears,
    events: EventSink,
    /// Numbers that workers have.
    taken: BTreeSet<u32>,
    /// How many there are that stay.
    present: usize,
}

impl Hiring {
    /// Starts as many as are missing of `wanted`, each on the processor of its place in `cpus` where there is
    /// one. They idle until something is installed.
    pub(super) fn hire(&self, wanted: usize, cpus: &[u32]) -> io::Result<NewWorkers> {
        let mut new = NewWorkers(Vec::new());
        let mut free = (0..).filter(|number| !self.taken.contains(number));
        for place in self.present..wanted {
            let config = WorkerConfig {
                worker: free.next().unwrap_or(u32::MAX),
                cpu: cpus.get(place).map(|&cpu| cpu as usize),
                log: self.ears.log.clone(),
                observer: self.ears.observer.clone(),
                events: Arc::clone(&self.events),
            };
            new.0.push(thread::spawn(config)?);
        }
        Ok(new)
    }
}

/// Workers that have nothing to do yet; they end where nobody takes them.
#[derive(Debug, Default)]
pub(super) struct NewWorkers(Vec<WorkerHandle>);

impl Drop for NewWorkers {
    fn drop(&mut self) {
        for handle in self.0.drain(..) {
            handle.stop();
            // It has nothing to end.
            let _ = handle.join();
        }
    }
}

/// All workers of the process.
pub(super) struct Workers {
    handles: Vec<WorkerHandle>,
    /// Those that are wanted no more, until their last session ended.
    leaving: Vec<WorkerHandle>,
    /// Those that come are to leave their listeners alone too.
    paused: bool,
    ears: Ears,
    sink: EventSink,
    events: UnboundedReceiver<WorkerEvent>,
    drained: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    snapshot: Arc<Snapshot>,
    /// Those that have the snapshot, and the longest that one stood still for it.
    installed: (BTreeSet<u32>, Duration),
}

impl Workers {
    /// Starts one worker for each element of `sockets`, on the processor of the same place in
    /// `cpus` where there is one. They accept at once; `listen` is called when they are all there.
    pub(super) fn start(
        snapshot: &Arc<Snapshot>,
        sockets: Vec<Vec<WorkerListener>>,
        cpus: &[u32],
        ears: Ears,
        listen: impl FnOnce() -> Result<(), RunError>,
    ) -> Result<Workers, RunError> {
        let (sender, events) = unbounded_channel();
        let sink: EventSink = Arc::new(move |event| {
            // The control thread that is gone needs no news.
            let _ = sender.send(event);
        });
        let mut workers = Workers {
            handles: Vec::new(),
            leaving: Vec::new(),
            paused: false,
            ears,
            sink,
            events,
            drained: BTreeSet::new(),
            gone: BTreeSet::new(),
            snapshot: Arc::clone(snapshot),
            installed: Default::default(),
        };
        // Only when all are there: none takes a connection in a process that cannot start.
        let new = workers.hiring().hire(sockets.len(), cpus);
        let new = new.map_err(RunError::host("start a worker thread"))?;
        listen()?;
        workers.install(snapshot, sockets, new);
        Ok(workers)
    }

    /// What is needed to start more of them.
    pub(super) fn hiring(&self) -> Hiring {
        Hiring {
            ears: self.ears.clone(),
            events: Arc::clone(&self.sink),
            taken: self.all().map(WorkerHandle::worker).collect(),
            present: self.handles.len(),
        }
    }

    /// Those that stay and those that leave.
    fn all(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.handles.iter().chain(&self.leaving)
    }

    /// What others may tell the workers.
    pub(super) fn remotes(&self) -> Vec<Remote> {
        self.all().map(WorkerHandle::remote).collect()
    }

    /// Gives all of them a snapshot and its listeners; the answer is the one that they had. These are new; those
    /// for whom `sockets` has nothing leave, when their sessions have come to their end.
    /// [`News::Installed`] tells when all that stay have it.
    pub(super) fn install(
        &mut self,
        snapshot: &Arc<Snapshot>,
        sockets: Vec<Vec<WorkerListener>>,
        mut new: NewWorkers,
    ) -> Arc<Snapshot> {
        self.installed = Default::default();
        if self.paused {
            new.0.iter().for_each(WorkerHandle::pause);
        }
        self.handles.append(&mut new.0);
        for handle in &self.handles {
            // A number that somebody had before.
            self.drained.remove(&handle.worker());
        }
        let stay = sockets.len().min(self.handles.len());
        for handle in self.handles.split_off(stay) {
            handle.install(Arc::clone(snapshot), Vec::new());
            handle.remote().wind_down(Sessions::GoOn);
            self.leaving.push(handle);
        }
        for (handle, mine) in self.handles.iter().zip(sockets) {
            handle.install(Arc::clone(snapshot), mine);
        }
        replace(&mut self.snapshot, Arc::clone(snapshot))
    }

    /// Ends the sessions of a server.
    pub(super) fn end_sessions_of(&self, server: &Arc<ServerState>, cause: EndCause) {
        for handle in self.all() {
            handle.remote().end_sessions_of(server, cause);
        }
    }

    /// Has every worker's loop come by since the last call? Asks all of them for the next one.
    pub(super) fn are_alive(&self) -> bool {
        let alive = self.all().all(WorkerHandle::has_obeyed);
        for handle in self.all() {
            if handle.has_obeyed() {
                handle.ping();
            }
        }
        alive
    }

    /// Tells all workers.
    pub(super) fn tell(&mut self, command: Command) {
        match command {
            Command::Pause => self.paused = true,
            Command::Resume => self.paused = false,
            _ => {}
        }
        for handle in self.all() {
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
            // We hold a sender.
            let Some(event) = self.events.recv().await else {
                return News::Drained;
            };
            match event {
                WorkerEvent::Installed {
                    worker,
                    generation,
                    took,
                } => {
                    let stays = self.handles.iter().any(|it| it.worker() == worker);
                    if generation != self.snapshot.generation || !stays {
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
                    let left = self.leaving.iter().find(|it| it.worker() == worker);
                    if let Some(left) = left {
                        left.stop();
                    }
                }
                WorkerEvent::Stopped { worker } => self.left(worker),
                WorkerEvent::Failed { worker, message } => {
                    self.gone.insert(worker);
                    return News::Failed(format!("worker {worker}: {message}"));
                }
            }
            let ended = |it: &WorkerHandle| {
                self.drained.contains(&it.worker()) || self.gone.contains(&it.worker())
            };
            if self.all().all(ended) {
                return News::Drained;
            }
        }
    }

    /// A thread ended as told. One that left is forgotten, so that its number is free.
    fn left(&mut self, worker: u32) {
        let leaving = self.leaving.iter();
        match leaving.enumerate().find(|(_, it)| it.worker() == worker) {
            Some((at, _)) => {
                // Its last act was to tell.
                let _ = self.leaving.swap_remove(at).join();
                self.drained.remove(&worker);
            }
            // One that nobody took has no number among ours.
            None if self.handles.iter().any(|it| it.worker() == worker) => {
                self.gone.insert(worker);
            }
            None => {}
        }
    }

    /// Stops the threads, and waits for them; not for ever.
    pub(super) async fn stop(mut self) -> Result<(), RunError> {
        for handle in self.all() {
            handle.stop();
        }
        let all = self.all().count();
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
            let silent = all.saturating_sub(self.gone.len());
            return Err(RunError::Worker(format!("{silent} did not end when told")));
        }
        for handle in self.handles.into_iter().chain(self.leaving) {
            // How it ended was in its event.
            let _ = handle.join();
        }
        Ok(())
    }
}
