//! The kept corpus of the PROXY header's fuzz target, replayed and mutated, from a fixed seed.
//!
//! Decides:  that it is done at every test run, without a fuzzer.
//! Not here: what must hold (corpus/check.rs); longer runs (`cargo xtask fuzz`).

#![allow(clippy::expect_used, reason = "the helpers of tests")]

#[path = "corpus/check.rs"]
mod check;

use std::path::Path;

/// Mutants of each file.
const MUTANTS: u64 = 250;

fn corpus() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/proxy_protocol");
    let mut paths: Vec<_> = std::fs::read_dir(root)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a readable file");
    paths.into_iter().map(read).collect()
}

#[test]
fn every_file_of_the_corpus_and_its_mutants_keep_the_promises() {
    let files = corpus();
    assert!(files.len() > 60, "{} files", files.len());
    let mut state = 0x5eed_u64;
    let mut below = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % bound.max(1)
    };
    for bytes in &files {
        check::header(bytes);
        for _ in 0..MUTANTS {
            let mut mutant = bytes.clone();
            for _ in 0..=below(3) {
                let at = below(mutant.len());
                match below(4) {
                    0 if !mutant.is_empty() => mutant[at] ^= 1 << below(8),
                    1 if !mutant.is_empty() => drop(mutant.remove(at)),
                    2 => mutant.truncate(at),
                    _ => mutant.insert(at, below(256) as u8),
                }
            }
            check::header(&mutant);
        }
    }
}
