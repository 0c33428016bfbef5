//! Any bytes as a file: words, conditionals, sections, and their places.
//!
//! Decides:  nothing but the input.
//! Not here: what must hold (crates/config/tests/corpus/check.rs).

#![no_main]

#[allow(dead_code, reason = "the other target uses the other half")]
#[path = "../../crates/config/tests/corpus/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::words(bytes));
