//! Every finding stands under the words it is about: the files of tests/diagnostics/.
//!
//! Decides:  how a file says what is expected of it. Under a line of the configuration,
//!           `#   ^^^ text` expects a finding for exactly these columns: an error, or a `warning: `
//!           or `notice: `; its message, and after `; ` its label. `note: ` is a note that has a
//!           place. `#! text` anywhere expects a finding without a place. Nothing else may be found.
//! Not here: how findings are shown (src/render.rs).
//!
//! `PORTCULLIS_WRITE_EXPECTED=1 cargo test -p portcullis-config --test diagnostics` writes what is
//! found into the files; read the difference before you keep it.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use portcullis_config::diagnostic::Severity;
use portcullis_config::{Diagnostic, Environment, Features, MemoryFiles, load};

/// What is said about a line: columns from 0 and the text.
type Said = (u32, u32, String);

fn is_expectation(line: &str) -> bool {
    let rest = line.trim_start();
    rest.starts_with("#!")
        || rest
            .strip_prefix('#')
            .is_some_and(|rest| rest.trim_start().starts_with('^'))
}

/// The file without its expectations, and these by line of what is left (0: no place).
fn taken_apart(text: &str) -> (String, BTreeMap<u32, Vec<Said>>) {
    let mut config = String::new();
    let mut said: BTreeMap<u32, Vec<Said>> = BTreeMap::new();
    let mut number = 0;
    for line in text.lines() {
        if !is_expectation(line) {
            config.push_str(line);
            config.push('\n');
            number += 1;
        } else if let Some(text) = line.trim_start().strip_prefix("#!") {
            said.entry(0).or_default().push((0, 0, text.trim().into()));
        } else {
            let start = line.find('^').unwrap();
            let rest = line[start..].trim_start_matches('^');
            let end = line.len() - rest.len();
            let about = (start as u32, end as u32, rest.trim().to_owned());
            said.entry(number).or_default().push(about);
        }
    }
    (config, said)
}

fn sentence(found: &Diagnostic) -> String {
    let mut text = match found.severity {
        Severity::Error => String::new(),
        Severity::Warning => "warning: ".to_owned(),
        Severity::Notice => "notice: ".to_owned(),
    };
    text.push_str(&found.message);
    if let Some(label) = &found.label {
        let _ = write!(text, "; {label}");
    }
    text
}

/// What is found in a configuration, in the form of expectations.
fn found(config: &str) -> BTreeMap<u32, Vec<Said>> {
    let files = MemoryFiles::default().with("test.cfg", config.as_bytes().to_vec());
    let mut environment = Environment::default();
    let outcome = load(
        &[PathBuf::from("test.cfg")],
        &files,
        &mut environment,
        &Features::default(),
    );
    assert_eq!(
        outcome.config.is_none(),
        outcome.has_errors(),
        "a configuration is there if and only if there is no error"
    );
    let mut said: BTreeMap<u32, Vec<Said>> = BTreeMap::new();
    for found in &outcome.diagnostics {
        let (line, about) = match found.place {
            Some(place) => (place.line, (place.start, place.end, sentence(found))),
            None => (0, (0, 0, sentence(found))),
        };
        said.entry(line).or_default().push(about);
        for note in &found.notes {
            if let Some(place) = note.place {
                let about = (place.start, place.end, format!("note: {}", note.message));
                said.entry(place.line).or_default().push(about);
            }
        }
    }
    for list in said.values_mut() {
        list.sort();
    }
    said
}

fn put_together(config: &str, said: &BTreeMap<u32, Vec<Said>>) -> String {
    let mut text = String::new();
    for (index, line) in config.lines().enumerate() {
        text.push_str(line);
        text.push('\n');
        for (start, end, what) in said.get(&(index as u32 + 1)).into_iter().flatten() {
            assert!(
                *start > 0,
                "indent line {} by at least one space",
                index + 1
            );
            let gap = " ".repeat(*start as usize - 1);
            let carets = "^".repeat((*end - *start).max(1) as usize);
            let _ = writeln!(text, "#{gap}{carets} {what}");
        }
    }
    for (_, _, what) in said.get(&0).into_iter().flatten() {
        let _ = writeln!(text, "#! {what}");
    }
    text
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "cfg"))
        .collect();
    files.sort();
    files
}

#[test]
fn findings_stand_under_the_words_they_are_about() {
    let write = std::env::var_os("PORTCULLIS_WRITE_EXPECTED").is_some();
    let mut wrong = String::new();
    let files = files();
    assert!(files.len() >= 10, "the files of tests/diagnostics are gone");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let (config, mut expected) = taken_apart(&text);
        for list in expected.values_mut() {
            list.sort();
        }
        let found = found(&config);
        if write {
            std::fs::write(&path, put_together(&config, &found)).unwrap();
        } else if found != expected {
            let name = path.file_name().unwrap().to_string_lossy();
            let _ = writeln!(wrong, "== {name}: found\n{}", put_together(&config, &found));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn an_expectation_that_is_not_met_is_seen() {
    let config = "backend b\n   sever a 127.0.0.1:80\n";
    let found = found(config);
    let about = found[&2][0].clone();
    assert_eq!((about.0, about.1), (3, 8));
    let (again, expected) = taken_apart(&format!(
        "{config}#  ^^^^^ {}\n#! nothing like this\n",
        about.2
    ));
    assert_eq!(again, config);
    assert_eq!(expected[&2], found[&2]);
    assert_ne!(expected, found);
}
