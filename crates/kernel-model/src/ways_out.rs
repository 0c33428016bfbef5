//! What would have to differ for a refused call to succeed?
//!
//! Decides:  which differences are tried for which call, alone and together, and in which order those
//!           that help are told. Nothing is told that was not tried on a copy of the world.
//! Kernel:   none of its own: the model answers every attempt
//! Not here: what a difference does (difference.rs).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::{Family, SockAddr};
use crate::attempt::Attempt;
use crate::call::{Call, Opt, Program, State};
use crate::connect::LOOPBACK_DEVICE;
use crate::difference::{Difference, Setting, WayOut};
use crate::explain::Explanation;
use crate::host::{Cap, Namespace, ProcessId};
use crate::rules::Rule;
use crate::version::Kernel;
use crate::wire::TIME_WAIT_MS;
use crate::world::{SocketId, World};

/// How far from the port that was asked for a free one is looked for.
const NEAR: u16 = 100;
/// How many sockets in a row may stand in the way before nobody is told to close them all.
const MOST_HOLDERS: usize = 64;
/// How many other addresses are told.
const MOST_ADDRESSES: usize = 3;
/// A backlog that takes everybody.
const PLENTY: i32 = 4096;
/// A port for attempts that need a peer; any free one serves.
const PEER_PORT: u16 = 9;

impl World {
    /// What would have to differ for this call to succeed, the smallest difference first. Each was tried
    /// on a copy of this world, and the call succeeded there. Empty where the call succeeds anyway, and
    /// where nothing that is tried helps: then [`RuleInfo::remedy`](crate::RuleInfo) and
    /// [`Rule::no_way_out`] say what there is to say.
    ///
    /// It costs some dozens of copies of the world, and nothing to who does not ask.
    #[must_use]
    pub fn ways_out(&self, process: ProcessId, socket: SocketId, call: Call) -> Vec<WayOut> {
        self.ways_out_of_all(process, socket, call, &[])
    }

    /// The same for a call and those that follow on the same socket: with what is told, all of them succeed.
    /// So a way out of a `bind` is none if `listen` would be refused behind it.
    #[must_use]
    pub fn ways_out_of_all(
        &self,
        process: ProcessId,
        socket: SocketId,
        call: Call,
        then: &[Call],
    ) -> Vec<WayOut> {
        let start = Attempt {
            world: self.clone(),
            process,
            socket,
            call,
            then: then.to_vec(),
        };
        let (well, why) = start.clone().make();
        if well {
            return Vec::new();
        }
        let mut search = Search {
            start,
            found: Vec::new(),
        };
        search.run(&why);
        let mut found = search.found;
        found.sort_by_key(WayOut::size);
        found
    }
}

/// What is tried for one call.
struct Search {
    start: Attempt,
    found: Vec<WayOut>,
}

impl Search {
    fn run(&mut self, why: &Explanation) {
        match self.start.call {
            Call::Bind(addr) => self.try_bind(addr, why),
            Call::Listen(_) => self.try_port(why),
            Call::Connect(addr) => self.try_connect(addr, why),
            Call::Accept => self.try_accept(),
            Call::Shutdown(_) => self.try_shutdown(),
            Call::Set(opt) => self.try_set(opt),
            Call::SetLen(opt, _) => {
                self.attempt(&[Difference::WholeOption]);
                self.try_set(opt);
            }
            Call::Get(_) => self.try_releases(),
            Call::GetLen(..) => {
                self.attempt(&[Difference::WholeOption]);
                self.try_releases();
            }
            Call::GetPeerName => self.try_peer(),
            _ => {}
        }
        // A new socket listens, but on a port that nobody asked for.
        let elsewhere = matches!(self.start.call, Call::Listen(_)) && !self.found.is_empty();
        if !elsewhere {
            self.try_fresh();
        }
        for cap in [Cap::NetBindService, Cap::NetAdmin, Cap::NetRaw] {
            self.attempt(&[Difference::Capability(cap)]);
        }
    }

    /// Tries some differences together; they are a way out if a part of them is none already.
    fn attempt(&mut self, differences: &[Difference]) -> bool {
        let covers = |way: &WayOut| way.differences.iter().all(|d| differences.contains(d));
        if self.found.iter().any(covers) {
            return false;
        }
        let mut attempt = self.start.clone();
        let well = differences.iter().all(|d| attempt.apply(d)) && attempt.succeeds();
        if well {
            self.found.push(WayOut {
                differences: differences.to_vec(),
            });
        }
        well
    }

