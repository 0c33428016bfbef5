//! Which port does the kernel choose, when asked for any?
//!
//! Decides:  the order of the search, given what the kernel drew at random; the set of ports that some
//!           draw leads to.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_find_open_port() and
//!           inet_sk_get_local_port_range(), 4.5 to 6.18; inet_csk_get_port(), 3.9 to 4.4
//! Not here: connect's own choice (connect.rs).

use alloc::vec::Vec;

use crate::call::State;
use crate::conflict::Strictness;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::rules::Rule;
use crate::socket::{Reuse, SockIx};
use crate::version::Change;
use crate::world::World;

/// How often the old search begins again when the port that it shares turns out taken.
const OLD_ATTEMPTS: u32 = 5;

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// A port that no owner stands against.
    Free(u16),
    /// A port with owners that must still be asked (old kernels, when ports are short).
    Shared(u16),
}

/// One stretch of the range that is searched.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    low: u32,
    /// One past the last.
    high: u32,
}

impl Stretch {
    /// How many offsets are drawn from.
    fn span(self) -> u32 {
        let span = self.high - self.low;
        if span > 1 { span & !1 } else { span }
    }

    /// The ports in the order of the search: all at odd offsets from the draw on, then the even ones.
    fn ports(self, draw: u32) -> impl Iterator<Item = u16> {
        let span = self.span();
        let odd = draw | 1;
        [odd, odd - 1].into_iter().flat_map(move |offset| {
            let mut port = self.low + offset;
            (0..span).step_by(2).map(move |_| {
                if port >= self.high {
                    port -= span;
                }
                let now = port as u16;
                port += 2;
                now
            })
        })
    }
}

impl World {
    /// The range of a socket, ends included, and whether its own option gave it.
    pub(crate) fn port_range(&self, ix: SockIx) -> (u16, u16, bool) {
        let sock = &self.socks[ix];
        let (mut low, mut high) = self.host.net(sock.net).sysctls.ip_local_port_range;
        let own = sock.local_port_range;
        if own == 0 || !self.host.kernel.has(Change::LocalPortRange) {
            return (low, high, false);
        }
        let (own_low, own_high) = (own as u16, (own >> 16) as u16);
        if low <= own_low && own_low <= high {
            low = own_low;
        }
        if low <= own_high && own_high <= high {
            high = own_high;
        }
        (low, high, true)
    }

    pub(crate) fn choose_port<T: Trace>(
        &mut self,
        ix: SockIx,
        trace: &mut T,
    ) -> Result<Chosen, Errno> {
        if !self.host.kernel.has(Change::OddEvenBind) {
            return self.choose_port_old(ix, trace);
        }
        let sysctls = &self.host.net(self.socks[ix].net).sysctls;
        let last_resort = sysctls.ip_autobind_reuse && self.host.kernel.has(Change::AutobindReuse);
        let manners: &[Strictness] = if last_resort {
            &[Strictness::CHOOSING, Strictness::LAST_RESORT]
        } else {
            &[Strictness::CHOOSING]
        };
        for &how in manners {
            for stretch in self.stretches(ix).into_iter().flatten() {
                let draw = self.draw(stretch.low, stretch.span());
                if let Some(port) = stretch
                    .ports(draw)
                    .find(|&port| self.fits(ix, port, how, trace))
                {
                    trace.rule(if how == Strictness::CHOOSING {
                        Rule::ChosenFree
                    } else {
                        Rule::ChosenShared
                    });
                    return Ok(Chosen::Free(port));
                }
            }
        }
        trace.rule(Rule::NoPortLeft);
        Err(Errno::EADDRINUSE)
    }

    /// The stretches in order: a socket with SO_REUSEADDR looks through the lower half first.
    fn stretches(&self, ix: SockIx) -> [Option<Stretch>; 2] {
        let (low, high, _) = self.port_range(ix);
        let whole = Stretch {
            low: u32::from(low),
            high: u32::from(high) + 1,
        };
        let width = whole.high - whole.low;
        if self.socks[ix].reuse != Reuse::Can || width < 4 {
            return [Some(whole), None];
        }
        let half = whole.low + ((width >> 2) << 1);
        [
            Some(Stretch {
                high: half,
                ..whole
            }),
            Some(Stretch { low: half, ..whole }),
        ]
    }

