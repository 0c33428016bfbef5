//! A script that was understood: the host it wants and the steps to take.
//!
//! Decides:  nothing; plain data between the reader and the runner.
//! Not here: how it is written (parse.rs), how it is run (run.rs).

use std::fmt;
use std::net::IpAddr;

use portcullis_kernel_model::{
    AF_UNSPEC, Bytes, Call, Errno, Family, Host, Kernel, NetId, Opt, OptName, ProcessId, Rule,
    SockAddr, State, Sysctl,
};

/// A socket of the script, by its place in [`Script::labels`].
pub type Slot = usize;

/// Releases of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    /// The first.
    pub first: Kernel,
    /// The last; none where later ones are meant too.
    pub last: Option<Kernel>,
}

impl Kernels {
    /// Whether a release, or an update of it, is among them.
    #[must_use]
    pub fn contain(&self, kernel: Kernel) -> bool {
        let update_counts = self.first.update != Kernel::LAST_UPDATE;
        let late_enough = if update_counts {
            kernel >= self.first
        } else {
            (kernel.major, kernel.minor) >= (self.first.major, self.first.minor)
        };
        late_enough && self.last.is_none_or(|last| kernel <= last)
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            None => write!(f, "{} or later", self.first),
            Some(last) if last == self.first => write!(f, "{last}"),
            Some(last) => write!(f, "{} to {last}", self.first),
        }
    }
}

/// A script.
#[derive(Debug, Clone)]
pub struct Script {
    /// Where the statement that it shows comes from, one entry for each `from` line.
    pub from: Vec<String>,
    /// The kernels that it is about, where it says so.
    pub kernel: Option<Kernels>,
    /// The release of the model beside a live kernel; `None`: that kernel's.
    pub beside: Option<Kernel>,
    /// Interfaces, addresses, users and sysctls before the first step.
    pub host: Host,
    /// The sysctls that its lines set before the first step; the others are as the release has them.
    pub set: Vec<(NetId, &'static str)>,
    /// The names of users and processes: set up first, then forked ones in the order of their steps.
    pub users: Vec<String>,
    /// The names of network namespaces.
    pub namespaces: Vec<String>,
    /// The names of user namespaces.
    pub user_namespaces: Vec<String>,
    /// The labels of sockets.
    pub labels: Vec<String>,
    /// Ports by name; those that the kernel is to choose are 0 until a step reads them.
    pub ports: Vec<(String, u16)>,
    /// What to do.
    pub steps: Vec<Step>,
    /// The longest waiting on a live kernel, all in all, that is not refused.
    pub patience_ms: u64,
}

impl Script {
    /// Its host, of another release: with that one's own values of the sysctls that no line sets.
    #[must_use]
    pub fn host_of(&self, kernel: Kernel) -> Host {
        let mut host = self.host.clone();
        host.kernel = kernel;
        for (at, namespace) in host.namespaces.iter_mut().enumerate() {
            let is_set = |name: &str| {
                let mut set = self.set.iter();
                set.any(|&(net, set)| usize::from(net.0) == at && set == name)
            };
            namespace.sysctls.begin_as(kernel, is_set);
        }
        host
    }

