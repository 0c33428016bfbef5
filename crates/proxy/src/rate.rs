//! How many connections may be taken in a second, for all workers together.
//!
//! Decides:  in no 1000 ms in a row more than the limit, whenever they began: each of the last
//!           thousand milliseconds has its count. After a crowd the rate is even: of the second
//!           before, the part counts too that is less than a second ago, as if its connections had
//!           been spread evenly.
//! Source:   HAProxy's manual, `rate-limit sessions`, `maxconnrate`; include/haproxy/freq_ctr.h,
//!           freq_ctr_remain_period(), 2.6 to 3.5: the second part, by which twice the limit passes
//!           when a crowd comes at the end of a quiet second.
//! Not here: what a worker does with its listeners meanwhile (worker/accept.rs).

use std::sync::{Mutex, PoisonError};

/// The period, ms.
const SECOND_MS: u64 = 1000;

/// A count of events of the last second.
#[derive(Debug, Default)]
pub struct Rate {
    counts: Mutex<Counts>,
}

/// An event that was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    at_ms: u64,
}

#[derive(Debug, Default)]
struct Counts {
    last: LastSecond,
    even: Even,
}

impl Rate {
    /// Counts one event, if that keeps the rate at or below `limit`; else says after how many ms it
    /// may be tried again. Without a limit (0) there is nothing to count.
    pub fn take(&self, limit: u32, now_ms: u64) -> Result<Option<Counted>, u64> {
        if limit == 0 {
            return Ok(None);
        }
        let limit = u64::from(limit);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Another worker's reading of the clock may be newer than this one's.
        let now_ms = now_ms.max(counts.last.until_ms);
        counts.last.turn(now_ms);
        counts.even.turn(now_ms);
        let wait = counts.last.wait(limit).max(counts.even.wait(limit, now_ms));
        if wait > 0 {
            return Err(wait);
        }
        counts.last.add();
        counts.even.now += 1;
        Ok(Some(Counted { at_ms: now_ms }))
    }

    /// Takes one event back that did not happen after all.
    pub fn give_back(&self, counted: Counted) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.last.remove(counted.at_ms);
        counts.even.remove(counted.at_ms);
    }
}

/// The events of each of the last thousand milliseconds.
#[derive(Debug, Default)]
struct LastSecond {
    /// The last of them.
    until_ms: u64,
    /// Their events, by the last three digits; none before the first event.
    events: Box<[u32]>,
    /// The sum.
    all: u64,
}

impl LastSecond {
    fn slot(at_ms: u64) -> usize {
        (at_ms % SECOND_MS) as usize
    }

    fn turn(&mut self, now_ms: u64) {
        if self.events.is_empty() {
            self.events = vec![0; SECOND_MS as usize].into();
            self.until_ms = now_ms;
        }
        if now_ms - self.until_ms >= SECOND_MS {
            self.events.fill(0);
            self.all = 0;
        } else {
            for at_ms in self.until_ms + 1..=now_ms {
                self.all -= u64::from(std::mem::take(&mut self.events[Self::slot(at_ms)]));
            }
        }
        self.until_ms = now_ms;
    }

    /// For how many ms there is no room; those that pass out of the second first make it.
    fn wait(&self, limit: u64) -> u64 {
        let mut all = self.all;
        let mut wait = 0;
        while all >= limit && wait < SECOND_MS {
            wait += 1;
            all -= u64::from(self.events[Self::slot(self.until_ms + wait)]);
        }
        wait
    }

    fn add(&mut self) {
        self.events[Self::slot(self.until_ms)] += 1;
        self.all += 1;
    }

    fn remove(&mut self, at_ms: u64) {
        let events = match self.events.get_mut(Self::slot(at_ms)) {
            Some(events) if at_ms + SECOND_MS > self.until_ms => events,
            _ => return,
        };
        debug_assert!(*events > 0, "an event was given back twice");
        *events = events.saturating_sub(1);
        self.all = self.all.saturating_sub(1);
    }
}

/// Seconds one after the other, the first from the first event after a rest.
#[derive(Debug, Default)]
struct Even {
    /// When this one began.
    began_ms: u64,
    /// Events in it.
    now: u64,
    /// Events in the one before.
    before: u64,
}

impl Even {
    fn turn(&mut self, now_ms: u64) {
        let rested = self.now == 0 && self.before == 0;
        match now_ms.saturating_sub(self.began_ms) {
            _ if rested => self.began_ms = now_ms,
            0..SECOND_MS => {}
            SECOND_MS..2000 => {
                self.began_ms += SECOND_MS;
                (self.before, self.now) = (self.now, 0);
            }
            _ => {
                self.began_ms = now_ms;
                (self.before, self.now) = (0, 0);
            }
        }
    }

