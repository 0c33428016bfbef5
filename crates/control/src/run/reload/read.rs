//! The configuration is read again: here, or by the opener, outside the chroot and with its rights.
//!
//! Decides:  the opener reads and compiles too, so that it knows what it may open from now on, and
//!           hands over what it heard from files and from the host; the process that serves compiles
//!           the same from that. Where the files are refused only the report is handed over. Nothing
//!           that the asking process says decides which file is read.
//! Not here: what is done with the plan (../reload.rs), the files' language (the config crate).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_config::model::Family;
use portcullis_config::{Files, HostFiles, Sources};
use portcullis_listener::ListenerSpec;
use portcullis_listener::opener::Parent;
use serde::{Deserialize, Serialize};

use crate::Plan;
use crate::compile::{HostLookup, Lookup};
use crate::run::office::Office;
use crate::run::supervise::SERVING;

/// The configuration, read again.
pub struct Reading {
    /// Where the places of messages are.
    pub sources: Sources,
    /// The plan; `None` where the files are refused.
    pub plan: Option<Plan>,
    /// What was found, as `check` shows it; empty: nothing.
    pub report: String,
}

/// Reads the configuration again: the same files with the same options.
pub type Read = Arc<dyn Fn(&dyn Files, &dyn Lookup) -> Reading + Send + Sync>;

/// The one question that the opener answers.
const READ: &str = "read";

/// What the opener answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The files are refused.
    Refused { report: String },
    /// They can be put to work.
    Valid(Heard),
}

/// Reads here.
pub(in crate::run) fn here(read: &Read) -> Reading {
    read(&HostFiles, &HostLookup::default())
}

/// Has the opener read.
pub(in crate::run) fn by_opener(read: &Read, parent: &mut Parent) -> Result<Reading, String> {
    let answer = parent.ask(READ).map_err(|error| error.to_string())?;
    let answer: Answer = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    match answer {
        Answer::Refused { report } => Ok(Reading {
            sources: Sources::default(),
            plan: None,
            report,
        }),
        Answer::Valid(heard) => Ok(read(&heard, &heard)),
    }
}

/// The opener's side: what it may open, and the answer to a question.
pub(in crate::run) struct Clerk {
    read: Option<Read>,
    permitted: RefCell<Vec<ListenerSpec>>,
    office: Office,
    /// What was read last, and what serves by the worker's word.
    read_last: RefCell<Option<(Plan, Sources)>>,
    serving: RefCell<Option<(Plan, Sources)>>,
}

impl Clerk {
    /// May open what `plan` says.
    pub(in crate::run) fn new(plan: &Plan, read: Option<Read>, office: Office) -> Clerk {
        Clerk {
            read,
            permitted: RefCell::new(specs(plan)),
            office,
            read_last: RefCell::default(),
            serving: RefCell::default(),
        }
    }

    /// What the worker that has ended served, where that is not what it began with.
    pub(in crate::run) fn last_served(self) -> Option<(Plan, Sources)> {
        self.serving.into_inner()
    }

    /// Is it in the configuration, as the files were read last?
    pub(in crate::run) fn permit(&self, spec: &ListenerSpec) -> Result<(), String> {
        let permitted = self.permitted.borrow();
        // When it listens makes no difference.
        let mut asked = spec.clone();
        asked.listen_later = false;
        let is_it = |one: &ListenerSpec| *one == asked || is_shard(&asked, one);
        match permitted.iter().any(is_it) {
            true => Ok(()),
            false => Err("the configuration has no such listener".to_owned()),
        }
    }

    /// Reads again, or does what else only this process can.
    pub(in crate::run) fn answer(&self, question: &str) -> Result<String, String> {
        if let Some(done) = self.office.answer(question) {
            if question.starts_with(SERVING)
                && let Some(read) = self.read_last.take()
            {
                *self.serving.borrow_mut() = Some(read);
            }
            return done;
        }
        if question != READ {
            return Err("not a question that is answered".to_owned());
        }
        let read = self.read.as_ref().ok_or("nothing to read")?;
        let listening = Listening {
            heard: RefCell::default(),
            host: HostLookup::default(),
        };
        let reading = read(&listening, &listening);
        let answer = match reading.plan {
            None => Answer::Refused {
                report: reading.report,
            },
            Some(plan) => {
                *self.permitted.borrow_mut() = specs(&plan);
                *self.read_last.borrow_mut() = Some((plan, reading.sources));
                Answer::Valid(listening.heard.into_inner())
            }
        };
        serde_json::to_string(&answer).map_err(|error| error.to_string())
    }
}

