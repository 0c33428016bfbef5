//! Machines that are broken on purpose: for each invariant one that breaks it, and must be noticed.
//!
//! Decides:  nothing about a machine that works: without a defect the same trials find nothing.
//! Not here: defects of the network (simulation.rs).

use std::sync::atomic::Ordering;

use super::super::SessionOf;
use super::*;
use crate::session::Phase;
use crate::slab::Key;

/// A defect is made at any wake-up where its sessions are there; true: it was made.
type Defect = fn(&mut Run) -> bool;

/// What is broken, how, and what the invariant that notices it says.
const CANARIES: &[(&str, Defect, &str)] = &[
    (
        "two sessions have one socket",
        one_socket_for_two,
        "is in two places",
    ),
    (
        "a session that is connected waits too",
        connected_and_waiting,
        "Relaying with ticket true",
    ),
    (
        "a session forgets its server",
        server_forgotten,
        "member false",
    ),
    (
        "a server's place is given back twice",
        place_given_back_twice,
        "counted, ",
    ),
    (
        "a frontend's count falls below zero",
        frontend_below_zero,
        "4294967295 counted",
    ),
    (
        "a server's place is never given back",
        place_kept,
        "left: [0, 0, 0, 0, 1]",
    ),
    ("a session writes no line", line_forgotten, "sessions, "),
    (
        "a session writes two lines",
        line_written_twice,
        "was logged twice",
    ),
    (
        "the queue's first and last change places",
        queue_out_of_order,
        "while somebody waits since",
    ),
    ("a grant is lost on its way", grant_lost, "forgotten"),
    ("an event is never told", session_unwatched, "forgotten"),
    ("a session's alarm does not ring", alarm_lost, "ms old"),
    ("a check takes too many successes", slow_to_rise, "checks: "),
];

/// The same in trials of several workers, wide ones.
const WIDE: &[(&str, Defect, &str)] = &[
    ("rings reach nobody", rings_lost, "forgotten"),
    (
        "a half closed side's time is counted from before",
        half_closed_too_old,
        "given up too early",
    ),
    ("silence is taken for life", never_idle, "is kept too long"),
    ("rates are not kept", rates_ignored, "in a second"),
    (
        "a server takes fewer than it may",
        server_too_small,
        "wait while server",
    ),
];

/// Every kind of fault, a queue and checks; times run, or only what the checks of a rest need.
fn trial(seed: u64) -> Trial {
    Trial {
        timeouts: seed.is_multiple_of(2),
        limits: true,
        checks: true,
        ..everything(seed)
    }
}

/// Wide ones, where times run and a queue may form.
fn wide_trial(seed: u64) -> Trial {
    Trial {
        seed,
        limits: true,
        ..wide(seed)
    }
}

/// What the checks say of the trials of so many seeds, up to the first that says `enough`; each trial
/// ends at what it finds first.
fn findings(trial: fn(u64) -> Trial, defect: Defect, enough: &str) -> Vec<String> {
    let of = |seed| {
        // An assertion of the machine's own may be first.
        let run = || run_with(trial(seed), defect);
        match std::panic::catch_unwind(run) {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("a panic".to_owned()),
        }
    };
    let mut found = Vec::new();
    for finding in (7_000..7_040).filter_map(of) {
        let last = finding.contains(enough);
        found.push(finding);
        if last {
            break;
        }
    }
    found
}

#[test]
fn every_defect_is_noticed_by_the_invariant_that_it_breaks() {
    let plain = CANARIES.iter().map(|it| (trial as fn(u64) -> Trial, it));
    let wide = WIDE.iter().map(|it| (wide_trial as fn(u64) -> Trial, it));
    for (trial, (what, defect, says)) in plain.chain(wide) {
        let found = findings(trial, *defect, says);
        assert!(
            found.last().is_some_and(|finding| finding.contains(says)),
            "{what}: nobody said {says:?}, but {found:?}"
        );
    }
}

