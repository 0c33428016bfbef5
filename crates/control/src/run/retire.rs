//! Listeners that go are closed without losing a client: in a thread of its own, by the library's steps.
//!
//! Decides:  one retirement at a time in a group of sockets, any number of groups side by side; a socket that
//!           somebody else gave us is emptied and let go of, and neither filtered nor shut down; workers serve
//!           what leaves until it is closed.
//! Source:   docs/retiring.md has the steps.
//! Not here: the steps themselves (the listener crate's retire.rs), accepting (the workers), which listeners go
//!           (reload/prepare.rs, serve.rs).
//!
//! It is a thread because a step sleeps 10 to 30 ms: neither a worker's nor the control thread's.

mod job;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use portcullis_listener::ListenerSpec;
use portcullis_listener::steer;
use portcullis_proxy::log::Level;
use portcullis_proxy::worker::thread::Remote;

use super::groups::{Group, Groups};
use super::held::{Held, HeldSocket};
use job::{Job, Turn};

/// Without anything to do it looks again after this.
const IDLE: Duration = Duration::from_secs(3600);

/// Some sockets of one group that are to be closed.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    group: Group,
    leaving: Vec<HeldSocket>,
    /// The others of ours in the group.
    staying: Vec<HeldSocket>,
}

impl Leaving {
    /// Those of our own that leave an address which others of ours serve.
    pub(super) fn among_others(&self) -> impl Iterator<Item = &HeldSocket> {
        let stays = !self.staying.is_empty();
        let leaving = self.leaving.iter();
        leaving.filter(move |socket| stays && socket.is_ours())
    }
}

/// What came of a batch: listeners that were to be retired at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Sockets that are closed.
    pub(super) closed: usize,
    /// Half-open connections that were cut with them, at most.
    pub(super) cut: u32,
    /// Sockets of which that is not known.
    pub(super) unknown: usize,
    /// Addresses that others go on to serve, and whose new connections could not be steered to them.
    pub(super) filtered: usize,
    /// Sockets that were kept: the address and why.
    pub(super) kept: Vec<String>,
    /// How long it took.
    pub(super) took: Duration,
}

impl Summary {
    /// How much an operator wants to hear of it.
    pub(super) fn level(&self) -> Level {
        match self.cut > 0 || self.unknown > 0 || !self.kept.is_empty() {
            true => Level::Warning,
            false => Level::Notice,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = self.took.as_millis();
        write!(f, "{} listening sockets retired in {took} ms", self.closed)?;
        if self.cut > 0 {
            write!(f, ", {} handshakes at most were cut", self.cut)?;
        }
        if self.unknown > 0 {
            write!(
                f,
                ", of {} it is not known whether handshakes were cut",
                self.unknown
            )?;
        }
        if self.filtered > 0 {
            let text = "by a filter: who came in the meantime may have waited a second";
            write!(f, ", at {} addresses {text}", self.filtered)?;
        }
        Ok(())
    }
}

/// Called once for each batch, in the retiring thread: it must not block.
pub(super) type Told = Box<dyn FnOnce(Summary) + Send>;

/// The handle of the thread; it ends with it.
#[derive(Debug, Clone)]
pub(super) struct Retirer {
    inbox: Sender<Message>,
    groups: Groups,
    /// Retirements under way of sockets whose address is served further.
    shards: Arc<AtomicUsize>,
}

enum Message {
    Retire {
        batch: Vec<Leaving>,
        workers: Vec<Remote>,
        told: Told,
    },
    Emptied {
        job: u64,
        member: u32,
    },
}

/// What leaves, by groups. `staying` is what goes on to be served.
pub(super) fn leaving<'a>(
    gone: impl IntoIterator<Item = &'a Held>,
    staying: impl IntoIterator<Item = &'a Held>,
) -> Vec<Leaving> {
    let mut found: Vec<Leaving> = Vec::new();
    let mut places: HashMap<Group, usize> = HashMap::new();
    for (spec, socket) in sockets(gone) {
        let group = Group::of(spec, socket);
        let at = *places.entry(group.clone()).or_insert_with(|| {
            found.push(Leaving {
                group,
                leaving: Vec::new(),
                staying: Vec::new(),
            });
            found.len() - 1
        });
        found[at].leaving.push(socket.clone());
    }
    if found.is_empty() {
        return found;
    }
    for (spec, socket) in sockets(staying) {
        if let Some(&at) = places.get(&Group::of(spec, socket)) {
            found[at].staying.push(socket.clone());
        }
    }
    found
}

fn sockets<'a>(
    held: impl IntoIterator<Item = &'a Held>,
) -> impl Iterator<Item = (&'a ListenerSpec, &'a HeldSocket)> {
    let held = held.into_iter();
    held.flat_map(|held| held.sockets.iter().map(move |socket| (&held.spec, socket)))
}

impl Retirer {
    /// Starts the thread.
    pub(super) fn start(groups: Groups) -> io::Result<Retirer> {
        let (sender, receiver) = channel();
        let thread = Thread {
            inbox: receiver,
            own: sender.clone(),
            groups: groups.clone(),
            jobs: BTreeMap::new(),
            waiting: VecDeque::new(),
            batches: BTreeMap::new(),
            last: 0,
        };
        std::thread::Builder::new()
            .name("retire".to_owned())
            .spawn(move || thread.run())?;
        Ok(Retirer {
            inbox: sender,
            groups,
            shards: Arc::default(),
        })
    }

    /// The orders of the groups.
    pub(super) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Do some sockets leave an address that others serve? Then a program keeps connections from them, which a
    /// hand-over would take off.
    pub(super) fn steers(&self) -> bool {
        self.shards.load(Ordering::Acquire) > 0
    }

