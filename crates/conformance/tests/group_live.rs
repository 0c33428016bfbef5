//! A full group of SO_REUSEPORT listeners on the live kernel: how many there can be, and what the next is told.
//!
//! Decides:  nothing.
//! Kernel:   net/core/sock_reuseport.c, reuseport_grow()
//! Not here: the model's side of the same (crates/kernel-model/tests/groups.rs).

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The model's `GROUP_MAX` (crates/kernel-model/src/reuseport.rs).
const GROUP_MAX: usize = 32_768;
/// Two processes hold them, since a limit of 20,000 descriptors is common.
const HALF: usize = GROUP_MAX / 2;
/// Set for the process that holds the other half, which says it once it does.
const OTHER_HALF: &str = "PORTCULLIS_OTHER_HALF";
const NAME: &str = "a_full_group_takes_nobody_until_somebody_has_gone";
/// What a process has open besides.
const OTHERS: u64 = 64;

fn shard() -> OwnedFd {
    let (flags, kind) = (SocketFlags::CLOEXEC, SocketType::STREAM);
    let shard = socket_with(AddressFamily::INET, kind, flags, None).unwrap();
    sockopt::set_socket_reuseport(&shard, true).unwrap();
    bind(&shard, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 443)).unwrap();
    shard
}

fn shards(count: usize) -> Vec<OwnedFd> {
    let all = (0..count).map(|_| shard());
    all.inspect(|shard| listen(shard, 1).unwrap()).collect()
}

/// Whether a process may have half of them open, with the limit raised as far as it goes.
fn descriptors_suffice() -> bool {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).unwrap();
    maximum.is_none_or(|most| most > HALF as u64 + OTHERS)
}

#[test]
fn a_full_group_takes_nobody_until_somebody_has_gone() {
    portcullis_testkit::private_network(|| {
        if !descriptors_suffice() {
            portcullis_testkit::skip("a process may not have 16,448 descriptors here");
            return;
        }
        if std::env::var_os(OTHER_HALF).is_some() {
            let _held = shards(HALF);
            println!("{OTHER_HALF}");
            // Until the one that asked has closed its end, or has ended.
            std::io::stdin()
                .lock()
                .read_line(&mut String::new())
                .unwrap();
            return;
        }
        let mut other = Command::new(std::env::current_exe().unwrap());
        other.args(["--exact", "--nocapture", NAME]);
        other.env(OTHER_HALF, "1");
        let mut other = other
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut held = shards(HALF - 1);
        let said = BufReader::new(other.stdout.take().unwrap());
        let mut lines = said.lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(OTHER_HALF)));
        // The last place, and then there is none.
        held.extend(shards(1));
        let late = shard();
        assert_eq!(listen(&late, 1), Err(Errno::NOMEM));
        held.pop();
        listen(&late, 1).unwrap();
        assert_eq!(listen(shard(), 1), Err(Errno::NOMEM));
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
    });
}