#[test]
fn without_a_defect_the_same_trials_find_nothing() {
    for trial in [trial, wide_trial] {
        assert_eq!(findings(trial, |_| false, ""), Vec::<String>::new());
    }
}

fn backend_of(run: &Run) -> Arc<Backend> {
    let backend = run.snapshot.frontends[0].backend.as_ref();
    Arc::clone(backend.expect("there is one"))
}

/// The sessions that are in a phase.
fn sessions_in(run: &Run, phase: Phase) -> Vec<Key> {
    let sessions = &run.workers[0].engine.sessions;
    let is = |key: &Key| sessions.get(*key).is_some_and(|it| it.phase == phase);
    sessions.keys().into_iter().filter(is).collect()
}

fn change(run: &mut Run, key: Key, how: impl FnOnce(&mut SessionOf<SimulatedNet>)) -> bool {
    let session = run.workers[0].engine.sessions.get_mut(key);
    session.map(how).is_some()
}

fn one_socket_for_two(run: &mut Run) -> bool {
    let [first, second, ..] = sessions_in(run, Phase::Relaying)[..] else {
        return false;
    };
    let socket = run.workers[0]
        .engine
        .sessions
        .get(first)
        .and_then(|it| it.server);
    change(run, second, |session| session.server = socket)
}

fn connected_and_waiting(run: &mut Run) -> bool {
    let waiting = sessions_in(run, Phase::Queued);
    let relaying = sessions_in(run, Phase::Relaying);
    let (Some(&from), Some(&to)) = (waiting.first(), relaying.first()) else {
        return false;
    };
    let ticket = run.workers[0]
        .engine
        .sessions
        .get(from)
        .and_then(|it| it.ticket);
    change(run, to, |session| session.ticket = ticket)
}

fn server_forgotten(run: &mut Run) -> bool {
    let Some(&key) = sessions_in(run, Phase::Relaying).first() else {
        return false;
    };
    change(run, key, |session| session.member = None)
}

fn place_given_back_twice(run: &mut Run) -> bool {
    let Some(&key) = sessions_in(run, Phase::Relaying).first() else {
        return false;
    };
    let member = run.workers[0]
        .engine
        .sessions
        .get(key)
        .and_then(|it| it.member);
    let Some(member) = member else { return false };
    backend_of(run).group.release(member);
    true
}

fn frontend_below_zero(run: &mut Run) -> bool {
    let count = &run.snapshot.frontends[0].state.connections;
    count.load(Ordering::SeqCst) == 0 && {
        count.fetch_sub(1, Ordering::SeqCst);
        true
    }
}

fn place_kept(run: &mut Run) -> bool {
    let group = &backend_of(run).group;
    // With all at rest: no limit is broken, and nobody waits for it.
    group.total() == 0 && run.world.borrow().queue.is_empty() && group.choose(0, None).is_some()
}

fn line_forgotten(run: &mut Run) -> bool {
    let Some(&key) = sessions_in(run, Phase::Relaying).first() else {
        return false;
    };
    change(run, key, |session| session.logged = true)
}

fn line_written_twice(run: &mut Run) -> bool {
    let engine = &run.workers[0].engine;
    let keys = sessions_in(run, Phase::Relaying);
    let session = keys.first().and_then(|&key| engine.sessions.get(key));
    let (Some(session), Some(log)) = (session, &engine.reports.log) else {
        return false;
    };
    let end = session.ending(EndCause::Killed);
    log.send(engine.record(session, end));
    true
}

fn queue_out_of_order(run: &mut Run) -> bool {
    let mut waiting: Vec<(Key, _)> = sessions_in(run, Phase::Queued)
        .into_iter()
        .filter_map(|key| Some((key, run.workers[0].engine.sessions.get(key)?.ticket?)))
        .filter(|(_, ticket)| ticket.server().is_none())
        .collect();
    // A place in the queue is what tells its age: these two get each other's.
    waiting.sort_by_key(|(key, _)| {
        run.workers[0]
            .engine
            .sessions
            .get(*key)
            .map(|it| it.start_ms)
    });
    let [(first, his), .., (last, hers)] = waiting[..] else {
        return false;
    };
    change(run, first, |session| session.ticket = Some(hers))
        && change(run, last, |session| session.ticket = Some(his))
}

