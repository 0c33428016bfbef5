//! Runs the simulation of a worker for a while.
//!
//! Decides:  an optimised build; each trial from a seed of its own, which is named if it fails.
//! Not here: the simulation (crates/proxy/src/worker/simulation.rs), whose short form is a test.

use crate::workspace::{self, Failure};

/// Trials from `seed` on, for `seconds`.
pub fn run(seconds: u32, seed: u64) -> Result<(), Failure> {
    let root = workspace::root();
    let mut cargo = workspace::cargo(&root);
    cargo
        .args(["test", "--release", "-p", "portcullis-proxy", "--lib", "--"])
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("worker::simulation::for_as_long_as_it_is_told_to")
        .env("PORTCULLIS_SIMULATE_SECONDS", seconds.to_string())
        .env("PORTCULLIS_SEED", seed.to_string());
    let status = cargo
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err("the simulation found something: see the seed above".into()),
    }
}
