//! Who holds a socket, and what it is: in fields and in words.
//!
//! Decides:  how a socket in the way, its processes and its heirs are told; what a socket is called in a
//!           sentence.
//! Not here: which sockets are in the way (the model says it).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Serialize;

use crate::snapshot::{Holder as Descriptor, Namespace, Options, Snapshot, Socket, State};

/// So many processes of one socket are told in a text.
const PROCESSES_MAX: usize = 4;
/// A command line's letters in a text.
const COMMAND_MAX: usize = 100;

/// A socket that somebody has, or that is left of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// What it is: `listening on 10.0.0.5:443 without SO_REUSEPORT`.
    pub what: String,
    /// Where it receives.
    pub address: SocketAddr,
    /// Its state.
    pub state: State,
    /// Its peer, if it has one.
    pub peer: Option<SocketAddr>,
    /// The device that it is bound to.
    pub device: Option<String>,
    /// Its user's number.
    pub uid: Option<u32>,
    /// Its user's name, where a process of that user was seen.
    pub user: Option<String>,
    /// The number that the kernel gives it for as long as it lives.
    pub cookie: u64,
    /// The number in `socket:[N]` of descriptors' links.
    pub inode: u64,
    /// Its options; `null` where nobody could tell.
    pub options: Options,
    /// Of TIME_WAIT: milliseconds until it ends.
    pub left_ms: Option<u32>,
    /// Who has a descriptor of it; the one that the others come from first.
    pub processes: Vec<Holding>,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub program: String,
    /// Its command line.
    pub command: Vec<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<String>,
    /// The numbers of the descriptors.
    pub descriptors: Vec<u32>,
    /// The holder that it comes from: its parent, or that one's parent.
    pub heir_of: Option<u32>,
}

impl Holder {
    /// A socket of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot, net: &Namespace, socket: &Socket) -> Holder {
        let device = (socket.device != 0).then(|| device_name(net, socket.device));
        Holder {
            what: what(net, socket),
            address: socket.local,
            state: socket.state,
            peer: socket.peer,
            device,
            uid: socket.uid,
            user: socket.uid.and_then(|uid| snapshot.user_name(uid)),
            cookie: socket.cookie,
            inode: socket.inode,
            options: socket.options.clone(),
            left_ms: socket.timer_ms.filter(|_| socket.state == State::TimeWait),
            processes: Holding::all(snapshot, &socket.holders),
        }
    }

    /// What it is called in a sentence: `nginx (pid 812)`.
    #[must_use]
    pub fn called(&self) -> String {
        match (self.processes.first(), self.state) {
            (Some(first), _) => format!("{} (pid {})", first.program, first.pid),
            (None, State::TimeWait | State::HalfOpen) => {
                format!("what is left of {}", self.address)
            }
            (None, _) => format!("the holder of {}", self.address),
        }
    }

    /// Its first line in a text, and those below it.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut first = match (self.processes.first(), self.state) {
            (Some(one), _) => format!("{}, {}, {}", one.program, one.place(), self.what),
            (None, State::TimeWait) => format!("nobody any more, {}", self.what),
            (None, _) if self.inode == 0 && self.peer.is_some() => {
                format!("the kernel alone, {}", self.what)
            }
            (None, _) => format!("a process that cannot be seen, {}", self.what),
        };
        // Whose it is, its socket tells, whoever may see the process.
        if self.processes.is_empty() && self.inode != 0 {
            first += &self.whose();
        }
        if let Some(one) = self.processes.first() {
            let whose = one.whose();
            if !whose.is_empty() {
                let _ = write!(first, ", {whose}");
            }
        }
        let mut lines = Holding::more(&self.processes);
        lines.insert(0, first);
        lines
    }
}

impl Holder {
    /// Whether another program than the first has it too: a child that was left behind.
    pub(super) fn is_shared_by_others(&self) -> bool {
        let Some((first, others)) = self.processes.split_first() else {
            return false;
        };
        others.iter().any(|one| one.program != first.program)
    }

    /// Of whom no process is seen: `, user www-data`, where the words before do not say it.
    fn whose(&self) -> String {
        let (Some(uid), false) = (self.uid, self.what.contains(" of user ")) else {
            return String::new();
        };
        let name = self.user.clone().unwrap_or_else(|| uid.to_string());
        format!(", user {name}")
    }
}

