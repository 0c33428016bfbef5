//! Which deliberate error the model has, in a build that has them.
//!
//! Decides:  that an ordinary build has none. `cargo xtask conformance --mutants` builds a copy of the
//!           sources in which the model has one for each of its conditions, and puts another file here.
//! Not here: how the errors are made (xtask/src/conformance/).

/// How many deliberate errors this build has.
#[must_use]
pub fn count() -> u32 {
    0
}

/// Turns on one of them, by its number from 1.
pub fn activate(_: u32) {}
