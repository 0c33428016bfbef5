//! What this host would say to a whole configuration, before anything is touched.
//!
//! Decides:  as whom the listeners are opened; which of the host's answers is an error, a warning or a
//!           notice; that a balancer which runs already is no obstacle, since it hands its sockets over or
//!           ends.
//! Kernel:   net/socket.c, __sys_listen_socket(): somaxconn; fs/file.c: descriptors
//! Not here: what the file alone says (crates `config` and `control`), the rules (crate `kernel-model`).

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use portcullis_config::model::Chroot;
use portcullis_config::{Diagnostic, Place, Severity};
use portcullis_control::limits::{self, Limit, LimitError, Raising};
use portcullis_control::privileges::{self, HostNames};
use portcullis_control::{Plan, compile::ToOpen};
use portcullis_inspect::snapshot::{Process, Snapshot, State};
use portcullis_inspect::verdict::{
    self, Holder, Opening, Outcome, Refuser, Together, Verdict, ask_together,
};
use portcullis_inspect::{self as inspect, Wanted, read};
use portcullis_kernel_model::Family;
use portcullis_listener::spec::Ipv6Only;
use portcullis_listener::{Address, ListenerSpec};
use portcullis_sys::process;

use super::balancers::{Balancers, Holding, Live};
use super::local::{self, Opener};
use super::opening::opening;
use super::sources;

const CAP_SYS_RESOURCE: u32 = 24;
/// The finding that the host would refuse a listener.
pub const REFUSES: &str = "host-refuses";
/// The finding that who has it hands it over.
pub const HELD: &str = "held-by-balancer";

/// The host that is asked.
pub enum Host<'a> {
    /// This one.
    This,
    /// The one of a file.
    File(&'a Path),
}

/// Whether the plan is all of a configuration, or what of a wrong one can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// All of it.
    Yes,
    /// A part.
    No,
}

/// What is found, at the places of the file.
///
/// `take_from` is the socket that `run -x` would be given.
pub fn foresee(
    plan: &Plan,
    whole: Whole,
    host: &Host<'_>,
    take_from: Option<&Path>,
) -> io::Result<Vec<Diagnostic>> {
    let live = match host {
        Host::This => Live::Yes,
        Host::File(_) => Live::No,
    };
    let balancers = Balancers::new(plan, live, take_from);
    let all = plan.to_open();
    let mut found = Vec::new();
    let mut snapshots: BTreeMap<Option<String>, Snapshot> = BTreeMap::new();
    let mut by_namespace: BTreeMap<Option<String>, Vec<ToOpen<'_>>> = BTreeMap::new();
    by_namespace.entry(None).or_default();
    for listener in &all {
        let namespace = listener.spec.network_namespace.clone();
        by_namespace.entry(namespace).or_default().push(*listener);
    }
    for (namespace, listeners) in by_namespace {
        let mut snapshot = match (of(host, namespace.as_deref()), listeners.first()) {
            (Ok(snapshot), _) => snapshot,
            (Err(error), Some(listener)) if namespace.is_some() => {
                found.push(of_namespace(
                    live,
                    listener.place,
                    namespace.as_deref(),
                    &error,
                ));
                continue;
            }
            (Err(error), _) => return Err(error),
        };
        let asker = snapshot.caller;
        let owner = become_the_opener(plan, &mut snapshot, live);
        found.extend(of_listeners(&snapshot, &listeners, owner, &balancers)?);
        let opener = match snapshot.caller == asker {
            true => Opener::Asker,
            false => Opener::Root,
        };
        if opener == Opener::Asker {
            found.extend(of_refusers(&snapshot, &listeners));
        }
        if live == Live::Yes {
            let asked = local::Asked {
                snapshot: &snapshot,
                opener,
                balancers: &balancers,
            };
            let others = listeners.iter();
            found.extend(others.filter_map(|one| local::of_listener(one, &asked)));
        }
        snapshots.insert(namespace, snapshot);
    }
    if let Some(mut snapshot) = snapshots.remove(&None) {
        // How many a part needs says nothing.
        if whole == Whole::Yes {
            found.extend(of_descriptors(plan, &snapshot));
        }
        if live == Live::Yes {
            found.extend(of_chroot(plan));
        }
        become_the_worker(plan, &mut snapshot);
        found.extend(sources::of_plan(plan, &snapshot)?);
    }
    Ok(found)
}

