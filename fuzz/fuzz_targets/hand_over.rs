//! Whatever another process sends over the hand-over's socket, in whatever packets.
//!
//! Decides:  nothing but the input.
//! Not here: what must hold (crates/control/tests/corpus/check.rs).

#![no_main]

#[allow(dead_code)]
#[path = "../../crates/control/tests/corpus/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::hand_over(bytes));
