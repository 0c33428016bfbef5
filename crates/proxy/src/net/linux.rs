//! The real network: epoll, sockets, splice, one system call a function where that can be.
//!
//! Decides:  a connection is watched once, edge-triggered; listeners are
//!           level-triggered (an edge shared by several workers can be lost between them);
//!           one descriptor is kept in reserve, so that an accepted connection finds a server
//!           socket even when descriptors run out.
//! Kernel:   epoll(7), splice(2), tcp(7), Linux 5.4 to 6.18
//! Not here: what to do about an errno (worker).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use portcullis_listener::pause::min_ttl;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SendFlags, SocketAddrAny, SocketAddrUnix, SocketFlags, ipproto};
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::{
    Begun, ClientOptions, Close, ConnectOptions, Interest, Net, Readiness, Then, Unconnected,
};
use crate::record::PeerAddress;
use crate::snapshot::{Keepalive, Server, ServerAddress, Sharing};
use crate::source::NoAddress;

pub mod outgoing;

/// Events taken at one wake-up.
const EVENTS: usize = 256;
/// A pipe smaller than this is not worth two system calls.
const SMALLEST_PIPE: usize = 64 * 1024;

/// The kernel, as one worker uses it.
pub struct LinuxNet {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    reserve: Option<OwnedFd>,
    random: u64,
}

impl std::fmt::Debug for LinuxNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinuxNet")
            .field("epoll", &self.epoll)
            .field("reserve", &self.reserve)
            .finish_non_exhaustive()
    }
}

/// Both ends of a pipe.
#[derive(Debug)]
pub struct LinuxPipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl LinuxNet {
    /// An epoll instance and a reserved descriptor.
    pub fn new() -> Result<Self, Errno> {
        let mut seed = [0u8; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        Ok(LinuxNet {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            reserve: Some(reserve()?),
            random: u64::from_ne_bytes(seed),
        })
    }

    /// Watches the worker's bell: each ring is an edge, so that it need not be read.
    pub fn watch_bell(&mut self, bell: &OwnedFd, token: u64) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&self.epoll, bell, EventData::new_u64(token), flags)
    }

    /// Waits for events, at most this long; `None` is for ever. A signal is an empty answer.
    pub fn wait(
        &mut self,
        timeout_ms: Option<u64>,
        found: &mut Vec<(u64, Readiness)>,
    ) -> Result<(), Errno> {
        let timeout = timeout_ms.map(|ms| {
            let ms = ms.min(i32::MAX as u64);
            rustix::time::Timespec {
                tv_sec: (ms / 1000) as i64,
                tv_nsec: (ms % 1000 * 1_000_000) as _,
            }
        });
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        found.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            let readiness = Readiness {
                readable: flags.contains(EventFlags::IN),
                writable: flags.contains(EventFlags::OUT),
                hung_up: flags.intersects(EventFlags::RDHUP | EventFlags::HUP),
                failed: flags.contains(EventFlags::ERR),
                urgent: flags.contains(EventFlags::PRI),
            };
            (event.data.u64(), readiness)
        }));
        Ok(())
    }

    /// A new socket; when descriptors have run out, in place of the reserved one.
    fn socket(
        &mut self,
        family: AddressFamily,
        protocol: Option<rustix::net::Protocol>,
    ) -> Result<(OwnedFd, bool), Errno> {
        let open = || {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, protocol)
        };
        match open() {
            Err(Errno::MFILE | Errno::NFILE) if self.reserve.is_some() => {
                self.reserve = None;
                Ok((open()?, true))
            }
            outcome => Ok((outcome?, false)),
        }
    }
}

/// Edges of everything that a session may have to act on.
fn flags_of(interest: Interest) -> EventFlags {
    let reading = EventFlags::IN | EventFlags::RDHUP | EventFlags::PRI | EventFlags::ET;
    match interest {
        Interest::Reading => reading,
        Interest::Both => reading | EventFlags::OUT,
    }
}

fn reserve() -> Result<OwnedFd, Errno> {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
}

