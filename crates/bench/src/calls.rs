//! Counting a contender's system calls.
//!
//! Decides:  `perf stat` on the kernel's tracepoints, which stops nobody; in a round of its own all
//!           the same, since each call costs a little more meanwhile.
//! Kernel:   include/trace/events/syscalls.h, raw_syscalls:sys_enter and syscalls:sys_enter_*
//! Not here: the load (rig.rs).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The event that counts all calls.
const ALL: &str = "raw_syscalls:sys_enter";
/// Calls that are counted one by one, for the record.
const KNOWN: &[&str] = &[
    "accept4",
    "bind",
    "close",
    "connect",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "fcntl",
    "getpeername",
    "getsockname",
    "getsockopt",
    "ioctl",
    "pipe2",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socket",
    "splice",
    "write",
    "writev",
];
/// How long perf may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Calls counted, by name; `all` is their sum and that of unnamed ones.
#[derive(Debug, Default, Clone)]
pub struct Calls {
    /// All.
    pub all: u64,
    /// Of these each.
    pub by_name: BTreeMap<String, u64>,
}

/// A count that runs.
#[derive(Debug)]
pub struct Counter {
    perf: Child,
    output: PathBuf,
}

impl Counter {
    /// Begins to count what these processes call.
    pub fn start(pids: &[u32], directory: &Path) -> io::Result<Counter> {
        let output = directory.join("perf-stat.csv");
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut events = vec![ALL.to_owned()];
        events.extend(
            KNOWN
                .iter()
                .map(|name| format!("syscalls:sys_enter_{name}")),
        );
        let mut command = Command::new("perf");
        command
            .args(["stat", "-x", ",", "-o"])
            .arg(&output)
            .args(["-e", &events.join(","), "-p", &pids.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut perf = command.spawn()?;
        // It says nothing when it has begun; it has once its descriptors are open.
        let deadline = Instant::now() + PATIENCE;
        while !counts(perf.id()) {
            if perf.try_wait()?.is_some() || Instant::now() > deadline {
                let _ = perf.kill();
                return Err(io::Error::other("perf stat does not run here"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(100));
        Ok(Counter { perf, output })
    }

    /// Ends the count.
    pub fn finish(mut self) -> io::Result<Calls> {
        kill_process(Pid::from_child(&self.perf), Signal::INT)?;
        self.perf.wait()?;
        let text = fs::read_to_string(&self.output)?;
        read_counts(&text).ok_or_else(|| io::Error::other("perf stat wrote no counts"))
    }
}

/// Has this process as many perf events open as were asked for?
fn counts(perf: u32) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{perf}/fd")) else {
        return false;
    };
    let events = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().contains("perf_event"));
    events.count() > KNOWN.len()
}

/// `count,,event,…` a line.
fn read_counts(text: &str) -> Option<Calls> {
    let mut calls = Calls::default();
    for line in text.lines() {
        let mut fields = line.split(',');
        let (Some(count), Some(_unit), Some(event)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Ok(count) = count.parse::<u64>() else {
            continue;
        };
        if event == ALL {
            calls.all = count;
        } else if let Some(name) = event.strip_prefix("syscalls:sys_enter_")
            && count > 0
        {
            calls.by_name.insert(name.to_owned(), count);
        }
    }
    (calls.all > 0).then_some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfs_lines_are_read() {
        let text = "# started on Sun Nov 22\n\n29,,raw_syscalls:sys_enter,6331,100.00,,\n\
                    4,,syscalls:sys_enter_close,6331,100.00,,\n\
                    0,,syscalls:sys_enter_bind,6331,100.00,,\n\
                    <not counted>,,syscalls:sys_enter_read,0,0.00,,\n";
        let calls = read_counts(text).unwrap();
        assert_eq!(calls.all, 29);
        let close = BTreeMap::from([("close".to_owned(), 4)]);
        assert_eq!(calls.by_name, close);
        assert!(read_counts("").is_none());
    }
}
