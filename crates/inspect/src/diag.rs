//! Sockets as sock_diag tells them.
//!
//! Decides:  what is asked for (never what a capability would add: keys of MD5 signatures come with
//!           `INET_DIAG_INFO`), and what an answer says; what it leaves out stays unknown. Of listeners more
//!           is asked: there are few of them.
//! Kernel:   net/ipv4/inet_diag.c, inet_sk_diag_fill(), inet_twsk_diag_fill(); net/ipv4/tcp_diag.c,
//!           tcp_diag_dump(), which lists sockets that are bound and no more since 6.8; inet_diag_bc_run(), the
//!           filter by ports;
//!           net/mptcp/mptcp_diag.c; net/unix/diag.c; net/core/sock.c, sk_get_meminfo(): the drops of a
//!           listener, as tcp_listendrop() counts them (4.7)
//! Not here: what sock_diag does not tell (iter.rs, getfd.rs), and who holds a socket (owners.rs).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portcullis_kernel_model::State;
use portcullis_sys::netlink::{
    Attributes, Netlink, Torn, attribute, malformed, u16_at, u32_at, u64_at,
};
use rustix::net::netlink;

use crate::snapshot::{Options, Protocol, Socket, UnixFile, UnixSocket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_UNIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_MPTCP: u32 = 262;
/// `INET_DIAG_CONG` as a bit of `idiag_ext`.
const WANT_CONGESTION: u8 = 1 << 3;
/// `INET_DIAG_SKMEMINFO` as a bit of `idiag_ext`.
const WANT_MEMORY: u8 = 1 << 6;
/// The attribute of a request that carries a protocol beyond 255.
const REQ_PROTOCOL: u16 = 3;
/// `INET_DIAG_REQ_BYTECODE`.
const REQ_BYTECODE: u16 = 1;
const ATTR_CONGESTION: u16 = 4;
const ATTR_MEMORY: u16 = 7;
const ATTR_SHUTDOWN: u16 = 8;
const ATTR_V6ONLY: u16 = 11;
const ATTR_CGROUP: u16 = 21;
const ATTR_SOCKOPT: u16 = 22;
/// `TCP_BOUND_INACTIVE`.
const BOUND_INACTIVE: u8 = 13;
/// `SK_MEMINFO_DROPS` in the attribute of memory.
const MEMORY_DROPS: usize = 8;
/// Every state that a socket with a port can be in.
const ALL_STATES: u32 = 0x3fff & !1;
const LISTENING: u32 = 1 << 10;
/// What is asked for: listeners with all that is told of them, then all others.
const PARTS: [(u32, u8); 2] = [
    (LISTENING, WANT_CONGESTION | WANT_MEMORY),
    (ALL_STATES & !LISTENING, 0),
];
/// `idiag_timer` of a TIME_WAIT socket.
const TIMER_TIME_WAIT: u8 = 3;
const MESSAGE: usize = 72;
const UNIX_MESSAGE: usize = 16;
const UNIX_LISTEN: u32 = 1 << 10;
/// `TCP_CLOSE`, which for a Unix socket means that it is not connected.
const UNIX_CLOSE: u8 = 7;
const UNIX_SHOW_NAME: u32 = 1;
const UNIX_SHOW_VFS: u32 = 2;
const UNIX_SHOW_QUEUE: u32 = 0x10;
const UNIX_SHOW_UID: u32 = 0x40;
const UNIX_ATTR_NAME: u16 = 0;
const UNIX_ATTR_VFS: u16 = 1;
const UNIX_ATTR_QUEUE: u16 = 4;
const UNIX_ATTR_UID: u16 = 7;

/// Which sockets are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    All,
    /// Those whose own port is one of these, the last included.
    Within {
        first: u16,
        last: u16,
    },
}

impl Ports {
    pub(crate) fn has(self, port: u16) -> bool {
        match self {
            Ports::All => true,
            Ports::Within { first, last } => (first..=last).contains(&port),
        }
    }
}

