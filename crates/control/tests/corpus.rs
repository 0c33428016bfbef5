//! The kept corpora of the fuzz targets of hand-overs and runtime sockets, replayed and mutated, from a fixed seed.
//!
//! Decides:  that it is done at every test run, without a fuzzer.
//! Not here: what must hold (corpus/check.rs); longer runs (`cargo xtask fuzz`).

#![allow(clippy::expect_used, reason = "the helpers of tests")]

#[path = "corpus/check.rs"]
mod check;

use portcullis_testkit::replay;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// Of each file.
const MUTANTS: u64 = 200;

#[test]
fn every_hand_over_of_the_corpus_and_its_mutants_keep_the_promises() {
    replay(HERE, "hand_over", 14, MUTANTS, check::hand_over);
}

#[test]
fn every_message_with_sockets_of_the_corpus_and_its_mutants_keep_the_promises() {
    replay(HERE, "getsocks", 11, MUTANTS, check::getsocks);
}

#[test]
fn every_command_of_the_corpus_and_its_mutants_keep_the_promises() {
    replay(HERE, "admin_dialect", 10, MUTANTS, check::admin_dialect);
}
