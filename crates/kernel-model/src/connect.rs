//! The `connect` call.
//!
//! Decides:  which address and port a socket calls from; when two connections may not have the same
//!           four numbers; when a TIME_WAIT socket makes room; what a second `connect` says.
//! Kernel:   net/ipv4/af_inet.c, __inet_stream_connect(); net/ipv4/tcp_ipv4.c, tcp_v4_connect(),
//!           tcp_twsk_unique(); net/ipv6/tcp_ipv6.c, tcp_v6_connect(); net/ipv4/inet_hashtables.c,
//!           __inet_hash_connect(), __inet_check_established(), 4.5 to 6.18
//! Not here: the handshake (wire.rs). Peers on other hosts, routes: gaps.toml.

use crate::addr::{
    AF_INET, AF_INET6, AF_UNSPEC, Family, Kind6, LOOPBACK4, LOOPBACK4_IPV6, LOOPBACK6,
    SOCKADDR_IN_LEN, SOCKADDR_IN6_LEN, SOCKADDR_IN6_OLD_LEN, SockAddr, is_mapped, kind6, mapped,
};
use crate::bind::{check_length, refuse};
use crate::call::{Answer, State};
use crate::errno::Errno;
use crate::explain::Trace;
use crate::host::Kind4;
use crate::routes::is_no_source4;
use crate::rules::Rule;
use crate::scan::{Order, Scan};
use crate::socket::{ADDR_LOCK, CONNECT_BIND, Progress, SockIx};
use crate::version::Change;
use crate::wire::Tuple;
use crate::world::World;

/// The index of `lo`.
pub(crate) const LOOPBACK_DEVICE: u32 = 1;
/// Bytes of `sa_family`: shorter than this, not even disconnecting is understood.
const FAMILY_LEN: i32 = 2;
/// Before `tcp_tw_reuse_delay`: connect's own choice leaves younger TIME_WAIT sockets alone.
const TIME_WAIT_REUSE_DELAY_MS: u64 = 1000;

impl World {
    pub(crate) fn connect<T: Trace>(
        &mut self,
        ix: SockIx,
        addr: &SockAddr,
        trace: &mut T,
    ) -> Answer {
        if let Err(errno) = check_length(addr, trace) {
            return Answer::Err(errno);
        }
        if addr.len < FAMILY_LEN {
            trace.rule(Rule::AddressTooShort);
            return Answer::Err(Errno::EINVAL);
        }
        if addr.family == AF_UNSPEC {
            self.disconnect(ix, trace);
            self.socks[ix].progress = Progress::Unconnected;
            return Answer::Ok;
        }
        let state = self.socks[ix].state;
        match self.socks[ix].progress {
            Progress::Disconnecting => fail(trace, Rule::ConnectState, Errno::EINVAL),
            Progress::Connected => fail(trace, Rule::ConnectState, Errno::EISCONN),
            Progress::Connecting if is_under_way(state) => {
                if self.socks[ix].nonblocking {
                    return fail(trace, Rule::ConnectUnderWay, Errno::EALREADY);
                }
                Answer::Blocks
            }
            Progress::Connecting => {
                let answer = self.outcome(ix, trace);
                if answer != Answer::Ok {
                    trace.rule(Rule::ConnectFailed);
                }
                answer
            }
            Progress::Unconnected if state != State::Close => {
                fail(trace, Rule::ConnectState, Errno::EISCONN)
            }
            Progress::Unconnected => match self.begin_connect(ix, addr, trace) {
                Err(errno) => Answer::Err(errno),
                Ok(()) => {
                    self.socks[ix].progress = Progress::Connecting;
                    self.socks[ix].windowless = self.socks[ix].repair;
                    self.socks[ix].timestamps = !self.socks[ix].repair;
                    self.begin_numbers(ix);
                    if self.socks[ix].repair {
                        // Under TCP_REPAIR the connection is believed, and nothing is sent.
                        self.socks[ix].state = State::Established;
                        return self.outcome(ix, trace);
                    }
                    self.send_syn(ix, trace);
                    if self.socks[ix].nonblocking {
                        trace.rule(Rule::ConnectUnderWay);
                        return Answer::Err(Errno::EINPROGRESS);
                    }
                    if is_under_way(self.socks[ix].state) {
                        return Answer::Blocks;
                    }
                    self.outcome(ix, trace)
                }
            },
        }
    }