/// The program by which sock_diag leaves out other ports: two comparisons, each with where to go on, in bytes,
/// if it holds and if not. Who arrives exactly at the end is told; beyond it, left out.
fn filter(first: u16, last: u16) -> Vec<u8> {
    const SOURCE_AT_LEAST: u8 = 2;
    const SOURCE_AT_MOST: u8 = 3;
    /// A comparison, and the port in the place of a second.
    const LONG: u8 = 8;
    let mut code = Vec::new();
    let mut compare = |what: u8, port: u16, if_not: u16| {
        code.extend([what, LONG]);
        code.extend(if_not.to_ne_bytes());
        code.extend([0, 0]);
        code.extend(port.to_ne_bytes());
    };
    compare(SOURCE_AT_LEAST, first, 2 * u16::from(LONG) + 4);
    compare(SOURCE_AT_MOST, last, u16::from(LONG) + 4);
    code
}

/// The TCP and MPTCP sockets of this thread's network namespace, and whether the table was whole.
///
/// Listeners stand in the order in which a SYN meets them, IPv4's before IPv6's.
pub(crate) fn inet(ports: Ports) -> io::Result<(Vec<Socket>, Torn)> {
    let mut netlink = Netlink::open(Some(netlink::SOCK_DIAG))?;
    let mut all = Vec::new();
    let mut torn = Torn::No;
    for protocol in [Protocol::Tcp, Protocol::Mptcp] {
        for family in [AF_INET, AF_INET6] {
            for part in PARTS {
                let (sockets, how) = match inet_of(&mut netlink, family, protocol, part, ports) {
                    Ok(found) => found,
                    // A kernel without MPTCP, or without IPv6.
                    Err(error)
                        if is_absent(&error) && (protocol, family) != (Protocol::Tcp, AF_INET) =>
                    {
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                all.extend(sockets);
                if how == Torn::Yes {
                    torn = Torn::Yes;
                }
            }
        }
    }
    Ok((all, torn))
}

/// The UDP sockets of this thread's network namespace that have this port.
pub(crate) fn datagrams(port: u16) -> io::Result<Vec<Socket>> {
    let mut netlink = Netlink::open(Some(netlink::SOCK_DIAG))?;
    let mut all = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut body = vec![family, IPPROTO_UDP, 0, 0];
        body.extend(ALL_STATES.to_ne_bytes());
        body.extend(port.to_be_bytes());
        body.extend([0; 46]);
        let mut sockets = Vec::new();
        let listed = netlink.dump(SOCK_DIAG_BY_FAMILY, &body, |message| {
            match message {
                None => sockets.clear(),
                Some(message) if message.kind == SOCK_DIAG_BY_FAMILY => {
                    sockets.push(socket_in(message.body, Protocol::Tcp)?);
                }
                Some(_) => {}
            }
            Ok(())
        });
        match listed {
            Ok(_) => all.append(&mut sockets),
            // A kernel without IPv6.
            Err(error) if is_absent(&error) && family == AF_INET6 => {}
            Err(error) => return Err(error),
        }
    }
    all.retain(|socket: &Socket| socket.local.port() == port);
    Ok(all)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
    ) || error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

fn inet_of(
    netlink: &mut Netlink,
    family: u8,
    protocol: Protocol,
    (states, extensions): (u32, u8),
    ports: Ports,
) -> io::Result<(Vec<Socket>, Torn)> {
    let port = match ports {
        Ports::Within { first, last } if first == last => first,
        Ports::All | Ports::Within { .. } => 0,
    };
    let mut body = vec![family, IPPROTO_TCP, extensions, 0];
    body.extend(states.to_ne_bytes());
    body.extend(port.to_be_bytes());
    body.extend([0; 46]); // the peer's port, both addresses, the device, the cookie
    if protocol == Protocol::Mptcp {
        attribute(&mut body, REQ_PROTOCOL, &IPPROTO_MPTCP.to_ne_bytes());
    }
    if let Ports::Within { first, last } = ports
        && first != last
    {
        attribute(&mut body, REQ_BYTECODE, &filter(first, last));
    }
    let mut sockets = Vec::new();
    let torn = netlink.dump(SOCK_DIAG_BY_FAMILY, &body, |message| {
        match message {
            None => sockets.clear(),
            Some(message) if message.kind == SOCK_DIAG_BY_FAMILY => {
                sockets.push(socket_in(message.body, protocol)?);
            }
            Some(_) => {}
        }
        Ok(())
    })?;
    // The filter is on the kernel's side since 2.6; an answer may still not obey.
    sockets.retain(|socket: &Socket| ports.has(socket.local.port()));
    Ok((sockets, torn))
}

/// One `struct inet_diag_msg` with its attributes.
pub(crate) fn socket_in(body: &[u8], protocol: Protocol) -> io::Result<Socket> {
    let Some((fixed, rest)) = body.split_at_checked(MESSAGE) else {
        return Err(malformed("a socket's description is cut short"));
    };
    let word = |at: usize| u32_at(fixed, at).unwrap_or(0);
    let (family, state, timer) = (fixed[0], fixed[1], fixed[2]);
    let port = |at: usize| u16_at(fixed, at).map_or(0, u16::from_be);
    let local = address(family, &fixed[8..24], port(4))?;
    let peer = address(family, &fixed[24..40], port(6))?;
    let state = state_of(state).ok_or(malformed("a socket in a state that does not exist"))?;
    let waits = timer == TIMER_TIME_WAIT;
    let mut socket = Socket {
        protocol,
        cookie: u64::from(word(44)) | u64::from(word(48)) << 32,
        inode: u64::from(word(68)),
        local,
        peer: (peer.port() != 0).then_some(peer),
        state: if waits { State::TimeWait } else { state }.into(),
        half_closed: waits && state == State::FinWait2,
        timer_ms: (timer != 0).then(|| word(52)),
        device: word(40),
        uid: (!waits).then(|| word(64)),
        receive_queue: word(56),
        send_queue: word(60),
        ..Socket::unknown(local)
    };
    let mut full = false;
    for (kind, value) in Attributes(rest) {
        // Which ends of it are shut down is told of every full socket, and of no other.
        full |= kind == ATTR_SHUTDOWN;
        attribute_of(&mut socket, kind, value);
    }
    if state == State::SynRecv && !full {
        socket.state = State::NewSynRecv.into();
        socket.uid = None;
    }
    Ok(socket)
}

fn attribute_of(socket: &mut Socket, kind: u16, value: &[u8]) {
    let options: &mut Options = &mut socket.options;
    match (kind, value) {
        (ATTR_V6ONLY, &[on, ..]) => options.v6only = Some(on != 0),
        (ATTR_MEMORY, _) => socket.drops = u32_at(value, 4 * MEMORY_DROPS),
        (ATTR_SHUTDOWN, &[bits, ..]) => socket.shutdown = bits,
        (ATTR_CGROUP, _) => socket.cgroup = u64_at(value, 0),
        (ATTR_CONGESTION, _) => socket.congestion = text(value),
        // struct inet_diag_sockopt: bit fields, from the lowest bit on x86 and arm.
        (ATTR_SOCKOPT, &[first, second, ..]) => {
            options.freebind = Some(first & 0x04 != 0);
            options.transparent = Some(first & 0x20 != 0);
            options.bind_address_no_port = Some(second & 0x01 != 0);
        }
        _ => {}
    }
}

fn text(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|&byte| byte == 0);
    let text = std::str::from_utf8(&value[..end.unwrap_or(value.len())]).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn address(family: u8, bytes: &[u8], port: u16) -> io::Result<SocketAddr> {
    let ip = match (family, bytes.first_chunk::<4>(), bytes.first_chunk::<16>()) {
        (AF_INET, Some(&four), _) => IpAddr::V4(Ipv4Addr::from(four)),
        (AF_INET6, _, Some(&sixteen)) => IpAddr::V6(Ipv6Addr::from(sixteen)),
        _ => return Err(malformed("a socket of a family that was not asked for")),
    };
    Ok(SocketAddr::new(ip, port))
}

fn state_of(number: u8) -> Option<State> {
    Some(match number {
        1 => State::Established,
        2 => State::SynSent,
        3 => State::SynRecv,
        4 => State::FinWait1,
        5 => State::FinWait2,
        6 => State::TimeWait,
        7 | BOUND_INACTIVE => State::Close,
        8 => State::CloseWait,
        9 => State::LastAck,
        10 => State::Listen,
        11 => State::Closing,
        12 => State::NewSynRecv,
        _ => return None,
    })
}

/// The Unix sockets of this thread's network namespace that listen.
pub(crate) fn unix() -> io::Result<Vec<UnixSocket>> {
    unix_of(UNIX_LISTEN, |_| true)
}

/// Those that are bound and do not listen. An accepted connection bears its listener's name and is bound to
/// nothing: of connected sockets only those of datagrams are among them.
pub(crate) fn unix_bound() -> io::Result<Vec<UnixSocket>> {
    const DATAGRAM: u8 = 2;
    let bound = |fixed: &[u8]| {
        let (kind, state) = (fixed.get(1), fixed.get(2));
        state == Some(&UNIX_CLOSE) || kind == Some(&DATAGRAM)
    };
    let mut all = unix_of(!UNIX_LISTEN, bound)?;
    all.retain(|socket| !socket.name.is_empty());
    Ok(all)
}

fn unix_of(states: u32, is_wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<UnixSocket>> {
    let mut netlink = Netlink::open(Some(netlink::SOCK_DIAG))?;
    let mut body = vec![AF_UNIX, 0, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(0u32.to_ne_bytes());
    body.extend((UNIX_SHOW_NAME | UNIX_SHOW_VFS | UNIX_SHOW_QUEUE | UNIX_SHOW_UID).to_ne_bytes());
    body.extend([0; 8]);
    let mut sockets = Vec::new();
    netlink.dump(SOCK_DIAG_BY_FAMILY, &body, |message| {
        match message {
            None => sockets.clear(),
            Some(message) if message.kind == SOCK_DIAG_BY_FAMILY => {
                let socket = unix_in(message.body)?;
                sockets.extend(is_wanted(message.body).then_some(socket));
            }
            Some(_) => {}
        }
        Ok(())
    })?;
    Ok(sockets)
}

/// One `struct unix_diag_msg` with its attributes.
pub(crate) fn unix_in(body: &[u8]) -> io::Result<UnixSocket> {
    let Some((fixed, rest)) = body.split_at_checked(UNIX_MESSAGE) else {
        return Err(malformed("a Unix socket's description is cut short"));
    };
    let mut socket = UnixSocket {
        inode: u64::from(u32_at(fixed, 4).unwrap_or(0)),
        name: String::new(),
        uid: None,
        queue: 0,
        backlog: 0,
        file: None,
        holders: Vec::new(),
    };
    for (kind, value) in Attributes(rest) {
        match kind {
            // An abstract name begins with a zero byte, which is written `@` as everywhere.
            UNIX_ATTR_NAME => {
                let name = String::from_utf8_lossy(value);
                socket.name = match name.strip_prefix('\0') {
                    Some(name) => format!("@{name}"),
                    None => name.trim_end_matches('\0').to_owned(),
                };
            }
            UNIX_ATTR_VFS => {
                let numbers = u32_at(value, 0).zip(u32_at(value, 4));
                socket.file = numbers.map(|(inode, device)| UnixFile { device, inode });
            }
            UNIX_ATTR_UID => socket.uid = u32_at(value, 0),
            UNIX_ATTR_QUEUE => {
                socket.queue = u32_at(value, 0).unwrap_or(0);
                socket.backlog = u32_at(value, 4).unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_sys::netlink::Messages;
    use proptest::prelude::*;

    /// A listener's description as 6.18 gives it: the fixed part, v6only, shutdown, options.
    fn listener() -> Vec<u8> {
        let mut body = vec![AF_INET6, 10, 0, 0];
        body.extend(443u16.to_be_bytes());
        body.extend([0; 2 + 32]);
        body.extend(3u32.to_ne_bytes());
        body.extend(77u64.to_ne_bytes());
        for word in [0u32, 2, 128, 33, 4711] {
            body.extend(word.to_ne_bytes());
        }
        attribute(&mut body, ATTR_V6ONLY, &[1]);
        attribute(&mut body, ATTR_SHUTDOWN, &[0]);
        attribute(&mut body, ATTR_CGROUP, &9u64.to_ne_bytes());
        attribute(&mut body, ATTR_CONGESTION, b"cubic\0");
        let memory: Vec<u8> = (0u32..9).flat_map(u32::to_ne_bytes).collect();
        attribute(&mut body, ATTR_MEMORY, &memory);
        attribute(&mut body, ATTR_SOCKOPT, &[0x20, 0x01]);
        body
    }

    #[test]
    fn a_listeners_description_is_read_field_by_field() {
        let socket = socket_in(&listener(), Protocol::Tcp).unwrap();
        assert_eq!(socket.local, "[::]:443".parse().unwrap());
        assert_eq!(
            (socket.state, socket.peer),
            (crate::snapshot::State::Listen, None)
        );
        assert_eq!((socket.device, socket.cookie, socket.inode), (3, 77, 4711));
        assert_eq!((socket.receive_queue, socket.send_queue), (2, 128));
        assert_eq!((socket.uid, socket.cgroup), (Some(33), Some(9)));
        assert_eq!(socket.congestion.as_deref(), Some("cubic"));
        assert_eq!(socket.drops, Some(8));
        let known = &socket.options;
        assert_eq!((known.v6only, known.transparent), (Some(true), Some(true)));
        assert_eq!(
            (known.freebind, known.bind_address_no_port),
            (Some(false), Some(true))
        );
        assert_eq!(
            (known.reuseaddr, known.reuseport),
            (None, None),
            "sock_diag does not tell"
        );
    }

    #[test]
    fn a_kernel_that_tells_no_attributes_leaves_options_and_drops_unknown() {
        let old = socket_in(&listener()[..MESSAGE], Protocol::Tcp).unwrap();
        assert_eq!(old.state, crate::snapshot::State::Listen);
        assert_eq!((old.uid, old.send_queue), (Some(33), 128));
        assert_eq!((old.drops, old.cgroup, old.congestion), (None, None, None));
        assert_eq!(old.options, Options::default());
        // Memory without the drops, as before 4.7: eight numbers.
        let mut body = listener()[..MESSAGE].to_vec();
        attribute(&mut body, ATTR_MEMORY, &[0; 32]);
        assert_eq!(socket_in(&body, Protocol::Tcp).unwrap().drops, None);
    }

    #[test]
    fn a_half_open_connection_is_told_from_a_socket_in_syn_recv() {
        let mut body = listener();
        body[1] = 3;
        let full = socket_in(&body, Protocol::Tcp).unwrap();
        assert_eq!(full.state, crate::snapshot::State::SynRecv);
        let half = socket_in(&body[..MESSAGE], Protocol::Tcp).unwrap();
        assert_eq!(
            (half.state, half.uid),
            (crate::snapshot::State::HalfOpen, None)
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for message in Messages(&bytes).flatten() {
                let _ = socket_in(message.body, Protocol::Tcp);
            }
            let _ = socket_in(&bytes, Protocol::Mptcp);
            let _ = unix_in(&bytes);
        }

        #[test]
        fn a_description_that_is_cut_and_changed_is_read_or_refused(
            cut in 0usize..130,
            at in 0usize..130,
            value in any::<u8>(),
        ) {
            let mut body = listener();
            body.truncate(cut);
            if let Some(byte) = body.get_mut(at) {
                *byte = value;
            }
            let read = socket_in(&body, Protocol::Tcp);
            prop_assert!(read.is_err() || body.len() >= MESSAGE);
        }
    }
}