    fn net(&self) -> Option<&Namespace> {
        let host = &self.start.world.host;
        let process = host.processes.get(usize::from(self.start.process.0))?;
        host.namespaces.get(usize::from(process.net.0))
    }

    fn family(&self) -> Family {
        let world = &self.start.world;
        if let Some(ix) = world.place_of(self.start.socket) {
            return world.socks[ix].family;
        }
        match self.start.call {
            Call::Bind(addr) | Call::Connect(addr) if addr.ip.is_ipv6() => Family::Inet6,
            _ => Family::Inet,
        }
    }

    fn try_bind(&mut self, addr: SockAddr, why: &Explanation) {
        if self.attempt(&[Difference::WholeAddress]) {
            return;
        }
        self.try_scopes();
        for opt in [
            Opt::ReuseAddr(true),
            Opt::ReusePort(true),
            Opt::V6Only(true),
            Opt::V6Only(false),
            Opt::BindToDevice(0),
        ] {
            self.attempt(&[Difference::Option(opt)]);
        }
        self.try_freedom(addr.ip);
        self.try_ports(addr);
        self.try_addresses(addr);
        self.try_host(addr);
        self.try_port(why);
    }

    /// Any address at all.
    fn try_freedom(&mut self, ip: IpAddr) {
        let six = self.family() == Family::Inet6;
        let (free, transparent) = if six {
            (Opt::Freebind6(true), Opt::Transparent6(true))
        } else {
            (Opt::Freebind(true), Opt::Transparent(true))
        };
        self.attempt(&[Difference::Option(free)]);
        self.attempt(&[Difference::Option(transparent)]);
        for cap in [Cap::NetRaw, Cap::NetAdmin] {
            let may = Difference::Capability(cap);
            self.attempt(&[may, Difference::Option(transparent)]);
        }
        let sysctl = if ip.is_ipv6() {
            Setting::NonlocalBind6(true)
        } else {
            Setting::NonlocalBind(true)
        };
        self.attempt(&[Difference::Sysctl(sysctl)]);
    }

    fn try_scopes(&mut self) {
        let indices: Vec<u32> = match self.net() {
            Some(net) => net.interfaces.iter().map(|i| i.index).collect(),
            None => return,
        };
        for &index in &indices {
            self.attempt(&[Difference::Scope(index)]);
        }
        // Another device does not meet the holder.
        let tied = self
            .start
            .world
            .place_of(self.start.socket)
            .is_some_and(|ix| self.start.world.socks[ix].device != 0);
        if tied {
            for &index in &indices {
                self.attempt(&[Difference::Option(Opt::BindToDevice(index))]);
            }
        }
    }

    /// The nearest port that serves, from the one that was asked for and from the first unprivileged one.
    fn try_ports(&mut self, addr: SockAddr) {
        if addr.port == 0 {
            return;
        }
        let first = self
            .net()
            .map_or(1024, |net| net.sysctls.ip_unprivileged_port_start);
        let bases = if addr.port < first {
            [Some(addr.port), Some(first.max(1024))]
        } else {
            [Some(addr.port), None]
        };
        // A bind that is refused leaves nothing behind, so one copy serves for all; what follows the bind is
        // made in the attempt.
        let mut scratch = self.start.clone();
        scratch.then.clear();
        for base in bases.into_iter().flatten() {
            let around = (0..=NEAR).flat_map(|far| [base.checked_add(far), base.checked_sub(far)]);
            let near = around.flatten().find(|&port| {
                port != 0 && port != addr.port && {
                    scratch.call = Call::Bind(SockAddr { port, ..addr });
                    scratch.succeeds()
                }
            });
            if near.is_some_and(|port| self.attempt(&[Difference::Port(port)])) {
                return;
            }
        }
        self.attempt(&[Difference::Port(0)]);
    }

