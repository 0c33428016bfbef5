//! A small run against the live kernel, and a tape of it that was tampered with.
//!
//! Decides:  nothing.
//! Not here: long runs (`cargo xtask conformance`, docs/conformance.md).

use std::path::Path;
use std::process::Command;

use portcullis_conformance::exhaustive;
use portcullis_conformance::replay::{self, Tape};

const STRIDE: &str = "7919";

/// Runs the binary: its exit code, and all that it says.
fn conformance(arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_conformance");
    let Ok(done) = Command::new(program).args(arguments).output() else {
        panic!("{program} does not run");
    };
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let all = text + &String::from_utf8_lossy(&done.stderr);
    (done.status.code(), all)
}

/// Records a small run.
fn record(tape: &Path) -> (Option<i32>, String) {
    let options = [
        "--part",
        "exhaustive",
        "--steps",
        "20000",
        "--stride",
        STRIDE,
    ];
    let record = ["--record", &tape.to_string_lossy()];
    conformance(&[&options[..], &record[..]].concat())
}

fn forbidden(text: &str) -> bool {
    let forbidden = text.contains("Operation not permitted");
    if forbidden {
        portcullis_testkit::skip("this host forbids network namespaces");
    }
    forbidden
}

#[test]
fn small_scripts_agree_and_a_changed_answer_is_noticed() {
    let path = std::env::temp_dir().join(format!("portcullis-{}.tape", std::process::id()));
    let (code, text) = record(&path);
    if forbidden(&text) {
        return;
    }
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("disagreements=0"), "{text}");
    let mut tape = replay::load(&path).unwrap();
    let (steps, differs) = replay::replay(&tape).unwrap();
    assert!(steps >= 20_000, "{steps}");
    assert_eq!(differs, None);
    // The same by the binary, which needs no kernel for it.
    let told = ["--tapes", path.to_str().unwrap(), path.to_str().unwrap()];
    let (code, text) = conformance(&told);
    assert_eq!(code, Some(0), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("steps={} ", 2 * steps)), "{text}");
    assert!(last.ends_with(" skipped=0 disagreements=0"), "{text}");
    // An answer in the middle of the tape: one of thousands.
    assert!(tampered(&mut tape), "no answer to change");
    let noticed = replay::replay(&tape).map(|(_, differs)| differs.is_some());
    assert!(noticed.unwrap());
    std::fs::write(&path, &tape.bytes).unwrap();
    let (code, text) = conformance(&told);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("kernel: EINVAL"), "{text}");
    assert!(text.ends_with("disagreements=2\n"), "{text}");
}

#[test]
fn a_tape_that_cannot_be_read_is_named() {
    let cut = std::env::temp_dir().join(format!("portcullis-cut-{}.tape", std::process::id()));
    let cut = cut.to_str().unwrap();
    for whole in [false, true] {
        if whole {
            // Cut in its middle, where scripts are.
            let (_, text) = record(Path::new(cut));
            if forbidden(&text) {
                return;
            }
            let bytes = std::fs::read(cut).unwrap();
            std::fs::write(cut, &bytes[..bytes.len() / 2]).unwrap();
        }
        let (code, text) = conformance(&["--tapes", cut]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.starts_with(&format!("error: {cut}: ")), "{text}");
    }
    std::fs::remove_file(cut).unwrap();
}

#[test]
fn a_run_that_compares_nothing_is_refused() {
    let beyond = exhaustive::size().to_string();
    let table: [&[&str]; 4] = [
        &["--steps", "0"],
        &["--workers", "0", "--steps", "100"],
        &["--part", "exhaustive", "--from", &beyond, "--steps", "1000"],
        &["--tapes", "/dev/null"],
    ];
    for arguments in table {
        let (code, text) = conformance(arguments);
        if forbidden(&text) {
            return;
        }
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(!text.contains("disagreements="), "{arguments:?}: {text}");
    }
}

#[test]
fn a_run_that_ends_before_its_steps_says_so() {
    let last = (exhaustive::size() - 1).to_string();
    let run = ["--part", "exhaustive", "--from", &last, "--steps", "1000"];
    let (code, text) = conformance(&run);
    if forbidden(&text) {
        return;
    }
    assert_eq!(code, Some(0), "{text}");
    let said = text.contains("shorter than was asked for: ") && text.contains(" of 1000 steps");
    assert!(said, "{text}");
}

/// Turns an EADDRINUSE into an EINVAL.
fn tampered(tape: &mut Tape) -> bool {
    const ERROR_WITH_NAME_AND_STATE: u8 = 0x31;
    let middle = tape.bytes.len() / 2;
    let pair = [
        ERROR_WITH_NAME_AND_STATE,
        portcullis_kernel_model::Errno::EADDRINUSE.number() as u8,
    ];
    let found = tape.bytes[middle..].windows(2).position(|at| at == pair);
    if let Some(at) = found {
        tape.bytes[middle + at + 1] = portcullis_kernel_model::Errno::EINVAL.number() as u8;
    }
    found.is_some()
}
