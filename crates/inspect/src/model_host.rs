//! Everything of a snapshot that is no socket, as the model has it: namespaces, processes.
//!
//! Decides:  what an unknown sysctl is taken for: the kernel's own value to begin with; where a user
//!           namespace stands that nobody could see.
//! Not here: sockets (found.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use portcullis_kernel_model as model;
use portcullis_kernel_model::{Caps, FilesId, Kernel, NetId, ProcessId, Uid, UserNsId};

use crate::routes;
use crate::snapshot::{Interface, Namespace, Process, Snapshot, Sysctls, Vrf};
use crate::world::{NOBODY_ELSE, Nonsense};

const LOOPBACK: u32 = 1;
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

fn namespace(kernel: Kernel, from: &Namespace, user_ns: UserNsId) -> model::Namespace {
    model::Namespace {
        user_ns,
        interfaces: interfaces(from),
        without_routes4: from.without_routes4,
        routes4: routes::of(from),
        sysctls: sysctls(kernel, &from.sysctls),
    }
}

/// Interfaces with their addresses, as the local routes have them: an address whose route was taken away is
/// nobody's, and a network of which all is local is one of the loopback's. Those of a VRF are in its table.
fn interfaces(from: &Namespace) -> Vec<model::Interface> {
    let mut all: Vec<model::Interface> = from.interfaces.iter().map(interface).collect();
    let Some(routes) = &from.local_routes else {
        return all;
    };
    let first = |ip: Ipv4Addr, length: u8| {
        let rest = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        ip.to_bits() & !rest
    };
    let routes: BTreeSet<(u32, u8)> = routes
        .iter()
        .map(|route| (first(route.net, route.length), route.length))
        .collect();
    let lengths: BTreeSet<u8> = routes.iter().map(|&(_, length)| length).collect();
    let is_local = |ip: Ipv4Addr| {
        if let Some(kind) = routes::kind(from, ip) {
            return kind == model::RouteKind::Local;
        }
        let mut lengths = lengths.iter();
        lengths.any(|&length| routes.contains(&(first(ip, length), length)))
    };
    let mut known: BTreeSet<(u32, u8)> = BTreeSet::new();
    for one in &mut all {
        let is_loopback = one.index == LOOPBACK;
        if one.vrf == model::Vrf::Outside {
            one.v4.retain(|&(own, _)| is_local(own));
        }
        for (own, prefix) in &mut one.v4 {
            let net = (first(*own, *prefix), *prefix);
            if is_loopback && !routes.contains(&net) {
                *prefix = 32;
            }
            known.insert((own.to_bits(), 32));
            known.extend(is_loopback.then_some(net));
        }
    }
    let more = routes
        .difference(&known)
        .filter(|(_, length)| *length <= 32);
    if let Some(lo) = all.iter_mut().find(|one| one.index == LOOPBACK) {
        lo.v4
            .extend(more.map(|&(net, length)| (Ipv4Addr::from_bits(net), length)));
    }
    all
}

fn interface(from: &Interface) -> model::Interface {
    let mut interface = model::Interface {
        index: from.index,
        name: from.name.clone(),
        up: from.up,
        vrf: from.vrf.into(),
        v4: Vec::new(),
        v6: Vec::new(),
    };
    for address in &from.addresses {
        match address.ip {
            IpAddr::V4(ip) => interface.v4.push((ip, address.prefix.min(32))),
            IpAddr::V6(addr) => interface.v6.push(model::Addr6 {
                addr,
                prefix: address.prefix.min(128),
                tentative: address.tentative || address.duplicate,
            }),
        }
    }
    interface
}