/// The address that the client wanted, even when the packet filter redirected it here
/// (`SO_ORIGINAL_DST` where connection tracking knows one, else the socket's own address).
fn original_destination(client: &OwnedFd) -> Result<SocketAddr, Errno> {
    let own = SocketAddr::try_from(rustix::net::getsockname(client)?)?;
    let tracked = match own {
        SocketAddr::V4(_) => sockopt::ip_original_dst(client).map(SocketAddr::V4),
        SocketAddr::V6(_) => sockopt::ipv6_original_dst(client).map(SocketAddr::V6),
    };
    Ok(tracked.unwrap_or(own))
}

/// `port` plus `offset`, if that is a port.
fn mapped(port: u16, offset: i32) -> Result<u16, Unconnected> {
    let wanted = i64::from(port) + i64::from(offset);
    let port = u16::try_from(wanted).ok().filter(|&port| port > 0);
    port.ok_or(Unconnected::NoAddress(NoAddress::ServerPort(wanted)))
}

enum Target {
    Ip { address: SocketAddr, mptcp: bool },
    Unix(SocketAddrUnix),
}

fn target(
    server: &Server,
    client: &OwnedFd,
    told: Option<SocketAddr>,
) -> Result<Target, Unconnected> {
    let original_destination = |client| told.map_or_else(|| original_destination(client), Ok);
    let ip = |ip: IpAddr, port: u16, mptcp: bool| Target::Ip {
        address: SocketAddr::new(ip, port),
        mptcp,
    };
    Ok(match &server.address {
        &ServerAddress::Tcp { address, mptcp } => Target::Ip { address, mptcp },
        &ServerAddress::TcpMappedPort {
            ip: host,
            offset,
            mptcp,
        } => {
            let wanted = original_destination(client)?;
            ip(host, mapped(wanted.port(), offset)?, mptcp)
        }
        &ServerAddress::OriginalDestination { port, offset } => {
            let wanted = original_destination(client)?;
            let port = match port {
                Some(port) => port,
                None => mapped(wanted.port(), offset)?,
            };
            ip(wanted.ip(), port, false)
        }
        ServerAddress::Unix(bytes) => Target::Unix(match bytes.split_first() {
            Some((0, name)) => SocketAddrUnix::new_abstract_name(name)?,
            _ => SocketAddrUnix::new(bytes.as_slice())?,
        }),
    })
}

/// Counts refusals: an option that the kernel does not grant does not end the connection.
fn tally(refused: &mut u32, outcome: Result<(), Errno>) {
    if outcome.is_err() {
        *refused += 1;
    }
}

fn set_keepalive(socket: &OwnedFd, keepalive: Keepalive, tcp: bool, refused: &mut u32) {
    tally(refused, sockopt::set_socket_keepalive(socket, true));
    if !tcp {
        return;
    }
    if keepalive.count > 0 {
        tally(refused, sockopt::set_tcp_keepcnt(socket, keepalive.count));
    }
    if keepalive.idle_s > 0 {
        let idle = Duration::from_secs(keepalive.idle_s.into());
        tally(refused, sockopt::set_tcp_keepidle(socket, idle));
    }
    if keepalive.interval_s > 0 {
        let interval = Duration::from_secs(keepalive.interval_s.into());
        tally(refused, sockopt::set_tcp_keepintvl(socket, interval));
    }
}

fn set_buffers(socket: &OwnedFd, receive: Option<u32>, send: Option<u32>, refused: &mut u32) {
    if let Some(size) = receive {
        tally(
            refused,
            sockopt::set_socket_recv_buffer_size(socket, size as usize),
        );
    }
    if let Some(size) = send {
        tally(
            refused,
            sockopt::set_socket_send_buffer_size(socket, size as usize),
        );
    }
}

fn set_reset_on_close(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO))
}

