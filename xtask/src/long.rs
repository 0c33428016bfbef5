//! Runs the tests of retirements that take a minute each.
//!
//! Decides:  which they are; one after the other, and what each of them counted is shown.
//! Not here: the tests themselves, whose short forms run with all others.

use crate::workspace::{self, Failure};

/// Package, test target, name.
const LONG: [[&str; 3]; 2] = [
    ["portcullis-listener", "retire", "a_thousand_rounds"],
    [
        "portcullis-listener",
        "closing",
        "a_close_resets_a_client_that_the_program_gave_to_another_member",
    ],
];

/// All of them, or those whose name has this in it.
pub fn run(only: Option<&str>) -> Result<(), Failure> {
    let root = workspace::root();
    let wanted = LONG
        .iter()
        .filter(|[_, _, name]| only.is_none_or(|only| name.contains(only)));
    let mut failed = Vec::new();
    let mut ran = 0;
    for [package, target, name] in wanted {
        let mut cargo = workspace::cargo(&root);
        cargo.args(["test", "-p", package, "--test", target, "--"]);
        cargo.args(["--ignored", "--exact", "--nocapture", name]);
        let status = cargo
            .status()
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        if !status.success() {
            failed.push(*name);
        }
        ran += 1;
    }
    match (ran, failed.is_empty()) {
        (0, _) => Err("no such long test".into()),
        (_, true) => Ok(()),
        (_, false) => Err(format!("failed: {}", failed.join(", ")).into()),
    }
}