fn grant_lost(run: &mut Run) -> bool {
    // Only where no time would end the wait.
    !run.trial.timeouts && !run.workers[0].engine.mailbox.take().is_empty()
}

fn session_unwatched(run: &mut Run) -> bool {
    if run.trial.timeouts {
        return false;
    }
    let Some(&key) = sessions_in(run, Phase::Relaying).first() else {
        return false;
    };
    let sockets = run.workers[0]
        .engine
        .sessions
        .get(key)
        .map(|it| (it.client, it.server));
    let Some((client, Some(server))) = sockets else {
        return false;
    };
    let mut world = run.world.borrow_mut();
    for socket in [client, server] {
        world.connections[socket].watched = None;
    }
    true
}

/// Again and again: a session sets its alarm anew.
fn alarm_lost(run: &mut Run) -> bool {
    for key in run.workers[0].engine.sessions.keys() {
        run.workers[0].engine.wheel.cancel(key.index);
    }
    false
}

fn slow_to_rise(run: &mut Run) -> bool {
    let settings = HealthSettings {
        rise: CHECKS.rise + 1,
        ..CHECKS
    };
    run.health = vec![Health::new(settings); 3];
    true
}

fn rings_lost(run: &mut Run) -> bool {
    for worker in &mut run.workers {
        worker.deaf = true;
    }
    true
}

/// As if the fin time had begun with the last byte (it did once).
fn half_closed_too_old(run: &mut Run) -> bool {
    let before = run.now_ms.saturating_sub(600);
    for worker in &mut run.workers {
        for key in worker.engine.sessions.keys() {
            let Some(session) = worker.engine.sessions.get_mut(key) else {
                continue;
            };
            if session.phase == Phase::Relaying && session.server_side.end_sent {
                (session.server_active_ms, session.server_heard_ms) = (before, before);
                worker.engine.wheel.set(key.index, run.now_ms);
                worker.sleeps_until = Some(run.now_ms);
            }
        }
    }
    false
}

fn never_idle(run: &mut Run) -> bool {
    let now_ms = run.now_ms;
    for worker in &mut run.workers {
        for key in worker.engine.sessions.keys() {
            if let Some(session) = worker.engine.sessions.get_mut(key) {
                (session.client_active_ms, session.client_heard_ms) = (now_ms, now_ms);
                (session.server_active_ms, session.server_heard_ms) = (now_ms, now_ms);
            }
        }
    }
    false
}

fn rates_ignored(run: &mut Run) -> bool {
    let process = &run.snapshot.process;
    process.max_rate.swap(0, Ordering::SeqCst) > 0
}

fn server_too_small(run: &mut Run) -> bool {
    let at = run.limits.iter().position(|&limit| limit > 1);
    let Some(at) = at.filter(|_| run.setting.has_fixed_limits()) else {
        return false;
    };
    let limits = portcullis_balance::Limits {
        maxconn: 1,
        ..run.setting.members[at].limits
    };
    let group = &backend_of(run).group;
    group.set_limits(MemberId(at as u32), limits);
    true
}

/// The reference that checks are held to is one of its own: nothing of it is the machine's.
#[test]
fn the_reference_of_checks_takes_two_of_a_kind_in_a_row() {
    let mut reference = invariants::Reference::new(2, 3);
    let outcomes = [
        (false, false, "the first failure of a server never checked"),
        (true, false, "one success"),
        (false, false, "in a row only"),
        (true, false, "one"),
        (true, true, "two"),
        (false, true, "one failure of three"),
        (false, true, "two"),
        (true, true, "a success makes good"),
        (false, true, "one"),
        (false, true, "two"),
        (false, false, "three"),
    ];
    for (passed, up, what) in outcomes {
        assert_eq!(reference.observe(passed), up, "{what}");
    }
}
