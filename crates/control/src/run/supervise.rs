//! The supervisor: an opener that keeps the listening sockets, and starts another worker where one crashes.
//!
//! Decides:  which end of a worker is a crash, how soon the next one is started, and when there have been too
//!           many; which sockets are kept: those that the worker says it serves, so that no queue is left that
//!           nobody looks at.
//! Source:   HAProxy's master re-executes itself and ends all workers where one crashes, unless
//!           `no-exit-on-failure`; nginx's master starts another worker, without a limit.
//! Not here: signals and the conversation with the worker (listener/opener), its replacement (upgrade.rs).

use std::collections::BTreeSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_listener::adopt::Options;
use portcullis_listener::opener::{ChildEnd, Ended, InProcess, Opener, OpenerError};
use portcullis_listener::pending::inode_of;
use portcullis_listener::{Known, Listener, ListenerSpec, Opened, Pool};

use super::held::Held;
use super::open::Opening;
use super::reload::Serving;
use super::retire::Leaving;
use rustix::net::sockopt::socket_acceptconn;

/// A worker that lived so long was no victim of its start.
const LONG: Duration = Duration::from_secs(10);
/// So many in a row that did not live long, and there is no other.
pub(super) const MOST: u32 = 10;
/// Before the second one in a row; twice as long before each that follows.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LAST_DELAY: Duration = Duration::from_secs(2);
/// The exit code of a supervisor that has given up.
pub(super) const GIVEN_UP: u8 = 6;

/// What the worker says to its opener: the inodes of the sockets that it serves follow.
pub(super) const SERVING: &str = "serving:";

/// The sockets of the worker, in the opener.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Sockets>>);

#[derive(Debug, Default)]
struct Sockets {
    sockets: Vec<(ListenerSpec, Listener)>,
    /// A worker has served.
    served: bool,
    /// The last one serves nothing any more.
    leaving: bool,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker serves these, and nothing else; `None` where the words are not understood.
    pub(super) fn serving(&self, inodes: &str) -> Option<()> {
        let inodes = inodes.split_whitespace().map(str::parse);
        let inodes: BTreeSet<u64> = inodes.collect::<Result<_, _>>().ok()?;
        let mut kept = self.lock();
        kept.served = true;
        kept.leaving = inodes.is_empty();
        let is_served = |socket: &Listener| inode_of(socket).is_ok_and(|it| inodes.contains(&it));
        kept.sockets.retain(|(_, socket)| is_served(socket));
        Some(())
    }

    /// Is there to be another worker?
    pub(super) fn goes_on(&self, ended: Ended) -> bool {
        let kept = self.lock();
        let crashed = ended.end != ChildEnd::Exited(0);
        crashed && !ended.told_to_stop && kept.served && !kept.leaving
    }

    /// The sockets for the next worker.
    pub(super) fn for_the_next(&self) -> Pool {
        let pool = Pool::default();
        for (spec, socket) in std::mem::take(&mut self.lock().sockets) {
            // One that was retired meanwhile would listen again.
            if !socket_acceptconn(&socket).unwrap_or(false) {
                continue;
            }
            let (fd, mut facts) = socket.into_parts();
            // Some may have left since they were opened.
            facts.in_order = false;
            facts.place = None;
            let options = Options::Unknown;
            let known = Known {
                spec,
                facts,
                options,
            };
            // It listens, which is all that could be wrong.
            let _ = pool.give(fd, Some(known));
        }
        pool
    }
}

/// Opens, and keeps what it opened.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) opener: InProcess,
    /// `None`: nothing is kept, since nobody supervises.
    pub(super) kept: Option<Kept>,
}

impl Opener for Keeping {
    fn open(&mut self, specs: &[ListenerSpec]) -> Result<Opened, OpenerError> {
        let opened = self.opener.open(specs)?;
        if let Some(kept) = &self.kept {
            for listener in &opened.listeners {
                let copy = listener.try_clone().map_err(|error| OpenerError::Io {
                    doing: "cannot keep a socket",
                    error,
                })?;
                let spec = specs[listener.spec()].clone();
                kept.lock().sockets.push((spec, copy));
            }
        }
        Ok(opened)
    }

    fn detach(&mut self) -> Result<(), OpenerError> {
        self.opener.detach()
    }
}

/// How often workers crashed, one after the other.
#[derive(Debug, Default)]
pub(super) struct Crashes(u32);

impl Crashes {
    /// One more, after it lived so long: when to start the next, or `None` where it would be of no use.
    pub(super) fn another(&mut self, lived: Duration) -> Option<Duration> {
        if lived >= LONG {
            self.0 = 0;
        }
        self.0 += 1;
        match self.0 {
            1 => Some(Duration::ZERO),
            2..=MOST => Some(LAST_DELAY.min(FIRST_DELAY * 2_u32.pow(self.0 - 2))),
            _ => None,
        }
    }

