//! What a test may ask about the host and about a process, and how it waits.
//!
//! Decides:  waiting is a condition with a deadline, never a fixed sleep.
//! Kernel:   proc_pid_fd(5), proc_pid_status(5), proc_pid_stat(5), /proc/net/tcp.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` holds; `false` where the deadline passed.
#[must_use]
pub fn eventually(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not within the time, naming `what`.
#[track_caller]
pub fn wait_for(what: &str, within: Duration, condition: impl FnMut() -> bool) {
    assert!(
        eventually(within, condition),
        "waited {within:?} in vain for: {what}"
    );
}

/// A loopback port that was free a moment ago. Another process may take it: in a private network,
/// where there is none, use any fixed port instead.
#[track_caller]
pub fn free_port() -> u16 {
    match TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()) {
        Ok(address) => address.port(),
        Err(error) => panic!("no free loopback port: {error}"),
    }
}

/// Does any TCP socket listen on exactly this address, in the caller's network namespace? Looks,
/// and does not connect, so that counts stay true.
pub fn listening(address: SocketAddr) -> bool {
    let file = match address.ip() {
        IpAddr::V4(_) => "/proc/thread-self/net/tcp",
        IpAddr::V6(_) => "/proc/thread-self/net/tcp6",
    };
    let wanted = proc_form(address);
    std::fs::read_to_string(file).is_ok_and(|table| {
        table.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            fields.next() == Some(&wanted) && fields.nth(1) == Some("0A")
        })
    })
}

/// As /proc/net/tcp writes it: words of the address in host order, then the port.
fn proc_form(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(word))
    });
    format!("{}:{:04X}", words.collect::<String>(), address.port())
}

/// Open descriptors of a process.
///
/// # Panics
///
/// When there is no such process, or it is somebody else's.
#[track_caller]
pub fn descriptors(pid: u32) -> usize {
    match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries.count(),
        Err(error) => panic!("cannot count the descriptors of {pid}: {error}"),
    }
}

/// Open sockets of a process, among its descriptors.
#[track_caller]
pub fn sockets(pid: u32) -> usize {
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) => panic!("cannot count the sockets of {pid}: {error}"),
    };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Resident memory of a process in KiB.
#[track_caller]
pub fn rss_kib(pid: u32) -> u64 {
    let status = read(&format!("/proc/{pid}/status"));
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no VmRSS in the status of {pid}"))
}

/// Processor time that a process has used, in user and kernel mode, all threads together.
#[track_caller]
pub fn cpu_time(pid: u32) -> Duration {
    let stat = read(&format!("/proc/{pid}/stat"));
    // The second field is a name in parentheses that may contain anything.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name
        .split_ascii_whitespace()
        .skip(11) // utime is field 14, stime 15; the first here is 3
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[track_caller]
fn read(path: &str) -> String {
    match std::fs::read_to_string(Path::new(path)) {
        Ok(text) => text,
        Err(error) => panic!("cannot read {path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_is_seen_without_connecting_for_both_families() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let address = listener.local_addr().unwrap();
            assert!(listening(address), "{address}");
            drop(listener);
            // A test beside this one may be about to start a program, which has it until then.
            let gone = || !listening(address);
            assert!(eventually(Duration::from_secs(5), gone), "{address}");
        }
    }

    #[test]
    fn a_process_knows_its_own_descriptors_memory_and_time() {
        let me = std::process::id();
        let before = sockets(me);
        let held: Vec<_> = (0..50)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        assert!(sockets(me) >= before + 40 && descriptors(me) >= 50);
        drop(held);
        assert!(rss_kib(me) > 100);
        let start = cpu_time(me);
        wait_for("processor time to pass", Duration::from_secs(20), || {
            std::hint::black_box((0..2_000_000_u64).sum::<u64>());
            cpu_time(me) > start
        });
    }
}
