//! Findings as people and as programs read them.
//!
//! Decides:  the order, the layout, what a column is, and the shape of the JSON.
//! Source:   none but ours; the JSON's shape is a promise (see [`render_json`]).
//! Not here: what is found (diagnostic.rs).

use std::fmt::Write;

use serde::Serialize;

use crate::diagnostic::{Diagnostic, Severity, sort};
use crate::source::{Place, Sources};

/// Columns of a line that are shown; of a longer one, a window around the words meant.
const MAX_SHOWN: usize = 160;
/// Columns shown before the words meant, in a window.
const BEFORE: usize = 40;
/// A tab takes as many columns on the screen; it is one column in `file:line:column`.
const TAB: usize = 4;

/// Are escape sequences for colours written?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colour {
    /// No.
    #[default]
    Never,
    /// Yes.
    Always,
}

/// The findings for people, by file and line, and at the end how many there are.
/// Nothing if there are none.
///
/// ```text
/// error[unknown-keyword]: unknown keyword `shard` on a bind line
///   --> haproxy.cfg:12:11
///    |
/// 12 | bind :443 shard 4
///    |           ^^^^^ did you mean `shards`?
/// ```
pub fn render_human(diagnostics: &[Diagnostic], sources: &Sources, colour: Colour) -> String {
    let mut ordered = diagnostics.to_vec();
    sort(&mut ordered);
    let mut page = Page {
        out: String::new(),
        sources,
        colour,
    };
    for diagnostic in &ordered {
        page.finding(diagnostic);
        page.out.push('\n');
    }
    if let Some(counts) = counts(&ordered) {
        page.out.push_str(&counts);
        page.out.push('\n');
    }
    page.out
}

/// `2 errors, 1 warning`; `None` if there is nothing to count.
pub fn counts(diagnostics: &[Diagnostic]) -> Option<String> {
    let parts: Vec<String> = [Severity::Error, Severity::Warning, Severity::Notice]
        .into_iter()
        .filter_map(|severity| {
            let of_it = diagnostics.iter().filter(|d| d.severity == severity);
            match of_it.count() {
                0 => None,
                1 => Some(format!("1 {}", severity.word())),
                n => Some(format!("{n} {}s", severity.word())),
            }
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

struct Page<'a> {
    out: String,
    sources: &'a Sources,
    colour: Colour,
}

const BLUE: &str = "1;34";
const BOLD: &str = "1";

fn colour_of(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "1;31",
        Severity::Warning => "1;33",
        Severity::Notice => "1;36",
    }
}

impl Page<'_> {
    fn paint(&mut self, code: &str, text: &str) {
        match self.colour {
            Colour::Never => self.out.push_str(text),
            Colour::Always => {
                let _ = write!(self.out, "\x1b[{code}m{text}\x1b[0m");
            }
        }
    }

    fn finding(&mut self, diagnostic: &Diagnostic) {
        let colour = colour_of(diagnostic.severity);
        let places = diagnostic.notes.iter().filter_map(|note| note.place);
        let lines = diagnostic.place.into_iter().chain(places);
        let gutter = lines.map(|p| p.line.to_string().len()).max().unwrap_or(1);
        let head = format!("{}[{}]", diagnostic.severity.word(), diagnostic.code);
        self.paint(colour, &head);
        self.paint(BOLD, &format!(": {}", printable(&diagnostic.message)));
        self.out.push('\n');
        if let Some(place) = diagnostic.place {
            self.excerpt(place, diagnostic.label.as_deref(), gutter, colour);
        } else if let Some(label) = &diagnostic.label {
            self.aside(gutter, label);
        }
        for note in &diagnostic.notes {
            match note.place {
                None => self.aside(gutter, &format!("note: {}", note.message)),
                Some(place) => {
                    self.paint(BOLD, "note");
                    let _ = writeln!(self.out, ": {}", printable(&note.message));
                    self.excerpt(place, None, gutter, BLUE);
                }
            }
        }
    }

    /// `  = note: …`
    fn aside(&mut self, gutter: usize, text: &str) {
        self.out.push_str(&" ".repeat(gutter + 1));
        self.paint(BLUE, "=");
        let _ = writeln!(self.out, " {}", printable(text));
    }

    /// Where, the line, and the words underlined.
    fn excerpt(&mut self, place: Place, label: Option<&str>, gutter: usize, colour: &str) {
        let pad = " ".repeat(gutter);
        let line = self.sources.line_bytes(place.file, place.line);
        let file = printable(self.sources.name(place.file));
        let column = columns(line, place).0;
        let shown = Shown::new(line, place);
        self.out.push_str(&pad);
        self.paint(BLUE, "-->");
        let _ = writeln!(self.out, " {file}:{}:{column}", place.line);
        self.paint(BLUE, &format!("{pad} |"));
        self.out.push('\n');
        self.paint(BLUE, &format!("{:>gutter$} |", place.line));
        let _ = writeln!(self.out, " {}", shown.text);
        self.paint(BLUE, &format!("{pad} |"));
        let _ = write!(self.out, " {}", " ".repeat(shown.indent));
        let label = label.map_or(String::new(), |text| format!(" {}", printable(text)));
        self.paint(colour, &format!("{}{label}", "^".repeat(shown.width)));
        self.out.push('\n');
    }
}

