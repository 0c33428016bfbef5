//! When a spliced source is left to gather more before it wakes the worker.
//!
//! Decides:  a source that brings bulk fast tells of bytes only once as much is there as it brings in
//!           some milliseconds, at most a pipe full (`SO_RCVLOWAT`), so that a wake-up, which is
//!           dearer than a splice, moves much. One that becomes slow tells of every byte again. What
//!           was gathered is looked for after a moment in any case; then too, and the next try needs
//!           twice as many bytes, so that a source of answers with pauses between waits a few times
//!           in its life, not at the end of each. While it gathers, the last part of a segment waits
//!           for more bytes; it is sent at that moment at the latest.
//! Kernel:   net/ipv4/tcp.c, tcp_set_rcvlowat(), tcp_data_ready(), tcp_stream_is_readable(); an end,
//!           an error or a full window is told whatever the mark (include/net/tcp.h,
//!           tcp_epollin_ready()), 4.18 to 6.18
//! Not here: the splices themselves (relay.rs).

use crate::net::Net;
use crate::session::{Flow, Session};

/// How long a source may gather, ms.
pub const GATHER_MS: u64 = 10;
/// A fast source gathers what it brings in so many ms, in quarters of a pipe, at most a pipe full.
const AHEAD_MS: u32 = 4;
/// From so many quarters on a source gathers; with none it gathers no more.
const FAST: u8 = 2;
/// A source is fast or slow over so many pipes full.
const RUN: u32 = 4;
/// So many fast runs in a row take a setback back: what the setback costs, the time of some pipes
/// full, is little beside them.
const AMENDS: u8 = 64;
/// Where doubling a run stops.
const MOST_SETBACKS: u8 = 9;

/// Whether a source gathers; small, since every session has two.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gather {
    /// It does.
    pub on: bool,
    /// Until so many quarters of the pipe are there.
    quarters: u8,
    /// How often it took too long, less the amends for it.
    setbacks: u8,
    /// Fast runs in a row.
    fast_runs: u8,
    /// Bytes of this run.
    moved: u32,
    /// When it began, less whole turns of 2^32.
    since_ms: u32,
}

/// After a splice of so much into a pipe that holds so much: was it all that there was? A pipe with
/// a slot for each small packet is full before; what is left in its source would not be told of.
pub fn drained(spliced: usize, capacity: u32) -> bool {
    spliced < capacity as usize / 4
}

impl Gather {
    /// After a splice of so much into a pipe that holds so much: the new mark, if there is one.
    pub fn note(&mut self, spliced: usize, capacity: u32, now_ms: u64) -> Option<u32> {
        let now_ms = now_ms as u32;
        if self.moved == 0 && !self.on {
            self.since_ms = now_ms;
        }
        let spliced = u32::try_from(spliced).unwrap_or(u32::MAX);
        self.moved = self.moved.saturating_add(spliced);
        let doublings = if self.on { 0 } else { self.setbacks };
        let run = (RUN << doublings).saturating_mul(capacity);
        if self.moved < run {
            return None;
        }
        let took_ms = now_ms.wrapping_sub(self.since_ms).max(1);
        let quarter = (capacity / 4).max(1);
        let ahead = (self.moved / took_ms).saturating_mul(AHEAD_MS);
        let quarters = (ahead / quarter).min(4) as u8;
        (self.moved, self.since_ms) = (0, now_ms);
        match (self.on, quarters) {
            (true, 0) => {
                self.give_up();
                return Some(1);
            }
            (true, _) => self.make_amends(),
            (false, FAST..) => self.on = true,
            (false, _) => return None,
        }
        if self.quarters == quarters {
            return None;
        }
        self.quarters = quarters;
        Some(quarter * u32::from(quarters))
    }

    fn make_amends(&mut self) {
        self.fast_runs += 1;
        if self.fast_runs == AMENDS {
            self.fast_runs = 0;
            self.setbacks = self.setbacks.saturating_sub(1);
        }
    }

    /// It took too long.
    pub fn give_up(&mut self) {
        self.on = false;
        (self.quarters, self.fast_runs, self.moved) = (0, 0, 0);
        self.setbacks = (self.setbacks + 1).min(MOST_SETBACKS);
    }
}

/// Is more waited for, of a source that gathers?
fn waits<P>(flow: &Flow<P>) -> bool {
    flow.gather.on && flow.carry.is_empty() && !flow.source_done && !flow.broken
}

/// When to look for what the sources of a session gathered.
pub fn deadline<S, P>(session: &Session<S, P>) -> Option<u64> {
    let up = waits(&session.up).then_some(session.client_heard_ms);
    let down = waits(&session.down).then_some(session.server_heard_ms);
    let heard_ms = up.into_iter().chain(down).min()?;
    Some(heard_ms + GATHER_MS)
}

