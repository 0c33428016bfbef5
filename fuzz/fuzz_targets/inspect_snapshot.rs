//! Any bytes as the file of a host, and questions to it.
//!
//! Decides:  nothing but the input.
//! Not here: what must hold (crates/inspect/tests/corpus/check.rs).

#![no_main]

#[path = "../../crates/inspect/tests/corpus/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::snapshot(bytes));
