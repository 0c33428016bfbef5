//! `cargo xtask conformance`: builds the conformance run and starts it.
//!
//! Decides:  that it is built for speed; where shrunk scripts are kept; that options are the run's own.
//! Not here: the run (crates/conformance); the numbered conditions (mutants.rs); other kernels (guest).

pub mod guest;
mod mutants;

use std::path::PathBuf;

use crate::workspace::{self, Failure};
pub use mutants::Purpose;

/// Where scripts on which model and kernel differ are kept, shrunk, as scenarios.
fn found() -> PathBuf {
    workspace::root().join("crates/conformance/found")
}

/// As the run says that it is not possible here (crates/conformance/src/main.rs).
const NOT_HERE: i32 = 4;

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

/// Builds and runs; with a purpose, a build whose conditions are numbered.
pub fn run(purpose: Option<Purpose>, options: &[String]) -> Result<(), Failure> {
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
    if status.success() {
        return Ok(());
    }
    Err(format!("conformance: {status}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
