//! A world whose sockets were there before: a live host, as an observer found it.
//!
//! Decides:  what a list of sockets must satisfy to be a host at all, since an observer's list may be torn
//!           and comes from outside; what is supposed of a bucket's memory and of a group that nobody saw.
//! Kernel:   the fields are those of struct sock, inet_bind_bucket and sock_reuseport, 3.9 to 6.18
//! Not here: reading them (the crate `inspect`). Sequence numbers: both ends of a connection agree.
//!
//! A history would be another way to come here, but the state is what an observer has, and a bucket
//! remembers more than any of its owners shows: two histories with the same sockets can differ.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use crate::addr::{Family, Kind6, LOOPBACK4_IPV6, is_mapped, kind6};
use crate::bucket::Remembered;
use crate::call::{Program, State};
use crate::chain::End;
use crate::explain::NoTrace;
use crate::host::{Host, NetId, ProcessId, Uid};
use crate::reuseport::GroupIx;
use crate::socket::{
    ADDR_LOCK, CONNECT_BIND, Hashed, PORT_LOCK, Progress, RCV_SHUTDOWN, Reuse, SEND_SHUTDOWN,
    SockIx,
};
use crate::timer::SYNACK_FIRST_MS;
use crate::version::Change;
use crate::wire::{TIME_WAIT_MS, WINDOW};
use crate::world::{SocketId, World};

/// A socket of a live host. [`FoundSocket::new`] has the values of a fresh one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSocket {
    /// Its network namespace.
    pub net: NetId,
    /// Its family.
    pub family: Family,
    /// Its state; [`State::Close`] for one that is bound and no more.
    pub state: State,
    /// Of TIME_WAIT: it stands for an orphan in FIN_WAIT2.
    pub half_closed: bool,
    /// Its user (`sk_uid`).
    pub uid: Uid,
    /// Where it receives (`rcv_saddr`), and the port that it owns. An IPv6 socket's IPv4 address is mapped.
    pub local: SocketAddr,
    /// The peer of a connection.
    pub peer: Option<SocketAddr>,
    /// The bound device; 0 for none.
    pub device: u32,
    /// `SO_REUSEADDR`.
    pub reuseaddr: bool,
    /// `SO_REUSEPORT`.
    pub reuseport: bool,
    /// `IPV6_V6ONLY`, as the kernel keeps it: a bind to a true IPv6 address sets it too.
    pub v6only: bool,
    /// `IP_FREEBIND`.
    pub freebind: bool,
    /// `IP_TRANSPARENT`.
    pub transparent: bool,
    /// `TCP_REPAIR`.
    pub repair: bool,
    /// Who chose the port, and the address (`sk_userlocks`).
    pub chosen: Chosen,
    /// `SO_INCOMING_CPU`; -1 for none.
    pub incoming_cpu: i32,
    /// Of a listener: the limit of its queue.
    pub backlog: u32,
    /// Of a half-open connection, and of one that nobody has accepted: the place of its listener in the
    /// list.
    pub listener: Option<usize>,
    /// Of TIME_WAIT: milliseconds left.
    pub left_ms: u64,
    /// `SHUT_RD` is 1, `SHUT_WR` 2.
    pub shutdown: u8,
    /// Of a connection: both ends sent timestamps.
    pub timestamps: bool,
    /// Of a listener: its place among those with which it shares a lookup chain; the one that a SYN meets
    /// first has the smallest.
    pub rank: Option<u32>,
    /// Its SO_REUSEPORT group.
    pub group: Membership,
    /// Who holds a descriptor of it; a process once for each.
    pub holders: Vec<ProcessId>,
}

/// Who chose a socket's port and address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chosen {
    /// The user bound an address (`SOCK_BINDADDR_LOCK`).
    pub address: bool,
    /// The user bound a port (`SOCK_BINDPORT_LOCK`).
    pub port: bool,
    /// connect chose the port (`SOCK_CONNECT_BIND`).
    pub by_connect: bool,
}

/// What is known of a socket's SO_REUSEPORT group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// Nothing: a listener with SO_REUSEPORT is in a group with those like it.
    Supposed,
    /// It is in none.
    Nowhere,
    /// It is a member of the group with this number ([`FoundGroup::number`]).
    Member(u32),
    /// It has left off listening, and the group keeps it for migration.
    Closed(u32),
}

/// A SO_REUSEPORT group. Its members stand in the order in which their sockets are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundGroup {
    /// What sockets name it by.
    pub number: u32,
    /// Closed members that are no sockets of the list (`num_closed_socks` counts them).
    pub closed_unseen: u32,
    /// The program that chooses, as far as the model runs such.
    pub program: Option<Program>,
}

/// What a port's bucket remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundBucket {
    /// Its namespace.
    pub net: NetId,
    /// Its port.
    pub port: u16,
    /// The VRF whose sockets own it; 0 for none.
    pub vrf: u32,
    /// `fastreuse`.
    pub fastreuse: i8,
    /// `fastreuseport`.
    pub fastreuseport: i8,
    /// `fastuid`.
    pub uid: Uid,
    /// `fast_sk_family` with `fast_rcv_saddr` or `fast_v6_rcv_saddr`.
    pub address: IpAddr,
    /// `fast_ipv6_only`.
    pub v6only: bool,
}

