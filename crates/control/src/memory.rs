//! What a process knows by name, for the one that takes its place.
//!
//! Decides:  what goes over: how each checked server stands, when it is due again, how far its `slowstart` is,
//!           and the counters; in which words. What another version cannot read, it does without.
//! Source:   HAProxy's `server-state-file` (manual, chapter 3.1) keeps health over a reload where it is asked to;
//!           its counters begin anew, but for a `stats-file` since 3.0.
//! Not here: the conversation (the listener crate's handover.rs), who asks (run/upgrade.rs), paused frontends
//!           (run/pausing.rs), what a reload keeps (registry.rs: the same objects).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use portcullis_listener::handover::{Moment, Note};
use portcullis_proxy::health::{CheckStatus, Health, HealthSettings, Standing};
use portcullis_proxy::state::{
    BackendState, FrontendState, ListenerState, ProcessState, ServerState,
};
use serde::{Deserialize, Serialize};

const HEALTH: &str = "health";
const COUNTERS: &str = "counters";
/// The form of both.
const VERSION: u32 = 1;
/// Entries of one note, so that none comes near the longest message.
const MOST_ENTRIES: usize = 5_000;

/// How a checked server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerMemory {
    /// Its backend's name.
    pub backend: String,
    /// Its name.
    pub server: String,
    /// Up or down,
    pub up: bool,
    /// how far in that,
    pub count: u32,
    /// of how many.
    pub of: u32,
    /// How the last check ended: its name in statistics.
    pub status: String,
    /// Until the next check, ms.
    pub due_ms: u32,
    /// Since it came up, s, where `slowstart` is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_s: Option<u32>,
}

impl ServerMemory {
    /// What the checks begin with.
    pub(crate) fn health(&self, settings: HealthSettings) -> Health {
        let standing = Standing {
            count: self.count,
            of: self.of,
            up: self.up,
        };
        let status = CheckStatus::named(&self.status).unwrap_or(CheckStatus::Initializing);
        Health::resumed(settings, standing, status)
    }
}

/// One thing with counters, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Counted {
    Process {
        total: u64,
        starved: u64,
    },
    Frontend {
        name: String,
        total: u64,
        bytes_in: u64,
        bytes_out: u64,
    },
    Listener {
        frontend: String,
        address: String,
        total: u64,
    },
    Backend {
        name: String,
        total: u64,
        bytes_in: u64,
        bytes_out: u64,
        failed: u64,
        retries: u64,
        redispatches: u64,
    },
    Server {
        backend: String,
        name: String,
        total: u64,
        connect_errors: u64,
        option_errors: u64,
        bytes_in: u64,
        bytes_out: u64,
    },
}

/// What another process knew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    health: BTreeMap<(String, String), ServerMemory>,
    counters: Vec<Counted>,
}

impl Memory {
    /// As these notes tell. Those of another kind or version, and what is none, count for nothing.
    #[must_use]
    pub fn of(notes: &[Note]) -> Memory {
        let mut memory = Memory::default();
        for note in notes.iter().filter(|note| note.version == VERSION) {
            match &*note.kind {
                HEALTH => {
                    let told: Vec<ServerMemory> =
                        serde_json::from_str(&note.text).unwrap_or_default();
                    let named = told
                        .into_iter()
                        .map(|it| ((it.backend.clone(), it.server.clone()), it));
                    memory.health.extend(named);
                }
                COUNTERS => {
                    let told: Vec<Counted> = serde_json::from_str(&note.text).unwrap_or_default();
                    memory.counters.extend(told);
                }
                _ => {}
            }
        }
        memory
    }

    /// How a server stands.
    #[must_use]
    pub fn server(&self, backend: &str, server: &str) -> Option<&ServerMemory> {
        // No borrowed pair is a key; there are few questions.
        self.health.get(&(backend.to_owned(), server.to_owned()))
    }

    /// How many servers it knows, and how many of them are down.
    #[must_use]
    pub fn servers(&self) -> (usize, usize) {
        let down = self.health.values().filter(|server| !server.up);
        (self.health.len(), down.count())
    }

    /// Adds the counters to those of the same names.
    pub(crate) fn add_to(&self, living: &Living) {
        let find = living.by_name();
        for counted in &self.counters {
            counted.add_to(&find);
        }
    }
}

/// Everything with counters in this process. It counts on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Living {
    pub(crate) process: Arc<ProcessState>,
    pub(crate) frontends: Vec<(String, Arc<FrontendState>)>,
    /// By frontend and address.
    pub(crate) listeners: Vec<((String, String), Arc<ListenerState>)>,
    pub(crate) backends: Vec<(String, Arc<BackendState>)>,
    /// By backend and name.
    pub(crate) servers: Vec<((String, String), Arc<ServerState>)>,
}

