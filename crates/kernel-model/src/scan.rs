//! The order in which a range of ports is searched, and what a random start can lead to.
//!
//! Decides:  which ports a start visits, in which order; for a set of ports that fit, which of them
//!           some start finds, whether some start finds none, and which start that is.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_find_open_port(), 4.6 to 6.18;
//!           net/ipv4/inet_hashtables.c, __inet_hash_connect(), 3.9 to 6.18
//! Not here: which port fits (ports.rs, connect.rs); bind before 4.11 (between.rs, rover.rs).
//!
//! A range of odd width is searched with an even number of steps, and wraps by that number. So a start
//! at its first port misses the last one, and every other even start misses the first: a search can end
//! without a port while one is free. The kernel does exactly this, and so does the model.

use alloc::vec::Vec;

/// Which offsets one start visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// `bind`: every other port from an odd offset, then from the even one before it.
    OddFirst,
    /// `connect`: every other port from an even offset, then from the odd one behind it.
    EvenFirst,
    /// Each port from the offset on.
    Each,
    /// Each port from the one behind the offset on.
    EachBehind,
    /// Each port from an even offset on.
    EachFromEven,
}

/// One range and the way it is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scan {
    pub low: u32,
    /// One past the last.
    pub high: u32,
    pub order: Order,
}

/// What all starts together can lead to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reach {
    /// Ports that some start finds, ascending.
    pub ports: Vec<u16>,
    /// Some start finds none.
    pub may_fail: bool,
}

/// One pass: from an offset on, so many steps of this width.
#[derive(Debug, Clone, Copy)]
struct Pass {
    start: u32,
    step: u32,
}

impl Reach {
    /// The same with its ports in order, each once.
    pub(crate) fn in_order(mut self, may_fail: bool) -> Reach {
        self.ports.sort_unstable();
        self.ports.dedup();
        self.may_fail = may_fail;
        self
    }
}

impl Scan {
    /// How many offsets are drawn from, and how many steps both passes have together.
    pub(crate) fn span(self) -> u32 {
        let width = self.high - self.low;
        match self.order {
            Order::OddFirst | Order::EvenFirst if width > 1 => width & !1,
            _ => width,
        }
    }

    fn passes(self, draw: u32) -> [Option<Pass>; 2] {
        let pass = |start, step| Some(Pass { start, step });
        match self.order {
            Order::OddFirst => [pass(draw | 1, 2), pass(draw & !1, 2)],
            Order::EvenFirst if self.span() > 1 => [pass(draw & !1, 2), pass(draw | 1, 2)],
            Order::EvenFirst => [pass(draw & !1, 2), None],
            Order::Each => [pass(draw, 1), None],
            Order::EachBehind => [pass((draw + 1) % self.span(), 1), None],
            // The kernel makes the number even before it takes the rest: with an odd width that says
            // nothing of the rest.
            Order::EachFromEven if self.span().is_multiple_of(2) => [pass(draw & !1, 1), None],
            Order::EachFromEven => [pass(draw, 1), None],
        }
    }

    /// The ports that a start visits.
    pub(crate) fn ports(self, draw: u32) -> impl Iterator<Item = u16> {
        let span = self.span();
        let passes = self.passes(draw).into_iter().flatten();
        passes.flat_map(move |pass| {
            let mut port = self.low + pass.start;
            (0..span).step_by(pass.step as usize).map(move |_| {
                if port >= self.high {
                    port -= span;
                }
                let now = port as u16;
                port += pass.step;
                now
            })
        })
    }

    /// What each start leads to; the place in the list is the draw.
    fn outcomes(self, mut fits: impl FnMut(u16) -> bool) -> Vec<Option<u16>> {
        let width = self.high - self.low;
        let free: Vec<bool> = (0..width)
            .map(|offset| fits((self.low + offset) as u16))
            .collect();
        let step = match self.order {
            Order::OddFirst | Order::EvenFirst => 2,
            Order::Each | Order::EachBehind | Order::EachFromEven => 1,
        };
        // For each offset the first one from it upwards that fits.
        let mut upwards: Vec<Option<u32>> = alloc::vec![None; width as usize + 2];
        for offset in (0..width).rev() {
            upwards[offset as usize] = if free[offset as usize] {
                Some(offset)
            } else {
                upwards[(offset + step) as usize]
            };
        }
        (0..self.span())
            .map(|draw| {
                let mut passes = self.passes(draw).into_iter().flatten();
                passes.find_map(|pass| self.first(pass, &upwards))
            })
            .collect()
    }

