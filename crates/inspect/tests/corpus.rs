//! The kept corpus of the fuzz targets, replayed and mutated for a few seconds.
//!
//! Decides:  that it is done at every test run, without a fuzzer, from a printed seed.
//! Not here: what must hold (corpus/check.rs); longer runs (`cargo xtask fuzz`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the helpers of tests; the seed is printed"
)]

#[path = "corpus/check.rs"]
mod check;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

const MUTATING: Duration = Duration::from_secs(3);

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(root.join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn must_hold(check: fn(&[u8]), bytes: &[u8]) {
    let result = catch_unwind(AssertUnwindSafe(|| check(bytes)));
    assert!(result.is_ok(), "the input:\n{}", bytes.escape_ascii());
}

/// A number from the one before (splitmix64).
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as usize
}

/// Some bytes changed, cut out, or taken from another file.
fn mutant(files: &[Vec<u8>], state: &mut u64) -> Vec<u8> {
    const VALUES: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'-', b'"', b'['];
    let mut bytes = files[next(state) % files.len()].clone();
    for _ in 0..=next(state) % 4 {
        let at = next(state) % bytes.len().max(1);
        match next(state) % 6 {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..(at + next(state) % 8).min(bytes.len()))),
            2 => {
                let other = &files[next(state) % files.len()];
                let from = next(state) % other.len().max(1);
                let to = (from + next(state) % 64).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = VALUES[next(state) % VALUES.len()];
                }
            }
        }
    }
    bytes
}

fn replay_and_mutate(target: &str, check: fn(&[u8])) {
    let files = corpus(target);
    assert!(files.len() >= 4, "{target}: {} files", files.len());
    for file in &files {
        must_hold(check, file);
    }
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed: u64 = given.unwrap_or(clock.map_or(1, |age| age.as_micros() as u64));
    println!("{target}: SEED={seed}");
    let (mut state, end) = (seed, Instant::now() + MUTATING);
    let mut tried = 0;
    while Instant::now() < end {
        must_hold(check, &mutant(&files, &mut state));
        tried += 1;
    }
    println!("{target}: {tried} mutants");
}

#[test]
fn any_bytes_as_an_answer_of_the_kernel_are_read_or_refused() {
    replay_and_mutate("inspect_answer", check::answer);
}

#[test]
fn any_bytes_as_the_file_of_a_host_are_read_or_refused() {
    replay_and_mutate("inspect_snapshot", check::snapshot);
}

#[test]
fn the_answers_that_are_kept_are_those_of_a_kernel() {
    let files = corpus("inspect_answer");
    let sockets = files
        .iter()
        .filter_map(|file| portcullis_inspect::recorded::sockets(file).ok());
    assert!(sockets.map(|found| found.len()).max() >= Some(4));
    let interfaces = files
        .iter()
        .filter_map(|file| portcullis_inspect::recorded::interfaces(file).ok());
    assert!(interfaces.max() >= Some(1));
}

/// Every number below `value`, by its path: of a list's elements only the first, of a pair both.
fn numbers(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(at.to_owned()),
        Value::Array(all) => {
            let kept = if all.iter().all(Value::is_number) {
                2
            } else {
                1
            };
            for (index, one) in all.iter().enumerate().take(kept) {
                numbers(one, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(all) => {
            for (name, one) in all {
                numbers(one, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_number_of_a_host_s_file_makes_an_answer_wait_or_panic() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let file = corpus("inspect_snapshot")
        .into_iter()
        .filter_map(|file| serde_json::from_slice::<Value>(&file).ok())
        .find(|file| {
            file["namespaces"][0]["buckets"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
        })
        .unwrap();
    let mut places = Vec::new();
    numbers(&file, "", &mut places);
    assert!(places.len() > 40, "{places:?}");
    let (done, told) = std::sync::mpsc::channel();
    for place in places {
        for number in [0, 100, u64::from(u32::MAX)] {
            let mut edited = file.clone();
            *edited.pointer_mut(&place).unwrap() = number.into();
            let text = serde_json::to_vec(&edited).unwrap();
            let done = done.clone();
            let thread = std::thread::spawn(move || {
                check::snapshot(&text);
                check::questions(&text);
                let _ = done.send(());
            });
            let answered = told.recv_timeout(PATIENCE);
            assert!(answered.is_ok(), "{place} = {number}: {answered:?}");
            thread.join().unwrap();
        }
    }
}
