//! Our own address and port towards servers: `source`.
//!
//! Decides:  ports of a range are lent to one connection at a time, the one that rested longest first.
//! Source:   HAProxy's manual, `source`; src/port_range.c; src/proto_tcp.c, tcp_connect_server(), 2.6 to
//!           3.5: how many ports are tried.
//! Kernel:   ip(7), IP_BIND_ADDRESS_NO_PORT: without a port, the port is chosen at connect, so that
//!           it only has to be free towards that server.
//! Not here: binding (net/linux.rs).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::record::PeerAddress;

/// Where connections to a server come from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The address; `None`: the kernel's choice.
    pub ip: Option<IpAddr>,
    /// The ports; `None`: the kernel's choice.
    pub ports: Option<Arc<Ports>>,
    /// `interface`: the device.
    pub interface: Option<Arc<str>>,
    /// `usesrc`: what the server sees instead; `None`: `ip`.
    pub seen: Option<Seen>,
}

/// `usesrc`: another host's address, which the server sees as where the connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The client's address and port.
    Client,
    /// The client's address; the kernel chooses the port.
    ClientIp,
    /// This one; port 0: the kernel chooses it.
    Address(SocketAddr),
}

/// Why a connection to a server got no address: of ours, but for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// Every port is taken, of the range or of the host.
    Ports,
    /// The port that is said is another connection's.
    InUse,
    /// Another host's address needs a capability.
    Permission,
    /// It is no address of this host, or of the other family, or the device is not there.
    Address(Errno),
    /// The server's port, the client's own plus or minus something, would be this, which is none.
    ServerPort(i64),
}

impl std::fmt::Display for NoAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NoAddress::Ports => "no free ports",
            NoAddress::InUse => "local address already in use",
            NoAddress::Permission => "cap_net_raw is missing",
            NoAddress::Address(errno) => {
                return f.write_str(&portcullis_sys::errno::describe(errno.raw_os_error()));
            }
            NoAddress::ServerPort(port) => return write!(f, "the server's port would be {port}"),
        })
    }
}

impl Source {
    /// Which foreign address a connection for `client` to `server` is bound to. A client of the other
    /// family, or without an address, has none that could stand for it.
    #[must_use]
    pub fn foreign(&self, client: PeerAddress, server: &SocketAddr) -> Option<SocketAddr> {
        let address = match (self.seen?, client) {
            (Seen::Address(address), _) => address,
            (Seen::Client, PeerAddress::Ip(client)) => client,
            (Seen::ClientIp, PeerAddress::Ip(client)) => SocketAddr::new(client.ip(), 0),
            (Seen::Client | Seen::ClientIp, PeerAddress::Unix) => return None,
        };
        let ip = match server {
            SocketAddr::V4(_) => address.ip().to_canonical(),
            SocketAddr::V6(_) => address.ip(),
        };
        Some(SocketAddr::new(ip, address.port()))
    }
}

/// The free ports of a range.
#[derive(Debug)]
pub struct Ports {
    free: Mutex<VecDeque<u16>>,
}

/// A port that is lent until this is dropped.
#[derive(Debug)]
pub struct Lease {
    port: u16,
    of: Arc<Ports>,
}

impl Ports {
    /// All of `range` are free.
    #[must_use]
    pub fn new(range: RangeInclusive<u16>) -> Arc<Ports> {
        Arc::new(Ports {
            free: Mutex::new(range.collect()),
        })
    }

    /// Lends a port; `None`: all are lent.
    #[must_use]
    pub fn lend(self: &Arc<Self>) -> Option<Lease> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let port = free.pop_front()?;
        Some(Lease {
            port,
            of: Arc::clone(self),
        })
    }

    /// How many can be lent.
    #[must_use]
    pub fn free(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.len()
    }
}

impl Lease {
    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut free = self.of.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push_back(self.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_lent_once_and_the_longest_free_goes_first() {
        let ports = Ports::new(7000..=7002);
        let leases: Vec<Lease> = (0..3).map(|_| ports.lend().unwrap()).collect();
        assert!(ports.lend().is_none());
        let [first, second, third] = leases.try_into().unwrap();
        assert_eq!(
            [first.port(), second.port(), third.port()],
            [7000, 7001, 7002]
        );
        drop(second);
        drop(first);
        assert_eq!(ports.lend().unwrap().port(), 7001);
        assert_eq!(ports.lend().unwrap().port(), 7000);
        drop(third);
        assert_eq!(ports.free(), 3);
    }
}
