//! Would a Unix socket open here?
//!
//! Decides:  what a file in the way, a missing directory, a permission and a name that is held answer.
//! Kernel:   net/unix/af_unix.c, unix_bind_bsd(), unix_bind_abstract(), unix_mkname_bsd(), 6.0 to 6.18;
//!           fs/namei.c, vfs_mknod(): a file of the name refuses, whoever listens on it or nobody
//! Not here: TCP (crate `inspect`, verdict).

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use portcullis_inspect::bound_to_file;
use portcullis_inspect::snapshot::{Holder, Snapshot, UnixSocket};
use portcullis_inspect::verdict::{Outcome, no_socket};
use portcullis_sys::{errno, files};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::Serialize;

use crate::filesystem::no_files;

/// `sun_path` holds so many bytes.
const PATH_MAX: usize = 108;
/// An abstract name has one byte less: a NUL stands before it.
const ABSTRACT_MAX: usize = 107;

/// `SS_UNCONNECTED`, as /proc/net/unix has it: bound, and perhaps listening.
const UNCONNECTED: &str = "01";

/// What would come of it.
#[derive(Debug, Serialize)]
pub struct UnixVerdict {
    /// 1; another number where a field changed its meaning.
    format: u32,
    /// The path, or after `@` the abstract name.
    name: String,
    /// In one word.
    pub outcome: Outcome,
    /// The error's name in C.
    error: Option<&'static str>,
    /// The rule, in a sentence.
    text: String,
    /// Who listens there, a line each.
    holders: Vec<String>,
    /// What would help; nothing was tried.
    hints: Vec<String>,
}

/// What can be looked at beside the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This process's own files and network.
    Own,
    /// Another caller's, another network's or another host's.
    Other,
}

impl UnixVerdict {
    fn new(name: &str, outcome: Outcome, text: impl Into<String>) -> UnixVerdict {
        UnixVerdict {
            format: 1,
            name: name.trim_end_matches('\0').to_owned(),
            outcome,
            error: None,
            text: text.into(),
            holders: Vec::new(),
            hints: Vec::new(),
        }
    }

    fn refused(name: &str, error: &'static str, text: impl Into<String>) -> UnixVerdict {
        UnixVerdict {
            error: Some(error),
            ..UnixVerdict::new(name, Outcome::Refused, text)
        }
    }

    /// The error's name in C, where it is refused.
    pub fn error(&self) -> Option<&'static str> {
        self.error
    }

    fn hint(mut self, hint: impl Into<String>) -> UnixVerdict {
        self.hints.push(hint.into());
        self
    }
}

/// Would it open?
pub fn ask(snapshot: &Snapshot, name: &str, reach: Reach) -> UnixVerdict {
    let mut holders = holders(snapshot, name, reach);
    if holders.is_empty() && reach == Reach::Own && !name.starts_with('@') {
        holders = bound(name);
    }
    if let Some(refused) = no_socket(snapshot) {
        let verdict = UnixVerdict::refused(name, refused.error, refused.rule.text);
        return UnixVerdict {
            hints: refused.hints,
            ..verdict
        };
    }
    let verdict = match name.strip_prefix('@') {
        Some(_) => of_abstract(name, &holders, reach),
        None => of_path(name, &holders, reach),
    };
    let verdict = UnixVerdict { holders, ..verdict };
    match name.strip_prefix('@').and_then(|name| name.strip_suffix('\0')) {
        Some(filled) => verdict.hint(format!(
            "asked about the name filled up with NULs, as HAProxy's abns@ makes it; abnsz@{} is the name alone",
            filled.trim_end_matches('\0')
        )),
        None => verdict,
    }
}

/// Would it open for who binds beside the path and renames, as `run` does? A socket of the name is no obstacle.
pub fn ask_beside(snapshot: &Snapshot, path: &Path) -> UnixVerdict {
    let name = &*path.to_string_lossy();
    if let Some(refused) = no_socket(snapshot) {
        return UnixVerdict::refused(name, refused.error, refused.rule.text);
    }
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => in_the_way(name, &file.file_type(), &[]),
        Ok(_) => new_file(name, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_file(name, path),
        Err(error) => of_error(name, &error),
    }
}

/// What an error means that the kernel gave, where a path says it.
pub fn of_errno(path: &Path, number: i32) -> UnixVerdict {
    of_error(
        &path.to_string_lossy(),
        &io::Error::from_raw_os_error(number),
    )
}