    /// Whether the search would stop at this port.
    fn fits<T: Trace>(&self, ix: SockIx, port: u16, how: Strictness, trace: &mut T) -> bool {
        let net = self.socks[ix].net;
        if self.host.net(net).sysctls.is_reserved(port) {
            return false;
        }
        match self.bucket_of(net, port) {
            None => true,
            Some(bucket) => !self.conflicts(ix, bucket, how, trace),
        }
    }

    /// Every port that `bind` to port 0 may choose now, ascending: the first parity of the first
    /// stretch that has any. Empty where it must fail.
    pub(crate) fn permitted(&self, ix: SockIx) -> Vec<u16> {
        if !self.host.kernel.has(Change::OddEvenBind) {
            let (low, high, _) = self.port_range(ix);
            return (low..=high)
                .filter(|&port| self.fits(ix, port, Strictness::CHOOSING, &mut NoTrace))
                .collect();
        }
        let sysctls = &self.host.net(self.socks[ix].net).sysctls;
        let last_resort = sysctls.ip_autobind_reuse && self.host.kernel.has(Change::AutobindReuse);
        let mut manners = alloc::vec![Strictness::CHOOSING];
        if last_resort {
            manners.push(Strictness::LAST_RESORT);
        }
        for how in manners {
            for stretch in self.stretches(ix).into_iter().flatten() {
                for parity in [1, 0] {
                    let found = self.permitted_in(ix, stretch, parity, how);
                    if !found.is_empty() {
                        return found;
                    }
                }
            }
        }
        Vec::new()
    }

    fn permitted_in(&self, ix: SockIx, stretch: Stretch, parity: u32, how: Strictness) -> Vec<u16> {
        if stretch.span() == 1 {
            let port = stretch.low as u16;
            return if self.fits(ix, port, how, &mut NoTrace) {
                alloc::vec![port]
            } else {
                Vec::new()
            };
        }
        // A stretch of odd width: its last port is reached by those draws that pass it before they
        // wrap round, so it is permitted too; the first one is missed by the same draws.
        let ports = (stretch.low..stretch.high).filter(|port| (port - stretch.low) & 1 == parity);
        ports
            .map(|port| port as u16)
            .filter(|&port| self.fits(ix, port, how, &mut NoTrace))
            .collect()
    }

    /// The search of the third seed document: a random rover; where ports are short, the one with the
    /// fewest owners that can be shared.
    fn choose_port_old<T: Trace>(&mut self, ix: SockIx, trace: &mut T) -> Result<Chosen, Errno> {
        let (low, high, _) = self.port_range(ix);
        for _ in 0..=OLD_ATTEMPTS {
            let span = u32::from(high - low) + 1;
            let draw = self.draw(u32::from(low), span);
            let ports = (0..span).map(|step| low + ((draw + step) % span) as u16);
            let mut fewest: Option<(usize, u16)> = None;
            for port in ports {
                let net = self.socks[ix].net;
                if self.host.net(net).sysctls.is_reserved(port) {
                    continue;
                }
                let Some(bucket) = self.bucket_of(net, port) else {
                    trace.rule(Rule::ChosenFree);
                    return Ok(Chosen::Free(port));
                };
                let how = Strictness {
                    share_reuseaddr: false,
                    share_reuseport: true,
                };
                if !self.conflicts(ix, bucket, how, &mut NoTrace) {
                    trace.rule(Rule::ChosenFree);
                    return Ok(Chosen::Free(port));
                }
                let sock = &self.socks[ix];
                let entry = &self.buckets[bucket.0];
                let reuse = sock.reuse != Reuse::No && sock.state != State::Listen;
                let shares = (entry.fastreuse > 0 && reuse)
                    || (entry.fastreuseport > 0
                        && sock.reuseport
                        && entry.remembered.uid == sock.uid);
                let count = entry
                    .by_addr
                    .iter()
                    .map(|l| self.owners[l.0].socks.len())
                    .sum();
                if shares && fewest.is_none_or(|(least, _)| count < least) {
                    fewest = Some((count, port));
                }
            }
            let Some((_, port)) = fewest else { break };
            let Some(bucket) = self.bucket_of(self.socks[ix].net, port) else {
                break;
            };
            if !self.conflicts(ix, bucket, Strictness::NAMED, &mut NoTrace) {
                trace.rule(Rule::ChosenShared);
                return Ok(Chosen::Shared(port));
            }
        }
        trace.rule(Rule::NoPortLeft);
        Err(Errno::EADDRINUSE)
    }
}
