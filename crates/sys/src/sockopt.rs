//! Reading and writing socket options.
//!
//! Decides:  which options may be written by number, and which need a function of their own.
//! Kernel:   net/core/sock.c, sk_setsockopt() and sk_getsockopt(); net/ipv4/tcp.c,
//!           do_tcp_setsockopt() and do_tcp_getsockopt(), 6.1 to 6.18
//! Not here: the options' names and consequences (crate `sockopt`).
//!
//! An `int` may be written to any level and number: it holds no pointer. A structure may not,
//! since some (`IPT_SO_SET_REPLACE`, `TCP_ZEROCOPY_RECEIVE`) make the kernel write through an
//! address found inside; so each structure has its own function here.

use std::ffi::{c_int, c_void};
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

/// The longest device name, its closing NUL included (`IFNAMSIZ`).
pub const DEVICE_NAME_MAX: usize = libc::IFNAMSIZ;
/// The longest name of a congestion control algorithm, its closing NUL included (`TCP_CA_NAME_MAX`).
pub const CONGESTION_NAME_MAX: usize = 16;
/// The longest TCP-MD5 secret (`TCP_MD5SIG_MAXKEYLEN`).
pub const MD5_KEY_MAX: usize = 80;

const SO_NETNS_COOKIE: c_int = 71;
const TCP_MD5SIG: c_int = 14;
const TCP_MD5SIG_EXT: c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

/// Sets an option whose value is a C `int`.
pub fn set_int(fd: impl AsFd, level: i32, number: i32, value: i32) -> Result<()> {
    let value: c_int = value;
    set(fd.as_fd(), level, number, &value)
}

/// Reads an option whose value is a C `int`.
pub fn get_int(fd: impl AsFd, level: i32, number: i32) -> Result<i32> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is an initialised c_int of `len` bytes, which the kernel may overwrite.
    let done = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            number,
            (&raw mut value).cast::<c_void>(),
            &mut len,
        )
    };
    check(done).map(|()| value)
}

/// `SO_LINGER`: on with this many seconds, or off.
pub fn set_linger(fd: impl AsFd, seconds: Option<u16>) -> Result<()> {
    let value = libc::linger {
        l_onoff: c_int::from(seconds.is_some()),
        l_linger: c_int::from(seconds.unwrap_or(0)),
    };
    set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &value)
}

/// `SO_LINGER`: the seconds where it is on.
pub fn linger(fd: impl AsFd) -> Result<Option<i32>> {
    let empty = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    let (value, _) = get(fd.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, empty)?;
    Ok((value.l_onoff != 0).then_some(value.l_linger))
}

/// `SO_RCVLOWAT`: how many bytes must be there before a socket counts as readable. TCP takes no more
/// than half of what its buffer may grow to.
pub fn set_receive_low_water(fd: impl AsFd, bytes: i32) -> Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// `SO_BINDTODEVICE`: only traffic of this device; the empty name lifts the restriction.
///
/// A name that does not fit the kernel's `IFNAMSIZ` is refused with `ENODEV`; the kernel itself
/// would cut it and could find another device.
pub fn set_device(fd: impl AsFd, name: &str) -> Result<()> {
    let name = name_bytes::<DEVICE_NAME_MAX>(name).ok_or(Errno::NODEV)?;
    set(fd.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)
}

/// `SO_BINDTODEVICE`: the device's name, empty where the socket is bound to none.
pub fn device(fd: impl AsFd) -> Result<String> {
    let empty = [0u8; DEVICE_NAME_MAX];
    let (name, len) = get(fd.as_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, empty)?;
    Ok(name_text(&name, len))
}

/// `TCP_CONGESTION`: the congestion control algorithm of this socket and of those it accepts.
pub fn set_congestion(fd: impl AsFd, name: &str) -> Result<()> {
    let name = name_bytes::<CONGESTION_NAME_MAX>(name).ok_or(Errno::NOENT)?;
    set(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, &name)
}

/// `TCP_CONGESTION`: the algorithm's name.
pub fn congestion(fd: impl AsFd) -> Result<String> {
    let empty = [0u8; CONGESTION_NAME_MAX];
    let (name, len) = get(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, empty)?;
    Ok(name_text(&name, len))
}

/// `struct tcp_md5sig` of include/uapi/linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: c_int,
    key: [u8; MD5_KEY_MAX],
}