/// The first column of a place and the one after it, from 1, in characters. Bytes that are not
/// UTF-8 count as the characters that replace them.
fn columns(line: &[u8], place: Place) -> (usize, usize) {
    let count = |to: u32| {
        let bytes = &line[..line.len().min(to as usize)];
        String::from_utf8_lossy(bytes).chars().count() + 1
    };
    let first = count(place.start);
    (first, count(place.end).max(first))
}

/// A line as it is shown.
struct Shown {
    text: String,
    /// Screen columns before the underlining.
    indent: usize,
    /// Screen columns underlined; at least one.
    width: usize,
}

impl Shown {
    fn new(line: &[u8], place: Place) -> Shown {
        let characters: Vec<char> = String::from_utf8_lossy(line).chars().collect();
        let (first, after) = columns(line, place);
        let (first, after) = (first - 1, after - 1);
        let from = if characters.len() > MAX_SHOWN {
            first.saturating_sub(BEFORE)
        } else {
            0
        };
        let to = characters.len().min(from + MAX_SHOWN);
        let mut shown = Shown {
            text: String::new(),
            indent: 0,
            width: 0,
        };
        if from > 0 {
            shown.text.push('…');
            shown.indent = 1;
        }
        for (at, character) in characters.iter().enumerate().take(to).skip(from) {
            let columns = shown.push(*character);
            if at < first {
                shown.indent += columns;
            } else if at < after {
                shown.width += columns;
            }
        }
        if to < characters.len() {
            shown.text.push('…');
        }
        shown.text.truncate(shown.text.trim_end().len());
        shown.width = shown.width.max(1);
        shown
    }

    /// Adds a character as it may be printed, and tells its columns.
    fn push(&mut self, character: char) -> usize {
        if character == '\t' {
            self.text.push_str(&" ".repeat(TAB));
            return TAB;
        }
        let character = visible(character);
        self.text.push(character);
        width(character)
    }
}

/// Characters that could move the cursor or hide text are shown by their pictures.
fn visible(character: char) -> char {
    match character {
        '\0'..='\x1f' => char::from_u32(0x2400 + character as u32).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => '\u{fffd}',
        '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => '\u{fffd}',
        other => other,
    }
}

fn printable(text: &str) -> String {
    text.chars().map(visible).collect()
}

/// Screen columns of a character, near enough: East Asian wide ones and most emoji take two,
/// combining accents none.
fn width(character: char) -> usize {
    match character as u32 {
        0x300..=0x36f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    valid: bool,
    diagnostics: Vec<JsonDiagnostic<'a>>,
}

#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    severity: Severity,
    code: &'a str,
    message: &'a str,
    #[serde(flatten)]
    place: JsonPlace<'a>,
    label: Option<&'a str>,
    notes: Vec<JsonNote<'a>>,
}

#[derive(Serialize)]
struct JsonNote<'a> {
    message: &'a str,
    #[serde(flatten)]
    place: JsonPlace<'a>,
}

#[derive(Serialize, Default)]
struct JsonPlace<'a> {
    file: Option<&'a str>,
    line: Option<u32>,
    column: Option<usize>,
    end_column: Option<usize>,
}

