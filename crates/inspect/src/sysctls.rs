//! Sysctls and counters of this thread's network namespace, and the host's limits on files.
//!
//! Decides:  how a value is read; one that is missing, or makes no sense, is unknown.
//! Kernel:   Documentation/networking/ip-sysctl.rst; net/ipv4/proc.c, netstat_seq_show()
//! Not here: the values that an unknown one is taken for (world.rs).

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use crate::snapshot::{Drops, Files, Sysctls};

/// The sysctls that decide something.
pub(crate) fn sysctls(proc: &Path) -> Sysctls {
    let text = |name: &str| read_to_string(path_of(proc, name)).ok();
    let number = |name: &str| text(name)?.trim().parse::<u32>().ok();
    Sysctls {
        ip_local_port_range: text("net.ipv4.ip_local_port_range").and_then(|text| pair(&text)),
        ip_local_reserved_ports: text("net.ipv4.ip_local_reserved_ports")
            .map(|text| ranges(&text))
            .unwrap_or_default(),
        ip_unprivileged_port_start: number("net.ipv4.ip_unprivileged_port_start"),
        ip_nonlocal_bind: number("net.ipv4.ip_nonlocal_bind"),
        ip6_nonlocal_bind: number("net.ipv6.ip_nonlocal_bind"),
        ip_autobind_reuse: number("net.ipv4.ip_autobind_reuse"),
        bindv6only: number("net.ipv6.bindv6only"),
        somaxconn: number("net.core.somaxconn"),
        tcp_max_syn_backlog: text("net.ipv4.tcp_max_syn_backlog")
            .and_then(|text| text.trim().parse().ok()),
        tcp_syncookies: number("net.ipv4.tcp_syncookies"),
        tcp_fastopen: number("net.ipv4.tcp_fastopen"),
        tcp_no_metrics_save: number("net.ipv4.tcp_no_metrics_save"),
        tcp_tw_reuse: number("net.ipv4.tcp_tw_reuse"),
        tcp_tw_reuse_delay: number("net.ipv4.tcp_tw_reuse_delay"),
        tcp_fin_timeout: number("net.ipv4.tcp_fin_timeout"),
        tcp_abort_on_overflow: number("net.ipv4.tcp_abort_on_overflow"),
        tcp_migrate_req: number("net.ipv4.tcp_migrate_req"),
        tcp_l3mdev_accept: number("net.ipv4.tcp_l3mdev_accept"),
    }
}

/// How many files the host may have open, and has.
pub(crate) fn files(proc: &Path) -> Files {
    let text = |name: &str| read_to_string(path_of(proc, name)).ok();
    let first = |name: &str| text(name)?.split_ascii_whitespace().next()?.parse().ok();
    Files {
        nr_open: first("fs.nr_open"),
        file_max: first("fs.file-max"),
        open: first("fs.file-nr"),
    }
}

fn path_of(proc: &Path, name: &str) -> PathBuf {
    proc.join("sys").join(name.replace('.', "/"))
}

/// Two numbers with a tab between.
fn pair(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high)), None) => Some((low, high)),
        _ => None,
    }
}

/// `80,8000-8010`.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some((low.parse().ok()?, high.parse().ok()?))
    };
    text.trim().split(',').filter_map(range).collect()
}

/// The counters of what was dropped at listeners.
pub(crate) fn drops(proc: &Path) -> Drops {
    let text = read_to_string(proc.join("thread-self/net/netstat")).unwrap_or_default();
    let counter = |name: &str| counter(&text, "TcpExt:", name);
    Drops {
        listen_overflows: counter("ListenOverflows"),
        listen_drops: counter("ListenDrops"),
        syncookies_sent: counter("SyncookiesSent"),
        syn_queue_drops: counter("TCPReqQFullDrop"),
    }
}

/// A line of names and a line of their values, both beginning with the same word.
fn counter(text: &str, word: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(word));
    let at = lines.next()?.split(' ').position(|known| known == name)?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_kernel_writes_them() {
        assert_eq!(pair("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(pair("32768\n"), None);
        assert_eq!(ranges("80,8000-8010\n"), [(80, 80), (8000, 8010)]);
        assert_eq!(ranges("\n"), []);
        let text = "TcpExt: A ListenDrops B\nTcpExt: 1 22 3\nIpExt: ListenDrops\nIpExt: 9\n";
        assert_eq!(counter(text, "TcpExt:", "ListenDrops"), Some(22));
        assert_eq!(counter(text, "TcpExt:", "C"), None);
    }
}
