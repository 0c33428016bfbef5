//! The host that sockets live on: kernel, network namespaces, interfaces, sysctls, processes.
//!
//! Decides:  whether an address belongs to a namespace and as what; whether a process holds a
//!           capability over a namespace.
//! Kernel:   net/ipv4/fib_frontend.c, inet_addr_type_table(), fib_add_ifaddr(); net/ipv6/addrconf.c,
//!           __ipv6_chk_addr_and_flags(); security/commoncap.c, cap_capable(), 3.9 to 6.18
//! Not here: what a socket option adds to it (bind.rs). policy routing: gaps.toml.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use crate::addr::{Kind6, is_multicast4, kind6};
use crate::connect::LOOPBACK_DEVICE;
use crate::net4::{Net4, zeronet};
use crate::routes::{Route4, kind_by};
use crate::version::{Change, Kernel};

/// A network namespace, by its place in [`Host::namespaces`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetId(pub u16);

/// A process, by its place in [`Host::processes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u16);

/// A user namespace, by its place in [`Host::user_namespaces`]; 0 is the host's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserNsId(pub u16);

/// A descriptor table. Processes with the same one share it, as the threads of a program do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilesId(pub u16);

/// A user id, as the host's own user namespace counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u32);

/// Everything that is not a socket.
#[derive(Debug, Clone)]
pub struct Host {
    /// The release whose rules apply.
    pub kernel: Kernel,
    /// Network namespaces; sockets live in that of the process that made them.
    pub namespaces: Vec<Namespace>,
    /// User namespaces; each but the first has a parent and an owner.
    pub user_namespaces: Vec<UserNamespace>,
    /// Who makes calls.
    pub processes: Vec<Process>,
}

/// A user namespace.
#[derive(Debug, Clone, Copy)]
pub struct UserNamespace {
    /// The namespace that it was made in, which comes before it; itself for the first.
    pub parent: UserNsId,
    /// The user who made it, and holds every capability over it from the parent.
    pub owner: Uid,
}

/// A process: whose capabilities and namespace a call has.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// File-system user id; it becomes the owner of new sockets.
    pub uid: Uid,
    /// The network namespace of new sockets.
    pub net: NetId,
    /// The user namespace that [`Process::caps`] are held in.
    pub user_ns: UserNsId,
    /// Effective capabilities.
    pub caps: Caps,
    /// Whose descriptors it has: its own, or those of a process that it is a thread of.
    pub files: FilesId,
}

/// The capabilities that socket calls ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// `CAP_NET_BIND_SERVICE`.
    pub net_bind_service: bool,
    /// `CAP_NET_ADMIN`.
    pub net_admin: bool,
    /// `CAP_NET_RAW`.
    pub net_raw: bool,
}

impl Caps {
    /// Root's.
    pub const ALL: Caps = Caps {
        net_bind_service: true,
        net_admin: true,
        net_raw: true,
    };
    /// An ordinary user's.
    pub const NONE: Caps = Caps {
        net_bind_service: false,
        net_admin: false,
        net_raw: false,
    };
}

/// One of [`Caps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// `CAP_NET_BIND_SERVICE`.
    NetBindService,
    /// `CAP_NET_ADMIN`.
    NetAdmin,
    /// `CAP_NET_RAW`.
    NetRaw,
}

/// A network namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// The user namespace that owns it.
    pub user_ns: UserNsId,
    /// Interfaces; number 1 is the loopback.
    pub interfaces: Vec<Interface>,
    /// No IPv4 address or route was ever made here, so that there is no table of local routes: the kernel
    /// then takes every address for a broadcast one, which can be bound (`inet_addr_type_table`).
    pub without_routes4: bool,
    /// The table of local routes outside of any VRF, where it is known and not what interfaces' addresses make
    /// it: a host that was found as it is. The addresses of interfaces stand before it.
    pub routes4: Option<Vec<Route4>>,
    /// Its sysctls.
    pub sysctls: Sysctls,
}

/// A network interface.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its index, from 1.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is up. The addresses of one that is down are still this host's (`ip link set down` takes
    /// the IPv6 ones away, so they are not here any more); its broadcast addresses are not, and nothing
    /// is sent through it.
    pub up: bool,
    /// Whether it is a VRF, or belongs to one.
    pub vrf: Vrf,
    /// IPv4 addresses with their prefix length.
    pub v4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 addresses.
    pub v6: Vec<Addr6>,
}

