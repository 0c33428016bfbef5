//! A source that gathers, in a simulated network where time is exact.
//!
//! Decides:  nothing.
//! Kernel:   tcp(7), SO_RCVLOWAT
//! Not here: when a source gathers (worker/gather.rs), what else happens to sessions (simulation.rs).

use crate::net::simulated::{Faults, Lie};
use crate::worker::gather::GATHER_MS;

use super::{Run, Trial};

/// A client who sends much at once, and then a few bytes twice. `None`: he was not made to gather.
fn a_few_bytes_after_bulk(seed: u64, lie: Lie) -> Result<Option<()>, String> {
    let faults = Faults {
        lie,
        ..Faults::default()
    };
    let mut run = Run::new(Trial {
        seed,
        faults,
        timeouts: false,
        limits: false,
        checks: false,
        clients: 1,
    });
    let client = run.world.borrow_mut().arrive();
    run.wake_up()?;
    let server = run.world.borrow().connections[client].partner;
    let server = server.ok_or("no server")?;
    run.world.borrow_mut().settle(server);
    let said = |run: &mut Run, length| {
        run.world.borrow_mut().send(client, length);
        run.world.borrow_mut().make_room(server, 200_000);
        (0..30).try_for_each(|_| run.wake_up())
    };
    let from = |run: &Run| {
        let world = run.world.borrow();
        let connection = &world.connections[client];
        (connection.low_water, connection.arriving.len())
    };
    let mut tries = 0;
    while !matches!(from(&run), (2.., 0)) {
        tries += 1;
        if tries > 40 {
            return Ok(None);
        }
        said(&mut run, 30_000)?;
    }
    // Twice: the second time nothing may be left of the mark.
    for (length, most) in [(10, GATHER_MS), (20, 0)] {
        said(&mut run, length)?;
        let begun = run.now_ms;
        while from(&run).1 > 0 {
            if run.now_ms > begun + most {
                return Err(format!("{length} bytes still lie there"));
            }
            run.now_ms += 1;
            run.wake_up()?;
        }
        if most > 0 && run.now_ms < begun + most {
            return Err("it did not gather".to_owned());
        }
    }
    run.calm_down().map(|()| Some(()))
}

#[test]
fn what_a_source_gathers_is_looked_for_after_a_moment() {
    let all = (0..60).map(|seed| {
        let found = a_few_bytes_after_bulk(seed, Lie::None);
        found.unwrap_or_else(|error| panic!("seed {seed}: {error}"))
    });
    let gathered = all.flatten().count();
    assert!(gathered > 10, "{gathered} of 60");
    let lies = (0..60).filter(|&seed| a_few_bytes_after_bulk(seed, Lie::StuckWater).is_err());
    assert_eq!(lies.count(), gathered, "a mark that stays goes unnoticed");
}
