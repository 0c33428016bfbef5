//! Which differences are believed.
//!
//! Decides:  a difference counts if two runs of the script showed it in which no time passed that the model
//!           does not know of. A run that took longer decides nothing and is tried again; a script that
//!           never ran quickly is counted apart, and too many of those make the whole run void.
//! Kernel:   include/net/tcp.h, TCP_DELACK_MIN (HZ / 25, 40 ms): the shortest timer that a segment sets;
//!           TCP_RTO_MIN (HZ / 5) and TCP_TIMEOUT_INIT (1 s) are longer
//! Not here: how a run is timed (worker.rs, times.rs, processes.rs).

use std::io;
use std::time::Duration;

/// The kernel's shortest timer, `TCP_DELACK_MIN`.
const SHORTEST_TIMER: Duration = Duration::from_millis(40);
/// A timer is set in ticks and may fire almost one early, which is 10 ms where they are longest.
pub(crate) const TICK_MAX: Duration = Duration::from_millis(10);
/// In a run that took no longer no timer can have fired.
pub const QUICK: Duration = SHORTEST_TIMER.saturating_sub(TICK_MAX);
/// How often a script is tried until it runs quickly.
pub const ATTEMPTS_MAX: u32 = 20;
/// Who slept is preferred by the scheduler; the pauses grow by this.
const PAUSE_STEP: Duration = Duration::from_millis(5);
/// A difference is believed once so many quick runs have shown it.
const SHOWN_BY: u32 = 2;
/// Of so many scripts one may be disturbed.
const DISTURBED_ONE_IN: u64 = 10_000_000;

/// What a run of a script came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<D> {
    /// Where the worlds differ.
    pub difference: Option<D>,
    /// The time that passed in the live world alone, without what was waited on purpose.
    pub took: Duration,
}

impl<D> Attempt<D> {
    /// Whether no timer can have fired.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.took <= QUICK
    }
}

/// What is believed of a script that differed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Belief<D> {
    /// The worlds differ.
    Differs(D),
    /// A quick run differed, the next one did not.
    Unrepeated,
    /// A slow run differed, and a quick one did not.
    Delayed,
    /// No run was quick.
    Disturbed,
}

impl<D> Belief<D> {
    /// The difference, if there is one.
    pub fn difference(self) -> Option<D> {
        match self {
            Belief::Differs(difference) => Some(difference),
            _ => None,
        }
    }
}

/// Runs until a run was quick, with pauses: only that one decides. `None` where none was.
pub fn decide<D>(
    run: impl FnMut() -> io::Result<Attempt<D>>,
    pause: impl FnMut(Duration),
) -> io::Result<Option<Attempt<D>>> {
    decide_within(ATTEMPTS_MAX, run, pause)
}

fn decide_within<D>(
    attempts: u32,
    mut run: impl FnMut() -> io::Result<Attempt<D>>,
    mut pause: impl FnMut(Duration),
) -> io::Result<Option<Attempt<D>>> {
    for number in 1..=attempts {
        let attempt = run()?;
        if attempt.is_quick() {
            return Ok(Some(attempt));
        }
        pause(PAUSE_STEP * number);
    }
    Ok(None)
}

/// What to believe of a script that differed in its first run; `again` runs it once more.
pub fn settle<D>(
    first: &Attempt<D>,
    again: impl FnMut() -> io::Result<Attempt<D>>,
    pause: impl FnMut(Duration),
) -> io::Result<Belief<D>> {
    settle_within(ATTEMPTS_MAX, first, again, pause)
}

/// The same with so many attempts at a quick run, at most.
pub fn settle_within<D>(
    attempts: u32,
    first: &Attempt<D>,
    mut again: impl FnMut() -> io::Result<Attempt<D>>,
    mut pause: impl FnMut(Duration),
) -> io::Result<Belief<D>> {
    let mut account = Account::of(first);
    loop {
        let decided = decide_within(attempts, &mut again, &mut pause)?;
        if let Some(belief) = account.take(decided) {
            return Ok(belief);
        }
    }
}

/// What the runs so far of a script that differs have shown.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    quick_differences: u32,
}

impl Account {
    /// After a first run that differed.
    #[must_use]
    pub fn of<D>(first: &Attempt<D>) -> Account {
        Account {
            quick_differences: u32::from(first.is_quick()),
        }
    }

    /// After a quick run, or several that all were slow; `None` while another run has to decide.
    pub fn take<D>(&mut self, decided: Option<Attempt<D>>) -> Option<Belief<D>> {
        let Some(attempt) = decided else {
            return Some(Belief::Disturbed);
        };
        let Some(difference) = attempt.difference else {
            return Some(if self.quick_differences > 0 {
                Belief::Unrepeated
            } else {
                Belief::Delayed
            });
        };
        self.quick_differences += 1;
        (self.quick_differences >= SHOWN_BY).then_some(Belief::Differs(difference))
    }
}

