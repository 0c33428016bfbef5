//! Where a process's descriptors are found when its first thread has ended and others go on, and whether /proc
//! tells of it at all.
//!
//! Decides:  which thread stands for the process: its first, as long as that is there, else one that is.
//! Kernel:   proc(5), /proc/self; fs/proc/fd.c and kernel/pid.c, `__pidfd_fget()`: both read the table of the very thread that is
//!           named, and a thread that has ended has none (exit_files()); PIDFD_THREAD since 6.9
//! Not here: what the descriptors are.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// `PIDFD_THREAD` of include/uapi/linux/pidfd.h.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
/// So many threads are looked at.
const THREADS_MAX: usize = 1_000;

/// This process's number in the PID namespace of `/proc`, which may be another than its own; `None` where
/// there is no `/proc`, or this process is not seen there.
#[must_use]
pub fn own_number() -> Option<u32> {
    std::fs::read_link("/proc/self")
        .ok()?
        .to_str()?
        .parse()
        .ok()
}

/// Whether `/proc` knows processes by the numbers that they have for this process.
#[must_use]
pub fn proc_is_ours() -> bool {
    own_number() == Some(std::process::id())
}

/// The directory in `/proc`, as which `proc` is mounted, of the thread that has a process's descriptors.
#[must_use]
pub fn directory(proc: &Path, process: u32) -> PathBuf {
    let own = proc.join(process.to_string());
    match living_thread(&own, process) {
        Some(thread) => own.join("task").join(thread.to_string()),
        None => own,
    }
}

/// A descriptor of a process for `pidfd_getfd(2)`.
///
/// # Errors
///
/// As pidfd_open(2): there is no such process. Before Linux 6.9 also `EINVAL`, where its first thread has ended.
pub fn open(process: u32) -> io::Result<OwnedFd> {
    let own = PathBuf::from(format!("/proc/{process}"));
    let (number, flags) = match living_thread(&own, process) {
        Some(thread) => (thread, THREAD),
        None => (process, PidfdFlags::empty()),
    };
    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(rustix::io::Errno::SRCH)?;
    Ok(pidfd_open(pid, flags)?)
}

/// A thread that goes on where the first has ended.
fn living_thread(own: &Path, process: u32) -> Option<u32> {
    if !has_ended(own) {
        return None;
    }
    let threads = std::fs::read_dir(own.join("task")).ok()?;
    let numbers = threads.flatten().take(THREADS_MAX);
    let mut numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .find(|&thread| thread != process && !has_ended(&own.join("task").join(thread.to_string())))
}

/// Whether the state in its `stat`, which stands behind its name, is that of one that waits to be reaped.
fn has_ended(thread: &Path) -> bool {
    let stat = std::fs::read(thread.join("stat")).unwrap_or_default();
    let behind = stat.iter().rposition(|&byte| byte == b')');
    behind.is_some_and(|at| matches!(stat.get(at + 2), Some(b'Z' | b'X')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_first_thread_is_there_stands_for_itself() {
        let own = std::process::id();
        let proc = Path::new("/proc");
        assert_eq!(directory(proc, own), proc.join(own.to_string()));
        assert!(open(own).is_ok());
        assert!(open(u32::MAX).is_err());
    }
}