    /// For how many ms there is no room.
    fn wait(&self, limit: u64, now_ms: u64) -> u64 {
        let left = (self.began_ms + SECOND_MS).saturating_sub(now_ms);
        let past = self.before * left / SECOND_MS;
        if self.now + past < limit {
            return 0;
        }
        // The last part of the second before that leaves room; none does if this one alone is full.
        let room = limit.saturating_sub(self.now) * SECOND_MS;
        let leaves_room = match self.before {
            0 => 0,
            before => room.saturating_sub(1) / before,
        };
        left.saturating_sub(leaves_room).max(1)
    }

    fn remove(&mut self, at_ms: u64) {
        let count = match at_ms >= self.began_ms {
            true => &mut self.now,
            false => &mut self.before,
        };
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most of these times that lie in one second.
    fn most_in_a_second(times: &[u64]) -> usize {
        let of =
            |(at, first): (usize, &u64)| times.partition_point(|ms| *ms < first + SECOND_MS) - at;
        times.iter().enumerate().map(of).max().unwrap_or(0)
    }

    /// Takes whenever it may, for a while; the times at which it could.
    fn greedy(rate: &Rate, limit: u32, from_ms: u64, for_ms: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        let mut now = from_ms;
        while now < from_ms + for_ms {
            match rate.take(limit, now) {
                Ok(_) => taken.push(now),
                Err(wait) => {
                    assert!((1..=SECOND_MS).contains(&wait), "{wait}");
                    now += wait;
                }
            }
        }
        taken
    }

    #[test]
    fn no_second_has_more_than_the_rate_and_a_greedy_one_gets_all_of_it() {
        for limit in [1, 2, 7, 20, 100, 1_000] {
            for from in [0, 990, 999, 123_456] {
                let taken = greedy(&Rate::default(), limit, from, 10_000);
                assert_eq!(most_in_a_second(&taken), limit as usize, "from {from}");
                let total = taken.len() as u64;
                let expected = u64::from(limit) * 10;
                assert!(
                    (expected * 9 / 10..=expected).contains(&total),
                    "limit {limit} from {from}: {total}"
                );
            }
        }
    }

    #[test]
    fn a_crowd_at_the_end_of_a_quiet_second_does_not_pass_twice() {
        // HAProxy's counter alone lets 39 of them through in the second from 990 on.
        for quiet_until in (0..2_500).step_by(10) {
            let rate = Rate::default();
            let mut taken = vec![0];
            assert!(rate.take(20, 0).is_ok());
            taken.extend(greedy(&rate, 20, quiet_until, 4_000));
            assert!(most_in_a_second(&taken) <= 20, "{quiet_until}: {taken:?}");
        }
    }

    #[test]
    fn after_a_crowd_the_rate_is_even() {
        let taken = greedy(&Rate::default(), 20, 500, 5_000);
        assert_eq!(taken[..20], [500; 20]);
        let gaps = taken[21..].windows(2).map(|two| two[1] - two[0]);
        assert!(gaps.clone().all(|gap| gap == 50), "{taken:?}");
        assert!(gaps.count() > 50);
    }

    #[test]
    fn workers_whose_clocks_were_read_at_other_times_are_counted_together() {
        let rate = Rate::default();
        let readings = [1_000, 1_003, 1_001, 1_003, 999, 1_004].into_iter().cycle();
        let counted = readings.take(60).filter(|now| rate.take(20, *now).is_ok());
        assert_eq!(counted.count(), 20);
        // The one that is behind hears how long it is for the others.
        assert_eq!(rate.take(20, 900), Err(996));
    }

    #[test]
    fn an_idle_second_gives_the_whole_rate_at_once() {
        let rate = Rate::default();
        for _ in 0..10 {
            assert!(rate.take(10, 500).is_ok());
        }
        assert_eq!(rate.take(10, 500), Err(1_000));
        assert_eq!(rate.take(10, 1_000), Err(500));
        let mut last = None;
        for _ in 0..10 {
            last = rate.take(10, 3_000).unwrap();
        }
        rate.give_back(last.unwrap());
        assert!(rate.take(10, 3_000).is_ok());
        assert!(rate.take(10, 3_000).is_err());
    }

    #[test]
    fn what_is_given_back_late_is_taken_from_where_it_was_counted() {
        let rate = Rate::default();
        let early = rate.take(2, 100).unwrap().unwrap();
        let late = rate.take(2, 900).unwrap().unwrap();
        rate.give_back(early);
        // As if there had been the late one alone.
        assert!(rate.take(2, 950).is_ok());
        assert_eq!(rate.take(2, 1_500), Err(400));
        let room = rate.take(2, 1_900);
        assert!(room.is_ok());
        // Long gone: nothing is left to be taken back.
        assert!(rate.take(2, 5_000).is_ok());
        rate.give_back(late);
        assert!(rate.take(2, 5_000).is_ok());
        assert!(rate.take(2, 5_000).is_err());
    }

    #[test]
    fn no_limit_takes_any_number() {
        let rate = Rate::default();
        assert!((0..10_000).all(|_| rate.take(0, 5) == Ok(None)));
    }
}
