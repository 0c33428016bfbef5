//! What is done to Portcullis while the load runs, and in which order.
//!
//! Decides:  the order, from a seed; what each operation changes; that an operation that should work and does not is
//!           a failure of the run, as a lost connection is.
//! Not here: how a program is told (program.rs).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::ledger::Ledger;
use crate::load::{LONG_SERVER, Load, local};
use crate::program::{Failure, Portcullis};
use crate::shape::{COMES_AND_GOES, Shape};

/// Listeners that come and go.
const EXTRA: u16 = 5;
/// Workers at the most.
const WORKERS_MAX: u64 = 4;

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A reload of the same file.
    ReloadNothing,
    /// Other weights, more or fewer servers, another timeout.
    ReloadServers,
    /// A listener more or less, another backlog.
    ReloadListeners,
    /// One that cannot work: a port that somebody has, or a line that is wrong.
    ReloadRefused,
    /// Another number of workers, or of sockets for each address.
    Shards,
    /// `portcullis upgrade`.
    Upgrade,
    /// The new process of an upgrade is killed before it serves.
    KillNew,
    /// The old one is killed when the new one has the sockets.
    KillOld,
    /// The worker under the supervisor is killed.
    KillWorker,
    /// From HAProxy to Portcullis.
    Take,
    /// From Portcullis to HAProxy.
    Give,
}

impl Operation {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Operation::ReloadNothing => "reload, nothing changed",
            Operation::ReloadServers => "reload, servers",
            Operation::ReloadListeners => "reload, listeners",
            Operation::ReloadRefused => "reload that must fail",
            Operation::Shards => "workers or sockets",
            Operation::Upgrade => "upgrade",
            Operation::KillNew => "upgrade, new one killed",
            Operation::KillOld => "upgrade, old one killed",
            Operation::KillWorker => "worker killed",
            Operation::Take => "move from HAProxy",
            Operation::Give => "move to HAProxy",
        }
    }

    /// Whether a process is killed, with the sessions that it has.
    pub fn is_a_kill(self) -> bool {
        matches!(
            self,
            Operation::KillNew | Operation::KillOld | Operation::KillWorker
        )
    }
}

/// A sequence without pattern (xorshift64*).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `count`.
    pub fn below(&mut self, count: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % count.max(1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at as u64 + 1);
            items.swap(at, usize::try_from(other).unwrap_or(0));
        }
    }
}

/// How many of each kind.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Amounts {
    /// Reloads, of which one in ten must fail.
    pub reloads: usize,
    /// Upgrades.
    pub upgrades: usize,
    /// Changes of the number of workers or sockets.
    pub shard_changes: usize,
}

/// All of them, in an order of the seed's.
pub fn plan(amounts: Amounts, random: &mut Random) -> Vec<Operation> {
    let mut all = Vec::new();
    for number in 0..amounts.reloads {
        all.push(match number % 10 {
            0..=1 => Operation::ReloadNothing,
            2..=5 => Operation::ReloadServers,
            6..=8 => Operation::ReloadListeners,
            _ => Operation::ReloadRefused,
        });
    }
    all.extend(std::iter::repeat_n(Operation::Upgrade, amounts.upgrades));
    all.extend(std::iter::repeat_n(
        Operation::Shards,
        amounts.shard_changes,
    ));
    random.shuffle(&mut all);
    all
}

/// What became of the operations of one kind.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Row {
    /// How many were done.
    pub count: usize,
    /// How long each took, ms.
    pub took_ms: Vec<u64>,
    /// Connections that were lost while one was under way, or until the next began.
    pub lost: u64,
    /// Those that were not done, and why.
    pub failures: Vec<Failure>,
}

/// The rows by operation.
pub type Rows = BTreeMap<Operation, Row>;

