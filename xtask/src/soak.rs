//! `cargo xtask soak`: builds Portcullis and the soak, and starts the run.
//!
//! Decides:  that both are built for speed (in CI: as the tests are); that options are the run's own; how short the
//!           run of CI is.
//! Not here: the run (crates/soak).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::workspace::{self, Failure};

/// CI's: some 40 s. `--within` is for a machine that is much slower.
const IN_CI: &[&str] = &[
    "--reloads",
    "40",
    "--upgrades",
    "4",
    "--shard-changes",
    "8",
    "--haproxy-moves",
    "4",
    "--kills",
    "4",
    "--calm",
    "3",
    "--clients",
    "6",
    "--within",
    "120",
];

/// Builds, and becomes the run, which so is the one whom Ctrl-C reaches.
pub fn run(options: &[String]) -> Result<(), Failure> {
    let mut run = prepared(&["--release"], options)?;
    Err(run.exec().into())
}

/// The short form, with the profile that CI has built anyway.
pub fn in_ci() -> Result<(), Failure> {
    let options: Vec<String> = IN_CI.iter().map(|&word| word.to_owned()).collect();
    let status = prepared(&[], &options)?.status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("soak: {status}").into())
}

fn prepared(profile: &[&str], options: &[String]) -> Result<Command, Failure> {
    let root = workspace::root();
    let mut build = workspace::cargo(&root);
    build.arg("build").args(profile).arg("--quiet");
    let built = build
        .args(["-p", "portcullis", "-p", "portcullis-soak"])
        .status()?;
    if !built.success() {
        return Err(format!("cargo build: {built}").into());
    }
    let mut run = workspace::cargo(&root);
    run.arg("run")
        .args(profile)
        .args(["--quiet", "-p", "portcullis-soak", "--"])
        .args(options);
    Ok(run)
}
