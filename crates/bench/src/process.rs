//! What /proc says of a contender: processor time, memory, processors allowed.
//!
//! Decides:  a contender is a process and all its descendants, with all their threads; processor time
//!           is the first number of schedstat, which the scheduler counts in ns; the user's share is
//!           that of utime in utime + stime, which the kernel samples at its ticks; whoever else ran is
//!           found out by /proc/stat, to a few ticks.
//! Kernel:   proc_pid_schedstat(5), proc_pid_stat(5), proc_pid_smaps(5), proc_stat(5); fs/proc/base.c
//!           proc_pid_schedstat(), kernel/sched/cputime.c cputime_adjust(), 6.1 to 6.18
//! Not here: starting and ending contenders (contender.rs).

use std::collections::BTreeSet;
use std::fs;
use std::io;

/// Processor time used since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of it, exact while the threads sleep.
    pub cpu_ns: u64,
    /// In user mode, in ticks of 1/100 s.
    pub user_ticks: u64,
    /// In the kernel, in ticks of 1/100 s.
    pub system_ticks: u64,
}

/// The processes that began with `root`, it included.
pub fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for thread in threads(pid).unwrap_or_default() {
            let path = format!("/proc/{pid}/task/{thread}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
    }
    found
}

/// What these processes used.
pub fn usage(pids: &[u32]) -> io::Result<Usage> {
    let mut sum = Usage::default();
    for &pid in pids {
        for thread in threads(pid)? {
            let text = match fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")) {
                // It ended since it was listed.
                Err(error) if is_gone(&error) => continue,
                text => text?,
            };
            sum.cpu_ns += first_number(&text).ok_or_else(|| unexpected("/proc/PID/schedstat"))?;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = stat_times(&text).ok_or_else(|| unexpected("/proc/PID/stat"))?;
        sum.user_ticks += user;
        sum.system_ticks += system;
    }
    Ok(sum)
}

/// Resident memory of these processes, bytes.
pub fn resident(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        sum += rollup_rss(&text).ok_or_else(|| unexpected("/proc/PID/smaps_rollup"))?;
    }
    Ok(sum)
}

/// A tick of /proc/stat, ns.
const TICK_NS: u64 = 10_000_000;

/// How long these processors were not idle since the start, ns, whoever kept them busy: another
/// machine on the same host too (steal).
pub fn busy_ns(processors: &BTreeSet<usize>) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks = busy_ticks(&text, processors).ok_or_else(|| unexpected("/proc/stat"))?;
    Ok(ticks * TICK_NS)
}

/// `cpuN user nice system idle iowait irq softirq steal …`; guests are in user and nice.
fn busy_ticks(text: &str, processors: &BTreeSet<usize>) -> Option<u64> {
    let mut sum = 0;
    for processor in processors {
        let line = text.lines().find_map(|line| {
            let rest = line.strip_prefix("cpu")?;
            rest.strip_prefix(&format!("{processor} "))
        })?;
        let fields: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
        let fields = fields?;
        let idle = fields.get(3)? + fields.get(4)?;
        sum += fields.get(..8)?.iter().sum::<u64>() - idle;
    }
    Some(sum)
}

/// The processors that any thread of these processes may run on.
pub fn processors(pids: &[u32]) -> io::Result<BTreeSet<usize>> {
    let mut all = BTreeSet::new();
    for &pid in pids {
        for thread in threads(pid)? {
            let text = match fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")) {
                Err(error) if is_gone(&error) => continue,
                text => text?,
            };
            let list = text
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            let list = list.ok_or_else(|| unexpected("/proc/PID/status"))?;
            all.extend(processor_list(list).ok_or_else(|| unexpected("/proc/PID/status"))?);
        }
    }
    Ok(all)
}

/// `0-2,5` as the kernel writes it.
pub fn processor_list(text: &str) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        found.extend(first..=last);
    }
    Some(found)
}

fn threads(pid: u32) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        found.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|id| id.parse::<u32>().ok()),
        );
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    const NO_SUCH_PROCESS: i32 = 3;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS)
}

fn unexpected(file: &str) -> io::Error {
    io::Error::other(format!("{file} is not as expected"))
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// utime and stime: fields 14 and 15; the name (2) may contain blanks and parentheses.
fn stat_times(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn rollup_rss(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_blanks_and_parentheses() {
        let stat = "812 (a) b (c) S 1 812 812 0 -1 4194560 99 0 1 0 17 42 3 4 20 0 1 0 100 0 0";
        assert_eq!(stat_times(stat), Some((17, 42)));
        assert_eq!(stat_times("812 (a) S 1"), None);
    }

    #[test]
    fn the_kernels_lists_of_processors_are_read() {
        let table: [(&str, Option<&[usize]>); 4] = [
            ("0\n", Some(&[0])),
            ("\t0-2,5", Some(&[0, 1, 2, 5])),
            ("3,1-1", Some(&[3, 1])),
            ("x", None),
        ];
        for (text, expected) in table {
            assert_eq!(processor_list(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_processor_is_busy_when_it_is_not_idle() {
        let stat = "cpu  99 99 99 99 99 99 99 99 99 99\ncpu0 1 2 4 800 900 8 16 32 0 0\n\
                    cpu1 64 0 0 1 1 0 0 0 64 0\ncpu10 7 7 7 7 7 7 7 7 7 7\nintr 5\n";
        let table: [(&[usize], Option<u64>); 4] = [
            (&[0], Some(63)),
            (&[1], Some(64)),
            (&[0, 1], Some(127)),
            (&[2], None),
        ];
        for (processors, expected) in table {
            let processors = processors.iter().copied().collect();
            assert_eq!(busy_ticks(stat, &processors), expected, "{processors:?}");
        }
        assert!(busy_ns(&BTreeSet::from([0])).unwrap() > 0);
    }

    #[test]
    fn resident_memory_is_in_kib() {
        let text = "55a0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:     3544 kB\nPss: 1 kB\n";
        assert_eq!(rollup_rss(text), Some(3544 * 1024));
    }

    #[test]
    fn a_process_that_computes_is_seen_to() {
        // A process of its own: threads of this one come and go with other tests.
        let begun = std::time::Instant::now();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pids = [child.id()];
        let mut used = usage(&pids).unwrap();
        while used.cpu_ns < 40_000_000 && begun.elapsed() < std::time::Duration::from_secs(20) {
            std::thread::sleep(std::time::Duration::from_millis(5));
            used = usage(&pids).unwrap();
        }
        let (resident, processors) = (resident(&pids), processors(&pids));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(used.cpu_ns >= 40_000_000, "{used:?}");
        assert!(
            u128::from(used.cpu_ns) <= begun.elapsed().as_nanos(),
            "{used:?}"
        );
        assert!(resident.unwrap() > 100 * 1024);
        assert!(!processors.unwrap().is_empty());
    }

    #[test]
    fn children_belong_to_the_family() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let pids = family(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pids.contains(&child.id()), "{pids:?}");
    }
}
