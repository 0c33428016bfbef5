//! Which port does the kernel choose, when asked for any?
//!
//! Decides:  which stretches of the range are searched in which manner, and which ports fit; which
//!           ports some draw of the kernel's leads to.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_find_open_port() and
//!           inet_sk_get_local_port_range(), 4.11 to 6.18
//! Not here: the order within a stretch (scan.rs); bind before 4.11 (between.rs, rover.rs); connect's own
//!           choice (connect.rs).

use alloc::vec::Vec;

use crate::conflict::Strictness;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::rules::Rule;
use crate::scan::{Order, Reach, Scan};
use crate::socket::{Reuse, SockIx};
use crate::version::Change;
use crate::world::World;

/// A range narrower than this is not halved.
const HALVED_MIN: u32 = 4;

/// What a call that leaves the port to the kernel may choose, over all the kernel's random draws.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortChoice {
    /// Ports that some draw leads to, ascending.
    pub ports: Vec<u16>,
    /// Some draw finds no port. In a range of odd width that happens while a port is free.
    pub may_fail: bool,
}

impl From<Reach> for PortChoice {
    fn from(reach: Reach) -> PortChoice {
        PortChoice {
            ports: reach.ports,
            may_fail: reach.may_fail,
        }
    }
}

/// How the next choice among random possibilities comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    Port(u16),
    NoPort,
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

    /// The port that `bind` to port 0, or `listen` without `bind`, takes.
    pub(crate) fn choose_port<T: Trace>(
        &mut self,
        ix: SockIx,
        trace: &mut T,
    ) -> Result<u16, Errno> {
        if self.is_asked() {
            let reach = self.reach_of_bind(ix);
            return self.answer_asked(reach, Errno::EADDRINUSE);
        }
        if !self.host.kernel.has(Change::OddEvenBind) {
            return self.choose_by_rover(ix, trace);
        }
        if !self.host.kernel.has(Change::FirstFitBind) {
            return self.choose_between(ix, trace);
        }
        for &how in self.manners(ix) {
            for stretch in self.stretches(ix).into_iter().flatten() {
                let draw = self.draw_in(stretch, |world, port| {
                    world.fits(ix, port, how, &mut NoTrace)
                });
                let found = stretch
                    .ports(draw)
                    .find(|&port| self.fits(ix, port, how, trace));
                if let Some(port) = found {
                    trace.rule(if how == Strictness::CHOOSING {
                        Rule::ChosenFree
                    } else {
                        Rule::ChosenShared
                    });
                    return Ok(port);
                }
            }
        }
        trace.rule(Rule::NoPortLeft);
        Err(Errno::EADDRINUSE)
    }

    /// First a port that nobody stands against; with `ip_autobind_reuse`, then one that can be shared.
    fn manners(&self, ix: SockIx) -> &'static [Strictness] {
        let sysctls = &self.host.net(self.socks[ix].net).sysctls;
        if sysctls.ip_autobind_reuse && self.host.kernel.has(Change::AutobindReuse) {
            &[Strictness::CHOOSING, Strictness::LAST_RESORT]
        } else {
            &[Strictness::CHOOSING]
        }
    }

    /// The stretches in order: a socket with SO_REUSEADDR looks through the lower half first.
    pub(crate) fn stretches(&self, ix: SockIx) -> [Option<Scan>; 2] {
        let (low, high, _) = self.port_range(ix);
        let (low, high) = (u32::from(low), u32::from(high) + 1);
        let scan = |low, high| {
            Some(Scan {
                low,
                high,
                order: Order::OddFirst,
            })
        };
        let width = high - low;
        if self.socks[ix].reuse != Reuse::Can || width < HALVED_MIN {
            return [scan(low, high), None];
        }
        let half = low + ((width >> 2) << 1);
        [scan(low, half), scan(half, high)]
    }

    /// Whether the search would stop at this port.
    pub(crate) fn fits<T: Trace>(
        &self,
        ix: SockIx,
        port: u16,
        how: Strictness,
        trace: &mut T,
    ) -> bool {
        let net = self.socks[ix].net;
        if self.host.net(net).sysctls.is_reserved(port) {
            return false;
        }
        match self.bucket_for(ix, port) {
            None => true,
            Some(bucket) => !self.conflicts(ix, bucket, how, trace),
        }
    }

    /// Every port that `bind` to port 0 may choose now, and whether it may fail.
    pub(crate) fn reach_of_bind(&self, ix: SockIx) -> Reach {
        if !self.host.kernel.has(Change::OddEvenBind) {
            return self.reach_of_rover(ix);
        }
        if !self.host.kernel.has(Change::FirstFitBind) {
            return self.reach_between(ix);
        }
        let mut all = Reach::default();
        for &how in self.manners(ix) {
            for stretch in self.stretches(ix).into_iter().flatten() {
                let reach = stretch.reach(|port| self.fits(ix, port, how, &mut NoTrace));
                all.ports.extend(reach.ports);
                if !reach.may_fail {
                    return all.in_order(false);
                }
            }
        }
        all.in_order(true)
    }

    /// Where a search begins: as it was told, else at random.
    pub(crate) fn draw_in(&mut self, scan: Scan, fits: impl Fn(&World, u16) -> bool) -> u32 {
        let wanted = match self.told() {
            Told::Nothing => return self.draw(scan.span()),
            Told::Port(port) => Some(port),
            Told::NoPort => None,
        };
        let world: &World = self;
        let here = scan.draw_for(wanted, |port| fits(world, port));
        // Where this stretch cannot give it, the next one may: if this one gives nothing.
        let draw = here.or_else(|| match wanted {
            Some(_) => scan.draw_for(None, |port| fits(world, port)),
            None => None,
        });
        draw.unwrap_or(0)
    }
}