/// An interface's part in virtual routing and forwarding (an `l3mdev`): the addresses of a VRF and of its
/// members are apart from all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Vrf {
    /// None.
    #[default]
    Outside,
    /// It is a VRF.
    Itself,
    /// It belongs to the VRF with this index.
    Member(u32),
}

/// An IPv6 address of an interface.
#[derive(Debug, Clone, Copy)]
pub struct Addr6 {
    /// The address.
    pub addr: Ipv6Addr,
    /// How much of it is the network's: the others there are neighbours.
    pub prefix: u8,
    /// Duplicate address detection has not ended: it cannot be bound yet.
    pub tentative: bool,
}

/// The sysctls that decide something here. [`Sysctls::of`] has a release's own values to begin with; the
/// default is 6.18's.
///
/// Here anything can be set; [`Sysctl`](crate::Sysctl) takes what the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctls {
    /// `net.ipv4.ip_local_port_range`.
    pub ip_local_port_range: (u16, u16),
    /// `net.ipv4.ip_local_reserved_ports`: ranges, both ends included, ascending.
    pub ip_local_reserved_ports: Vec<(u16, u16)>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub ip_unprivileged_port_start: u16,
    /// `net.ipv4.ip_nonlocal_bind`.
    pub ip_nonlocal_bind: bool,
    /// `net.ipv6.ip_nonlocal_bind`.
    pub ip6_nonlocal_bind: bool,
    /// `net.ipv4.ip_autobind_reuse`.
    pub ip_autobind_reuse: bool,
    /// `net.ipv6.bindv6only`.
    pub bindv6only: bool,
    /// `net.core.somaxconn`.
    pub somaxconn: u32,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub tcp_max_syn_backlog: i32,
    /// `net.ipv4.tcp_syncookies`.
    pub tcp_syncookies: u8,
    /// `net.ipv4.tcp_fastopen`, a bit mask.
    pub tcp_fastopen: u32,
    /// `net.ipv4.tcp_no_metrics_save`: nothing is remembered of peers.
    pub tcp_no_metrics_save: bool,
    /// `net.ipv4.tcp_tw_reuse`: 0 never, 1 always, 2 on loopback.
    pub tcp_tw_reuse: u8,
    /// `net.ipv4.tcp_tw_reuse_delay`, in milliseconds.
    pub tcp_tw_reuse_delay: u32,
    /// `net.ipv4.tcp_fin_timeout`: seconds, 60 at most (a longer one is another timer: gaps.toml).
    pub tcp_fin_timeout: u32,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub tcp_abort_on_overflow: bool,
    /// `net.ipv4.tcp_migrate_req`.
    pub tcp_migrate_req: bool,
    /// `net.ipv4.tcp_l3mdev_accept`.
    pub tcp_l3mdev_accept: bool,
}

impl Default for Sysctls {
    fn default() -> Self {
        Sysctls {
            ip_local_port_range: (32768, 60999),
            ip_local_reserved_ports: Vec::new(),
            ip_unprivileged_port_start: 1024,
            ip_nonlocal_bind: false,
            ip6_nonlocal_bind: false,
            ip_autobind_reuse: false,
            bindv6only: false,
            somaxconn: 4096,
            tcp_max_syn_backlog: 128,
            tcp_syncookies: 1,
            tcp_fastopen: 1,
            tcp_no_metrics_save: false,
            tcp_tw_reuse: 2,
            tcp_tw_reuse_delay: 1000,
            tcp_fin_timeout: 60,
            tcp_abort_on_overflow: false,
            tcp_migrate_req: false,
            tcp_l3mdev_accept: false,
        }
    }
}

impl Sysctls {
    pub(crate) fn is_reserved(&self, port: u16) -> bool {
        self.ip_local_reserved_ports
            .iter()
            .any(|&(low, high)| low <= port && port <= high)
    }
}