    /// Where the sequence numbers begin: behind those of the socket's last connection, if it had one.
    fn begin_numbers(&mut self, ix: SockIx) {
        let sock = &self.socks[ix];
        let ends = Tuple::of(sock, sock.sport);
        let (first, numbers_of) = match sock.snd_nxt {
            0 if !sock.repair => (self.draw_isn(), Some(ends)),
            next => (next, sock.numbers_of),
        };
        let sock = &mut self.socks[ix];
        sock.numbers_of = numbers_of;
        (sock.snd_una, sock.snd_nxt) = (first, first);
        if !sock.repair {
            sock.rcv_nxt = 0;
        }
        sock.peer_astray = false;
        sock.max_window = 0;
        sock.retries = 0;
    }

    /// What became of a connect that was begun.
    fn outcome<T: Trace>(&mut self, ix: SockIx, trace: &mut T) -> Answer {
        if self.socks[ix].state != State::Close {
            self.socks[ix].progress = Progress::Connected;
            return Answer::Ok;
        }
        let errno = self.socks[ix].error.take().unwrap_or(Errno::ECONNABORTED);
        self.socks[ix].progress = Progress::Unconnected;
        self.disconnect(ix, trace);
        Answer::Err(errno)
    }

    fn begin_connect<T: Trace>(
        &mut self,
        ix: SockIx,
        addr: &SockAddr,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let (family, len) = match self.socks[ix].family {
            Family::Inet => (AF_INET, SOCKADDR_IN_LEN),
            Family::Inet6 => (AF_INET6, SOCKADDR_IN6_OLD_LEN),
        };
        if addr.len < len {
            return refuse(trace, Rule::AddressTooShort, Errno::EINVAL);
        }
        if addr.family != family {
            return refuse(trace, Rule::ConnectFamily, Errno::EAFNOSUPPORT);
        }
        if self.socks[ix].family == Family::Inet {
            return self.connect4(ix, addr.in4(), addr.port, trace);
        }
        let mut to = addr.in6();
        if to == 0 {
            to = if is_mapped(self.socks[ix].rcv6) {
                mapped(LOOPBACK4)
            } else {
                LOOPBACK6
            };
        }
        match kind6(to) {
            Kind6::Multicast { .. } => {
                return refuse(trace, Rule::NoRoute, Errno::ENETUNREACH);
            }
            Kind6::LinkLocal => self.scope_of_connect(ix, addr, trace)?,
            _ => {}
        }
        self.socks[ix].peer6 = to;
        if is_mapped(to) {
            if self.socks[ix].v6only {
                return refuse(trace, Rule::NoRoute, Errno::ENETUNREACH);
            }
            let done = self.connect4(ix, to as u32, addr.port, trace);
            self.socks[ix].sends_ipv4 = done.is_ok();
            return done;
        }
        self.connect6(ix, to, addr.port, trace)
    }

    fn scope_of_connect<T: Trace>(
        &mut self,
        ix: SockIx,
        addr: &SockAddr,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let sock = &mut self.socks[ix];
        if addr.len >= SOCKADDR_IN6_LEN && addr.scope != 0 {
            if sock.device != 0 && sock.device != addr.scope {
                return refuse(trace, Rule::ScopeMissing, Errno::EINVAL);
            }
            sock.device = addr.scope;
        }
        if sock.device == 0 {
            return refuse(trace, Rule::ScopeMissing, Errno::EINVAL);
        }
        Ok(())
    }

    fn connect4<T: Trace>(
        &mut self,
        ix: SockIx,
        to: u32,
        port: u16,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        let from = sock.src4;
        if is_no_source4(self.host.kernel, from) {
            return refuse(trace, Rule::NoSource, Errno::EINVAL);
        }
        let foreign =
            from != 0 && net.kind4(self.host.kernel, from, self.device_vrf(ix)) != Kind4::Local;
        if foreign && !sock.transparent {
            return refuse(trace, Rule::ForeignSource, Errno::ENETUNREACH);
        }
        match net.interface(sock.device) {
            None if sock.device != 0 => {
                return refuse(trace, Rule::NoSuchDevice, Errno::ENODEV);
            }
            Some(through) if !through.up => {
                return refuse(trace, Rule::NoRoute, Errno::ENETUNREACH);
            }
            _ => {}
        }
        let (source, to) = self.ends4(ix, from, to);
        self.check_way4(ix, source, to, trace)?;
        let transparent = sock.transparent;
        let v6 = sock.family == Family::Inet6;
        let set = |sock: &mut crate::socket::Sock| {
            sock.src4 = source;
            sock.rcv4 = source;
            if v6 {
                sock.rcv6 = mapped(source);
            }
        };
        if from == 0 {
            self.readdress(ix, set);
        } else {
            set(&mut self.socks[ix]);
        }
        let sock = &mut self.socks[ix];
        sock.routed_any = transparent;
        sock.dport = port;
        sock.peer4 = to;
        if v6 {
            sock.peer6 = mapped(to);
        }
        self.enter_syn_sent(ix, trace)
    }

