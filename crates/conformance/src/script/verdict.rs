//! A scenario whose worlds differ, run again until a run was quick enough to decide.
//!
//! Decides:  which run is told: the first, if its worlds agree; else a quick one that shows whether they
//!           differ; and, where none is quick, that there is no verdict.
//! Not here: which runs are quick, and how many must differ (belief.rs); the running (run.rs).

use std::io;
use std::time::{Duration, Instant};

use super::run::Tally;
use crate::belief::{self, ATTEMPTS_MAX, Attempt, Belief, QUICK};

/// Runs of a scenario that differs may take so long together, where it waits or is long itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a scenario came to in both worlds: its tally and its text. `once` runs it, in a child of its own.
///
/// The kernel has timers, and gives other answers a few milliseconds later; the model beside it is told
/// nothing of a machine that was busy. So a difference counts only if quick runs show it.
pub fn settled(
    name: &str,
    once: impl FnMut() -> io::Result<(Tally, String)>,
) -> io::Result<(Tally, String)> {
    settled_with(name, once, std::thread::sleep)
}

fn settled_with(
    name: &str,
    mut once: impl FnMut() -> io::Result<(Tally, String)>,
    pause: impl FnMut(Duration),
) -> io::Result<(Tally, String)> {
    let begun = Instant::now();
    let first = once()?;
    if first.0.differ == 0 {
        return Ok(first);
    }
    let took = begun.elapsed().as_millis().max(1);
    let attempts = u32::try_from(PATIENCE.as_millis() / took).unwrap_or(ATTEMPTS_MAX);
    let attempts = attempts.clamp(2, ATTEMPTS_MAX);
    let mut last = first.clone();
    let again = || {
        last = once()?;
        Ok(attempt(&last.0))
    };
    let belief = belief::settle_within(attempts, &attempt(&first.0), again, pause)?;
    let (mut tally, mut text) = last;
    match belief {
        Belief::Differs(()) => {}
        Belief::Unrepeated => {
            text += &format!("{name}: an earlier run differed, and this one does not\n");
        }
        Belief::Delayed => {
            text += &format!(
                "{name}: an earlier run differed, but took {} ms, and this one does not\n",
                first.0.took.as_millis()
            );
        }
        Belief::Disturbed => {
            (tally.failed, tally.differ, tally.unsettled) = (0, 0, 1);
            text += &format!(
                "{name}: no verdict: no run of it that differed was quick; this one took {} ms beside what it waits on \
                 purpose, and after {} ms timers of the kernel fire that the model is not told of\n",
                tally.took.as_millis(),
                QUICK.as_millis()
            );
        }
    }
    Ok((tally, text))
}

fn attempt(tally: &Tally) -> Attempt<()> {
    Attempt {
        difference: (tally.differ > 0).then_some(()),
        took: tally.took,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of a machine that takes these times, the last one from then on; those that differ.
    fn told(took_ms: &[u64], differs: impl Fn(u64) -> bool) -> (Tally, String, usize) {
        let mut runs = 0;
        let once = || {
            let ms = took_ms[runs.min(took_ms.len() - 1)];
            runs += 1;
            let differ = usize::from(differs(ms));
            let tally = Tally {
                steps: 5,
                failed: differ,
                differ,
                took: Duration::from_millis(ms),
                ..Tally::default()
            };
            Ok((tally, format!("{ms}\n")))
        };
        let (tally, text) = settled_with("it", once, |_| ()).unwrap();
        (tally, text, runs)
    }

    #[test]
    fn a_difference_is_told_where_quick_runs_show_it() {
        let (tally, text, runs) = told(&[3], |_| true);
        assert_eq!((tally.differ, tally.unsettled, runs), (1, 0, 2));
        assert_eq!(text, "3\n");
        // Behind slow ones.
        let (tally, _, runs) = told(&[900, 80, 3], |_| true);
        assert_eq!((tally.differ, tally.unsettled, runs), (1, 0, 4));
    }

    #[test]
    fn one_run_is_enough_where_the_worlds_agree() {
        let (tally, text, runs) = told(&[900], |_| false);
        assert_eq!((tally.differ, tally.unsettled, runs), (0, 0, 1));
        assert_eq!(text, "900\n");
    }

    #[test]
    fn a_step_that_came_late_is_no_difference() {
        let (tally, text, runs) = told(&[900, 45, 3], |ms| ms > 40);
        assert_eq!((tally.failed, tally.differ, tally.unsettled), (0, 0, 0));
        assert_eq!(runs, 3);
        assert!(
            text.starts_with("3\nit: an earlier run differed, but took 900 ms"),
            "{text}"
        );
    }

    #[test]
    fn a_machine_that_is_always_slow_gives_no_verdict() {
        let (tally, text, runs) = told(&[45], |ms| ms > 40);
        assert_eq!((tally.failed, tally.differ, tally.unsettled), (0, 0, 1));
        assert_eq!(runs, 1 + ATTEMPTS_MAX as usize);
        assert!(text.contains("it: no verdict: "), "{text}");
    }
}
