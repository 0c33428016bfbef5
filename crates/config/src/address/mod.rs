//! Addresses of `bind` lines, servers and logs.
//!
//! Decides:  which of the address forms may stand in which place, and what they mean there.
//! Source:   HAProxy's manual, chapter 11; src/cfgparse.c, str2listener(); src/server.c,
//!           _srv_parse_init(); src/log.c, parse_log_target(), 3.5-dev5.
//! Not here: prefixes (prefix.rs), hosts and ports (host.rs); names are not resolved.

mod fault;
mod host;
mod prefix;

use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::diagnostic::Diagnostic;
use crate::environment::Environment;
use crate::model::{
    BindAddress, Family, Host, HostPort, LogDestination, ServerAddress, ServerPort,
};
use crate::source::{At, Place};
use crate::syntax::Word;

use fault::{AddressError, Fault};
use host::{HostAndPort, Port, host_and_port};
use prefix::{Kind, Start, Transport, start};

/// Bytes of a Unix socket's path: `sun_path` less its end and HAProxy's `.PID.tmp`.
pub const MAX_UNIX_PATH: usize = 97;
/// Bytes of an abstract name: `sun_path` less the NUL before it.
pub const MAX_ABSTRACT: usize = 107;
/// Addresses of one `bind` line, each port of a range counted.
pub const MAX_BIND_ADDRESSES: usize = 65_536;
/// The port of a log target that names none.
pub const SYSLOG_PORT: u16 = 514;

/// Reads addresses. HAProxy fills in variables in them even outside double quotes.
#[derive(Debug, Clone, Copy)]
pub struct Addresses<'a> {
    /// The variables.
    pub environment: &'a Environment,
    /// `unix-bind prefix`, put before the paths of `bind` lines.
    pub unix_prefix: &'a str,
}

type Read<T> = Result<T, AddressError>;

impl Addresses<'_> {
    /// The addresses of a `bind` line: a list parted by commas, port ranges spread out.
    /// All faults of the list are found.
    pub fn bind(&self, word: &Word) -> Result<Vec<At<BindAddress>>, Vec<Diagnostic>> {
        let mut addresses = Vec::new();
        let mut faults = Vec::new();
        for range in list(word.bytes()) {
            let piece = self.piece(word, range);
            let place = piece.place;
            match bind(&piece.bytes, self.unix_prefix) {
                Ok(found) => addresses.extend(found.into_iter().map(|a| At::new(a, place))),
                Err(error) => faults.push(error.diagnostic(&piece)),
            }
            if addresses.len() > MAX_BIND_ADDRESSES {
                let message = format!("more than {MAX_BIND_ADDRESSES} addresses on one line");
                faults.push(Diagnostic::error("too-many-addresses", place, message));
                break;
            }
        }
        if faults.is_empty() {
            Ok(addresses)
        } else {
            Err(faults)
        }
    }

    /// The address of a server.
    pub fn server(&self, word: &Word) -> Result<At<ServerAddress>, Diagnostic> {
        let piece = self.piece(word, 0..word.bytes().len());
        let address = server(&piece.bytes).map_err(|error| error.diagnostic(&piece))?;
        Ok(At::new(address, word.place))
    }

    /// Where a log goes.
    pub fn log(&self, word: &Word) -> Result<LogDestination, Diagnostic> {
        let piece = self.piece(word, 0..word.bytes().len());
        log(&piece.bytes).map_err(|error| error.diagnostic(&piece))
    }

    /// A host, with a port or without (`addr` of a check).
    pub fn host(&self, word: &Word) -> Result<(Host, Option<u16>), Diagnostic> {
        let piece = self.piece(word, 0..word.bytes().len());
        check_host(&piece.bytes).map_err(|error| error.diagnostic(&piece))
    }

    /// A part of a word, its variables filled in.
    fn piece(&self, word: &Word, range: Range<usize>) -> Piece {
        Piece::of(word, range).expand(self.environment)
    }
}

/// The parts between commas. Nothing after the last comma is no part.
fn list(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b',' {
            parts.push(from..at);
            from = at + 1;
        }
    }
    if from < bytes.len() || parts.is_empty() {
        parts.push(from..bytes.len());
    }
    parts
}

/// Bytes, and the bytes of the line that each came from.
#[derive(Debug, Clone)]
struct Piece {
    bytes: Vec<u8>,
    origins: Vec<(u32, u32)>,
    place: Place,
}

