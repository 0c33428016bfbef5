//! Every Rust file begins by saying what it decides.
//!
//! Decides:  a `//!` on line 1; library and program files of some size also name what they decide.
//! Source:   STYLE.md 3.

use super::{Finding, source::Source};

/// Below this many lines a file's title says it all.
const SMALL: usize = 60;

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    let mut header = source
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .peekable();
    let first = header
        .peek()
        .map(|line| line.trim_start_matches("//!").trim());
    if first.is_none_or(str::is_empty) {
        let message = "the file does not begin with a `//!` title";
        findings.push(Finding::new(&source.path, 1, "header", message));
        return;
    }
    let decides = header.any(|line| {
        line.trim_start_matches("//!")
            .trim()
            .starts_with("Decides:")
    });
    let is_code = source
        .path
        .components()
        .any(|part| part.as_os_str() == "src");
    let is_small = source.text.lines().count() <= SMALL;
    if is_code && !source.is_test && !is_small && !decides {
        let message = "the `//!` header does not say what the file decides (`//! Decides:  …`)";
        findings.push(Finding::new(&source.path, 1, "header", message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_file_without_title_or_decision_is_found() {
        let long = "fn f() {}\n".repeat(80);
        let table = [
            ("no header", "fn f() {}\n".into(), 1),
            ("an empty title", "//!\nfn f() {}\n".into(), 1),
            (
                "a title, small file",
                "//! Does this.\nfn f() {}\n".into(),
                0,
            ),
            ("a title, long file", format!("//! Does this.\n{long}"), 1),
            (
                "both",
                format!("//! Does this.\n//!\n//! Decides:  that.\n{long}"),
                0,
            ),
        ];
        for (label, text, expected) in table {
            let source = Source::parse(Path::new("crates/x/src/y.rs"), text).unwrap();
            let mut findings = Vec::new();
            check(&source, &mut findings);
            assert_eq!(findings.len(), expected, "{label}");
        }
    }
}