fn sysctls(kernel: Kernel, from: &Sysctls) -> model::Sysctls {
    let own = model::Sysctls::of(kernel);
    let flag = |value: Option<u32>, own: bool| value.map_or(own, |value| value != 0);
    let small = |value: Option<u32>, own: u8| {
        value
            .and_then(|value| u8::try_from(value).ok())
            .unwrap_or(own)
    };
    let port = |value: Option<u32>, own: u16| {
        value.map_or(own, |value| u16::try_from(value).unwrap_or(u16::MAX))
    };
    model::Sysctls {
        ip_local_port_range: from.ip_local_port_range.unwrap_or(own.ip_local_port_range),
        ip_local_reserved_ports: from.ip_local_reserved_ports.clone(),
        ip_unprivileged_port_start: port(
            from.ip_unprivileged_port_start,
            own.ip_unprivileged_port_start,
        ),
        ip_nonlocal_bind: flag(from.ip_nonlocal_bind, own.ip_nonlocal_bind),
        ip6_nonlocal_bind: flag(from.ip6_nonlocal_bind, own.ip6_nonlocal_bind),
        ip_autobind_reuse: flag(from.ip_autobind_reuse, own.ip_autobind_reuse),
        bindv6only: flag(from.bindv6only, own.bindv6only),
        somaxconn: from.somaxconn.unwrap_or(own.somaxconn),
        tcp_max_syn_backlog: from.tcp_max_syn_backlog.unwrap_or(own.tcp_max_syn_backlog),
        tcp_syncookies: small(from.tcp_syncookies, own.tcp_syncookies),
        tcp_fastopen: from.tcp_fastopen.unwrap_or(own.tcp_fastopen),
        tcp_no_metrics_save: flag(from.tcp_no_metrics_save, own.tcp_no_metrics_save),
        tcp_tw_reuse: small(from.tcp_tw_reuse, own.tcp_tw_reuse),
        tcp_tw_reuse_delay: from.tcp_tw_reuse_delay.unwrap_or(own.tcp_tw_reuse_delay),
        tcp_fin_timeout: from.tcp_fin_timeout.unwrap_or(own.tcp_fin_timeout),
        tcp_abort_on_overflow: flag(from.tcp_abort_on_overflow, own.tcp_abort_on_overflow),
        tcp_migrate_req: flag(from.tcp_migrate_req, own.tcp_migrate_req),
        tcp_l3mdev_accept: flag(from.tcp_l3mdev_accept, own.tcp_l3mdev_accept),
    }
}

/// The host without its sockets; the caller is its first process.
pub(crate) fn host_of(
    snapshot: &Snapshot,
    caller: &Process,
) -> Result<(model::Host, BTreeMap<u32, ProcessId>), Nonsense> {
    let kernel = Kernel::of_host(&snapshot.kernel.release, &snapshot.kernel.version);
    let kernel = kernel.ok_or_else(|| Nonsense::Kernel(snapshot.kernel.release.clone()))?;
    if snapshot.namespaces.is_empty() {
        return Err(Nonsense::NoNamespace);
    }
    if snapshot.namespaces.len() > usize::from(u16::MAX) {
        return Err(Nonsense::TooMany("network namespaces"));
    }
    if snapshot.processes.len() >= usize::from(u16::MAX) {
        return Err(Nonsense::TooMany("processes"));
    }
    let user = user_namespaces(snapshot)?;
    let mut host = model::Host::new(kernel);
    host.user_namespaces = user.spaces;
    let place = |inode: Option<u64>| {
        let known = inode.and_then(|inode| user.places.get(&inode).copied());
        known.unwrap_or(OUTERMOST_SEEN)
    };
    let owner = |namespace: &Namespace| match namespace.owner_outside {
        Some(true) => BEYOND,
        Some(false) | None => place(namespace.user_namespace),
    };
    host.namespaces = snapshot
        .namespaces
        .iter()
        .map(|namespace| self::namespace(kernel, namespace, owner(namespace)))
        .collect();
    let net_of = |process: &Process| {
        let inode = process.net?;
        let at = snapshot
            .namespaces
            .iter()
            .position(|net| net.inode == inode)?;
        Some(NetId(at as u16))
    };
    let others = snapshot
        .processes
        .iter()
        .filter(|other| other.pid != caller.pid);
    let mut processes = BTreeMap::new();
    host.processes = std::iter::once(caller)
        .chain(others)
        .enumerate()
        .map(|(at, process)| {
            processes.insert(process.pid, ProcessId(at as u16));
            model::Process {
                uid: uid_of(process),
                // The caller asks about the first namespace, whichever it is in.
                net: if at == 0 {
                    NetId(0)
                } else {
                    net_of(process).unwrap_or(NetId(0))
                },
                user_ns: place(process.user_namespace),
                caps: caps(process.capabilities.unwrap_or(0)),
                files: FilesId(at as u16),
            }
        })
        .collect();
    Ok((host, processes))
}