/// What an observer found on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its sockets, the oldest first as far as that is known.
    pub sockets: Vec<FoundSocket>,
    /// Its groups.
    pub groups: Vec<FoundGroup>,
    /// Its buckets. One that is missing remembers what it would had its owners bound in their order, with
    /// the options they have now, and had nobody else been there.
    pub buckets: Vec<FoundBucket>,
}

/// Why no host is like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impossible {
    /// The place of the socket in the list; of the bucket or group where there is no such socket.
    pub at: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {}: {}", self.at, self.what)
    }
}

impl core::error::Error for Impossible {}

impl FoundSocket {
    /// A socket in CLOSE that owns an address and port which its user chose, with no option set.
    #[must_use]
    pub fn new(net: NetId, local: SocketAddr, uid: Uid) -> FoundSocket {
        let any = local.ip().is_unspecified();
        let (family, v6only) = match local.ip() {
            IpAddr::V4(_) => (Family::Inet, false),
            IpAddr::V6(ip) => (Family::Inet6, !any && !is_mapped(ip.to_bits())),
        };
        FoundSocket {
            net,
            family,
            state: State::Close,
            half_closed: false,
            uid,
            local,
            peer: None,
            device: 0,
            reuseaddr: false,
            reuseport: false,
            v6only,
            freebind: false,
            transparent: false,
            repair: false,
            chosen: Chosen {
                address: !any,
                port: true,
                by_connect: false,
            },
            incoming_cpu: -1,
            backlog: 0,
            listener: None,
            left_ms: TIME_WAIT_MS,
            shutdown: 0,
            timestamps: true,
            rank: None,
            group: Membership::Supposed,
            holders: Vec::new(),
        }
    }

    /// Why no host has such a socket.
    fn fault(&self, host: &Host, found: &Found) -> Option<&'static str> {
        let v6 = |at: SocketAddr| at.is_ipv6();
        let peer6 = self.peer.is_some_and(v6);
        let connected = !matches!(self.state, State::Close | State::Listen);
        let listener = |at: usize| {
            let them = found.sockets.get(at)?;
            // Half-open connections outlive their listener.
            let listens = them.state == State::Listen || self.state == State::NewSynRecv;
            (listens && them.net == self.net && them.state < State::NewSynRecv).then_some(())
        };
        let holders = |process: &ProcessId| usize::from(process.0) < host.processes.len();
        let held = !self.holders.is_empty();
        let known = |number| found.groups.iter().any(|group| group.number == number);
        let faults = [
            (
                usize::from(self.net.0) >= host.namespaces.len(),
                "its namespace is not there",
            ),
            (self.local.port() == 0, "it owns no port"),
            (
                v6(self.local) != (self.family == Family::Inet6)
                    || (self.peer.is_some() && peer6 != v6(self.local)),
                "its address is of another family",
            ),
            (
                connected != self.peer.is_some(),
                "its state and its peer do not go together",
            ),
            (
                self.state == State::NewSynRecv && self.listener.is_none(),
                "a half-open connection without a listener",
            ),
            (
                self.listener.is_some_and(|at| listener(at).is_none()),
                "what it waits at does not listen",
            ),
            (
                held && (self.listener.is_some() || self.state == State::TimeWait),
                "nobody can hold a descriptor of it",
            ),
            (!self.holders.iter().all(holders), "its holder is not there"),
            (
                match self.group {
                    Membership::Member(number) => !known(number) || self.bare_connection(),
                    Membership::Closed(number) => !known(number) || self.state != State::Close,
                    Membership::Supposed | Membership::Nowhere => false,
                },
                "its group is not there, or not for it",
            ),
        ];
        faults
            .into_iter()
            .find_map(|(wrong, what)| wrong.then_some(what))
    }

    fn bare_connection(&self) -> bool {
        !matches!(self.state, State::Close | State::Listen)
    }
}

impl World {
    /// A host with the sockets that were found on it, and a name for each, in their order.
    ///
    /// A connection's sequence numbers are made up, such that both of its ends agree.
    ///
    /// # Errors
    ///
    /// Where no host can be like that: the list is torn or made by hand.
    pub fn found(host: Host, found: &Found) -> Result<(World, Vec<SocketId>), Impossible> {
        for (at, socket) in found.sockets.iter().enumerate() {
            if let Some(what) = socket.fault(&host, found) {
                return Err(Impossible { at, what });
            }
        }
        let mut world = World::new(host);
        let places: Vec<SockIx> = found.sockets.iter().map(|one| world.place(one)).collect();
        for (one, &ix) in found.sockets.iter().zip(&places) {
            world.own_as_found(one, ix);
        }
        for (at, bucket) in found.buckets.iter().enumerate() {
            let what = "nobody owns the port of this bucket";
            world.remember(bucket).ok_or(Impossible { at, what })?;
        }
        for (at, group) in found.groups.iter().enumerate() {
            let what = "a group without a member";
            let known = world.found_group(group, &found.sockets, &places);
            known.ok_or(Impossible { at, what })?;
        }
        world.hash_found(&found.sockets, &places);
        for (one, &ix) in found.sockets.iter().zip(&places) {
            if let Some(&listener) = one.listener.and_then(|at| places.get(at)) {
                world.wait_at(ix, listener);
            }
        }
        let names = places.iter().map(|&ix| world.handle(ix)).collect();
        Ok((world, names))
    }

