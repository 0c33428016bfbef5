//! What CI runs, and anybody before pushing.
//!
//! Decides:  the steps and their order; all are run, then a summary; the tests' own output is shown.
//! Not here: installing what the tests need (.ci/run).

use std::process::Command;
use std::time::{Duration, Instant};

use crate::workspace::{self, Failure};
use crate::{conformance, docs, no_std, soak, tidy};

/// A name for the summary and what it does.
struct Step {
    name: &'static str,
    run: fn() -> Result<Outcome, Failure>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Skipped(&'static str),
}

/// Quick ones first, so that small mistakes show early.
const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        run: || cargo(&["fmt", "--all", "--check"], &[]),
    },
    Step {
        name: "tidy",
        run: || tidy::run(false).map(|()| Outcome::Done),
    },
    Step {
        name: "docs",
        run: || docs::run(true).map(|()| Outcome::Done),
    },
    Step {
        name: "deny",
        run: deny,
    },
    Step {
        name: "clippy",
        run: || {
            let lints = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--keep-going",
                "--locked",
                "--",
                "-D",
                "warnings",
            ];
            cargo(&lints, &[])
        },
    },
    Step {
        name: "rustdoc",
        run: || {
            let flags = [("RUSTDOCFLAGS", "-D warnings")];
            cargo(&["doc", "--workspace", "--no-deps", "--locked"], &flags)
        },
    },
    Step {
        name: "no-std",
        run: || no_std::check().map(|()| Outcome::Done),
    },
    // The kernel model beside the running kernel; a longer run is `cargo xtask conformance`.
    Step {
        name: "conformance",
        run: || conformance::in_ci().map(|not| not.map_or(Outcome::Done, Outcome::Skipped)),
    },
    // Unit, whole-binary and documentation tests; builds the examples; replays the fuzz corpus.
    Step {
        name: "test",
        run: || cargo(&["test", "--workspace", "--locked", "--no-fail-fast"], &[]),
    },
    // Reloads, upgrades, moves and kills under load; a longer run is `cargo xtask soak`.
    Step {
        name: "soak",
        run: || soak::in_ci().map(|()| Outcome::Done),
    },
];

/// Runs the steps, or those named in `only`.
pub fn run(only: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = only
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        return Err(format!("no step `{unknown}`; there are: {}", names.join(", ")).into());
    }
    let wanted = |step: &&Step| only.is_empty() || only.iter().any(|name| name == step.name);
    let mut summary = Vec::new();
    let mut failed = Vec::new();
    for step in STEPS.iter().filter(wanted) {
        println!("== {}", step.name);
        let begun = Instant::now();
        let verdict = match (step.run)() {
            Ok(Outcome::Done) => "ok".to_owned(),
            Ok(Outcome::Skipped(why)) => format!("skipped: {why}"),
            Err(error) => {
                failed.push(step.name);
                format!("FAILED: {error}")
            }
        };
        summary.push(line(step.name, begun.elapsed(), &verdict));
    }
    println!("== summary\n{}", summary.join("\n"));
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("failed: {}", failed.join(", ")).into())
}

fn line(name: &str, took: Duration, verdict: &str) -> String {
    format!("{name:<11} {:>7.1} s  {verdict}", took.as_secs_f64())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Outcome, Failure> {
    let mut command = workspace::cargo(&workspace::root());
    command.args(arguments).envs(environment.iter().copied());
    let status = command
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() {
        return Ok(Outcome::Done);
    }
    Err(format!("cargo {}: {status}", arguments.first().unwrap_or(&"")).into())
}

/// Bans, licences and sources; advisories need a network that CI may not have.
fn deny() -> Result<Outcome, Failure> {
    let known = Command::new("cargo-deny").arg("--version").output();
    if !known.is_ok_and(|done| done.status.success()) {
        let in_ci =
            std::env::var("PORTCULLIS_CI").is_ok_and(|value| !value.is_empty() && value != "0");
        return if in_ci {
            Err("cargo-deny is not installed, and CI needs it".into())
        } else {
            Ok(Outcome::Skipped(
                "cargo-deny is not installed (cargo install cargo-deny)",
            ))
        };
    }
    cargo(
        &[
            "deny",
            "--workspace",
            "check",
            "bans",
            "licenses",
            "sources",
        ],
        &[],
    )
}
