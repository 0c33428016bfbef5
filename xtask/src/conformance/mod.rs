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