    /// How long it waits, all in all.
    #[must_use]
    pub fn waits_ms(&self) -> u64 {
        let waits = self.steps.iter().map(|step| match step.action {
            Action::Wait { ms } => ms,
            _ => 0,
        });
        waits.sum()
    }
}

/// One line that does something.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its line in the source, from 1.
    pub line: usize,
    /// Its words, without the expectation.
    pub said: String,
    /// What it does.
    pub action: Action,
    /// What is to come out.
    pub expect: Option<Expect>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// `socket`, and then these options, each of which must be taken.
    Socket {
        /// The new socket.
        slot: Slot,
        /// Its family.
        family: Family,
        /// Who makes it.
        user: ProcessId,
        /// Options to set at once.
        options: Vec<Opt>,
    },
    /// A call on a socket.
    Call {
        /// The socket.
        slot: Slot,
        /// Who calls.
        user: ProcessId,
        /// The call; an address in it is in `address`.
        call: Verb,
    },
    /// `accept`, into a new socket.
    Accept {
        /// The listener.
        slot: Slot,
        /// Who calls.
        user: ProcessId,
        /// The new socket.
        into: Slot,
    },
    /// The port of a socket gets a name.
    PortOf {
        /// The place in [`Script::ports`].
        port: usize,
        /// The socket.
        slot: Slot,
    },
    /// A sysctl of a network namespace changes.
    Sysctl(&'static Sysctl, NetId, String),
    /// A process forks; the child is the next process.
    Fork {
        /// Whose child it is.
        parent: ProcessId,
    },
    /// A process ends.
    Exit {
        /// Which.
        process: ProcessId,
    },
    /// A process goes into another network namespace.
    Enter {
        /// Which.
        process: ProcessId,
        /// Where to.
        net: NetId,
    },
    /// Time passes.
    Wait {
        /// Milliseconds.
        ms: u64,
    },
    /// This processor handles packets from now on.
    Cpu(u16),
}

/// A call whose address may hold a port by name.
#[derive(Debug, Clone, Copy)]
pub enum Verb {
    /// `setsockopt`.
    Set(Opt),
    /// `setsockopt` with this length.
    SetLen(Opt, i32),
    /// `getsockopt`.
    Get(OptName),
    /// `getsockopt` with this much room.
    GetLen(OptName, i32),
    /// `bind`.
    Bind(Address),
    /// `connect`.
    Connect(Address),
    /// Any other.
    Plain(Call),
    /// The descriptor is sent through a Unix socket to this process: one more holder.
    Pass(ProcessId),
}

impl Verb {
    /// The call as the model has it.
    #[must_use]
    pub fn call(self, ports: &[u16]) -> Call {
        match self {
            Verb::Set(option) => Call::Set(option),
            Verb::SetLen(option, len) => Call::SetLen(option, len),
            Verb::Get(name) => Call::Get(name),
            Verb::GetLen(name, len) => Call::GetLen(name, len),
            Verb::Bind(address) => Call::Bind(address.resolve(ports)),
            Verb::Connect(address) => Call::Connect(address.resolve(ports)),
            Verb::Plain(call) => call,
            Verb::Pass(to) => Call::Pass(to),
        }
    }
}

/// A port in an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By its place in [`Script::ports`].
    Named(usize),
}

impl Port {
    /// The number, given those of the names.
    #[must_use]
    pub fn number(self, ports: &[u16]) -> u16 {
        match self {
            Port::Number(number) => number,
            Port::Named(at) => ports.get(at).copied().unwrap_or(0),
        }
    }
}

/// The address argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: Port,
    /// The interface of a link-local address.
    pub scope: u32,
    /// A family that the address does not have.
    pub family: Option<u16>,
    /// A length that its structure does not have.
    pub len: Option<i32>,
}

impl Address {
    /// `AF_UNSPEC` and nothing else.
    pub(crate) const UNSPECIFIED: Address = Address {
        ip: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        port: Port::Number(0),
        scope: 0,
        family: Some(AF_UNSPEC),
        len: None,
    };

    /// The address as it is passed to the call.
    #[must_use]
    pub fn resolve(&self, ports: &[u16]) -> SockAddr {
        let mut address = SockAddr::new(self.ip, self.port.number(ports));
        address.scope = self.scope;
        address.family = self.family.unwrap_or(address.family);
        address.len = self.len.unwrap_or(address.len);
        address
    }
}

/// What is to come out of a step.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// One of these answers; none: any answer.
    pub answers: Vec<Pattern>,
    /// Who gets the connection.
    pub reaches: Option<Reaches>,
    /// Rules that the model must have gone by.
    pub by: Vec<Rule>,
    /// Sockets that the model must have blamed.
    pub because: Vec<Slot>,
}

/// Which listener a connection is to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reaches {
    /// None.
    Nobody,
    /// One of these.
    OneOf(Vec<Slot>),
}

/// An answer that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Success without a value.
    Ok,
    /// An error.
    Errno(Errno),
    /// The call waits.
    Blocks,
    /// A value.
    Value(i32),
    /// A state.
    State(State),
    /// A value's bytes.
    Bytes(Bytes),
    /// An address and a port among these.
    Address(IpAddr, PortPattern),
}

/// A port that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortPattern {
    /// Any but 0.
    Any,
    /// This one.
    Is(Port),
    /// From the first to the second, both included.
    Range(u16, u16),
}

/// The states by their C names without `TCP_`.
pub const STATES: &[(&str, State)] = &[
    ("ESTABLISHED", State::Established),
    ("SYN_SENT", State::SynSent),
    ("FIN_WAIT1", State::FinWait1),
    ("FIN_WAIT2", State::FinWait2),
    ("TIME_WAIT", State::TimeWait),
    ("CLOSE", State::Close),
    ("CLOSE_WAIT", State::CloseWait),
    ("LAST_ACK", State::LastAck),
    ("LISTEN", State::Listen),
    ("SYN_RECV", State::SynRecv),
    ("CLOSING", State::Closing),
];

/// A state's C name without `TCP_`, by the kernel's number.
#[must_use]
pub fn state_name(number: i32) -> Option<&'static str> {
    STATES
        .iter()
        .find(|entry| entry.1 as i32 == number)
        .map(|entry| entry.0)
}
