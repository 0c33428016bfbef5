//! How `bind` chose a port from 4.6 to 4.10: odd ports, then even ones, and between them one to share.
//!
//! Decides:  which port without a conflict is met first; where every other port of a stretch is taken, which of
//!           those that could be shared has the fewest owners, and how often that is tried again.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_get_port(), 4.6 to 4.10
//! Not here: the search since 4.11, of which this has the stretches and their order (ports.rs, scan.rs); the one
//!           until 4.5 (rover.rs).

use alloc::vec::Vec;

use crate::conflict::Strictness;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::ports::Told;
use crate::rover::ATTEMPTS;
use crate::rules::Rule;
use crate::scan::{Reach, Scan};
use crate::socket::{Reuse, SockIx};
use crate::version::Change;
use crate::world::World;

/// What a port is to the socket.
#[derive(Debug, Clone, Copy)]
struct Mark {
    fits: bool,
    /// How many own it, where the bucket's memory would let the socket in.
    owners: Option<usize>,
}

/// What one start in a stretch comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Free(u16),
    /// The one with the fewest owners.
    Shared(u16),
    /// The same, and an owner stands against it after all: the search begins again.
    Taken,
    Nothing,
}

impl World {
    pub(crate) fn choose_between<T: Trace>(
        &mut self,
        ix: SockIx,
        trace: &mut T,
    ) -> Result<u16, Errno> {
        let mut attempts = ATTEMPTS;
        let mut stretches = self.stretches(ix).into_iter().flatten();
        while let Some(scan) = stretches.next() {
            let draw = self.draw_between(ix, scan);
            match self.end(ix, scan, draw, |port| self.mark(ix, port)) {
                End::Free(port) => {
                    trace.rule(Rule::ChosenFree);
                    return Ok(port);
                }
                End::Shared(port) => {
                    trace.rule(Rule::ChosenShared);
                    return Ok(port);
                }
                End::Taken if attempts > 0 => {
                    attempts -= 1;
                    stretches = self.stretches(ix).into_iter().flatten();
                }
                End::Taken => break,
                End::Nothing => {}
            }
        }
        for scan in self
            .stretches(ix)
            .into_iter()
            .flatten()
            .filter(|_| T::ASKED)
        {
            for port in scan.ports(0) {
                self.fits(ix, port, self.strict(), trace);
            }
        }
        trace.rule(Rule::NoPortLeft);
        Err(Errno::EADDRINUSE)
    }

    /// Every port that the search may end at.
    pub(crate) fn reach_between(&self, ix: SockIx) -> Reach {
        let mut all = Reach::default();
        let mut taken = false;
        for scan in self.stretches(ix).into_iter().flatten() {
            let ends = self.ends_between(ix, scan);
            taken |= ends.contains(&End::Taken);
            all.ports.extend(ends.iter().filter_map(|end| match end {
                End::Free(port) | End::Shared(port) => Some(*port),
                End::Taken | End::Nothing => None,
            }));
            if !ends.contains(&End::Nothing) {
                return all.in_order(taken);
            }
        }
        all.in_order(true)
    }

    /// How a port is looked at first,
    fn strict(&self) -> Strictness {
        match self.host.kernel.has(Change::ChoiceSparesGroups) {
            true => Strictness::CHOOSING,
            false => Strictness::ROVER,
        }
    }

    /// and how, when it is to be shared.
    fn relaxed(&self) -> Strictness {
        match self.host.kernel.has(Change::ChoiceSparesGroups) {
            true => Strictness::LAST_RESORT,
            false => Strictness::NAMED,
        }
    }

    fn mark(&self, ix: SockIx, port: u16) -> Mark {
        let grouped = self.socks[ix].group.is_some();
        Mark {
            fits: self.fits(ix, port, self.strict(), &mut NoTrace),
            owners: self.shareable(ix, port, !grouped),
        }
    }

    /// The odd ports from a start on, then the even ones, if none of the odd ones can be shared.
    fn end(&self, ix: SockIx, scan: Scan, draw: u32, mark: impl Fn(u16) -> Mark) -> End {
        let odd_ones = scan.span().div_ceil(2) as usize;
        let mut fewest: Option<(usize, u16)> = None;
        for (step, port) in scan.ports(draw).enumerate() {
            if step == odd_ones && fewest.is_some() {
                break;
            }
            let mark = mark(port);
            if mark.fits {
                return End::Free(port);
            }
            if let Some(count) = mark.owners
                && fewest.is_none_or(|(least, _)| count < least)
            {
                fewest = Some((count, port));
            }
        }
        let Some((_, port)) = fewest else {
            return End::Nothing;
        };
        let forced = self.socks[ix].reuse == Reuse::Force;
        match forced || self.fits(ix, port, self.relaxed(), &mut NoTrace) {
            true => End::Shared(port),
            false => End::Taken,
        }
    }

    /// What each start leads to; the place in the list is the draw.
    fn ends_between(&self, ix: SockIx, scan: Scan) -> Vec<End> {
        let marks: Vec<Mark> = (scan.low..scan.high)
            .map(|port| self.mark(ix, port as u16))
            .collect();
        let mark = |port: u16| marks[(u32::from(port) - scan.low) as usize];
        (0..scan.span())
            .map(|draw| self.end(ix, scan, draw, mark))
            .collect()
    }

    /// Where a search begins: as it was told, else at random.
    fn draw_between(&mut self, ix: SockIx, scan: Scan) -> u32 {
        let wanted = match self.told() {
            Told::Nothing => return self.draw(scan.span()),
            Told::Port(port) => Some(port),
            Told::NoPort => None,
        };
        let ends = self.ends_between(ix, scan);
        let gives = |end: &End| {
            wanted.is_some_and(|port| matches!(end, End::Free(it) | End::Shared(it) if *it == port))
        };
        // Where this stretch cannot give it, the next one may, or another attempt.
        let at = ends
            .iter()
            .position(gives)
            .or_else(|| ends.iter().position(|end| *end == End::Nothing))
            .or_else(|| ends.iter().position(|end| *end == End::Taken));
        at.unwrap_or(0) as u32
    }
}
