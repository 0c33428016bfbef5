//! The kept corpora of the fuzz targets of hand-overs and runtime sockets, replayed and mutated, from a fixed seed.
//!
//! Decides:  that it is done at every test run, without a fuzzer.
//! Not here: what must hold (corpus/check.rs); longer runs (`cargo xtask fuzz`).

#![allow(clippy::expect_used, reason = "the helpers of tests")]

#[path = "corpus/check.rs"]
mod check;

use std::path::Path;

/// Mutants of each file.
const MUTANTS: u64 = 200;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(root.join(name))
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|it| it == "bin"))
        .collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a readable file");
    paths.into_iter().map(read).collect()
}

fn replay(name: &str, least: usize, check: fn(&[u8])) {
    let files = corpus(name);
    assert!(files.len() >= least, "{} files of {name}", files.len());
    let mut state = 0x5eed_u64;
    let mut below = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % bound.max(1)
    };
    for bytes in &files {
        check(bytes);
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
            check(&mutant);
        }
    }
}

#[test]
fn every_hand_over_of_the_corpus_and_its_mutants_keep_the_promises() {
    replay("hand_over", 14, check::hand_over);
}

#[test]
fn every_message_with_sockets_of_the_corpus_and_its_mutants_keep_the_promises() {
    replay("getsocks", 11, check::getsocks);
}

#[test]
fn every_command_of_the_corpus_and_its_mutants_keep_the_promises() {
    replay("admin_dialect", 10, check::admin_dialect);
}
