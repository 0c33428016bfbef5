//! Files that nothing reaches.
//!
//! Decides:  a Rust file must be a target or a `mod` of one; an example must be spoken of in a
//!           document or a crate's front page; a document must be linked.
//! Not here: links that point nowhere (links.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::Finding;
use super::links::targets;
use super::source::Source;
use crate::workspace::Package;

/// Documents that are read first: by people, or by their host.
const ENTRANCES: [&str; 2] = ["README.md", "CONTRIBUTING.md"];

pub fn check(
    root: &Path,
    files: &[PathBuf],
    packages: &[Package],
    sources: &[Source],
    findings: &mut Vec<Finding>,
) {
    modules(packages, sources, findings);
    examples(root, files, findings);
    documents(root, files, findings);
}

fn modules(packages: &[Package], sources: &[Source], findings: &mut Vec<Finding>) {
    let by_path: BTreeMap<&Path, &Source> = sources
        .iter()
        .map(|source| (source.path.as_path(), source))
        .collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<PathBuf> = packages
        .iter()
        .flat_map(|package| package.targets.iter().cloned())
        .collect();
    while let Some(path) = open.pop() {
        let Some(source) = by_path.get(path.as_path()) else {
            continue;
        };
        if reached.insert(path.clone()) {
            open.extend(source.modules().into_iter().flat_map(|(files, _)| files));
        }
    }
    for source in sources
        .iter()
        .filter(|source| !reached.contains(&source.path))
    {
        let message = "no target and no `mod` reaches this file";
        findings.push(Finding::new(&source.path, 1, "dead", message));
    }
}

fn examples(root: &Path, files: &[PathBuf], findings: &mut Vec<Finding>) {
    let text = |file: &Path| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let documents = files
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "md"));
    let documents: String = documents.map(|file| text(file)).collect();
    for file in files.iter().filter(|file| is_example(file)) {
        // crates/x/examples/y.rs: the front page is crates/x/src/lib.rs.
        let package = file.ancestors().nth(2).unwrap_or(Path::new(""));
        let front_page = text(&package.join("src/lib.rs"));
        let header = front_page
            .lines()
            .filter(|line| line.starts_with("//!"))
            .collect::<String>();
        if !speaks_of(&documents, &header, file) {
            let message = "no document and no crate's front page speaks of this example";
            findings.push(Finding::new(file, 1, "dead", message));
        }
    }
}

fn is_example(file: &Path) -> bool {
    let directory = file.parent().and_then(Path::file_name);
    directory.is_some_and(|name| name == "examples")
        && file.extension().is_none_or(|end| end != "md")
}

/// By its file's name anywhere, or by its own name in code style on its crate's front page.
fn speaks_of(documents: &str, front_page: &str, file: &Path) -> bool {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let stem = file
        .file_stem()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    documents.contains(name)
        || front_page.contains(name)
        || front_page.contains(&format!("`{stem}`"))
}

fn documents(root: &Path, files: &[PathBuf], findings: &mut Vec<Finding>) {
    let all: BTreeSet<&PathBuf> = files
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "md"))
        .collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<PathBuf> = ENTRANCES.iter().map(PathBuf::from).collect();
    while let Some(path) = open.pop() {
        if !all.contains(&path) || !reached.insert(path.clone()) {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
            open.extend(targets(&path, &text).into_iter().map(|(_, target)| target));
        }
    }
    let is_own = |file: &&&PathBuf| !file.starts_with("crates") && !file.starts_with("fuzz");
    for file in all
        .iter()
        .filter(is_own)
        .filter(|file| !reached.contains(**file))
    {
        let message = "no link leads here from README.md";
        findings.push(Finding::new(*file, 1, "dead", message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_spoken_of_by_file_name_or_on_its_crates_front_page() {
        let file = Path::new("crates/x/examples/plain.rs");
        assert!(is_example(file));
        assert!(speaks_of("see plain.rs", "", file));
        assert!(speaks_of("", "//! In `examples/`: `plain`", file));
        assert!(!speaks_of("a plain text", "//! plain", file));
    }

    #[test]
    fn a_module_that_nothing_declares_is_dead() {
        let parse = |path: &str, text: &str| Source::parse(Path::new(path), text.into()).unwrap();
        let sources = [
            parse(
                "crates/x/src/lib.rs",
                "mod a; mod b { mod c; } #[path = \"sub/n.rs\"] mod named;",
            ),
            parse("crates/x/src/sub/n.rs", ""),
            parse("crates/x/src/a.rs", "mod deep;"),
            parse("crates/x/src/a/deep.rs", ""),
            parse("crates/x/src/b/c.rs", ""),
            parse("crates/x/src/orphan.rs", ""),
            parse("crates/x/tests/run.rs", "mod support;"),
            parse("crates/x/tests/support/mod.rs", ""),
        ];
        let targets = ["crates/x/src/lib.rs", "crates/x/tests/run.rs"]
            .map(PathBuf::from)
            .into();
        let package = Package {
            targets,
            ..Package::default()
        };
        let mut findings = Vec::new();
        modules(&[package], &sources, &mut findings);
        let dead: Vec<_> = findings
            .iter()
            .map(|finding| finding.file.as_path())
            .collect();
        assert_eq!(dead, [Path::new("crates/x/src/orphan.rs")]);
    }
}
