//! Would this address open now? Reads the host, or a file of one, and tells.
//!
//! Decides:  what is read for which question; where the answer goes; the exit code.
//! Not here: the answer itself (crate `inspect`, verdict).

use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use portcullis_inspect::snapshot::{Process, Snapshot};
use portcullis_inspect::traffic::{Served, traffic};
use portcullis_inspect::verdict::{self, Opening, Outcome, Verdict};
use portcullis_inspect::{Caller, Means, Others, Place, Wanted, read};
use portcullis_kernel_model::{Family, Opt};
use portcullis_sys::errno;
use serde::Serialize;

use super::target::{Target, with_scope};
use super::unix::{self, Reach};
use crate::exit::{self, Exit};
use crate::listeners::traps::Word;
use crate::terminal;

/// What is asked of an address.
#[derive(Debug, Args)]
#[group(id = "Asked", multiple = true)]
pub struct Arguments {
    // Not a doc comment: rustdoc would read the address in brackets as a link.
    #[arg(
        value_name = "ADDR[:PORT]",
        help = "Would bind and listen succeed here now? As on a bind line: 10.0.0.5:443, *:443, [::]:443, /run/x.sock"
    )]
    address: Option<Target>,
    /// With SO_REUSEPORT
    #[arg(long)]
    reuseport: bool,
    /// With SO_REUSEADDR
    #[arg(long)]
    reuseaddr: bool,
    /// With IP_TRANSPARENT
    #[arg(long)]
    transparent: bool,
    /// With IP_FREEBIND
    #[arg(long)]
    freebind: bool,
    /// With SO_BINDTODEVICE
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// With IPV6_V6ONLY
    #[arg(long)]
    v6only: bool,
    /// As a program that this user starts, by name or number, without capabilities unless it is root
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// As this process would: its user, capabilities and network namespace
    #[arg(long, value_name = "PID", conflicts_with = "user")]
    pid: Option<u32>,
    /// In this network namespace: a name of `ip netns`, or a path
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
    /// It listens, and nothing arrives, or only some: who would get a connection, and what is in its way
    #[arg(long, requires = "address")]
    no_traffic: bool,
    /// With --no-traffic: connections from this address
    #[arg(long, value_name = "ADDR", requires = "no_traffic")]
    from: Option<IpAddr>,
    /// Ask about the host of a file that --save wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["netns", "save"])]
    host: Option<PathBuf>,
    /// Write the host down, for --host; without an address, do no more. `-` is standard output
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Keep the arguments of command lines in the file of --save; without it only programs' names are
    #[arg(long, requires = "save")]
    with_arguments: bool,
}

impl Arguments {
    fn has_options_of_tcp(&self) -> bool {
        let flags = [
            self.reuseport,
            self.reuseaddr,
            self.transparent,
            self.freebind,
            self.v6only,
        ];
        flags.contains(&true) || self.interface.is_some()
    }

    /// Whether there is anything to do.
    pub fn asks(&self) -> bool {
        self.address.is_some() || self.save.is_some()
    }
}

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Something that cannot be asked.
#[derive(Debug)]
struct Unasked {
    what: String,
    exit: Exit,
}

impl Unasked {
    fn usage(what: impl Into<String>) -> Unasked {
        Unasked {
            what: what.into(),
            exit: exit::USAGE,
        }
    }

    fn unreadable(what: impl Into<String>) -> Unasked {
        Unasked {
            what: what.into(),
            exit: exit::WHY_UNKNOWN,
        }
    }
}

/// Asks, and tells.
pub fn run(arguments: &Arguments, form: Form, output: Option<&Path>) -> Exit {
    let told = answer(arguments, form).and_then(|(text, exit)| {
        write(&text, output)?;
        Ok(exit)
    });
    told.unwrap_or_else(|unasked| {
        terminal::err(&format!("error: {}\n", unasked.what));
        unasked.exit
    })
}

fn write(text: &str, output: Option<&Path>) -> Result<(), Unasked> {
    let Some(path) = output else {
        let written = terminal::try_out(text);
        return written.map_err(|error| {
            Unasked::usage(format!(
                "cannot write standard output: {}",
                errno::of(&error)
            ))
        });
    };
    let written = std::fs::write(path, text);
    written.map_err(|error| Unasked::usage(format!("cannot write {}: {error}", path.display())))
}

