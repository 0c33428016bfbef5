//! Unix sockets and inherited descriptors of a configuration: would they open here?
//!
//! Decides:  what is certain (another kind of file, no directory, no right to write,
//!           a descriptor that is no listener) and so an error; that a path which somebody listens on is
//!           taken over, and that is told; that a descriptor which only `run` may be given is a warning.
//! Source:   crates/listener, unix.rs: a socket is bound beside its path and renamed; inherited.rs
//! Not here: TCP (foreseen.rs); names that are too long, two lines with one path (the file alone says it).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portcullis_config::{Diagnostic, Severity};
use portcullis_control::compile::ToOpen;
use portcullis_inspect::snapshot::{Snapshot, UnixSocket};
use portcullis_listener::activation::Activation;
use portcullis_listener::address::ABSTRACT_NAME_MAX;
use portcullis_listener::inherited::{self, InheritedFault};
use portcullis_listener::spec::AbstractForm;
use portcullis_listener::{Address, LocalAddress};

use super::balancers::{Balancers, Holding};
use super::foreseen::{HELD, REFUSES, notes_of};
use crate::commands::why::unix::{self, Reach, UnixVerdict};

const STICKY: u32 = 0o1000;

/// Who will open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// Whoever asks.
    Asker,
    /// Root, who does not ask.
    Root,
}

/// What is asked, and who.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Of this host, and of the listener's network namespace.
    pub snapshot: &'a Snapshot,
    /// Who will open.
    pub opener: Opener,
    /// Who hands sockets over.
    pub balancers: &'a Balancers,
}

/// What is said of one listener that is not TCP, if anything.
pub fn of_listener(listener: &ToOpen<'_>, asked: &Asked<'_>) -> Option<Diagnostic> {
    let reach = match listener.spec.network_namespace {
        None => Reach::Own,
        Some(_) => Reach::Other,
    };
    let found = match &listener.spec.address {
        Address::UnixPath(path) => of_path(path, asked),
        Address::UnixAbstract { name, form } => of_abstract(name, *form, asked, reach),
        Address::Inherited(number) => of_number(*number),
        Address::Activated(name) => of_name(name),
        Address::Tcp(_) | Address::Mptcp(_) => None,
    };
    found.map(|found| found.at(listener.place))
}

fn refuses(what: impl std::fmt::Display) -> Diagnostic {
    let what = format!("this host would refuse it: {what}");
    Diagnostic::new(Severity::Error, REFUSES, what)
}

/// In the words of `why`.
fn refused(verdict: &UnixVerdict) -> Diagnostic {
    let text = verdict.to_string();
    let first = text.lines().next().unwrap_or_default();
    let found = refuses(first.strip_prefix("error: ").unwrap_or(first));
    notes_of(&text).into_iter().fold(found, Diagnostic::note)
}

fn of_path(path: &Path, asked: &Asked<'_>) -> Option<Diagnostic> {
    let verdict = unix::ask_beside(asked.snapshot, path);
    match verdict.error() {
        // It may be root's to look at, and is not the asker's.
        Some("EACCES") if asked.opener == Opener::Root => return None,
        Some(_) => return Some(refused(&verdict)),
        None => {}
    }
    if asked.opener == Opener::Asker
        && let Some(found) = sticky(path)
    {
        return Some(found);
    }
    let net = asked.snapshot.namespaces.first()?;
    let holder = net.unix.iter().find(|one| one.is_at(path))?;
    Some(taken_over(asked, holder, path))
}

/// The socket takes the place of an old one.
fn sticky(path: &Path) -> Option<Diagnostic> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let own = rustix::process::geteuid().as_raw();
    let (at, old) = (
        std::fs::metadata(directory).ok()?,
        std::fs::symlink_metadata(path).ok()?,
    );
    let others = at.mode() & STICKY != 0 && own != 0 && at.uid() != own && old.uid() != own;
    others.then(|| {
        let what = format!(
            "the socket at {} is another user's, in a sticky directory (EPERM)",
            path.display()
        );
        refuses(what).note("rule: only its owner may put another one in its place")
    })
}