/// The same, to look names up.
struct ByName<'a> {
    process: &'a ProcessState,
    frontends: BTreeMap<&'a str, &'a FrontendState>,
    listeners: BTreeMap<(&'a str, &'a str), &'a ListenerState>,
    backends: BTreeMap<&'a str, &'a BackendState>,
    servers: BTreeMap<(&'a str, &'a str), &'a ServerState>,
}

fn one<T>((name, state): &(String, Arc<T>)) -> (&str, &T) {
    (name, state)
}

fn two<T>(((of, name), state): &((String, String), Arc<T>)) -> ((&str, &str), &T) {
    ((of, name), state)
}

impl Living {
    fn by_name(&self) -> ByName<'_> {
        ByName {
            process: &self.process,
            frontends: self.frontends.iter().map(one).collect(),
            listeners: self.listeners.iter().map(two).collect(),
            backends: self.backends.iter().map(one).collect(),
            servers: self.servers.iter().map(two).collect(),
        }
    }

    /// As they are now.
    fn counted(&self) -> Vec<Counted> {
        let mut all = vec![Counted::Process {
            total: self.process.total.load(Relaxed),
            starved: self.process.starved.load(Relaxed),
        }];
        all.extend(self.frontends.iter().map(|(name, it)| Counted::Frontend {
            name: name.clone(),
            total: it.total.load(Relaxed),
            bytes_in: it.bytes_in.load(Relaxed),
            bytes_out: it.bytes_out.load(Relaxed),
        }));
        let listeners = self.listeners.iter();
        all.extend(
            listeners.map(|((frontend, address), it)| Counted::Listener {
                frontend: frontend.clone(),
                address: address.clone(),
                total: it.total.load(Relaxed),
            }),
        );
        all.extend(self.backends.iter().map(|(name, it)| Counted::Backend {
            name: name.clone(),
            total: it.total.load(Relaxed),
            bytes_in: it.bytes_in.load(Relaxed),
            bytes_out: it.bytes_out.load(Relaxed),
            failed: it.failed.load(Relaxed),
            retries: it.retries.load(Relaxed),
            redispatches: it.redispatches.load(Relaxed),
        }));
        let servers = self.servers.iter();
        all.extend(servers.map(|((backend, name), it)| Counted::Server {
            backend: backend.clone(),
            name: name.clone(),
            total: it.total.load(Relaxed),
            connect_errors: it.connect_errors.load(Relaxed),
            option_errors: it.option_errors.load(Relaxed),
            bytes_in: it.bytes_in.load(Relaxed),
            bytes_out: it.bytes_out.load(Relaxed),
        }));
        all
    }
}

impl Counted {
    /// What has no name here any more is counted nowhere.
    fn add_to(&self, living: &ByName<'_>) {
        for (counter, more) in self.pairs(living).into_iter().flatten() {
            counter.fetch_add(more, Relaxed);
        }
    }

    /// Each counter of the same name, and what is added to it.
    #[rustfmt::skip]
    fn pairs<'a>(&self, living: &ByName<'a>) -> Option<Vec<(&'a AtomicU64, u64)>> {
        Some(match self {
            Counted::Process { total, starved } => {
                let it = living.process;
                vec![(&it.total, *total), (&it.starved, *starved)]
            }
            Counted::Frontend { name, total, bytes_in, bytes_out } => {
                let it = *living.frontends.get(&**name)?;
                vec![(&it.total, *total), (&it.bytes_in, *bytes_in), (&it.bytes_out, *bytes_out)]
            }
            Counted::Listener { frontend, address, total } => {
                let it = *living.listeners.get(&(&**frontend, &**address))?;
                vec![(&it.total, *total)]
            }
            Counted::Backend { name, total, bytes_in, bytes_out, failed, retries, redispatches } => {
                let it = *living.backends.get(&**name)?;
                vec![
                    (&it.total, *total),
                    (&it.bytes_in, *bytes_in),
                    (&it.bytes_out, *bytes_out),
                    (&it.failed, *failed),
                    (&it.retries, *retries),
                    (&it.redispatches, *redispatches),
                ]
            }
            Counted::Server { backend, name, total, connect_errors, option_errors, bytes_in, bytes_out } => {
                let it = *living.servers.get(&(&**backend, &**name))?;
                vec![
                    (&it.total, *total),
                    (&it.connect_errors, *connect_errors),
                    (&it.option_errors, *option_errors),
                    (&it.bytes_in, *bytes_in),
                    (&it.bytes_out, *bytes_out),
                ]
            }
        })
    }
}

/// What this process tells the next one, whenever it is asked.
pub(crate) struct Witness<H> {
    pub(crate) living: Living,
    /// How the servers stand now.
    pub(crate) health: H,
}

impl<H: Fn() -> Vec<ServerMemory>> Witness<H> {
    /// Health is wanted before the first connection is served, and once more when it is given away; counters
    /// once, since they are added.
    pub(crate) fn notes(&self, moment: Moment) -> Vec<Note> {
        let mut notes = notes(HEALTH, &(self.health)());
        if moment == Moment::Yours {
            notes.extend(self::notes(COUNTERS, &self.living.counted()));
        }
        notes
    }
}

