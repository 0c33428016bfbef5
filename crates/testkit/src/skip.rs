//! What a test does when the machine lacks something.
//!
//! Decides:  it says so on the real stderr (not the captured one) and passes; where
//!           `PORTCULLIS_CI=1` promises that everything is installed, it fails.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Is `PORTCULLIS_CI` set to something other than `0`?
pub fn in_ci() -> bool {
    std::env::var_os("PORTCULLIS_CI").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Says that the running test is skipped, and why. The test then returns.
///
/// # Panics
///
/// In CI, where a skip is a failure.
#[track_caller]
pub fn skip(reason: &str) {
    assert!(!in_ci(), "cannot run this test, and CI must: {reason}");
    // Written past libtest's capture, so that a skip never looks like a pass. A stderr that is
    // closed is no reason to fail a test.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {}: {reason}",
        crate::namespace::thread_test_name().unwrap_or_else(|| "test".into())
    );
}

/// `true` for root; else skips: `if !need_root() { return }`.
#[track_caller]
#[must_use = "return from the test when this is false"]
pub fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// The path of a program from `PATH` or the `sbin` directories; else skips:
/// `let Some(haproxy) = need_program("haproxy") else { return };`.
#[track_caller]
pub fn need_program(name: &str) -> Option<PathBuf> {
    let found = find_program(name);
    if found.is_none() {
        skip(&format!("needs the program `{name}`"));
    }
    found
}

pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    #[test]
    #[ignore = "what `a_missing_program_…` starts"]
    fn needs_a_program_that_nobody_has() {
        assert!(need_program("portcullis-no-such-program").is_none());
    }

    /// Runs the test above, with this value of `PORTCULLIS_CI`.
    fn run_it(ci: Option<&str>) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "--include-ignored"])
            .arg("skip::tests::needs_a_program_that_nobody_has")
            .env_remove("PORTCULLIS_CI");
        if let Some(value) = ci {
            command.env("PORTCULLIS_CI", value);
        }
        command.output().unwrap()
    }

    #[test]
    fn a_missing_program_is_a_visible_skip_and_in_ci_a_failure() {
        for ci in [None, Some("0"), Some("")] {
            let done = run_it(ci);
            let said = String::from_utf8_lossy(&done.stderr);
            let shown = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success(), "{ci:?}: {shown}{said}");
            assert!(shown.contains("1 passed"), "{shown}");
            let line = said.lines().find(|line| line.starts_with("skipped: "));
            assert!(
                line.is_some_and(|line| line.contains("needs the program")),
                "{ci:?}: {said}"
            );
        }
        let done = run_it(Some("1"));
        let shown = String::from_utf8_lossy(&done.stdout);
        assert!(!done.status.success(), "{shown}");
        assert!(
            shown.contains("cannot run this test, and CI must: needs the program"),
            "{shown}"
        );
    }
}
