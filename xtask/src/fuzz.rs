//! Runs the fuzz targets for a while.
//!
//! Decides:  on the stable toolchain, with RUSTC_BOOTSTRAP=1 (sanitizer flags need it); each target
//!           begins with its kept corpus.
//! Not here: replaying the corpus without cargo-fuzz, which is a test of the crate concerned.

use std::process::Command;

use crate::workspace::{self, Failure};

/// Each target for `seconds`.
pub fn run(seconds: u32, only: Option<&str>) -> Result<(), Failure> {
    let root = workspace::root();
    let packages = workspace::packages(&root)?;
    let fuzzing = packages
        .iter()
        .filter(|package| package.directory.starts_with("fuzz"));
    let targets: Vec<String> = fuzzing
        .flat_map(|package| &package.targets)
        .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
        .filter(|name| only.is_none_or(|only| only == name))
        .collect();
    if targets.is_empty() {
        return Err("no such fuzz target".into());
    }
    let mut crashed = Vec::new();
    for target in targets {
        println!("== {target}, {seconds} s");
        let mut cargo = workspace::cargo(&root);
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", &target, "--"]);
        cargo.arg(format!("-max_total_time={seconds}"));
        if !succeeds(&mut cargo)? {
            crashed.push(target);
        }
    }
    if crashed.is_empty() {
        return Ok(());
    }
    Err(format!("failed: {}", crashed.join(", ")).into())
}

fn succeeds(command: &mut Command) -> Result<bool, Failure> {
    let status = command
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    Ok(status.success())
}
