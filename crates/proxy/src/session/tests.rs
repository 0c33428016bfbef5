//! Tables of what a session decides without any network.
//!
//! Decides:  nothing.
//! Source:   HAProxy 3.5-dev5, doc/configuration.txt "option redispatch"; src/backend.c.
//! Not here: sessions as a whole (worker/simulation.rs).

use super::*;

#[test]
fn every_move_is_in_the_table_or_refused() {
    use Phase::{Connecting, Relaying, Waiting};
    use Step::{Connected, Refused, Retried};
    let rows = [
        (Connecting, Connected, Some(Relaying)),
        (Connecting, Refused, Some(Waiting)),
        (Connecting, Retried, Some(Connecting)),
        (Waiting, Connected, None),
        (Waiting, Refused, None),
        (Waiting, Retried, Some(Connecting)),
        (Relaying, Connected, None),
        (Relaying, Refused, None),
        (Relaying, Retried, None),
    ];
    for (phase, step, expected) in rows {
        assert_eq!(phase.after(step), expected, "{phase:?} {step:?}");
    }
}

#[test]
fn redispatch_happens_on_the_retries_that_its_interval_names() {
    // Retries, interval, and the retries (from 1) that go elsewhere.
    let rows: [(u32, i32, &[u32]); 8] = [
        (3, 0, &[]),
        (3, -1, &[3]),
        (3, -2, &[2]),
        (3, -3, &[1, 2, 3]),
        (3, -4, &[]),
        (3, 1, &[1, 2, 3]),
        (4, 2, &[2, 4]),
        (1, -1, &[1]),
    ];
    for (retries, interval, expected) in rows {
        let found: Vec<u32> = (1..=retries)
            .filter(|&retry| redispatches(retry, retries, interval))
            .collect();
        assert_eq!(found, expected, "retries {retries}, redispatch {interval}");
    }
}

#[test]
fn a_side_learns_and_forgets_nothing() {
    let mut side = Side::default();
    side.learn(Readiness {
        hung_up: true,
        ..Readiness::default()
    });
    assert!(side.readable && side.hung_up && !side.writable);
    side.learn(Readiness {
        writable: true,
        ..Readiness::default()
    });
    assert!(side.readable && side.hung_up && side.writable);
    side = Side {
        end_seen: true,
        ..Side::default()
    };
    side.learn(Readiness {
        readable: true,
        ..Readiness::default()
    });
    assert!(!side.readable, "after its end nothing is read");
}

#[test]
fn the_end_is_next_only_where_an_end_was_announced_and_nothing_else_was() {
    let end = Readiness {
        hung_up: true,
        ..Readiness::default()
    };
    let failed = Readiness {
        failed: true,
        ..end
    };
    let urgent = Readiness {
        urgent: true,
        ..Readiness::default()
    };
    let room = Readiness {
        writable: true,
        ..Readiness::default()
    };
    let table: [(&str, &[Readiness], bool); 7] = [
        ("nothing was told", &[], false),
        ("room", &[room], false),
        ("an end", &[end], true),
        ("an end, then room", &[end, room], true),
        ("a reset", &[failed], false),
        ("an end, then a reset", &[end, failed], false),
        ("an urgent mark before the end", &[urgent, end], false),
    ];
    for (label, told, expected) in table {
        let mut side = Side::default();
        told.iter().for_each(|&readiness| side.learn(readiness));
        assert_eq!(side.end_is_next(), expected, "{label}");
    }
    let unix = Side {
        hung_up: true,
        reads_stop_early: true,
        ..Side::default()
    };
    assert!(
        !unix.end_is_next(),
        "descriptors that are passed divide a Unix stream"
    );
}

#[test]
fn an_idle_session_is_small() {
    let size = std::mem::size_of::<Session<std::os::fd::OwnedFd, crate::net::linux::LinuxPipe>>();
    // With the timer's 24 bytes and the slot's 8, well below 600 bytes a connection.
    assert!(size <= 360, "{size} bytes");
}
