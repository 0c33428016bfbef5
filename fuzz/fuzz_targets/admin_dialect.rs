//! Any bytes of a client of a runtime socket, in any pieces: commands and their answers.
//!
//! Decides:  nothing but the input.
//! Not here: what must hold (crates/control/tests/corpus/check.rs).

#![no_main]

#[allow(dead_code)]
#[path = "../../crates/control/tests/corpus/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::admin_dialect(bytes));
