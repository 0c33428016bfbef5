//! Why a call was refused to which no rule of bind and listen applies: no descriptor left, a Unix socket's name,
//! a port of UDP.
//!
//! Decides:  that who stands in the way is named here as for TCP; where nobody is seen, that is said.
//! Kernel:   net/unix/af_unix.c, unix_bind(), 6.0 to 6.18; unix(7)
//! Not here: what an error means by itself (crate `trace`), the limits (crate `inspect`, verdict).

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use portcullis_inspect::snapshot::{Snapshot, UnixSocket};
use portcullis_inspect::verdict::{self, Holding};
use portcullis_inspect::{Caller, Means, Wanted, bound_to_file, datagram_holders, read};
use portcullis_sys::errno;
use portcullis_trace::{Holder, Reason, Refused, RuleText, Way, explain};

const EMFILE: i32 = 24;
const EADDRINUSE: i32 = 98;

pub(super) fn reason(refused: &Refused<'_>) -> Option<Reason> {
    match refused.wanted {
        explain::Wanted::Socket => no_socket(refused),
        explain::Wanted::Name(name) if refused.errno == EADDRINUSE => taken(refused, name),
        explain::Wanted::Port("udp", at) if refused.errno == EADDRINUSE => {
            let at = SocketAddr::new(at.ip, at.port);
            held(datagram_holders(refused.process.unsigned_abs(), at).ok()?)
        }
        explain::Wanted::Name(_) | explain::Wanted::Port(..) => None,
    }
}

/// The host, with all that listens on Unix sockets; nothing but its holders is told of a TCP socket.
fn host(refused: &Refused<'_>, port: Option<u16>) -> Option<Snapshot> {
    let wanted = Wanted {
        port,
        caller: Caller::Process(refused.process.unsigned_abs()),
        means: Means::SockDiag,
        ..Wanted::default()
    };
    read(&wanted).ok()
}

/// The limit that was reached.
fn no_socket(refused: &Refused<'_>) -> Option<Reason> {
    // No socket is asked about: any port is as good, and one is quick to read.
    let snapshot = host(refused, Some(1))?;
    let why = verdict::no_socket(&snapshot)?;
    if Some(why.error) != errno::name(refused.errno) {
        return None;
    }
    let limits = verdict::Descriptors::of(&snapshot);
    let told = |limits: &verdict::Descriptors| format!(" Here {}.", limits.told());
    let twice = limits.as_ref().map(|limits| limits.soft.saturating_mul(2));
    let limits = limits.as_ref().map_or_else(String::new, told);
    let again = twice.filter(|_| refused.errno == EMFILE);
    let again = again.map(|limit| format!("start it with a higher limit: ulimit -n {limit}"));
    let ways = again
        .into_iter()
        .chain(why.hints)
        .map(Way::advice)
        .collect();
    Some(Reason {
        rule: RuleText {
            id: why.rule.id.to_owned(),
            text: format!("{}{limits}", why.rule.text),
        },
        holders: Vec::new(),
        ways,
    })
}

fn held(holders: Vec<verdict::Holder>) -> Option<Reason> {
    if holders.is_empty() {
        return None;
    }
    let advice = match holders.as_slice() {
        [one] => format!("stop {}, or take another port", one.called()),
        _ => "stop them, or take another port".to_owned(),
    };
    Some(Reason {
        holders: holders.iter().map(super::told).collect(),
        ..Reason::plain(
            "another udp socket holds the port on an address that this one covers",
            &advice,
        )
    })
}

/// Who has a Unix socket's name.
fn taken(refused: &Refused<'_>, name: &[u8]) -> Option<Reason> {
    let snapshot = host(refused, None)?;
    let (named, path) = match name.split_first() {
        Some((0, rest)) => (format!("@{}", String::from_utf8_lossy(rest)), None),
        _ => {
            let end = name.iter().position(|&byte| byte == 0);
            let name = &name[..end.unwrap_or(name.len())];
            let text = String::from_utf8_lossy(name).into_owned();
            (text, Some(seen_by(refused.process, name)))
        }
    };
    let net = snapshot.namespaces.first()?;
    let same = |socket: &&UnixSocket| match &path {
        None => socket.name == named,
        Some(path) => socket.is_at(path) || (named.starts_with('/') && socket.name == named),
    };
    let sockets = net.unix.iter().filter(same);
    let mut holders: Vec<Holder> = sockets
        .map(|socket| listener(&snapshot, socket, &named))
        .collect();
    if holders.is_empty()
        && let Some(path) = &path
        && let Ok(bound) = bound_to_file(refused.process.unsigned_abs(), path)
    {
        let sockets = bound.namespaces.first().map(|net| net.unix.as_slice());
        let told = |socket| one(&bound, socket, format!("bound to {named}, not listening"));
        holders = sockets.unwrap_or_default().iter().map(told).collect();
    }
    let reason = match (&path, holders.is_empty()) {
        (None, true) => return None,
        (None, false) => Reason::plain(
            "an abstract name belongs to one socket of a network namespace, and is free when that is closed",
            "stop who holds it, or take another name",
        ),
        (Some(path), true) if !is_socket(path) => Reason::plain(
            "a file of this name exists, and it is no socket",
            "take another path",
        ),
        (Some(_), true) => Reason::plain(
            "a file of this name exists; a Unix socket's file stays when its server ends, and nobody has this one that can be seen",
            "remove the file before bind",
        ),
        (Some(_), false) => Reason::plain(
            "a file of this name exists, and it is somebody's socket",
            "stop whose it is; or put a new socket in its place by rename(2), as `portcullis run` and HAProxy do",
        ),
    };
    Some(Reason { holders, ..reason })
}

/// The path as the process means it: from its own root and its own directory.
fn seen_by(process: i32, name: &[u8]) -> PathBuf {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let proc = PathBuf::from(format!("/proc/{process}"));
    match path.strip_prefix("/") {
        Ok(below) => proc.join("root").join(below),
        Err(_) => proc.join("cwd").join(path),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

fn listener(snapshot: &Snapshot, socket: &UnixSocket, name: &str) -> Holder {
    let what = format!(
        "listening on {}, {} of {} connections waiting",
        name.replace('\0', "@"),
        socket.queue,
        u64::from(socket.backlog) + 1
    );
    one(snapshot, socket, what)
}

/// A socket that is so, and all that hold it.
fn one(snapshot: &Snapshot, socket: &UnixSocket, what: String) -> Holder {
    let all = Holding::all(snapshot, &socket.holders);
    let first = all.first();
    let whose = first.map(Holding::whose).filter(|text| !text.is_empty());
    let fd = first.and_then(|one| one.descriptors.first());
    let unseen = "a process that cannot be seen";
    Holder {
        program: first.map_or(unseen, |one| &one.program).to_owned(),
        process: first.and_then(|one| i32::try_from(one.pid).ok()),
        fd: fd.and_then(|&fd| i32::try_from(fd).ok()),
        what: match whose {
            Some(whose) => format!("{what}, {whose}"),
            None => what,
        },
        more: Holding::more(&all),
    }
}
