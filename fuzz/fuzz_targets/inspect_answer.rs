//! Any bytes as an answer of the kernel: of sock_diag, of rtnetlink, or its types.
//!
//! Decides:  nothing but the input.
//! Not here: what must hold (crates/inspect/tests/corpus/check.rs).

#![no_main]

#[path = "../../crates/inspect/tests/corpus/check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::answer(bytes));