/// Who listens on a socket of this name.
fn holders(snapshot: &Snapshot, name: &str, reach: Reach) -> Vec<String> {
    let net = snapshot.namespaces.first();
    let all = net.into_iter().flat_map(|net| &net.unix);
    // Portcullis and HAProxy bind beside the path and rename: the name is then another one.
    let named = all.filter(|socket| match reach {
        Reach::Own => socket.is_at(Path::new(name)),
        Reach::Other => socket.name == name,
    });
    let told = named.flat_map(|socket| {
        let waiting = format!(
            "listening on {}, {} of {} connections waiting",
            name.trim_end_matches('\0'),
            socket.queue,
            u64::from(socket.backlog) + 1
        );
        lines(snapshot, socket, &waiting)
    });
    told.collect()
}

/// Who has a socket, a line each.
fn lines(snapshot: &Snapshot, socket: &UnixSocket, what: &str) -> Vec<String> {
    let of = |holder: &Holder| {
        let program = snapshot.process(holder.pid);
        let program = program.map_or("a process", |process| &process.name);
        format!("{program}, pid {}, fd {}, {what}", holder.pid, holder.fd)
    };
    match socket.holders.as_slice() {
        [] => vec![format!("a process that cannot be seen, {what}")],
        some => some.iter().map(of).collect(),
    }
}

/// Who has a socket bound to the path that does not listen, as of datagrams.
fn bound(name: &str) -> Vec<String> {
    let own = files::own_number().unwrap_or_else(std::process::id);
    let Ok(snapshot) = bound_to_file(own, Path::new(name)) else {
        return Vec::new();
    };
    let what = format!("bound to {name}, not listening");
    let all = snapshot.namespaces.first().map(|net| net.unix.as_slice());
    let all = all.unwrap_or_default().iter();
    all.flat_map(|socket| lines(&snapshot, socket, &what))
        .collect()
}

fn of_abstract(name: &str, holders: &[String], reach: Reach) -> UnixVerdict {
    let held = "An abstract name belongs to one socket of a network namespace, and is free when that is closed.";
    if name.len() - 1 > ABSTRACT_MAX {
        let text = format!("An abstract name has at most {ABSTRACT_MAX} bytes.");
        return UnixVerdict::refused(name, "EINVAL", text);
    }
    if !holders.is_empty() {
        return UnixVerdict::refused(name, "EADDRINUSE", held)
            .hint("stop who holds it, or take another name");
    }
    let known = match reach {
        Reach::Own => std::fs::read_to_string("/proc/thread-self/net/unix"),
        Reach::Other => Err(io::Error::from(io::ErrorKind::Unsupported)),
    };
    let Ok(known) = known else {
        return UnixVerdict::new(
            name,
            Outcome::Unknown,
            "Nobody listens on the name; who holds it without listening is not to be seen from here.",
        );
    };
    // There a NUL is written `@`.
    let written = name.replace('\0', "@");
    let states: Vec<&str> = known
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(7) == Some(&written.as_str()))
        .map(|fields| fields[5])
        .collect();
    match states.as_slice() {
        [] => UnixVerdict::new(
            name,
            Outcome::Works,
            "Nobody in this network namespace has the name.",
        ),
        some if some.contains(&UNCONNECTED) => UnixVerdict::refused(name, "EADDRINUSE", held)
            .hint("what holds it is bound and does not listen: ss -xap names it"),
        _ => UnixVerdict::new(
            name,
            Outcome::Unknown,
            "Connected sockets bear the name: one that was bound to it holds it, one that a listener accepted does not, and they look alike.",
        ),
    }
}

fn of_path(name: &str, holders: &[String], reach: Reach) -> UnixVerdict {
    if name.len() > PATH_MAX {
        let text = format!("A path of a socket has at most {PATH_MAX} bytes.");
        return UnixVerdict::refused(name, "EINVAL", text).hint("take a shorter path");
    }
    if reach == Reach::Other {
        let text = match holders {
            [] => "Whether there is a file of the name is not to be seen from here.",
            _ => {
                "Somebody listens on it; whether the file is still there is not to be seen from here."
            }
        };
        return UnixVerdict::new(name, Outcome::Unknown, text);
    }
    let path = Path::new(name);
    match std::fs::symlink_metadata(path) {
        Ok(file) => in_the_way(name, &file.file_type(), holders),
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_file(name, path),
        Err(error) => of_error(name, &error),
    }
}

