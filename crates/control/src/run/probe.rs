//! Does another process have this address already?
//!
//! Decides:  that a listener which the kernel lets us share with a process of the same user is worth
//!           a warning: a server started twice by mistake would get half of the connections each,
//!           and nobody would be told.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict(): a socket with SO_REUSEADDR
//!           and without SO_REUSEPORT is refused beside a listener, and only beside one; 6.1 to 6.18
//! Not here: what to do when the address cannot be had at all (the opener's error says it).

use std::net::SocketAddr;

use portcullis_listener::spec::Ipv6Only;
use portcullis_listener::{Address, ListenerSpec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// Does someone listen on the specification's address, or on a part of it? False where it cannot
/// be told: the address is no TCP one, or bound to a device or a namespace.
pub(super) fn is_held(spec: &ListenerSpec) -> bool {
    let (Address::Tcp(address) | Address::Mptcp(address)) = spec.address else {
        return false;
    };
    let elsewhere = spec.interface.is_some() || spec.network_namespace.is_some();
    if elsewhere || address.port() == 0 || !spec.reuse_port {
        return false;
    }
    matches!(try_alone(address, spec.ipv6_only), Err(Errno::ADDRINUSE))
}

/// Are both at one port?
pub(super) fn share_port(one: &ListenerSpec, other: &ListenerSpec) -> bool {
    let port = |spec: &ListenerSpec| match spec.address {
        Address::Tcp(address) | Address::Mptcp(address) => Some(address.port()),
        _ => None,
    };
    port(one).is_some() && port(one) == port(other)
}

/// Binds without listening, and closes: nobody can connect to it meanwhile.
fn try_alone(address: SocketAddr, ipv6_only: Option<Ipv6Only>) -> Result<(), Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if let (SocketAddr::V6(_), Some(only)) = (address, ipv6_only) {
        sockopt::set_ipv6_v6only(&socket, only == Ipv6Only::On)?;
    }
    bind(&socket, &address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_listener_is_seen_and_connections_that_outlive_one_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let spec = ListenerSpec::tcp(address);
        assert!(is_held(&spec));
        let mut elsewhere = spec.clone();
        elsewhere.interface = Some("lo".to_owned());
        assert!(!is_held(&elsewhere));
        let client = TcpStream::connect(address).unwrap();
        let accepted = listener.accept().unwrap();
        drop(listener);
        assert!(!is_held(&spec), "established connections do not hold it");
        drop(accepted);
        drop(client);
        assert!(!is_held(&spec), "nor do those in TIME_WAIT");
    }

    #[test]
    fn a_wildcard_is_held_where_one_of_its_addresses_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_held(&ListenerSpec::tcp(([0, 0, 0, 0], port).into())));
        assert!(!is_held(&ListenerSpec::tcp(([127, 0, 0, 9], port).into())));
    }
}