    /// Both ends of what a socket sends to an IPv4 address: 0 is this host, or an address that the route
    /// chooses.
    pub(crate) fn ends4(&self, ix: SockIx, from: u32, to: u32) -> (u32, u32) {
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        let device = (sock.device != 0).then_some(sock.device);
        let all_zero = (to, from) == (0, 0);
        let to = match (to, from) {
            (0, 0) => device
                .and_then(|device| net.first4(device))
                .unwrap_or(LOOPBACK4),
            (0, from) => from,
            (to, _) => to,
        };
        let vrf = self.device_vrf(ix);
        let foreign = net.kind4(self.host.kernel, to, vrf) == Kind4::Foreign;
        let link = net.link_of4(self.host.kernel, to).filter(|_| foreign);
        let found = match (device, from) {
            (Some(device), 0) if !net.is_on4(to, device) => net.source_on_link4(to, device),
            (None, 0) if link.is_some() => net.source_on_link4(to, link.unwrap_or(0)),
            (_, 0) => net.source4(to, vrf),
            (_, from) => from,
        };
        (if all_zero { to } else { found }, to)
    }

    /// Whether there is a route. Through a device, every address that is not the device's own is taken to be
    /// a neighbour behind it, who does not answer; without one, those of the interfaces' networks are.
    fn check_way4<T: Trace>(
        &self,
        ix: SockIx,
        from: u32,
        to: u32,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        let (kernel, vrf) = (self.host.kernel, self.device_vrf(ix));
        let kind = net.kind4(kernel, to, vrf);
        let many = kind == Kind4::Multicast || to == u32::MAX;
        let leaves = match sock.device {
            0 if kind == Kind4::Local => return Ok(()),
            // Through the interface that the source is on.
            0 if many => net.device_of4(from, vrf),
            0 if kind == Kind4::Broadcast => net.device_of_broadcast(kernel, to),
            // To a neighbour, or nowhere.
            0 => net.link_of4(kernel, to),
            device if net.is_on4(to, device) => return Ok(()),
            device => Some(device),
        };
        if leaves.is_some_and(|device| !net.may_leave4(from, device)) {
            return refuse(trace, Rule::LoopbackSource, Errno::EINVAL);
        }
        let neighbour = match sock.device {
            0 => kind == Kind4::Foreign && leaves.is_some(),
            device => !many && !net.is_broadcast_of(kernel, to, device),
        };
        if neighbour {
            return Ok(());
        }
        refuse(trace, Rule::NoRoute, Errno::ENETUNREACH)
    }

    fn connect6<T: Trace>(
        &mut self,
        ix: SockIx,
        to: u128,
        port: u16,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        let beyond = sock.device != 0 && !net.is_on6(to, sock.device);
        let here = !beyond && net.has6(to, self.vrf_device(ix));
        let own = match net.link_of6(to, sock.device) {
            _ if here => Some(to),
            Some(link) => net.source_on_link6(to, link),
            None => None,
        };
        let Some(own) = own else {
            return refuse(trace, Rule::NoRoute, Errno::ENETUNREACH);
        };
        if is_mapped(sock.rcv6) {
            return refuse(trace, Rule::MappedSource, Errno::EAFNOSUPPORT);
        }
        // Where it receives is where it sends from: no IPv6 multicast address can be bound.
        if sock.rcv6 == 0 {
            self.readdress(ix, |sock| sock.rcv6 = own);
        }
        let sock = &mut self.socks[ix];
        sock.rcv4 = LOOPBACK4_IPV6;
        sock.dport = port;
        self.enter_syn_sent(ix, trace)
    }

    /// Finds a port where the socket has none, and the place in the table of connections.
    fn enter_syn_sent<T: Trace>(&mut self, ix: SockIx, trace: &mut T) -> Result<(), Errno> {
        self.socks[ix].state = State::SynSent;
        let done = match self.socks[ix].num {
            0 => self.choose_for_connect(ix, trace),
            port => self.claim_tuple(ix, port, Manner::Named, trace),
        };
        if let Err(errno) = done {
            self.set_closed(ix);
            if !self.socks[ix].locked(ADDR_LOCK) {
                self.readdress(ix, |sock| sock.reset_addr());
            }
            self.socks[ix].dport = 0;
            return Err(errno);
        }
        // An older error ends with a SYN (tcp_connect_init()), not with an attempt that sent none.
        self.socks[ix].error = None;
        Ok(())
    }

