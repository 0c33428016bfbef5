//! What can be read of a watched process while it stands still.
//!
//! Decides:  a socket is known by its cookie, asked from a copy of the descriptor that is closed at once
//!           (a copy keeps a closing listener's port busy, so it lives for microseconds).
//! Kernel:   kernel/pid.c, pidfd_getfd(); fs/proc/base.c, fs/proc/array.c; net/core/sock.c,
//!           sk_getsockopt(), 5.6 to 6.18
//! Not here: when it is read (watch.rs), what is made of it (recorder.rs).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use portcullis_kernel_model::Caps;
use portcullis_sys::files;
use portcullis_sys::sockopt::{accept_queue, get_int, netns_cookie};
use portcullis_sys::trace::socket_cookie;
use rustix::process::{Pid, PidfdGetfdFlags, pidfd_getfd};
use rustix::thread::CapabilitySet;

use crate::privilege::Gift;

/// The most descriptors of one process that are looked at, and the most bytes of a command line.
const DESCRIPTORS_MAX: usize = 16_384;
const ARGUMENTS_MAX: usize = 4_096;
/// `SO_BINDTOIFINDEX`.
const SO_BINDTOIFINDEX: i32 = 62;
/// `CAP_NET_BIND_SERVICE`, `CAP_NET_ADMIN`, `CAP_NET_RAW`.
const CAPS: [u32; 3] = [10, 12, 13];

/// What a socket says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// Its number, which no other socket of this boot has.
    pub cookie: u64,
    /// Its number among files: what `/proc/PID/fd` calls it.
    pub inode: u64,
    /// The user whose it is: what SO_REUSEPORT compares.
    pub uid: u32,
    /// `SO_DOMAIN`.
    pub domain: i32,
    /// `SO_TYPE`.
    pub kind: i32,
    /// `SO_PROTOCOL`.
    pub protocol: i32,
    /// Its own address and port, if it is of IP.
    pub name: Option<SocketAddr>,
    /// How many connections may wait, if it listens.
    pub limit: Option<u32>,
    /// `SO_REUSEADDR`.
    pub reuseaddr: bool,
    /// `SO_REUSEPORT`.
    pub reuseport: bool,
    /// `IPV6_V6ONLY`.
    pub v6only: bool,
    /// The index of the device that it is bound to, or 0.
    pub device: i32,
    /// The network namespace, by its cookie (0 where the kernel does not tell).
    pub namespace: u64,
}

impl Peek {
    /// The port that it has.
    pub fn port(&self) -> u16 {
        self.name.map_or(0, |name| name.port())
    }

    /// Whether it is a stream or a datagram socket of IP.
    pub fn is_inet(&self) -> bool {
        [libc::AF_INET, libc::AF_INET6].contains(&self.domain)
    }
}

/// Looks at a socket of a process by a copy of its descriptor. `None` where the number is not an open
/// socket, or where the process may not be looked into.
pub fn peek(process: &OwnedFd, fd: i32) -> Option<Peek> {
    let copy = pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok()?;
    let fd = copy.as_fd();
    let cookie = socket_cookie(fd).ok()?;
    let option = |number| get_int(fd, libc::SOL_SOCKET, number).unwrap_or(0);
    let domain = option(libc::SO_DOMAIN);
    let kind = option(libc::SO_TYPE);
    let file = rustix::fs::fstat(fd).ok()?;
    let inet = [libc::AF_INET, libc::AF_INET6].contains(&domain);
    let v6 = domain == libc::AF_INET6;
    Some(Peek {
        cookie,
        inode: file.st_ino,
        uid: file.st_uid,
        domain,
        kind,
        protocol: option(libc::SO_PROTOCOL),
        name: if inet { name(fd) } else { None },
        limit: (inet && kind == libc::SOCK_STREAM)
            .then(|| limit(fd))
            .flatten(),
        reuseaddr: option(libc::SO_REUSEADDR) != 0,
        reuseport: option(libc::SO_REUSEPORT) != 0,
        v6only: v6 && get_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Ok(1),
        device: option(SO_BINDTOIFINDEX),
        namespace: netns_cookie(fd).unwrap_or(0),
    })
}

