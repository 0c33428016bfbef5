//! Who gets a SYN?
//!
//! Decides:  for an address, port and device, which listener's score is best, and in which order
//!           equal ones are met.
//! Kernel:   net/ipv4/inet_hashtables.c and net/ipv6/inet6_hashtables.c, compute_score(),
//!           inet_lhash2_lookup(), __inet_lookup_listener(); until 4.20 mostly by port alone, 3.9 to 6.18
//! Not here: established connections, which come first (wire.rs); the group's choice (reuseport.rs).

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::addr::{Family, mapped};
use crate::explain::Trace;
use crate::host::NetId;
use crate::reuseport::GroupIx;
use crate::rules::Rule;
use crate::socket::{Hashed, NONE, Sock, SockIx};
use crate::version::Change;
use crate::world::{SocketId, World};

/// Places of the table of listeners by port (`INET_LHTABLE_SIZE`),
const LISTENER_PLACES: u16 = 32;
/// and how many in one place were not too many for a search.
const CROWD: usize = 10;

/// What the search ended at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Nobody,
    One(SockIx),
    Group(GroupIx),
    /// Before there were groups: listeners of one score, in the order in which they are met.
    Among(Vec<SockIx>),
}

/// Where a packet goes: IPv4 in its mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub net: NetId,
    pub addr: u128,
    pub v4: bool,
    pub port: u16,
    pub device: u32,
}

impl World {
    /// The listeners that may get a connection to this address, port and interface: one, or every
    /// member of the group among whom a hash or a program chooses. Empty: the SYN is refused, or there is
    /// no such namespace.
    #[must_use]
    pub fn listeners_for(&self, net: NetId, ip: IpAddr, port: u16, device: u32) -> Vec<SocketId> {
        let (addr, v4) = match ip {
            IpAddr::V4(ip) => (mapped(ip.to_bits()), true),
            IpAddr::V6(ip) => (ip.to_bits(), false),
        };
        match self
            .find_listener(Target {
                net,
                addr,
                v4,
                port,
                device,
            })
            .0
        {
            Found::Nobody => Vec::new(),
            Found::One(ix) => alloc::vec![self.handle(ix)],
            Found::Group(group) => self.groups[group.0]
                .members
                .iter()
                .map(|&ix| self.handle(ix))
                .collect(),
            Found::Among(equals) => equals.iter().map(|&ix| self.handle(ix)).collect(),
        }
    }

    /// The listener of a SYN.
    pub(crate) fn listener_for<T: Trace>(
        &mut self,
        target: Target,
        trace: &mut T,
    ) -> Option<SockIx> {
        let (found, rule) = self.find_listener(target);
        match found {
            Found::Nobody => None,
            Found::One(ix) => {
                trace.blame(rule, self.handle(ix));
                Some(ix)
            }
            Found::Group(group) => {
                trace.rule(rule);
                self.choose_member(group, trace)
            }
            Found::Among(equals) => {
                let chosen = self.draw_equal(&equals);
                trace.blame(Rule::LookupEquals, self.handle(chosen));
                Some(chosen)
            }
        }
    }

    pub(crate) fn find_listener(&self, target: Target) -> (Found, Rule) {
        if self.slot_of(target.net, target.port).listeners == NONE {
            return (Found::Nobody, Rule::Refused);
        }
        let kernel = self.host.kernel;
        if !kernel.has(Change::ReuseportGroups) {
            return (self.equals(target), Rule::LookupExact);
        }
        if !kernel.has(Change::AddressFirst) {
            return self.find_listener_old(target);
        }
        let exact = self.best(target, target.addr, |sock| {
            self.score(sock, target, target.addr)
        });
        if exact != Found::Nobody {
            return (exact, Rule::LookupExact);
        }
        let wildcard = if target.v4 { mapped(0) } else { 0 };
        let found = self.best(target, wildcard, |sock| self.score(sock, target, wildcard));
        (found, Rule::LookupWildcard)
    }