/// It took too long: what there is can be read, and every byte is told of again.
pub fn stop<N: Net>(session: &mut Session<N::Socket, N::Pipe>, net: &mut N, now_ms: u64) {
    let is_due = |heard_ms: u64| heard_ms + GATHER_MS <= now_ms;
    if waits(&session.up) && is_due(session.client_heard_ms) {
        session.up.gather.give_up();
        session.client_side.readable = true;
        net.set_low_water(&session.client, 1);
        if let Some(server) = &session.server {
            net.set_no_delay(server);
        }
    }
    if waits(&session.down) && is_due(session.server_heard_ms) {
        session.down.gather.give_up();
        session.server_side.readable = true;
        net.set_no_delay(&session.client);
        if let Some(server) = &session.server {
            net.set_low_water(server, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: u32 = 1 << 20;
    const PIECE: usize = 64 << 10;

    /// So many pieces of 64 KiB in so many ms.
    type Speed = (u64, u64);

    /// How many MiB come until the mark changes.
    fn mib_until(
        gather: &mut Gather,
        (pieces, ms): Speed,
        now_ms: &mut u64,
        most_mib: u64,
    ) -> Option<(u64, u32)> {
        for piece in 1..=most_mib << 4 {
            if piece % pieces == 0 {
                *now_ms += ms;
            }
            if let Some(mark) = gather.note(PIECE, PIPE, *now_ms) {
                return Some((piece >> 4, mark));
            }
        }
        None
    }

    #[test]
    fn a_fast_source_gathers_after_some_pipes_full_and_each_setback_doubles_them() {
        let (mut gather, mut now) = (Gather::default(), 1000);
        for expected in [4, 8, 16, 32] {
            let found = mib_until(&mut gather, (8, 1), &mut now, 100);
            assert_eq!(found, Some((expected, PIPE)));
            assert!(gather.on);
            let found = mib_until(&mut gather, (8, 1), &mut now, 100);
            assert_eq!(found, None, "it stays fast");
            gather.give_up();
            now += 10_000;
        }
        (0..100).for_each(|_| gather.give_up());
        let found = mib_until(&mut gather, (8, 1), &mut now, 10_000);
        assert_eq!(found, Some((4 << MOST_SETBACKS, PIPE)));
    }

    #[test]
    fn what_is_gathered_is_what_comes_in_some_milliseconds() {
        let table: [(Speed, Option<u32>); 7] = [
            ((64, 1), Some(PIPE)),
            ((4, 1), Some(PIPE)),
            ((3, 1), Some(PIPE / 4 * 3)),
            ((2, 1), Some(PIPE / 2)),
            ((1, 1), None),
            ((1, 2), None),
            ((1, 1000), None),
        ];
        for (speed, expected) in table {
            let (mut gather, mut now) = (Gather::default(), 1000);
            let found = mib_until(&mut gather, speed, &mut now, 100);
            assert_eq!(found.map(|(_, mark)| mark), expected, "{speed:?}");
            assert_eq!(gather.on, expected.is_some(), "{speed:?}");
        }
    }

    #[test]
    fn a_run_over_the_turn_of_the_clock_is_as_long_as_any() {
        let (mut gather, mut now) = (Gather::default(), u64::from(u32::MAX) - 3);
        let found = mib_until(&mut gather, (8, 1), &mut now, 100);
        assert_eq!(found, Some((4, PIPE)));
        assert!(size_of::<Gather>() <= 12);
    }

    #[test]
    fn a_source_that_becomes_slower_gathers_less_and_then_no_more() {
        let (mut gather, mut now) = (Gather::default(), 1000);
        let table: [(Speed, Option<(u64, u32)>); 5] = [
            ((8, 1), Some((4, PIPE))),
            ((2, 1), Some((4, PIPE / 2))),
            ((1, 1), Some((4, PIPE / 4))),
            ((1, 2), Some((4, 1))),
            ((8, 1), Some((8, PIPE))),
        ];
        for (speed, expected) in table {
            let found = mib_until(&mut gather, speed, &mut now, 100);
            assert_eq!(found, expected, "{speed:?}");
        }
    }

    #[test]
    fn much_that_came_fast_makes_amends_for_a_setback() {
        let (mut gather, mut now) = (Gather::default(), 1000);
        (0..3).for_each(|_| gather.give_up());
        // It begins to gather after 32 MiB; each 256 that follow make amends once.
        for (more_mib, next) in [(32 + 200, 64), (64 + 300, 64), (64 + 256 * 4, 8)] {
            let mut left = more_mib;
            while let Some((took, _)) = mib_until(&mut gather, (8, 1), &mut now, left) {
                left -= took;
            }
            gather.give_up();
            let mut copy = gather;
            let found = mib_until(&mut copy, (8, 1), &mut now, 1000);
            assert_eq!(found, Some((next, PIPE)), "after {more_mib} MiB");
        }
    }

    #[test]
    fn answers_with_pauses_between_wait_a_few_times_only() {
        let (mut gather, mut waits) = (Gather::default(), 0);
        for answer in 0..1000 {
            // 2 MiB at once, every 20 ms.
            for _ in 0..32 {
                gather.note(PIECE, PIPE, 1000 + answer * 20);
            }
            if gather.on {
                gather.give_up();
                waits += 1;
            }
        }
        assert!((1..=9).contains(&waits), "{waits}");
    }

    #[test]
    fn a_pipe_that_is_full_of_small_packets_is_not_taken_for_a_drained_source() {
        // 256 slots of 1,448 bytes; what came meanwhile.
        for (spliced, expected) in [(256 * 1448, false), (PIPE as usize, false), (PIECE, true)] {
            assert_eq!(drained(spliced, PIPE), expected, "{spliced}");
        }
    }
}
