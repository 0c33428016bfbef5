//! Which sockets each epoll instance of a process hears: what tells the connections of one shard from those of
//! another where one process, or several that inherited all, hold all shards.
//!
//! Decides:  of which processes it is read: those that hold several listeners of one address.
//! Kernel:   fs/eventpoll.c, ep_show_fdinfo(): `tfd: N … ino:HEX` of each file, the inode since 4.13
//! Not here: what is made of it (the command `listeners`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{read_dir, read_link, read_to_string};
use std::net::SocketAddr;
use std::path::Path;

use portcullis_sys::files;

use crate::snapshot::{Snapshot, State};

/// So many epoll instances of a process are looked at.
const INSTANCES_MAX: usize = 1024;

/// Adds them to the processes that hold several shards.
pub(crate) fn fill(proc: &Path, snapshot: &mut Snapshot) {
    let (pids, inodes) = with_shards(snapshot);
    for process in &mut snapshot.processes {
        if pids.contains(&process.pid) {
            process.polls = of(&files::directory(proc, process.pid), &inodes);
        }
    }
}

/// The processes that hold several listeners of one address, and the sockets of such ports.
fn with_shards(snapshot: &Snapshot) -> (BTreeSet<u32>, BTreeSet<u64>) {
    let mut pids = BTreeSet::new();
    let mut inodes = BTreeSet::new();
    for net in &snapshot.namespaces {
        let mut held: BTreeMap<(SocketAddr, u32), BTreeSet<u64>> = BTreeMap::new();
        for socket in net.sockets.iter().filter(|one| one.state == State::Listen) {
            for holder in &socket.holders {
                let shards = held.entry((socket.local, holder.pid)).or_default();
                shards.insert(socket.inode);
            }
        }
        held.retain(|_, shards| shards.len() > 1);
        let ports: BTreeSet<u16> = held.keys().map(|(at, _)| at.port()).collect();
        pids.extend(held.keys().map(|(_, pid)| *pid));
        let of_ports = net
            .sockets
            .iter()
            .filter(|one| ports.contains(&one.local.port()));
        inodes.extend(of_ports.map(|one| one.inode));
    }
    (pids, inodes)
}

fn of(at: &Path, wanted: &BTreeSet<u64>) -> Vec<Vec<u64>> {
    let Ok(descriptors) = read_dir(at.join("fd")) else {
        return Vec::new();
    };
    let is_epoll = |fd: &Path| {
        read_link(fd).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]")
    };
    descriptors
        .flatten()
        .filter(|entry| is_epoll(&entry.path()))
        .take(INSTANCES_MAX)
        .filter_map(|entry| read_to_string(at.join("fdinfo").join(entry.file_name())).ok())
        .map(|text| {
            heard(&text)
                .filter(|inode| wanted.contains(inode))
                .collect()
        })
        .filter(|sockets: &Vec<u64>| !sockets.is_empty())
        .collect()
}

/// The inodes that an epoll instance's description names.
fn heard(text: &str) -> impl Iterator<Item = u64> {
    let lines = text.lines().filter(|line| line.starts_with("tfd:"));
    lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let inode = words.find_map(|word| word.strip_prefix("ino:"))?;
        u64::from_str_radix(inode, 16).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_epoll_instance_hears_is_told_by_inodes() {
        let text = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1059\n\
            tfd:        5 events:       19 data:                5  pos:0 ino:61af sdev:8\n\
            tfd:        6 events: 80000019 data:     ffffffffff6  pos:0 ino:a sdev:8\n\
            tfd:        7 events:       19 data:                7\n";
        assert_eq!(heard(text).collect::<Vec<u64>>(), [0x61af, 10]);
    }
}
