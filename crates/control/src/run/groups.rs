//! In which order our sockets listen at each address.
//!
//! Decides:  which sockets are of one SO_REUSEPORT group, as far as we know; that nobody listens or closes there
//!           while the order is written down, and nobody joins while others leave.
//! Kernel:   net/ipv4/inet_hashtables.c, inet_reuseport_add_sock(): one family, address, port, device,
//!           IPV6_V6ONLY and user.
//! Not here: what the order is for (the listener crate's steer.rs and retire.rs).
//!
//! A group whose beginning we did not see (sockets that were inherited) has no order here; nor has one in which
//! somebody else listened when one of ours came (a restart of the old kind, where two processes overlap). Of
//! sockets that another process of ours handed over it has told the places, and it changed nothing after that.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portcullis_listener::pending::{Looker, Row, inode_of};
use portcullis_listener::spec::Ipv6Only;
use portcullis_listener::steer::Order;
use portcullis_listener::{Address, ListenerSpec, LocalAddress};
use portcullis_sys::sockopt::get_int;
use rustix::net::sockopt;

use super::held::HeldSocket;

/// What the members of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Group {
    local: LocalAddress,
    multipath: bool,
    namespace: Option<String>,
    interface: Option<String>,
    ipv6_only: Option<bool>,
}

impl Group {
    /// That of a socket.
    pub(super) fn of(spec: &ListenerSpec, socket: &HeldSocket) -> Group {
        Group {
            local: socket.facts.local.clone(),
            multipath: matches!(spec.address, Address::Mptcp(_)),
            namespace: spec.network_namespace.clone(),
            interface: spec.interface.clone(),
            ipv6_only: spec.ipv6_only.map(|only| only == Ipv6Only::On),
        }
    }

    /// The network namespace, where it is another one than ours.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The port, and whose; a Unix socket has none.
    fn place(&self) -> Option<Place> {
        match self.local {
            LocalAddress::Inet(local) => Some((self.namespace.clone(), local.port())),
            _ => None,
        }
    }

    /// Where it listens.
    pub(super) fn local(&self) -> &LocalAddress {
        &self.local
    }
}

/// The orders; whoever opens or closes sockets of ours does so while it holds them.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    orders: Mutex<Orders>,
    /// Retirements that are not over, those that wait for their turn too.
    retiring: Mutex<HashMap<Group, usize>>,
    /// One of them is.
    retired: Condvar,
}

/// A port of a network namespace, which is another than ours where it is named.
pub(super) type Place = (Option<String>, u16);

/// By group; and the tables that tell who else is there.
#[derive(Debug, Default)]
pub(super) struct Orders {
    known: HashMap<Group, Known>,
    lookers: HashMap<Option<String>, Looker>,
    /// What listened before those that are being opened, by namespace.
    before: HashMap<Option<String>, Vec<Row>>,
    /// The sockets that are being opened.
    fresh: Vec<Fresh>,
}

/// One that was opened just now.
#[derive(Debug)]
struct Fresh {
    group: Group,
    member: u32,
    inode: u64,
    /// It was opened after those before it.
    in_order: bool,
    /// Its place in the group, from who had it.
    place: Option<u32>,
}

#[derive(Debug, Default)]
struct Known {
    order: Order,
    /// What keeps it apart from other groups of ours at the same address.
    traits: Option<Traits>,
    /// By member.
    inodes: HashMap<u32, u64>,
    /// Somebody else's socket was in the group before one of ours: the kernel put one of ours in its place when
    /// it left, and nothing tells when.
    lost: bool,
}

/// As the kernel has them: no two groups have one socket where these differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Traits {
    /// 0 is none.
    device: i32,
    ipv6_only: bool,
}

impl Traits {
    fn of(socket: impl AsFd) -> Option<Traits> {
        const SOL_SOCKET: i32 = 1;
        const SO_BINDTOIFINDEX: i32 = 62; // Linux 5.0
        let only = sockopt::ipv6_v6only(&socket);
        Some(Traits {
            device: get_int(&socket, SOL_SOCKET, SO_BINDTOIFINDEX).ok()?,
            // An IPv4 socket has no such option.
            ipv6_only: only.unwrap_or(false),
        })
    }