/// Is it one more socket of this listener?
fn is_shard(spec: &ListenerSpec, of: &ListenerSpec) -> bool {
    let mut one = of.clone();
    one.shards = 1;
    one.incoming_cpus.clone_from(&spec.incoming_cpus);
    of.shards > 1
        && one == *spec
        && spec.incoming_cpus.len() <= 1
        && spec
            .incoming_cpus
            .iter()
            .all(|cpu| of.incoming_cpus.contains(cpu))
}

fn specs(plan: &Plan) -> Vec<ListenerSpec> {
    plan.to_open().iter().map(|it| it.spec.clone()).collect()
}

/// Bytes that are mostly text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Bytes {
    Text(String),
    Raw(Vec<u8>),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        String::from_utf8(bytes).map_or_else(|it| Bytes::Raw(it.into_bytes()), Bytes::Text)
    }
}

impl Bytes {
    fn path(path: &Path) -> Bytes {
        path.as_os_str().as_bytes().to_vec().into()
    }

    fn to_vec(&self) -> Vec<u8> {
        match self {
            Bytes::Text(text) => text.clone().into_bytes(),
            Bytes::Raw(bytes) => bytes.clone(),
        }
    }
}

/// What files and host said while a configuration was read; it says it again.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Heard {
    files: Vec<(Bytes, Bytes)>,
    directories: Vec<(Bytes, Option<Vec<Bytes>>)>,
    addresses: BTreeMap<String, Result<IpAddr, String>>,
    users: BTreeMap<String, Result<Option<u32>, String>>,
    groups: BTreeMap<String, Result<Option<u32>, String>>,
    cpus: Vec<u32>,
}

fn not_heard() -> io::Error {
    io::Error::other("it was not read")
}

fn question(name: &str, family: Family) -> String {
    format!("{family:?} {name}")
}

impl Files for Heard {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = Bytes::path(path);
        let found = self.files.iter().find(|(name, _)| *name == path);
        found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(not_heard)
    }

    fn list(&self, path: &Path) -> io::Result<Option<Vec<OsString>>> {
        let path = Bytes::path(path);
        let found = self.directories.iter().find(|(name, _)| *name == path);
        let (_, names) = found.ok_or_else(not_heard)?;
        let names = names.as_ref().map(|names| {
            let names = names.iter().map(|name| OsString::from_vec(name.to_vec()));
            names.collect()
        });
        Ok(names)
    }
}

impl Lookup for Heard {
    fn address(&self, name: &str, family: Family) -> Result<IpAddr, String> {
        let known = self.addresses.get(&question(name, family));
        known
            .cloned()
            .unwrap_or_else(|| Err("not asked".to_owned()))
    }

    fn user(&self, name: &str) -> Result<Option<u32>, String> {
        self.users.get(name).cloned().unwrap_or(Ok(None))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        self.groups.get(name).cloned().unwrap_or(Ok(None))
    }

    fn cpus(&self) -> Vec<u32> {
        self.cpus.clone()
    }
}

/// The host, and a note of all that it says.
struct Listening {
    heard: RefCell<Heard>,
    host: HostLookup,
}

impl Files for Listening {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = HostFiles.read(path)?;
        let note = (Bytes::path(path), bytes.clone().into());
        self.heard.borrow_mut().files.push(note);
        Ok(bytes)
    }

    fn list(&self, path: &Path) -> io::Result<Option<Vec<OsString>>> {
        let names = HostFiles.list(path)?;
        let bytes = names.as_ref().map(|names| {
            let names = names.iter().map(|name| name.as_bytes().to_vec().into());
            names.collect()
        });
        let note = (Bytes::path(path), bytes);
        self.heard.borrow_mut().directories.push(note);
        Ok(names)
    }
}

impl Lookup for Listening {
    fn address(&self, name: &str, family: Family) -> Result<IpAddr, String> {
        let answer = self.host.address(name, family);
        let mut heard = self.heard.borrow_mut();
        heard
            .addresses
            .insert(question(name, family), answer.clone());
        answer
    }

    fn user(&self, name: &str) -> Result<Option<u32>, String> {
        let answer = self.host.user(name);
        let mut heard = self.heard.borrow_mut();
        heard.users.insert(name.to_owned(), answer.clone());
        answer
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        let answer = self.host.group(name);
        let mut heard = self.heard.borrow_mut();
        heard.groups.insert(name.to_owned(), answer.clone());
        answer
    }

