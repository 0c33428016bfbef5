//! The listeners of a port, in the order in which a SYN meets them.
//!
//! Decides:  which listeners share a chain: those of one address since 5.0, all of a port before.
//! Kernel:   net/ipv4/inet_hashtables.c, __inet_hash(), inet_lhash2_bucket_sk(); 3.9 to 6.18
//! Not here: who of them gets the SYN (lookup.rs); which end a listener enters at (listen.rs).

use crate::by_addr::{ByAddr, Links, Listed};
use crate::host::NetId;
use crate::socket::{NONE, Sock, SockIx};
use crate::version::Change;
use crate::world::World;

/// Listeners of one address.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    addr: u128,
    head: SockIx,
    tail: SockIx,
    links: Links,
}

impl Listed for Chain {
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

/// Where a listener enters its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Head,
    Tail,
}

impl World {
    /// The chain of the listeners that this address is looked up among.
    pub(crate) fn chain_at(&self, net: NetId, port: u16, addr: u128) -> Option<u32> {
        let listeners = self.slot_of(net, port).listeners;
        if listeners == NONE {
            return None;
        }
        let addr = self.chain_addr(addr);
        self.listeners[listeners].find(&self.chains, addr)
    }

    /// The first listener first.
    pub(crate) fn listeners_in(&self, chain: Option<u32>) -> impl Iterator<Item = SockIx> {
        let mut at = chain.map_or(NONE, |chain| self.chains[chain].head);
        core::iter::from_fn(move || {
            let now = (at != NONE).then_some(at)?;
            at = self.socks[now].next_listener;
            Some(now)
        })
    }

    pub(crate) fn chain_insert(&mut self, ix: SockIx, end: End) {
        let sock = &self.socks[ix];
        let (net, port) = (sock.net, sock.num);
        let addr = self.chain_addr(sock.hash_addr_bucket());
        let slot = self.ports[net.0 as usize].get_mut(port);
        if slot.listeners == NONE {
            // One that was given back is empty.
            slot.listeners = self.listeners.take(ByAddr::new);
        }
        let set = &mut self.listeners[slot.listeners];
        let chain = match set.find(&self.chains, addr) {
            Some(chain) => chain,
            None => {
                let fresh = Chain {
                    addr,
                    head: NONE,
                    tail: NONE,
                    links: Links::NONE,
                };
                let chain = self.chains.take(|| fresh.clone());
                self.chains[chain] = fresh;
                set.insert(&mut self.chains, chain);
                chain
            }
        };
        self.link_listener(ix, chain, end);
    }

    fn link_listener(&mut self, ix: SockIx, chain: u32, end: End) {
        let entry = &mut self.chains[chain];
        let (before, after) = match end {
            End::Head => (NONE, entry.head),
            End::Tail => (entry.tail, NONE),
        };
        match before {
            NONE => entry.head = ix,
            before => self.socks[before].next_listener = ix,
        }
        match after {
            NONE => entry.tail = ix,
            after => self.socks[after].previous_listener = ix,
        }
        let sock = &mut self.socks[ix];
        (sock.previous_listener, sock.next_listener) = (before, after);
        sock.chain = chain;
    }

    /// Takes a listener out. The port may have been given back already, not the number.
    pub(crate) fn chain_remove(&mut self, ix: SockIx) {
        let sock = &mut self.socks[ix];
        let (net, port) = (sock.net, sock.num);
        let chain = core::mem::replace(&mut sock.chain, NONE);
        let (before, after) = (sock.previous_listener, sock.next_listener);
        if chain == NONE {
            return;
        }
        match before {
            NONE => self.chains[chain].head = after,
            before => self.socks[before].next_listener = after,
        }
        match after {
            NONE => self.chains[chain].tail = before,
            after => self.socks[after].previous_listener = before,
        }
        if self.chains[chain].head != NONE {
            return;
        }
        let slot = self.ports[net.0 as usize].get_mut(port);
        let set = &mut self.listeners[slot.listeners];
        set.remove(&mut self.chains, chain);
        self.chains.give_back(chain);
        if set.is_empty() {
            self.listeners.give_back(slot.listeners);
            slot.listeners = NONE;
        }
    }

    /// Before 5.0 the listeners of a port stand in one chain, whatever their addresses.
    fn chain_addr(&self, addr: u128) -> u128 {
        match self.host.kernel.has(Change::AddressFirst) {
            true => Sock::listener_hash(addr),
            false => 0,
        }
    }
}
