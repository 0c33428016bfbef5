//! docs/statements.md: every statement of the seed documents has its scenario, or a reason.
//!
//! Decides:  that the list and the scenarios' `from` lines say the same.
//! Source:   docs/statements.md; crates/kernel-model/cases

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

const DOCUMENTS: [&str; 3] = ["000", "002", "003"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A row: its document, its statement, and the scenarios or the reason in the second column.
struct Row {
    document: String,
    statement: String,
    shown: String,
}

fn rows() -> Vec<Row> {
    let text = std::fs::read_to_string(root().join("docs/statements.md")).unwrap();
    let mut rows = Vec::new();
    let mut document = String::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            document = heading[..3].to_owned();
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if line.starts_with("| ") && cells.len() == 2 && cells[0] != "statement" {
            rows.push(Row {
                document: document.clone(),
                statement: cells[0].to_owned(),
                shown: cells[1].to_owned(),
            });
        }
    }
    rows
}

fn cases_of(row: &Row) -> Vec<String> {
    let links = row.shown.split("](../crates/kernel-model/cases/").skip(1);
    links
        .map(|link| link.split_once(".bind)").expect("a link to a scenario").0)
        .map(str::to_owned)
        .collect()
}

/// The documents that each scenario says it comes from.
fn sources() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("crates/kernel-model/cases")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let from = text.lines().filter(|line| line.starts_with("from "));
        let documents = from.flat_map(|line| {
            let places = line.split("seeds/").skip(1);
            places
                .map(|place| place[..3].to_owned())
                .collect::<Vec<_>>()
        });
        all.insert(name, documents.collect());
    }
    all
}

#[test]
fn every_statement_has_a_scenario_that_says_where_it_comes_from_or_a_reason() {
    let sources = sources();
    let rows = rows();
    for document in DOCUMENTS {
        let count = rows.iter().filter(|row| row.document == document).count();
        assert!(count > 20, "only {count} statements of {document}");
    }
    for row in &rows {
        let place = format!("{}: {}", row.document, row.statement);
        let cases = cases_of(row);
        if cases.is_empty() {
            let reason =
                row.shown.starts_with("no rule: ") || row.shown.starts_with("no scenario: ");
            assert!(reason, "{place}: neither a scenario nor a reason");
        }
        for case in cases {
            let from = sources.get(&case);
            let from = from.unwrap_or_else(|| panic!("{place}: there is no scenario {case}"));
            assert!(
                from.contains(&row.document),
                "{place}: {case} has no `from seeds/{}: …`",
                row.document
            );
        }
    }
}

#[test]
fn every_scenario_that_comes_from_a_document_is_in_its_list() {
    let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows() {
        for case in cases_of(&row) {
            listed.entry(case).or_default().insert(row.document.clone());
        }
    }
    for (case, documents) in sources() {
        for document in documents {
            assert!(
                DOCUMENTS.contains(&document.as_str()),
                "{case}: seeds/{document}"
            );
            let known = listed
                .get(&case)
                .is_some_and(|known| known.contains(&document));
            assert!(
                known,
                "docs/statements.md has no statement of {document} for {case}"
            );
        }
    }
}