impl Holding {
    /// Who has these descriptors of one socket: ancestors before their heirs, in the order of their numbers.
    #[must_use]
    pub fn all(snapshot: &Snapshot, holders: &[Descriptor]) -> Vec<Holding> {
        let mut descriptors: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for holder in holders {
            descriptors.entry(holder.pid).or_default().push(holder.fd);
        }
        let holds = |pid: u32| descriptors.contains_key(&pid);
        let of = |(&pid, fds): (&u32, &Vec<u32>)| {
            let known = snapshot.process(pid);
            Holding {
                pid,
                program: known.map_or_else(|| "a process".to_owned(), |one| one.name.clone()),
                command: known.map_or_else(Vec::new, |one| one.command.clone()),
                user: known.and_then(|one| one.user.clone().or_else(|| number(one.uids))),
                unit: known.and_then(|one| one.unit.clone()),
                container: known.and_then(|one| one.container.clone()),
                descriptors: fds.clone(),
                heir_of: known.map(|one| one.parent).filter(|&parent| holds(parent)),
            }
        };
        let mut all: Vec<Holding> = descriptors.iter().map(of).collect();
        all.sort_by_key(|one| (one.heir_of.is_some(), one.pid));
        all
    }

    /// What stands below the first of them: its command line, and who holds the socket too.
    #[must_use]
    pub fn more(all: &[Holding]) -> Vec<String> {
        let Some((first, heirs)) = all.split_first() else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        let command = first.command.join(" ");
        if command != first.program && !command.is_empty() {
            lines.push(shortened(&command));
        }
        let told = heirs.iter().take(PROCESSES_MAX - 1).map(|one| {
            let from = one
                .heir_of
                .map_or(String::new(), |of| format!(", from pid {of}"));
            format!("{}, {}{from}", one.program, one.place())
        });
        let mut told: Vec<String> = told.collect();
        if heirs.len() > told.len() {
            told.push(format!("{} more", heirs.len() - told.len()));
        }
        if !told.is_empty() {
            lines.push(format!("held also by {}", told.join("; ")));
        }
        lines
    }

    fn place(&self) -> String {
        let numbers: Vec<String> = self.descriptors.iter().map(u32::to_string).collect();
        match numbers.as_slice() {
            [] => format!("pid {}", self.pid),
            some => format!("pid {}, fd {}", self.pid, some.join(" and ")),
        }
    }

    /// `user www-data, nginx.service, container 0123456789ab`, as far as it is known.
    #[must_use]
    pub fn whose(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("user {user}"));
        let container = self.container.as_ref();
        let container = container.map(|id| format!("container {}", id.get(..12).unwrap_or(id)));
        let parts = [user, self.unit.clone(), container];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What a socket is, and the options that decide.
pub(crate) fn what(net: &Namespace, socket: &Socket) -> String {
    let at = socket.local;
    let mut text = match (socket.state, socket.peer) {
        (State::Listen, _) => format!("listening on {at}"),
        (State::Bound, _) => format!("bound to {at}"),
        (State::TimeWait, Some(peer)) => {
            let left = socket.timer_ms.map_or(String::new(), |ms| {
                format!(" for {} s more", ms.div_ceil(1000))
            });
            format!("{at} in TIME_WAIT after a connection with {peer}{left}")
        }
        (_, Some(peer)) => format!("{at} connected with {peer}"),
        (_, None) => format!("{at}"),
    };
    if socket.device != 0 {
        let _ = write!(text, " of device {}", device_name(net, socket.device));
    }
    let server = matches!(socket.state, State::Listen | State::Bound);
    let options = &socket.options;
    match (options.reuseport, options.reuseaddr) {
        (Some(true), _) => text += " with SO_REUSEPORT",
        (_, Some(true)) if !server => text += " with SO_REUSEADDR",
        (_, Some(false)) if !server => text += " without SO_REUSEADDR",
        (Some(false), Some(true)) if socket.state == State::Bound => text += " with SO_REUSEADDR",
        (Some(false), _) if server => text += " without SO_REUSEPORT",
        _ => {}
    }
    if let (Some(uid), Some(true)) = (socket.uid, options.reuseport) {
        let _ = write!(text, " of user {uid}");
    }
    let any6 = at.ip().is_unspecified() && at.is_ipv6();
    match options.v6only {
        Some(true) if any6 => text += ", IPv6 only",
        Some(false) if any6 && server => text += ", IPv4 too",
        _ => {}
    }
    text
}

/// The name of a device.
pub(crate) fn device_name(net: &Namespace, index: u32) -> String {
    let known = net.interfaces.iter().find(|device| device.index == index);
    known.map_or_else(|| format!("number {index}"), |device| device.name.clone())
}

fn number(uids: Option<[u32; 4]>) -> Option<String> {
    uids.map(|uids| uids[1].to_string())
}

fn shortened(command: &str) -> String {
    let plain: String = command
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match plain.char_indices().nth(COMMAND_MAX) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None => plain,
    }
}