fn json_place(place: Option<Place>, sources: &Sources) -> JsonPlace<'_> {
    let Some(place) = place else {
        return JsonPlace::default();
    };
    let line = sources.line_bytes(place.file, place.line);
    let (column, end_column) = columns(line, place);
    JsonPlace {
        file: Some(sources.name(place.file)),
        line: Some(place.line),
        column: Some(column),
        end_column: Some(end_column),
    }
}

/// The findings for programs: one JSON object, and a line feed.
///
/// ```json
/// {
///   "valid": false,
///   "diagnostics": [
///     {
///       "severity": "error",
///       "code": "unknown-keyword",
///       "message": "unknown keyword `shard` on a bind line",
///       "file": "haproxy.cfg",
///       "line": 12,
///       "column": 11,
///       "end_column": 16,
///       "label": "did you mean `shards`?",
///       "notes": [
///         { "message": "…", "file": null, "line": null, "column": null, "end_column": null }
///       ]
///     }
///   ]
/// }
/// ```
///
/// `severity` is `error`, `warning` or `notice`; `valid` is true if there is no error. Lines and
/// columns count from 1; a column is a character (not a byte, not a place on the screen: a tab is
/// one), and `end_column` is the one after the last. The four are null together, `label` may be
/// null. Order is by file (as read), line and column. Fields may be added; none goes away.
pub fn render_json(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    let mut ordered = diagnostics.to_vec();
    sort(&mut ordered);
    let report = JsonReport {
        valid: ordered.iter().all(|d| d.severity != Severity::Error),
        diagnostics: ordered
            .iter()
            .map(|d| json_diagnostic(d, sources))
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
    text.push('\n');
    text
}

fn json_diagnostic<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> JsonDiagnostic<'a> {
    let notes = diagnostic.notes.iter().map(|note| JsonNote {
        message: &note.message,
        place: json_place(note.place, sources),
    });
    JsonDiagnostic {
        severity: diagnostic.severity,
        code: diagnostic.code,
        message: &diagnostic.message,
        place: json_place(diagnostic.place, sources),
        label: diagnostic.label.as_deref(),
        notes: notes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u32, start: usize, end: usize) -> Place {
        Place {
            file: 0,
            line,
            start: start as u32,
            end: end as u32,
        }
    }

    fn sources(text: impl Into<Vec<u8>>) -> Sources {
        let mut sources = Sources::default();
        sources.add("haproxy.cfg", text);
        sources
    }

    fn one(text: impl Into<Vec<u8>>, diagnostic: Diagnostic) -> String {
        render_human(&[diagnostic], &sources(text), Colour::Never)
    }

    #[test]
    fn a_finding_underlines_its_words() {
        let text = format!("{}bind :443 shard 4\n", "\n".repeat(11));
        let finding = Diagnostic::error(
            "unknown-keyword",
            place(12, 10, 15),
            "unknown keyword `shard` on a bind line",
        )
        .label("did you mean `shards`?")
        .note("shards come since 2.5")
        .note_at(place(2, 0, 0), "said here");
        let expected = "\
error[unknown-keyword]: unknown keyword `shard` on a bind line
  --> haproxy.cfg:12:11
   |
12 | bind :443 shard 4
   |           ^^^^^ did you mean `shards`?
   = note: shards come since 2.5
note: said here
  --> haproxy.cfg:2:1
   |
 2 |
   | ^

1 error
";
        let found = one(text, finding);
        let found: Vec<&str> = found.lines().map(str::trim_end).collect();
        assert_eq!(found, expected.lines().collect::<Vec<_>>());
    }

    #[test]
    fn findings_come_in_the_order_of_the_files_with_their_number() {
        let mut sources = sources("a\nb\n");
        sources.add("second.cfg", "c\n");
        let second = Place {
            file: 1,
            ..place(1, 0, 1)
        };
        let diagnostics = [
            Diagnostic::error("d", second, "4"),
            Diagnostic::new(Severity::Error, "e", "5"),
            Diagnostic::warning("c", place(2, 0, 1), "3"),
            Diagnostic::notice("b", place(1, 1, 1), "2"),
            Diagnostic::error("a", place(1, 0, 1), "1"),
        ];
        let text = render_human(&diagnostics, &sources, Colour::Never);
        let messages: Vec<_> = text.lines().filter(|l| l.contains("]: ")).collect();
        assert_eq!(
            messages,
            [
                "error[a]: 1",
                "notice[b]: 2",
                "warning[c]: 3",
                "error[d]: 4",
                "error[e]: 5"
            ]
        );
        assert!(
            text.ends_with("\n3 errors, 1 warning, 1 notice\n"),
            "{text}"
        );
        assert_eq!(render_human(&[], &sources, Colour::Never), "");
    }

    /// The line shown, the underlining, and the column named.
    fn shape(line: impl Into<Vec<u8>>, start: usize, end: usize) -> (String, String, String) {
        let text = one(line, Diagnostic::error("x", place(1, start, end), "m"));
        let lines: Vec<&str> = text.lines().collect();
        let column = lines[1].rsplit(':').next().unwrap().to_string();
        (lines[3][4..].to_string(), lines[4][4..].to_string(), column)
    }

    #[test]
    fn underlining_fits_tabs_wide_letters_and_bytes_that_are_no_text() {
        type Row = (&'static [u8], usize, usize, [&'static str; 3]);
        let table: [Row; 8] = [
            (b"\tbind x", 6, 7, ["    bind x", "         ^", "7"]),
            (b"a\tb", 1, 2, ["a    b", " ^^^^", "2"]),
            ("é x".as_bytes(), 3, 4, ["é x", "  ^", "3"]),
            ("日本 x".as_bytes(), 7, 8, ["日本 x", "     ^", "4"]),
            ("日本 x".as_bytes(), 0, 6, ["日本 x", "^^^^", "1"]),
            (b"\xff\xfe x", 3, 4, ["\u{fffd}\u{fffd} x", "   ^", "4"]),
            (b"a\x1b[31m x", 1, 2, ["a\u{241b}[31m x", " ^", "2"]),
            (b"ab", 7, 9, ["ab", "  ^", "3"]),
        ];
        for (line, start, end, [text, marks, column]) in table {
            let found = shape(line, start, end);
            assert_eq!(
                found,
                (text.into(), marks.into(), column.into()),
                "{line:?}"
            );
        }
    }

    #[test]
    fn of_a_long_line_a_window_is_shown() {
        let line = format!("{} here {}", "a".repeat(5000), "b".repeat(5000));
        let (text, marks, column) = shape(line, 5001, 5005);
        let shown: Vec<char> = text.chars().collect();
        let at = marks.find('^').unwrap();
        assert_eq!(shown[at..at + 4].iter().collect::<String>(), "here");
        assert_eq!((marks.trim(), column.as_str()), ("^^^^", "5002"));
        assert!(text.starts_with('…') && text.ends_with('…'));
        assert!(shown.len() <= MAX_SHOWN + 2);
    }

    #[test]
    fn colours_are_only_written_when_wanted() {
        let finding = Diagnostic::error("x", place(1, 0, 1), "m").label("l");
        let sources = sources("a\n");
        let plain = render_human(std::slice::from_ref(&finding), &sources, Colour::Never);
        let coloured = render_human(&[finding], &sources, Colour::Always);
        assert!(!plain.contains('\x1b'));
        let mut stripped = coloured.clone();
        for code in ["1;31", "1;34", "1", "0"] {
            stripped = stripped.replace(&format!("\x1b[{code}m"), "");
        }
        assert_ne!(coloured, plain);
        assert_eq!(stripped, plain);
    }

    #[test]
    fn the_json_has_the_promised_shape() {
        let finding = Diagnostic::warning("w", place(1, 3, 5), "m \"q\"")
            .label("l")
            .note_at(place(1, 0, 2), "n");
        let text = render_json(&[finding], &sources("é abc\n"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "valid": true,
            "diagnostics": [{
                "severity": "warning", "code": "w", "message": "m \"q\"",
                "file": "haproxy.cfg", "line": 1, "column": 3, "end_column": 5, "label": "l",
                "notes": [{
                    "message": "n", "file": "haproxy.cfg", "line": 1, "column": 1, "end_column": 2,
                }],
            }],
        });
        assert_eq!(value, expected);
        let without = Diagnostic::new(Severity::Error, "e", "m");
        let text = render_json(&[without], &Sources::default());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["valid"], false);
        let diagnostic = &value["diagnostics"][0];
        for field in ["file", "line", "column", "end_column", "label"] {
            assert!(diagnostic.as_object().unwrap()[field].is_null(), "{field}");
        }
    }
}
