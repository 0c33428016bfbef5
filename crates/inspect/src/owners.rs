//! Who holds which socket: the descriptors of all processes.
//!
//! Decides:  that all processes are looked at, some at a time; that one that ends meanwhile, or hides, is
//!           passed over and counted; when there may be more that /proc does not show at all.
//! Kernel:   proc_pid_fd(5): a socket's link is `socket:[INODE]`; fs/proc/fd.c; proc(5), hidepid
//! Not here: what is known of a process (process.rs); the same from BPF (iter.rs).

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::io;
use std::path::Path;

use portcullis_sys::files;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::thread::CapabilitySet;

use crate::beside;
use crate::process::{namespace, number_in_brackets};
use crate::snapshot::{Holder, Known};

/// `socket:[` and twenty digits and `]`.
const LINK_MAX: usize = 40;
const ENTRIES: usize = 16 * 1024;
/// `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
const OUTERMOST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// Descriptors by the inode of the socket.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    pub by_inode: BTreeMap<u64, Vec<Holder>>,
    /// Processes that were there and could not be looked at.
    pub hidden: u32,
    /// Processes that could.
    pub seen: u32,
}

impl Owners {
    /// Looks for the holders of these sockets, sorted by inode, among the descriptors of all processes: one
    /// that is found may have heirs, so that nobody is left out.
    pub(crate) fn read(proc: &Path, wanted: &[u64]) -> io::Result<Owners> {
        let mut pids: Vec<u32> = Vec::new();
        for entry in std::fs::read_dir(proc)? {
            let name = entry?.file_name();
            pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        let found = beside::each(&pids, Owners::default, |owners, &pid| {
            match owners.look_at(proc, pid, wanted) {
                Ok(()) => owners.seen += 1,
                // It ended.
                Err(error) if is_gone(&error) => {}
                Err(_) => owners.hidden += 1,
            }
        });
        let mut all = Owners::default();
        for part in found {
            all.hidden += part.hidden;
            all.seen += part.seen;
            for (inode, holders) in part.by_inode {
                all.by_inode.entry(inode).or_default().extend(holders);
            }
        }
        for holders in all.by_inode.values_mut() {
            holders.sort_unstable();
        }
        Ok(all)
    }

    /// Whether all processes could be looked at.
    pub(crate) fn known(&self) -> Known {
        match (self.seen, self.hidden) {
            (0, _) => Known::No("no process can be looked at".into()),
            (_, 0) => unseen().map_or(Known::Yes, |why| Known::Partly(why.into())),
            (_, 1) => Known::Partly("one process cannot be looked at: it is another user's".into()),
            (_, hidden) => Known::Partly(format!(
                "{hidden} processes cannot be looked at: they are other users'"
            )),
        }
    }

    fn look_at(&mut self, proc: &Path, pid: u32, wanted: &[u64]) -> io::Result<()> {
        let own = proc.join(pid.to_string());
        let looked = self.look_into(&own, pid, wanted);
        if matches!(looked, Ok(true)) {
            return Ok(());
        }
        // Nothing open, or nobody's to look at: it may be that the process's first thread has ended.
        let other = files::directory(proc, pid);
        match other == own {
            true => looked.map(|_| ()),
            false => self.look_into(&other, pid, wanted).map(|_| ()),
        }
    }

    /// Whether any descriptor was there.
    fn look_into(&mut self, of: &Path, pid: u32, wanted: &[u64]) -> io::Result<bool> {
        let path = of.join("fd");
        let mut any = false;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, &path, flags, Mode::empty())?;
        let mut buffer = Vec::with_capacity(ENTRIES);
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut room = [std::mem::MaybeUninit::uninit(); LINK_MAX];
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            let Some(fd) = name.to_str().ok().and_then(|name| name.parse().ok()) else {
                continue;
            };
            any = true;
            let Ok((target, _)) = readlinkat_raw(&directory, name, &mut room) else {
                continue;
            };
            let Some(inode) = std::str::from_utf8(target)
                .ok()
                .filter(|target| target.starts_with("socket:"))
                .and_then(number_in_brackets)
                .filter(|inode| wanted.binary_search(inode).is_ok())
            else {
                continue;
            };
            self.by_inode
                .entry(inode)
                .or_default()
                .push(Holder { pid, fd });
        }
        Ok(any)
    }
}

/// Why there may be processes that are not even seen to be there.
fn unseen() -> Option<&'static str> {
    let mounts = read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let sees_all = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE));
    if !sees_all && hides_processes(&mounts) {
        return Some("/proc hides other users' processes (hidepid)");
    }
    let own = namespace(Path::new("/proc/self/ns/pid"));
    let outermost = own.is_none_or(|own| own == OUTERMOST_PID_NAMESPACE);
    (!outermost).then_some("processes outside of this PID namespace are not seen")
}

/// Whether the last thing that was mounted on /proc was so with hidepid=2 or 4, by number or by name (5.8).
fn hides_processes(mountinfo: &str) -> bool {
    let on_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let Some(line) = mountinfo.lines().rfind(on_proc) else {
        return false;
    };
    let options = line.split([',', ' ']);
    let mut values = options.filter_map(|option| option.strip_prefix("hidepid="));
    values.any(|value| ["2", "4", "invisible", "ptraceable"].contains(&value))
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_that_hides_processes_is_told_by_its_newest_mount() {
        let plain = "22 1 0:20 / /proc rw,relatime - proc proc rw\n";
        let hides = |option: &str| {
            format!("{plain}30 22 0:44 / /proc rw - proc proc rw,gid=5,hidepid={option}\n")
        };
        assert!(!hides_processes(plain) && !hides_processes(""));
        for option in ["2", "4", "invisible", "ptraceable"] {
            assert!(hides_processes(&hides(option)), "{option}");
        }
        // They are seen, and cannot be looked at: that is counted.
        assert!(!hides_processes(&hides("1")) && !hides_processes(&hides("noaccess")));
        assert!(!hides_processes(&format!("{}{plain}", hides("2"))));
    }
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_socket_that_is_held_twice_has_both_descriptors() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = listener.try_clone().unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let link = std::fs::read_link(own).unwrap();
        let inode = number_in_brackets(link.to_str().unwrap()).unwrap();
        let owners = Owners::read(Path::new("/proc"), &[inode]).unwrap();
        drop(other);
        assert_eq!(owners.by_inode.len(), 1, "nobody asked for the other one");
        let holders = owners.by_inode[&inode].clone();
        let pid = std::process::id();
        let mut expected =
            [listener.as_raw_fd(), copy.as_raw_fd()].map(|fd| Holder { pid, fd: fd as u32 });
        expected.sort();
        assert_eq!(holders, expected);
        assert!(owners.seen > 0);
    }
}
