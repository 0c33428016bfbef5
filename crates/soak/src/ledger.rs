//! What became of every connection.
//!
//! Decides:  what is a loss and of which kind; whose fault it may be (a process that the soak killed takes the
//!           sessions along that it had, by their ports, and no other); how a gap is measured: the longest time
//!           between two connections to one listener that were served, whoever made them.
//! Not here: making connections (load.rs), showing the sums (report.rs).

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Losses that are told one by one.
const TOLD_MAX: usize = 200;
/// Gaps from this length on are told one by one, ns.
const GAP_TOLD_NS: u64 = 20_000_000;

/// How a connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nobody listened.
    Refused,
    /// Reset, before or after the first byte.
    Reset,
    /// Neither an answer nor an end for as long as a client waits.
    Timeout,
    /// It ended before its last byte, or a byte was wrong.
    Short,
}

impl Kind {
    /// Of an error of connect(2), send(2) or recv(2).
    pub fn of(error: &io::Error) -> Kind {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Kind::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Kind::Timeout,
            _ => Kind::Reset,
        }
    }
}

/// Which connection it is: the ports of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The listener's.
    pub listener: u16,
    /// The client's; 0 where it has none yet.
    pub client: u16,
}

/// One that was lost.
#[derive(Debug, Clone, Serialize)]
pub struct Loss {
    /// Milliseconds since the phase began.
    pub at_ms: u64,
    /// The listener.
    pub listener: &'static str,
    /// The client's port; 0 where it had none yet.
    pub port: u16,
    /// How.
    pub kind: Kind,
    /// The error, or what was wrong.
    pub what: String,
    /// The operation that was under way.
    pub during: String,
}

/// A time in which nobody was served at a listener.
#[derive(Debug, Clone, Serialize)]
pub struct Gap {
    /// Its end, milliseconds since the phase began.
    pub at_ms: u64,
    /// The listener.
    pub listener: &'static str,
    /// How long it was.
    pub ms: u64,
    /// The operation that was under way at its end.
    pub during: String,
}

/// The sums of one phase.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sums {
    /// Connections that were begun.
    pub conns: u64,
    /// Of these, those that were served to their last byte.
    pub served: u64,
    /// Lost: see [`Kind`].
    pub refused: u64,
    /// Lost: see [`Kind`].
    pub reset: u64,
    /// Lost: see [`Kind`].
    pub timeout: u64,
    /// Lost: see [`Kind`].
    pub short: u64,
    /// Sessions of a process that the soak killed.
    pub ended: u64,
    /// Bytes that came back and were compared.
    pub bytes: u64,
    /// The longest gap of any listener.
    pub gap_ms: u64,
    /// The slowest short connection, from its SYN to its end.
    pub slowest_ms: u64,
}

impl Sums {
    /// Lost, of all kinds.
    pub fn lost(&self) -> u64 {
        self.refused + self.reset + self.timeout + self.short
    }

    /// With those of another phase.
    #[must_use]
    pub fn with(&self, other: &Sums) -> Sums {
        Sums {
            conns: self.conns + other.conns,
            served: self.served + other.served,
            refused: self.refused + other.refused,
            reset: self.reset + other.reset,
            timeout: self.timeout + other.timeout,
            short: self.short + other.short,
            ended: self.ended + other.ended,
            bytes: self.bytes + other.bytes,
            gap_ms: self.gap_ms.max(other.gap_ms),
            slowest_ms: self.slowest_ms.max(other.slowest_ms),
        }
    }
}

/// A listener's last service and its longest gap, ns since the phase began.
#[derive(Debug, Default)]
pub struct Pulse {
    last_ns: AtomicU64,
    gap_ns: AtomicU64,
}

/// All that is counted in one phase.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    conns: AtomicU64,
    served: AtomicU64,
    ended: AtomicU64,
    bytes: AtomicU64,
    slowest_ns: AtomicU64,
    kinds: [AtomicU64; 4],
    during: Mutex<String>,
    /// The sessions of processes that were killed, and when.
    killed: Mutex<HashMap<Ports, Instant>>,
    told: Mutex<Vec<Loss>>,
    gaps: Mutex<Vec<Gap>>,
}