impl Piece {
    fn of(word: &Word, range: Range<usize>) -> Piece {
        let origin = |at: usize| {
            let place = word.place_of(at..at + 1);
            (place.start, place.end)
        };
        Piece {
            bytes: word.bytes()[range.clone()].to_vec(),
            origins: range.clone().map(origin).collect(),
            place: word.place_of(range),
        }
    }

    fn place_of(&self, range: Range<usize>) -> Place {
        let start = match self.origins.get(range.start) {
            Some(origin) => origin.0,
            None => self.origins.last().map_or(self.place.end, |last| last.1),
        };
        let last = range.end.checked_sub(1).and_then(|at| self.origins.get(at));
        let end = match last {
            Some(last) if !range.is_empty() => last.1,
            _ => start,
        };
        Place {
            start,
            end: end.max(start),
            ..self.place
        }
    }

    /// `$V` and `${V}` filled in, nothing for one that is not set (env_expand()).
    fn expand(self, environment: &Environment) -> Piece {
        if !self.bytes.contains(&b'$') {
            return self;
        }
        let mut expanded = Piece {
            bytes: Vec::new(),
            origins: Vec::new(),
            place: self.place,
        };
        let mut at = 0;
        while at < self.bytes.len() {
            if self.bytes[at] != b'$' {
                expanded.bytes.push(self.bytes[at]);
                expanded.origins.push(self.origins[at]);
                at += 1;
                continue;
            }
            let (name, end) = variable(&self.bytes, at);
            let origin = (self.origins[at].0, self.origins[end - 1].1);
            let value = environment.get(name).unwrap_or_default();
            expanded.bytes.extend_from_slice(value);
            expanded.origins.extend(value.iter().map(|_| origin));
            at = end;
        }
        expanded
    }
}

/// The name after the dollar sign at `at`, and where the variable ends.
fn variable(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let braced = bytes.get(at + 1) == Some(&b'{');
    let from = at + if braced { 2 } else { 1 };
    let rest = &bytes[from..];
    let is_name = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'_';
    let length = rest.iter().take_while(is_name).count();
    let closed = braced && rest.get(length) == Some(&b'}');
    (&rest[..length], from + length + usize::from(closed))
}

fn at_start(start: &Start, fault: Fault) -> AddressError {
    AddressError::new(fault, 0..start.length)
}

fn not_yet(start: &Start, what: &'static str) -> AddressError {
    at_start(start, Fault::NotYet { what })
}

fn not_here(start: &Start, what: &'static str, why: &'static str) -> AddressError {
    at_start(start, Fault::NotHere { what, why })
}

fn not_empty(bytes: &[u8]) -> Read<()> {
    match bytes.is_empty() {
        true => Err(AddressError::new(Fault::Empty, 0..0)),
        false => Ok(()),
    }
}

/// The text after a prefix that must be there.
fn named<'b>(bytes: &'b [u8], start: &Start) -> Read<&'b [u8]> {
    match &bytes[start.length..] {
        [] => Err(at_start(start, Fault::EmptyName { prefix: start.name })),
        name => Ok(name),
    }
}

fn path(bytes: &[u8], start: &Start, prefix: &str) -> Read<PathBuf> {
    let name = named(bytes, start)?;
    let all = start.length..bytes.len();
    if name.contains(&0) {
        return Err(AddressError::new(Fault::NulInPath, all));
    }
    let most = MAX_UNIX_PATH;
    if prefix.len() + name.len() > most {
        return Err(AddressError::new(Fault::PathTooLong { most }, all));
    }
    let mut path = std::ffi::OsString::from(prefix);
    path.push(std::ffi::OsStr::from_bytes(name));
    Ok(PathBuf::from(path))
}

fn abstract_name(bytes: &[u8], start: &Start) -> Read<Vec<u8>> {
    let name = named(bytes, start)?;
    let all = start.length..bytes.len();
    let most = MAX_ABSTRACT;
    if name.len() > most {
        return Err(AddressError::new(Fault::PathTooLong { most }, all));
    }
    Ok(name.to_vec())
}