/// A directory that `run` could not be locked up in.
fn of_chroot(plan: &Plan) -> Option<Diagnostic> {
    let Some(Chroot::Directory(path)) = &plan.process.privileges.chroot else {
        return None;
    };
    let why = match std::fs::metadata(path) {
        Ok(file) if file.is_dir() => return None,
        Ok(_) => "it is no directory".to_owned(),
        // Root opens it, and may see more.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
        Err(error) => portcullis_sys::errno::of(&error).to_string(),
    };
    let what = format!("this host would refuse `chroot {}`: {why}", path.display());
    let diagnostic = Diagnostic::new(Severity::Error, "chroot-refused", what);
    Some(diagnostic.note("make the directory, empty and root's, or say `chroot auto`".to_owned()))
}

/// The namespace of a line could not be read; where this host does not have it, no listener opens there.
fn of_namespace(live: Live, place: Place, name: Option<&str>, error: &io::Error) -> Diagnostic {
    if live == Live::Yes && error.kind() == io::ErrorKind::NotFound {
        let name = name.unwrap_or_default();
        let what = format!(
            "this host would refuse it: cannot enter network namespace {name}: no such file or directory (ENOENT)"
        );
        return Diagnostic::new(Severity::Error, REFUSES, what)
            .at(place)
            .note("rule: a network namespace has its name by a file in /run/netns")
            .note(format!("hint: ip netns add {name}"));
    }
    let what = format!("what the host says there is not known: {error}");
    Diagnostic::warning("host-unread", place, what)
}