impl Host {
    /// A host of this kernel with one namespace that has a loopback, and one process: root.
    #[must_use]
    pub fn new(kernel: Kernel) -> Host {
        let host = UserNamespace {
            parent: UserNsId(0),
            owner: Uid(0),
        };
        let root = Process {
            uid: Uid(0),
            net: NetId(0),
            user_ns: UserNsId(0),
            caps: Caps::ALL,
            files: FilesId(0),
        };
        Host {
            kernel,
            namespaces: alloc::vec![Namespace::with_loopback(kernel, UserNsId(0))],
            user_namespaces: alloc::vec![host],
            processes: alloc::vec![root],
        }
    }

    /// One more caller in the first namespaces: it shares the descriptors of the first process, as a
    /// thread with an identity of its own does.
    pub fn add_process(&mut self, uid: Uid, caps: Caps) -> ProcessId {
        self.processes.push(Process {
            uid,
            net: NetId(0),
            user_ns: UserNsId(0),
            caps,
            files: FilesId(0),
        });
        ProcessId((self.processes.len() - 1) as u16)
    }

    /// A descriptor table that nobody has: for a process of its own.
    #[must_use]
    pub fn fresh_files(&self) -> FilesId {
        let used = self.processes.iter().map(|process| process.files.0);
        FilesId(used.max().map_or(0, |last| last + 1))
    }

    pub(crate) fn net(&self, net: NetId) -> &Namespace {
        &self.namespaces[net.0 as usize]
    }

    /// Whether the process holds the capability over the namespace: in its user namespace or an
    /// ancestor's, or as the owner of one of those on the way up.
    pub(crate) fn capable(&self, process: ProcessId, net: NetId, cap: Cap) -> bool {
        let process = &self.processes[process.0 as usize];
        let mut at = self.net(net).user_ns;
        loop {
            if at == process.user_ns {
                return match cap {
                    Cap::NetBindService => process.caps.net_bind_service,
                    Cap::NetAdmin => process.caps.net_admin,
                    Cap::NetRaw => process.caps.net_raw,
                };
            }
            if at == UserNsId(0) {
                return false;
            }
            // One is made after its parent; what is not there gives nothing.
            let here = self.user_namespaces.get(usize::from(at.0));
            let Some(here) = here.filter(|here| here.parent.0 < at.0) else {
                return false;
            };
            if here.parent == process.user_ns && here.owner == process.uid {
                return true;
            }
            at = here.parent;
        }
    }
}

/// What the local routing table calls an IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind4 {
    Local,
    Multicast,
    Broadcast,
    Foreign,
}

impl Namespace {
    /// A namespace with `lo`, up, with 127.0.0.1/8 and ::1.
    #[must_use]
    pub fn with_loopback(kernel: Kernel, user_ns: UserNsId) -> Namespace {
        let lo = Interface {
            index: 1,
            name: String::from("lo"),
            up: true,
            vrf: Vrf::Outside,
            v4: alloc::vec![(Ipv4Addr::LOCALHOST, 8)],
            v6: alloc::vec![Addr6 {
                addr: Ipv6Addr::LOCALHOST,
                prefix: 128,
                tentative: false
            }],
        };
        Namespace {
            user_ns,
            interfaces: alloc::vec![lo],
            without_routes4: false,
            routes4: None,
            sysctls: Sysctls::of(kernel),
        }
    }

