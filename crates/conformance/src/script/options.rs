//! The words for socket options, and what values they take.
//!
//! Decides:  each option's word, C name and kind of value, once: parser, printer, docs/scenarios.md and
//!           "did you mean" use this list.
//! Not here: what an option does (the model, crates/sockopt).

use portcullis_kernel_model::{Opt, OptName, Program};

use super::cursor::Cursor;
use super::problem::{Problem, did_you_mean};

/// What stands after an option's word.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    /// `on` or `off`; nothing means `on`.
    Switch(fn(bool) -> Opt),
    /// A number.
    Number(fn(i32) -> Opt),
    /// `on`, `off` or `no-window-probe`.
    Repair,
    /// Seconds, or `off`.
    Linger,
    /// `LOW..HIGH`; one number is the raw value.
    Ports,
    /// An interface's name, or `none`.
    Device,
    /// `index N` or `cpu N`.
    Program,
    /// Nothing.
    Nothing(Opt),
}

/// An option that can be set.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its word in a script.
    pub word: &'static str,
    /// Its name in C, taken as well.
    pub c_name: &'static str,
    /// What stands after it.
    pub value: Value,
}

const fn entry(word: &'static str, c_name: &'static str, value: Value) -> Entry {
    Entry {
        word,
        c_name,
        value,
    }
}

/// Every option that can be set.
pub const SETTABLE: &[Entry] = &[
    entry("reuseaddr", "SO_REUSEADDR", Value::Switch(Opt::ReuseAddr)),
    entry("reuseport", "SO_REUSEPORT", Value::Switch(Opt::ReusePort)),
    entry("v6only", "IPV6_V6ONLY", Value::Switch(Opt::V6Only)),
    entry("freebind", "IP_FREEBIND", Value::Switch(Opt::Freebind)),
    entry("freebind6", "IPV6_FREEBIND", Value::Switch(Opt::Freebind6)),
    entry(
        "transparent",
        "IP_TRANSPARENT",
        Value::Switch(Opt::Transparent),
    ),
    entry(
        "transparent6",
        "IPV6_TRANSPARENT",
        Value::Switch(Opt::Transparent6),
    ),
    entry("device", "SO_BINDTODEVICE", Value::Device),
    entry(
        "ifindex",
        "SO_BINDTOIFINDEX",
        Value::Number(Opt::BindToIfindex),
    ),
    entry(
        "bind-no-port",
        "IP_BIND_ADDRESS_NO_PORT",
        Value::Switch(Opt::BindAddressNoPort),
    ),
    entry("port-range", "IP_LOCAL_PORT_RANGE", Value::Ports),
    entry("linger", "SO_LINGER", Value::Linger),
    entry(
        "incoming-cpu",
        "SO_INCOMING_CPU",
        Value::Number(Opt::IncomingCpu),
    ),
    entry("program", "SO_ATTACH_REUSEPORT_CBPF", Value::Program),
    entry(
        "no-program",
        "SO_DETACH_REUSEPORT_BPF",
        Value::Nothing(Opt::DetachReuseport),
    ),
    entry("repair", "TCP_REPAIR", Value::Repair),
    entry("fastopen", "TCP_FASTOPEN", Value::Number(Opt::FastOpen)),
    entry(
        "defer-accept",
        "TCP_DEFER_ACCEPT",
        Value::Number(Opt::DeferAccept),
    ),
];

/// Every option that can be read: its word, its name in C, and what it is.
pub const READABLE: &[(&str, &str, OptName)] = &[
    ("reuseaddr", "SO_REUSEADDR", OptName::ReuseAddr),
    ("reuseport", "SO_REUSEPORT", OptName::ReusePort),
    ("v6only", "IPV6_V6ONLY", OptName::V6Only),
    ("freebind", "IP_FREEBIND", OptName::Freebind),
    ("transparent", "IP_TRANSPARENT", OptName::Transparent),
    ("freebind6", "IPV6_FREEBIND", OptName::Freebind6),
    ("transparent6", "IPV6_TRANSPARENT", OptName::Transparent6),
    ("device", "SO_BINDTODEVICE", OptName::BindToDevice),
    ("ifindex", "SO_BINDTOIFINDEX", OptName::BindToIfindex),
    (
        "bind-no-port",
        "IP_BIND_ADDRESS_NO_PORT",
        OptName::BindAddressNoPort,
    ),
    ("port-range", "IP_LOCAL_PORT_RANGE", OptName::LocalPortRange),
    ("linger", "SO_LINGER", OptName::Linger),
    ("incoming-cpu", "SO_INCOMING_CPU", OptName::IncomingCpu),
    ("acceptconn", "SO_ACCEPTCONN", OptName::AcceptConn),
    ("error", "SO_ERROR", OptName::Error),
    ("repair", "TCP_REPAIR", OptName::Repair),
    ("fastopen", "TCP_FASTOPEN", OptName::FastOpen),
    ("defer-accept", "TCP_DEFER_ACCEPT", OptName::DeferAccept),
    ("state", "TCP_INFO", OptName::State),
];