/// Whether so many disturbed scripts of all are too many: the machine is too busy for a verdict.
#[must_use]
pub fn is_void(disturbed: u64, scripts: u64) -> bool {
    disturbed.saturating_mul(DISTURBED_ONE_IN) > scripts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A script on a clock that only its runs and the pauses move: each of `delays_ms` is what the scheduler
    /// takes from one run, the last one from all that follow. A run differs if it always does, or if it met
    /// the kernel's timer of 40 ms.
    struct Machine<'a> {
        now_ms: Cell<u64>,
        runs: Cell<usize>,
        delays_ms: &'a [u64],
        differs: bool,
    }

    impl<'a> Machine<'a> {
        fn new(delays_ms: &'a [u64], differs: bool) -> Machine<'a> {
            Machine {
                now_ms: Cell::new(0),
                runs: Cell::new(0),
                delays_ms,
                differs,
            }
        }

        fn run(&self) -> io::Result<Attempt<&'static str>> {
            let number = self.runs.replace(self.runs.get() + 1);
            let delay = self.delays_ms[number.min(self.delays_ms.len() - 1)];
            let begun = self.now_ms.get();
            self.now_ms.set(begun + delay);
            let took = Duration::from_millis(self.now_ms.get() - begun);
            let differs = self.differs || took >= SHORTEST_TIMER;
            Ok(Attempt {
                difference: differs.then_some("another state"),
                took,
            })
        }

        fn pause(&self, time: Duration) {
            self.now_ms.set(self.now_ms.get() + time.as_millis() as u64);
        }

        fn settle(&self) -> Belief<&'static str> {
            let first = self.run().unwrap();
            assert!(first.difference.is_some(), "nothing to settle");
            settle(&first, || self.run(), |time| self.pause(time)).unwrap()
        }
    }

    #[test]
    fn only_quick_runs_decide_whether_the_worlds_differ() {
        let differs = Belief::Differs("another state");
        let table = [
            (
                "a true difference, at once",
                &[0][..],
                true,
                differs.clone(),
                2,
            ),
            (
                "one that a delay makes",
                &[500, 0],
                false,
                Belief::Delayed,
                2,
            ),
            (
                "and its repetitions too",
                &[500, 40, 900, 0],
                false,
                Belief::Delayed,
                4,
            ),
            (
                "a true one, behind delays",
                &[500, 40, 0, 900, 0],
                true,
                differs.clone(),
                5,
            ),
            (
                "a true one of slow runs alone",
                &[500],
                true,
                Belief::Disturbed,
                21,
            ),
            ("a delay in each run", &[40], false, Belief::Disturbed, 21),
            (
                "a true one that is slow after one quick run",
                &[0, 31],
                true,
                Belief::Disturbed,
                21,
            ),
            ("a true one at the limit", &[30], true, differs, 2),
        ];
        for (label, delays, always, expected, runs) in table {
            let machine = Machine::new(delays, always);
            assert_eq!(machine.settle(), expected, "{label}");
            assert_eq!(machine.runs.get(), runs, "{label}");
        }
    }

    #[test]
    fn a_quick_difference_that_is_not_repeated_is_told_from_a_delayed_one() {
        let quick = |differs: bool| Attempt {
            difference: differs.then_some(()),
            took: Duration::ZERO,
        };
        let belief = settle(&quick(true), || Ok(quick(false)), |_| {}).unwrap();
        assert_eq!(belief, Belief::Unrepeated);
    }

    #[test]
    fn a_slow_run_that_agrees_does_not_decide_either() {
        let mut runs = 0;
        let agrees = || {
            runs += 1;
            Ok(Attempt::<()> {
                difference: None,
                took: Duration::from_millis(if runs < 3 { 31 } else { 30 }),
            })
        };
        assert!(decide(agrees, |_| {}).unwrap().is_some());
        assert_eq!(runs, 3);
    }

    #[test]
    fn the_pauses_between_runs_grow_and_have_an_end() {
        let machine = Machine::new(&[100], true);
        let mut pauses = Vec::new();
        let decided = decide(|| machine.run(), |time| pauses.push(time)).unwrap();
        assert_eq!(decided, None);
        assert_eq!(pauses.len(), 20);
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(2));
    }

    #[test]
    fn a_run_is_void_with_more_than_one_disturbed_script_in_ten_million() {
        assert!(!is_void(0, 0));
        assert!(is_void(1, 9_999_999));
        assert!(!is_void(1, 10_000_000));
        assert!(is_void(11, 100_000_000));
    }
}