    /// Until 4.20.
    fn find_listener_old(&self, target: Target) -> (Found, Rule) {
        let scored = |wildcard: Option<bool>| {
            self.best(target, 0, |sock| {
                let any = if target.v4 {
                    sock.rcv4 == 0
                } else {
                    sock.rcv6 == 0
                };
                match wildcard.is_none_or(|wanted| wanted == any) {
                    true => self.score_old(sock, target),
                    false => 0,
                }
            })
        };
        if !self.host.kernel.has(Change::ListenerTable2) || !self.is_crowded(target) {
            return (scored(None), Rule::LookupExact);
        }
        match scored(Some(false)) {
            Found::Nobody => (scored(Some(true)), Rule::LookupWildcard),
            exact => (exact, Rule::LookupExact),
        }
    }

    /// More than ten listeners stand in the place of the table by port, which has 32.
    fn is_crowded(&self, target: Target) -> bool {
        let listens = |&ix: &SockIx| {
            let sock = &self.socks[ix];
            sock.hashed == Hashed::Listening
                && sock.net == target.net
                && (sock.num ^ target.port).is_multiple_of(LISTENER_PLACES)
        };
        let all = 0..self.socks.len() as SockIx;
        all.filter(listens).nth(CROWD).is_some()
    }

    /// The first of the best score; but the first better SO_REUSEPORT one ends the search.
    fn best(&self, target: Target, addr: u128, score: impl Fn(&Sock) -> u32) -> Found {
        let (mut best, mut found) = (0, Found::Nobody);
        let chain = self.chain_at(target.net, target.port, addr);
        for ix in self.listeners_in(chain) {
            let sock = &self.socks[ix];
            debug_assert!(sock.net == target.net && sock.num == target.port);
            let score = score(sock);
            if score <= best {
                continue;
            }
            if sock.reuseport
                && let Some(group) = sock.group
                && !self.groups[group.0].members.is_empty()
            {
                return Found::Group(group);
            }
            best = score;
            found = Found::One(ix);
        }
        found
    }

    /// Until 4.5: if the first of the best score has SO_REUSEPORT, all others of that score after it, too.
    fn equals(&self, target: Target) -> Found {
        let (mut best, mut equals): (u32, Vec<SockIx>) = (0, Vec::new());
        let chain = self.chain_at(target.net, target.port, 0);
        for ix in self.listeners_in(chain) {
            let score = self.score_old(&self.socks[ix], target);
            if score > best {
                best = score;
                equals.clear();
                equals.push(ix);
            } else if score > 0 && score == best && self.socks[equals[0]].reuseport {
                equals.push(ix);
            }
        }
        match equals[..] {
            [] => Found::Nobody,
            [one] => Found::One(one),
            _ => Found::Among(equals),
        }
    }

    /// 0: no match. A device counts more, then a socket of IPv4 itself, then the processor.
    fn score(&self, sock: &Sock, target: Target, addr: u128) -> u32 {
        // The chain is that of the address, which the wildcards of both families share.
        let same = if target.v4 {
            !sock.v6only
        } else {
            sock.family == Family::Inet6 && sock.rcv6 == addr
        };
        if !same || !self.hears(sock, target.device) {
            return 0;
        }
        let device = sock.device != 0 && self.host.kernel.has(Change::DeviceScore);
        1 + u32::from(device)
            + u32::from(target.v4 && sock.family == Family::Inet)
            + u32::from(sock.incoming_cpu == self.cpu)
    }

    /// One search over exact and wildcard addresses, where every exact match counts.
    fn score_old(&self, sock: &Sock, target: Target) -> u32 {
        if !self.hears(sock, target.device) {
            return 0;
        }
        let cpu = u32::from(sock.incoming_cpu == self.cpu);
        if target.v4 {
            let any = sock.rcv4 == 0;
            if sock.v6only || !(any || mapped(sock.rcv4) == target.addr) {
                return 0;
            }
            let family = if sock.family == Family::Inet { 2 } else { 1 };
            return family + if any { 0 } else { 4 } + if sock.device == 0 { 0 } else { 4 } + cpu;
        }
        let any = sock.rcv6 == 0;
        if sock.family != Family::Inet6 || !(any || sock.rcv6 == target.addr) {
            return 0;
        }
        1 + u32::from(!any) + u32::from(sock.device != 0) + cpu
    }
}
