//! One check: can a connection be made?
//!
//! Decides:  the check ends with the three-way handshake and is taken back by a reset, so that it
//!           leaves no TIME_WAIT here and, mostly, nothing in the server's accept queue there:
//!           the last acknowledgement is held back (TCP_QUICKACK off), and the reset overtakes it.
//! Source:   HAProxy 2.6.12 under strace(1); src/proto_tcp.c, tcp_connect_server(), for which
//!           errors are this host's.
//! Kernel:   net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process(), 6.1 to 6.18: the ACK is
//!           delayed when not in quick mode.
//! Not here: when checks are made (../health.rs).

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use portcullis_config::model::Source;
use portcullis_proxy::health::CheckStatus;
use portcullis_proxy::proxy_protocol::{Addresses, Version, encode};
use portcullis_proxy::snapshot::ServerAddress;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, ipproto,
    socket_with, sockopt,
};
use tokio::net::TcpStream;

/// How a check's connection begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opening {
    /// The PROXY header that it sends.
    pub header: Option<Version>,
    /// Where it comes from; of a range of ports none is taken.
    pub source: Option<Source>,
}

/// Connects to `target` and takes the connection back; how that ended, and the system's words.
pub async fn check(
    target: &ServerAddress,
    opening: &Opening,
    timeout: Duration,
) -> (CheckStatus, String) {
    match tokio::time::timeout(timeout, attempt(target, opening)).await {
        Ok(Ok(())) => (CheckStatus::L4Ok, String::new()),
        Ok(Err(Failure::Here(errno))) => (CheckStatus::SocketError, words(errno)),
        Ok(Err(Failure::There(errno))) => (CheckStatus::L4Connection, words(errno)),
        Ok(Err(Failure::NoTarget)) => {
            let info = "the server has no fixed address".to_owned();
            (CheckStatus::SocketError, info)
        }
        Err(_) => (CheckStatus::L4Timeout, String::new()),
    }
}

/// As strerror(3) says it, which is how HAProxy's logs do.
fn words(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Whose fault it was.
enum Failure {
    /// This host's: no descriptor, no port.
    Here(Errno),
    /// The server's, or of the way there.
    There(Errno),
    /// The address depends on the client: there is nothing to connect to.
    NoTarget,
}

async fn attempt(target: &ServerAddress, opening: &Opening) -> Result<(), Failure> {
    let socket = open(target, opening)?;
    bind_to(&socket, opening).map_err(Failure::Here)?;
    match begin(&socket, target) {
        Ok(()) => send_header(&socket, opening.header),
        Err(Errno::INPROGRESS) => {
            let stream = finish(socket).await?;
            send_header(&stream, opening.header)
        }
        Err(errno @ (Errno::ADDRINUSE | Errno::ADDRNOTAVAIL | Errno::AGAIN)) => {
            Err(Failure::Here(errno))
        }
        Err(errno) => Err(Failure::There(errno)),
    }
}

/// Our own end, as `source` says it.
fn bind_to(socket: &OwnedFd, opening: &Opening) -> Result<(), Errno> {
    let Some(source) = &opening.source else {
        return Ok(());
    };
    if let Some(device) = &source.interface {
        portcullis_sys::sockopt::set_device(socket, device)?;
    }
    match source.address {
        Some(ip) => rustix::net::bind(socket, &SocketAddr::new(ip, 0)),
        None => Ok(()),
    }
}

/// A header that says that this is a check: version 2 has a word for it; version 1 tells the check's
/// own addresses, since not every server takes `UNKNOWN` (HAProxy 2.6 to 3.5-dev5, src/connection.c,
/// make_proxy_line()). A new connection takes it at once.
fn send_header(socket: impl AsFd, header: Option<Version>) -> Result<(), Failure> {
    let Some(version) = header else {
        return Ok(());
    };
    let header = match version {
        Version::V1 => encode(version, own_addresses(&socket)),
        Version::V2 { .. } => encode(version, None),
    };
    match rustix::net::send(socket, header.as_bytes(), SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Failure::There(errno)),
    }
}

/// Both ends of a check's connection; `None` over a Unix socket.
fn own_addresses(socket: impl AsFd) -> Option<Addresses> {
    let source = SocketAddr::try_from(rustix::net::getsockname(&socket).ok()?).ok()?;
    let destination = rustix::net::getpeername(&socket).ok()??;
    Some(Addresses {
        source,
        destination: SocketAddr::try_from(destination).ok()?,
    })
}

fn open(target: &ServerAddress, opening: &Opening) -> Result<OwnedFd, Failure> {
    let (family, protocol): (AddressFamily, Option<Protocol>) = match target {
        ServerAddress::Tcp { address, mptcp } => {
            let family = match address.is_ipv4() {
                true => AddressFamily::INET,
                false => AddressFamily::INET6,
            };
            (family, mptcp.then_some(ipproto::MPTCP))
        }
        ServerAddress::Unix(_) => (AddressFamily::UNIX, None),
        ServerAddress::TcpMappedPort { .. } | ServerAddress::OriginalDestination { .. } => {
            return Err(Failure::NoTarget);
        }
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, protocol).map_err(Failure::Here)?;
    // A header is to be read: then the connection is not taken back by a reset.
    if family != AddressFamily::UNIX && opening.header.is_none() {
        // Where one of them is refused (TCP_QUICKACK on some MPTCP kernels) the check says the
        // same and only leaves more behind, so that is not its result.
        let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        let _ = sockopt::set_tcp_quickack(&socket, false);
    }
    Ok(socket)
}

fn begin(socket: &OwnedFd, target: &ServerAddress) -> Result<(), Errno> {
    match target {
        ServerAddress::Tcp { address, .. } => connect(socket, address),
        ServerAddress::Unix(bytes) => {
            let address = match bytes.split_first() {
                Some((0, name)) => SocketAddrUnix::new_abstract_name(name)?,
                _ => SocketAddrUnix::new(bytes.as_slice())?,
            };
            connect(socket, &address)
        }
        ServerAddress::TcpMappedPort { .. } | ServerAddress::OriginalDestination { .. } => {
            Err(Errno::DESTADDRREQ)
        }
    }
}

/// Waits until the connection is made or has failed.
async fn finish(socket: OwnedFd) -> Result<TcpStream, Failure> {
    let here =
        |error: std::io::Error| Failure::Here(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    let stream = TcpStream::from_std(socket.into()).map_err(here)?;
    stream.writable().await.map_err(here)?;
    match sockopt::socket_error(&stream) {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(errno)) => Err(Failure::There(errno)),
        Err(errno) => Err(Failure::Here(errno)),
    }
}
