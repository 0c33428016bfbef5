//! The bind bucket: who owns a port, and what the bucket remembers of them.
//!
//! Decides:  when a bucket comes and goes; what `fastreuse` and `fastreuseport` remember, even of
//!           sockets that have closed; the list by address inside it (the second hash).
//! Kernel:   net/ipv4/inet_hashtables.c, inet_bind_bucket_create() and _destroy(), inet_bind2_bucket_*(),
//!           inet_bind_hash(), __inet_put_port(), __inet_bhash2_update_saddr();
//!           net/ipv4/inet_connection_sock.c, inet_csk_update_fastreuse(), 3.9 to 6.18
//! Not here: whether a newcomer conflicts with the owners (conflict.rs).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::addr::{Family, is_mapped};
use crate::by_addr::{ByAddr, Links, Listed};
use crate::call::State;
use crate::host::{NetId, Uid};
use crate::socket::{CONNECT_BIND, NONE, Reuse, Sock, SockIx};
use crate::version::Change;
use crate::world::World;

/// A bucket's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BucketIx(pub u32);
/// The place of a bucket's list for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnersIx(pub u32);

/// `fastreuse` and `fastreuseport` of a bucket whose ports connect chose.
pub(crate) const CONNECT_ONLY: i8 = -1;
const NO: i8 = 0;
const ANY: i8 = 1;
const STRICT: i8 = 2;

/// One port of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub net: NetId,
    pub port: u16,
    /// The VRF whose sockets own it; 0 for none.
    pub vrf: u32,
    /// Another bucket of this port, of another VRF.
    next: u32,
    pub fastreuse: i8,
    pub fastreuseport: i8,
    /// What `fastreuseport` is about.
    pub remembered: Remembered,
    pub by_addr: ByAddr,
}

/// Whom the cached answer is true for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remembered {
    pub uid: Uid,
    pub family: Family,
    pub rcv4: u32,
    pub rcv6: u128,
    pub v6only: bool,
}

impl Remembered {
    const NOBODY: Remembered = Remembered {
        uid: Uid(0),
        family: Family::Inet,
        rcv4: 0,
        rcv6: 0,
        v6only: false,
    };

    fn of(sock: &Sock) -> Remembered {
        Remembered {
            uid: sock.uid,
            family: sock.family,
            rcv4: sock.rcv4,
            rcv6: sock.rcv6,
            v6only: sock.v6only,
        }
    }
}

/// The owners of one port who have one address.
#[derive(Debug, Clone)]
pub(crate) struct Owners {
    pub bucket: BucketIx,
    /// The family of whoever began the list.
    pub family: Family,
    /// IPv4 addresses in their mapped form.
    pub addr: u128,
    /// Its `fastreuse` and `fastreuseport`, which are asked for nothing but whether connect alone has
    /// chosen for all of them.
    pub connect_only: bool,
    newest: SockIx,
    links: Links,
}

impl Listed for Owners {
    fn addr(&self) -> u128 {
        self.addr
    }
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// What stands at one port number of a namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub bucket: u32,
    /// The chains of listeners (chain.rs).
    pub listeners: u32,
}

impl Slot {
    const EMPTY: Slot = Slot {
        bucket: NONE,
        listeners: NONE,
    };
}

/// All port numbers of a namespace, in pages that exist once used.
#[derive(Debug, Clone)]
pub(crate) struct PortTable {
    pages: Vec<Option<Box<[Slot; 256]>>>,
}

impl PortTable {
    pub(crate) fn new() -> PortTable {
        PortTable { pages: Vec::new() }
    }

    pub(crate) fn get(&self, port: u16) -> Slot {
        match self.pages.get(usize::from(port >> 8)) {
            Some(Some(page)) => page[usize::from(port & 0xff)],
            _ => Slot::EMPTY,
        }
    }

    pub(crate) fn get_mut(&mut self, port: u16) -> &mut Slot {
        if self.pages.is_empty() {
            self.pages.resize(256, None);
        }
        let page = &mut self.pages[usize::from(port >> 8)];
        let page = page.get_or_insert_with(|| Box::new([Slot::EMPTY; 256]));
        &mut page[usize::from(port & 0xff)]
    }
}

