//! What this host would say to a whole configuration, before anything is touched.
//!
//! Decides:  as whom the listeners are opened; which of the host's answers is an error, a warning or a
//!           notice; that a balancer which runs already is no obstacle, since it hands its sockets over or
//!           ends.
//! Kernel:   net/socket.c, __sys_listen_socket(): somaxconn; fs/file.c: descriptors
//! Not here: what the file alone says (crates `config` and `control`), the rules (crate `kernel-model`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use portcullis_config::{Diagnostic, Severity};
use portcullis_control::limits::{self, Limit, LimitError, Raising};
use portcullis_control::privileges::{self, HostNames};
use portcullis_control::{Plan, compile::ListenerPlan};
use portcullis_inspect::snapshot::{Process, Snapshot, State};
use portcullis_inspect::verdict::{Holder, Opening, Outcome, Together, Verdict, ask_together};
use portcullis_inspect::{Place, Wanted, read};
use portcullis_listener::Address;

use super::local::{self, Opener};
use super::opening::opening;
use super::sources;

/// Programs that take listeners over from each other, or end when the next one has them.
pub const BALANCERS: [&str; 2] = ["portcullis", "haproxy"];
const CAP_SYS_RESOURCE: u32 = 24;
/// The finding that the host would refuse a listener.
pub const REFUSES: &str = "host-refuses";

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
pub fn foresee(plan: &Plan, whole: Whole, host: &Host<'_>) -> io::Result<Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut snapshots: BTreeMap<Option<String>, Snapshot> = BTreeMap::new();
    let mut by_namespace: BTreeMap<Option<String>, Vec<&ListenerPlan>> = BTreeMap::new();
    by_namespace.entry(None).or_default();
    for listener in &plan.listeners {
        let namespace = listener.spec.network_namespace.clone();
        by_namespace.entry(namespace).or_default().push(listener);
    }
    for (namespace, listeners) in by_namespace {
        let mut snapshot = match (of(host, namespace.as_deref()), listeners.first()) {
            (Ok(snapshot), _) => snapshot,
            (Err(error), Some(listener)) if namespace.is_some() => {
                let what = format!("what the host says there is not known: {error}");
                found.push(Diagnostic::warning("host-unread", listener.place, what));
                continue;
            }
            (Err(error), _) => return Err(error),
        };
        let asker = snapshot.caller;
        let owner = become_the_opener(plan, &mut snapshot);
        found.extend(of_listeners(&snapshot, &listeners, owner)?);
        if matches!(host, Host::This) {
            let opener = match snapshot.caller == asker {
                true => Opener::Asker,
                false => Opener::Root,
            };
            let others = listeners.iter();
            found.extend(others.filter_map(|one| local::of_listener(one, &snapshot, opener)));
        }
        snapshots.insert(namespace, snapshot);
    }
    if let Some(snapshot) = snapshots.get(&None) {
        // How many a part needs says nothing.
        if whole == Whole::Yes {
            found.extend(of_descriptors(plan, snapshot));
        }
        found.extend(sources::of_plan(plan, snapshot)?);
    }
    Ok(found)
}

fn of(host: &Host<'_>, namespace: Option<&str>) -> io::Result<Snapshot> {
    let place = namespace.map_or(Place::Here, |name| Place::Named(name.to_owned()));
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
fn become_the_opener(plan: &Plan, snapshot: &mut Snapshot) -> Option<u32> {
    let identity = privileges::resolve(&plan.process.privileges, &HostNames).ok()?;
    let caller = snapshot.process(snapshot.caller)?.clone();
    let own = caller.uids.map_or(u32::MAX, |uids| uids[1]);
    let becomes = identity.uid.filter(|&uid| uid != own);
    if own != 0 && (becomes.is_some() || identity.gid.is_some()) {
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

fn of_listeners(
    snapshot: &Snapshot,
    listeners: &[&ListenerPlan],
    owner: Option<u32>,
) -> io::Result<Vec<Diagnostic>> {
    let asked: Vec<(&ListenerPlan, Opening)> = listeners
        .iter()
        .filter_map(|listener| Some((*listener, opening(&listener.spec, snapshot, owner)?)))
        .collect();
    let openings: Vec<Opening> = asked.iter().map(|(_, opening)| opening.clone()).collect();
    let answers = ask_together(snapshot, &openings).map_err(io::Error::other)?;
    let mut found = Vec::new();
    let somaxconn = snapshot
        .namespaces
        .first()
        .and_then(|net| net.sysctls.somaxconn);
    for ((listener, _), answer) in asked.iter().zip(&answers) {
        found.extend(of_answer(listener, answer, &asked));
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
    listener: &ListenerPlan,
    answer: &Together,
    asked: &[(&ListenerPlan, Opening)],
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
            let balancer = verdict
                .answers
                .first()
                .and_then(|answer| balancer(&answer.holders));
            Some(match (balancer, answer.stopped_by) {
                (Some(name), None) => by(
                    Severity::Notice,
                    "held-by-balancer",
                    format!(
                        "{name} has {address}: it opens once that one hands its sockets over, or ends"
                    ),
                ),
                _ => by(
                    Severity::Error,
                    REFUSES,
                    format!("this host would refuse it: {said}"),
                ),
            })
        }
        Outcome::Unknown => Some(by(Severity::Warning, "host-unsure", said)),
        Outcome::Works => {
            let sharers: Vec<&Holder> = verdict
                .beside
                .iter()
                .filter(|one| {
                    one.state == State::Listen
                        && Some(one.address) == super::opening::tcp(&listener.spec)
                })
                .collect();
            let name = sharers.first()?.called();
            let known = balancer(sharers.iter().copied());
            let severity = if known.is_some() {
                Severity::Notice
            } else {
                Severity::Warning
            };
            let what = format!(
                "{name} listens on {address} too, and both would get a share of the connections"
            );
            Some(by(severity, "host-shares", what))
        }
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

/// The balancer that holds all of them.
fn balancer<'a>(holders: impl IntoIterator<Item = &'a Holder>) -> Option<String> {
    let mut name = None;
    for holder in holders {
        let all = !holder.processes.is_empty()
            && holder
                .processes
                .iter()
                .all(|one| BALANCERS.contains(&one.program.as_str()));
        if !all {
            return None;
        }
        name.get_or_insert_with(|| holder.called());
    }
    name
}

/// The lines of a verdict below its first, one note for each thing.
pub fn notes(verdict: &Verdict) -> Vec<String> {
    let text = verdict.to_string();
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
    fn only_a_holder_that_is_a_balancer_and_nobody_else_counts_as_one() {
        let snapshot = host(
            vec![listener("127.0.0.1:80", 7)],
            vec![process_called("haproxy", 7, 1)],
        );
        let net = &snapshot.namespaces[0];
        let holder = Holder::of(&snapshot, net, &net.sockets[0]);
        assert_eq!(balancer([&holder]).as_deref(), Some("haproxy (pid 7)"));
        let mut other = holder.clone();
        other.processes[0].program = "nginx".into();
        assert_eq!(balancer([&holder, &other]), None);
        other.processes.clear();
        assert_eq!(balancer([&other]), None, "nobody is no balancer");
    }

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
