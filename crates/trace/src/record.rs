//! The record of a watched program: what `--json` writes.
//!
//! Decides:  the names and the shape of every field; [`FORMAT`] changes when one changes its meaning.
//! Not here: how it comes about (recorder.rs), what is found in it (finding.rs).

use serde::{Serialize, Serializer};

use crate::finding::Finding;
use crate::privilege::Gift;

/// The version of the record's shape.
pub const FORMAT: u32 = 1;

/// All that was seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Record {
    /// The version of this shape.
    pub format: u32,
    /// The command as it was given.
    pub command: Vec<String>,
    /// How its first process ended.
    pub ended: Option<Ending>,
    /// Every process, in the order of their beginning.
    pub processes: Vec<Process>,
    /// Every IP socket about which an unusual call was made: an option of a listener, `bind`, `listen`.
    pub sockets: Vec<Socket>,
    /// What failed, what may surprise, and what could not be seen.
    pub findings: Vec<Finding>,
    /// Sockets and findings beyond the limits, which are missing above.
    pub left_out: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// A process of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// The process that made it.
    pub parent: Option<i32>,
    /// The file that it runs.
    pub program: String,
    /// With these arguments.
    pub arguments: Vec<String>,
    /// What its program file would give it and does not, because it is watched.
    pub lost: Option<Gift>,
    /// How it ended.
    pub ended: Option<Ending>,
    /// Which execution of a program it goes back to: forks share it.
    #[serde(skip)]
    pub execution: u64,
}

/// An IP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// Its number in this record, from 1.
    pub number: u64,
    /// The process that made the first call that was seen.
    pub process: i32,
    /// The descriptor there.
    pub fd: i32,
    /// `inet` or `inet6`.
    pub family: Family,
    /// `tcp`, `mptcp`, `udp`, or a number.
    pub protocol: String,
    /// The user that it belongs to.
    pub uid: u32,
    /// What it was when it was first seen: not fresh where it came from elsewhere.
    pub found: Found,
    /// Every call, in order.
    pub calls: Vec<Step>,
    /// Its address and port now.
    pub address: Option<String>,
    /// How many connections may wait, if it listens.
    pub backlog_limit: Option<u32>,
    /// Processes that have it from another one, by fork or through an execution.
    pub inherited: Vec<Heir>,
    /// Nobody of the tree holds it any more: before which call that was noticed.
    pub closed: Option<u64>,
    /// The kernel's number of it.
    pub cookie: u64,
    /// Its number among files.
    pub inode: u64,
    /// The kernel's number of its network namespace.
    pub namespace: u64,
}

/// The family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
}

/// What a socket was when it was first seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its address, if it was bound.
    pub address: Option<std::net::SocketAddr>,
    /// It listened.
    pub listening: bool,
    /// `SO_REUSEADDR`.
    pub reuseaddr: bool,
    /// `SO_REUSEPORT`.
    pub reuseport: bool,
    /// `IPV6_V6ONLY`.
    pub v6only: bool,
    /// The index of its device, or 0.
    pub device: i32,
}

/// A process that has a socket from another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heir {
    /// The process.
    pub pid: i32,
    /// The descriptor there.
    pub fd: i32,
    /// How it came there.
    pub by: Inheritance,
}

/// How a socket came to another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Inheritance {
    /// The process was forked.
    Fork,
    /// It was open, without FD_CLOEXEC, when the process executed another program.
    Exec,
}

/// A call on a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its place among all calls.
    pub order: u64,
    /// The process that made it.
    pub process: i32,
    /// What was called.
    #[serde(flatten)]
    pub what: What,
    /// The error, if it failed.
    pub error: Option<ErrorNumber>,
}

/// What was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum What {
    /// `setsockopt`.
    SetOption(OptionSet),
    /// `bind`.
    Bind {
        /// Where to.
        address: String,
        /// The argument itself.
        #[serde(skip)]
        argument: Option<portcullis_kernel_model::SockAddr>,
        /// The port that the kernel chose for port 0.
        chosen: Option<u16>,
    },
    /// `listen`.
    Listen {
        /// The backlog as it was written.
        backlog: i32,
        /// What the kernel made of it.
        limit: Option<u32>,
        /// The port that the kernel chose for a socket without one.
        chosen: Option<u16>,
    },
}

/// An option and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OptionSet {
    /// Its C name, or `level L option N`.
    pub option: String,
    /// Its level.
    pub level: i32,
    /// Its number there.
    pub number: i32,
    /// The value: a number where it is an `int`, text where it is one, bytes in hexadecimal otherwise;
    /// `null` where it could not be read.
    pub value: Option<Setting>,
    /// The index of the device that the socket was bound to by it.
    pub device: Option<i32>,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// An `int`.
    Int(i32),
    /// A name.
    Text(String),
}

/// An error of the kernel; written by its C name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorNumber(pub i32);

impl Serialize for ErrorNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match portcullis_sys::errno::name(self.0) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_i32(self.0),
        }
    }
}

impl std::fmt::Display for ErrorNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&portcullis_sys::errno::describe(self.0))
    }
}

impl Record {
    /// A process by its id: the latest of that number.
    pub fn process(&self, pid: i32) -> Option<&Process> {
        self.processes
            .iter()
            .rev()
            .find(|process| process.pid == pid)
    }

    /// A socket by its number in this record.
    pub fn socket(&self, number: u64) -> Option<&Socket> {
        let at = self
            .sockets
            .binary_search_by_key(&number, |socket| socket.number);
        at.ok().and_then(|at| self.sockets.get(at))
    }

    /// What a process is called: the last part of its program's path.
    pub fn name(&self, pid: i32) -> String {
        match self.process(pid).map(|process| process.program.as_str()) {
            Some("") | None => format!("process {pid}"),
            Some(path) => path.rsplit('/').next().unwrap_or(path).to_owned(),
        }
    }
}

impl Socket {
    /// The last successful bind, or what it was found with: an address and a port.
    pub fn port(&self) -> u16 {
        let address = self.address.as_ref();
        let parsed = address.and_then(|text| text.parse::<std::net::SocketAddr>().ok());
        parsed.map_or(0, |address| address.port())
    }

    /// Whether an option was set to something else than 0, or found so, before this call.
    pub fn has_before(&self, name: &str, order: u64) -> bool {
        let before = self.calls.iter().rev().filter(|step| step.order < order);
        let mut set = before.filter_map(|step| match &step.what {
            What::SetOption(set) if set.option == name && step.error.is_none() => {
                Some(set.value != Some(Setting::Int(0)))
            }
            _ => None,
        });
        set.next().unwrap_or(match name {
            "SO_REUSEADDR" => self.found.reuseaddr,
            "SO_REUSEPORT" => self.found.reuseport,
            "IPV6_V6ONLY" => self.found.v6only,
            _ => false,
        })
    }

    /// Whether it listens now, as far as was seen.
    pub fn listens(&self) -> bool {
        self.closed.is_none() && self.backlog_limit.is_some()
    }
}