    fn are_apart(one: Option<Traits>, other: Option<Traits>) -> bool {
        one.zip(other).is_some_and(|(one, other)| one != other)
    }
}

impl Groups {
    /// Nobody else opens or closes meanwhile.
    pub(super) fn hold(&self) -> MutexGuard<'_, Orders> {
        lock(&self.0.orders)
    }

    /// Sockets of this group are to be retired, from now on.
    pub(super) fn retiring(&self, group: &Group) {
        *lock(&self.0.retiring).entry(group.clone()).or_default() += 1;
    }

    /// One retirement in this group is over.
    pub(super) fn retired(&self, group: &Group) {
        let mut retiring = lock(&self.0.retiring);
        let left = retiring.remove(group).unwrap_or(0);
        if left > 1 {
            retiring.insert(group.clone(), left - 1);
        }
        self.0.retired.notify_all();
    }

    /// Waits until no socket at these places is being retired, for who wants to listen there: one that joins a group
    /// while others leave it is in no program, so that filters must do the rest, and clients wait a second. False:
    /// they are not all gone by then.
    pub(super) fn wait_for_retired(&self, places: &HashSet<Place>, until: Instant) -> bool {
        let mut retiring = lock(&self.0.retiring);
        let is_one_of_them = |group: &Group| group.place().is_some_and(|it| places.contains(&it));
        while retiring.keys().any(is_one_of_them) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.retired.wait_timeout(retiring, left);
            retiring = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Orders {
    /// The tables of a network namespace. Those of this process and of the namespaces of its first listeners are
    /// opened at the start, since they cannot be any more in a chroot, or by another user. Without one, listeners
    /// are retired by filters, and their half-open connections are given all the time of the bound.
    pub(super) fn looker(&mut self, namespace: Option<&str>) -> Option<Looker> {
        let name = namespace.map(str::to_owned);
        if let Some(looker) = self.lookers.get(&name) {
            return looker.try_clone().ok();
        }
        let looker = namespace.map_or_else(Looker::open, Looker::open_in);
        let looker = looker.ok()?;
        let copy = looker.try_clone().ok();
        self.lookers.insert(name, looker);
        copy
    }

    /// Sockets of these are opened next.
    pub(super) fn begin<'a>(&mut self, specs: impl IntoIterator<Item = &'a ListenerSpec>) {
        self.before.clear();
        self.fresh.clear();
        for spec in specs {
            let namespace = &spec.network_namespace;
            if !self.before.contains_key(namespace)
                && let Some(rows) = self.rows(namespace)
            {
                self.before.insert(namespace.clone(), rows);
            }
        }
    }

    /// These were opened just now, one after the other.
    pub(super) fn joined(&mut self, spec: &ListenerSpec, sockets: &[HeldSocket]) {
        for socket in sockets.iter().filter(|socket| socket.is_ours()) {
            let group = Group::of(spec, socket);
            let known = self.known.entry(group.clone()).or_default();
            known.order.joined(socket.member);
            known.traits = Traits::of(&*socket.fd);
            match inode_of(&*socket.fd) {
                Ok(inode) => {
                    known.inodes.insert(socket.member, inode);
                    self.fresh.push(Fresh {
                        group,
                        member: socket.member,
                        inode,
                        in_order: socket.facts.in_order,
                        place: socket.facts.place,
                    });
                }
                Err(_) => known.lost = true,
            }
        }
    }

    /// All are open: is somebody else there, or was when they were opened?
    pub(super) fn opened(&mut self) {
        let before = std::mem::take(&mut self.before);
        let namespaces = before.keys().cloned().collect::<Vec<_>>();
        let after: HashMap<_, _> = namespaces
            .into_iter()
            .filter_map(|namespace| Some((namespace.clone(), self.rows(&namespace)?)))
            .collect();
        // Of sockets that were handed in nothing else tells in which order they joined.
        let handed: HashSet<u64> = before.values().flatten().map(|row| row.inode).collect();
        let before: HashMap<_, _> = before
            .iter()
            .map(|(it, rows)| (it, by_place(rows)))
            .collect();
        let places: HashMap<_, _> = after
            .iter()
            .map(|(it, rows)| (it, by_place(rows)))
            .collect();
        let rows = after.values().flatten();
        let places_of: HashMap<u64, &str> = rows.map(|row| (row.inode, &*row.local)).collect();
        let fresh = std::mem::take(&mut self.fresh);
        let told = self.put_in_places(&fresh);
        for Fresh {
            group,
            member,
            inode,
            in_order,
            ..
        } in fresh
        {
            let beside = self.beside(&group);
            let Some(known) = self.known.get_mut(&group) else {
                continue;
            };
            let ours = |inode: &u64| {
                known.inodes.values().any(|one| one == inode) || beside.contains(inode)
            };
            let alone = places_of.get(&inode).is_some_and(|place| {
                [&before, &places].into_iter().all(|tables| {
                    let table = tables.get(&group.namespace);
                    table.is_some_and(|table| {
                        table.get(place).is_none_or(|all| all.iter().all(ours))
                    })
                })
            });
            // But one that was alone there is the first.
            let first = known.order.members().first();
            let is_first = first.and_then(|one| known.inodes.get(one)) == Some(&inode);
            let was_alone = places_of.get(&inode).is_some_and(|place| {
                let table = before.get(&group.namespace);
                table.and_then(|table| table.get(place)) == Some(&vec![inode])
            });
            let in_order = in_order && !handed.contains(&inode)
                || told.contains(&member)
                || is_first && was_alone;
            known.lost |= !alone || !in_order;
        }
    }

    /// Sockets of ours that may be at the same address as this group, and are of others.
    pub(super) fn beside(&self, group: &Group) -> HashSet<u64> {
        let traits = self.known.get(group).and_then(|known| known.traits);
        let others = self.known.iter().filter(|(other, known)| {
            other.local == group.local && Traits::are_apart(known.traits, traits)
        });
        others
            .flat_map(|(_, known)| known.inodes.values().copied())
            .collect()
    }

    /// Sockets that came with their places come first, by place; the answer is those of groups of which none is
    /// missing.
    fn put_in_places(&mut self, fresh: &[Fresh]) -> HashSet<u32> {
        let mut places: HashMap<&Group, Vec<(u32, u32)>> = HashMap::new();
        for one in fresh {
            if let Some(place) = one.place {
                let placed = places.entry(&one.group).or_default();
                placed.push((place, one.member));
            }
        }
        let mut told = HashSet::new();
        for (group, mut placed) in places {
            placed.sort_unstable();
            let complete = placed.iter().zip(0..).all(|((place, _), at)| *place == at);
            let Some(known) = self.known.get_mut(group).filter(|_| complete) else {
                continue;
            };
            let first: Vec<u32> = placed.into_iter().map(|(_, member)| member).collect();
            told.extend(&first);
            let rest = known.order.members().iter().copied();
            let rest = rest.filter(|member| !first.contains(member));
            known.order = Order::of(first.iter().copied().chain(rest));
        }
        told
    }

    fn rows(&mut self, namespace: &Option<String>) -> Option<Vec<Row>> {
        self.looker(namespace.as_deref())?.listeners().ok()
    }

    /// This one was closed.
    pub(super) fn left(&mut self, group: &Group, member: u32) {
        if let Some(known) = self.known.get_mut(group) {
            known.order.left(member);
            known.inodes.remove(&member);
            if known.order.members().is_empty() {
                self.known.remove(group);
            }
        }
    }

    /// The order of a group, where it is known.
    pub(super) fn order(&self, group: &Group) -> Option<&Order> {
        let known = self.known.get(group).filter(|known| !known.lost);
        known.map(|known| &known.order)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inodes at each address.
fn by_place(rows: &[Row]) -> HashMap<&str, Vec<u64>> {
    let mut places: HashMap<&str, Vec<u64>> = HashMap::new();
    for row in rows {
        places.entry(&row.local).or_default().push(row.inode);
    }
    places
}