    /// The socket alone: no bucket, no table.
    fn place(&mut self, one: &FoundSocket) -> SockIx {
        let ix = self.fresh_sock(one.net, one.family, one.uid);
        let remains = matches!(one.state, State::TimeWait | State::NewSynRecv);
        let sock = &mut self.socks[ix];
        sock.state = one.state;
        sock.substate = match (one.state, one.half_closed) {
            (State::TimeWait, true) => State::FinWait2,
            (State::TimeWait, false) => State::TimeWait,
            _ => State::Close,
        };
        sock.reuse = match (one.repair, one.reuseaddr) {
            (true, _) => Reuse::Force,
            (false, true) => Reuse::Can,
            (false, false) => Reuse::No,
        };
        sock.reuseport = one.reuseport;
        sock.repair = one.repair;
        sock.v6only = one.family == Family::Inet6 && one.v6only;
        sock.device = one.device;
        sock.freebind = one.freebind;
        sock.transparent = one.transparent;
        sock.routed_any = one.transparent;
        sock.incoming_cpu = one.incoming_cpu;
        sock.backlog = one.backlog;
        sock.timestamps = one.timestamps && one.peer.is_some();
        sock.shutdown = one.shutdown & (RCV_SHUTDOWN | SEND_SHUTDOWN);
        sock.dead = remains || (one.holders.is_empty() && one.listener.is_none());
        sock.progress = match one.state {
            State::Close | State::Listen => Progress::Unconnected,
            State::SynSent => Progress::Connecting,
            _ => Progress::Connected,
        };
        for (on, lock) in [
            (one.chosen.address, ADDR_LOCK),
            (one.chosen.port, PORT_LOCK),
            (one.chosen.by_connect, CONNECT_BIND),
        ] {
            sock.locks |= if on { lock } else { 0 };
        }
        (sock.snd_una, sock.snd_nxt, sock.rcv_nxt) = numbers(one.state, one.half_closed);
        sock.max_window = WINDOW;
        self.address_found(ix, one);
        for &process in &one.holders {
            if let Some(files) = self.files_of(process) {
                self.hold(files, ix);
            }
        }
        ix
    }

    fn address_found(&mut self, ix: SockIx, one: &FoundSocket) {
        let sock = &mut self.socks[ix];
        let port = one.local.port();
        (sock.sport, sock.num) = (port, port);
        (sock.rcv4, sock.rcv6) = both_forms(one.local.ip());
        sock.src4 = sock.rcv4;
        if let Some(peer) = one.peer {
            sock.dport = peer.port();
            (sock.peer4, sock.peer6) = both_forms(peer.ip());
            sock.sends_ipv4 = one.family == Family::Inet6 && is_mapped(sock.peer6);
        }
    }

    /// Makes the socket an owner of its port.
    fn own_as_found(&mut self, one: &FoundSocket, ix: SockIx) {
        if one.state == State::NewSynRecv {
            return;
        }
        let port = one.local.port();
        let known = self.bucket_for(ix, port);
        let first = known.is_none();
        let by_connect = one.chosen.by_connect;
        let bucket = match known {
            Some(bucket) => bucket,
            None if by_connect => self.bucket_create_for_connect(ix, port),
            None => self.bucket_create(ix, port),
        };
        let list = match self.owners_of(bucket, ix) {
            Some(list) => list,
            None if by_connect => self.owners_for_connect(bucket, ix),
            None => self.owners_create(bucket, ix),
        };
        // It bound, and if it listens its port was checked again. What a listener or a connection leaves
        // behind has never asked.
        let asked = matches!(one.state, State::Close | State::Listen) || one.chosen.port;
        if asked && !by_connect && one.state != State::TimeWait && one.listener.is_none() {
            self.socks[ix].state = State::Close;
            self.update_memory(ix, bucket, list, first);
            self.socks[ix].state = one.state;
            if one.state == State::Listen {
                self.update_memory(ix, bucket, list, false);
            }
        }
        self.own(ix, bucket, list);
    }

