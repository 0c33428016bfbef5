//! Sockets, groups and buckets of a snapshot as the model takes them.
//!
//! Decides:  what is likely where nothing depends on it.
//! Kernel:   include/net/sock.h, `sk_userlocks`; include/net/inet_sock.h, inet_sk_bound_l3mdev()
//! Not here: what a verdict may depend on (suppose.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use portcullis_kernel_model as model;
use portcullis_kernel_model::{
    Change, Chosen, Found, FoundBucket, FoundGroup, FoundSocket, Membership, NetId, Uid,
};

use crate::snapshot::{InGroup, Socket, State};
use crate::suppose::Memory;
use crate::world::Builder;

/// `sk_userlocks`.
const LOCK_ADDRESS: u8 = 4;
const LOCK_PORT: u8 = 8;
const LOCK_CONNECT: u8 = 16;

impl Builder<'_> {
    pub(crate) fn found_socket(&self, socket: &Socket, place: (usize, usize)) -> FoundSocket {
        let local = socket.local;
        let uid = Uid(socket.uid.unwrap_or(0));
        let mut one = FoundSocket::new(NetId(place.0 as u16), local, uid);
        let known = &socket.options;
        let listens = socket.state == State::Listen;
        one.state = socket.state.into();
        one.half_closed = socket.half_closed;
        one.peer = match socket.state {
            State::Bound | State::Listen => None,
            _ => socket.peer,
        };
        one.device = socket.device;
        one.freebind = known.freebind.unwrap_or(false);
        one.transparent = known.transparent.unwrap_or(false);
        one.repair = known.repair.unwrap_or(false);
        one.incoming_cpu = match known.incoming_cpu {
            Some(cpu) if listens || socket.state == State::Bound => cpu,
            _ => -1,
        };
        one.backlog = if listens { socket.send_queue } else { 0 };
        one.left_ms = socket.timer_ms.map_or(model::TIME_WAIT_MS, u64::from);
        one.shutdown = socket.shutdown;
        one.chosen = match known.user_locks {
            Some(locks) => Chosen {
                address: locks & LOCK_ADDRESS != 0,
                port: locks & LOCK_PORT != 0,
                by_connect: locks & LOCK_CONNECT != 0,
            },
            None => self.likely_choice(socket, place),
        };
        one.rank = listens.then_some(place.1 as u32);
        one.group = match socket.group {
            None => Membership::Supposed,
            Some(InGroup::None) => Membership::Nowhere,
            Some(InGroup::Member(number)) => Membership::Member(self.group_number(place.0, number)),
            Some(InGroup::Closed(number)) => Membership::Closed(self.group_number(place.0, number)),
        };
        let holds = |pid| self.processes.get(&pid).copied();
        let remains = matches!(socket.state, State::TimeWait | State::HalfOpen);
        if !remains {
            let holders = socket.holders.iter();
            one.holders = holders.filter_map(|holder| holds(holder.pid)).collect();
            let held = socket.inode != 0 || matches!(socket.state, State::Bound | State::Listen);
            if held && one.holders.is_empty() {
                one.holders.push(self.somebody);
            }
        }
        one
    }

    /// Groups of all namespaces have numbers of their own in the model.
    fn group_number(&self, net: usize, number: u32) -> u32 {
        let before = self.snapshot.namespaces.iter().take(net);
        let largest = |net: &crate::snapshot::Namespace| {
            net.groups
                .iter()
                .map(|group| group.number)
                .max()
                .map_or(0, |max| max + 1)
        };
        before.map(largest).fold(number, u32::wrapping_add)
    }

    /// Whose choice a port most likely was, where nobody could tell: a server's connections have its port.
    fn likely_choice(&self, socket: &Socket, place: (usize, usize)) -> Chosen {
        let server = matches!(socket.state, State::Listen | State::Bound);
        let child = !server && self.served.contains(&(place.0, socket.local.port()));
        Chosen {
            address: server && !socket.local.ip().is_unspecified(),
            port: server,
            by_connect: !server && !child && self.host.kernel.has(Change::ConnectBind),
        }
    }

    pub(crate) fn found_groups(&self, found: &Found) -> Vec<FoundGroup> {
        let mut counted: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for one in &found.sockets {
            match one.group {
                Membership::Member(number) => counted.entry(number).or_default().0 += 1,
                Membership::Closed(number) => counted.entry(number).or_default().1 += 1,
                Membership::Supposed | Membership::Nowhere => {}
            }
        }
        let mut groups = Vec::new();
        for (net, namespace) in self.snapshot.namespaces.iter().enumerate() {
            for group in &namespace.groups {
                let number = self.group_number(net, group.number);
                if let Some(&(_, closed)) = counted.get(&number) {
                    groups.push(FoundGroup {
                        number,
                        // The kernel counts to 65,535.
                        closed_unseen: group.closed.min(u32::from(u16::MAX)).saturating_sub(closed),
                        program: None,
                    });
                }
            }
        }
        groups
    }

    pub(crate) fn found_buckets(&self, found: &Found, memory: Option<Memory>) -> Vec<FoundBucket> {
        let owners = found.sockets.iter();
        let owners = owners.filter(|one| one.state != model::State::NewSynRecv);
        let owned: BTreeSet<(NetId, u16, u32)> = owners
            .map(|one| (one.net, one.local.port(), self.vrf_of(one)))
            .collect();
        let owned = |net: NetId, port: u16, vrf: u32| owned.contains(&(net, port, vrf));
        let mut buckets = Vec::new();
        for (at, namespace) in self.snapshot.namespaces.iter().enumerate() {
            let net = NetId(at as u16);
            for bucket in namespace
                .buckets
                .iter()
                .filter(|bucket| owned(net, bucket.port, bucket.vrf))
            {
                buckets.push(FoundBucket {
                    net,
                    port: bucket.port,
                    vrf: bucket.vrf,
                    fastreuse: bucket.fastreuse,
                    fastreuseport: bucket.fastreuseport,
                    uid: Uid(bucket.uid),
                    address: bucket.address,
                    v6only: bucket.v6only,
                });
            }
        }
        if let Some(port) = self.focus.port
            && owned(NetId(0), port, 0)
        {
            match memory {
                Some(Memory::Permitting(uid)) => buckets.push(self.permitting_memory(port, uid)),
                Some(Memory::Nothing) => buckets.push(FoundBucket {
                    fastreuse: 0,
                    fastreuseport: 0,
                    ..self.permitting_memory(port, self.caller_uid)
                }),
                Some(Memory::AsLeft) | None => {}
            }
        }
        buckets
    }

    /// The VRF by which a socket owns its port (`inet_sk_bound_l3mdev`).
    fn vrf_of(&self, one: &FoundSocket) -> u32 {
        let Some(net) = self.host.namespaces.get(usize::from(one.net.0)) else {
            return 0;
        };
        if net.sysctls.tcp_l3mdev_accept || !self.host.kernel.has(Change::VrfBuckets) {
            return 0;
        }
        let mut devices = net.interfaces.iter();
        match devices
            .find(|device| device.index == one.device)
            .map(|device| device.vrf)
        {
            Some(model::Vrf::Itself) => one.device,
            Some(model::Vrf::Member(vrf)) => vrf,
            Some(model::Vrf::Outside) | None => 0,
        }
    }

    /// What lets most newcomers of a user in: at any address; without a listener, SO_REUSEADDR too.
    fn permitting_memory(&self, port: u16, uid: Uid) -> FoundBucket {
        let never = self.host.kernel.has(Change::NoFastreuse);
        let listened = self.places.iter().any(|&place| {
            let socket = self.socket(place);
            place.0 == 0
                && socket.is_some_and(|one| one.state == State::Listen && one.local.port() == port)
        });
        FoundBucket {
            net: NetId(0),
            port,
            vrf: 0,
            fastreuse: i8::from(!never && !listened),
            fastreuseport: 2,
            uid,
            address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            v6only: false,
        }
    }
}

