//! What may be longer than the limits, for now: a list that only shrinks.
//!
//! Decides:  an entry allows exactly the size it names; smaller, and it must be lowered (`--update`
//!           does); larger, or new, and the code must be split.

use std::collections::BTreeMap;
use std::path::Path;

use super::Finding;
use super::sizes::{FILE_LIMIT, FUNCTION_LIMIT, Sizes};
use crate::workspace::Failure;

/// The checked-in list.
pub const FILE: &str = "xtask/tidy-ratchet.toml";

const TITLE: &str = "\
# What is longer than the limits of `cargo xtask tidy`: \"file::function\" or \"file\" = lines.
# The list only shrinks: `cargo xtask tidy --update` lowers entries and never adds one.
";

type Entries = BTreeMap<String, usize>;

#[derive(Debug, Default, PartialEq, Eq)]
struct Ratchet {
    functions: Entries,
    files: Entries,
}

pub fn check(root: &Path, sizes: &Sizes, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    compare(&read(root)?, sizes, findings);
    Ok(())
}

/// Rewrites the list with what can be lowered or removed, and says how many.
pub fn lower(root: &Path, sizes: &Sizes) -> Result<usize, Failure> {
    let mut ratchet = read(root)?;
    let functions = sizes
        .functions
        .iter()
        .map(|(name, (count, _))| (name.clone(), *count))
        .collect();
    let changed =
        shrink(&mut ratchet.functions, &functions) + shrink(&mut ratchet.files, &sizes.files);
    std::fs::write(root.join(FILE), write(&ratchet))?;
    Ok(changed)
}

fn shrink(entries: &mut Entries, now: &Entries) -> usize {
    let before = entries.clone();
    entries.retain(|name, _| now.contains_key(name));
    for (name, allowed) in entries.iter_mut() {
        *allowed = (*allowed).min(now[name]);
    }
    before
        .iter()
        .filter(|(name, allowed)| entries.get(*name) != Some(allowed))
        .count()
}

fn compare(ratchet: &Ratchet, sizes: &Sizes, findings: &mut Vec<Finding>) {
    for (name, &(count, line)) in &sizes.functions {
        let (file, function) = name.split_once("::").unwrap_or((name, ""));
        judge(&ratchet.functions, name, count, findings, |what| {
            let message = format!("`{function}` has {count} lines, {what} {FUNCTION_LIMIT}");
            Finding::new(file, line, "size", message)
        });
    }
    for (file, &count) in &sizes.files {
        judge(&ratchet.files, file, count, findings, |what| {
            let message = format!("{count} lines before its tests, {what} {FILE_LIMIT}");
            Finding::new(file, 1, "size", message)
        });
    }
    let stale = ratchet
        .functions
        .keys()
        .filter(|name| !sizes.functions.contains_key(*name));
    let stale = stale.chain(
        ratchet
            .files
            .keys()
            .filter(|name| !sizes.files.contains_key(*name)),
    );
    for name in stale {
        let message = format!("`{name}` is within its limit: run `cargo xtask tidy --update`");
        findings.push(Finding::new(FILE, 1, "ratchet", message));
    }
}

fn judge(
    entries: &Entries,
    name: &str,
    count: usize,
    findings: &mut Vec<Finding>,
    finding: impl Fn(&str) -> Finding,
) {
    match entries.get(name) {
        None => findings.push(finding("more than")),
        Some(&allowed) if count > allowed => {
            findings.push(finding(&format!(
                "more than the {allowed} it had, and more than"
            )));
        }
        Some(&allowed) if count < allowed => {
            let message = format!("`{name}` shrank to {count}: run `cargo xtask tidy --update`");
            findings.push(Finding::new(FILE, 1, "ratchet", message));
        }
        Some(_) => {}
    }
}

fn read(root: &Path) -> Result<Ratchet, Failure> {
    match std::fs::read_to_string(root.join(FILE)) {
        Ok(text) => parse(&text),
        Err(error) => Err(format!("cannot read {FILE}: {error}").into()),
    }
}

/// Two tables of `"name" = number`: all of TOML that this file uses.
fn parse(text: &str) -> Result<Ratchet, Failure> {
    let mut ratchet = Ratchet::default();
    let mut table = None;
    for (index, line) in text.lines().enumerate() {
        let wrong = || format!("{FILE}:{}: cannot read `{line}`", index + 1);
        match line.trim() {
            "" => {}
            comment if comment.starts_with('#') => {}
            "[functions]" => table = Some(&mut ratchet.functions),
            "[files]" => table = Some(&mut ratchet.files),
            entry => {
                let (name, count) = entry.split_once('=').ok_or_else(wrong)?;
                let name = name.trim().trim_matches('"').to_owned();
                let count = count.trim().parse().map_err(|_| wrong())?;
                table.as_mut().ok_or_else(wrong)?.insert(name, count);
            }
        }
    }
    Ok(ratchet)
}

fn write(ratchet: &Ratchet) -> String {
    let table = |name: &str, entries: &Entries| {
        let lines = entries
            .iter()
            .map(|(name, count)| format!("\"{name}\" = {count}\n"));
        format!("\n[{name}]\n{}", lines.collect::<String>())
    };
    format!(
        "{TITLE}{}{}",
        table("files", &ratchet.files),
        table("functions", &ratchet.functions)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratchet(name: &str, count: usize) -> Ratchet {
        let files = [(name.to_owned(), count)].into();
        Ratchet {
            files,
            functions: Entries::new(),
        }
    }

    #[test]
    fn the_ratchet_refuses_growth_and_asks_for_shrinking() {
        let sizes = |count| Sizes {
            files: [("a.rs".to_owned(), count)].into(),
            ..Sizes::default()
        };
        let table = [
            ("as listed", sizes(700), 700, 0),
            ("grown", sizes(701), 700, 1),
            ("shrunk", sizes(650), 700, 1),
            ("within the limit again", Sizes::default(), 700, 1),
        ];
        for (label, sizes, allowed, expected) in table {
            let mut findings = Vec::new();
            compare(&ratchet("a.rs", allowed), &sizes, &mut findings);
            assert_eq!(findings.len(), expected, "{label}");
        }
        let mut findings = Vec::new();
        compare(&Ratchet::default(), &sizes(601), &mut findings);
        assert_eq!(findings.len(), 1, "a new one");
    }

    #[test]
    fn updating_lowers_and_removes_but_never_raises_or_adds() {
        let now: Entries = [("shrunk", 610), ("grown", 900), ("new", 800)]
            .map(|(n, c)| (n.into(), c))
            .into();
        let mut entries: Entries = [("shrunk", 700), ("grown", 700), ("gone", 700)]
            .map(|(n, c)| (n.into(), c))
            .into();
        assert_eq!(shrink(&mut entries, &now), 2);
        let expected: Entries = [("shrunk", 610), ("grown", 700)]
            .map(|(n, c)| (n.into(), c))
            .into();
        assert_eq!(entries, expected);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let ratchet = ratchet("crates/x.rs", 612);
        assert_eq!(parse(&write(&ratchet)).unwrap(), ratchet);
    }
}