    fn cpus(&self) -> Vec<u32> {
        let cpus = self.host.cpus();
        self.heard.borrow_mut().cpus.clone_from(&cpus);
        cpus
    }
}

/// The path as the process that serves could not read it again: standard input is read once.
pub fn cannot_be_read_twice(paths: &[PathBuf]) -> bool {
    paths.iter().any(|path| path == Path::new("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Asks for everything, and says what it heard.
    fn ask(files: &dyn Files, lookup: &dyn Lookup, directory: &Path) -> String {
        let names = files.list(directory).unwrap().unwrap();
        let file = directory.join(&names[0]);
        format!(
            "{names:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            files.list(&file).unwrap(),
            files.read(&file).unwrap(),
            lookup.address("127.0.0.1", Family::V4),
            lookup.address("127.0.0.1", Family::V6),
            lookup.user("root"),
            lookup.group("no-such-group-here"),
            lookup.cpus(),
        )
    }

    #[test]
    fn what_was_heard_is_said_again_across_the_processes() {
        let directory = tempfile::tempdir().unwrap();
        let name = OsString::from_vec(b"odd \xff name.cfg".to_vec());
        std::fs::write(directory.path().join(name), b"# not \xfe text\n\"\\\n").unwrap();
        let listening = Listening {
            heard: RefCell::default(),
            host: HostLookup::default(),
        };
        let said = ask(&listening, &listening, directory.path());
        let text = serde_json::to_string(&Answer::Valid(listening.heard.into_inner())).unwrap();
        let Answer::Valid(heard) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}");
        };
        assert_eq!(ask(&heard, &heard, directory.path()), said);
        assert!(heard.read(Path::new("/etc/passwd")).is_err());
        assert!(heard.list(Path::new("/etc")).is_err());
        assert!(heard.address("elsewhere", Family::Any).is_err());
    }

    #[test]
    fn the_opener_takes_no_other_question_and_permits_what_was_read_last() {
        let config = portcullis_config::Config {
            global: Default::default(),
            frontends: vec![],
            backends: vec![],
            rings: vec![],
        };
        let lookup = HostLookup::default();
        let (plan, _) = crate::compile(&config, &lookup, &Default::default());
        let mut plan = plan.unwrap();
        let listener = |port: u16| crate::compile::ListenerPlan {
            spec: ListenerSpec::tcp(([127, 0, 0, 1], port).into()),
            place: portcullis_config::Place {
                file: 0,
                line: 1,
                start: 0,
                end: 1,
            },
            frontend: 0,
            number: 1,
            name: None,
            accepts_proxy: false,
            maxconn: 0,
        };
        plan.listeners = vec![listener(1)];
        let mut next = plan.clone();
        next.listeners = vec![listener(2)];
        let refuses = Arc::new(AtomicBool::new(true));
        let refused = Arc::clone(&refuses);
        let read: Read = Arc::new(move |_, _| Reading {
            sources: Sources::default(),
            plan: (!refused.load(Ordering::Relaxed)).then(|| next.clone()),
            report: "as check says it".to_owned(),
        });
        let clerk = Clerk::new(&plan, Some(read), Office::default());
        let permits = |port| clerk.permit(&listener(port).spec).is_ok();
        assert_eq!((permits(1), permits(2)), (true, false));
        assert!(clerk.answer("/etc/shadow").is_err());
        assert!(clerk.answer(READ).unwrap().contains("as check says it"));
        assert_eq!((permits(1), permits(2)), (true, false), "it was refused");
        refuses.store(false, Ordering::Relaxed);
        clerk.answer(READ).unwrap();
        assert_eq!((permits(1), permits(2)), (false, true));
    }

    #[test]
    fn one_more_socket_of_a_sharded_listener_is_permitted_and_no_other() {
        let mut of = ListenerSpec::tcp(([127, 0, 0, 1], 80).into());
        of.shards = 3;
        of.incoming_cpus = vec![4, 5, 6];
        let with = |edit: fn(&mut ListenerSpec)| {
            let mut one = of.clone();
            one.shards = 1;
            one.incoming_cpus = vec![5];
            edit(&mut one);
            is_shard(&one, &of)
        };
        assert!(with(|_| {}));
        assert!(with(|one| one.incoming_cpus.clear()));
        assert!(!with(|one| one.incoming_cpus = vec![7]));
        assert!(!with(|one| one.incoming_cpus = vec![4, 5]));
        assert!(!with(|one| one.shards = 2));
        assert!(!with(|one| one.backlog = Some(9)));
        assert!(!with(|one| one.interface = Some("lo".to_owned())));
    }
}