    pub(crate) fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.index == index)
    }

    /// The VRF that an interface is, or belongs to; 0 for none (`l3mdev_master_ifindex_by_index`).
    pub(crate) fn vrf_of(&self, device: u32) -> u32 {
        match self.interface(device).map(|interface| interface.vrf) {
            Some(Vrf::Itself) => device,
            Some(Vrf::Member(vrf)) => vrf,
            Some(Vrf::Outside) | None => 0,
        }
    }

    /// Whether an IPv4 source may leave by an interface: one of 127.0.0.0/8 leaves by the loopback and by
    /// VRFs alone, without the sysctl `route_localnet` (`__mkroute_output()`).
    pub(crate) fn may_leave4(&self, from: u32, device: u32) -> bool {
        from >> 24 != 127 || device == LOOPBACK_DEVICE || self.vrf_of(device) == device
    }

    /// The interfaces whose addresses a VRF has; 0 for those outside of any. Being down takes no address
    /// from the host.
    fn in_vrf(&self, vrf: u32) -> impl Iterator<Item = &Interface> {
        let all = self.interfaces.iter();
        all.filter(move |i| self.vrf_of(i.index) == vrf)
    }

    /// The interfaces that a bound device stands for: itself; a VRF for its members too.
    fn behind(&self, device: u32) -> impl Iterator<Item = &Interface> {
        let mut all = self.interfaces.iter();
        core::iter::from_fn(move || all.find(|i| i.index == device || i.vrf == Vrf::Member(device)))
    }

    /// The kind of an IPv4 address, in a VRF or, with 0, outside of any.
    pub(crate) fn kind4(&self, kernel: Kernel, addr: u32, vrf: u32) -> Kind4 {
        if zeronet(kernel, addr) || addr == u32::MAX {
            return Kind4::Broadcast;
        }
        if is_multicast4(addr) {
            return Kind4::Multicast;
        }
        if self.without_routes4 {
            return Kind4::Broadcast;
        }
        if let (0, Some(routes)) = (vrf, &self.routes4) {
            let own = |i: &Interface| i.v4.iter().any(|own| own.0.to_bits() == addr);
            return match self.in_vrf(0).any(own) {
                true => Kind4::Local,
                false => kind_by(routes, addr),
            };
        }
        // The longest prefix decides; of a VRF's tables the local one is asked before.
        let merged = !self.interfaces.iter().any(|i| i.vrf == Vrf::Itself);
        let (mut kind, mut longest) = (Kind4::Foreign, 0);
        for interface in self.in_vrf(vrf) {
            for &(own, prefix) in &interface.v4 {
                let net = Net4::of(own, prefix);
                if own.to_bits() == addr {
                    return Kind4::Local;
                }
                if zeronet(kernel, net.first) || !net.contains(addr) {
                    continue;
                }
                let lowest = addr == net.first && !kernel.has(Change::LowestIsOrdinary);
                let broadcast = interface.up && prefix < 31 && (addr == net.last || lowest);
                let here = match (broadcast, interface.is_loopback()) {
                    (true, _) => (Kind4::Broadcast, 32),
                    (false, true) => (Kind4::Local, prefix),
                    (false, false) if merged && interface.up => (Kind4::Foreign, prefix),
                    (false, false) => continue,
                };
                // Of two networks as long the loopback's is met first.
                if here.1 > longest {
                    (kind, longest) = here;
                }
            }
        }
        kind
    }

    /// Whether an IPv6 address may be bound, on this interface if one is given.
    pub(crate) fn has6(&self, addr: u128, on: Option<u32>) -> bool {
        let narrow = matches!(kind6(addr), Kind6::Loopback | Kind6::LinkLocal);
        let vrf = on.map_or(0, |device| self.vrf_of(device));
        self.in_vrf(vrf).any(|interface| {
            let here = on.is_none_or(|index| index == interface.index || !narrow);
            here && interface
                .v6
                .iter()
                .any(|own| own.addr.to_bits() == addr && !own.tentative)
        })
    }

    /// Whether an IPv4 address is one of this interface's.
    pub(crate) fn is_on4(&self, addr: u32, device: u32) -> bool {
        self.behind(device).any(|interface| interface.has4(addr))
    }

    /// Whether an IPv4 address is the broadcast address of one of this interface's networks.
    pub(crate) fn is_broadcast_of(&self, kernel: Kernel, addr: u32, device: u32) -> bool {
        let mut addresses = self.behind(device).flat_map(|interface| &interface.v4);
        addresses.any(|&(own, prefix)| {
            let net = Net4::of(own, prefix);
            let lowest = addr == net.first && !kernel.has(Change::LowestIsOrdinary);
            prefix < 31 && !zeronet(kernel, net.first) && (addr == net.last || lowest)
        })
    }

    /// The interface that an IPv4 address is a broadcast address of, outside of any VRF.
    pub(crate) fn device_of_broadcast(&self, kernel: Kernel, addr: u32) -> Option<u32> {
        let mut all = self.in_vrf(0).map(|interface| interface.index);
        all.find(|&device| self.is_broadcast_of(kernel, addr, device))
    }

    /// Whether an IPv6 address is one of this interface's.
    pub(crate) fn is_on6(&self, addr: u128, device: u32) -> bool {
        let mut addresses = self.behind(device).flat_map(|interface| &interface.v6);
        addresses.any(|own| own.addr.to_bits() == addr)
    }

    /// Whether an IPv6 address is in the network of an interface that is up; of this one, if one is given.
    pub(crate) fn is_neighbour6(&self, addr: u128, device: u32) -> bool {
        let mut all = self.interfaces.iter();
        all.any(|i| {
            let here = i.up && (device == 0 || device == i.index);
            here && i.v6.iter().any(|own| {
                let host_bits = u128::MAX.checked_shr(u32::from(own.prefix)).unwrap_or(0);
                own.addr.to_bits() | host_bits == addr | host_bits
            })
        })
    }

    /// The first IPv4 address of an interface.
    pub(crate) fn first4(&self, device: u32) -> Option<u32> {
        let mut addresses = self.behind(device).flat_map(|interface| &interface.v4);
        let first = addresses.next()?;
        Some(first.0.to_bits())
    }

    /// The address that a neighbour behind an interface is spoken to from: the interface's own of his
    /// network, else its first, else another interface's; never one that is only for the host itself.
    pub(crate) fn source_on_link4(&self, to: u32, device: u32) -> u32 {
        let here = self.interface(device).into_iter();
        let all = here.chain(self.in_vrf(self.vrf_of(device)));
        let addresses = all.flat_map(|interface| &interface.v4);
        let mut addresses = addresses.filter(|own| !own.0.is_loopback());
        let own = self.interface(device).and_then(|interface| {
            let of_him = |own: &&(Ipv4Addr, u8)| Net4::of(own.0, own.1).contains(to);
            let outward = interface.v4.iter().filter(|own| !own.0.is_loopback());
            // The first of the longest prefix.
            outward
                .filter(of_him)
                .rev()
                .max_by_key(|&&(_, prefix)| prefix)
        });
        own.or_else(|| addresses.next())
            .map_or(0, |own| own.0.to_bits())
    }

    /// The interface that an IPv4 address of this host, in a VRF or outside of any, is on.
    pub(crate) fn device_of4(&self, addr: u32, vrf: u32) -> Option<u32> {
        // The longest prefix decides: an address itself before a network of the loopback.
        let own = |i: &&Interface| i.v4.iter().any(|own| own.0.to_bits() == addr);
        let mut all = self.in_vrf(vrf).filter(own);
        let own = all.next();
        own.or_else(|| self.in_vrf(vrf).find(|i| i.has4(addr)))
            .map(|i| i.index)
    }

    /// The interface that an IPv6 address of this host, in a VRF or outside of any, is on.
    pub(crate) fn device_of6(&self, addr: u128, vrf: u32) -> Option<u32> {
        let mut all = self.in_vrf(vrf);
        all.find(|i| i.v6.iter().any(|own| own.addr.to_bits() == addr))
            .map(|i| i.index)
    }

    /// The address that packets to this local address are sent from: the route's preferred source, which
    /// for a second address of one network is the first (`fib_add_ifaddr`).
    pub(crate) fn source4(&self, to: u32, vrf: u32) -> u32 {
        let (mut source, mut longest) = (to, None);
        for interface in self.in_vrf(vrf) {
            for &(own, prefix) in &interface.v4 {
                let net = Net4::of(own, prefix);
                let length = match own.to_bits() == to {
                    true => 32,
                    false if interface.is_loopback() && net.contains(to) => prefix,
                    false => continue,
                };
                if longest.is_none_or(|longest| length > longest) {
                    longest = Some(length);
                    source = interface.first_of(net).unwrap_or(own).to_bits();
                }
            }
        }
        source
    }
}

impl Interface {
    /// Whether it is the loopback, whose networks are local as a whole.
    pub(crate) const fn is_loopback(&self) -> bool {
        self.index == LOOPBACK_DEVICE
    }

    /// Whether it has an IPv4 address itself, or as one of the loopback's networks, whose broadcast
    /// addresses are nobody's.
    fn has4(&self, addr: u32) -> bool {
        self.v4.iter().any(|&(own, prefix)| {
            let net = Net4::of(own, prefix);
            let broadcast = prefix < 31 && addr == net.last;
            own.to_bits() == addr || (self.is_loopback() && net.contains(addr) && !broadcast)
        })
    }

    /// Its first address of a network: the others are secondary.
    fn first_of(&self, net: Net4) -> Option<Ipv4Addr> {
        let mut all = self.v4.iter();
        all.find(|own| Net4::of(own.0, own.1) == net)
            .map(|own| own.0)
    }
}