impl Ledger {
    /// An empty one; its time begins now.
    pub fn new() -> Ledger {
        Ledger {
            began: Instant::now(),
            conns: AtomicU64::new(0),
            served: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            slowest_ns: AtomicU64::new(0),
            kinds: Default::default(),
            during: Mutex::new("nothing".to_owned()),
            killed: Mutex::default(),
            told: Mutex::new(Vec::new()),
            gaps: Mutex::new(Vec::new()),
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A connection is begun.
    pub fn begin(&self) {
        self.conns.fetch_add(1, Ordering::Relaxed);
    }

    /// A short connection was served to its last byte.
    pub fn served(&self, listener: &'static str, pulse: &Pulse, bytes: u64, took: Duration) {
        self.completed(bytes);
        let now = self.now_ns();
        let last = pulse.last_ns.swap(now, Ordering::Relaxed);
        if last != 0 {
            let gap = now.saturating_sub(last);
            pulse.gap_ns.fetch_max(gap, Ordering::Relaxed);
            if gap >= GAP_TOLD_NS {
                self.tell_gap(listener, now, gap);
            }
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.slowest_ns.fetch_max(took, Ordering::Relaxed);
    }

    fn tell_gap(&self, listener: &'static str, now: u64, gap: u64) {
        let during = lock(&self.during).clone();
        let mut gaps = lock(&self.gaps);
        if gaps.len() < TOLD_MAX {
            gaps.push(Gap {
                at_ms: now / 1_000_000,
                listener,
                ms: gap / 1_000_000,
                during,
            });
        }
    }

    /// The longest gaps first, as far as they were told.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = lock(&self.gaps).clone();
        gaps.sort_by_key(|gap| std::cmp::Reverse(gap.ms));
        gaps
    }

    /// A longer one was.
    pub fn completed(&self, bytes: u64) {
        self.served.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It was not. `began`: when it was begun, since ports come again.
    pub fn lost(
        &self,
        listener: &'static str,
        ports: Ports,
        began: Instant,
        (kind, what): (Kind, String),
    ) {
        let killed = lock(&self.killed).get(&ports).copied();
        let is_an_end = matches!(kind, Kind::Reset | Kind::Short);
        if is_an_end && killed.is_some_and(|killed| began <= killed) {
            self.ended.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(count) = self.kinds.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let during = lock(&self.during).clone();
        let mut told = lock(&self.told);
        if told.len() < TOLD_MAX {
            told.push(Loss {
                at_ms: self.now_ns() / 1_000_000,
                listener,
                port: ports.client,
                kind,
                what,
                during,
            });
        }
    }

    /// What is under way from now on.
    pub fn during(&self, what: &str) {
        what.clone_into(&mut lock(&self.during));
    }

    /// A process that has these sessions, and stands still, is killed now.
    pub fn killing(&self, sessions: &[Ports]) {
        let now = Instant::now();
        let mut killed = lock(&self.killed);
        killed.extend(sessions.iter().map(|&ports| (ports, now)));
    }

    /// Served so far.
    pub fn served_so_far(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Lost so far.
    pub fn lost_so_far(&self) -> u64 {
        let kinds = self.kinds.iter();
        kinds.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The first of those that were lost.
    pub fn losses(&self) -> Vec<Loss> {
        lock(&self.told).clone()
    }

    /// All sums.
    pub fn sums(&self, pulses: &[Pulse]) -> Sums {
        let kind = |kind: Kind| {
            self.kinds
                .get(kind as usize)
                .map_or(0, |count| count.load(Ordering::Relaxed))
        };
        let gaps = pulses.iter().map(|it| it.gap_ns.load(Ordering::Relaxed));
        Sums {
            conns: self.conns.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            refused: kind(Kind::Refused),
            reset: kind(Kind::Reset),
            timeout: kind(Kind::Timeout),
            short: kind(Kind::Short),
            ended: self.ended.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            gap_ms: gaps.max().unwrap_or(0) / 1_000_000,
            slowest_ms: self.slowest_ns.load(Ordering::Relaxed) / 1_000_000,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_excuses_the_end_of_the_sessions_that_were_there_and_nothing_else() {
        let ledger = Ledger::new();
        let ports = |client| Ports {
            listener: 8000,
            client,
        };
        let lose = |client, began, kind| {
            ledger.lost("all", ports(client), began, (kind, "x".to_owned()));
        };
        let before = Instant::now();
        ledger.during("a kill");
        ledger.killing(&[ports(1), ports(2)]);
        lose(1, before, Kind::Reset);
        lose(2, before, Kind::Short);
        assert_eq!((ledger.sums(&[]).ended, ledger.sums(&[]).lost()), (2, 0));
        // Another's, a client who was refused, one who waits for nothing, and one with a port that came again.
        lose(3, before, Kind::Reset);
        lose(0, before, Kind::Refused);
        lose(1, before, Kind::Timeout);
        std::thread::sleep(Duration::from_millis(1));
        lose(1, Instant::now(), Kind::Reset);
        let sums = ledger.sums(&[]);
        assert_eq!((sums.refused, sums.reset, sums.timeout), (1, 2, 1));
        assert!(ledger.losses().iter().all(|loss| loss.during == "a kill"));
    }

    #[test]
    fn a_gap_is_the_longest_time_without_a_service() {
        let (ledger, pulse) = (Ledger::new(), Pulse::default());
        let serve = || ledger.served("all", &pulse, 1, Duration::from_millis(3));
        serve();
        std::thread::sleep(Duration::from_millis(30));
        serve();
        serve();
        let sums = ledger.sums(&[pulse]);
        assert!((30..1000).contains(&sums.gap_ms), "{}", sums.gap_ms);
        assert_eq!((sums.served, sums.bytes, sums.slowest_ms), (3, 3, 3));
    }
}