    /// Gives a bucket its memory, and its lists those that go with it.
    fn remember(&mut self, found: &FoundBucket) -> Option<()> {
        if usize::from(found.net.0) >= self.host.namespaces.len() {
            return None;
        }
        let at = self
            .buckets_of(found.net, found.port)
            .find(|at| self.buckets[at.0].vrf == found.vrf)?;
        let (rcv4, rcv6) = both_forms(found.address);
        let bucket = &mut self.buckets[at.0];
        bucket.fastreuse = found.fastreuse;
        bucket.fastreuseport = found.fastreuseport;
        bucket.remembered = Remembered {
            uid: found.uid,
            family: match found.address {
                IpAddr::V4(_) => Family::Inet,
                IpAddr::V6(_) => Family::Inet6,
            },
            rcv4,
            rcv6,
            v6only: found.v6only,
        };
        let lists: Vec<_> = self.lists_of(at).collect();
        for list in lists {
            let connects = |ix: SockIx| self.socks[ix].locked(CONNECT_BIND);
            let connect_only = self.connect_may_share(at) || self.owners_in(list).all(connects);
            self.owners[list.0].connect_only = connect_only;
        }
        Some(())
    }

    fn found_group(
        &mut self,
        found: &FoundGroup,
        sockets: &[FoundSocket],
        places: &[SockIx],
    ) -> Option<()> {
        let number = found.number;
        let of = |wanted: Membership| {
            let all = sockets.iter().zip(places);
            let these = all.filter(move |(one, _)| one.group == wanted);
            these.map(|(_, &ix)| ix).collect::<Vec<SockIx>>()
        };
        let members = of(Membership::Member(number));
        let mut closed = of(Membership::Closed(number));
        let like = &self.socks[*members.first().or(closed.first())?];
        let (net, family, uid) = (like.net, like.family, like.uid);
        for _ in 0..found.closed_unseen {
            // It is gone but for what still refers to it.
            let unseen = self.fresh_sock(net, family, uid);
            self.socks[unseen].dead = true;
            closed.push(unseen);
        }
        let index = self.groups.take(crate::reuseport::Group::default);
        let all = members.iter().chain(&closed);
        let with_cpu = all.clone().filter(|&&ix| self.socks[ix].incoming_cpu >= 0);
        let with_cpu = with_cpu.count() as u16;
        for &ix in all {
            self.socks[ix].group = Some(GroupIx(index));
        }
        let group = &mut self.groups[index];
        (group.members, group.closed_members) = (members, closed);
        (group.program, group.with_cpu) = (found.program, with_cpu);
        group.cookies_given = false;
        Some(())
    }

    /// Enters listeners and connections where segments look for them, and sets their timers.
    fn hash_found(&mut self, sockets: &[FoundSocket], places: &[SockIx]) {
        let mut listeners = Vec::new();
        for (one, &ix) in sockets.iter().zip(places) {
            match one.state {
                State::Close => {}
                State::Listen => listeners.push((one.rank.unwrap_or(u32::MAX), one, ix)),
                _ => self.hash_connection(ix),
            }
            match one.state {
                State::TimeWait => self.set_timer(ix, one.left_ms.min(TIME_WAIT_MS)),
                State::SynSent => self.retry_syn_later(ix),
                State::NewSynRecv => self.set_timer(ix, SYNACK_FIRST_MS),
                _ => {}
            }
        }
        // Those of a known place first, in its order; the others as they would have come.
        listeners.sort_by_key(|&(rank, ..)| rank);
        for (_, one, ix) in listeners {
            let groups = self.host.kernel.has(Change::ReuseportGroups);
            if groups && one.reuseport && one.group == Membership::Supposed {
                // A group has room for more than anybody listed: a full one keeps its members.
                let _ = self.join_group(ix, &mut NoTrace);
            }
            let tail = groups && one.reuseport && one.family == Family::Inet6;
            let end = match one.rank {
                None if !tail => End::Head,
                _ => End::Tail,
            };
            self.chain_insert(ix, end);
            self.socks[ix].hashed = Hashed::Listening;
        }
    }

    /// A half-open connection, or one that nobody has accepted, waits at its listener.
    fn wait_at(&mut self, ix: SockIx, listener: SockIx) {
        self.socks[ix].parent = listener;
        if self.socks[ix].state == State::NewSynRecv {
            self.socks[ix].v6only = false;
            let sock = &mut self.socks[listener];
            sock.requests += 1;
            sock.syn_queue_len += 1;
        } else {
            self.socks[listener].queue.push_back(ix);
        }
    }
}

/// `snd_una`, `snd_nxt` and `rcv_nxt`: the two ends of a connection agree, and a FIN counts one.
const fn numbers(state: State, half_closed: bool) -> (u32, u32, u32) {
    const START: u32 = 1_000_000;
    match state {
        State::SynSent | State::NewSynRecv => (START - 1, START, START),
        State::FinWait1 => (START, START + 1, START),
        State::FinWait2 => (START + 1, START + 1, START),
        State::TimeWait if half_closed => (START + 1, START + 1, START),
        State::TimeWait => (START + 1, START + 1, START + 1),
        State::Closing | State::LastAck => (START, START + 1, START + 1),
        State::CloseWait => (START, START, START + 1),
        _ => (START, START, START),
    }
}

