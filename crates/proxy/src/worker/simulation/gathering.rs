//! A source that gathers, in a simulated network where time is exact.
//!
//! Decides:  nothing.
//! Kernel:   tcp(7), SO_RCVLOWAT
//! Not here: when a source gathers (worker/gather.rs), what else happens to sessions (simulation.rs).

use crate::net::simulated::{Faults, Lie};
use crate::worker::gather::GATHER_MS;

use super::{Run, Trial};

/// A client whose bytes gather, and his server.
struct Gathering {
    run: Run,
    client: usize,
    server: usize,
}

impl Gathering {
    /// A client who sends much at once. `None`: he was not made to gather.
    fn new(seed: u64, lie: Lie) -> Result<Option<Gathering>, String> {
        let faults = Faults {
            lie,
            ..Faults::default()
        };
        let mut run = Run::new(Trial::plain(seed, faults, 1));
        let client = run.world.borrow_mut().arrive();
        run.wake_up()?;
        let server = run.world.borrow().connections[client].partner;
        let server = server.ok_or("no server")?;
        run.world.borrow_mut().settle(server);
        let mut all = Gathering {
            run,
            client,
            server,
        };
        for _ in 0..40 {
            if matches!(all.from(), (2.., 0)) {
                return Ok(Some(all));
            }
            all.says(30_000)?;
        }
        Ok(None)
    }

    fn says(&mut self, length: usize) -> Result<(), String> {
        let (client, server) = (self.client, self.server);
        self.run.world.borrow_mut().send(client, length);
        self.run.world.borrow_mut().make_room(server, 200_000);
        (0..30).try_for_each(|_| self.run.wake_up())
    }

    /// The client's mark, and how many of his bytes lie there.
    fn from(&self) -> (usize, usize) {
        let world = self.run.world.borrow();
        let connection = &world.connections[self.client];
        (connection.low_water, connection.arriving.len())
    }

    /// Does the end of what the server was sent wait for more?
    fn keeps_a_part(&self) -> bool {
        self.run.world.borrow().connections[self.server].part_held
    }
}

/// A client who sends much at once, and then a few bytes twice.
fn a_few_bytes_after_bulk(seed: u64, lie: Lie) -> Result<Option<()>, String> {
    let Some(mut all) = Gathering::new(seed, lie)? else {
        return Ok(None);
    };
    // Twice: the second time nothing may be left of the mark.
    for (length, most) in [(10, GATHER_MS), (20, 0)] {
        all.says(length)?;
        let begun = all.run.now_ms;
        while all.from().1 > 0 {
            if all.run.now_ms > begun + most {
                return Err(format!("{length} bytes still lie there"));
            }
            all.run.now_ms += 1;
            all.run.wake_up()?;
        }
        if most > 0 && all.run.now_ms < begun + most {
            return Err("it did not gather".to_owned());
        }
        if all.keeps_a_part() {
            return Err(format!("{length} bytes are not sent on"));
        }
    }
    all.run.calm_down().map(|()| Some(()))
}

/// A client who sends much at once, and then nothing. `None`: no part of it was kept back.
fn nothing_after_bulk(seed: u64, lie: Lie) -> Result<Option<()>, String> {
    let Some(mut all) = Gathering::new(seed, lie)? else {
        return Ok(None);
    };
    if !all.keeps_a_part() {
        return Ok(None);
    }
    for _ in 0..=GATHER_MS {
        all.run.now_ms += 1;
        all.run.wake_up()?;
    }
    if all.keeps_a_part() {
        return Err("the last part of a segment is kept back".to_owned());
    }
    all.run.calm_down().map(|()| Some(()))
}

/// In how many of 60 runs it happened.
fn happened(trial: fn(u64, Lie) -> Result<Option<()>, String>) -> usize {
    let all = (0..60).map(|seed| {
        let found = trial(seed, Lie::None);
        found.unwrap_or_else(|error| panic!("seed {seed}: {error}"))
    });
    all.flatten().count()
}

#[test]
fn what_a_source_gathers_is_looked_for_after_a_moment() {
    let gathered = happened(a_few_bytes_after_bulk);
    assert!(gathered > 10, "{gathered} of 60");
    let lies = (0..60).filter(|&seed| a_few_bytes_after_bulk(seed, Lie::StuckWater).is_err());
    assert_eq!(lies.count(), gathered, "a mark that stays goes unnoticed");
}

#[test]
fn the_last_part_of_a_segment_waits_for_more_bytes_for_a_moment_only() {
    let kept = happened(nothing_after_bulk);
    assert!(kept > 5, "{kept} of 60");
    let lies = (0..60).filter(|&seed| nothing_after_bulk(seed, Lie::KeptPart).is_err());
    assert_eq!(lies.count(), kept, "a part that stays goes unnoticed");
}
