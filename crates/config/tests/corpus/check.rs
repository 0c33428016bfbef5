//! What holds for every configuration, however broken.
//!
//! Decides:  places lie inside their lines, findings can be shown, and a configuration is there
//!           exactly if it was not refused.
//! Not here: which inputs are tried (corpus.rs, and the targets of `fuzz/`, which include this file).

use std::path::PathBuf;

use portcullis_config::render::{Colour, render_human, render_json};
use portcullis_config::{
    Diagnostic, Document, Environment, Features, MemoryFiles, Place, Severity, Sources, Word, load,
    load_document,
};

/// Variables that try to break words.
fn environment() -> Environment {
    let mut environment = Environment::default();
    let variables: [(&str, &[u8]); 8] = [
        ("A", b"one"),
        ("TWO", b"a b"),
        ("PAD", b"  x  y "),
        ("EMPTY", b""),
        ("Q", b"\"'\\#$A${A} ;,:\xff"),
        ("IP", b"10.0.0.1"),
        ("PORT", b"8080"),
        ("LIST", b"1.1.1.1:1,2.2.2.2:2"),
    ];
    for (name, value) in variables {
        environment.set(name, value);
    }
    environment
}

fn paths() -> [PathBuf; 1] {
    [PathBuf::from("haproxy.cfg")]
}

/// Words, lines and sections of any bytes.
pub fn words(bytes: &[u8]) {
    let files = MemoryFiles::single(bytes);
    let document = load_document(&paths(), &files, &mut environment(), &Features::default());
    for section in &document.sections {
        word(&document, &section.keyword);
        let named = section.name.iter().chain(&section.from);
        named.chain(&section.extra).for_each(|w| word(&document, w));
        place(&document.sources, section.place());
        for line in &section.lines {
            place(&document.sources, line.place);
            assert!(!line.words.is_empty());
            assert!(
                line.words
                    .is_sorted_by_key(|w| (w.place.start, w.place.end))
            );
            line.words.iter().for_each(|w| word(&document, w));
        }
    }
    findings(&document.sources, &document.diagnostics);
}

/// The whole way to a typed configuration.
pub fn configuration(bytes: &[u8]) {
    let files = MemoryFiles::single(bytes);
    let outcome = load(&paths(), &files, &mut environment(), &Features::default());
    findings(&outcome.sources, &outcome.diagnostics);
    let refused = |d: &Diagnostic| d.severity == Severity::Error;
    if outcome.config.is_some() {
        assert!(!outcome.diagnostics.iter().any(refused));
    } else {
        assert!(
            outcome
                .diagnostics
                .iter()
                .any(|d| d.severity >= Severity::Warning)
        );
    }
}

fn word(document: &Document, word: &Word) {
    place(&document.sources, word.place);
    assert!(!word.bytes().is_empty());
    let length = word.text.len();
    let step = (length / 16).max(1);
    for start in (0..=length).step_by(step) {
        for end in (start..=length + 1).step_by(step) {
            let part = word.place_of(start..end);
            place(&document.sources, part);
            assert!(part.start >= word.place.start && part.end <= word.place.end);
        }
    }
}

fn place(sources: &Sources, place: Place) {
    assert!(place.file < sources.files(), "{place:?}");
    assert!(
        place.line >= 1 && place.line <= sources.lines(place.file).max(1),
        "{place:?}"
    );
    let line = sources.line_bytes(place.file, place.line);
    assert!(
        place.start <= place.end && place.end as usize <= line.len(),
        "{place:?}"
    );
}

/// Findings are placed in their files, and can be shown.
pub fn findings(sources: &Sources, diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        let notes = diagnostic.notes.iter().filter_map(|note| note.place);
        notes
            .chain(diagnostic.place)
            .for_each(|p| place(sources, p));
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        assert!(diagnostic.code.bytes().all(letter), "{}", diagnostic.code);
    }
    let human = render_human(diagnostics, sources, Colour::Never);
    let harmless = |c: char| c == '\n' || !c.is_control();
    assert!(human.chars().all(harmless), "{human:?}");
    assert_eq!(human.is_empty(), diagnostics.is_empty());
    let json = render_json(diagnostics, sources);
    assert!(json.starts_with('{') && json.ends_with("}\n"));
}
