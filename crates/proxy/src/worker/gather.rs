//! When a spliced source is left to gather more before it wakes the worker.
//!
//! Decides:  a source that brings bulk fast tells of bytes only once a good part of a pipe is there
//!           (`SO_RCVLOWAT`), so that a wake-up is two large splices and not several small ones. One
//!           that becomes slow tells of every byte again. What was gathered is looked for after a
//!           moment in any case; then too, and the next try needs twice as many bytes, so that a
//!           source of answers with pauses between waits a few times in its life, not at the end of
//!           each.
//! Kernel:   net/ipv4/tcp.c, tcp_set_rcvlowat(), tcp_data_ready(), tcp_stream_is_readable(); an end,
//!           an error or a full window is told whatever the mark (include/net/tcp.h,
//!           tcp_epollin_ready()), 4.18 to 6.18
//! Not here: the splices themselves (relay.rs).

use crate::net::Net;
use crate::session::{Flow, Session};

/// How long a source may gather, ms.
pub const GATHER_MS: u64 = 10;
/// What a source gathers is this part of the pipe; a fast one brings as much in a millisecond.
const MARK: u32 = 4;
/// A source is fast or slow over so many pipes full.
const RUN: u32 = 4;
/// Where doubling that stops.
const MOST_SETBACKS: u8 = 9;

/// Whether a source gathers; small, since every session has two.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gather {
    /// It does.
    pub on: bool,
    /// How often it took too long.
    setbacks: u8,
    /// Bytes of this run.
    moved: u32,
    /// When it began, less whole turns of 2^32.
    since_ms: u32,
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
        let mark = capacity / MARK;
        let took_ms = now_ms.wrapping_sub(self.since_ms);
        let is_fast = self.moved >= took_ms.saturating_mul(mark);
        (self.moved, self.since_ms) = (0, now_ms);
        match (self.on, is_fast) {
            (false, true) => {
                self.on = true;
                Some(mark)
            }
            (true, false) => {
                self.give_up();
                Some(1)
            }
            _ => None,
        }
    }

    /// It took too long.
    pub fn give_up(&mut self) {
        self.on = false;
        self.moved = 0;
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
    }
    if waits(&session.down) && is_due(session.server_heard_ms) {
        session.down.gather.give_up();
        session.server_side.readable = true;
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

    /// How many MiB come, `a_ms` pieces of 64 KiB in a millisecond, until the mark changes.
    fn mib_until(gather: &mut Gather, a_ms: u64, now_ms: &mut u64) -> Option<(u64, u32)> {
        for piece in 1..=1 << 20 {
            *now_ms += u64::from(piece % a_ms == 0);
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
            let found = mib_until(&mut gather, 8, &mut now);
            assert_eq!(found, Some((expected, PIPE / 4)));
            assert!(gather.on);
            assert_eq!(mib_until(&mut gather, 8, &mut now), None, "it stays fast");
            gather.give_up();
            now += 10_000;
        }
        (0..100).for_each(|_| gather.give_up());
        let found = mib_until(&mut gather, 8, &mut now);
        assert_eq!(found, Some((4 << MOST_SETBACKS, PIPE / 4)));
    }

    #[test]
    fn a_run_over_the_turn_of_the_clock_is_as_long_as_any() {
        let (mut gather, mut now) = (Gather::default(), u64::from(u32::MAX) - 3);
        assert_eq!(mib_until(&mut gather, 8, &mut now), Some((4, PIPE / 4)));
        assert!(size_of::<Gather>() <= 12);
    }

    #[test]
    fn a_slow_source_never_gathers() {
        // Three pieces in a millisecond are 192 KiB; a mark would be 256.
        let (mut gather, mut now) = (Gather::default(), 1000);
        assert_eq!(mib_until(&mut gather, 3, &mut now), None);
        assert!(!gather.on);
    }

    #[test]
    fn a_source_that_becomes_slow_gathers_no_more() {
        let (mut gather, mut now) = (Gather::default(), 1000);
        assert_eq!(mib_until(&mut gather, 8, &mut now), Some((4, PIPE / 4)));
        assert_eq!(mib_until(&mut gather, 2, &mut now), Some((4, 1)));
        assert!(!gather.on);
        assert_eq!(mib_until(&mut gather, 8, &mut now), Some((8, PIPE / 4)));
    }

    #[test]
    fn a_pause_between_answers_counts_as_slowness() {
        let mut gather = Gather::default();
        for answer in 0..1000 {
            // 2 MiB at once, every 20 ms.
            for _ in 0..32 {
                assert_eq!(gather.note(PIECE, PIPE, 1000 + answer * 20), None);
            }
        }
    }
}