impl World {
    /// What there is of a port; nothing in a namespace that is not there or has no sockets yet.
    pub(crate) fn slot_of(&self, net: NetId, port: u16) -> Slot {
        let table = self.ports.get(usize::from(net.0));
        table.map_or(Slot::EMPTY, |table| table.get(port))
    }

    pub(crate) fn bucket_of(&self, net: NetId, port: u16) -> Option<BucketIx> {
        let found = self.slot_of(net, port).bucket;
        (found != NONE).then_some(BucketIx(found))
    }

    /// All buckets of a port: one for each VRF, and one for the sockets outside of any.
    pub(crate) fn buckets_of(&self, net: NetId, port: u16) -> impl Iterator<Item = BucketIx> {
        let mut at = self.bucket_of(net, port);
        core::iter::from_fn(move || {
            let now = at?;
            let next = self.buckets[now.0].next;
            at = (next != NONE).then_some(BucketIx(next));
            Some(now)
        })
    }

    /// The bucket of a port that a socket would own it by.
    pub(crate) fn bucket_for(&self, ix: SockIx, port: u16) -> Option<BucketIx> {
        let first = self.bucket_of(self.socks[ix].net, port)?;
        let entry = &self.buckets[first.0];
        let vrf = self.port_vrf(ix);
        if entry.vrf == vrf {
            return Some(first);
        }
        let mut all = self.buckets_of(self.socks[ix].net, port);
        all.find(|at| self.buckets[at.0].vrf == vrf)
    }

    pub(crate) fn bucket_create(&mut self, ix: SockIx, port: u16) -> BucketIx {
        let (net, vrf) = (self.socks[ix].net, self.port_vrf(ix));
        let next = self.slot_of(net, port).bucket;
        let fresh = Bucket {
            net,
            port,
            vrf,
            next,
            fastreuse: NO,
            fastreuseport: NO,
            remembered: Remembered::NOBODY,
            by_addr: ByAddr::new(),
        };
        let index = self.buckets.take(|| fresh.clone());
        self.buckets[index] = fresh;
        self.ports[net.0 as usize].get_mut(port).bucket = index;
        BucketIx(index)
    }

    /// A bucket that connect makes: bind has never seen it.
    pub(crate) fn bucket_create_for_connect(&mut self, ix: SockIx, port: u16) -> BucketIx {
        let bucket = self.bucket_create(ix, port);
        self.buckets[bucket.0].fastreuse = CONNECT_ONLY;
        self.buckets[bucket.0].fastreuseport = CONNECT_ONLY;
        bucket
    }

    /// Whether only connect uses this bucket, so that connect may choose the port once more.
    pub(crate) fn connect_may_share(&self, bucket: BucketIx) -> bool {
        let bucket = &self.buckets[bucket.0];
        bucket.fastreuse < 0 && bucket.fastreuseport < 0
    }

    /// How many sockets own the port.
    pub(crate) fn owners_of_bucket(&self, bucket: BucketIx) -> usize {
        let lists = self.lists_of(bucket);
        lists.map(|list| self.owners_in(list).count()).sum()
    }

    /// The lists of a port's owners by address, the newest first.
    pub(crate) fn lists_of(&self, bucket: BucketIx) -> impl Iterator<Item = OwnersIx> {
        self.buckets[bucket.0]
            .by_addr
            .iter(&self.owners)
            .map(OwnersIx)
    }

    /// The owners of one address, the newest first.
    pub(crate) fn owners_in(&self, list: OwnersIx) -> impl Iterator<Item = SockIx> {
        let mut at = self.owners[list.0].newest;
        core::iter::from_fn(move || {
            let now = (at != NONE).then_some(at)?;
            at = self.socks[now].older_owner;
            Some(now)
        })
    }

    /// The list of the owners with the socket's address.
    pub(crate) fn owners_of(&self, bucket: BucketIx, sock: SockIx) -> Option<OwnersIx> {
        let addr = self.socks[sock].hash_addr();
        self.owners_at(bucket, addr)
    }

    pub(crate) fn owners_at(&self, bucket: BucketIx, addr: u128) -> Option<OwnersIx> {
        let lists = &self.buckets[bucket.0].by_addr;
        lists.find(&self.owners, addr).map(OwnersIx)
    }