pub(crate) fn uid_of(process: &Process) -> Uid {
    // New sockets are the file-system user's.
    Uid(process.uids.map_or(u32::MAX, |uids| uids[3]))
}

fn caps(bits: u64) -> Caps {
    let has = |bit: u32| bits >> bit & 1 == 1;
    Caps {
        net_bind_service: has(CAP_NET_BIND_SERVICE),
        net_admin: has(CAP_NET_ADMIN),
        net_raw: has(CAP_NET_RAW),
    }
}

struct UserSpaces {
    spaces: Vec<model::UserNamespace>,
    places: BTreeMap<u64, UserNsId>,
}

/// Whether nobody could tell if the caller's capabilities count in the network that is asked about.
pub(crate) fn owner_is_open(snapshot: &Snapshot, caller: &Process) -> bool {
    let has_some = caps(caller.capabilities.unwrap_or(0)) != Caps::NONE;
    let owner_known = snapshot
        .namespaces
        .first()
        .is_some_and(|net| net.user_namespace.is_some() || net.owner_outside.is_some());
    has_some && !(owner_known && caller.user_namespace.is_some())
}

/// What is around all that could be seen: no capability from inside counts there.
pub(crate) const BEYOND: UserNsId = UserNsId(0);
/// The outermost that were seen: of a host that was read in its own user namespace, that one.
const OUTERMOST_SEEN: UserNsId = UserNsId(1);

fn user_namespaces(snapshot: &Snapshot) -> Result<UserSpaces, Nonsense> {
    let all = &snapshot.user_namespaces;
    if all.len() > usize::from(u16::MAX) - 2 {
        return Err(Nonsense::TooMany("user namespaces"));
    }
    let known = |inode: u64| all.iter().any(|space| space.inode == inode);
    let outermost = |space: &&crate::snapshot::UserNamespace| !space.parent.is_some_and(known);
    let mut places: BTreeMap<u64, UserNsId> = BTreeMap::new();
    for space in all.iter().filter(outermost) {
        places.insert(space.inode, OUTERMOST_SEEN);
    }
    let inner: Vec<_> = all.iter().filter(|space| !outermost(space)).collect();
    for (at, space) in inner.iter().enumerate() {
        places.insert(space.inode, UserNsId(OUTERMOST_SEEN.0 + 1 + at as u16));
    }
    let below = |parent: UserNsId, owner: Uid| model::UserNamespace { parent, owner };
    // Nobody who is seen made the outermost one.
    let mut spaces = vec![below(BEYOND, Uid(0)), below(BEYOND, NOBODY_ELSE)];
    for space in inner {
        let parent = space.parent.and_then(|parent| places.get(&parent).copied());
        spaces.push(below(parent.unwrap_or(OUTERMOST_SEEN), Uid(space.owner)));
    }
    if has_circle(&spaces) {
        return Err(Nonsense::TooMany("user namespaces inside each other"));
    }
    Ok(UserSpaces { spaces, places })
}

fn has_circle(spaces: &[model::UserNamespace]) -> bool {
    (0..spaces.len()).any(|start| {
        let mut at = start;
        for _ in 0..=spaces.len() {
            if at == 0 {
                return false;
            }
            at = usize::from(spaces[at].parent.0);
        }
        true
    })
}

impl From<Vrf> for model::Vrf {
    fn from(vrf: Vrf) -> model::Vrf {
        match vrf {
            Vrf::Outside => model::Vrf::Outside,
            Vrf::Itself => model::Vrf::Itself,
            Vrf::Member(of) => model::Vrf::Member(of),
        }
    }
}
