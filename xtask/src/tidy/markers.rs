//! Nothing half done is left behind, and `unsafe` stays in its fence.
//!
//! Decides:  which macros and words mean unfinished; `unsafe` is a token of crates/sys only.

use std::path::{Path, PathBuf};

use super::{Finding, source::Source};

const MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];
/// The one place for `unsafe`.
const FENCE: &str = "crates/sys";
/// This file names what it looks for.
const ITSELF: &str = "xtask/src/tidy/markers.rs";
/// Text files besides Rust that are looked through.
const TEXT: [&str; 9] = [
    "rs", "md", "toml", "cfg", "sh", "yml", "yaml", "bind", "run",
];

pub fn check_rust(source: &Source, findings: &mut Vec<Finding>) {
    let tokens = source.tokens();
    for pair in tokens.windows(2) {
        let [(word, line), (next, _)] = pair else {
            continue;
        };
        if MACROS.contains(&word.as_str()) && next == "!" {
            let message = format!("a leftover `{word}!`");
            findings.push(Finding::new(&source.path, *line, "leftover", message));
        }
    }
    if source.path.starts_with(FENCE) {
        return;
    }
    for (_, line) in tokens.iter().filter(|(word, _)| word == "unsafe") {
        let message = format!("`unsafe` outside {FENCE}: make it a safe function there");
        findings.push(Finding::new(&source.path, *line, "unsafe", message));
    }
}

pub fn check_text(root: &Path, files: &[PathBuf], findings: &mut Vec<Finding>) {
    for file in files {
        let end = file
            .extension()
            .or(file.file_name())
            .and_then(|end| end.to_str());
        let corpus = file.components().any(|part| part.as_os_str() == "corpus");
        if !end.is_some_and(|end| TEXT.contains(&end)) || corpus || file == Path::new(ITSELF) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root.join(file)) else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(word) = marker(line) {
                let message =
                    format!("a leftover marker, `{word}`: do it, or record it as an issue");
                findings.push(Finding::new(file, index + 1, "leftover", message));
            }
        }
    }
}

fn marker(line: &str) -> Option<&'static str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '!';
    let word = |wanted: &str| line.split(|c| !is_part(c)).any(|word| word == wanted);
    if line.contains("(being written") || line.contains("being written)") {
        return Some("being written");
    }
    ["FIXME", "XXX", "TODO", "HACK"]
        .into_iter()
        .find(|wanted| word(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(Path::new(path), text.into()).unwrap();
        let mut findings = Vec::new();
        check_rust(&source, &mut findings);
        findings
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn unsafe_is_found_as_a_token_not_in_comments_or_strings() {
        let hidden = "//! unsafe\n/// unsafe\nfn f() { let _ = \"unsafe\"; } // unsafe\n";
        assert_eq!(found("crates/proxy/src/x.rs", hidden), Vec::<String>::new());
        let in_macro = "fn f() { m!({ unsafe { g() } }) }\n";
        assert_eq!(found("crates/proxy/src/x.rs", in_macro).len(), 1);
        assert_eq!(found("crates/sys/src/x.rs", in_macro).len(), 0);
    }

    #[test]
    fn leftover_macros_and_words_are_found() {
        assert_eq!(found("a.rs", "fn f() { todo!() }").len(), 1);
        assert_eq!(found("a.rs", "fn f() { let x = dbg!(1); }").len(), 1);
        assert_eq!(found("a.rs", "fn todo() { todo() }").len(), 0);
        assert_eq!(marker("// FIXME: later"), Some("FIXME"));
        assert_eq!(marker("mktemp /tmp/x.XXXXXX"), None);
        assert_eq!(marker("\"todo!\""), None);
    }
}
