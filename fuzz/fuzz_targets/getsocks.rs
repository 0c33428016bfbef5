//! Any bytes as the messages of a process that gives its sockets as HAProxy does.
//!
//! Decides:  nothing but the input.
//! Not here: what must hold (crates/control/tests/corpus/check.rs).

#![no_main]

#[allow(dead_code)]
#[path = "../../crates/control/tests/corpus/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::getsocks(bytes));
