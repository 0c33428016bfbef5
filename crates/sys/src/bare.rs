//! Socket calls with any argument, right or wrong, as the conformance run makes them.
//!
//! Decides:  how an argument that the kernel must refuse is passed without harm to this process.
//! Kernel:   net/socket.c, move_addr_to_kernel(); net/core/sock.c, sk_getsockopt(); kernel/sys.c,
//!           __sys_setfsuid(), 3.9 to 6.18
//! Not here: calls with proper arguments (rustix).

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

pub use crate::filter::{Instruction, attach_group_program as attach_reuseport_program};

/// Bytes of `struct sockaddr_storage`: the kernel copies no longer address.
pub const ADDRESS_MAX: usize = 128;
/// `bind` with these bytes and this length, which need not fit them.
///
/// The kernel refuses a length that is negative or above [`ADDRESS_MAX`] before it copies.
pub fn bind(fd: impl AsFd, address: &[u8; ADDRESS_MAX], len: i32) -> Result<()> {
    // SAFETY: the kernel copies at most ADDRESS_MAX bytes, all of them initialised, and keeps no
    // pointer.
    check(unsafe { libc::bind(fd.as_fd().as_raw_fd(), address.as_ptr().cast(), len as u32) })
}

/// `connect` with these bytes and this length, as [`bind`].
pub fn connect(fd: impl AsFd, address: &[u8; ADDRESS_MAX], len: i32) -> Result<()> {
    // SAFETY: as in `bind`.
    check(unsafe { libc::connect(fd.as_fd().as_raw_fd(), address.as_ptr().cast(), len as u32) })
}

/// `shutdown` with any `how`.
pub fn shutdown(fd: impl AsFd, how: i32) -> Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::shutdown(fd.as_fd().as_raw_fd(), how) })
}

/// `getsockname`: the bytes of the address and their number.
pub fn local_name(fd: impl AsFd) -> Result<([u8; ADDRESS_MAX], usize)> {
    let mut bytes = [0; ADDRESS_MAX];
    let mut len = ADDRESS_MAX as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the array's own length.
    let done =
        unsafe { libc::getsockname(fd.as_fd().as_raw_fd(), bytes.as_mut_ptr().cast(), &mut len) };
    check(done).map(|()| (bytes, (len as usize).min(ADDRESS_MAX)))
}

/// `getpeername`, as [`local_name`].
pub fn peer_name(fd: impl AsFd) -> Result<([u8; ADDRESS_MAX], usize)> {
    let mut bytes = [0; ADDRESS_MAX];
    let mut len = ADDRESS_MAX as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the array's own length.
    let done =
        unsafe { libc::getpeername(fd.as_fd().as_raw_fd(), bytes.as_mut_ptr().cast(), &mut len) };
    check(done).map(|()| (bytes, (len as usize).min(ADDRESS_MAX)))
}

/// `TCP_INFO`: the state alone, with the kernel's numbers.
pub fn tcp_state(fd: impl AsFd) -> Result<u8> {
    let mut state = 0u8;
    let mut len: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `len` bytes, one, where `state` is.
    let done = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast::<c_void>(),
            &mut len,
        )
    };
    check(done).map(|()| state)
}

/// The longest value that [`set_option`] and [`get_option`] pass.
pub const OPTION_MAX: usize = 64;
/// Bytes that a kernel may write whatever the room that it is told: the longest of the structures behind
/// the options here, `struct tcp_info`, and more to come.
const WRITTEN_MAX: usize = 4096;

/// `getsockopt` with any room, right or wrong, negative too: what was written, and its length.
///
/// Only for options that write no more than [`OPTION_MAX`] bytes, or `TCP_INFO`.
pub fn get_option(
    fd: impl AsFd,
    level: i32,
    number: i32,
    room: i32,
) -> Result<([u8; OPTION_MAX], usize)> {
    let mut bytes = [0u8; WRITTEN_MAX];
    if room > OPTION_MAX as i32 {
        return Err(Errno::TOOBIG);
    }
    let mut len = room as libc::socklen_t;
    // SAFETY: a negative room, which an old kernel takes for a large one, is cut to the size of the
    // option's own structure, for which there is place; any other is smaller than the array.
    let done = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            number,
            bytes.as_mut_ptr().cast::<c_void>(),
            &mut len,
        )
    };
    check(done)?;
    let mut first = [0; OPTION_MAX];
    first.copy_from_slice(&bytes[..OPTION_MAX]);
    Ok((first, len as usize))
}

/// `setsockopt` with a length of its own, right or wrong, negative too: the value's first bytes, or zeros
/// behind it.
///
/// A value holds no pointer.
pub fn set_option(fd: impl AsFd, level: i32, number: i32, value: &[u8], len: i32) -> Result<()> {
    let mut bytes = [0u8; OPTION_MAX];
    if len > OPTION_MAX as i32 || value.len() > OPTION_MAX {
        return Err(Errno::TOOBIG);
    }
    bytes[..value.len()].copy_from_slice(value);
    // SAFETY: the kernel refuses a negative length before it reads, and reads at most `len` initialised
    // bytes, no more than there are. An option whose value holds a pointer has zeros there: it finds no
    // address, and says EFAULT.
    let done = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            number,
            bytes.as_ptr().cast::<c_void>(),
            len as libc::socklen_t,
        )
    };
    check(done)
}

/// `setfsuid`: the user that owns what the calling thread makes from now on, sockets included.
///
/// The call tells no error; so it is asked twice.
pub fn set_file_system_user(uid: u32) -> io::Result<()> {
    // SAFETY: plain integers; the second call, with an impossible id, only answers what is set.
    let now = unsafe {
        libc::setfsuid(uid);
        libc::setfsuid(u32::MAX)
    };
    if now as u32 == uid {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

/// `unshare(CLONE_NEWNET)`: an empty network, its loopback down, for the calling thread.
pub fn enter_network_namespace() -> io::Result<()> {
    // SAFETY: no pointers; descriptors stay valid, sockets keep the network that they were made in.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn check(done: c_int) -> Result<()> {
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn ipv4(port: u16) -> [u8; ADDRESS_MAX] {
        let mut bytes = [0; ADDRESS_MAX];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
        bytes
    }

    fn stream() -> rustix::fd::OwnedFd {
        let family = rustix::net::AddressFamily::INET;
        rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap()
    }

    #[test]
    fn an_address_of_any_length_is_refused_or_taken_without_harm() {
        for (len, expected) in [
            (-1, Err(Errno::INVAL)),
            (129, Err(Errno::INVAL)),
            (15, Err(Errno::INVAL)),
            (128, Ok(())),
        ] {
            assert_eq!(bind(stream(), &ipv4(0), len), expected, "length {len}");
        }
    }

    #[test]
    fn a_listener_tells_its_name_and_state() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (bytes, len) = local_name(&listener).unwrap();
        assert_eq!((&bytes[..8], len), (&ipv4(port)[..8], 16));
        assert_eq!(tcp_state(&listener), Ok(10));
        assert_eq!(peer_name(&listener), Err(Errno::NOTCONN));
        assert_eq!(shutdown(&listener, 0), Ok(()));
        assert_eq!(tcp_state(&listener), Ok(7));
    }
}
