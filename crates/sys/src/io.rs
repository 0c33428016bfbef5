//! Questions to a socket that rustix does not ask.
//!
//! Decides:  nothing; one ioctl a function.
//! Kernel:   net/ipv4/tcp.c tcp_ioctl()
//! Not here: everything that rustix has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `include/uapi/linux/sockios.h`; libc has no name for it.
const SIOCOUTQNSD: libc::Ioctl = 0x894B;

/// `SIOCOUTQNSD`: bytes written to a TCP socket that were not sent yet, since the peer's window or
/// the network's is full.
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    let mut value: libc::c_int = 0;
    // SAFETY: SIOCOUTQNSD writes one c_int through the pointer, which is to an initialised one that
    // outlives the call; the descriptor is borrowed for its length.
    let outcome = unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            SIOCOUTQNSD,
            std::ptr::from_mut(&mut value),
        )
    };
    if outcome == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(value).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn what_the_peers_window_does_not_take_is_unsent() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut near = TcpStream::connect(address).expect("a connection");
        let (_far, _) = listener.accept().expect("its other end");
        near.set_nonblocking(true).expect("a flag");
        near.write_all(&[7; 100]).expect("room");
        assert_eq!(unsent_bytes(&near).expect("an answer"), 0);
        while near.write(&[7; 65_536]).is_ok() {}
        assert!(unsent_bytes(&near).expect("an answer") > 0);
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").expect("it is there");
        assert!(unsent_bytes(&file).is_err());
    }
}