impl Value {
    /// What stands after the word, for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Value::Switch(_) => "`on` (or nothing), `off`",
            Value::Number(_) => "a number",
            Value::Repair => "`on`, `off`, `no-window-probe`",
            Value::Linger => "seconds, `off`",
            Value::Ports => "`LOW..HIGH`",
            Value::Device => "an interface's name, `none`",
            Value::Program => "`index N`, `cpu N`",
            Value::Nothing(_) => "nothing",
        }
    }
}

/// The entry of a word.
pub(crate) fn settable(word: &str) -> Option<&'static Entry> {
    SETTABLE
        .iter()
        .find(|entry| entry.word == word || entry.c_name == word)
}

/// The option of a word, to be read.
pub(crate) fn readable(word: &str) -> Option<OptName> {
    READABLE
        .iter()
        .find(|entry| entry.0 == word || entry.1 == word)
        .map(|entry| entry.2)
}

/// An option as a script writes it; `device` names an interface by its index.
#[must_use]
pub fn print(option: &Opt, device: impl Fn(u32) -> String) -> String {
    let switch = |word: &str, on: bool| format!("{word} {}", if on { "on" } else { "off" });
    match *option {
        Opt::ReuseAddr(on) => switch("reuseaddr", on),
        Opt::ReusePort(on) => switch("reuseport", on),
        Opt::V6Only(on) => switch("v6only", on),
        Opt::Freebind(on) => switch("freebind", on),
        Opt::Freebind6(on) => switch("freebind6", on),
        Opt::Transparent(on) => switch("transparent", on),
        Opt::Transparent6(on) => switch("transparent6", on),
        Opt::BindToDevice(0) => "device none".to_owned(),
        Opt::BindToDevice(index) => format!("device {}", device(index)),
        Opt::BindToIfindex(index) => format!("ifindex {index}"),
        Opt::BindAddressNoPort(on) => switch("bind-no-port", on),
        Opt::LocalPortRange(range) => format!("port-range {}..{}", range & 0xffff, range >> 16),
        Opt::Linger(Some(seconds)) => format!("linger {seconds}"),
        Opt::Linger(None) => "linger off".to_owned(),
        Opt::IncomingCpu(cpu) => format!("incoming-cpu {cpu}"),
        Opt::ReuseportCbpf(Program::Index(index)) => format!("program index {index}"),
        Opt::ReuseportCbpf(Program::CpuModulo(n)) => format!("program cpu {n}"),
        Opt::DetachReuseport => "no-program".to_owned(),
        Opt::Repair(1) => "repair on".to_owned(),
        Opt::Repair(0) => "repair off".to_owned(),
        Opt::Repair(-1) => "repair no-window-probe".to_owned(),
        Opt::Repair(value) => format!("repair {value}"),
        Opt::FastOpen(length) => format!("fastopen {length}"),
        Opt::DeferAccept(seconds) => format!("defer-accept {seconds}"),
    }
}

/// The word of an option that is read.
#[must_use]
pub fn print_name(name: OptName) -> &'static str {
    READABLE
        .iter()
        .find(|entry| entry.2 == name)
        .map_or("?", |entry| entry.0)
}

/// An option by its word, to read it.
pub(super) fn read_name(at: &mut Cursor<'_>) -> Result<OptName, Problem> {
    let here = at.at;
    let word = at.next().unwrap_or("");
    readable(word).ok_or_else(|| {
        let known = READABLE.iter().flat_map(|entry| [entry.0, entry.1]);
        at.line.problem(
            here,
            format!("unknown option `{word}`"),
            did_you_mean(word, known),
        )
    })
}
