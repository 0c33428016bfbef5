//! `cargo xtask conformance`: builds the conformance run and starts it.
//!
//! Decides:  that it is built for speed; where shrunk scripts are kept; that options and exit codes are the
//!           run's own.
//! Not here: the run (crates/conformance); the numbered conditions (mutants.rs); other kernels (guest).

mod guest;
mod mutants;

use std::path::PathBuf;
use std::time::Duration;

use crate::workspace::{self, Ended, Failure};
pub use mutants::Purpose;

/// Where scripts on which model and kernel differ are kept, shrunk, as scenarios.
fn found() -> PathBuf {
    workspace::root().join("crates/conformance/found")
}

/// As the run says that it is not possible here (crates/conformance/src/main.rs).
const NOT_HERE: i32 = 4;
/// As it says that something else went wrong: there is no verdict.
const NO_VERDICT: u8 = 2;
/// All that it says: agreed, differs, no verdict, not here.
const CODES: [i32; 4] = [0, 1, NO_VERDICT as i32, NOT_HERE];

/// The run of about two minutes that CI has: exhaustive and random scripts, and beside them those in
/// which time passes, most of whose minute is waiting. `None` where it was done; otherwise why not.
pub fn in_ci() -> Result<Option<&'static str>, Failure> {
    const STEPS: &str = "24000000";
    const SCENARIO_STEPS: &str = "20000";
    const SEED: &str = "1";
    let root = workspace::root();
    let mut build = workspace::cargo(&root);
    build.args([
        "build",
        "--release",
        "--locked",
        "-p",
        "portcullis-conformance",
    ]);
    let built = build.status()?;
    if !built.success() {
        return Err(format!("building the run: {built}").into());
    }
    let run = |part: &str, steps: &str| {
        let mut run = workspace::cargo(&root);
        run.args([
            "run",
            "--release",
            "--quiet",
            "--locked",
            "-p",
            "portcullis-conformance",
            "--",
        ]);
        run.args(["--if-verified", "--part", part, "--steps", steps, "--seed"]);
        run.arg(SEED).arg("--found").arg(found());
        run
    };
    let mut slow = run("time", "1").spawn()?;
    let fast = run("both", STEPS).status();
    let apart = run("processes", SCENARIO_STEPS).status();
    let slow = slow.wait()?;
    let (fast, apart) = (fast?, apart?);
    match together([slow.code(), fast.code(), apart.code()]) {
        Together::Agreed => Ok(None),
        Together::NotHere => Ok(Some(
            "this kernel is not one that the model has been compared with, or forbids private networks",
        )),
        Together::Failed => {
            Err(format!("with time: {slow}; without: {fast}; with processes: {apart}").into())
        }
    }
}

/// What the exit codes of runs beside each other mean.
#[derive(Debug, PartialEq, Eq)]
enum Together {
    Agreed,
    NotHere,
    Failed,
}

/// A run that failed decides, whatever the others say; then one that was not possible. `None` is a signal.
fn together<const N: usize>(codes: [Option<i32>; N]) -> Together {
    let is = |code: &Option<i32>, wanted: i32| *code == Some(wanted);
    if codes.iter().any(|code| !is(code, 0) && !is(code, NOT_HERE)) {
        return Together::Failed;
    }
    if codes.iter().any(|code| is(code, NOT_HERE)) {
        return Together::NotHere;
    }
    Together::Agreed
}

/// The run as it ended, by its exit code; one that is not the run's own, a build's or a crash's, is no
/// verdict.
fn ended(what: &str, code: Option<i32>) -> Result<(), Failure> {
    let code = code.filter(|code| CODES.contains(code));
    match code.and_then(|code| u8::try_from(code).ok()) {
        Some(0) => Ok(()),
        code => {
            let message = match code {
                Some(code) => format!("{what}: exit code {code}"),
                None => format!("{what} ended without a verdict"),
            };
            let code = code.unwrap_or(NO_VERDICT);
            Err(Ended { message, code }.into())
        }
    }
}

/// What fails before or beside a run says nothing of model and kernel.
fn without_verdict(failure: Failure) -> Failure {
    if failure.is::<Ended>() {
        return failure;
    }
    let message = failure.to_string();
    let code = NO_VERDICT;
    Ended { message, code }.into()
}

/// On another kernel, in an emulated machine.
pub fn in_guest(
    kernel: &str,
    mirror: Option<&str>,
    limit: Duration,
    options: &[String],
) -> Result<(), Failure> {
    guest::run(kernel, mirror, limit, options).map_err(without_verdict)
}

/// Builds and runs; with a purpose, a build whose conditions are numbered.
pub fn run(purpose: Option<Purpose>, options: &[String]) -> Result<(), Failure> {
    build_and_run(purpose, options).map_err(without_verdict)
}

fn build_and_run(purpose: Option<Purpose>, options: &[String]) -> Result<(), Failure> {
    if let Some(purpose) = purpose {
        return mutants::run(purpose, options);
    }
    let mut command = workspace::cargo(&workspace::root());
    command.args([
        "run",
        "--release",
        "--quiet",
        "--locked",
        "-p",
        "portcullis-conformance",
        "--",
    ]);
    let status = command.arg("--found").arg(found()).args(options).status()?;
    ended("conformance", status.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_exit_code_is_the_chores_and_no_other_failure_is_a_difference() {
        let code = |done: Result<(), Failure>| match done {
            Ok(()) => 0,
            Err(failure) => workspace::exit_code(&without_verdict(failure)),
        };
        let table = [
            (Some(0), 0),
            (Some(1), 1),
            (Some(2), 2),
            (Some(4), 4),
            // A build that failed, or a panic; a signal.
            (Some(101), 2),
            (None, 2),
        ];
        for (of_run, of_chore) in table {
            assert_eq!(code(ended("it", of_run)), of_chore, "{of_run:?}");
        }
        assert_eq!(code(Err("no such package".into())), 2);
        assert_eq!(workspace::exit_code(&"another chore's".into()), 1);
    }

    #[test]
    fn a_disagreement_fails_whatever_the_other_runs_say() {
        let table = [
            ([Some(0), Some(0), Some(0)], Together::Agreed),
            ([Some(4), Some(4), Some(4)], Together::NotHere),
            ([Some(0), Some(4), Some(0)], Together::NotHere),
            ([Some(4), Some(1), Some(0)], Together::Failed),
            ([Some(1), Some(4), Some(4)], Together::Failed),
            ([Some(4), Some(4), Some(2)], Together::Failed),
            ([Some(4), None, Some(4)], Together::Failed),
        ];
        for (codes, meant) in table {
            assert_eq!(together(codes), meant, "{codes:?}");
        }
    }
}