    pub(crate) fn owners_create(&mut self, bucket: BucketIx, sock: SockIx) -> OwnersIx {
        let (addr, family) = (self.socks[sock].hash_addr(), self.socks[sock].family);
        let fresh = Owners {
            bucket,
            family,
            addr,
            connect_only: false,
            newest: NONE,
            links: Links::NONE,
        };
        let index = self.owners.take(|| fresh.clone());
        self.owners[index] = fresh;
        let lists = &mut self.buckets[bucket.0].by_addr;
        lists.insert(&mut self.owners, index);
        OwnersIx(index)
    }

    /// The list for connect's use: created as connect's own where there is none.
    pub(crate) fn owners_for_connect(&mut self, bucket: BucketIx, sock: SockIx) -> OwnersIx {
        if let Some(list) = self.owners_of(bucket, sock) {
            return list;
        }
        let list = self.owners_create(bucket, sock);
        self.owners[list.0].connect_only = true;
        list
    }

    /// Enters a socket as an owner of a port.
    pub(crate) fn own(&mut self, sock: SockIx, bucket: BucketIx, list: OwnersIx) {
        let port = self.buckets[bucket.0].port;
        self.enter_list(sock, list);
        let sock = &mut self.socks[sock];
        sock.num = port;
        sock.bucket = Some(bucket);
    }

    /// Enters a socket as the newest of its list.
    fn enter_list(&mut self, ix: SockIx, list: OwnersIx) {
        let entry = &mut self.owners[list.0];
        let older = core::mem::replace(&mut entry.newest, ix);
        if older != NONE {
            self.socks[older].newer_owner = ix;
        }
        let sock = &mut self.socks[ix];
        (sock.older_owner, sock.newer_owner) = (older, NONE);
        sock.owners = Some(list);
    }

    /// Gives the port back: the socket is no owner any more. What `getsockname` tells stays.
    pub(crate) fn put_port(&mut self, ix: SockIx) {
        let sock = &mut self.socks[ix];
        let bucket = sock.bucket.take();
        let list = sock.owners.take();
        sock.num = 0;
        sock.locks &= !CONNECT_BIND;
        if let Some(list) = list {
            self.disown(ix, list);
        }
        if let Some(bucket) = bucket {
            self.bucket_release(bucket);
        }
    }

    fn disown(&mut self, ix: SockIx, list: OwnersIx) {
        let sock = &self.socks[ix];
        let (older, newer) = (sock.older_owner, sock.newer_owner);
        if older != NONE {
            self.socks[older].newer_owner = newer;
        }
        let entry = &mut self.owners[list.0];
        if newer == NONE {
            entry.newest = older;
        } else {
            self.socks[newer].older_owner = older;
        }
        self.owners_release(list);
    }

    /// The list goes with its last owner. Left to connect's own sockets, it says so.
    fn owners_release(&mut self, list: OwnersIx) {
        let entry = &self.owners[list.0];
        if entry.newest == NONE {
            let lists = &mut self.buckets[entry.bucket.0].by_addr;
            lists.remove(&mut self.owners, list.0);
            self.owners.give_back(list.0);
            return;
        }
        if entry.connect_only || !self.host.kernel.has(Change::ConnectBind) {
            return;
        }
        let connect_only = self
            .owners_in(list)
            .all(|owner| self.socks[owner].locked(CONNECT_BIND));
        self.owners[list.0].connect_only = connect_only;
    }

    /// The bucket goes with its last owner, and its memory with it.
    fn bucket_release(&mut self, bucket: BucketIx) {
        let entry = &self.buckets[bucket.0];
        if entry.by_addr.is_empty() {
            self.bucket_unlink(bucket);
            self.buckets.give_back(bucket.0);
            return;
        }
        let known = (entry.fastreuse, entry.fastreuseport) == (CONNECT_ONLY, CONNECT_ONLY);
        if known || !self.host.kernel.has(Change::ConnectBind) {
            return;
        }
        let of_connect = |list: OwnersIx| self.owners[list.0].connect_only;
        if self.lists_of(bucket).all(of_connect) {
            let entry = &mut self.buckets[bucket.0];
            entry.fastreuse = CONNECT_ONLY;
            entry.fastreuseport = CONNECT_ONLY;
        }
    }

