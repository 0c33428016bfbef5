//! docs/haproxy-inventory.md tells the truth: each of its rows is tried.
//!
//! Decides:  what each verdict means for the example's line, and which keywords may not be missing.
//! Not here: what a keyword does, which the tests that the rows name show.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use portcullis_config::reference::{Treatment, reference};

use super::harness::{Place, ours_only, portcullis};

/// A row of the page.
struct Row {
    keyword: String,
    place: String,
    verdict: String,
    example: String,
    shown: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

fn rows() -> Vec<Row> {
    let text = page("haproxy-inventory.md");
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let line = line.replace("\\|", "\u{0}");
        let cells: Vec<String> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('\u{0}', "|"))
            .collect();
        let [keyword, place, verdict, example, shown] = &cells[..] else {
            panic!("not five cells: {line}");
        };
        let bare = |cell: &str| cell.trim_matches('`').to_owned();
        rows.push(Row {
            keyword: bare(keyword),
            place: place.clone(),
            verdict: verdict.clone(),
            example: bare(example),
            shown: bare(shown),
        });
    }
    rows
}

/// A configuration with the example in its place, and the numbers of its lines there.
fn configuration(place: &str, example: &str) -> (String, Vec<usize>) {
    let lines = |wanted: &str| -> String {
        let lines = example.split("; ").filter(|_| place == wanted);
        lines.map(|line| format!("    {line}\n")).collect()
    };
    let word = |wanted: &str| if place == wanted { example } else { "" };
    let parts = [
        ("", "global\n    log 127.0.0.1:514 local0\n".to_owned()),
        ("global", lines("global")),
        (
            "",
            "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 5s\n    \
             timeout server 5s\nring kept\n"
                .to_owned(),
        ),
        ("ring", lines("ring")),
        ("", "listen front\n".to_owned()),
        (
            "bind",
            format!("    bind 127.0.0.1:8000 {}\n", word("bind")),
        ),
        ("listen", lines("listen")),
        (
            "server",
            format!("    server s1 127.0.0.1:9001 {}\n", word("server")),
        ),
        (
            "",
            "backend other\n    server s1 127.0.0.1:9001\n".to_owned(),
        ),
        ("backend", lines("backend")),
    ];
    let mut text = String::new();
    let mut numbers = Vec::new();
    for (of, part) in parts {
        if of == place {
            let first = text.lines().count() + 1;
            numbers = (first..first + part.lines().count()).collect();
        }
        text += &part;
    }
    assert!(!numbers.is_empty(), "no place {place:?}");
    (text, numbers)
}

/// What `portcullis check` found: severity, lines (its own and those of its notes), message.
type Found = (String, Vec<usize>, String);

/// Is it valid, and what was found?
fn check(place: &Place, text: &str) -> (bool, Vec<Found>) {
    let file = place.write("test.cfg", text);
    let mut command = portcullis();
    command
        .args(["check", "--offline", "--json", "-f"])
        .arg(file);
    let output = command.output().unwrap();
    let read: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let line = |of: &serde_json::Value| of["line"].as_u64().unwrap_or(0) as usize;
    let findings = read["diagnostics"].as_array().unwrap().iter().map(|it| {
        let notes = it["notes"].as_array().unwrap().iter().map(line);
        let lines = std::iter::once(line(it)).chain(notes).collect();
        let text = |name: &str| it[name].as_str().unwrap().to_owned();
        (text("severity"), lines, text("message"))
    });
    (read["valid"].as_bool().unwrap(), findings.collect())
}

/// Why a row is not true; `None`: it is.
fn wrong(row: &Row, place: &Place) -> Option<String> {
    let (text, lines) = configuration(&row.place, &row.example);
    let (valid, findings) = check(place, &text);
    let here = |found: &Found| found.1.iter().any(|line| lines.contains(line));
    let elsewhere = !findings.iter().all(here);
    let found = |severity: &str| findings.iter().any(|(found, ..)| found == severity);
    let good = match row.verdict.as_str() {
        "supported" | "differs" | "accepted" => valid && findings.is_empty(),
        "warning" => valid && found("warning") && !elsewhere,
        "later" | "refused" => !valid && found("error") && !elsewhere,
        other => panic!("no verdict {other:?}"),
    };
    (!good).then(|| {
        format!(
            "{} {}: {}: {findings:?}",
            row.place, row.example, row.verdict
        )
    })
}

#[test]
fn every_example_of_the_inventory_gets_its_verdict() {
    if ours_only() {
        return;
    }
    let place = Place::new();
    let (text, _) = configuration("bind", "");
    assert_eq!(
        check(&place, &text),
        (true, Vec::new()),
        "without an example"
    );
    let rows = rows();
    assert!(rows.len() > 200, "{} rows", rows.len());
    let wrong: Vec<String> = rows.iter().filter_map(|row| wrong(row, &place)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_that_the_inventory_names_is_there_and_every_difference_is_told() {
    let differences = page("differences.md");
    let mut wrong = Vec::new();
    for row in rows() {
        let shown = matches!(row.verdict.as_str(), "supported" | "differs");
        match row.shown.split_once("::") {
            Some((file, test)) if shown => {
                let path = match file.contains('/') {
                    true => root().join(file),
                    false => root().join(format!("crates/portcullis/tests/whole/{file}.rs")),
                };
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                if !text.contains(&format!("fn {test}(")) && !text.contains(&format!("{test} {{")) {
                    wrong.push(format!("{}: no test {}", row.keyword, row.shown));
                }
            }
            None if !shown && !row.shown.is_empty() => {}
            _ => wrong.push(format!("{}: {:?}", row.keyword, row.shown)),
        }
        let word = row.keyword.rsplit(' ').next().unwrap();
        if row.verdict == "differs" && !differences.contains(word) {
            wrong.push(format!("{}: {word} is not in differences.md", row.keyword));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_keyword_of_proxies_servers_and_rings_is_missing_in_the_inventory() {
    let told: BTreeSet<(String, String)> = rows()
        .into_iter()
        .flat_map(|row| {
            let of = match row.place.as_str() {
                "listen" | "backend" => "proxies",
                other => other,
            };
            let words: Vec<&str> = row.keyword.split(' ').collect();
            // `source … usesrc` is told with `source`; `option tcplog clf` with `option tcplog`.
            (1..=words.len())
                .map(|count| (of.to_owned(), words[..count].join(" ")))
                .collect::<Vec<_>>()
        })
        .collect();
    let missing: Vec<String> = reference()
        .into_iter()
        .filter(|row| ["proxies", "server", "ring"].contains(&row.table))
        .filter(|row| {
            matches!(
                row.treatment,
                Treatment::Supported | Treatment::Refused(_) | Treatment::Warned(_)
            )
        })
        .filter(|row| !told.contains(&(row.table.to_owned(), row.name.to_owned())))
        .map(|row| format!("{} {}", row.table, row.name))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
