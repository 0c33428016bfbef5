//! Unix sockets and inherited descriptors of a configuration: would they open here?
//!
//! Decides:  what is certain (another kind of file, no directory, no right to write,
//!           a descriptor that is no listener) and so an error; that a path which somebody listens on is
//!           taken over, and that is told; that a descriptor which only `run` may be given is a warning.
//! Source:   crates/listener, unix.rs: a socket is bound beside its path and renamed; inherited.rs
//! Not here: TCP (foreseen.rs); names that are too long, two lines with one path (the file alone says it).

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use portcullis_config::{Diagnostic, Severity};
use portcullis_control::compile::ListenerPlan;
use portcullis_inspect::snapshot::{Snapshot, UnixSocket};
use portcullis_listener::Address;
use portcullis_listener::activation::Activation;
use portcullis_listener::address::ABSTRACT_NAME_MAX;
use portcullis_listener::inherited::{self, InheritedFault};
use portcullis_listener::spec::AbstractForm;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::foreseen::{BALANCERS, REFUSES};
use crate::filesystem::no_files;

const STICKY: u32 = 0o1000;

/// Who will open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// Whoever asks.
    Asker,
    /// Root, who does not ask.
    Root,
}

/// What is said of one listener that is not TCP, if anything. The snapshot is of this host, and of the
/// listener's network namespace.
pub fn of_listener(
    listener: &ListenerPlan,
    snapshot: &Snapshot,
    opener: Opener,
) -> Option<Diagnostic> {
    let found = match &listener.spec.address {
        Address::UnixPath(path) => of_path(path, snapshot, opener),
        Address::UnixAbstract { name, form } => of_abstract(name, *form, snapshot),
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

fn of_path(path: &Path, snapshot: &Snapshot, opener: Opener) -> Option<Diagnostic> {
    let shown = path.display();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match std::fs::metadata(directory) {
        Ok(at) if !at.is_dir() => {
            let what = format!("{} is no directory (ENOTDIR)", directory.display());
            return Some(refuses(what));
        }
        Ok(_) => {}
        Err(error) => return of_directory(directory, &error, opener),
    }
    if let Some(error) = no_files(directory) {
        let what = format!("no file can be made in {} ({error})", directory.display());
        let found = refuses(what).note("rule: in this file system the kernel alone makes files");
        return Some(found.note("hint: take a path under /run"));
    }
    let there = std::fs::symlink_metadata(path).ok();
    if there.as_ref().is_some_and(|at| !at.file_type().is_socket()) {
        return Some(
            refuses(format!("{shown} is there, and is no socket (EADDRINUSE)"))
                .note("hint: take another path, or move that file away"),
        );
    }
    if opener == Opener::Asker
        && let Some(found) = may_not_write(directory, path, there.as_ref())
    {
        return Some(found);
    }
    let net = snapshot.namespaces.first()?;
    let holder = net.unix.iter().find(|one| one.is_at(path))?;
    Some(taken_over(snapshot, holder, &shown.to_string()))
}

/// The directory cannot be looked at.
fn of_directory(directory: &Path, error: &io::Error, opener: Opener) -> Option<Diagnostic> {
    let shown = directory.display();
    match error.kind() {
        io::ErrorKind::NotFound => Some(
            refuses(format!("there is no directory {shown} (ENOENT)"))
                .note(format!("hint: mkdir -p {shown}")),
        ),
        io::ErrorKind::NotADirectory => Some(refuses(format!(
            "a part of {shown} is no directory (ENOTDIR)"
        ))),
        io::ErrorKind::PermissionDenied if opener == Opener::Asker => {
            Some(refuses(format!("{shown} may not be entered (EACCES)")))
        }
        _ => None,
    }
}

/// The socket is made in the directory, and takes the place of an old one.
fn may_not_write(
    directory: &Path,
    path: &Path,
    there: Option<&std::fs::Metadata>,
) -> Option<Diagnostic> {
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    if let Err(errno) = accessat(CWD, directory, rights, AtFlags::EACCESS) {
        let name = portcullis_sys::errno::name(errno.raw_os_error()).unwrap_or("an error");
        let what = format!("no file may be made in {} ({name})", directory.display());
        return Some(
            refuses(what).note("rule: bind makes a file, which needs the right to write there"),
        );
    }
    let own = rustix::process::geteuid().as_raw();
    let (at, old) = (std::fs::metadata(directory).ok()?, there?);
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
fn taken_over(snapshot: &Snapshot, holder: &UnixSocket, shown: &str) -> Diagnostic {
    let processes = holder.holders.iter();
    let known = processes.filter_map(|one| snapshot.process(one.pid));
    let first = known.clone().next();
    let name = first.map_or_else(
        || "a process that cannot be seen".to_owned(),
        |one| format!("{} (pid {})", one.name, one.pid),
    );
    let mut all = known.map(|one| BALANCERS.contains(&one.name.as_str()));
    if first.is_some() && all.all(|balancer| balancer) {
        let what =
            format!("{name} has {shown}: it opens once that one hands its sockets over, or ends");
        return Diagnostic::new(Severity::Notice, "held-by-balancer", what);
    }
    let what = format!(
        "{name} listens on {shown}, and would get no more connections: the path is taken over"
    );
    Diagnostic::new(Severity::Warning, "path-taken-over", what)
}

fn of_abstract(name: &[u8], form: AbstractForm, snapshot: &Snapshot) -> Option<Diagnostic> {
    let shown = format!("@{}", String::from_utf8_lossy(name));
    let net = snapshot.namespaces.first()?;
    // A name that is padded and one that is not are two.
    let padding = match form {
        AbstractForm::Padded => ABSTRACT_NAME_MAX.saturating_sub(name.len()),
        AbstractForm::Exact => 0,
    };
    let whole = format!("{shown}{}", "\0".repeat(padding));
    let holder = net.unix.iter().find(|one| one.name == whole)?;
    let processes = holder.holders.iter();
    let known: Vec<_> = processes
        .filter_map(|one| snapshot.process(one.pid))
        .collect();
    let who = known.first().map_or_else(
        || "a process that cannot be seen".to_owned(),
        |one| format!("{} (pid {})", one.name, one.pid),
    );
    let balancer = |name: &str| BALANCERS.contains(&name);
    if !known.is_empty() && known.iter().all(|one| balancer(&one.name)) {
        let what =
            format!("{who} has {shown}: it opens once that one hands its sockets over, or ends");
        return Some(Diagnostic::new(Severity::Notice, "held-by-balancer", what));
    }
    let what = format!("cannot bind {shown}: address already in use (EADDRINUSE)");
    Some(refuses(what).note(format!("holder: {who}")))
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