fn name(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(fd).ok()?).ok()
}

fn limit(fd: BorrowedFd<'_>) -> Option<u32> {
    // TCP_INFO is TCP's alone; any other stream tells only whether it listens.
    match accept_queue(fd) {
        Ok(queue) => queue.map(|queue| queue.limit),
        Err(_) => None,
    }
}

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// File-system user id.
    pub uid: u32,
    /// Effective user and group id.
    pub effective: (u32, u32),
    /// Effective capabilities, as far as sockets ask for them.
    pub caps: Caps,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// The thread group: the process.
    pub process: i32,
    /// Its parent.
    pub parent: i32,
    /// Who traces it, 0 for nobody.
    pub tracer: i32,
}

/// Reads `/proc/PID/status`; `None` without a `/proc` of our own, or where the process has gone.
pub fn caller(thread: i32) -> Option<Caller> {
    if !files::proc_is_ours() {
        return None;
    }
    let text = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    parse_status(&text)
}

/// Where no /proc tells who calls: the one whom the program was started by, that is us. It may have become
/// another since, and the report says that this is not known.
pub fn without_proc() -> Option<Caller> {
    if files::proc_is_ours() {
        return None;
    }
    let sets = rustix::thread::capabilities(None).ok()?;
    let has = |capability| sets.effective.contains(capability);
    let user = rustix::process::geteuid().as_raw();
    Some(Caller {
        uid: user,
        effective: (user, rustix::process::getegid().as_raw()),
        caps: Caps {
            net_bind_service: has(CapabilitySet::NET_BIND_SERVICE),
            net_admin: has(CapabilitySet::NET_ADMIN),
            net_raw: has(CapabilitySet::NET_RAW),
        },
        no_new_privs: false,
        process: 0,
        parent: 0,
        tracer: 0,
    })
}

fn parse_status(text: &str) -> Option<Caller> {
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let number = |name: &str, column: usize| {
        let value = field(name)?.split_ascii_whitespace().nth(column)?;
        value.parse::<i64>().ok()
    };
    let bits = u64::from_str_radix(field("CapEff")?.trim(), 16).ok()?;
    let [bind, admin, raw] = CAPS.map(|cap| bits >> cap & 1 != 0);
    let id = |name: &str, column: usize| u32::try_from(number(name, column)?).ok();
    Some(Caller {
        uid: id("Uid", 3)?,
        effective: (id("Uid", 1)?, id("Gid", 1)?),
        caps: Caps {
            net_bind_service: bind,
            net_admin: admin,
            net_raw: raw,
        },
        no_new_privs: number("NoNewPrivs", 0).unwrap_or(0) != 0,
        process: number("Tgid", 0)? as i32,
        parent: number("PPid", 0)? as i32,
        tracer: number("TracerPid", 0).unwrap_or(0) as i32,
    })
}

/// A program, as a process runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The file's path; empty where it cannot be read.
    pub path: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What the file would give to a process that is not watched; `None` where it cannot be read.
    pub gift: Option<Gift>,
}

/// Reads which program a process runs.
pub fn image(process: i32, (uid, gid): (u32, u32)) -> Image {
    if !files::proc_is_ours() {
        return Image::default();
    }
    let link = PathBuf::from(format!("/proc/{process}/exe"));
    let path = std::fs::read_link(&link).map_or(String::new(), |p| p.display().to_string());
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let line = &line[..line.len().min(ARGUMENTS_MAX)];
    let arguments = line.split(|&b| b == 0).map(String::from_utf8_lossy);
    let mut arguments: Vec<String> = arguments.map(|a| a.into_owned()).collect();
    if arguments.last().is_some_and(String::is_empty) {
        arguments.pop();
    }
    Image {
        path,
        arguments,
        gift: gift(&link, (uid, gid)),
    }
}