fn answer(arguments: &Arguments, form: Form) -> Result<(String, Exit), Unasked> {
    if let Some(Target::Word(word)) = &arguments.address {
        return explained(*word, form);
    }
    let snapshot = host(arguments)?;
    if let Some(path) = &arguments.save {
        save(&snapshot, path, arguments.with_arguments)?;
    }
    let Some(target) = &arguments.address else {
        return Ok((String::new(), exit::OK));
    };
    match target {
        Target::Word(word) => explained(*word, form),
        Target::Unix(_) if arguments.no_traffic => Err(Unasked::usage("--no-traffic is about TCP")),
        Target::Unix(_) if arguments.has_options_of_tcp() => Err(Unasked::usage(
            "a Unix socket has none of the options of IP: leave them out",
        )),
        Target::Unix(name) => {
            let elsewhere = arguments.host.is_some()
                || arguments.netns.is_some()
                || arguments.user.is_some()
                || arguments.pid.is_some();
            let reach = if elsewhere { Reach::Other } else { Reach::Own };
            let verdict = unix::ask(&snapshot, name, reach);
            Ok((told(&verdict, form)?, exit_of(verdict.outcome)))
        }
        Target::Tcp { at, .. } if arguments.no_traffic => {
            if at.port() == 0 {
                return Err(Unasked::usage(
                    "--no-traffic takes an address with its port",
                ));
            }
            let traffic = traffic(&snapshot, *at, arguments.from)
                .map_err(|nonsense| Unasked::usage(nonsense.to_string()))?;
            let exit = match traffic.outcome {
                Served::All => exit::WHY_WORKS,
                Served::NotAll | Served::None => exit::WHY_REFUSED,
                Served::Unknown => exit::WHY_UNKNOWN,
            };
            Ok((told(&traffic, form)?, exit))
        }
        Target::Tcp { at, zone } => {
            let opening = opening(arguments, &snapshot, *at, zone.as_deref())?;
            let mut verdict = verdict::ask_from_socket(&snapshot, &opening)
                .map_err(|nonsense| Unasked::usage(nonsense.to_string()))?;
            if verdict.outcome == Outcome::Works && arguments.host.is_none() && at.port() != 0 {
                let (found, unseen) = elsewhere(arguments, at.port());
                verdict.elsewhere = found;
                verdict.unseen.extend(unseen);
            }
            tell(&verdict, form)
        }
    }
}

fn tell(verdict: &Verdict, form: Form) -> Result<(String, Exit), Unasked> {
    Ok((told(verdict, form)?, exit_of(verdict.outcome)))
}

fn exit_of(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Works => exit::WHY_WORKS,
        Outcome::Refused => exit::WHY_REFUSED,
        Outcome::Unknown => exit::WHY_UNKNOWN,
    }
}

/// What a word after `!` in the table of listeners means.
fn explained(word: Word, form: Form) -> Result<(String, Exit), Unasked> {
    let explained = word.explained().map(|explained| told(&explained, form));
    Ok((explained.transpose()?.unwrap_or_default(), exit::OK))
}

fn told<T: Display + Serialize>(what: &T, form: Form) -> Result<String, Unasked> {
    match form {
        Form::Text => Ok(what.to_string()),
        Form::Json => {
            let json = serde_json::to_string_pretty(what);
            Ok(json.map_err(|error| Unasked::unreadable(error.to_string()))? + "\n")
        }
    }
}

/// What is read, beside the port.
fn wanted(arguments: &Arguments) -> Wanted {
    Wanted {
        caller: match (&arguments.user, arguments.pid) {
            (Some(user), _) => Caller::User(user.clone()),
            (None, Some(pid)) => Caller::Process(pid),
            (None, None) => Caller::Own,
        },
        place: match &arguments.netns {
            Some(name) => Place::Named(name.clone()),
            None => Place::Here,
        },
        others: match arguments.save {
            Some(_) => Others::Yes,
            None => Others::No,
        },
        port: port(arguments),
        near: verdict::NEAR,
        ..Wanted::default()
    }
}

/// The port that is asked about, where nothing else of the host is told or kept.
fn port(arguments: &Arguments) -> Option<u16> {
    match (&arguments.address, &arguments.save) {
        (Some(Target::Tcp { at, .. }), None) => Some(at.port()).filter(|&port| port != 0),
        _ => None,
    }
}

fn host(arguments: &Arguments) -> Result<Snapshot, Unasked> {
    let Some(path) = &arguments.host else {
        return read(&wanted(arguments)).map_err(unreadable);
    };
    let loaded = Snapshot::load(path);
    let mut snapshot =
        loaded.map_err(|error| Unasked::usage(format!("{}: {error}", path.display())))?;
    if let Some(caller) = caller_of_file(arguments, &snapshot)? {
        snapshot.caller = caller.pid;
        snapshot.processes.retain(|known| known.pid != caller.pid);
        snapshot.processes.push(caller);
    }
    Ok(snapshot)
}