fn descriptor(bytes: &[u8], start: &Start) -> Read<i32> {
    let name = named(bytes, start)?;
    let number = std::str::from_utf8(name).ok().and_then(|n| n.parse().ok());
    number
        .filter(|n| *n >= 0)
        .ok_or_else(|| AddressError::new(Fault::BadDescriptor, start.length..bytes.len()))
}

/// One part of a `bind` line's list.
fn bind(bytes: &[u8], unix_prefix: &str) -> Read<Vec<BindAddress>> {
    not_empty(bytes)?;
    let start = start(bytes);
    stream_only(&start)?;
    Ok(vec![match start.kind {
        Kind::Ip(family) => return bind_ip(bytes, &start, family),
        Kind::UnixPath => BindAddress::UnixPath(path(bytes, &start, unix_prefix)?),
        Kind::Abstract => BindAddress::Abstract(abstract_name(bytes, &start)?),
        Kind::AbstractExact => BindAddress::AbstractExact(abstract_name(bytes, &start)?),
        Kind::Descriptor => BindAddress::Descriptor(descriptor(bytes, &start)?),
        Kind::Activated => {
            let name = String::from_utf8_lossy(named(bytes, &start)?);
            BindAddress::Activated(name.into_owned())
        }
        Kind::SocketPair => return Err(not_yet(&start, "a socket pair is")),
        Kind::ReverseHttp => return Err(not_yet(&start, "reverse HTTP is")),
        Kind::Ring | Kind::Backend => return Err(only_for_logs(&start)),
    }])
}

fn only_for_logs(start: &Start) -> AddressError {
    not_here(start, "a ring or a backend is", "only a log goes there")
}

fn stream_only(start: &Start) -> Read<()> {
    match start.transport {
        None | Some(Transport::Stream | Transport::Mptcp) => Ok(()),
        Some(Transport::Quic) => Err(not_yet(start, "QUIC is")),
        Some(Transport::Datagram) => Err(not_here(
            start,
            "a datagram address is",
            "expected a stream: TCP or a Unix stream socket",
        )),
    }
}

fn is_mptcp(start: &Start) -> bool {
    start.transport == Some(Transport::Mptcp)
}

fn bind_ip(bytes: &[u8], start: &Start, family: Family) -> Read<Vec<BindAddress>> {
    let HostAndPort {
        host,
        port,
        port_at,
        host_at,
    } = host_and_port(bytes, start.length, family)?;
    let mptcp = is_mptcp(start);
    let ports = match port {
        Port::Missing => return Err(AddressError::new(Fault::MissingPort, host_at)),
        Port::Offset(_) => return Err(AddressError::new(Fault::OffsetNotHere, port_at)),
        Port::Numbers(ports) if *ports.start() == 0 => {
            return Err(AddressError::new(
                Fault::PortOutOfRange { least: 1 },
                port_at,
            ));
        }
        Port::Numbers(ports) => ports,
    };
    let one = |port: u16| match &host {
        Host::Address(address) => BindAddress::Tcp {
            address: SocketAddr::new(*address, port),
            mptcp,
        },
        Host::Name(..) => BindAddress::Named {
            target: HostPort {
                host: host.clone(),
                port,
            },
            mptcp,
        },
    };
    Ok(ports.map(one).collect())
}

fn server(bytes: &[u8]) -> Read<ServerAddress> {
    not_empty(bytes)?;
    let start = start(bytes);
    stream_only(&start)?;
    match start.kind {
        Kind::Ip(family) => server_ip(bytes, &start, family),
        Kind::UnixPath => Ok(ServerAddress::UnixPath(path(bytes, &start, "")?)),
        Kind::Abstract => Ok(ServerAddress::Abstract(abstract_name(bytes, &start)?)),
        Kind::AbstractExact => Ok(ServerAddress::AbstractExact(abstract_name(bytes, &start)?)),
        Kind::Descriptor | Kind::Activated => {
            let why = "a server is connected to, not inherited";
            Err(not_here(&start, "a descriptor is", why))
        }
        Kind::SocketPair => Err(not_yet(&start, "a socket pair is")),
        Kind::ReverseHttp => Err(not_yet(&start, "reverse HTTP is")),
        Kind::Ring | Kind::Backend => Err(only_for_logs(&start)),
    }
}

