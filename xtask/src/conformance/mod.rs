//! `cargo xtask conformance`: builds the conformance run and starts it.
//!
//! Decides:  that it is built for speed; that options are the run's own.
//! Not here: the run (crates/conformance); the deliberate errors (mutants.rs); other kernels (guest).

pub mod guest;
mod mutants;

use crate::workspace::{self, Failure};

/// Builds and runs; with `mutants`, a model with deliberate errors against a tape of the kernel.
pub fn run(with_mutants: bool, options: &[String]) -> Result<(), Failure> {
    if with_mutants {
        return mutants::run(options);
    }
    let mut command = workspace::cargo(&workspace::root());
    command.args([
        "run",
        "--release",
        "--quiet",
        "-p",
        "portcullis-conformance",
        "--",
    ]);
    let status = command.args(options).status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("conformance: {status}").into())
}