fn unreadable(error: io::Error) -> Unasked {
    match error.kind() {
        // There is no such user, process or namespace.
        io::ErrorKind::NotFound => Unasked::usage(error.to_string()),
        _ => Unasked::unreadable(format!("this host cannot be read: {error}")),
    }
}

/// Another caller on a host that is a file: one of its processes, or a user by number or as a process of it
/// has it.
fn caller_of_file(arguments: &Arguments, snapshot: &Snapshot) -> Result<Option<Process>, Unasked> {
    if let Some(pid) = arguments.pid {
        let known = snapshot.process(pid).cloned();
        let missing = || Unasked::usage(format!("there is no process {pid} in the file"));
        return known.map(Some).ok_or_else(missing);
    }
    let Some(name) = &arguments.user else {
        return Ok(None);
    };
    let processes = snapshot.processes.iter();
    let mut named = processes.filter(|one| one.user.as_ref() == Some(name));
    let uid = named
        .next()
        .and_then(|one| Some(one.uids?[1]))
        .or_else(|| name.parse().ok())
        .or((name == "root").then_some(0));
    let uid = uid.ok_or_else(|| {
        Unasked::usage(format!(
            "no process of the file is of user {name:?}; give the number"
        ))
    })?;
    let own = snapshot.process(snapshot.caller).cloned();
    let own = own.ok_or_else(|| Unasked::usage("the file's caller is not among its processes"))?;
    Ok(Some(Process {
        pid: 0,
        uids: Some([uid; 4]),
        user: Some(name.clone()),
        capabilities: Some(if uid == 0 { u64::MAX } else { 0 }),
        seccomp: None,
        no_new_privs: None,
        stopped: false,
        label: None,
        descriptors: None,
        polls: Vec::new(),
        ..own
    }))
}

fn save(snapshot: &Snapshot, path: &Path, with_arguments: bool) -> Result<(), Unasked> {
    let mut snapshot = snapshot.clone();
    if !with_arguments {
        snapshot.without_arguments();
    }
    let write = |text: String| match path.as_os_str() == "-" {
        true => terminal::try_out(&text),
        false => std::fs::write(path, text),
    };
    let written = snapshot.render().and_then(write);
    written.map_err(|error| Unasked::usage(format!("cannot write {}: {error}", path.display())))
}

fn opening(
    arguments: &Arguments,
    snapshot: &Snapshot,
    at: std::net::SocketAddr,
    zone: Option<&str>,
) -> Result<Opening, Unasked> {
    let mut at = at;
    if let Some(zone) = zone {
        // As getaddrinfo(3) has it: a name, or a number that need not be one of an interface.
        let known = Opening::index(snapshot, zone).or_else(|| zone.parse().ok());
        let no_zone = || Unasked::usage(format!("there is no interface {zone:?}"));
        at = with_scope(at, known.ok_or_else(no_zone)?);
    }
    let mut opening = Opening::new(at);
    let six = opening.family == Family::Inet6;
    if arguments.v6only && !six {
        return Err(Unasked::usage(format!(
            "{} is an IPv4 address: --v6only is for IPv6",
            at.ip()
        )));
    }
    let mut set = |on: bool, opt| opening.options.extend(on.then_some(opt));
    set(arguments.reuseaddr, Opt::ReuseAddr(true));
    set(arguments.reuseport, Opt::ReusePort(true));
    set(arguments.v6only, Opt::V6Only(true));
    set(
        arguments.freebind,
        if six {
            Opt::Freebind6(true)
        } else {
            Opt::Freebind(true)
        },
    );
    set(
        arguments.transparent,
        if six {
            Opt::Transparent6(true)
        } else {
            Opt::Transparent(true)
        },
    );
    if let Some(name) = &arguments.interface {
        opening.options.push(Opening::device(snapshot, name));
    }
    Ok(opening)
}

/// Who has the port in other network namespaces, and which of those could not be looked at.
fn elsewhere(arguments: &Arguments, port: u16) -> (Vec<verdict::Elsewhere>, Option<String>) {
    let wanted = Wanted {
        port: Some(port),
        near: 0,
        others: Others::Yes,
        means: Means::SockDiag,
        ..wanted(arguments)
    };
    match read(&wanted) {
        Ok(snapshot) => {
            let found = verdict::elsewhere(&snapshot, port);
            (found, verdict::unseen_elsewhere(&snapshot))
        }
        Err(error) => (
            Vec::new(),
            Some(format!("other network namespaces: {error}")),
        ),
    }
}