    /// Retires these: workers leave them from now on, and are to be given what they have besides afterwards.
    pub(super) fn retire(&self, batch: Vec<Leaving>, workers: Vec<Remote>, told: Told) {
        let steering = usize::from(batch.iter().any(|leaving| !leaving.staying.is_empty()));
        self.shards.fetch_add(steering, Ordering::AcqRel);
        let shards = Arc::clone(&self.shards);
        let told = Box::new(move |summary| {
            shards.fetch_sub(steering, Ordering::AcqRel);
            told(summary);
        });
        for leaving in &batch {
            self.groups.retiring(&leaving.group);
        }
        for socket in batch.iter().flat_map(|leaving| &leaving.leaving) {
            for worker in &workers {
                worker.leave(&socket.fd);
            }
        }
        // The thread ends with the process alone.
        let _ = self.inbox.send(Message::Retire {
            batch,
            workers,
            told,
        });
    }
}

struct Thread {
    inbox: Receiver<Message>,
    own: Sender<Message>,
    groups: Groups,
    jobs: BTreeMap<u64, Job>,
    /// Their group has a retirement under way.
    waiting: VecDeque<(u64, Leaving, Arc<[Remote]>)>,
    batches: BTreeMap<u64, Batch>,
    /// The last number that was given to a batch or a job.
    last: u64,
}

struct Batch {
    began: Instant,
    left: usize,
    summary: Summary,
    told: Told,
}

impl Thread {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let next = self.jobs.values().filter_map(Job::wakes_at).min();
            let wait = next.map_or(IDLE, |at| at.saturating_duration_since(now));
            match self.inbox.recv_timeout(wait) {
                Ok(message) => self.hear(message),
                Err(RecvTimeoutError::Timeout) => {}
                // We hold a sender.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.hear(message);
            }
            self.work();
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Emptied { job, member } => {
                if let Some(job) = self.jobs.get_mut(&job) {
                    job.emptied(member, Instant::now());
                }
            }
            Message::Retire {
                batch,
                workers,
                told,
            } => {
                let workers: Arc<[Remote]> = workers.into();
                let number = self.number();
                self.batches.insert(
                    number,
                    Batch {
                        began: Instant::now(),
                        left: batch.len(),
                        summary: Summary::default(),
                        told,
                    },
                );
                for leaving in batch {
                    self.waiting
                        .push_back((number, leaving, Arc::clone(&workers)));
                }
                self.end_batch(number);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Goes on with all that can go on; packets on their way are waited for once for all.
    fn work(&mut self) {
        loop {
            // One time for all: what one of them reads of the tables is new enough for the others.
            let now = Instant::now();
            self.begin(now);
            let numbers: Vec<u64> = self.jobs.keys().copied().collect();
            let mut settling = Vec::new();
            for number in numbers {
                let Some(job) = self.jobs.get_mut(&number) else {
                    continue;
                };
                match job.go_on(now, &self.groups) {
                    Turn::Wait => {}
                    Turn::Settle => settling.push(number),
                    Turn::Over(summary) => self.over(number, summary),
                }
            }
            if settling.is_empty() && !self.can_begin() {
                return;
            }
            if settling.is_empty() {
                continue;
            }
            let settled = steer::settle().is_ok();
            let now = Instant::now();
            for number in settling {
                if let Some(job) = self.jobs.get_mut(&number) {
                    job.settled(settled, now);
                }
            }
        }
    }

    /// Is there one whose group has no retirement under way?
    fn can_begin(&self) -> bool {
        let busy: HashSet<&Group> = self.jobs.values().map(Job::group).collect();
        let mut waiting = self.waiting.iter();
        waiting.any(|(_, leaving, _)| !busy.contains(&leaving.group))
    }

    fn begin(&mut self, now: Instant) {
        let groups = self.jobs.values().map(|job| job.group().clone());
        let mut busy: HashSet<Group> = groups.collect();
        for _ in 0..self.waiting.len() {
            let Some((batch, leaving, workers)) = self.waiting.pop_front() else {
                return;
            };
            if !busy.insert(leaving.group.clone()) {
                self.waiting.push_back((batch, leaving, workers));
                continue;
            }
            let looker = self.groups.hold().looker(leaving.group.namespace());
            let number = self.number();
            let own = self.own.clone();
            let ask = Arc::new(move |member| {
                let _ = own.send(Message::Emptied {
                    job: number,
                    member,
                });
            });
            let job = Job::new(batch, leaving, workers, looker, ask, &self.groups, now);
            self.jobs.insert(number, job);
        }
    }

    fn over(&mut self, number: u64, summary: Summary) {
        let Some(job) = self.jobs.remove(&number) else {
            return;
        };
        self.groups.retired(job.group());
        if let Some(batch) = self.batches.get_mut(&job.batch()) {
            batch.left -= 1;
            batch.summary.closed += summary.closed;
            batch.summary.cut += summary.cut;
            batch.summary.unknown += summary.unknown;
            batch.summary.filtered += summary.filtered;
            batch.summary.kept.extend(summary.kept);
        }
        self.end_batch(job.batch());
    }

    fn end_batch(&mut self, number: u64) {
        if self.batches.get(&number).is_none_or(|batch| batch.left > 0) {
            return;
        }
        if let Some(mut batch) = self.batches.remove(&number) {
            batch.summary.took = batch.began.elapsed();
            (batch.told)(batch.summary);
        }
    }
}

#[cfg(test)]
mod tests;