    /// Enters the connection under this port, if its four numbers are not in use.
    fn claim_tuple<T: Trace>(
        &mut self,
        ix: SockIx,
        port: u16,
        manner: Manner,
        trace: &mut T,
    ) -> Result<(), Errno> {
        match self.tuple_user(ix, port) {
            None => {}
            Some(other) if self.may_take_over(other, manner) => {
                trace.blame(Rule::TimeWaitReused, self.handle(other));
                self.end_time_wait(other);
            }
            Some(other) => {
                trace.blame(Rule::TupleTaken, self.handle(other));
                return Err(Errno::EADDRNOTAVAIL);
            }
        }
        self.enter_connection(ix, port);
        Ok(())
    }

    fn enter_connection(&mut self, ix: SockIx, port: u16) {
        self.socks[ix].sport = port;
        self.hash_connection(ix);
    }

    fn tuple_user(&self, ix: SockIx, port: u16) -> Option<SockIx> {
        let sock = &self.socks[ix];
        self.find_connection(Tuple::of(sock, port), sock.device)
    }

    /// Whether a connection in TIME_WAIT makes room: only one whose ends sent timestamps. With a port that
    /// the user bound it always does.
    fn may_take_over(&self, other: SockIx, manner: Manner) -> bool {
        let old = &self.socks[other];
        if old.state != State::TimeWait || !old.timestamps {
            return false;
        }
        if manner == Manner::Named {
            return true;
        }
        let sysctls = &self.host.net(old.net).sysctls;
        let delay_ms = if self.host.kernel.has(Change::TwReuseDelay) {
            u64::from(sysctls.tcp_tw_reuse_delay)
        } else {
            TIME_WAIT_REUSE_DELAY_MS
        };
        let reuse = sysctls.tcp_tw_reuse;
        let loopback = match old.family {
            Family::Inet => old.rcv4 >> 24 == 127 || old.peer4 >> 24 == 127,
            Family::Inet6 => [old.rcv6, old.peer6]
                .into_iter()
                .any(|ip| ip == LOOPBACK6 || (is_mapped(ip) && (ip as u32) >> 24 == 127)),
        };
        // Until 4.18 any value but 0 stood for 1.
        let everywhere =
            reuse == 1 || (reuse != 0 && !self.host.kernel.has(Change::TwReuseLoopback));
        let allowed = everywhere || (reuse == 2 && (loopback || old.device == LOOPBACK_DEVICE));
        allowed && old.substate == State::TimeWait && self.time_wait_age_ms(other) > delay_ms
    }

    /// Connect's own choice: only ports that bind does not hold, in an order of its own.
    fn choose_for_connect<T: Trace>(&mut self, ix: SockIx, trace: &mut T) -> Result<(), Errno> {
        let scan = self.connect_scan(ix);
        if self.is_asked() {
            let reach = scan.reach(|port| self.connect_fits(ix, port));
            return self.answer_asked(reach, Errno::EADDRNOTAVAIL);
        }
        let draw = self.draw_in(scan, |world, port| world.connect_fits(ix, port));
        let found = scan.ports(draw).find(|&port| self.connect_fits(ix, port));
        match found {
            Some(port) => self.own_for_connect(ix, port, trace),
            None => {
                let asked = scan.ports(draw).filter(|_| T::ASKED);
                for holder in asked.filter_map(|port| self.stands_in_the_way(ix, port)) {
                    trace.blame(Rule::ConnectNoPort, self.handle(holder));
                }
                refuse(trace, Rule::ConnectNoPort, Errno::EADDRNOTAVAIL)
            }
        }
    }

    /// The range of a socket, and the order in which this release searches it.
    fn connect_scan(&self, ix: SockIx) -> Scan {
        let (low, high, own_range) = self.port_range(ix);
        let kernel = self.host.kernel;
        let order = if !kernel.has(Change::EvenConnect) {
            Order::EachBehind
        } else if !kernel.has(Change::OddEvenBind) {
            Order::EachFromEven
        } else if own_range && kernel.has(Change::OwnRangeWhole) {
            Order::Each
        } else {
            Order::EvenFirst
        };
        Scan {
            low: u32::from(low),
            high: u32::from(high) + 1,
            order,
        }
    }