fn notes<T: Serialize>(kind: &str, entries: &[T]) -> Vec<Note> {
    let parts = entries.chunks(MOST_ENTRIES);
    let note = |part: &[T]| Note {
        kind: kind.to_owned(),
        version: VERSION,
        text: serde_json::to_string(part).unwrap_or_default(),
    };
    parts.map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, up: bool) -> ServerMemory {
        ServerMemory {
            backend: "back".to_owned(),
            server: name.to_owned(),
            up,
            count: 1,
            of: 3,
            status: "L4OK".to_owned(),
            due_ms: 77,
            warm_s: up.then_some(5),
        }
    }

    fn living(names: &[&str]) -> Living {
        let pair = |name: &&str| ("x".to_owned(), (*name).to_owned());
        Living {
            process: Arc::default(),
            frontends: names
                .iter()
                .map(|it| ((*it).to_owned(), Arc::default()))
                .collect(),
            listeners: names.iter().map(|it| (pair(it), Arc::default())).collect(),
            backends: names
                .iter()
                .map(|it| ((*it).to_owned(), Arc::default()))
                .collect(),
            servers: names.iter().map(|it| (pair(it), Arc::default())).collect(),
        }
    }

    #[test]
    fn what_one_process_counted_is_added_to_what_the_next_one_did_by_name() {
        let old = living(&["a", "b"]);
        old.process.total.store(100, Relaxed);
        old.frontends[0].1.bytes_out.store(20, Relaxed);
        old.listeners[1].1.total.store(21, Relaxed);
        old.backends[1].1.retries.store(22, Relaxed);
        old.servers[1].1.connect_errors.store(23, Relaxed);
        old.servers[0].1.total.store(99, Relaxed);
        let witness = Witness {
            living: old,
            health: || vec![server("a", true), server("b", false)],
        };
        let memory = Memory::of(&witness.notes(Moment::Yours));
        assert_eq!(memory.servers(), (2, 1));
        assert_eq!(memory.server("back", "b"), Some(&server("b", false)));
        let new = living(&["b", "c"]);
        new.process.total.store(5, Relaxed);
        memory.add_to(&new);
        assert_eq!(new.process.total.load(Relaxed), 105);
        assert_eq!(new.frontends[0].1.bytes_out.load(Relaxed), 0, "that is b's");
        assert_eq!(new.listeners[0].1.total.load(Relaxed), 21);
        assert_eq!(new.backends[0].1.retries.load(Relaxed), 22);
        assert_eq!(new.servers[0].1.connect_errors.load(Relaxed), 23);
        assert_eq!(new.servers[1].1.total.load(Relaxed), 0, "c is new");
    }

    #[test]
    fn counters_are_told_once_and_health_twice() {
        let witness = Witness {
            living: living(&["a"]),
            health: || vec![server("a", true)],
        };
        let kinds = |moment| {
            let notes = witness.notes(moment);
            notes.into_iter().map(|it| it.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(Moment::Offer), [HEALTH]);
        assert_eq!(kinds(Moment::Yours), [HEALTH, COUNTERS]);
    }

    #[test]
    fn many_servers_come_in_many_notes_and_all_of_them_arrive() {
        let all: Vec<ServerMemory> = (0..2 * MOST_ENTRIES + 1)
            .map(|number| server(&number.to_string(), number % 2 == 0))
            .collect();
        let notes = notes(HEALTH, &all);
        assert_eq!(notes.len(), 3);
        let memory = Memory::of(&notes);
        assert_eq!(memory.servers(), (all.len(), MOST_ENTRIES));
    }

    #[test]
    fn what_is_not_understood_counts_for_nothing() {
        let good = notes(HEALTH, &[server("a", true)]).remove(0);
        for (label, note) in [
            (
                "another kind",
                Note {
                    kind: "tables".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "another version",
                Note {
                    version: 2,
                    ..good.clone()
                },
            ),
            (
                "no list",
                Note {
                    text: "{\"a\":1}".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "cut short",
                Note {
                    text: good.text[..20].to_owned(),
                    ..good.clone()
                },
            ),
        ] {
            assert_eq!(
                Memory::of(std::slice::from_ref(&note)),
                Memory::default(),
                "{label}"
            );
            let both = Memory::of(&[note, good.clone()]);
            assert_eq!(both.servers(), (1, 0), "{label}");
        }
        // A status of a later version.
        let mut strange = server("a", false);
        strange.status = "L9OK".to_owned();
        let settings = HealthSettings {
            inter_ms: 1,
            fast_inter_ms: None,
            down_inter_ms: None,
            rise: 2,
            fall: 3,
        };
        let health = strange.health(settings);
        assert_eq!(
            (health.is_up(), health.status()),
            (false, CheckStatus::Initializing)
        );
    }
}