fn gift(link: &PathBuf, me: (u32, u32)) -> Option<Gift> {
    let stat = rustix::fs::stat(link).ok()?;
    let mount = rustix::fs::statvfs(link).ok()?;
    if mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID) {
        return Some(Gift::default());
    }
    let mut bytes = [0_u8; 64];
    let read = rustix::fs::getxattr(link, "security.capability", &mut bytes[..]);
    let attribute = read.ok().map(|len| &bytes[..len.min(64)]);
    let owners = (stat.st_uid, stat.st_gid);
    Some(Gift::of(stat.st_mode, owners, attribute, me))
}

/// The sockets that a process holds: inode and number. Empty where it may not be looked into.
pub fn held(process: i32) -> Vec<(u64, i32)> {
    if !files::proc_is_ours() {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(directory(process).join("fd")) else {
        return Vec::new();
    };
    let entries = entries.take(DESCRIPTORS_MAX).flatten();
    let mut held: Vec<(u64, i32)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((
                socket_inode(&std::fs::read_link(entry.path()).ok()?)?,
                number,
            ))
        })
        .collect();
    held.sort_unstable_by_key(|&(_, number)| number);
    held
}

/// Which of these sockets nobody of these processes holds any more.
pub fn gone(inodes: &BTreeSet<u64>, processes: impl Iterator<Item = i32>) -> BTreeSet<u64> {
    let mut gone = inodes.clone();
    for process in processes {
        for (inode, _) in held(process) {
            gone.remove(&inode);
        }
        if gone.is_empty() {
            break;
        }
    }
    gone
}

fn directory(process: i32) -> PathBuf {
    files::directory(Path::new("/proc"), process.unsigned_abs())
}

fn socket_inode(link: &std::path::Path) -> Option<u64> {
    let text = link.to_str()?;
    text.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// A process by descriptor: it stays this one when its number is used again.
pub fn open_process(process: i32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(process)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_status_is_read_field_by_field() {
        let text = "Name:\tUid: 7\nTgid:\t12\nPid:\t13\nPPid:\t1\nTracerPid:\t9\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nCapEff:\t0000000000002400\nNoNewPrivs:\t1\n";
        let caller = parse_status(text).unwrap();
        assert_eq!((caller.uid, caller.effective), (1003, (1001, 6)));
        assert_eq!((caller.process, caller.parent, caller.tracer), (12, 1, 9));
        assert!(caller.no_new_privs && caller.caps.net_bind_service && caller.caps.net_raw);
        assert!(!caller.caps.net_admin);
        assert_eq!(parse_status("Name:\tx\n"), None);
        let me = self::caller(std::process::id() as i32).unwrap();
        assert_eq!(me.process, std::process::id() as i32);
    }

    #[test]
    fn a_listener_of_a_process_is_seen_as_it_is_and_gone_when_it_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let me = std::process::id() as i32;
        let process = open_process(me).unwrap();
        let fd = listener.as_raw_fd();
        let seen = peek(&process, fd).unwrap();
        assert_eq!(seen.name, Some(listener.local_addr().unwrap()));
        assert!(seen.limit.is_some_and(|limit| limit > 0) && seen.reuseaddr && !seen.reuseport);
        assert_eq!((seen.domain, seen.kind), (libc::AF_INET, libc::SOCK_STREAM));
        assert!(held(me).contains(&(seen.inode, fd)));
        let inodes = BTreeSet::from([seen.inode]);
        assert!(gone(&inodes, [me].into_iter()).is_empty());
        drop(listener);
        assert_eq!(gone(&inodes, [me].into_iter()), inodes);
        assert_eq!(peek(&process, 1_000_000), None);
    }
}