/// All options of a connection to a server that must stand before `connect`.
fn set_server_options(
    socket: &OwnedFd,
    client: &OwnedFd,
    options: &ConnectOptions<'_>,
    tcp: bool,
) -> u32 {
    let mut refused = 0;
    set_buffers(
        socket,
        options.receive_buffer,
        options.send_buffer,
        &mut refused,
    );
    if let Some(keepalive) = options.keepalive {
        set_keepalive(socket, keepalive, tcp, &mut refused);
    }
    if options.no_linger {
        tally(&mut refused, set_reset_on_close(socket));
    }
    if !tcp {
        return refused;
    }
    if options.server.user_timeout_ms > 0 {
        let ms = options.server.user_timeout_ms;
        tally(&mut refused, sockopt::set_tcp_user_timeout(socket, ms));
    }
    if let Some(name) = &options.server.congestion_control {
        tally(&mut refused, sockopt::set_tcp_congestion(socket, name));
    }
    if options.server.outgoing.fast_open
        && options.first
        && rustix::io::ioctl_fionread(client).unwrap_or(0) > 0
    {
        tally(&mut refused, outgoing::set_fast_open(socket));
    }
    if options.smart_connect && rustix::io::ioctl_fionread(client).unwrap_or(0) > 0 {
        tally(&mut refused, sockopt::set_tcp_quickack(socket, false));
    }
    refused
}

impl Net for LinuxNet {
    type Socket = OwnedFd;
    type Listener = Arc<OwnedFd>;
    type Pipe = LinuxPipe;

    fn watch_listener(
        &mut self,
        listener: &Arc<OwnedFd>,
        sharing: Sharing,
        token: u64,
    ) -> Result<(), Errno> {
        let flags = match sharing {
            Sharing::Own => EventFlags::IN,
            Sharing::Shared => EventFlags::IN | EventFlags::EXCLUSIVE,
        };
        epoll::add(&self.epoll, listener, EventData::new_u64(token), flags)
    }

    fn unwatch_listener(&mut self, listener: &Arc<OwnedFd>) {
        // It fails only if it was not watched, and then there is nothing to do.
        let _ = epoll::delete(&self.epoll, listener);
    }

    fn listener_id(&self, listener: &Arc<OwnedFd>) -> u64 {
        u64::from(listener.as_raw_fd().unsigned_abs())
    }

    fn inherits_no_delay(&mut self, listener: &Arc<OwnedFd>) -> bool {
        match sockopt::socket_domain(listener) {
            Ok(AddressFamily::INET | AddressFamily::INET6) => {
                sockopt::tcp_nodelay(listener).unwrap_or(false)
            }
            _ => true,
        }
    }