/// Does one and notes what became of it. `between` more clients are served before the next.
pub fn observe(
    rows: &mut Rows,
    (load, between): (&Load, u64),
    operation: Operation,
    act: impl FnOnce(&Ledger) -> Result<(), Failure>,
) {
    load.ledger.during(operation.name());
    let (lost, began) = (load.ledger.lost_so_far(), Instant::now());
    let done = act(&load.ledger);
    let took = began.elapsed();
    let served = load.goes_on(between);
    let row = rows.entry(operation).or_default();
    row.count += 1;
    row.took_ms
        .push(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    row.lost += load.ledger.lost_so_far() - lost;
    row.failures.extend(done.err());
    if !served {
        row.failures.push("nobody was served after it".to_owned());
    }
}

/// Does one of the operations on Portcullis.
pub fn perform(
    operation: Operation,
    it: &Portcullis,
    shape: &mut Shape,
    random: &mut Random,
    ledger: &Ledger,
) -> Result<(), Failure> {
    match operation {
        Operation::ReloadNothing => it.reload(),
        Operation::ReloadServers => {
            shape.servers += 1;
            shape.timeout_s = 50 + random.below(20);
            reload(it, shape)
        }
        Operation::ReloadListeners => {
            let port = COMES_AND_GOES + u16::try_from(random.below(EXTRA.into())).unwrap_or(0);
            let was_there = shape.extra.contains(&port);
            shape.extra.retain(|&one| one != port);
            if !was_there {
                shape.extra.push(port);
            }
            shape.backlog = 1000 + u32::try_from(random.below(3)).unwrap_or(0);
            reload(it, shape)?;
            match was_there {
                true => Ok(()),
                false => listens(port),
            }
        }
        Operation::ReloadRefused => {
            let mut other = shape.clone();
            other.servers += 1;
            let text = match random.below(2) {
                0 => {
                    other.extra.push(LONG_SERVER);
                    other.haproxy("", "")
                }
                _ => other.haproxy("", "") + "    no such line\n",
            };
            it.write(&text)?;
            let refused = it.refused_reload();
            it.write(&shape.haproxy("", ""))?;
            refused
        }
        Operation::Shards => {
            match random.below(2) {
                0 => shape.workers = another(shape.workers, random),
                _ => {
                    let now = shape.shards.unwrap_or(shape.workers);
                    shape.shards = Some(another(now, random));
                }
            }
            reload(it, shape)
        }
        Operation::Upgrade => it.upgrade(),
        Operation::KillNew => {
            it.upgrade_whose_new_one_is_killed(Duration::from_millis(random.below(60)), ledger)
        }
        Operation::KillOld => it.upgrade_whose_old_one_is_killed(ledger),
        Operation::KillWorker => it.kill_worker(ledger),
        Operation::Take | Operation::Give => Err("not an operation on one program".to_owned()),
    }
}

/// Another number of workers or sockets than it is now.
fn another(now: usize, random: &mut Random) -> usize {
    let drawn = usize::try_from(1 + random.below(WORKERS_MAX - 1)).unwrap_or(1);
    if drawn >= now { drawn + 1 } else { drawn }
}

fn reload(it: &Portcullis, shape: &Shape) -> Result<(), Failure> {
    it.write(&shape.haproxy("", ""))?;
    it.reload()
}

/// A listener that has come takes connections.
fn listens(port: u16) -> Result<(), Failure> {
    let connected = std::net::TcpStream::connect_timeout(&local(port), Duration::from_secs(5));
    let failed = |error| format!("port {port} has come and does not listen: {error}");
    connected.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_as_many_as_asked_for_in_an_order_of_the_seeds() {
        let amounts = Amounts {
            reloads: 20,
            upgrades: 3,
            shard_changes: 4,
        };
        let make = |seed| plan(amounts, &mut Random::new(seed));
        let (one, again, other) = (make(1), make(1), make(2));
        assert_eq!(one, again);
        assert_ne!(one, other);
        let count = |kind| one.iter().filter(|&&it| it == kind).count();
        assert_eq!(one.len(), 27);
        assert_eq!(count(Operation::ReloadRefused), 2);
        assert_eq!(count(Operation::Upgrade), 3);
        assert_eq!(count(Operation::Shards), 4);
    }

    #[test]
    fn another_number_is_never_the_one_there_is() {
        let mut random = Random::new(3);
        for now in 1..=4 {
            for _ in 0..100 {
                let next = another(now, &mut random);
                assert!(next != now && (1..=4).contains(&next), "{now} {next}");
            }
        }
    }
}