impl From<portcullis_kernel_model::State> for State {
    fn from(state: portcullis_kernel_model::State) -> State {
        use portcullis_kernel_model::State as Model;
        match state {
            Model::Established => State::Established,
            Model::SynSent => State::SynSent,
            Model::SynRecv => State::SynRecv,
            Model::FinWait1 => State::FinWait1,
            Model::FinWait2 => State::FinWait2,
            Model::TimeWait => State::TimeWait,
            Model::Close => State::Bound,
            Model::CloseWait => State::CloseWait,
            Model::LastAck => State::LastAck,
            Model::Listen => State::Listen,
            Model::Closing => State::Closing,
            Model::NewSynRecv => State::HalfOpen,
        }
    }
}

impl From<State> for portcullis_kernel_model::State {
    fn from(state: State) -> portcullis_kernel_model::State {
        use portcullis_kernel_model::State as Model;
        match state {
            State::Established => Model::Established,
            State::SynSent => Model::SynSent,
            State::SynRecv => Model::SynRecv,
            State::FinWait1 => Model::FinWait1,
            State::FinWait2 => Model::FinWait2,
            State::TimeWait => Model::TimeWait,
            State::Bound => Model::Close,
            State::CloseWait => Model::CloseWait,
            State::LastAck => Model::LastAck,
            State::Listen => Model::Listen,
            State::Closing => Model::Closing,
            State::HalfOpen => Model::NewSynRecv,
        }
    }
}
