//! Our end of a connection to a server: address, port, device, fast open.
//!
//! Decides:  without a port the kernel chooses one at connect; of a range, one after the other is
//!           tried, ten at most, where the kernel says that it is taken; another host's address is
//!           bound by IP_TRANSPARENT, and where that is refused there is no connection: the server
//!           is to see that address or none.
//! Kernel:   ip(7), tcp(7); net/ipv4/tcp_ipv4.c, tcp_v4_connect(), 5.4 to 6.18
//! Source:   HAProxy's src/proto_tcp.c, tcp_connect_server(), 2.6 to 3.5
//! Not here: who lends ports (source.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::net::Unconnected;
use crate::record::PeerAddress;
use crate::source::{Lease, NoAddress, Source};

/// Ports of a range that one attempt tries.
const MOST_PORTS: usize = 10;

/// `IP_BIND_ADDRESS_NO_PORT`, at IPPROTO_IP, for IPv6 sockets too.
const BIND_ADDRESS_NO_PORT: i32 = 24;
/// `TCP_FASTOPEN_CONNECT`, at IPPROTO_TCP: connect waits for the first write.
const FASTOPEN_CONNECT: i32 = 30;
/// `IP_TRANSPARENT`, at IPPROTO_IP.
const IP_TRANSPARENT: i32 = 19;
/// `IPV6_TRANSPARENT`, at IPPROTO_IPV6.
const IPV6_TRANSPARENT: i32 = 75;
const IPPROTO_IP: i32 = 0;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_IPV6: i32 = 41;

/// Binds to `source` and begins to connect.
pub fn connect_from(
    socket: &OwnedFd,
    source: &Source,
    client: PeerAddress,
    to: &SocketAddr,
    lease: &mut Option<Box<Lease>>,
) -> Result<(), Unconnected> {
    if let Some(device) = &source.interface {
        portcullis_sys::sockopt::set_device(socket, device).map_err(unbound)?;
    }
    if let Some(from) = source.foreign(client, to) {
        bind_foreign(socket, &from)?;
        return Ok(rustix::net::connect(socket, to)?);
    }
    let Some(ports) = &source.ports else {
        if let Some(ip) = source.ip {
            choose_port_later(socket);
            rustix::net::bind(socket, &SocketAddr::new(ip, 0)).map_err(unbound)?;
        }
        return Ok(rustix::net::connect(socket, to)?);
    };
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port whose last connection is in TIME_WAIT towards this server is told by connect.
    sockopt::set_socket_reuseaddr(socket, true).map_err(Unconnected::Failed)?;
    let mut taken = Vec::new();
    for _ in 0..MOST_PORTS {
        let lent = ports
            .lend()
            .ok_or(Unconnected::NoAddress(NoAddress::Ports))?;
        let from = SocketAddr::new(source.ip.unwrap_or(any), lent.port());
        match rustix::net::bind(socket, &from) {
            Ok(()) => {
                let outcome = rustix::net::connect(socket, to);
                *lease = Some(Box::new(lent));
                return Ok(outcome?);
            }
            // Kept until another one is found, so that it is not lent again at once.
            Err(Errno::ADDRINUSE) => taken.push(lent),
            Err(error) => return Err(unbound(error)),
        }
    }
    Err(Unconnected::NoAddress(NoAddress::Ports))
}

/// The address of a host that is not this one.
fn bind_foreign(socket: &OwnedFd, from: &SocketAddr) -> Result<(), Unconnected> {
    let (level, option) = match from {
        SocketAddr::V4(_) => (IPPROTO_IP, IP_TRANSPARENT),
        SocketAddr::V6(_) => (IPPROTO_IPV6, IPV6_TRANSPARENT),
    };
    portcullis_sys::sockopt::set_int(socket, level, option, 1).map_err(unbound)?;
    match from.port() {
        0 => choose_port_later(socket),
        // The client has the same port towards us, and may have had it towards this server.
        _ => sockopt::set_socket_reuseaddr(socket, true).map_err(Unconnected::Failed)?,
    }
    rustix::net::bind(socket, from).map_err(unbound)
}

/// Where the kernel does not know it, the port is only chosen too early.
fn choose_port_later(socket: &OwnedFd) {
    let _ = portcullis_sys::sockopt::set_int(socket, IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1);
}

/// What keeps us from our own end is no refusal of the server's.
fn unbound(error: Errno) -> Unconnected {
    Unconnected::NoAddress(match error {
        Errno::NOBUFS | Errno::NOMEM => return Unconnected::Failed(error),
        Errno::ADDRINUSE => NoAddress::InUse,
        Errno::PERM | Errno::ACCESS => NoAddress::Permission,
        error => NoAddress::Address(error),
    })
}

/// The first bytes may go with the SYN.
pub fn set_fast_open(socket: &OwnedFd) -> Result<(), Errno> {
    portcullis_sys::sockopt::set_int(socket, IPPROTO_TCP, FASTOPEN_CONNECT, 1)
}