/// Who may refuse what no rule of the model does, once each.
fn of_refusers(snapshot: &Snapshot, listeners: &[ToOpen<'_>]) -> Vec<Diagnostic> {
    let mut told: Vec<Refuser> = Vec::new();
    let mut found = Vec::new();
    for listener in listeners {
        let Some(at) = super::opening::tcp(listener.spec) else {
            continue;
        };
        let family = if at.is_ipv4() {
            Family::Inet
        } else {
            Family::Inet6
        };
        for one in verdict::refusers(snapshot, Some(family)) {
            if !one.likely || told.contains(&one) {
                continue;
            }
            let what = format!("{} may refuse it all the same: {}", one.name, one.what);
            found.push(
                Diagnostic::new(Severity::Notice, "may-refuse", what)
                    .at(listener.place)
                    .note(format!("it shows by {}", one.shows)),
            );
            told.push(one);
        }
    }
    found
}

fn of(host: &Host<'_>, namespace: Option<&str>) -> io::Result<Snapshot> {
    let place = namespace.map_or(inspect::Place::Here, |name| {
        inspect::Place::Named(name.to_owned())
    });
    match host {
        Host::This => read(&Wanted {
            place,
            ..Wanted::default()
        }),
        Host::File(path) => {
            let mut snapshot = Snapshot::load(path)?;
            if let Some(name) = namespace {
                let mut all = snapshot.namespaces.iter();
                let at = all.position(|net| net.names.iter().any(|known| known == name));
                let at = at
                    .ok_or_else(|| io::Error::other(format!("the file has no namespace {name}")))?;
                snapshot.namespaces.swap(0, at);
            }
            Ok(snapshot)
        }
    }
}

/// Makes the caller the one who will open: root, where the configuration needs root to become what it says.
/// The user that sockets are then given to, where it is another one.
fn become_the_opener(plan: &Plan, snapshot: &mut Snapshot, live: Live) -> Option<u32> {
    let identity = privileges::resolve(&plan.process.privileges, &HostNames).ok()?;
    // Of the one who asks; a file of a host tells none, and its caller may be anybody.
    let own_groups = process::groups().ok().filter(|_| live == Live::Yes);
    let becomes_group = identity.gid.is_some_and(|gid| {
        own_groups.is_none_or(|own| ![own.real, own.effective, own.saved].contains(&gid))
    });
    let caller = snapshot.process(snapshot.caller)?.clone();
    let own = caller.uids.map_or(u32::MAX, |uids| uids[1]);
    let becomes = identity.uid.filter(|&uid| uid != own);
    if own != 0 && (becomes.is_some() || becomes_group) {
        let root = Process {
            pid: 0,
            parent: 0,
            name: String::new(),
            command: Vec::new(),
            uids: Some([0; 4]),
            user: Some("root".to_owned()),
            started: None,
            capabilities: Some(u64::MAX),
            cgroup: None,
            unit: None,
            container: None,
            seccomp: None,
            no_new_privs: None,
            stopped: false,
            label: None,
            descriptors: None,
            polls: Vec::new(),
            ..caller
        };
        snapshot.processes.retain(|known| known.pid != 0);
        snapshot.processes.push(root);
        snapshot.caller = 0;
        return identity.uid.filter(|&uid| uid != 0);
    }
    becomes
}

/// Makes the caller, who opens, the one who then serves: the user of the configuration, with the capabilities
/// that it keeps.
fn become_the_worker(plan: &Plan, snapshot: &mut Snapshot) {
    let Ok(identity) = privileges::resolve(&plan.process.privileges, &HostNames) else {
        return;
    };
    let caller = snapshot.caller;
    let mut all = snapshot.processes.iter_mut();
    let Some(process) = all.find(|process| process.pid == caller) else {
        return;
    };
    let own = process.uids.map(|uids| uids[1]);
    if let Some(uid) = identity.uid.filter(|&uid| Some(uid) != own) {
        process.uids = Some([uid; 4]);
        process.user = None;
        let kept = identity.keep.bits();
        process.capabilities = process.capabilities.map(|had| had & kept);
    }
}

fn of_listeners(
    snapshot: &Snapshot,
    listeners: &[ToOpen<'_>],
    owner: Option<u32>,
    balancers: &Balancers,
) -> io::Result<Vec<Diagnostic>> {
    let asked: Vec<(ToOpen<'_>, Opening)> = listeners
        .iter()
        .filter_map(|listener| Some((*listener, opening(listener.spec, snapshot, owner)?)))
        .collect();
    let openings: Vec<Opening> = asked.iter().map(|(_, opening)| opening.clone()).collect();
    let answers = ask_together(snapshot, &openings).map_err(io::Error::other)?;
    let mut found = Vec::new();
    let somaxconn = snapshot
        .namespaces
        .first()
        .and_then(|net| net.sysctls.somaxconn);
    for ((listener, _), answer) in asked.iter().zip(&answers) {
        found.extend(of_answer(listener, answer, &asked, (snapshot, balancers)));
        let backlog = listener.spec.backlog.unwrap_or(listener.spec.maxconn);
        if let Some(limit) = somaxconn.filter(|&limit| limit < backlog) {
            let what = format!("the backlog of {backlog} is cut to net.core.somaxconn, {limit}");
            found.push(
                Diagnostic::warning("backlog-cut", listener.place, what)
                    .note(format!("sysctl net.core.somaxconn={backlog} allows it")),
            );
        }
    }
    Ok(found)
}

/// What is said of one listener, if anything.
fn of_answer(
    listener: &ToOpen<'_>,
    answer: &Together,
    asked: &[(ToOpen<'_>, Opening)],
    (snapshot, balancers): (&Snapshot, &Balancers),
) -> Option<Diagnostic> {
    let verdict = &answer.verdict;
    let address = shown(&listener.spec.address);
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let said = first(&verdict.to_string());
    let said = said
        .split_once(": ")
        .map_or(said.as_str(), |(_, rest)| rest)
        .to_owned();
    let by = |severity, code, message: String| {
        let mut diagnostic = Diagnostic::new(severity, code, message).at(listener.place);
        if let Some((other, _)) = answer.stopped_by.and_then(|number| asked.get(number)) {
            diagnostic = diagnostic.note_at(other.place, "this line is in its way");
        }
        notes(verdict)
            .into_iter()
            .fold(diagnostic, Diagnostic::note)
    };
    match verdict.outcome {
        Outcome::Refused => {
            let holders = verdict.answers.first().map(|answer| &answer.holders);
            let at = super::opening::tcp(listener.spec)?;
            let holding = balancers.of_tcp(snapshot, holders.into_iter().flatten(), at);
            let refuses = format!("this host would refuse it: {said}");
            Some(match (holding, answer.stopped_by) {
                (Holding::HandsOver(name), None) => by(
                    Severity::Notice,
                    HELD,
                    format!(
                        "{name} has {address}: it opens once that one hands its sockets over, or ends"
                    ),
                ),
                (Holding::Keeps(name), None) => by(Severity::Error, REFUSES, refuses).note(format!(
                    "{name} does not hand it over: none of its sockets that the file or -x names gives {address}"
                )),
                _ => by(Severity::Error, REFUSES, refuses),
            })
        }
        Outcome::Unknown => Some(by(Severity::Warning, "host-unsure", said)),
        Outcome::Works => {
            let others = verdict.beside.iter();
            let mut others =
                others.filter_map(|one| Some((one, overlap(listener.spec, snapshot, one)?)));
            let (other, overlap) = others.next()?;
            let known = balancers.of_tcp(snapshot, [other], other.address);
            let severity = match known {
                Holding::HandsOver(_) => Severity::Notice,
                _ => Severity::Warning,
            };
            Some(by(severity, "host-shares", overlap.said(&address, other)))
        }
    }
}

/// How two listeners of one port meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overlap {
    /// Both have the same address, and are of one group.
    Same,
    /// Both have the same address, and it is of no group.
    Apart,
    /// The other one has a part of it.
    Within,
    /// It is a part of the other one's.
    Around,
}

impl Overlap {
    /// What it means for a listener of this address.
    fn said(self, address: &str, other: &Holder) -> String {
        let (name, its) = (other.called(), other.address);
        match self {
            Overlap::Same => format!(
                "{name} listens on {address} too, and both would get a share of the connections"
            ),
            Overlap::Apart => format!(
                "{name} listens on {address} too, without SO_REUSEPORT: one of the two would get every connection"
            ),
            Overlap::Within => format!(
                "{name} listens on {its}, a part of {address}, and gets the connections to it"
            ),
            Overlap::Around => format!(
                "{name} listens on {its}, of which {address} is a part, and would not get the connections to it"
            ),
        }
    }
}

/// How a listener beside ours meets it. Those on a device get what comes there, and are meant so.
fn overlap(spec: &ListenerSpec, snapshot: &Snapshot, other: &Holder) -> Option<Overlap> {
    let at = super::opening::tcp(spec)?;
    if other.state != State::Listen {
        return None;
    }
    if other.address == at {
        return Some(match other.options.reuseport {
            Some(false) => Overlap::Apart,
            _ => Overlap::Same,
        });
    }
    if spec.interface.is_some() || other.device.is_some() {
        return None;
    }
    let net = snapshot.namespaces.first();
    let default = net.and_then(|net| net.sysctls.bindv6only) == Some(1);
    let only = spec.ipv6_only.map_or(default, |only| only == Ipv6Only::On);
    let covers = |wide: SocketAddr, only: bool, narrow: SocketAddr| {
        wide.ip().is_unspecified()
            && match (wide.is_ipv6(), narrow.is_ipv6()) {
                (true, false) => !only,
                (one, two) => one == two,
            }
    };
    if covers(at, only, other.address) {
        Some(Overlap::Within)
    } else {
        let theirs = other.options.v6only != Some(false);
        covers(other.address, theirs, at).then_some(Overlap::Around)
    }
}

/// An address as the host's tools write it: `[::]:443`.
fn shown(address: &Address) -> String {
    match address {
        Address::Tcp(at) => at.to_string(),
        Address::Mptcp(at) => format!("mptcp@{at}"),
        other => other.to_string(),
    }
}

/// The lines of a verdict below its first, one note for each thing.
pub fn notes(verdict: &Verdict) -> Vec<String> {
    notes_of(&verdict.to_string())
}

/// The same of a text.
pub(super) fn notes_of(text: &str) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for line in text.lines().skip(1) {
        let continues = line.starts_with("    ");
        match notes.last_mut() {
            Some(last) if continues => {
                last.push_str("; ");
                last.push_str(line.trim());
            }
            _ => {
                let words: Vec<&str> = line.split_whitespace().collect();
                notes.push(words.join(" "));
            }
        }
    }
    notes
}

/// The descriptors that `maxconn` needs, and those that there may be.
fn of_descriptors(plan: &Plan, snapshot: &Snapshot) -> Option<Diagnostic> {
    let caller = snapshot.process(snapshot.caller)?;
    let (soft, hard) = caller.descriptor_limit?;
    let raising = match caller.capabilities {
        Some(bits) if bits >> CAP_SYS_RESOURCE & 1 == 1 => Raising::Beyond(snapshot.files.nr_open),
        _ => Raising::ToHard,
    };
    let (demand, wishes) = limits::of_plan(plan);
    let foreseen = limits::foresee(&demand, &wishes, Limit { soft, hard }, raising);
    let (severity, error) = match foreseen {
        Err(error) => (Severity::Error, error),
        Ok(settled) => (Severity::Warning, settled.warning?),
    };
    let found = Diagnostic::new(severity, "too-few-descriptors", error.to_string());
    let in_the_way = match (&error, snapshot.files.nr_open) {
        (LimitError::CannotRaise { wanted, .. }, Some(most)) if *wanted > most => Some(most),
        _ => None,
    };
    Some(match in_the_way {
        Some(most) => found.note(format!("fs.nr_open is {most}: nobody can raise it beyond")),
        None => found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::rows::tests::{host, listener, process_called};

    #[test]
    fn each_thing_of_a_verdict_is_one_note() {
        let mut snapshot = host(
            vec![listener("127.0.0.1:8080", 7)],
            vec![process_called("nginx", 7, 1)],
        );
        snapshot.kernel.release = "6.18.0".to_owned();
        snapshot.caller = 7;
        let opening = Opening::new("0.0.0.0:8080".parse().unwrap());
        let answers = ask_together(&snapshot, &[opening.clone(), opening]).unwrap();
        let notes = notes(&answers[0].verdict);
        assert!(notes[0].starts_with("holder: nginx, pid 7, "), "{notes:?}");
        assert!(notes[1].starts_with("rule: "), "{notes:?}");
        assert!(
            notes.iter().any(|note| note.starts_with("try: ")),
            "{notes:?}"
        );
    }
}