/// Somebody listens there.
fn taken_over(asked: &Asked<'_>, holder: &UnixSocket, path: &Path) -> Diagnostic {
    let shown = path.display();
    let at = LocalAddress::UnixPath(path.to_owned());
    if let Holding::HandsOver(name) = asked.balancers.of_unix(asked.snapshot, holder, &at) {
        let what =
            format!("{name} has {shown}: it opens once that one hands its sockets over, or ends");
        return Diagnostic::new(Severity::Notice, HELD, what);
    }
    let mut processes = holder.holders.iter();
    let first = processes.find_map(|one| asked.snapshot.process(one.pid));
    let name = first.map_or_else(
        || "a process that cannot be seen".to_owned(),
        |one| format!("{} (pid {})", one.name, one.pid),
    );
    let what = format!(
        "{name} listens on {shown}, and would get no more connections: the path is taken over"
    );
    Diagnostic::new(Severity::Warning, "path-taken-over", what)
}

/// An abstract name as the host's lists have it: one that is padded and one that is not are two.
pub(super) fn abstract_name(name: &[u8], form: AbstractForm) -> String {
    let padding = match form {
        AbstractForm::Padded => ABSTRACT_NAME_MAX.saturating_sub(name.len()),
        AbstractForm::Exact => 0,
    };
    format!("@{}{}", String::from_utf8_lossy(name), "\0".repeat(padding))
}

fn of_abstract(
    name: &[u8],
    form: AbstractForm,
    asked: &Asked<'_>,
    reach: Reach,
) -> Option<Diagnostic> {
    let whole = abstract_name(name, form);
    let verdict = unix::ask(asked.snapshot, &whole, reach);
    verdict.error()?;
    let net = asked.snapshot.namespaces.first()?;
    if let Some(holder) = net.unix.iter().find(|one| one.name == whole) {
        let at = LocalAddress::UnixAbstract(whole.as_bytes()[1..].to_vec());
        if let Holding::HandsOver(who) = asked.balancers.of_unix(asked.snapshot, holder, &at) {
            let shown = whole.trim_end_matches('\0');
            let what = format!(
                "{who} has {shown}: it opens once that one hands its sockets over, or ends"
            );
            return Some(Diagnostic::new(Severity::Notice, HELD, what));
        }
    }
    Some(refused(&verdict))
}

fn of_number(number: i32) -> Option<Diagnostic> {
    let fault = match is_ours(number) {
        true => Err(InheritedFault::NotOpen),
        false => inherited::look(number),
    };
    match fault {
        Ok(_) => None,
        Err(InheritedFault::NotOpen) => {
            let what = format!("fd@{number} is not open here: `run` has to be started with it");
            Some(Diagnostic::new(
                Severity::Warning,
                "descriptor-not-here",
                what,
            ))
        }
        Err(fault) => Some(refuses(format!("fd@{number}: {fault}"))),
    }
}

/// The sockets that systemd passed under a name, if `check` is run where it passes them.
fn of_name(name: &str) -> Option<Diagnostic> {
    let numbers = Activation::of_process().and_then(|passed| passed.numbers(name));
    match numbers {
        Ok(numbers) => numbers.into_iter().find_map(of_number),
        Err(fault) => {
            let what = format!("sd@{name}: {fault}: `run` has to be started by its socket unit");
            Some(Diagnostic::new(
                Severity::Warning,
                "descriptor-not-here",
                what,
            ))
        }
    }
}

/// Whether a number was opened by this process: those that came over exec are not closed by it.
fn is_ours(number: i32) -> bool {
    const CLOEXEC: u32 = 0o2_000_000;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    flags.is_some_and(|flags| flags & CLOEXEC != 0)
}
