//! The scenarios of a directory, in the model of the running kernel and on that kernel.
//!
//! Decides:  that the model is of the release that runs; what the report shows: what failed, what was
//!           skipped and why, a last line for machines.
//! Not here: the language (script.rs); the command for people, `portcullis sim --both`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::script::{self, Detail, Mode, Problem, Run, Script, Settings, Tally};
use crate::worker::running_kernel;
use crate::{processes, report};

/// Where the project keeps its scenarios.
pub const DIRECTORY: &str = "crates/kernel-model/cases";

/// What came of the scenarios.
#[derive(Debug, Default)]
pub struct Report {
    /// How many there are.
    pub scenarios: usize,
    /// Those that are not understood.
    pub wrong: usize,
    /// Steps, failures, differences, skipped scenarios.
    pub tally: Tally,
    /// What failed, and what was skipped and why.
    pub text: String,
}

impl Report {
    /// The last line, for machines.
    #[must_use]
    pub fn line(&self) -> String {
        let Tally {
            steps,
            failed,
            differ,
            skipped,
            unsettled,
            ..
        } = self.tally;
        format!(
            "scenarios={} skipped={skipped} unsettled={unsettled} steps={steps} failed={failed} differences={differ}",
            self.scenarios
        )
    }
}

/// The `*.bind` files of a directory, by name.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "bind") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A file that may hold a scenario.
#[derive(Debug)]
pub struct Case {
    /// The file's name.
    pub name: String,
    /// What it says.
    pub text: String,
    /// What that means, or what is wrong with it.
    pub script: Result<Script, Vec<Problem>>,
}

/// Reads every `*.bind` of a directory, by name. That there is none is an error.
pub fn read(directory: &Path, settings: Settings) -> io::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for path in files(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = std::fs::read_to_string(&path)?;
        cases.push(Case {
            name: name.into_owned(),
            script: script::parse(&text, settings),
            text,
        });
    }
    if cases.is_empty() {
        let text = format!("{} holds no *.bind file", directory.display());
        return Err(io::Error::other(text));
    }
    Ok(cases)
}

/// Runs every `*.bind` of a directory, each in a child with a network of its own. This process must have
/// one thread.
pub fn run(directory: &Path) -> io::Result<Report> {
    let settings = Settings {
        kernel: running_kernel()?,
        ..Settings::default()
    };
    let mut report = Report::default();
    for Case { name, text, script } in read(directory, settings)? {
        report.scenarios += 1;
        match script {
            Ok(script) => {
                let once = || script::apart(|| steps(&name, &script));
                let (tally, text) = script::settled(&name, once)?;
                report.tally.add(tally);
                report.text += &text;
            }
            Err(problems) => {
                report.wrong += 1;
                for problem in problems {
                    report.text += &problem.render(&name, &text);
                }
            }
        }
    }
    Ok(report)
}

/// The scenarios of a directory in a build that counts branches, each beside the kernel up to the first
/// difference. Those that this kernel cannot run, or that wait for longer than a run has time, go through the
/// model alone and are counted apart. This process must have one thread.
pub fn branches(directory: &Path) -> io::Result<report::Report> {
    let settings = Settings {
        kernel: running_kernel()?,
        ..Settings::default()
    };
    let begun = Instant::now();
    let mut found = report::Report::default();
    for Case { name, text, .. } in read(directory, settings)? {
        let none = || io::Error::other(format!("{name} is no scenario"));
        let mut told = processes::run(&text, settings)?.ok_or_else(none)?;
        let mut seen = &mut found.branches;
        if told.tally.skipped > 0 {
            told = processes::run_in(Mode::Model, &text, settings)?.ok_or_else(none)?;
            seen = &mut found.elsewhere;
        } else {
            found.steps += told.tally.steps as u64;
            found.scripts += 1;
            found.disagreements += told.tally.differ as u64;
            if told.tally.differ > 0 {
                found.shown.insert(format!("{name}\n{}", told.text));
            }
            for rule in told.rules {
                *found.hits.entry(rule).or_default() += 1;
            }
        }
        for (number, sides) in told.branches {
            *seen.entry(number).or_default() |= sides;
        }
    }
    found.took = begun.elapsed();
    let part = "scenarios".to_owned();
    found.parts.push((part, found.steps, found.took));
    Ok(found)
}

/// One script on both sides, and the text of what is wrong with it.
fn steps(name: &str, script: &Script) -> (Tally, String) {
    let mut run = match Run::prepare(script, Mode::Both) {
        Ok(run) => run,
        Err(obstacle) => {
            let (tally, why) = obstacle.told();
            return (tally, format!("{name}: {why}\n"));
        }
    };
    let (mut tally, mut text) = (Tally::default(), String::new());
    let detail = Detail {
        explain: true,
        colour: false,
    };
    for step in &script.steps {
        let begun = Instant::now();
        let row = run.step(step);
        tally.count(step, &row, begun.elapsed());
        if row.complaints.is_empty() {
            continue;
        }
        if text.is_empty() {
            text = format!("{name}\n");
        }
        text += &script::row(script, step, &row, &run.ports.1, detail);
    }
    (tally, text)
}
