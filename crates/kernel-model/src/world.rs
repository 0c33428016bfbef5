//! All sockets of a host, and the call that changes them.
//!
//! Decides:  which rule file answers a call; how sockets are numbered; where random draws come from.
//! Not here: any rule.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::addr::Family;
use crate::bucket::{Bucket, Owners, PortTable};
use crate::call::{Answer, Call, State};
use crate::errno::Errno;
use crate::explain::{Explanation, NoTrace, Trace};
use crate::files::Table;
use crate::host::{Cap, Host, NetId, ProcessId, Uid};
use crate::reuseport::{Group, GroupIx};
use crate::rules::Rule;
use crate::slab::Slab;
use crate::socket::{Sock, SockIx};
use crate::wire::{Request, Tuple};

/// A socket, as its descriptors name it. An old name of a place used again is not mistaken for the new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId {
    pub(crate) index: SockIx,
    generation: u32,
}

/// A host with its sockets.
#[derive(Debug, Clone)]
pub struct World {
    pub(crate) host: Host,
    pub(crate) tables: Vec<Table>,
    pub(crate) socks: Slab<Sock>,
    pub(crate) buckets: Slab<Bucket>,
    pub(crate) owners: Slab<Owners>,
    pub(crate) ports: Vec<PortTable>,
    pub(crate) chains: Slab<VecDeque<SockIx>>,
    pub(crate) groups: Slab<Group>,
    pub(crate) connections: BTreeMap<Tuple, Vec<SockIx>>,
    pub(crate) requests: BTreeMap<Tuple, Request>,
    random: u64,
    told_port: Option<u16>,
    told_draws: VecDeque<u32>,
    told_members: VecDeque<SocketId>,
    /// The processor that handles packets.
    pub(crate) cpu: i32,
    /// Milliseconds that [`World::pass_time`] has let go by.
    pub(crate) now_ms: u64,
    pub(crate) deadlines: VecDeque<(u64, SockIx, u32)>,
}

impl World {
    /// A host without sockets.
    #[must_use]
    pub fn new(host: Host) -> World {
        let ports = host.namespaces.iter().map(|_| PortTable::new()).collect();
        World {
            host,
            tables: Vec::new(),
            socks: Slab::new(),
            buckets: Slab::new(),
            owners: Slab::new(),
            ports,
            chains: Slab::new(),
            groups: Slab::new(),
            connections: BTreeMap::new(),
            requests: BTreeMap::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            told_port: None,
            told_draws: VecDeque::new(),
            told_members: VecDeque::new(),
            cpu: 0,
            now_ms: 0,
            deadlines: VecDeque::new(),
        }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The host, to change sysctls, addresses and processes. A namespace may be added, not removed.
    pub fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }

    /// `socket(family, SOCK_STREAM)` by a process.
    pub fn socket(&mut self, process: ProcessId, family: Family) -> SocketId {
        let Some(caller) = self.host.processes.get(process.0 as usize) else {
            return SocketId {
                index: crate::socket::NONE,
                generation: 0,
            };
        };
        let (uid, net, files) = (caller.uid, caller.net, caller.files);
        while self.ports.len() < self.host.namespaces.len() {
            self.ports.push(PortTable::new());
        }
        let index = self.fresh_sock(net, family, uid);
        self.hold(files, index);
        self.handle(index)
    }

    pub(crate) fn fresh_sock(&mut self, net: NetId, family: Family, uid: Uid) -> SockIx {
        let v6only = family == Family::Inet6 && self.host.net(net).sysctls.bindv6only;
        let index = self.socks.take(Sock::fresh);
        let sock = &mut self.socks[index];
        sock.generation = sock.generation.wrapping_add(1);
        sock.renew();
        sock.alive = true;
        sock.net = net;
        sock.family = family;
        sock.uid = uid;
        sock.v6only = v6only;
        index
    }

    /// A call by the host's first process.
    pub fn call(&mut self, socket: SocketId, call: Call) -> Answer {
        self.call_traced(ProcessId(0), socket, call, &mut NoTrace)
    }