    /// How many in a row.
    pub(super) fn in_a_row(&self) -> u32 {
        self.0
    }
}

/// In the worker: tells the opener in a thread of its own, one thing after the other, since the opener may be busy.
pub(super) fn teller(opening: &Arc<Mutex<Opening>>) -> std::io::Result<Sender<String>> {
    let (sender, receiver) = channel::<String>();
    let opening = Arc::clone(opening);
    std::thread::Builder::new()
        .name("teller".to_owned())
        .spawn(move || {
            while let Ok(said) = receiver.recv() {
                let mut opening = opening.lock().unwrap_or_else(PoisonError::into_inner);
                if let Opening::There(parent) = &mut *opening {
                    // One that is gone keeps nothing.
                    let _ = parent.ask(&said);
                }
            }
        })?;
    Ok(sender)
}

impl Serving {
    /// Tells the supervisor which sockets are served now, so that it keeps these.
    pub(super) fn tell_opener(&self) {
        if let Some(teller) = &self.teller {
            let _ = teller.send(serving(&self.held, &self.retiring.inodes()));
        }
    }
}

/// Sockets that leave an address which others serve: where the worker dies before they are closed, the next one
/// serves them too.
#[derive(Debug, Clone, Default)]
pub(super) struct Retiring(Arc<Mutex<Vec<u64>>>);

/// Some of them, until it is dropped.
pub(super) struct Batch {
    of: Retiring,
    inodes: Vec<u64>,
}

impl Retiring {
    /// These leave.
    pub(super) fn of(&self, batch: &[Leaving]) -> Batch {
        let sockets = batch.iter().flat_map(Leaving::among_others);
        let inodes: Vec<u64> = sockets.filter_map(|it| inode_of(&*it.fd).ok()).collect();
        self.lock().extend(&inodes);
        let of = self.clone();
        Batch { of, inodes }
    }

    fn inodes(&self) -> Vec<u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let inodes = &self.inodes;
        self.of.lock().retain(|inode| !inodes.contains(inode));
    }
}

/// In words.
pub(super) fn serving(held: &[Held], retiring: &[u64]) -> String {
    let mut said = SERVING.to_owned();
    for socket in held.iter().flat_map(|held| &held.sockets) {
        if let Ok(inode) = inode_of(&*socket.fd) {
            said += &format!(" {inode}");
        }
    }
    for inode in retiring {
        said += &format!(" {inode}");
    }
    said
}

/// How it ended, in words.
pub(super) fn words(end: ChildEnd) -> String {
    match end {
        ChildEnd::Exited(code) => format!("ended with code {code}"),
        ChildEnd::Killed(signal) => format!("was killed by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_replaced_at_once_the_next_ones_later_and_there_is_an_end() {
        let mut crashes = Crashes::default();
        let quick = Duration::from_millis(20);
        let delays: Vec<_> = (0..12).map(|_| crashes.another(quick)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(delays[..4], [ms(0), ms(50), ms(100), ms(200)]);
        assert_eq!(delays[8..], [ms(2_000), ms(2_000), None, None]);
        assert!(delays[..10].is_sorted());
        // One that lived long is the first again.
        assert_eq!(crashes.another(LONG), ms(0));
        assert_eq!(crashes.in_a_row(), 1);
    }

    #[test]
    fn a_worker_is_replaced_where_it_served_and_nobody_told_it_to_stop() {
        let killed = |told_to_stop| Ended {
            end: ChildEnd::Killed(9),
            told_to_stop,
        };
        let kept = Kept::default();
        assert!(!kept.goes_on(killed(false)), "it never served");
        assert_eq!(kept.serving("nonsense"), None);
        kept.serving("1 2").unwrap();
        assert!(kept.goes_on(killed(false)));
        assert!(!kept.goes_on(killed(true)));
        let end = ChildEnd::Exited(0);
        let done = Ended {
            end,
            told_to_stop: false,
        };
        assert!(!kept.goes_on(done));
        kept.serving("").unwrap();
        assert!(!kept.goes_on(killed(false)), "it was leaving");
    }

    #[test]
    fn only_what_is_served_is_kept() {
        let kept = Kept::default();
        let mut keeping = Keeping {
            opener: InProcess::new(),
            kept: Some(kept.clone()),
        };
        let any = ListenerSpec::tcp(([127, 0, 0, 1], 0).into());
        let opened = keeping.open(&[any.clone(), any]).unwrap().listeners;
        let inode = inode_of(&opened[1]).unwrap();
        kept.serving(&format!(" {inode}")).unwrap();
        assert_eq!(kept.for_the_next().len(), 1);
        assert!(kept.for_the_next().is_empty());
    }
}
