//! A script on which the worlds differ, as a scenario.
//!
//! Decides:  that what is expected of each line is what the kernel answered; what its comments say; what
//!           a kept file is called.
//! Not here: the scenario language (script/).

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use portcullis_kernel_model::Errno;

use crate::compare::Difference;
use crate::script;
use crate::step::{Outcome, Script, Seen};

/// The scenario of a script. `answers` are the kernel's, step by step; a step that made no sense then has
/// none and is left out.
#[must_use]
pub fn scenario(of: &Script, answers: &[Option<Seen>], comment: &str) -> String {
    let mut kept = Script {
        profile: of.profile,
        steps: Vec::new(),
    };
    let mut told = Vec::new();
    for (at, step) in of.steps.iter().enumerate() {
        match answers.get(at) {
            Some(None) => {}
            Some(Some(seen)) => {
                kept.steps.push(*step);
                told.push(Some(*seen));
            }
            None => kept.steps.push(*step),
        }
    }
    script::write(&kept, &told, comment)
}

/// What the two worlds say at the step at which they differ.
#[must_use]
pub fn difference(difference: &Difference) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "The last line differs.");
    let _ = writeln!(text, "kernel: {}", seen(&difference.kernel));
    let _ = writeln!(text, "model:  {}", seen(&difference.model));
    for rule in &difference.rules {
        let _ = writeln!(text, "rule:   {rule}");
    }
    text
}

/// Keeps a scenario in a directory, under a name that no other has there.
pub fn keep(directory: &Path, name: &str, text: &str) -> io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join(format!("{name}.bind"));
    std::fs::write(&path, text)?;
    Ok(path)
}

fn seen(seen: &Seen) -> String {
    let mut text = match seen.outcome {
        Outcome::Ok => "ok".to_owned(),
        Outcome::Err(number) => {
            Errno::from_number(number).map_or(format!("errno {number}"), |e| e.name().to_owned())
        }
        Outcome::Value(value) => format!("value {value}"),
        Outcome::Bytes(bytes) => format!("bytes {bytes}"),
        Outcome::Address(address) => format!("address {address}"),
        Outcome::Accepted => "accepted".to_owned(),
        Outcome::Blocks => "blocks".to_owned(),
    };
    if let Some(name) = seen.name {
        let _ = write!(text, ", named {name}");
    }
    if let Some(state) = script::state_name(seen.state.into()) {
        let _ = write!(text, ", in {state}");
    }
    if let Some(receiver) = seen.receiver {
        let _ = write!(text, ", received by {}", script::label(receiver));
    }
    text
}