    /// Other addresses of this host.
    fn try_addresses(&mut self, addr: SockAddr) {
        let mut candidates = self.local_addresses();
        if addr.ip.is_loopback() {
            candidates.push(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
        }
        candidates.push(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        candidates.push(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let mut told = 0;
        for ip in candidates {
            if told < MOST_ADDRESSES && ip != addr.ip {
                told += usize::from(self.attempt(&[Difference::Ip(ip)]));
            }
        }
    }

    /// What an administrator could change for a bind.
    fn try_host(&mut self, addr: SockAddr) {
        self.attempt(&[Difference::Capability(Cap::NetBindService)]);
        self.attempt(&[Difference::Sysctl(Setting::UnprivilegedPortStart(
            addr.port,
        ))]);
        self.attempt(&[Difference::AddressReady(addr.ip)]);
        let devices: Vec<(u32, bool)> = match self.net() {
            Some(net) => net.interfaces.iter().map(|i| (i.index, i.up)).collect(),
            None => return,
        };
        for &(index, up) in &devices {
            if !up {
                self.attempt(&[Difference::Up(index)]);
            }
        }
        let multicast = addr.ip.is_multicast();
        // The last interface is the likeliest to be the one to the world; ::1 is the loopback device's.
        let fits = |device: &&(u32, bool)| {
            device.1 && (device.0 == LOOPBACK_DEVICE || addr.ip != Ipv6Addr::LOCALHOST)
        };
        if let Some(&(index, _)) = devices.iter().rev().find(fits)
            && !multicast
        {
            self.attempt(&[Difference::Assign(index, addr.ip)]);
        }
    }

    /// What stands in the way of a port, for bind and listen alike.
    fn try_port(&mut self, why: &Explanation) {
        let own = [Opt::ReuseAddr(true), Opt::ReusePort(true)];
        for opt in own {
            self.attempt(&[Difference::Option(opt)]);
        }
        self.try_choice(why);
        self.try_holders();
        let disconnect = Difference::First(Call::Connect(SockAddr::unspecified()));
        self.attempt(&[disconnect]);
    }

    /// Where the kernel is to choose a port.
    fn try_choice(&mut self, why: &Explanation) {
        if why.decided_by() != Some(Rule::NoPortLeft)
            && why.decided_by() != Some(Rule::ConnectNoPort)
        {
            return;
        }
        self.attempt(&[Difference::Option(Opt::LocalPortRange(0))]);
        self.attempt(&[Difference::Option(Opt::BindAddressNoPort(true))]);
        if let Some(net) = self.net() {
            let (low, high) = net.sysctls.ip_local_port_range;
            let wider = if high <= 60_999 {
                (low, 65_535)
            } else {
                (1024.min(low), high)
            };
            self.attempt(&[Difference::Sysctl(Setting::LocalPortRange(
                wider.0, wider.1,
            ))]);
        }
        self.attempt(&[Difference::Sysctl(Setting::NoReservedPorts)]);
        let reuse = Difference::Sysctl(Setting::AutobindReuse(true));
        self.attempt(&[reuse]);
        self.attempt(&[Difference::Option(Opt::ReuseAddr(true)), reuse]);
        let mut blamed: Vec<SocketId> = why.steps.iter().filter_map(|step| step.1).collect();
        blamed.dedup();
        for &holder in blamed.iter().take(MOST_ADDRESSES) {
            self.attempt(&[Difference::Close(holder)]);
        }
        self.try_waiting();
    }

    /// Those who hold the port: they share it, or they go.
    fn try_holders(&mut self) {
        let Some(holders) = self.holders() else {
            return;
        };
        if holders.is_empty() {
            return;
        }
        let world = &self.start.world;
        let place = |holder: &SocketId| world.place_of(*holder);
        let waits = |holder: &SocketId| {
            place(holder).is_none_or(|ix| {
                let sock = &world.socks[ix];
                sock.holders == 0 && sock.parent == crate::socket::NONE
            })
        };
        let others: Vec<SocketId> = holders.iter().copied().filter(|h| !waits(h)).collect();
        let remains = holders.iter().any(waits);
        let owner = others.first().and_then(place).map(|ix| world.socks[ix].uid);
        for opt in [
            Opt::ReusePort(true),
            Opt::ReuseAddr(true),
            Opt::V6Only(true),
        ] {
            let mut together: Vec<Difference> = others
                .iter()
                .map(|&holder| Difference::Restart(holder, opt))
                .collect();
            if !together.is_empty() {
                self.attempt(&together);
                if !matches!(opt, Opt::V6Only(_)) {
                    together.insert(0, Difference::Option(opt));
                    self.attempt(&together);
                }
            }
        }
        if let Some(uid) = owner {
            self.attempt(&[Difference::Owner(uid)]);
            let share = Difference::Option(Opt::ReusePort(true));
            self.attempt(&[Difference::Owner(uid), share]);
        }
        let mut closed: Vec<Difference> = others.iter().map(|&h| Difference::Close(h)).collect();
        if !closed.is_empty() {
            self.attempt(&closed);
        }
        if remains {
            closed.push(Difference::Wait { ms: TIME_WAIT_MS });
            self.try_waiting();
            self.attempt(&closed);
        }
    }

    /// Everybody who stands in the way, one after the other as each one before goes; `None` where there
    /// are too many to tell.
    fn holders(&self) -> Option<Vec<SocketId>> {
        let mut attempt = self.start.clone();
        let mut holders = Vec::new();
        while holders.len() < MOST_HOLDERS {
            let (well, why) = attempt.clone().make();
            let Some(holder) = why.because_of().filter(|_| !well) else {
                return Some(holders);
            };
            if holders.contains(&holder) || holder == attempt.socket {
                return Some(holders);
            }
            holders.push(holder);
            let ix = attempt.world.place_of(holder)?;
            if attempt.world.socks[ix].state == State::TimeWait {
                attempt.world.end_time_wait(ix);
            } else if !attempt.world.close_for_all(holder) {
                return Some(holders);
            }
        }
        None
    }

    /// The shortest time after which it works.
    fn try_waiting(&mut self) {
        let world = &self.start.world;
        let ends = world.deadlines.keys().map(|deadline| deadline.0);
        let mut waits: Vec<u64> = ends.map(|at| at.saturating_sub(world.now_ms)).collect();
        waits.sort_unstable();
        waits.dedup();
        for ms in waits {
            if self.attempt(&[Difference::Wait { ms }]) {
                return;
            }
        }
    }

    fn try_connect(&mut self, addr: SockAddr, why: &Explanation) {
        if self.attempt(&[Difference::WholeAddress]) {
            return;
        }
        self.try_scopes();
        let disconnect = Difference::First(Call::Connect(SockAddr::unspecified()));
        self.attempt(&[Difference::First(Call::SetNonblocking(false))]);
        self.attempt(&[disconnect]);
        self.attempt(&[Difference::Option(Opt::BindToDevice(0))]);
        self.attempt(&[Difference::Option(Opt::V6Only(false))]);
        self.try_freedom(addr.ip);
        self.try_choice(why);
        self.try_waiting();
        // Longer than the delay after which connect's own choice takes a TIME_WAIT pair over.
        let moment = Difference::Wait { ms: 1001 };
        self.attempt(&[moment]);
        self.attempt(&[Difference::Sysctl(Setting::TwReuse(1)), moment]);
        if let Some(other) = why.steps.iter().rev().find_map(|step| step.1) {
            self.attempt(&[Difference::Accept(other)]);
            self.attempt(&[Difference::Backlog(other, PLENTY)]);
            let more = Difference::Sysctl(Setting::Somaxconn(PLENTY as u32));
            self.attempt(&[more, Difference::Backlog(other, PLENTY)]);
            let tied = |ix| self.start.world.socks[ix].device != 0;
            if self.start.world.place_of(other).is_some_and(tied) {
                self.attempt(&[Difference::Restart(other, Opt::BindToDevice(0))]);
            }
            self.attempt(&[Difference::Close(other)]);
        }
        if addr.port != 0 {
            self.attempt(&[Difference::Listener(addr)]);
            let fresh = Difference::Fresh(self.family());
            self.attempt(&[fresh, Difference::Listener(addr)]);
        }
        self.try_peers(addr.port);
    }

    /// Somebody at one of this host's own addresses.
    fn try_peers(&mut self, port: u16) {
        let fresh = Difference::Fresh(self.family());
        for ip in self.local_addresses() {
            let (there, listener) = (
                Difference::Ip(ip),
                Difference::Listener(SockAddr::new(ip, port)),
            );
            self.attempt(&[there]);
            let same = ip.is_ipv6() == (self.family() == Family::Inet6);
            if same && !self.attempt(&[there, listener]) && self.found.is_empty() {
                self.attempt(&[fresh, there, listener]);
            }
        }
    }

    fn local_addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        if let Some(net) = self.net() {
            for interface in &net.interfaces {
                all.extend(interface.v4.iter().map(|own| IpAddr::V4(own.0)));
                all.extend(interface.v6.iter().map(|own| IpAddr::V6(own.addr)));
            }
        }
        all
    }

    fn try_accept(&mut self) {
        let listen = Difference::First(Call::Listen(128));
        self.attempt(&[Difference::Client]);
        self.attempt(&[listen]);
        self.attempt(&[listen, Difference::Client]);
    }

    fn try_shutdown(&mut self) {
        let listen = Difference::First(Call::Listen(128));
        self.attempt(&[listen]);
        for how in [0, 1, 2] {
            self.attempt(&[Difference::How(how)]);
            self.attempt(&[listen, Difference::How(how)]);
        }
    }

    fn try_set(&mut self, opt: Opt) {
        for value in other_values(opt) {
            self.attempt(&[Difference::Value(value)]);
        }
        if let (Opt::BindToDevice(_), Some(net)) = (opt, self.net()) {
            let known: Vec<u32> = net.interfaces.iter().map(|i| i.index).collect();
            for index in known {
                self.attempt(&[Difference::Value(Opt::BindToDevice(index))]);
            }
        }
        let share = Difference::Option(Opt::ReusePort(true));
        let program = Difference::Option(Opt::ReuseportCbpf(Program::Index(0)));
        self.attempt(&[share]);
        self.attempt(&[program]);
        self.attempt(&[share, program]);
        self.try_releases();
    }

    fn try_releases(&mut self) {
        self.attempt(&[Difference::Kernel(Kernel::V6_18)]);
    }

    fn try_peer(&mut self) {
        for (ip, family) in loopbacks() {
            if family != self.family() {
                continue;
            }
            let there = SockAddr::new(ip, PEER_PORT);
            let connect = Difference::First(Call::Connect(there));
            self.attempt(&[Difference::Listener(there), connect]);
        }
    }

    fn try_fresh(&mut self) {
        // To wait anew, or to ask a new socket for its peer, changes nothing.
        if matches!(
            self.start.call,
            Call::Accept | Call::GetPeerName | Call::Shutdown(_)
        ) {
            return;
        }
        let fits = self.family();
        let other = match fits {
            Family::Inet => Family::Inet6,
            Family::Inet6 => Family::Inet,
        };
        if !self.attempt(&[Difference::Fresh(fits)]) {
            self.attempt(&[Difference::Fresh(other)]);
        }
    }
}

fn loopbacks() -> [(IpAddr, Family); 2] {
    [
        (IpAddr::V4(Ipv4Addr::LOCALHOST), Family::Inet),
        (IpAddr::V6(Ipv6Addr::LOCALHOST), Family::Inet6),
    ]
}

/// Values that an option takes instead of one that it does not.
fn other_values(opt: Opt) -> Vec<Opt> {
    match opt {
        Opt::LocalPortRange(range) => alloc::vec![Opt::LocalPortRange(range.rotate_left(16))],
        Opt::Repair(_) => alloc::vec![Opt::Repair(1), Opt::Repair(0)],
        Opt::FastOpen(_) => alloc::vec![Opt::FastOpen(0)],
        Opt::BindToIfindex(_) => alloc::vec![Opt::BindToIfindex(0)],
        Opt::Transparent6(on) => alloc::vec![Opt::Transparent(on)],
        Opt::Freebind6(on) => alloc::vec![Opt::Freebind(on)],
        _ => Vec::new(),
    }
}

impl Rule {
    /// Why there may be no difference that turns this refusal into a success; `None` where there is one.
    #[must_use]
    pub const fn no_way_out(self) -> Option<&'static str> {
        match self {
            Rule::GroupFull => Some("The size of a group is fixed in the kernel."),
            Rule::ConnectUnderWay => Some("Nothing was refused: the connection is being made."),
            Rule::HalfOpen => Some("The SYN is sent again after a second, and is answered then."),
            Rule::NoSuchSysctl | Rule::SysctlValue | Rule::SysctlPrivileged => {
                Some("Ways out are looked for where a socket call is refused.")
            }
            _ => None,
        }
    }
}