fn server_ip(bytes: &[u8], start: &Start, family: Family) -> Read<ServerAddress> {
    let read = host_and_port(bytes, start.length, family)?;
    let port = match read.port {
        Port::Missing => ServerPort::Offset(0),
        Port::Offset(offset) => ServerPort::Offset(offset),
        Port::Numbers(ports) if ports.start() != ports.end() => {
            return Err(AddressError::new(Fault::RangeNotHere, read.port_at));
        }
        Port::Numbers(ports) if *ports.start() == 0 => ServerPort::Offset(0),
        Port::Numbers(ports) => ServerPort::Fixed(*ports.start()),
    };
    match read.host {
        Host::Address(address) if address.is_unspecified() => {
            Ok(ServerAddress::OriginalDestination { port })
        }
        Host::Name(name, _) if name.starts_with('_') => {
            let what = "a server from an SRV record (a name that begins with `_`) is";
            Err(AddressError::new(Fault::NotYet { what }, read.host_at))
        }
        host => Ok(ServerAddress::Tcp {
            host,
            port,
            mptcp: is_mptcp(start),
        }),
    }
}

fn log(bytes: &[u8]) -> Read<LogDestination> {
    not_empty(bytes)?;
    match bytes {
        b"stdout" => return Ok(LogDestination::Stdout),
        b"stderr" => return Ok(LogDestination::Stderr),
        _ => {}
    }
    let start = start(bytes);
    match (start.kind, start.transport) {
        (Kind::Ring, _) => ring(bytes, &start),
        (Kind::Backend, _) => Err(not_yet(&start, "a log to a backend is")),
        (Kind::SocketPair | Kind::ReverseHttp | Kind::Activated, _) => {
            let why = "expected a UDP or Unix socket, a descriptor, stdout or stderr";
            Err(not_here(&start, "a log to this is", why))
        }
        (_, Some(Transport::Stream | Transport::Mptcp | Transport::Quic)) => {
            Err(not_yet(&start, "a log over a stream is"))
        }
        (Kind::Ip(family), _) => log_ip(bytes, &start, family),
        (Kind::UnixPath, _) => Ok(LogDestination::Unix(path(bytes, &start, "")?)),
        (Kind::Abstract | Kind::AbstractExact, _) => {
            Err(not_yet(&start, "a log to an abstract socket is"))
        }
        (Kind::Descriptor, _) => Ok(LogDestination::Descriptor(descriptor(bytes, &start)?)),
    }
}

fn ring(bytes: &[u8], start: &Start) -> Read<LogDestination> {
    let name = &bytes[start.length..];
    not_empty(name)?;
    Ok(LogDestination::Ring(
        String::from_utf8_lossy(name).into_owned(),
    ))
}

fn log_ip(bytes: &[u8], start: &Start, family: Family) -> Read<LogDestination> {
    let read = host_and_port(bytes, start.length, family)?;
    let port = single_port(&read)?.unwrap_or(SYSLOG_PORT);
    Ok(LogDestination::Udp(HostPort {
        host: read.host,
        port,
    }))
}

/// One port, or none (also written `:0`); no range and no offset.
fn single_port(read: &HostAndPort) -> Read<Option<u16>> {
    match &read.port {
        Port::Missing => Ok(None),
        Port::Numbers(ports) if ports.start() != ports.end() => {
            Err(AddressError::new(Fault::RangeNotHere, read.port_at.clone()))
        }
        Port::Numbers(ports) => Ok(Some(*ports.start()).filter(|port| *port != 0)),
        Port::Offset(_) => Err(AddressError::new(
            Fault::OffsetNotHere,
            read.port_at.clone(),
        )),
    }
}

fn check_host(bytes: &[u8]) -> Read<(Host, Option<u16>)> {
    not_empty(bytes)?;
    let start = start(bytes);
    stream_only(&start)?;
    match (start.kind, is_mptcp(&start)) {
        (Kind::Ip(family), false) => {
            let read = host_and_port(bytes, start.length, family)?;
            let port = single_port(&read)?;
            Ok((read.host, port))
        }
        (Kind::Ip(_), true) => Err(not_yet(&start, "MPTCP is")),
        (Kind::UnixPath | Kind::Abstract | Kind::AbstractExact, _) => Err(not_yet(
            &start,
            "a check of a Unix socket at another address is",
        )),
        _ => {
            let why = "expected an address or a name";
            Err(not_here(&start, "this is", why))
        }
    }
}

#[cfg(test)]
mod tests;