/// There is a file.
fn in_the_way(name: &str, kind: &std::fs::FileType, holders: &[String]) -> UnixVerdict {
    let text =
        "bind makes a file, and a file of the name is in the way, whoever listens on it or nobody.";
    let refused = UnixVerdict::refused(name, "EADDRINUSE", text);
    match (kind.is_socket(), holders) {
        (true, []) => refused.hint(format!(
            "nobody in this network namespace has it; if nobody elsewhere does, it is left of a program that has ended: rm {name}"
        )),
        (true, _) => refused.hint("stop whose it is; or put a new socket in its place by rename(2), as `portcullis run` and HAProxy do"),
        (false, _) => refused.hint("it is no socket: take another path"),
    }
}

/// There is none, and one would be made.
fn new_file(name: &str, path: &Path) -> UnixVerdict {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        let text = "The directory of the path is not there.";
        return UnixVerdict::refused(name, "ENOENT", text)
            .hint(format!("mkdir -p {}", directory.display()));
    }
    let kernels = no_files(directory);
    let no_file = |error| {
        let text = "bind makes a file, and in this file system the kernel alone makes them.";
        UnixVerdict::refused(name, error, text).hint("take a path under /run")
    };
    if kernels == Some("ENOENT") {
        return no_file("ENOENT");
    }
    match accessat(
        CWD,
        directory,
        Access::WRITE_OK | Access::EXEC_OK,
        AtFlags::EACCESS,
    ) {
        Ok(()) => kernels.map_or_else(
            || {
                let text = "There is no file of the name, and one may be made in its directory.";
                UnixVerdict::new(name, Outcome::Works, text)
            },
            no_file,
        ),
        Err(error) => of_error(name, &error.into()),
    }
}

fn of_error(name: &str, error: &io::Error) -> UnixVerdict {
    let (refusal, text) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            "EACCES",
            "bind makes a file, which needs the right to write in its directory.",
        ),
        io::ErrorKind::ReadOnlyFilesystem => (
            "EROFS",
            "bind makes a file, and the file system is mounted read-only.",
        ),
        io::ErrorKind::NotADirectory => ("ENOTDIR", "A part of the path is no directory."),
        _ => {
            let text = format!("The path cannot be looked at: {error}.");
            return UnixVerdict::new(name, Outcome::Unknown, text);
        }
    };
    UnixVerdict::refused(name, refusal, text)
}

/// An error's words and its name: `permission denied (EACCES)`.
fn in_words(error: Option<&'static str>) -> String {
    /// Linux's own errors have no higher number.
    const ERRNO_MAX: i32 = 133;
    let number = (1..=ERRNO_MAX).find(|&number| errno::name(number) == error);
    number.map_or_else(|| error.unwrap_or_default().to_owned(), errno::describe)
}

