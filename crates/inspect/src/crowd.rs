//! Of a crowd of sockets that are alike, some stand for all.
//!
//! Decides:  which sockets are alike to a bind and a listen, and how many of them are enough: the answers, who
//!           is named, and what helps are the same as with all.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_bind_conflict(): of an owner its state, address, device,
//!           user and options are asked, and nothing else; the walk ends at the first that is in the way
//! Not here: connections that arrive, whose peers and queues differ (traffic.rs asks all sockets).
//!
//! A world is copied for each way out that is tried on it, and fifty thousand connections of one listener
//! are all the same obstacle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::snapshot::{InGroup, Options, Socket, State};

/// So many of a crowd stay at each end: more than are ever named, or closed one after the other to see whether
/// that helps (64: `MOST_HOLDERS` of the model's ways_out.rs, four times the holders of a verdict).
pub(crate) const KEPT: usize = 100;

/// What a bind asks of an owner of a port, and what becomes of it when others go.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a> {
    net: usize,
    at: At,
    port: u16,
    state: State,
    half_closed: bool,
    device: u32,
    uid: Option<u32>,
    options: &'a Options,
    group: Option<InGroup>,
    /// Whether somebody has a descriptor of it, as far as that was seen, and whether somebody must.
    held: (bool, bool),
    /// The listener that it waits at.
    listener: Option<usize>,
}

/// Where an owner of a port is, as a newcomer sees it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum At {
    /// At an address that is asked about, now or by a way out.
    Asked(IpAddr),
    /// At another: in the way of a wildcard, like all others there, and of nobody else.
    Elsewhere { six: bool, mapped: bool },
}

impl At {
    fn of(ip: IpAddr, asked: &BTreeSet<IpAddr>) -> At {
        let mapped = ip.is_ipv6() && ip.to_canonical().is_ipv4();
        match ip.is_unspecified() || asked.contains(&ip.to_canonical()) {
            true => At::Asked(ip),
            false => At::Elsewhere {
                six: ip.is_ipv6(),
                mapped,
            },
        }
    }
}

/// A socket, its network namespace, and the listener that it waits at.
pub(crate) type Member<'a> = (usize, &'a Socket, Option<usize>);

/// Whether each of these stays. The first and the last of each kind do, so that whoever is met first, from
/// either end, is the same; and of those that end by themselves the one that ends last. Of `asked` are the
/// addresses, in their canonical form, that anything is asked about but a wildcard.
pub(crate) fn few(all: &[Member<'_>], asked: &BTreeSet<IpAddr>) -> Vec<bool> {
    let mut kinds: BTreeMap<Kind<'_>, Vec<usize>> = BTreeMap::new();
    let mut stays = vec![true; all.len()];
    for (at, &(net, socket, listener)) in all.iter().enumerate() {
        // Of listeners the kernel keeps groups and counts them.
        if socket.state == State::Listen {
            continue;
        }
        let kind = Kind {
            net,
            at: At::of(socket.local.ip(), asked),
            port: socket.local.port(),
            state: socket.state,
            half_closed: socket.half_closed,
            device: socket.device,
            uid: socket.uid,
            options: &socket.options,
            group: socket.group.filter(|group| *group != InGroup::None),
            held: (!socket.holders.is_empty(), socket.inode != 0),
            listener,
        };
        kinds.entry(kind).or_default().push(at);
    }
    let met = first_met(all);
    for (kind, crowd) in kinds {
        let longest = crowd.iter().copied().max_by_key(|&at| all[at].1.timer_ms);
        for &at in &crowd {
            stays[at] = false;
        }
        for at in ends(&crowd).chain(longest) {
            stays[at] = true;
        }
        if let At::Elsewhere { .. } = kind.at {
            // A wildcard meets the owners address by address: the newest one, then those of that one.
            let mut by_address = crowd;
            by_address.sort_by_key(|&at| (met[&bucket(&all[at])], at));
            for at in ends(&by_address) {
                stays[at] = true;
            }
        }
    }
    // An address is as new as the first that came there.
    let kept = (0..all.len()).filter(|&at| stays[at]);
    let firsts: Vec<usize> = kept.map(|at| met[&bucket(&all[at])]).collect();
    for first in firsts {
        stays[first] = true;
    }
    stays
}

/// The first and the last of a crowd.
fn ends(crowd: &[usize]) -> impl Iterator<Item = usize> {
    let behind = crowd.len().saturating_sub(KEPT).max(KEPT.min(crowd.len()));
    let (before, after) = (&crowd[..KEPT.min(crowd.len())], &crowd[behind..]);
    before.iter().chain(after).copied()
}

/// What the kernel keeps the owners of one address in.
fn bucket(member: &Member<'_>) -> (usize, SocketAddr, u32) {
    (member.0, member.1.local, member.1.device)
}

/// The first member of each address.
fn first_met(all: &[Member<'_>]) -> BTreeMap<(usize, SocketAddr, u32), usize> {
    let mut met = BTreeMap::new();
    for (at, member) in all.iter().enumerate() {
        met.entry(bucket(member)).or_insert(at);
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> BTreeSet<IpAddr> {
        BTreeSet::from(["127.0.0.1".parse().unwrap()])
    }

    #[test]
    fn sockets_at_addresses_that_nobody_asks_about_are_one_crowd() {
        let sockets: Vec<Socket> = (0..3000u32)
            .map(|at| {
                let first = u32::from_be_bytes([127, 0, 0, 1]);
                let ip = std::net::Ipv4Addr::from_bits(first + at / 3);
                let mut one = Socket::unknown((ip, 80).into());
                one.state = State::TimeWait;
                one
            })
            .collect();
        let all: Vec<Member<'_>> = sockets.iter().map(|socket| (0, socket, None)).collect();
        let stays = few(&all, &asked());
        assert_eq!(&stays[..3], [true; 3], "those at the address");
        let kept = stays.iter().filter(|stays| **stays).count();
        assert!((2 * KEPT..5 * KEPT).contains(&kept), "{kept}");
    }

    #[test]
    fn a_crowd_keeps_its_ends_and_the_one_that_lasts_longest() {
        let mut one = Socket::unknown("127.0.0.1:80".parse().unwrap());
        one.state = State::TimeWait;
        let mut sockets = vec![one; 1000];
        sockets[500].timer_ms = Some(60_000);
        sockets[700].device = 3;
        sockets[800].options.reuseaddr = Some(true);
        sockets[900].state = State::Listen;
        let all: Vec<Member<'_>> = sockets.iter().map(|socket| (0, socket, None)).collect();
        let stays = few(&all, &asked());
        let kept: Vec<usize> = (0..1000).filter(|&at| stays[at]).collect();
        let odd = [500, 700, 800, 900];
        // The listener is within the last hundred, and none of the crowd.
        let expected = (0..KEPT).chain(odd[..3].iter().copied()).chain(899..1000);
        assert_eq!(kept, expected.collect::<Vec<_>>());
    }

    #[test]
    fn who_is_not_many_stays() {
        let socket = Socket::unknown("127.0.0.1:80".parse().unwrap());
        for many in [0, 1, 2 * KEPT] {
            assert_eq!(
                few(&vec![(0, &socket, None); many], &asked()),
                vec![true; many]
            );
        }
        let more = few(&vec![(0, &socket, None); 2 * KEPT + 2], &asked());
        assert_eq!(more.iter().filter(|stays| **stays).count(), 2 * KEPT);
    }
}