/// What the IPv4 and the IPv6 fields say of an address.
fn both_forms(ip: IpAddr) -> (u32, u128) {
    match ip {
        IpAddr::V4(ip) => (ip.to_bits(), 0),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            let v4 = match kind6(bits) {
                Kind6::Any => 0,
                Kind6::Mapped => bits as u32,
                _ => LOOPBACK4_IPV6,
            };
            (v4, bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::SockAddr;
    use crate::call::{Answer, Call, Opt};
    use crate::host::{Caps, Process};
    use crate::version::Kernel;
    use alloc::collections::BTreeSet;
    use alloc::string::{String, ToString as _};
    use alloc::{format, vec};

    const STEPS: usize = 14;
    const WORLDS: u32 = 500;
    const PORTS: [u16; 2] = [80, 40_001];

    /// A small generator of numbers: the same ones for the same seed.
    struct Draws(u64);

    impl Draws {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((self.0 >> 33) as usize) % limit
        }

        fn address(&mut self) -> IpAddr {
            let all = [
                "0.0.0.0",
                "127.0.0.1",
                "127.0.0.2",
                "::",
                "::1",
                "::ffff:127.0.0.1",
            ];
            all[self.below(all.len())].parse().unwrap()
        }

        fn option(&mut self) -> Opt {
            let on = self.below(4) > 0;
            match self.below(6) {
                0 | 1 => Opt::ReuseAddr(on),
                2 | 3 => Opt::ReusePort(on),
                4 => Opt::V6Only(on),
                _ => Opt::BindToDevice(u32::from(on)),
            }
        }
    }

    fn two_users(kernel: Kernel) -> Host {
        let mut host = Host::new(kernel);
        let files = host.fresh_files();
        let root = host.processes[0];
        host.processes.push(Process {
            uid: Uid(1000),
            caps: Caps::NONE,
            files,
            ..root
        });
        host.namespaces[0].sysctls.ip_unprivileged_port_start = 80;
        host
    }

    /// Some history: binds, listens, connections that end or do not, closes.
    fn history(kernel: Kernel, draws: &mut Draws) -> (World, String) {
        let mut world = World::new(two_users(kernel));
        world.host.namespaces[0].sysctls.tcp_migrate_req = draws.below(3) == 0;
        let mut open: Vec<(ProcessId, SocketId)> = Vec::new();
        let mut told = String::new();
        if draws.below(3) > 0 {
            told = scene(&mut world, draws, &mut open);
        }
        for _ in 0..STEPS {
            if open.len() < 3 || draws.below(4) == 0 {
                let process = ProcessId(draws.below(2) as u16);
                let family = [Family::Inet, Family::Inet6][draws.below(2)];
                open.push((process, world.socket(process, family)));
            }
            let (process, socket) = open[draws.below(open.len())];
            let at = SockAddr::new(draws.address(), PORTS[draws.below(2)]);
            let call = match draws.below(12) {
                0..4 => Call::Set(draws.option()),
                4..7 => Call::Bind(at),
                7 | 8 => Call::Listen(2),
                9 => Call::Connect(at),
                10 => Call::Accept,
                _ => [Call::Close, Call::Shutdown(2), Call::Dup][draws.below(3)],
            };
            world.call_as(process, socket, Call::SetNonblocking(true));
            let answer = world.call_as(process, socket, call);
            told += &format!("{process:?} {socket}: {call:?} = {answer:?}\n");
            if let Answer::Accepted(child) = answer {
                open.push((process, child));
            }
        }
        (world, told)
    }

    /// Two servers of one user with more clients than they have room for; some end.
    fn scene(
        world: &mut World,
        draws: &mut Draws,
        open: &mut Vec<(ProcessId, SocketId)>,
    ) -> String {
        let process = ProcessId(1);
        let at = SockAddr::new("127.0.0.1".parse().unwrap(), PORTS[0]);
        let (reuseaddr, reuseport) = (draws.below(2) == 0, draws.below(3) > 0);
        for _ in 0..2 {
            let server = world.socket(process, Family::Inet);
            world.call_as(process, server, Call::Set(Opt::ReuseAddr(reuseaddr)));
            world.call_as(process, server, Call::Set(Opt::ReusePort(reuseport)));
            world.call_as(process, server, Call::Bind(at));
            world.call_as(process, server, Call::Listen(0));
            open.push((process, server));
        }
        let servers = open.clone();
        for _ in 0..5 {
            let client = world.socket(ProcessId(0), Family::Inet);
            world.call(client, Call::SetNonblocking(true));
            world.call(client, Call::Connect(at));
            open.push((ProcessId(0), client));
        }
        let (_, server) = servers[draws.below(2)];
        world.call_as(process, server, Call::SetNonblocking(true));
        if let Answer::Accepted(child) = world.call_as(process, server, Call::Accept) {
            open.push((process, child));
        }
        for _ in 0..draws.below(4) {
            let (process, socket) = open.swap_remove(draws.below(open.len()));
            world.call_as(process, socket, Call::Close);
        }
        format!("servers {reuseaddr} {reuseport}, then {open:?}\n")
    }

    /// What an observer who sees everything would write down.
    fn observe(world: &World) -> Found {
        observe_places(world).0
    }

    fn observe_places(world: &World) -> (Found, Vec<SockIx>) {
        let mut places: Vec<SockIx> = Vec::new();
        let mut found = Found::default();
        let owners = (0..world.socks.len() as u32).filter(|&ix| world.socks[ix].bucket.is_some());
        let ports: BTreeSet<u16> = owners.map(|ix| world.socks[ix].num).collect();
        for port in ports {
            for bucket in world.buckets_of(NetId(0), port) {
                found.buckets.push(memory_of(world, bucket, port));
                let mut lists: Vec<_> = world.lists_of(bucket).collect();
                lists.reverse();
                for list in lists {
                    let mut owners: Vec<_> = world.owners_in(list).collect();
                    owners.reverse();
                    places.extend(owners);
                }
            }
        }
        let half_open = (0..world.socks.len() as u32)
            .filter(|&ix| world.socks[ix].alive && world.socks[ix].state == State::NewSynRecv);
        places.extend(half_open);
        for ix in places.iter().copied() {
            found.sockets.push(write_down(world, ix, &places));
        }
        let mut groups: Vec<u32> = places
            .iter()
            .filter_map(|&ix| world.socks[ix].group.map(|group| group.0))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        found.groups = groups
            .into_iter()
            .map(|number| {
                let closed = &world.groups[number].closed_members;
                let unseen = closed.iter().filter(|ix| !places.contains(ix)).count();
                FoundGroup {
                    number,
                    closed_unseen: unseen as u32,
                    program: None,
                }
            })
            .collect();
        (found, places)
    }

    fn memory_of(world: &World, at: crate::bucket::BucketIx, port: u16) -> FoundBucket {
        let bucket = &world.buckets[at.0];
        let known = bucket.remembered;
        FoundBucket {
            net: NetId(0),
            port,
            vrf: bucket.vrf,
            fastreuse: bucket.fastreuse,
            fastreuseport: bucket.fastreuseport,
            uid: known.uid,
            address: match known.family {
                Family::Inet => crate::addr::ip4(known.rcv4),
                Family::Inet6 => IpAddr::V6(core::net::Ipv6Addr::from_bits(known.rcv6)),
            },
            v6only: known.v6only,
        }
    }

    fn write_down(world: &World, ix: SockIx, places: &[SockIx]) -> FoundSocket {
        let sock = &world.socks[ix];
        let ip = |v4, v6| match sock.family {
            Family::Inet => crate::addr::ip4(v4),
            Family::Inet6 => IpAddr::V6(core::net::Ipv6Addr::from_bits(v6)),
        };
        let connected = !matches!(sock.state, State::Close | State::Listen);
        let listed = |&at: &u32| places.iter().position(|&other| other == at);
        FoundSocket {
            net: sock.net,
            family: sock.family,
            state: sock.state,
            half_closed: sock.substate == State::FinWait2,
            uid: sock.uid,
            local: SocketAddr::new(ip(sock.rcv4, sock.rcv6), sock.num),
            peer: connected.then(|| SocketAddr::new(ip(sock.peer4, sock.peer6), sock.dport)),
            device: sock.device,
            reuseaddr: sock.reuse != Reuse::No,
            reuseport: sock.reuseport,
            v6only: sock.v6only,
            freebind: sock.freebind,
            transparent: sock.transparent,
            repair: sock.repair,
            chosen: Chosen {
                address: sock.locked(ADDR_LOCK),
                port: sock.locked(PORT_LOCK),
                by_connect: sock.locked(CONNECT_BIND),
            },
            incoming_cpu: sock.incoming_cpu,
            backlog: sock.backlog,
            listener: Some(sock.parent).as_ref().and_then(listed),
            left_ms: TIME_WAIT_MS - world.time_wait_age_ms(ix).min(TIME_WAIT_MS),
            shutdown: sock.shutdown,
            timestamps: !connected || sock.timestamps,
            rank: (sock.state == State::Listen).then(|| {
                let mut rank = 0;
                let mut at = sock.previous_listener;
                while at != crate::socket::NONE {
                    rank += 1;
                    at = world.socks[at].previous_listener;
                }
                rank
            }),
            group: match sock.group {
                None => Membership::Nowhere,
                Some(group) if world.groups[group.0].closed_members.contains(&ix) => {
                    Membership::Closed(group.0)
                }
                Some(group) => Membership::Member(group.0),
            },
            holders: sock
                .held
                .iter()
                .map(|&(files, _)| ProcessId(files.0))
                .collect(),
        }
    }

    /// What a newcomer hears who binds, listens and connects.
    fn ask(world: &World, draws: &mut Draws) -> (String, Vec<Answer>) {
        let mut world = world.clone();
        let process = ProcessId(draws.below(2) as u16);
        let family = [Family::Inet, Family::Inet6][draws.below(2)];
        let at = SockAddr::new(draws.address(), PORTS[draws.below(2)]);
        let mut calls = vec![Call::Set(draws.option()), Call::Set(draws.option())];
        calls.push(match draws.below(4) {
            0 => Call::Connect(at),
            _ => Call::Bind(at),
        });
        calls.push(Call::Listen(1));
        calls.push(Call::Set(Opt::ReusePort(true)));
        let socket = world.socket(process, family);
        world.call_as(process, socket, Call::SetNonblocking(true));
        world.seed(1);
        let told = format!("{process:?} {family:?} {calls:?}");
        let answers = calls
            .iter()
            .map(|&call| world.call_as(process, socket, call));
        (told, answers.collect())
    }

    /// What is left when one of the sockets is closed or shut down: who is where, in which state.
    fn after_an_end(
        world: &World,
        name: &dyn Fn(usize) -> SocketId,
        (which, how): (usize, usize),
    ) -> Option<Vec<String>> {
        let (found, places) = observe_places(world);
        let at = which.checked_rem(places.len())?;
        let &holder = found.sockets[at].holders.first()?;
        let mut world = world.clone();
        world.seed(1);
        world.call_as(holder, name(at), [Call::Close, Call::Shutdown(2)][how]);
        let left = observe(&world).sockets;
        let line = |one: &FoundSocket| format!("{:?} {:?} {:?}", one.state, one.local, one.peer);
        let mut left: Vec<String> = left.iter().map(line).collect();
        left.sort();
        Some(left)
    }

    /// Who would get a SYN, by name and state: places are other numbers in another world.
    fn heard_by(world: &World, ip: IpAddr, port: u16) -> Vec<String> {
        let all = world.listeners_for(NetId(0), ip, port, 1);
        let told = all.iter().map(|&socket| {
            let ix = world.place_of(socket).unwrap();
            let sock = &world.socks[ix];
            format!("{:?} {} {}", world.name(socket), sock.device, sock.uid.0)
        });
        let mut told: Vec<String> = told.collect();
        told.sort();
        told
    }

    fn found_again_answers_alike(kernel: Kernel) {
        let mut refused = 0;
        for seed in 0..WORLDS {
            let mut draws = Draws(u64::from(seed));
            let (world, told) = history(kernel, &mut draws);
            let (again, names) = World::found(world.host.clone(), &observe(&world))
                .unwrap_or_else(|why| panic!("{kernel} seed {seed}: {why}\n{told}"));
            assert_eq!(names.len(), observe(&again).sockets.len());
            assert_eq!(
                observe(&again),
                observe(&world).renumbered(&again),
                "{kernel} seed {seed}\n{told}"
            );
            let (_, places) = observe_places(&world);
            for question in 0..40 {
                if question % 4 == 3 {
                    let choice = (draws.below(usize::MAX), draws.below(2));
                    let before = after_an_end(&world, &|at| world.handle(places[at]), choice);
                    let now = after_an_end(&again, &|at| names[at], choice);
                    assert_eq!(before, now, "{kernel} seed {seed} {choice:?}\n{told}");
                }
                let from = draws.0;
                let before = ask(&world, &mut Draws(from));
                let now = ask(&again, &mut draws);
                assert_eq!(
                    before, now,
                    "{kernel} seed {seed} question {question}\n{told}"
                );
                refused += usize::from(now.1[2].error().is_some());
                let (ip, port) = (draws.address(), PORTS[draws.below(2)]);
                assert_eq!(
                    heard_by(&world, ip, port),
                    heard_by(&again, ip, port),
                    "{told}"
                );
            }
        }
        assert!(
            refused > 1000,
            "{refused} refusals are too few to tell anything"
        );
    }

    impl Found {
        /// The same with the numbers that the groups have in another world.
        fn renumbered(mut self, other: &World) -> Found {
            let theirs = observe(other);
            let pairs: Vec<(Membership, Membership)> = self
                .sockets
                .iter()
                .map(|one| one.group)
                .zip(theirs.sockets.iter().map(|one| one.group))
                .collect();
            let number = |old: u32| {
                pairs.iter().find_map(|pair| match *pair {
                    (Membership::Member(a), Membership::Member(b)) if a == old => Some(b),
                    (Membership::Closed(a), Membership::Closed(b)) if a == old => Some(b),
                    _ => None,
                })
            };
            for one in &mut self.sockets {
                match &mut one.group {
                    Membership::Member(at) | Membership::Closed(at) => {
                        *at = number(*at).unwrap_or(u32::MAX);
                    }
                    Membership::Supposed | Membership::Nowhere => {}
                }
            }
            for group in &mut self.groups {
                group.number = number(group.number).unwrap_or(u32::MAX);
            }
            self.groups.sort_by_key(|group| group.number);
            self
        }
    }

    #[test]
    fn a_world_that_is_found_again_answers_as_it_did() {
        found_again_answers_alike(Kernel::V6_18);
    }

    #[test]
    fn a_world_of_an_older_release_that_is_found_again_answers_as_it_did() {
        for kernel in [Kernel::new(6, 1), Kernel::new(5, 10), Kernel::new(4, 4)] {
            found_again_answers_alike(kernel);
        }
    }

    #[test]
    fn without_a_memory_the_bucket_remembers_what_its_owners_would_have_left() {
        let at = "127.0.0.1:80".parse().unwrap();
        let mut holder = FoundSocket::new(NetId(0), at, Uid(0));
        holder.reuseport = true;
        holder.state = State::Listen;
        let found = Found {
            sockets: vec![holder],
            ..Found::default()
        };
        let host = Host::new(Kernel::V6_18);
        let (world, names) = World::found(host.clone(), &found).unwrap();
        let mut lived = World::new(host);
        let socket = lived.socket(ProcessId(0), Family::Inet);
        lived.call(socket, Call::Set(Opt::ReusePort(true)));
        lived.call(socket, Call::Bind(SockAddr::new(at.ip(), 80)));
        lived.call(socket, Call::Listen(1));
        assert_eq!(
            memory_of(&world, world.bucket_of(NetId(0), 80).unwrap(), 80),
            memory_of(&lived, lived.bucket_of(NetId(0), 80).unwrap(), 80),
        );
        assert_eq!(world.listeners_for(NetId(0), at.ip(), 80, 1), names);
    }

    #[test]
    fn a_half_open_connection_and_an_unseen_member_are_counted() {
        let at = "127.0.0.1:80".parse().unwrap();
        let mut server = FoundSocket::new(NetId(0), at, Uid(0));
        server.state = State::Listen;
        server.reuseport = true;
        server.group = Membership::Member(7);
        let mut client = server.clone();
        client.state = State::NewSynRecv;
        client.group = Membership::Nowhere;
        client.peer = Some("127.0.0.1:40000".parse().unwrap());
        client.listener = Some(0);
        server.holders = vec![ProcessId(0)];
        let group = FoundGroup {
            number: 7,
            closed_unseen: 2,
            program: None,
        };
        let found = Found {
            sockets: vec![server, client],
            groups: vec![group],
            buckets: Vec::new(),
        };
        let (mut world, names) = World::found(Host::new(Kernel::V6_18), &found).unwrap();
        assert_eq!(world.half_open_len(names[0]), 1);
        let group = world.socks[names[0].index].group.unwrap();
        assert_eq!(world.groups[group.0].closed(), 2);
        assert_eq!(world.bucket(NetId(0), 80).unwrap().owners[0].1.len(), 1);
        world.pass_time(120_000);
        assert_eq!(world.half_open_len(names[0]), 0, "given up after a minute");
    }

    #[test]
    fn what_no_host_can_have_is_refused_by_its_place() {
        let at = "127.0.0.1:80".parse().unwrap();
        let good = FoundSocket::new(NetId(0), at, Uid(0));
        let of = |change: fn(&mut FoundSocket)| {
            let mut one = good.clone();
            change(&mut one);
            one
        };
        let table = [
            ("its namespace is not there", of(|s| s.net = NetId(3))),
            ("it owns no port", of(|s| s.local.set_port(0))),
            (
                "its address is of another family",
                of(|s| s.family = Family::Inet6),
            ),
            (
                "its state and its peer do not go together",
                of(|s| s.state = State::Established),
            ),
            (
                "a half-open connection without a listener",
                of(|s| {
                    s.state = State::NewSynRecv;
                    s.peer = Some(s.local);
                }),
            ),
            (
                "what it waits at does not listen",
                of(|s| {
                    s.state = State::Established;
                    s.peer = Some(s.local);
                    s.listener = Some(0);
                }),
            ),
            (
                "nobody can hold a descriptor of it",
                of(|s| {
                    s.state = State::TimeWait;
                    s.peer = Some(s.local);
                    s.holders = vec![ProcessId(0)];
                }),
            ),
            (
                "its holder is not there",
                of(|s| s.holders = vec![ProcessId(9)]),
            ),
            (
                "its group is not there, or not for it",
                of(|s| s.group = Membership::Member(4)),
            ),
        ];
        for (what, one) in table {
            let found = Found {
                sockets: vec![good.clone(), one],
                ..Found::default()
            };
            let refused = World::found(Host::new(Kernel::V6_18), &found);
            assert_eq!(refused.unwrap_err(), Impossible { at: 1, what });
        }
        let bucket = FoundBucket {
            net: NetId(0),
            port: 81,
            vrf: 0,
            fastreuse: 0,
            fastreuseport: 0,
            uid: Uid(0),
            address: at.ip(),
            v6only: false,
        };
        let found = Found {
            sockets: vec![good],
            buckets: vec![bucket],
            ..Found::default()
        };
        let refused = World::found(Host::new(Kernel::V6_18), &found).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "entry 0: nobody owns the port of this bucket"
        );
    }
}
