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

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::snapshot::{InGroup, Options, Socket, State};

/// So many of a crowd stay at each end: more than are ever named, or closed one after the other to see whether
/// that helps (64: `MOST_HOLDERS` of the model's ways_out.rs, four times the holders of a verdict).
pub(crate) const KEPT: usize = 100;

/// What a bind asks of an owner of a port, and what becomes of it when others go.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind<'a> {
    net: usize,
    local: SocketAddr,
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

/// A socket, its network namespace, and the listener that it waits at.
pub(crate) type Member<'a> = (usize, &'a Socket, Option<usize>);

/// Whether each of these stays. The first and the last of each kind do, so that whoever is met first, from
/// either end, is the same; and of those that end by themselves the one that ends last.
pub(crate) fn few(all: &[Member<'_>]) -> Vec<bool> {
    let mut kinds: BTreeMap<Kind<'_>, Vec<usize>> = BTreeMap::new();
    let mut stays = vec![true; all.len()];
    for (at, &(net, socket, listener)) in all.iter().enumerate() {
        // Of listeners the kernel keeps groups and counts them.
        if socket.state == State::Listen {
            continue;
        }
        let kind = Kind {
            net,
            local: socket.local,
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
    for crowd in kinds.into_values() {
        let longest = crowd.iter().copied().max_by_key(|&at| all[at].1.timer_ms);
        let behind = crowd.len().saturating_sub(KEPT);
        for &at in crowd.get(KEPT..behind).unwrap_or_default() {
            stays[at] = Some(at) == longest;
        }
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let stays = few(&all);
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
            assert_eq!(few(&vec![(0, &socket, None); many]), vec![true; many]);
        }
        let more = few(&vec![(0, &socket, None); 2 * KEPT + 2]);
        assert_eq!(more.iter().filter(|stays| **stays).count(), 2 * KEPT);
    }
}