impl fmt::Display for UnixVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match (self.outcome, self.error) {
            (Outcome::Works, _) => writeln!(f, "ok: {name} can be bound and listened on")?,
            (Outcome::Refused, error) => {
                writeln!(f, "error: cannot bind {name}: {}", in_words(error))?;
            }
            (Outcome::Unknown, _) => {
                writeln!(
                    f,
                    "unknown: whether {name} can be bound depends on what cannot be seen"
                )?;
            }
        }
        for holder in &self.holders {
            writeln!(f, "  holder: {holder}")?;
        }
        writeln!(f, "  rule:   {}", self.text)?;
        for hint in &self.hints {
            writeln!(f, "  hint:   {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// What is said beside what bind then does.
    #[track_caller]
    fn agree(name: &str, live: io::Result<UnixListener>) {
        let snapshot = portcullis_inspect::read(&portcullis_inspect::Wanted::default()).unwrap();
        // The socket that was just opened is not asked about: it is closed first.
        let number = live.map(drop).err().and_then(|error| error.raw_os_error());
        let verdict = ask(&snapshot, name, Reach::Own);
        let said = match verdict.error {
            None => None,
            Some("EADDRINUSE") => Some(98),
            Some("ENOENT") => Some(2),
            Some("ENOTDIR") => Some(20),
            Some("EINVAL") => Some(22),
            Some("EPERM") => Some(1),
            Some("EACCES") => Some(13),
            Some("EROFS") => Some(30),
            Some(other) => panic!("{other}"),
        };
        assert_eq!(said, number, "{verdict}");
    }

    #[test]
    fn a_file_in_the_way_refuses_whether_somebody_listens_or_nobody() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        let held = UnixListener::bind(at("held")).unwrap();
        let verdict = {
            let snapshot =
                portcullis_inspect::read(&portcullis_inspect::Wanted::default()).unwrap();
            ask(&snapshot, &at("held"), Reach::Own)
        };
        assert_eq!(verdict.holders.len(), 1, "{verdict}");
        assert!(verdict.holders[0].contains(&format!("pid {}", std::process::id())));
        agree(&at("held"), UnixListener::bind(at("held")));
        drop(held);
        agree(&at("held"), UnixListener::bind(at("held")));
        // A socket of datagrams listens to nobody, and its file is not left of anybody.
        let datagrams = std::os::unix::net::UnixDatagram::bind(at("datagrams")).unwrap();
        let told = || ask(&Snapshot::new(), &at("datagrams"), Reach::Own);
        assert_eq!(told().holders.len(), 1, "{}", told());
        assert!(!told().to_string().contains("rm "), "{}", told());
        drop(datagrams);
        assert_eq!(told().holders.len(), 0, "{}", told());
        assert!(told().to_string().contains("rm "), "{}", told());
        std::fs::write(at("plain"), "x").unwrap();
        agree(&at("plain"), UnixListener::bind(at("plain")));
        agree(&at("plain/x"), UnixListener::bind(at("plain/x")));
        agree(&at("none/x"), UnixListener::bind(at("none/x")));
        let verdict = ask(&Snapshot::new(), &at("free"), Reach::Own);
        assert_eq!(verdict.outcome, Outcome::Works, "{verdict}");
        UnixListener::bind(at("free")).unwrap();
    }

    #[test]
    fn where_the_kernel_alone_makes_files_no_socket_is_made() {
        let mut refused = 0;
        for directory in [
            "/proc",
            "/proc/self",
            "/proc/sys",
            "/sys",
            "/sys/kernel",
            "/sys/kernel/debug",
            "/sys/kernel/tracing",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/dev/pts",
            "/dev/shm",
            "/run",
        ] {
            if !Path::new(directory).is_dir() {
                continue;
            }
            let name = format!("{directory}/portcullis-{}.sock", std::process::id());
            let live = UnixListener::bind(&name);
            refused += usize::from(live.is_err());
            if live.is_ok() {
                std::fs::remove_file(&name).unwrap();
            }
            agree(&name, live);
        }
        assert!(refused >= 3, "{refused}");
    }

    #[test]
    fn an_abstract_name_is_held_by_who_was_bound_to_it_and_not_by_who_was_accepted() {
        let name = format!("portcullis-why-{}", std::process::id());
        of_an_abstract_name(&name);
        of_an_abstract_name(&format!("{name:\0<ABSTRACT_MAX$}"));
    }

    fn of_an_abstract_name(name: &str) {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::SocketAddr;
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let told = |outcome: Outcome| {
            let snapshot =
                portcullis_inspect::read(&portcullis_inspect::Wanted::default()).unwrap();
            let verdict = ask(&snapshot, &format!("@{name}"), Reach::Own);
            assert_eq!(verdict.outcome, outcome, "{verdict}");
            verdict.holders.len()
        };
        assert_eq!(told(Outcome::Works), 0);
        let listener = UnixListener::bind_addr(&address).unwrap();
        assert_eq!(told(Outcome::Refused), 1);
        assert!(UnixListener::bind_addr(&address).is_err());
        let client = UnixStream::connect_addr(&address).unwrap();
        let accepted = listener.accept().unwrap();
        drop(listener);
        assert_eq!(told(Outcome::Unknown), 0);
        UnixListener::bind_addr(&address).unwrap();
        drop((client, accepted));
        let bound = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(
            &bound,
            &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap(),
        )
        .unwrap();
        assert_eq!(told(Outcome::Refused), 0);
        assert!(UnixListener::bind_addr(&address).is_err());
        drop(bound);
        assert_eq!(told(Outcome::Works), 0);
    }

    #[test]
    fn a_refusal_is_told_in_words_and_by_its_name() {
        for (error, words) in [
            ("ENOENT", "no such file or directory (ENOENT)"),
            ("EACCES", "permission denied (EACCES)"),
            ("EADDRINUSE", "address already in use (EADDRINUSE)"),
            ("ENOTDIR", "not a directory (ENOTDIR)"),
            ("EROFS", "read-only file system (EROFS)"),
            ("EINVAL", "invalid argument (EINVAL)"),
        ] {
            let told = UnixVerdict::refused("/run/x.sock", error, "A rule.").to_string();
            let first = told.lines().next().unwrap();
            assert_eq!(first, format!("error: cannot bind /run/x.sock: {words}"));
        }
    }
}