    /// A call by a process.
    pub fn call_as(&mut self, process: ProcessId, socket: SocketId, call: Call) -> Answer {
        self.call_traced(process, socket, call, &mut NoTrace)
    }

    /// A call by a process, and the rules that decided the answer.
    pub fn explain(
        &mut self,
        process: ProcessId,
        socket: SocketId,
        call: Call,
    ) -> (Answer, Explanation) {
        let mut explanation = Explanation::default();
        let answer = self.call_traced(process, socket, call, &mut explanation);
        (answer, explanation)
    }

    /// A call by a process; `trace` hears the rules.
    pub fn call_traced<T: Trace>(
        &mut self,
        process: ProcessId,
        socket: SocketId,
        call: Call,
        trace: &mut T,
    ) -> Answer {
        let files = self.files_of(process);
        let (Some(ix), Some(files)) = (self.open(process, socket), files) else {
            trace.rule(Rule::BadDescriptor);
            return Answer::Err(Errno::EBADF);
        };
        match call {
            Call::Set(option) => self.set_option(process, ix, option, trace).into(),
            Call::Get(name) => match self.get_option(ix, name, trace) {
                Ok(value) => Answer::Value(value),
                Err(errno) => Answer::Err(errno),
            },
            Call::Bind(addr) => self.bind(process, ix, &addr, trace).into(),
            Call::Listen(backlog) => self.listen(ix, backlog, trace).into(),
            Call::Connect(addr) => self.connect(ix, &addr, trace),
            Call::Accept => self.accept(process, ix, trace),
            Call::Shutdown(how) => self.shutdown(ix, how, trace).into(),
            Call::Close => {
                self.drop_newest(files, ix);
                self.close(ix, trace);
                Answer::Ok
            }
            Call::Dup => {
                self.hold(files, ix);
                Answer::Ok
            }
            Call::Pass(to) => {
                let Some(to) = self.files_of(to) else {
                    return Answer::Err(Errno::EINVAL);
                };
                self.hold(to, ix);
                Answer::Ok
            }
            Call::Fchown(uid) => {
                self.socks[ix].uid = uid;
                Answer::Ok
            }
            Call::SetNonblocking(on) => {
                self.socks[ix].nonblocking = on;
                Answer::Ok
            }
            Call::GetSockName => Answer::Address(self.sock_name(ix)),
            Call::GetPeerName => match self.peer_name(ix, trace) {
                Ok(address) => Answer::Address(address),
                Err(errno) => Answer::Err(errno),
            },
        }
    }

    /// Every port that `bind` to port 0, or `listen` without `bind`, may choose for this socket now.
    #[must_use]
    pub fn permitted_ports(&self, socket: SocketId) -> Vec<u16> {
        self.existing(socket)
            .map(|ix| self.permitted(ix))
            .unwrap_or_default()
    }

    /// The state of a socket that is open.
    #[must_use]
    pub fn state(&self, socket: SocketId) -> Option<State> {
        self.existing(socket).map(|ix| self.socks[ix].state)
    }

    /// The port that a socket owns; 0 for none.
    #[must_use]
    pub fn port(&self, socket: SocketId) -> u16 {
        self.existing(socket).map_or(0, |ix| self.socks[ix].num)
    }

    /// A socket's own name, whoever holds it; `None` once it is closed.
    #[must_use]
    pub fn name(&self, socket: SocketId) -> Option<core::net::SocketAddr> {
        self.existing(socket).map(|ix| self.sock_name(ix))
    }

    /// The network namespace of a socket that is open.
    #[must_use]
    pub fn net_of(&self, socket: SocketId) -> Option<NetId> {
        self.existing(socket).map(|ix| self.socks[ix].net)
    }