    fn accept(
        &mut self,
        listener: &Arc<OwnedFd>,
        options: &ClientOptions,
    ) -> Result<(OwnedFd, PeerAddress), Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, address) = rustix::net::acceptfrom_with(listener, flags)?;
        let peer = match address.map(SocketAddr::try_from) {
            Some(Ok(address)) => PeerAddress::Ip(address),
            _ => PeerAddress::Unix,
        };
        let tcp = matches!(peer, PeerAddress::Ip(_));
        if tcp && min_ttl::used() {
            min_ttl::admit(&socket);
        }
        if *options != ClientOptions::default() {
            let mut refused = 0;
            let (receive, send) = (options.receive_buffer, options.send_buffer);
            set_buffers(&socket, receive, send, &mut refused);
            if let Some(keepalive) = options.keepalive {
                set_keepalive(&socket, keepalive, tcp, &mut refused);
            }
            if options.no_linger {
                tally(&mut refused, set_reset_on_close(&socket));
            }
        }
        Ok((socket, peer))
    }

    fn local_address(&mut self, client: &OwnedFd) -> Result<PeerAddress, Errno> {
        let address: SocketAddrAny = rustix::net::getsockname(client)?;
        Ok(match SocketAddr::try_from(address) {
            Ok(address) => PeerAddress::Ip(address),
            Err(_) => PeerAddress::Unix,
        })
    }

    fn connect(
        &mut self,
        client: &OwnedFd,
        options: &ConnectOptions<'_>,
    ) -> Result<Begun<OwnedFd>, Unconnected> {
        let target = target(options.server, client, options.destination)?;
        let (family, protocol) = match &target {
            Target::Ip { address, mptcp } => (
                match address {
                    SocketAddr::V4(_) => AddressFamily::INET,
                    SocketAddr::V6(_) => AddressFamily::INET6,
                },
                mptcp.then_some(ipproto::MPTCP),
            ),
            Target::Unix(_) => (AddressFamily::UNIX, None),
        };
        let (socket, used_reserve) = self.socket(family, protocol)?;
        let tcp = matches!(target, Target::Ip { .. });
        let refused_options = set_server_options(&socket, client, options, tcp);
        let mut lease = None;
        let outcome = match (&target, &options.server.outgoing.source) {
            (Target::Ip { address, .. }, Some(source)) => {
                outgoing::connect_from(&socket, source, options.client, address, &mut lease)
            }
            (Target::Ip { address, .. }, None) => {
                rustix::net::connect(&socket, address).map_err(Unconnected::from)
            }
            (Target::Unix(address), _) => {
                rustix::net::connect(&socket, address).map_err(Unconnected::Failed)
            }
        };
        let connected = match outcome {
            Ok(()) => true,
            Err(Unconnected::Failed(Errno::INPROGRESS | Errno::INTR)) => false,
            Err(error) => return Err(error),
        };
        Ok(Begun {
            socket,
            lease,
            connected,
            refused_options,
            used_reserve,
        })
    }

    fn connect_outcome(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        sockopt::socket_error(socket)?
    }

    fn watch(&mut self, socket: &OwnedFd, token: u64, interest: Interest) -> Result<(), Errno> {
        let flags = flags_of(interest);
        epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)
    }

    fn watch_both(&mut self, socket: &OwnedFd, token: u64) -> Result<(), Errno> {
        let flags = flags_of(Interest::Both);
        epoll::modify(&self.epoll, socket, EventData::new_u64(token), flags)
    }

    fn read(&mut self, socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        // Cheaper than read(2), which is for files too: docs/performance.md.
        let (count, _) = rustix::net::recv(socket, buffer, rustix::net::RecvFlags::empty())?;
        Ok(count)
    }

    fn peek(&mut self, socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (count, _) = rustix::net::recv(socket, buffer, rustix::net::RecvFlags::PEEK)?;
        Ok(count)
    }

    fn write(&mut self, socket: &OwnedFd, bytes: &[u8], then: Then) -> Result<usize, Errno> {
        let flags = match then {
            Then::Wait => SendFlags::NOSIGNAL,
            Then::More | Then::End => SendFlags::NOSIGNAL | SendFlags::MORE,
        };
        rustix::net::send(socket, bytes, flags)
    }

    fn shut_down(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        rustix::net::shutdown(socket, rustix::net::Shutdown::Write)
    }

    fn close(&mut self, socket: OwnedFd, how: Close) {
        if how == Close::Reset {
            // A Unix socket, or one whose connection is gone already, has nothing to reset.
            let _ = set_reset_on_close(&socket);
        }
        drop(socket);
    }

    fn unread(&mut self, socket: &OwnedFd) -> usize {
        rustix::io::ioctl_fionread(socket).unwrap_or(0) as usize
    }

    fn unsent(&mut self, socket: &OwnedFd) -> usize {
        portcullis_sys::io::unsent_bytes(socket).unwrap_or(0)
    }

    fn set_no_delay(&mut self, socket: &OwnedFd) {
        // A Unix socket refuses it and needs none.
        let _ = sockopt::set_tcp_nodelay(socket, true);
    }

    fn set_low_water(&mut self, socket: &OwnedFd, bytes: u32) {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        // Where it is refused, less is gained.
        let _ = portcullis_sys::sockopt::set_receive_low_water(socket, bytes);
    }

    fn pipe(&mut self, size: u32) -> Result<(LinuxPipe, u32), Errno> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // Beyond the user's share of pipe memory the kernel refuses, and the size stays as it is.
        let capacity = match rustix::pipe::fcntl_setpipe_size(&write, size as usize) {
            Ok(capacity) => capacity,
            Err(_) => rustix::pipe::fcntl_getpipe_size(&write)?,
        };
        if capacity < SMALLEST_PIPE.min(size as usize) {
            return Err(Errno::NOMEM);
        }
        Ok((LinuxPipe { read, write }, capacity as u32))
    }

    fn splice_in(
        &mut self,
        from: &OwnedFd,
        pipe: &LinuxPipe,
        length: usize,
    ) -> Result<usize, Errno> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        rustix::pipe::splice(from, None, &pipe.write, None, length, flags)
    }

    fn splice_out(
        &mut self,
        pipe: &LinuxPipe,
        to: &OwnedFd,
        length: usize,
        then: Then,
    ) -> Result<usize, Errno> {
        let mut flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        if then != Then::Wait {
            flags |= SpliceFlags::MORE;
        }
        rustix::pipe::splice(&pipe.read, None, to, None, length, flags)
    }

    fn restore_reserve(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve = reserve().ok();
        }
        self.reserve.is_some()
    }

    fn random(&mut self) -> u64 {
        // splitmix64 (Steele, Lea, Flood, 2014) from a seed of the kernel's.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// What the relay builds on: the mark is told with the bytes, and a read that is short for it is
    /// not the last.
    #[test]
    fn a_read_stops_at_an_urgent_mark_which_an_event_tells_of() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = OwnedFd::from(listener.accept().unwrap().0);
        peer.write_all(b"before").unwrap();
        rustix::net::send(&peer, b"!", SendFlags::OOB).unwrap();
        peer.write_all(b"after").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut net = LinuxNet::new().unwrap();
        net.watch(&ours, 7, Interest::Reading).unwrap();
        let mut found = Vec::new();
        net.wait(Some(5000), &mut found).unwrap();
        let [(7, readiness)] = found[..] else {
            panic!("{found:?}");
        };
        assert!(readiness.urgent && readiness.readable && readiness.hung_up);
        assert!(!readiness.writable, "that was not asked for");
        let mut buffer = [0; 100];
        for expected in [&b"before"[..], b"after", b""] {
            let read = net.read(&ours, &mut buffer).unwrap();
            assert_eq!(&buffer[..read], expected);
        }
    }

    #[test]
    fn a_source_that_gathers_tells_of_its_mark_and_of_its_end_and_of_what_is_there_without_one() {
        let mut net = LinuxNet::new().unwrap();
        let told = |net: &mut LinuxNet| {
            let mut found = Vec::new();
            net.wait(Some(0), &mut found).unwrap();
            found.into_iter().map(|(_, told)| told).next()
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = OwnedFd::from(listener.accept().unwrap().0);
        net.watch(&ours, 7, Interest::Reading).unwrap();
        net.set_low_water(&ours, 1000);
        peer.write_all(&[1; 999]).unwrap();
        assert_eq!(told(&mut net), None);
        peer.write_all(&[1]).unwrap();
        assert!(told(&mut net).unwrap().readable);
        net.read(&ours, &mut [0; 1000]).unwrap();
        peer.write_all(&[1; 999]).unwrap();
        assert_eq!(told(&mut net), None);
        net.set_low_water(&ours, 1);
        assert!(told(&mut net).unwrap().readable);
        net.read(&ours, &mut [0; 999]).unwrap();
        net.set_low_water(&ours, 1000);
        peer.shutdown(Shutdown::Write).unwrap();
        let end = told(&mut net).unwrap();
        assert!(end.readable && end.hung_up);
    }

    #[test]
    fn who_asks_for_room_later_is_told_of_room_that_there_was() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = OwnedFd::from(listener.accept().unwrap().0);
        let mut net = LinuxNet::new().unwrap();
        let mut found = Vec::new();
        net.watch(&ours, 7, Interest::Reading).unwrap();
        net.wait(Some(0), &mut found).unwrap();
        assert!(found.is_empty(), "{found:?}");
        net.watch_both(&ours, 7).unwrap();
        net.wait(Some(0), &mut found).unwrap();
        assert!(
            matches!(found[..], [(7, Readiness { writable: true, .. })]),
            "{found:?}"
        );
    }
}
