//! How `bind` chose a port until 4.5: a rover from a random start.
//!
//! Decides:  which port without a conflict is met first; where ports are short, which of those that
//!           could be shared has the fewest owners, and how often that is tried again.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_get_port(), 3.9 to 4.5
//! Not here: the search since 4.6 (between.rs, ports.rs).
//!
//! The third seed document describes this one. What it says of more sockets than ports
//! (`hashinfo->bsockets`) decides nothing: the check behind it is the one that every port gets.

use alloc::vec::Vec;

use crate::call::State;
use crate::conflict::Strictness;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::ports::Told;
use crate::rules::Rule;
use crate::scan::{Order, Reach, Scan};
use crate::socket::{Reuse, SockIx};
use crate::version::Change;
use crate::world::World;

/// How often the search begins again when the port that it would share turns out taken.
pub(crate) const ATTEMPTS: u32 = 5;

/// What one turn of the rover came to.
enum Turn {
    Free(u16),
    /// The shareable port with the fewest owners.
    Shared(u16),
    Nothing,
}

/// The ports at which some turn ends: free, or as good as any to share.
#[derive(Default)]
struct Ends {
    good: Vec<u16>,
    /// Taken after all: the search begins again.
    bad: Vec<u16>,
}

impl World {
    pub(crate) fn choose_by_rover<T: Trace>(
        &mut self,
        ix: SockIx,
        trace: &mut T,
    ) -> Result<u16, Errno> {
        let mut attempts = ATTEMPTS;
        let mut stretches = self.rover_stretches(ix).into_iter().flatten();
        let mut stretch = stretches.next();
        while let Some(scan) = stretch {
            let draw = self.rover_draw(ix, scan);
            match self.turn(ix, scan, draw) {
                Turn::Free(port) => {
                    trace.rule(Rule::ChosenFree);
                    return Ok(port);
                }
                Turn::Shared(port) if self.fits(ix, port, Strictness::NAMED, trace) => {
                    trace.rule(Rule::ChosenShared);
                    return Ok(port);
                }
                Turn::Shared(_) if attempts > 0 => attempts -= 1,
                Turn::Shared(_) => break,
                Turn::Nothing => stretch = stretches.next(),
            }
        }
        trace.rule(Rule::NoPortLeft);
        Err(Errno::EADDRINUSE)
    }

    /// The whole range; since 4.2 a socket with SO_REUSEADDR looks through the lower half first. The
    /// port in the middle belongs to both halves.
    fn rover_stretches(&self, ix: SockIx) -> [Option<Scan>; 2] {
        let (low, high, _) = self.port_range(ix);
        let (low, high) = (u32::from(low), u32::from(high));
        let scan = |low: u32, high: u32| {
            Some(Scan {
                low,
                high: high + 1,
                order: Order::Each,
            })
        };
        let halves = self.host.kernel.has(Change::RoverHalves);
        if !halves || self.socks[ix].reuse != Reuse::Can {
            return [scan(low, high), None];
        }
        let half = low + ((high - low) >> 1);
        [scan(low, half), scan(half, high)]
    }

    /// One turn over all ports of the stretch.
    fn turn(&self, ix: SockIx, scan: Scan, draw: u32) -> Turn {
        let mut fewest: Option<(usize, u16)> = None;
        for port in scan.ports(draw) {
            if self.fits(ix, port, Strictness::ROVER, &mut NoTrace) {
                return Turn::Free(port);
            }
            if let Some(count) = self.shareable(ix, port, true)
                && fewest.is_none_or(|(least, _)| count < least)
            {
                fewest = Some((count, port));
            }
        }
        fewest.map_or(Turn::Nothing, |(_, port)| Turn::Shared(port))
    }

    /// How many own this port, if the bucket's memory would let the socket in; through SO_REUSEPORT only where
    /// its group allows.
    pub(crate) fn shareable(&self, ix: SockIx, port: u16, group_ok: bool) -> Option<usize> {
        let sock = &self.socks[ix];
        if self.host.net(sock.net).sysctls.is_reserved(port) {
            return None;
        }
        let bucket = self.bucket_for(ix, port)?;
        let entry = &self.buckets[bucket.0];
        let reuse = sock.reuse != Reuse::No && sock.state != State::Listen;
        let same_user = entry.remembered.uid == sock.uid;
        let reuseport = entry.fastreuseport > 0 && sock.reuseport && group_ok && same_user;
        let shares = (entry.fastreuse > 0 && reuse) || reuseport;
        shares.then(|| self.owners_of_bucket(bucket))
    }

    /// Where one turn can end, over all starts.
    fn ends(&self, ix: SockIx, scan: Scan) -> Ends {
        let all = || (scan.low..scan.high).map(|port| port as u16);
        let free = all().filter(|&port| self.fits(ix, port, Strictness::ROVER, &mut NoTrace));
        let good: Vec<u16> = free.collect();
        if !good.is_empty() {
            let bad = Vec::new();
            return Ends { good, bad };
        }
        let Some(least) = all()
            .filter_map(|port| self.shareable(ix, port, true))
            .min()
        else {
            return Ends::default();
        };
        let (good, bad) = all()
            .filter(|&port| self.shareable(ix, port, true) == Some(least))
            .partition(|&port| self.fits(ix, port, Strictness::NAMED, &mut NoTrace));
        Ends { good, bad }
    }

    /// Where a turn begins: as it was told, else at random. A turn that begins at a port as good as any
    /// ends there.
    fn rover_draw(&mut self, ix: SockIx, scan: Scan) -> u32 {
        let wanted = match self.told() {
            Told::Nothing => return self.draw(scan.span()),
            Told::Port(port) => Some(port),
            Told::NoPort => None,
        };
        let ends = self.ends(ix, scan);
        let good = wanted.filter(|port| ends.good.contains(port));
        let at = good.or_else(|| ends.bad.first().copied());
        at.map_or(0, |port| u32::from(port) - scan.low)
    }

    /// Every port that the rover may end at.
    pub(crate) fn reach_of_rover(&self, ix: SockIx) -> Reach {
        for scan in self.rover_stretches(ix).into_iter().flatten() {
            let ends = self.ends(ix, scan);
            if !ends.good.is_empty() || !ends.bad.is_empty() {
                return Reach {
                    ports: ends.good,
                    may_fail: !ends.bad.is_empty(),
                };
            }
        }
        Reach {
            may_fail: true,
            ..Reach::default()
        }
    }
}
