//! A small run against the live kernel, and a tape of it that was tampered with.
//!
//! Decides:  nothing.
//! Not here: long runs (`cargo xtask conformance`, docs/conformance.md).

use std::path::Path;
use std::process::Command;

use portcullis_conformance::replay::{self, Tape};
use portcullis_conformance::run::Part;

const STRIDE: u64 = 7919;

fn conformance(tape: &Path) -> std::io::Result<(bool, String)> {
    let done = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .args(["--part", "exhaustive", "--steps", "20000", "--stride"])
        .arg(STRIDE.to_string())
        .arg("--record")
        .arg(tape)
        .output()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let all = text + &String::from_utf8_lossy(&done.stderr);
    Ok((done.status.success(), all))
}

#[test]
fn small_scripts_agree_and_a_changed_answer_is_noticed() {
    let path = std::env::temp_dir().join(format!("portcullis-{}.tape", std::process::id()));
    let (agreed, text) = conformance(&path).unwrap();
    if text.contains("Operation not permitted") {
        portcullis_testkit::skip("this host forbids network namespaces");
        return;
    }
    assert!(agreed, "{text}");
    assert!(text.contains("disagreements=0"), "{text}");
    let part = Part::Exhaustive {
        from: 0,
        stride: STRIDE,
    };
    let mut tape = replay::load(&path, part).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (steps, differs) = replay::replay(&tape).unwrap();
    assert!(steps >= 20_000, "{steps}");
    assert_eq!(differs, None);
    // A port in the middle of the tape: one answer of thousands.
    assert!(tampered(&mut tape), "no answer to change");
    let noticed = replay::replay(&tape).map(|(_, differs)| differs.is_some());
    assert!(noticed.unwrap_or(true));
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
