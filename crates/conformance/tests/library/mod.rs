//! The library of scenarios, for the tests that go through it.
//!
//! Decides:  that it was found.
//! Not here: what is asked of each (the tests).

use std::path::PathBuf;

use portcullis_conformance::cases::{self, Case};
use portcullis_conformance::script::Settings;

/// Every scenario, by name.
pub fn cases() -> Vec<Case> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../kernel-model/cases");
    let all = cases::read(&directory, Settings::default()).unwrap();
    assert!(all.len() > 100, "only {} cases were found", all.len());
    all
}
