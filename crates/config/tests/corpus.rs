//! The kept corpus of the fuzz targets, replayed and mutated for a few seconds.
//!
//! Decides:  that it is done at every test run, without a fuzzer, from a printed seed.
//! Not here: what must hold (corpus/check.rs); longer runs (`cargo xtask fuzz`).

#![allow(clippy::expect_used, reason = "the helpers of tests")]

#[path = "corpus/check.rs"]
mod check;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long mutants are tried, and how long one input may take, in a debug build on a busy machine.
const MUTATING: Duration = Duration::from_secs(3);
const ONE_INPUT: Duration = Duration::from_secs(10);
/// Mutants do not grow beyond this.
const MAX_MUTANT: usize = 16 << 10;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut files = Vec::new();
    for target in ["config_lexer", "config_parser"] {
        for entry in std::fs::read_dir(root.join(target)).expect("the corpus is in the repository")
        {
            let path = entry.expect("a readable directory").path();
            let bytes = std::fs::read(&path).expect("a readable file");
            files.push((path.display().to_string(), bytes));
        }
    }
    files.sort();
    files
}

/// Both checks, and how to see a failure again.
fn check(name: &str, bytes: &[u8]) {
    let begun = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| {
        check::words(bytes);
        check::configuration(bytes);
    }));
    let input = || bytes.escape_ascii().to_string();
    assert!(result.is_ok(), "{name} fails; the input:\n{}", input());
    let took = begun.elapsed();
    assert!(
        took < ONE_INPUT,
        "{name} took {took:?}; the input:\n{}",
        input()
    );
}

#[test]
fn every_file_of_the_corpus_is_read_without_a_panic() {
    let files = corpus();
    assert!(files.len() > 20, "{} files", files.len());
    for (name, bytes) in files {
        check(&name, &bytes);
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..start + self.below((length - start).min(64) + 1)
    }
}

/// Pieces of the language.
const TOKENS: [&[u8]; 40] = [
    b"\n",
    b" ",
    b"\"",
    b"'",
    b"\\",
    b"#",
    b"$",
    b"${A}",
    b"\"${TWO[*]}\"",
    b"\\x41",
    b"\0",
    b"\r",
    b"\xff",
    "é".as_bytes(),
    b"\n.if ",
    b"\n.else\n",
    b"\n.endif\n",
    b"defined(A)",
    b"(",
    b")",
    b"&&",
    b"!",
    b"\nglobal\n",
    b"\ndefaults ",
    b"\nlisten ",
    b"\nbackend b\n",
    b" from ",
    b"no ",
    b"\n bind ",
    b"\n server s ",
    b":80",
    b":1-9",
    b"unix@",
    b"abns@",
    b"\n timeout client ",
    b"5s",
    b"99999999999",
    b"-1",
    b"\n option ",
    b"\n setenv A ",
];

fn mutate(random: &mut Random, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = files[random.below(files.len())].1.clone();
    bytes.truncate(MAX_MUTANT);
    for _ in 0..=random.below(6) {
        let range = random.range(bytes.len());
        match random.below(6) {
            0 => drop(bytes.splice(range, [])),
            1 => {
                let copy = bytes[range.clone()].to_vec();
                drop(bytes.splice(range.start..range.start, copy));
            }
            2 => bytes.truncate(range.start),
            3 if range.start < bytes.len() => bytes[range.start] ^= 1 << random.below(8),
            4 => {
                let other = &files[random.below(files.len())].1;
                let part = random.range(other.len());
                drop(bytes.splice(range, other[part].to_vec()));
            }
            _ => {
                let token = TOKENS[random.below(TOKENS.len())];
                drop(bytes.splice(range.start..range.start, token.to_vec()));
            }
        }
    }
    bytes
}

#[test]
fn mutants_of_the_corpus_are_read_without_a_panic() {
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed: u64 = given.unwrap_or(clock.map_or(1, |age| age.as_micros() as u64) | 1);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let files = corpus();
    let end = Instant::now() + MUTATING;
    let mut tried = 0;
    while Instant::now() < end {
        let mutant = mutate(&mut random, &files);
        check(&format!("mutant {tried} of SEED={seed}"), &mutant);
        tried += 1;
    }
    assert!(tried > 0);
    println!("{tried} mutants");
}

#[test]
fn the_check_itself_notices_a_place_outside_its_line() {
    use portcullis_config::{Diagnostic, Place, Sources};
    let mut sources = Sources::default();
    let file = sources.add("haproxy.cfg", "global\n");
    let at = |line, start, end| Place {
        file,
        line,
        start,
        end,
    };
    let noticed = |place: Place| {
        let finding = [Diagnostic::error("code", place, "message")];
        catch_unwind(AssertUnwindSafe(|| check::findings(&sources, &finding))).is_err()
    };
    assert!(!noticed(at(1, 0, 6)));
    let outside = [at(1, 0, 7), at(1, 4, 3), at(0, 0, 0), at(2, 0, 0)];
    assert!(outside.into_iter().all(noticed));
    assert!(noticed(Place {
        file: 1,
        ..at(1, 0, 1)
    }));
}
