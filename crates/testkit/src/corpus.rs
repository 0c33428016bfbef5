//! The kept cases of a fuzz target, replayed and mutated, without a fuzzer.
//!
//! Decides:  which files of a target are kept cases; how they are changed, always in the same way.
//! Not here: what must hold of them (each crate's tests/corpus/check.rs).

use std::path::Path;

/// Calls `check` with every kept case of the target and with so many mutants of each; there must be at least
/// `least` cases. `crate_directory` is the caller's `CARGO_MANIFEST_DIR`.
///
/// # Panics
///
/// Where `check` does, and where there are fewer cases.
pub fn replay(
    crate_directory: &str,
    target: &str,
    least: usize,
    mutants: u64,
    check: impl Fn(&[u8]),
) {
    let files = cases(
        &Path::new(crate_directory)
            .join("../../fuzz/corpus")
            .join(target),
    );
    assert!(files.len() >= least, "{} files of {target}", files.len());
    let mut state = 0x5eed_u64;
    let mut below = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % bound.max(1)
    };
    for bytes in &files {
        check(bytes);
        for _ in 0..mutants {
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

/// What a run of a fuzzer found has no extension, and stays on the machine.
fn cases(directory: &Path) -> Vec<Vec<u8>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => panic!("{}: {error}", directory.display()),
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some())
        .collect();
    paths.sort();
    let read = |path: std::path::PathBuf| match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    paths.into_iter().map(read).collect()
}