    fn bucket_unlink(&mut self, bucket: BucketIx) {
        let entry = &self.buckets[bucket.0];
        let (net, port, next) = (entry.net, entry.port, entry.next);
        let before = self
            .buckets_of(net, port)
            .find(|at| self.buckets[at.0].next == bucket.0);
        match before {
            Some(before) => self.buckets[before.0].next = next,
            None => self.ports[net.0 as usize].get_mut(port).bucket = next,
        }
    }

    /// Changes the local address of an owner, and the list it stands in with it.
    pub(crate) fn readdress(&mut self, ix: SockIx, change: impl FnOnce(&mut Sock)) {
        let (Some(bucket), Some(list)) = (self.socks[ix].bucket, self.socks[ix].owners) else {
            change(&mut self.socks[ix]);
            return;
        };
        // The bucket must not fall with its only list: enter the new one first where they differ.
        self.disown(ix, list);
        change(&mut self.socks[ix]);
        let list = match self.owners_of(bucket, ix) {
            Some(list) => list,
            None if self.socks[ix].locked(CONNECT_BIND) => self.owners_for_connect(bucket, ix),
            None => self.owners_create(bucket, ix),
        };
        self.enter_list(ix, list);
    }

    /// Enters a TIME_WAIT socket beside the one that it stands for.
    pub(crate) fn own_beside(&mut self, ix: SockIx, model: SockIx) {
        if let (Some(bucket), Some(list)) = (self.socks[model].bucket, self.socks[model].owners) {
            self.own(ix, bucket, list);
        }
    }

    /// What the bucket remembers after a newcomer was let in.
    ///
    /// `first`: nobody owned the port before.
    pub(crate) fn update_memory(
        &mut self,
        ix: SockIx,
        bucket: BucketIx,
        list: OwnersIx,
        first: bool,
    ) {
        let reuse = self.socks[ix].reuse != Reuse::No && self.socks[ix].state != State::Listen;
        let strict = self.host.kernel.has(Change::StrictReuseport);
        let first = first && !self.host.kernel.has(Change::NoFastreuse);
        let matches = !first && self.reuseport_matches(bucket, ix);
        let sock = &self.socks[ix];
        let entry = &mut self.buckets[bucket.0];
        if first {
            entry.fastreuse = i8::from(reuse);
            entry.fastreuseport = if sock.reuseport { ANY } else { NO };
            if sock.reuseport {
                entry.remembered = Remembered::of(sock);
            }
        } else {
            if !reuse {
                entry.fastreuse = NO;
            }
            if !sock.reuseport || (!strict && sock.uid != entry.remembered.uid) {
                entry.fastreuseport = NO;
            } else if strict && !matches {
                entry.fastreuseport = STRICT;
                entry.remembered = Remembered::of(sock);
            }
        }
        self.owners[list.0].connect_only = false;
    }

    /// Whether the bucket's memory alone lets this SO_REUSEPORT socket in.
    pub(crate) fn reuseport_matches(&self, bucket: BucketIx, ix: SockIx) -> bool {
        let entry = &self.buckets[bucket.0];
        let sock = &self.socks[ix];
        if entry.fastreuseport <= NO || !sock.reuseport || entry.remembered.uid != sock.uid {
            return false;
        }
        if !self.host.kernel.has(Change::StrictReuseport) {
            return true;
        }
        if sock.group.is_some() {
            return false;
        }
        if entry.fastreuseport == ANY {
            return true;
        }
        let known = &entry.remembered;
        match known.family {
            Family::Inet => !sock.v6only && (known.rcv4 == sock.rcv4 || known.rcv4 == 0),
            Family::Inet6 => remembered_covers(known, sock),
        }
    }
}

/// Whether the address that a bucket remembers of an IPv6 socket covers this one's. The remembered
/// wildcard covers; the newcomer's does not.
fn remembered_covers(known: &Remembered, sock: &Sock) -> bool {
    let other = match sock.family {
        Family::Inet => None,
        Family::Inet6 => Some(sock.rcv6),
    };
    let other_mapped = other.is_none_or(is_mapped);
    if is_mapped(known.rcv6) && other_mapped {
        return !sock.v6only && (known.rcv4 == sock.rcv4 || known.rcv4 == 0);
    }
    if known.rcv6 == 0 && (other == Some(0) || !(known.v6only && other_mapped)) {
        return true;
    }
    other == Some(known.rcv6)
}
