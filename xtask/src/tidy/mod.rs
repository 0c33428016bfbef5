//! House rules that a machine can check (STYLE.md, CONTRIBUTING.md).
//!
//! Decides:  which rules there are, and how findings are shown: `file:line: what (rule)`.
//! Not here: rules that need judgement.

mod arrows;
mod clock;
mod dead;
mod header;
mod links;
mod markers;
mod pure;
mod ratchet;
mod sizes;
mod source;

use std::path::{Path, PathBuf};

use crate::workspace::{self, Failure};
use source::Source;

/// A broken rule, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: PathBuf,
    line: usize,
    rule: &'static str,
    message: String,
}

impl Finding {
    fn new(
        file: impl Into<PathBuf>,
        line: usize,
        rule: &'static str,
        message: impl Into<String>,
    ) -> Finding {
        Finding {
            file: file.into(),
            line,
            rule,
            message: message.into(),
        }
    }
}

/// Checks everything; with `update`, lowers the ratchet first.
pub fn run(update: bool) -> Result<(), Failure> {
    let root = workspace::root();
    if update {
        let sources = Source::read_all(&root, &workspace::files(&root)?)?;
        let lowered = ratchet::lower(&root, &sizes::measure(&sources))?;
        println!("{lowered} entries of {} lowered or removed", ratchet::FILE);
    }
    let findings = check(&root)?;
    for finding in &findings {
        let Finding {
            file,
            line,
            rule,
            message,
        } = finding;
        println!("{}:{line}: {message} ({rule})", file.display());
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err("1 house rule is broken".into()),
        count => Err(format!("{count} house rules are broken").into()),
    }
}

fn check(root: &Path) -> Result<Vec<Finding>, Failure> {
    let files = workspace::files(root)?;
    let packages = workspace::packages(root)?;
    let sources = Source::read_all(root, &files)?;
    let mut findings = Vec::new();
    for source in &sources {
        header::check(source, &mut findings);
        markers::check_rust(source, &mut findings);
        pure::check(source, &mut findings);
        clock::check(source, &mut findings);
    }
    markers::check_text(root, &files, &mut findings);
    ratchet::check(root, &sizes::measure(&sources), &mut findings)?;
    dead::check(root, &files, &packages, &sources, &mut findings);
    links::check(root, &files, &mut findings);
    arrows::check(&packages, &mut findings);
    findings.sort();
    findings.dedup();
    Ok(findings)
}
