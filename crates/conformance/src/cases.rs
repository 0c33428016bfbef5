//! The scenarios of a directory, in the model of the running kernel and on that kernel.
//!
//! Decides:  that the model is of the release that runs; what the report shows: what failed, what was
//!           skipped and why, a last line for machines.
//! Not here: the language (script.rs); the command for people, `portcullis sim --both`.

use std::io;
use std::path::Path;

use crate::script::{self, Complaint, Detail, Mode, Obstacle, Run, Script, Settings, Tally};
use crate::worker::running_kernel;

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
        } = self.tally;
        format!(
            "scenarios={} skipped={skipped} steps={steps} failed={failed} differences={differ}",
            self.scenarios
        )
    }
}

/// Runs every `*.bind` of a directory, each in a child with a network of its own. This process must have
/// one thread.
pub fn run(directory: &Path) -> io::Result<Report> {
    let settings = Settings {
        kernel: running_kernel()?,
        ..Settings::default()
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "bind") {
            files.push(path);
        }
    }
    files.sort();
    let mut report = Report::default();
    for path in files {
        report.scenarios += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = std::fs::read_to_string(&path)?;
        match script::parse(&text, settings) {
            Ok(script) => {
                let (tally, text) = script::apart(|| steps(&name, &script))?;
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
    if report.scenarios == 0 {
        let text = format!("{} holds no *.bind file", directory.display());
        return Err(io::Error::other(text));
    }
    Ok(report)
}

/// One script on both sides, and the text of what is wrong with it.
fn steps(name: &str, script: &Script) -> (Tally, String) {
    let mut tally = Tally::default();
    let mut run = match Run::prepare(script, Mode::Both) {
        Ok(run) => run,
        Err(Obstacle::Skip(reason)) => {
            tally.skipped = 1;
            return (tally, format!("{name}: skipped: {reason}\n"));
        }
        Err(Obstacle::Failed(error)) => {
            tally.failed = 1;
            return (tally, format!("{name}: its host cannot be made: {error}\n"));
        }
    };
    let mut text = String::new();
    let detail = Detail {
        explain: true,
        colour: false,
    };
    for step in &script.steps {
        let row = run.step(step);
        tally.steps += 1;
        if row.complaints.is_empty() {
            continue;
        }
        tally.failed += 1;
        tally.differ += usize::from(row.complaints.contains(&Complaint::Differ));
        if text.is_empty() {
            text = format!("{name}\n");
        }
        text += &script::row(script, step, &row, &run.ports.1, detail);
    }
    (tally, text)
}
