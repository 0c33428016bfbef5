//! How many connections were taken in the last second, exactly, for all workers together.
//!
//! Decides:  of the second before this one the part counts that is less than a second ago, as if its
//!           connections had been spread evenly.
//! Source:   HAProxy's manual, `rate-limit sessions`, `maxconnrate`; src/freq_ctr.c,
//!           freq_ctr_remain_period(), 2.6 to 3.5.
//! Not here: what a worker does with its listeners meanwhile (worker/accept.rs).

use std::sync::{Mutex, PoisonError};

/// The period, ms.
const SECOND_MS: u64 = 1000;

/// A count of events of the last second.
#[derive(Debug, Default)]
pub struct Rate {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Which second it is.
    second: u64,
    /// Events in it.
    now: u64,
    /// Events in the one before.
    before: u64,
}

impl Rate {
    /// Counts one event, if that keeps the rate at or below `limit` (0: no limit); else says after
    /// how many ms it may be tried again.
    pub fn take(&self, limit: u32, now_ms: u64) -> Result<(), u64> {
        if limit == 0 {
            return Ok(());
        }
        let limit = u64::from(limit);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.turn(now_ms);
        let into = now_ms % SECOND_MS;
        let past = counts.before * (SECOND_MS - into) / SECOND_MS;
        if counts.now + past < limit {
            counts.now += 1;
            return Ok(());
        }
        // The last part of the second before that leaves room; none does if this one alone is full.
        let room = limit.saturating_sub(counts.now) * SECOND_MS;
        let left = match counts.before {
            0 => 0,
            before => room.saturating_sub(1) / before,
        };
        Err((SECOND_MS - into).saturating_sub(left).max(1))
    }

    /// Takes one event back that did not happen after all.
    pub fn give_back(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.now = counts.now.saturating_sub(1);
    }
}

impl Counts {
    fn turn(&mut self, now_ms: u64) {
        let second = now_ms / SECOND_MS;
        if second == self.second {
            return;
        }
        self.before = match second == self.second + 1 {
            true => self.now,
            false => 0,
        };
        (self.second, self.now) = (second, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes whenever it may, for a while; the times at which it could.
    fn greedy(limit: u32, from_ms: u64, for_ms: u64) -> Vec<u64> {
        let rate = Rate::default();
        let mut taken = Vec::new();
        let mut now = from_ms;
        while now < from_ms + for_ms {
            match rate.take(limit, now) {
                Ok(()) => taken.push(now),
                Err(wait) => {
                    assert!((1..=SECOND_MS).contains(&wait), "{wait}");
                    now += wait;
                }
            }
        }
        taken
    }

    #[test]
    fn a_greedy_one_gets_about_its_rate_and_never_twice_it_in_any_second() {
        for limit in [1, 2, 7, 100, 1_000] {
            for from in [0, 999, 123_456] {
                let taken = greedy(limit, from, 10_000);
                let total = taken.len() as u64;
                let expected = u64::from(limit) * 10;
                assert!(
                    total <= expected + u64::from(limit) && total * 10 >= expected * 6,
                    "limit {limit} from {from}: {total}"
                );
                for (at, first) in taken.iter().enumerate() {
                    let end = taken.partition_point(|ms| *ms < first + SECOND_MS);
                    let in_second = end - at;
                    assert!(in_second <= limit as usize * 2, "limit {limit} at {first}");
                }
            }
        }
    }

    #[test]
    fn an_idle_second_gives_the_whole_rate_at_once() {
        let rate = Rate::default();
        for _ in 0..10 {
            assert_eq!(rate.take(10, 500), Ok(()));
        }
        assert_eq!(rate.take(10, 500), Err(500));
        assert!(rate.take(10, 1000).is_err());
        for _ in 0..10 {
            assert_eq!(rate.take(10, 3000), Ok(()));
        }
        rate.give_back();
        assert_eq!(rate.take(10, 3000), Ok(()));
        assert!(rate.take(10, 3000).is_err());
    }

    #[test]
    fn no_limit_takes_any_number() {
        let rate = Rate::default();
        assert!((0..10_000).all(|_| rate.take(0, 5).is_ok()));
    }
}
