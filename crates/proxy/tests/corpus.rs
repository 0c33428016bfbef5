//! The kept corpus of the PROXY header's fuzz target, replayed and mutated, from a fixed seed.
//!
//! Decides:  that it is done at every test run, without a fuzzer.
//! Not here: what must hold (corpus/check.rs); longer runs (`cargo xtask fuzz`).

#[path = "corpus/check.rs"]
mod check;

use portcullis_testkit::replay;

#[test]
fn every_file_of_the_corpus_and_its_mutants_keep_the_promises() {
    let here = env!("CARGO_MANIFEST_DIR");
    replay(here, "proxy_protocol", 61, 250, check::header);
}