/// `TCP_MD5SIG_EXT`: connections of peers inside `peer`/`prefix_len` must be signed with `key`.
///
/// `peer` must be of the socket's family; for IPv4 peers of an IPv6 socket it is a v4-mapped
/// address with the IPv4 prefix length (at most 32). An empty key removes the entry.
pub fn set_md5_prefix(fd: impl AsFd, peer: IpAddr, prefix_len: u8, key: &[u8]) -> Result<()> {
    let entry = md5_entry(peer, TCP_MD5SIG_FLAG_PREFIX, prefix_len, key)?;
    set(fd.as_fd(), libc::IPPROTO_TCP, TCP_MD5SIG_EXT, &entry)
}

/// `TCP_MD5SIG`: connections with exactly this peer are signed with `key`; what a client sets.
pub fn set_md5_peer(fd: impl AsFd, peer: IpAddr, key: &[u8]) -> Result<()> {
    let entry = md5_entry(peer, 0, 0, key)?;
    set(fd.as_fd(), libc::IPPROTO_TCP, TCP_MD5SIG, &entry)
}

fn md5_entry(peer: IpAddr, flags: u8, prefix_len: u8, key: &[u8]) -> Result<TcpMd5Sig> {
    if key.len() > MD5_KEY_MAX {
        return Err(Errno::INVAL);
    }
    let mut entry = TcpMd5Sig {
        address: storage_of(SocketAddr::new(peer, 0)),
        flags,
        prefix_len,
        key_len: key.len() as u16,
        ifindex: 0,
        key: [0; MD5_KEY_MAX],
    };
    entry.key[..key.len()].copy_from_slice(key);
    Ok(entry)
}

fn storage_of(address: SocketAddr) -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage is plain bytes, for which all zero is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    match address {
        SocketAddr::V4(v4) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in and aligned for every sockaddr.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(value) };
        }
        SocketAddr::V6(v6) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in6 and aligned for every sockaddr.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(value) };
        }
    }
    storage
}

/// `SO_NETNS_COOKIE`: the number of the network namespace that the socket lives in.
pub fn netns_cookie(fd: impl AsFd) -> Result<u64> {
    get(fd.as_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, 0u64).map(|(cookie, _)| cookie)
}

/// The accept queue of a listening TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Connections waiting to be accepted (`sk_ack_backlog`).
    pub waiting: u32,
    /// How many may wait (`sk_max_ack_backlog`, the backlog after the cut to `somaxconn`).
    pub limit: u32,
}

/// `TCP_INFO` of a listening socket: its accept queue. `None` where it does not listen.
pub fn accept_queue(fd: impl AsFd) -> Result<Option<AcceptQueue>> {
    const TCP_LISTEN: u8 = 10;
    // SAFETY: tcp_info is integers only, for which all zero is a valid value.
    let empty: libc::tcp_info = unsafe { MaybeUninit::zeroed().assume_init() };
    let (info, _) = get(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, empty)?;
    Ok((info.tcpi_state == TCP_LISTEN).then_some(AcceptQueue {
        waiting: info.tcpi_unacked,
        limit: info.tcpi_sacked,
    }))
}

/// Whether a TCP socket is on its way to a connection or has one (`TCP_INFO`): any state but CLOSE
/// and LISTEN. `getpeername` does not tell while a connection is still being made.
pub fn is_connecting_or_connected(fd: impl AsFd) -> Result<bool> {
    const TCP_CLOSE: u8 = 7;
    const TCP_LISTEN: u8 = 10;
    // SAFETY: tcp_info is integers only, for which all zero is a valid value.
    let empty: libc::tcp_info = unsafe { MaybeUninit::zeroed().assume_init() };
    let (info, _) = get(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, empty)?;
    Ok(![TCP_CLOSE, TCP_LISTEN].contains(&info.tcpi_state))
}

fn set<T>(fd: BorrowedFd<'_>, level: i32, number: i32, value: &T) -> Result<()> {
    // SAFETY: `value` is an initialised T of plain data without pointers (every caller in this
    // file); the kernel reads its bytes during the call and keeps no pointer to them.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            number,
            std::ptr::from_ref(value).cast::<c_void>(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(done)
}

fn get<T: Copy>(fd: BorrowedFd<'_>, level: i32, number: i32, empty: T) -> Result<(T, usize)> {
    let mut value = empty;
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is an initialised T of integers (every caller in this file), so any bytes
    // that the kernel writes, at most `len`, leave it valid.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            number,
            (&raw mut value).cast::<c_void>(),
            &mut len,
        )
    };
    check(done).map(|()| (value, len as usize))
}

fn check(done: c_int) -> Result<()> {
    if done == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn name_bytes<const N: usize>(name: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if name.len() >= N || name.contains('\0') {
        return None;
    }
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Some(bytes)
}

fn name_text(bytes: &[u8], len: usize) -> String {
    let bytes = &bytes[..len.min(bytes.len())];
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
