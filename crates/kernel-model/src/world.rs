//! All sockets of a host, and the call that changes them.
//!
//! Decides:  which rule file answers a call; how sockets are numbered.
//! Not here: any rule.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::addr::Family;
use crate::bucket::{Bucket, Owners, PortTable};
use crate::by_addr::ByAddr;
use crate::call::{Answer, Call, State};
use crate::chain::Chain;
use crate::chance::Chance;
use crate::errno::Errno;
use crate::explain::{Explanation, NoTrace, Trace};
use crate::files::Table;
use crate::host::{Cap, Host, NetId, ProcessId, Uid};
use crate::request::Cookie;
use crate::reuseport::Group;
use crate::rules::Rule;
use crate::slab::Slab;
use crate::socket::{Sock, SockIx};
use crate::version::Change;
use crate::wire::{Segment, Tuple};

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
    pub(crate) listeners: Slab<ByAddr>,
    pub(crate) chains: Slab<Chain>,
    pub(crate) groups: Slab<Group>,
    pub(crate) connections: BTreeMap<Tuple, Vec<SockIx>>,
    /// Segments on their way.
    pub(crate) wire: VecDeque<Segment>,
    /// The last choice of a listener: by which four numbers, and among how many.
    pub(crate) last_choice: Option<(Tuple, SockIx, usize)>,
    pub(crate) cookies: BTreeMap<Tuple, Cookie>,
    /// Peers that are known to be alive (tcp_metrics): namespace, own address, theirs.
    pub(crate) proven: BTreeSet<(NetId, u128, u128)>,
    /// Until when neighbours are searched for: namespace, interface, address.
    pub(crate) searches: BTreeMap<(NetId, u32, u128), u64>,
    pub(crate) isn: u32,
    pub(crate) chance: Chance,
    /// The processor that handles packets.
    pub(crate) cpu: i32,
    /// Milliseconds that [`World::pass_time`] has let go by.
    pub(crate) now_ms: u64,
    /// What happens when time passes, by [`Sock::deadline`].
    pub(crate) deadlines: BTreeMap<(u64, u64), SockIx>,
    /// How many there have been.
    pub(crate) deadlines_set: u64,
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
            listeners: Slab::new(),
            chains: Slab::new(),
            groups: Slab::new(),
            connections: BTreeMap::new(),
            wire: VecDeque::new(),
            last_choice: None,
            cookies: BTreeMap::new(),
            proven: BTreeSet::new(),
            searches: BTreeMap::new(),
            // Far from the numbers of connections that TCP_REPAIR makes up, which begin at 0.
            isn: 1 << 30,
            chance: Chance::new(),
            cpu: 0,
            now_ms: 0,
            deadlines: BTreeMap::new(),
            deadlines_set: 0,
        }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The host, to change sysctls, addresses and processes. A namespace may be added; where one is
    /// removed that sockets were made in, later calls panic.
    pub fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }

    /// `socket(family, SOCK_STREAM)` by a process.
    ///
    /// A process that the host does not have, or whose network namespace it does not have, gets the name
    /// of a socket that is not open: each call on it is EBADF.
    pub fn socket(&mut self, process: ProcessId, family: Family) -> SocketId {
        let caller = self.host.processes.get(process.0 as usize);
        let namespaces = self.host.namespaces.len();
        let Some(caller) = caller.filter(|caller| usize::from(caller.net.0) < namespaces) else {
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
        if let Call::SetLen(_, ..0) = call
            && !self.host.kernel.has(Change::DescriptorFirst)
        {
            trace.rule(Rule::OptionLength);
            return Answer::Err(Errno::EINVAL);
        }
        let files = self.files_of(process);
        let (Some(ix), Some(files)) = (self.open(process, socket), files) else {
            trace.rule(Rule::BadDescriptor);
            return Answer::Err(Errno::EBADF);
        };
        match call {
            Call::Set(option) => self.set_option(process, ix, option, trace).into(),
            Call::SetLen(option, len) => {
                self.set_with_length(process, ix, option, len, trace).into()
            }
            Call::Get(name) => match self.get_option(ix, name, trace) {
                Ok(value) => Answer::Value(value),
                Err(errno) => Answer::Err(errno),
            },
            Call::GetLen(name, len) => match self.get_with_length(ix, name, len, trace) {
                Ok(bytes) => Answer::Bytes(bytes),
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
                // (uid_t)-1 leaves it as it is (chown_common()).
                if uid != Uid(u32::MAX) {
                    self.socks[ix].uid = uid;
                }
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

    /// Every port that `listen` without `bind`, or `bind` to port 0 of the address that the socket has
    /// now (a new one has the wildcard), may choose. [`World::port_choice`] asks for any call.
    #[must_use]
    pub fn permitted_ports(&self, socket: SocketId) -> Vec<u16> {
        self.existing(socket)
            .map(|ix| self.reach_of_bind(ix).ports)
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
        let buckets = self.buckets_of(net, port);
        buckets.map(|at| self.owners_of_bucket(at)).sum()
    }

    /// How many connections wait in a listener's queue.
    #[must_use]
    pub fn queue_len(&self, socket: SocketId) -> usize {
        self.existing(socket)
            .map_or(0, |ix| self.socks[ix].queue.len())
    }

    /// The processor that handles packets from now on: for SO_INCOMING_CPU and programs.
    pub fn set_cpu(&mut self, cpu: i32) {
        self.cpu = cpu;
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
        self.clear_timer(ix);
        let sock = &mut self.socks[ix];
        debug_assert!(sock.bucket.is_none() && sock.group.is_none() && sock.holders == 0);
        sock.alive = false;
        self.socks.give_back(ix);
    }
}

impl core::fmt::Display for SocketId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "socket {}", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::SockAddr;
    use crate::call::OptName;
    use crate::host::{Namespace, Process, UserNsId};
    use crate::version::Kernel;

    #[test]
    fn a_namespace_can_be_added_while_sockets_are_open() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let web = Call::Bind(SockAddr::new("127.0.0.1".parse().unwrap(), 20_001));
        let first = world.socket(ProcessId(0), Family::Inet);
        assert_eq!(world.call(first, web), Answer::Ok);
        let host = world.host_mut();
        let added = NetId(host.namespaces.len() as u16);
        host.namespaces
            .push(Namespace::with_loopback(Kernel::V6_18, UserNsId(0)));
        let own = Process {
            net: added,
            ..host.processes[0]
        };
        host.processes.push(own);
        let second = world.socket(ProcessId(1), Family::Inet);
        assert_eq!(world.call_as(ProcessId(1), second, web), Answer::Ok);
        assert_eq!(world.owners_of_port(added, 20_001), 1);
    }

    #[test]
    fn a_connection_comes_in_by_the_processor_that_handles_packets() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        world.set_cpu(3);
        let web = SockAddr::new("127.0.0.1".parse().unwrap(), 20_001);
        let listener = world.socket(ProcessId(0), Family::Inet);
        assert_eq!(world.call(listener, Call::Bind(web)), Answer::Ok);
        assert_eq!(world.call(listener, Call::Listen(1)), Answer::Ok);
        let client = world.socket(ProcessId(0), Family::Inet);
        assert_eq!(world.call(client, Call::Connect(web)), Answer::Ok);
        let cpu = world.call(client, Call::Get(OptName::IncomingCpu));
        assert_eq!(cpu, Answer::Value(3));
    }

    #[test]
    fn a_place_that_is_free_is_nobodys_and_is_used_again() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let old = world.socket(ProcessId(0), Family::Inet);
        assert_eq!(world.place_of(old), Some(old.index));
        assert_eq!(world.call(old, Call::Close), Answer::Ok);
        assert_eq!(world.place_of(old), None);
        let new = world.socket(ProcessId(0), Family::Inet);
        assert_eq!(new.index, old.index);
        assert_ne!(new, old);
    }
}