    fn connect_fits(&self, ix: SockIx, port: u16) -> bool {
        let net = self.socks[ix].net;
        if self.host.net(net).sysctls.is_reserved(port) {
            return false;
        }
        // A port that nobody owns is taken without a look at connections: half-open ones of a listener
        // that is gone may have it.
        let Some(bucket) = self.bucket_for(ix, port) else {
            return true;
        };
        if !self.connect_may_share(bucket) {
            return false;
        }
        match self.tuple_user(ix, port) {
            None => true,
            Some(other) => self.may_take_over(other, Manner::Chosen),
        }
    }

    /// Whose port it is, where connect may not have it.
    fn stands_in_the_way(&self, ix: SockIx, port: u16) -> Option<SockIx> {
        let bucket = self.bucket_for(ix, port)?;
        if self.connect_may_share(bucket) {
            return self.tuple_user(ix, port);
        }
        let list = self.lists_of(bucket).next()?;
        self.owners_in(list).next()
    }

    fn own_for_connect<T: Trace>(
        &mut self,
        ix: SockIx,
        port: u16,
        trace: &mut T,
    ) -> Result<(), Errno> {
        // The newcomer owns the port before a TIME_WAIT socket lets go of it.
        let found = self.bucket_for(ix, port);
        let bucket = match found {
            Some(bucket) => bucket,
            None => self.bucket_create_for_connect(ix, port),
        };
        let list = self.owners_for_connect(bucket, ix);
        self.own(ix, bucket, list);
        self.socks[ix].locks |= CONNECT_BIND;
        trace.rule(Rule::ConnectChose);
        if found.is_none() {
            self.enter_connection(ix, port);
            return Ok(());
        }
        self.claim_tuple(ix, port, Manner::Chosen, trace)
    }
}

/// How the port of a connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Named,
    Chosen,
}

/// Whether `connect` waits on in this state: the other side may have called too.
pub(crate) const fn is_under_way(state: State) -> bool {
    matches!(state, State::SynSent | State::SynRecv)
}

fn fail<T: Trace>(trace: &mut T, rule: Rule, errno: Errno) -> Answer {
    trace.rule(rule);
    Answer::Err(errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::SockAddr;
    use crate::call::{Call, Opt};
    use crate::host::{Host, ProcessId};
    use crate::version::Kernel;

    const WEB: u16 = 20_001;

    fn connected(family: Family, address: &str, options: &[Opt]) -> (World, SockIx) {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let to = SockAddr::new(address.parse().unwrap(), WEB);
        let listener = world.socket(ProcessId(0), family);
        assert_eq!(world.call(listener, Call::Bind(to)), Answer::Ok);
        assert_eq!(world.call(listener, Call::Listen(5)), Answer::Ok);
        let client = world.socket(ProcessId(0), family);
        for &option in options {
            assert_eq!(world.call(client, Call::Set(option)), Answer::Ok);
        }
        assert_eq!(world.call(client, Call::Connect(to)), Answer::Ok);
        let ix = world.existing(client).unwrap();
        (world, ix)
    }

    #[test]
    fn a_connection_that_sends_nothing_keeps_its_route_too() {
        let options = [Opt::Transparent(true), Opt::Repair(1)];
        let (world, ix) = connected(Family::Inet, "127.0.0.1", &options);
        assert_eq!(world.socks[ix].state, State::Established);
        assert!(world.socks[ix].routed_any);
    }

    #[test]
    fn an_ipv6_connection_is_on_no_ipv4_address() {
        let (world, ix) = connected(Family::Inet6, "::1", &[]);
        assert_eq!(world.socks[ix].rcv4, LOOPBACK4_IPV6);
    }

    #[test]
    fn a_bind_forgets_the_old_peer() {
        let (mut world, ix) = connected(Family::Inet, "127.0.0.1", &[]);
        world.disconnect(ix, &mut crate::explain::NoTrace);
        assert_ne!(world.socks[ix].peer4, 0);
        let client = world.handle(ix);
        let to = SockAddr::new("127.0.0.1".parse().unwrap(), 0);
        assert_eq!(world.call(client, Call::Bind(to)), Answer::Ok);
        assert_eq!(world.socks[ix].peer4, 0);
    }

    #[test]
    fn a_new_connection_knows_no_window() {
        let (mut world, ix) = connected(Family::Inet, "127.0.0.1", &[]);
        assert_ne!(world.socks[ix].max_window, 0);
        world.begin_numbers(ix);
        assert_eq!(world.socks[ix].max_window, 0);
    }
}
