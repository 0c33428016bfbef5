//! What keeps SYNs away where no filter is allowed: a minimum TTL that next to no packet has.
//!
//! Decides:  255, for both families of a socket; that it is ours where it is 255, and nobody's where it is 0.
//! Source:   ip(7), `IP_MINTTL`; ipv6(7) has no word of `IPV6_MINHOPCOUNT`; RFC 5082, for which both were made.
//! Kernel:   net/ipv4/tcp_ipv4.c, tcp_v4_rcv(), net/ipv6/tcp_ipv6.c, tcp_v6_rcv(): a packet for the socket itself
//!           is dropped without an answer where its TTL is less, a packet for a half-open connection is not asked
//!           for it; net/ipv4/ip_sockglue.c, do_ip_setsockopt(): needs no capability. Linux 6.18, tried on 6.18.44
//! Not here: when it is used instead of a filter (pause.rs).
//!
//! It is coarser than the filter. The acknowledgement that ends a handshake by SYN cookie is dropped too. A
//! client whose packets arrive with 255 is not kept away: a host on the same network that begins with 255, which
//! Linux does not unless `net.ipv4.ip_default_ttl` says so. And what is accepted begins with the minimum, so all
//! that its client sends is dropped (and sent again) until [`admit`] is called on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_sys::sockopt::{get_int, set_int};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;

const IPPROTO_IP: i32 = 0;
const IPPROTO_IPV6: i32 = 41;
const IP_MINTTL: i32 = 21;
const IPV6_MINHOPCOUNT: i32 = 73;

/// The highest TTL there is.
const ALL_BUT_NEIGHBOURS: i32 = 255;

static USED: AtomicBool = AtomicBool::new(false);

/// Whether connections that this process accepts may begin with the minimum: [`admit`] is to be called on each
/// then. It is for listeners of this process that were paused or sealed so, and stays `true`.
pub fn used() -> bool {
    USED.load(Ordering::Relaxed)
}

/// Tells that listeners come from a process in which [`used`] was `true`: what waits in their queues may begin
/// with the minimum.
pub fn remember() {
    USED.store(true, Ordering::Relaxed);
}

/// Lets a connection hear its client, which was accepted from a listener with the minimum, or soon after.
pub fn admit(connection: impl AsFd) {
    // It fails on what never had a minimum: Unix sockets, Multipath TCP.
    let _ = clear(connection.as_fd());
}

/// The minimum of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreign(pub(super) u8);

/// Whether it is ours.
pub(super) fn is_set(listener: BorrowedFd<'_>) -> io::Result<Result<bool, Foreign>> {
    let mut ours = false;
    for (level, option) in options(listener)? {
        match get_int(listener, level, option) {
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT) => {}
            Ok(ALL_BUT_NEIGHBOURS) => ours = true,
            Ok(other) => return Ok(Err(Foreign(u8::try_from(other).unwrap_or(u8::MAX)))),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Ok(ours))
}

pub(super) fn set(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    remember();
    let options =
        options(listener).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    for (level, option) in options {
        if let Err(errno) = set_int(listener, level, option, ALL_BUT_NEIGHBOURS) {
            let _ = clear(listener);
            return Err(errno);
        }
    }
    Ok(())
}

pub(super) fn clear(socket: BorrowedFd<'_>) -> io::Result<()> {
    for (level, option) in options(socket)? {
        set_int(socket, level, option, 0)?;
    }
    Ok(())
}

/// An IPv6 socket may have clients of both families.
fn options(socket: BorrowedFd<'_>) -> io::Result<impl Iterator<Item = (i32, i32)>> {
    let known: &[(i32, i32)] = match socket_domain(socket)? {
        AddressFamily::INET => &[(IPPROTO_IP, IP_MINTTL)],
        AddressFamily::INET6 => &[(IPPROTO_IP, IP_MINTTL), (IPPROTO_IPV6, IPV6_MINHOPCOUNT)],
        _ => &[],
    };
    Ok(known.iter().copied())
}
