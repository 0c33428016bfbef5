//! Any bytes as the first of a connection: a PROXY header, or not.
//!
//! Decides:  nothing but the input.
//! Not here: what must hold (crates/proxy/tests/corpus/check.rs).

#![no_main]

#[path = "../../crates/proxy/tests/corpus/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::header(bytes));
