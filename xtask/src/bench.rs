//! `cargo xtask bench`: builds Portcullis and the bench, and starts the run.
//!
//! Decides:  that both are built for speed; that options are the run's own.
//! Not here: the run (crates/bench).

use crate::workspace::{self, Failure};

/// Builds and runs.
pub fn run(options: &[String]) -> Result<(), Failure> {
    let root = workspace::root();
    let packages = ["-p", "portcullis", "-p", "portcullis-bench"];
    let mut build = workspace::cargo(&root);
    build.args(["build", "--release", "--quiet"]).args(packages);
    let built = build.status()?;
    if !built.success() {
        return Err(format!("cargo build: {built}").into());
    }
    let mut run = workspace::cargo(&root);
    run.args([
        "run",
        "--release",
        "--quiet",
        "-p",
        "portcullis-bench",
        "--",
    ]);
    let status = run.args(options).status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("bench: {status}").into())
}
