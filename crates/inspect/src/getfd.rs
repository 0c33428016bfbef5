//! Options of a socket, read from a copy of its holder's descriptor.
//!
//! Decides:  whose descriptors are copied, and for how long: the copy is asked and closed again at once,
//!           since as long as it is open the holder's close does not free the port.
//! Kernel:   pidfd_getfd(2) (5.6), which takes what ptrace takes; net/core/sock.c, sk_getsockopt()
//! Not here: what the bucket remembers: no descriptor tells (iter.rs).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use portcullis_sys::files;
use portcullis_sys::sockopt::get_int;
use rustix::fs::fstat;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use crate::snapshot::{Known, Options, Socket};

const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SOL_IPV6: i32 = 41;
const SO_REUSEADDR: i32 = 2;
const SO_REUSEPORT: i32 = 15;
const SO_INCOMING_CPU: i32 = 49;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const TCP_REPAIR: i32 = 19;
const IPV6_V6ONLY: i32 = 26;

/// Asks the holders of sockets for the options that are unknown.
pub(crate) fn fill<'a>(sockets: impl Iterator<Item = &'a mut Socket>) -> Known {
    let mut open: BTreeMap<u32, Option<OwnedFd>> = BTreeMap::new();
    let (mut filled, mut refused, mut reason) = (0u32, 0u32, String::new());
    for socket in sockets {
        if socket.options.reuseport.is_some() || socket.holders.is_empty() {
            continue;
        }
        let mut found = None;
        for holder in &socket.holders {
            let pidfd = open
                .entry(holder.pid)
                .or_insert_with(|| files::open(holder.pid).ok());
            let Some(pidfd) = pidfd else { continue };
            match options_of(pidfd, holder.fd, socket.inode) {
                Ok(options) => {
                    found = options;
                    break;
                }
                Err(error) => reason = error.to_string(),
            }
        }
        match found {
            Some(options) => {
                socket.options = merged(socket.options.clone(), options);
                filled += 1;
            }
            None => refused += 1,
        }
    }
    match (filled, refused) {
        (0, 0) => Known::Untried,
        (_, 0) => Known::Yes,
        (0, _) => Known::No(format!("pidfd_getfd: {reason}")),
        (_, some) => Known::Partly(format!("{some} sockets' holders gave no copy: {reason}")),
    }
}

/// `None`: the descriptor is another socket's by now.
fn options_of(pidfd: &OwnedFd, fd: u32, inode: u64) -> io::Result<Option<Options>> {
    let number = i32::try_from(fd).map_err(io::Error::other)?;
    let copy = pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty())?;
    if fstat(&copy)?.st_ino != inode {
        return Ok(None);
    }
    let value = |level, name| get_int(&copy, level, name).ok();
    let flag = |level, name| value(level, name).map(|value| value != 0);
    let options = Options {
        // 2 is TCP_REPAIR's.
        reuseaddr: value(SOL_SOCKET, SO_REUSEADDR).map(|value| value == 1),
        reuseport: flag(SOL_SOCKET, SO_REUSEPORT),
        v6only: flag(SOL_IPV6, IPV6_V6ONLY),
        freebind: flag(SOL_IP, IP_FREEBIND),
        transparent: flag(SOL_IP, IP_TRANSPARENT),
        bind_address_no_port: flag(SOL_IP, IP_BIND_ADDRESS_NO_PORT),
        repair: flag(SOL_TCP, TCP_REPAIR),
        incoming_cpu: value(SOL_SOCKET, SO_INCOMING_CPU),
        user_locks: None,
    };
    Ok(Some(options))
}

/// What was known stays.
fn merged(known: Options, new: Options) -> Options {
    Options {
        reuseaddr: known.reuseaddr.or(new.reuseaddr),
        reuseport: known.reuseport.or(new.reuseport),
        v6only: known.v6only.or(new.v6only),
        freebind: known.freebind.or(new.freebind),
        transparent: known.transparent.or(new.transparent),
        bind_address_no_port: known.bind_address_no_port.or(new.bind_address_no_port),
        repair: known.repair.or(new.repair),
        incoming_cpu: known.incoming_cpu.or(new.incoming_cpu),
        user_locks: known.user_locks.or(new.user_locks),
    }
}
