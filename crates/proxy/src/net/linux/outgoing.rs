//! Our end of a connection to a server: address, port, device, fast open.
//!
//! Decides:  without a port the kernel chooses one at connect; of a range, one after the other is
//!           tried, ten at most, where the kernel says that it is taken.
//! Kernel:   ip(7), tcp(7); net/ipv4/tcp_ipv4.c, tcp_v4_connect(), 5.4 to 6.18
//! Source:   HAProxy's src/proto_tcp.c, tcp_connect_server(), 2.6 to 3.5
//! Not here: who lends ports (source.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::source::{Lease, Source};

/// Ports of a range that one attempt tries.
const MOST_PORTS: usize = 10;

/// `IP_BIND_ADDRESS_NO_PORT`, at IPPROTO_IP, for IPv6 sockets too.
const BIND_ADDRESS_NO_PORT: i32 = 24;
/// `TCP_FASTOPEN_CONNECT`, at IPPROTO_TCP: connect waits for the first write.
const FASTOPEN_CONNECT: i32 = 30;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;

/// Binds to `source` and begins to connect.
pub fn connect_from(
    socket: &OwnedFd,
    source: &Source,
    to: &SocketAddr,
    lease: &mut Option<Box<Lease>>,
) -> Result<(), Errno> {
    if let Some(device) = &source.interface {
        portcullis_sys::sockopt::set_device(socket, device)?;
    }
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let Some(ports) = &source.ports else {
        if let Some(ip) = source.ip {
            // Where the kernel does not know it, the port is only chosen too early.
            let _ = portcullis_sys::sockopt::set_int(socket, IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1);
            rustix::net::bind(socket, &SocketAddr::new(ip, 0))?;
        }
        return rustix::net::connect(socket, to);
    };
    // A port whose last connection is in TIME_WAIT towards this server is told by connect.
    sockopt::set_socket_reuseaddr(socket, true)?;
    let mut taken = Vec::new();
    for _ in 0..MOST_PORTS {
        let lent = ports.lend().ok_or(Errno::ADDRNOTAVAIL)?;
        let from = SocketAddr::new(source.ip.unwrap_or(any), lent.port());
        match rustix::net::bind(socket, &from) {
            Ok(()) => {
                let outcome = rustix::net::connect(socket, to);
                *lease = Some(Box::new(lent));
                return outcome;
            }
            // Kept until another one is found, so that it is not lent again at once.
            Err(Errno::ADDRINUSE) => taken.push(lent),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ADDRNOTAVAIL)
}

/// The first bytes may go with the SYN.
pub fn set_fast_open(socket: &OwnedFd) -> Result<(), Errno> {
    portcullis_sys::sockopt::set_int(socket, IPPROTO_TCP, FASTOPEN_CONNECT, 1)
}