    /// The first port of a pass, by the table of the next ones upwards.
    fn first(self, pass: Pass, upwards: &[Option<u32>]) -> Option<u16> {
        let (width, span) = (self.high - self.low, self.span());
        let steps = span.div_ceil(pass.step);
        // The first offset may lie past the end already (a range of one port).
        let start = if pass.start >= width {
            pass.start - span
        } else {
            pass.start
        };
        let upper = (width - start).div_ceil(pass.step).min(steps);
        let within = |from: u32, count: u32| {
            let end = from + count * pass.step;
            upwards[from as usize].filter(|&found| count > 0 && found < end)
        };
        let wrapped = (start + upper * pass.step).saturating_sub(span);
        let found = within(start, upper).or_else(|| within(wrapped.min(width), steps - upper));
        found.map(|offset| (self.low + offset) as u16)
    }

    /// All that some start leads to.
    pub(crate) fn reach(self, fits: impl FnMut(u16) -> bool) -> Reach {
        let outcomes = self.outcomes(fits);
        let ports = outcomes.iter().copied().flatten().collect();
        Reach {
            ports,
            ..Reach::default()
        }
        .in_order(outcomes.contains(&None))
    }

    /// A start that leads to this port, or to none.
    pub(crate) fn draw_for(
        self,
        wanted: Option<u16>,
        mut fits: impl FnMut(u16) -> bool,
    ) -> Option<u32> {
        if let Some(port) = wanted {
            let port = u32::from(port);
            if port < self.low || port >= self.high || !fits(port as u16) {
                return None;
            }
            // Mostly the search that begins at the port finds it.
            let near = (port - self.low).min(self.span() - 1);
            if self.ports(near).find(|&port| fits(port)) == wanted {
                return Some(near);
            }
        }
        let outcomes = self.outcomes(fits);
        let at = outcomes.iter().position(|&outcome| outcome == wanted)?;
        Some(at as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [Order; 5] = [
        Order::OddFirst,
        Order::EvenFirst,
        Order::Each,
        Order::EachBehind,
        Order::EachFromEven,
    ];
    const LOW: u32 = 40_000;

    fn small(mut check: impl FnMut(Scan, &dyn Fn(u16) -> bool)) {
        for order in ORDERS {
            for width in 1..=9 {
                let scan = Scan {
                    low: LOW,
                    high: LOW + width,
                    order,
                };
                for free in 0..1u32 << width {
                    check(scan, &|port| free >> (u32::from(port) - LOW) & 1 == 1);
                }
            }
        }
    }

    #[test]
    fn the_table_of_outcomes_is_what_each_search_finds() {
        small(|scan, fits| {
            let searched: Vec<Option<u16>> = (0..scan.span())
                .map(|draw| scan.ports(draw).find(|&port| fits(port)))
                .collect();
            assert_eq!(scan.outcomes(fits), searched, "{scan:?}");
        });
    }

    #[test]
    fn a_draw_is_found_for_every_outcome_and_for_no_other() {
        small(|scan, fits| {
            let reach = scan.reach(fits);
            let wanted = (scan.low..scan.high).map(|port| Some(port as u16));
            for wanted in wanted.chain([None]) {
                let possible = match wanted {
                    Some(port) => reach.ports.contains(&port),
                    None => reach.may_fail,
                };
                let draw = scan.draw_for(wanted, fits);
                assert_eq!(draw.is_some(), possible, "{scan:?} {wanted:?}");
                if let Some(draw) = draw {
                    let found = scan.ports(draw).find(|&port| fits(port));
                    assert_eq!(found, wanted, "{scan:?} {draw}");
                }
            }
        });
    }

    #[test]
    fn a_range_of_even_width_is_searched_whole() {
        small(|scan, fits| {
            let any = (scan.low..scan.high).any(|port| fits(port as u16));
            let width = scan.high - scan.low;
            let each = !matches!(scan.order, Order::OddFirst | Order::EvenFirst);
            if width % 2 == 0 || width == 1 || each {
                assert_eq!(scan.reach(fits).may_fail, !any, "{scan:?}");
            }
        });
    }

    #[test]
    fn a_range_of_three_never_gives_its_last_port() {
        for order in [Order::OddFirst, Order::EvenFirst] {
            let scan = Scan {
                low: LOW,
                high: LOW + 3,
                order,
            };
            let reach = scan.reach(|port| u32::from(port) == LOW + 2);
            assert_eq!(
                reach,
                Reach {
                    ports: Vec::new(),
                    may_fail: true
                }
            );
        }
    }
}