    /// How many sockets own a port of a namespace, those without a descriptor included.
    #[must_use]
    pub fn owners_of_port(&self, net: NetId, port: u16) -> usize {
        let Some(bucket) = self.bucket_of(net, port) else {
            return 0;
        };
        let lists = &self.buckets[bucket.0].by_addr;
        lists
            .iter()
            .map(|list| self.owners[list.0].socks.len())
            .sum()
    }

    /// The next choice among random possibilities comes out so that this port is chosen, if any draw
    /// of the kernel's can lead to it.
    pub fn tell_port(&mut self, port: u16) {
        self.told_port = Some(port);
    }

    /// The next draws of random numbers, in the order in which the kernel draws them.
    pub fn tell_draw(&mut self, draw: u32) {
        self.told_draws.push_back(draw);
    }

    /// The next choice among the members of a group by hash falls on this one, if it is a member. May
    /// be told several times, for several choices.
    pub fn tell_member(&mut self, member: SocketId) {
        self.told_members.push_back(member);
    }

    /// How many connections wait in a listener's queue.
    #[must_use]
    pub fn queue_len(&self, socket: SocketId) -> usize {
        self.existing(socket)
            .map_or(0, |ix| self.socks[ix].queue.len())
    }

    /// Where in the group a hash points to.
    pub(crate) fn draw_member(&mut self, members: GroupIx) -> usize {
        let count = self.groups[members.0].members.len();
        if let Some(told) = self.told_members.pop_front() {
            let list = &self.groups[members.0].members;
            if let Some(at) = list.iter().position(|&ix| ix == told.index) {
                return at;
            }
        }
        self.draw(0, count as u32) as usize
    }

    /// Seeds the draws that nobody tells.
    pub fn seed(&mut self, seed: u64) {
        self.random = seed | 1;
    }

    /// The processor that handles packets from now on: for SO_INCOMING_CPU and programs.
    pub fn set_cpu(&mut self, cpu: i32) {
        self.cpu = cpu;
    }

    /// A number below `below`, as `get_random_u32_below` draws one.
    pub(crate) fn draw(&mut self, low: u32, below: u32) -> u32 {
        if let Some(draw) = self.told_draws.pop_front() {
            return if below == 0 { 0 } else { draw % below };
        }
        if let Some(port) = self.told_port {
            let offset = u32::from(port).saturating_sub(low);
            return if offset < below {
                offset
            } else {
                below.saturating_sub(2)
            };
        }
        // xorshift64*, to be the same everywhere.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let drawn = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((drawn * u64::from(below)) >> 32) as u32
    }

    /// Forgets a port or a member that was told, once a call has used it.
    pub fn forget_told(&mut self) {
        self.told_port = None;
        self.told_draws.clear();
        self.told_members.clear();
    }

    pub(crate) fn handle(&self, index: SockIx) -> SocketId {
        SocketId {
            index,
            generation: self.socks[index].generation,
        }
    }

    /// The socket, if the process has a descriptor of it.
    fn open(&self, process: ProcessId, socket: SocketId) -> Option<SockIx> {
        let ix = self.existing(socket)?;
        self.holds(self.files_of(process)?, ix).then_some(ix)
    }

    /// The socket, if anybody has a descriptor of it.
    pub(crate) fn existing(&self, socket: SocketId) -> Option<SockIx> {
        if socket.index as usize >= self.socks.len() {
            return None;
        }
        let sock = &self.socks[socket.index];
        let same = sock.alive && sock.holders > 0 && sock.generation == socket.generation;
        same.then_some(socket.index)
    }

    pub(crate) fn capable(&self, process: ProcessId, ix: SockIx, cap: Cap) -> bool {
        self.host.capable(process, self.socks[ix].net, cap)
    }

    /// The place is free for the next socket.
    pub(crate) fn free_sock(&mut self, ix: SockIx) {
        let sock = &mut self.socks[ix];
        debug_assert!(sock.bucket.is_none() && sock.group.is_none());
        sock.alive = false;
        sock.holders = 0;
        self.socks.give_back(ix);
    }
}

impl core::fmt::Display for SocketId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "socket {}", self.index)
    }
}
