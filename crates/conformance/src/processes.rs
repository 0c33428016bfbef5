//! Scenarios with processes: descriptors of their own, namespaces, users, hosts of any make, run in both worlds.
//!
//! They are what one process and one fixed network cannot show (random.rs): fork, exit, passing descriptors,
//! network and user namespaces, interfaces that are down, secondary addresses, networks on `lo`, sysctls that
//! change, options of odd lengths.
//!
//! Decides:  how one is run and where it ends; the shortest scenario that still differs.
//! Not here: the texts (pen.rs) and what they are made of (alphabet.rs), the language (script/), the workers
//!           (run.rs).

mod alphabet;
mod pen;

use std::fmt::Write as _;
use std::io;
use std::time::Instant;

pub use pen::text;

use crate::belief::{self, Attempt};
use crate::mutant;
use crate::script::{self, Complaint, Detail, Mode, Run, Script, Settings, Tally};

/// Scenarios tried for one difference.
const ATTEMPTS_MAX: u32 = 400;

/// What came of a scenario in both worlds.
#[derive(Debug, Default)]
pub struct Told {
    /// Steps, differences, and whether it was skipped.
    pub tally: Tally,
    /// The model's rules, by their names, each as often as it was applied.
    pub rules: Vec<String>,
    /// Of a build that counts them: what came up of each condition.
    pub branches: Vec<(u32, u8)>,
    /// The line that differs, or why it was skipped.
    pub text: String,
}

impl Told {
    /// What is to be believed of it.
    #[must_use]
    pub fn attempt(&self) -> Attempt<()> {
        Attempt {
            difference: (self.tally.differ > 0).then_some(()),
            took: self.tally.took,
        }
    }
}

/// Runs a scenario in both worlds, up to the first difference, in a child with networks of its own. `None`
/// where the text is no scenario.
pub fn run(text: &str, settings: Settings) -> io::Result<Option<Told>> {
    run_in(Mode::Both, text, settings)
}

/// The same in the worlds of this mode.
pub fn run_in(mode: Mode, text: &str, settings: Settings) -> io::Result<Option<Told>> {
    let Ok(parsed) = script::parse(text, settings) else {
        return Ok(None);
    };
    let (tally, account) = script::apart(|| steps(&parsed, mode))?;
    let mut told = Told {
        tally,
        ..Told::default()
    };
    for line in account.lines() {
        match line.split_once(' ') {
            Some(("rule", rule)) => told.rules.push(rule.to_owned()),
            Some(("branch", rest)) => {
                if let Some((number, seen)) = rest.split_once(' ') {
                    let seen = seen.parse().unwrap_or(0);
                    told.branches.push((number.parse().unwrap_or(0), seen));
                }
            }
            Some(("text", rest)) => {
                told.text += rest;
                told.text.push('\n');
            }
            _ => {}
        }
    }
    Ok(Some(told))
}

fn steps(script: &Script, mode: Mode) -> (Tally, String) {
    let mut run = match Run::prepare(script, mode) {
        Ok(run) => run,
        Err(obstacle) => {
            let (tally, why) = obstacle.told();
            return (tally, format!("text {why}\n"));
        }
    };
    let (mut tally, mut account) = (Tally::default(), String::new());
    let detail = Detail {
        explain: true,
        colour: false,
    };
    for step in &script.steps {
        let begun = Instant::now();
        let row = run.step(step);
        tally.took += begun.elapsed().saturating_sub(row.waited(step));
        tally.steps += 1;
        for reason in &row.reasons {
            let _ = writeln!(account, "rule {}", reason.rule.info().id);
        }
        if row.complaints.contains(&Complaint::Unclear) {
            tally.skipped = 1;
            account += "text too many choices are possible to follow\n";
            break;
        }
        if row.complaints.contains(&Complaint::Differ) {
            tally.differ = 1;
            for line in script::row(script, step, &row, &run.ports.1, detail).lines() {
                let _ = writeln!(account, "text {line}");
            }
            break;
        }
    }
    for number in 1..=mutant::count() {
        let _ = writeln!(account, "branch {number} {}", mutant::seen(number));
    }
    (tally, account)
}

/// Leaves lines out while a scenario still differs.
pub fn shrink(text: &str, settings: Settings) -> io::Result<String> {
    let mut best: Vec<&str> = text.lines().collect();
    let mut attempts = 0;
    let mut at = best.len();
    while at > 0 && attempts < ATTEMPTS_MAX {
        at -= 1;
        let mut fewer = best.clone();
        fewer.remove(at);
        attempts += 1;
        let text = fewer.join("\n") + "\n";
        let attempt = || Ok(run(&text, settings)?.unwrap_or_default().attempt());
        let decided = belief::decide(attempt, std::thread::sleep)?;
        if decided.is_some_and(|attempt| attempt.difference.is_some()) {
            best = fewer;
            at = best.len().min(at + 1);
        }
    }
    Ok(best.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_runs_the_same_in_the_model_again() {
        let told = |number| {
            let script = script::parse(&text(9, number), Settings::default()).unwrap();
            let mut run = Run::prepare(&script, Mode::Model).unwrap();
            let rows = script.steps.iter().map(|step| run.step(step).model);
            rows.collect::<Vec<_>>()
        };
        for number in 0..200 {
            assert_eq!(told(number), told(number), "{number}");
        }
    }
}
