//! The reference of keywords, made from their entries.
//!
//! Decides:  how an entry is shown to a reader.
//! Not here: the entries (keywords/), writing the file (`cargo xtask docs`).

use std::fmt::Write;

use crate::keyword::{self, Class, Entry, HttpOnly, Prefixes, Table};
use crate::keywords::{self, sections};

/// One keyword, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which list it is in.
    pub table: &'static str,
    /// Its words.
    pub name: &'static str,
    /// Its arguments, as the manual writes them.
    pub arguments: &'static str,
    /// Where it may stand.
    pub sections: Vec<&'static str>,
    /// What becomes of it.
    pub treatment: Treatment,
    /// May `no` stand before it?
    pub takes_no: bool,
    /// What it does.
    pub doc: &'static str,
    /// What holds without it; empty where that goes without saying.
    pub default: &'static str,
    /// What differs from HAProxy; empty for nothing.
    pub note: &'static str,
    /// Of a refused one: the argument that is accepted.
    pub off: &'static str,
}

/// What becomes of a keyword, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It works.
    Supported,
    /// It is an error, by name.
    Refused(&'static str),
    /// It is a warning, and has no effect.
    Warned(&'static str),
    /// It is accepted; it does nothing without this.
    Inert(&'static str),
    /// It needs `mode http`: a warning, and no effect.
    Http,
    /// It needs `mode http`: an error.
    HttpError,
    /// It left the language: an error with this hint.
    Removed(&'static str),
}

impl Treatment {
    /// In a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Treatment::Supported => "supported",
            Treatment::Refused(_) => "refused",
            Treatment::Warned(_) => "warning",
            Treatment::Inert(_) => "accepted",
            Treatment::Http => "HTTP: warning",
            Treatment::HttpError => "HTTP: refused",
            Treatment::Removed(_) => "removed",
        }
    }

    /// The reason, if one is needed.
    pub fn why(self) -> String {
        match self {
            Treatment::Supported | Treatment::Http | Treatment::HttpError => String::new(),
            Treatment::Refused(why) | Treatment::Warned(why) | Treatment::Removed(why) => {
                why.to_owned()
            }
            Treatment::Inert(without) => format!("does nothing without {without}"),
        }
    }
}

const GLOBAL: &str = "global";
const PROXIES: &str = "proxies";
const BIND: &str = "bind";
const SERVER: &str = "server";
const RING: &str = "ring";

/// Every keyword, by list and name.
pub fn reference() -> Vec<Row> {
    let mut rows = Vec::new();
    add(GLOBAL, keywords::GLOBAL, &mut rows);
    add(PROXIES, keywords::PROXY, &mut rows);
    add(BIND, keywords::BIND, &mut rows);
    add(SERVER, keywords::SERVER, &mut rows);
    add(RING, keywords::RING, &mut rows);
    rows
}

fn add<T>(table: &'static str, entries: Table<T>, rows: &mut Vec<Row>) {
    let mut more: Vec<Row> = keyword::iter(entries)
        .map(|entry| row(table, entry))
        .collect();
    more.sort_by_key(|row| row.name);
    rows.append(&mut more);
}

fn row<T>(table: &'static str, entry: &'static Entry<T>) -> Row {
    Row {
        table,
        name: entry.name,
        arguments: entry.arguments,
        sections: entry.sections.names(),
        treatment: match entry.class {
            Class::Supported(_) => Treatment::Supported,
            Class::Refused(why) => Treatment::Refused(why),
            Class::Warned(why) => Treatment::Warned(why),
            Class::Inert(without) => Treatment::Inert(without),
            Class::Http(HttpOnly::Refused) => Treatment::HttpError,
            Class::Http(_) => Treatment::Http,
            Class::Removed(hint) => Treatment::Removed(hint),
        },
        takes_no: entry.prefixes != Prefixes::None,
        doc: entry.doc,
        default: entry.default,
        note: entry.note,
        off: entry.off,
    }
}

const HEAD: &str = "\
# Keywords

Made from the entries in `crates/config/src/keywords/` by `cargo xtask docs`: change them there.

The language is haproxy.cfg, with the meaning and the defaults of HAProxy's newest version; where we
differ on purpose, [differences.md](../differences.md) says so and why.

| treatment | what it means |
|---|---|
| supported | it works |
| refused | it changes where traffic goes or what is secure, and is not there yet: an error |
| warning | it only observes or tunes, and is not there: the file loads, with a warning |
| accepted | it does nothing without a keyword that is not there yet: the file loads |
| HTTP: warning | it needs `mode http`; in a TCP proxy it has no effect, and a warning says so |
| HTTP: refused | it needs `mode http`; in a TCP proxy it is an error |
| removed | it left HAProxy's language: an error that says what replaced it |

A `mode http` proxy is refused, with one message. `no` may stand before a keyword marked †.
";

/// The reference as a Markdown file.
pub fn markdown() -> String {
    let rows = reference();
    let mut text = HEAD.to_owned();
    let chapters = [
        (GLOBAL, "`global`"),
        (PROXIES, "`defaults`, `frontend`, `listen`, `backend`"),
        (BIND, "Parameters of `bind`"),
        (
            SERVER,
            "Parameters of `server`, `server-template`, `default-server`",
        ),
        (RING, "`ring`"),
    ];
    for (table, title) in chapters {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.table == table).collect();
        chapter(&mut text, title, &rows);
    }
    other_sections(&mut text);
    text
}

fn chapter(text: &mut String, title: &str, rows: &[&Row]) {
    let supported = rows
        .iter()
        .filter(|row| row.treatment == Treatment::Supported)
        .count();
    let _ = write!(
        text,
        "\n## {title}\n\n{} keywords, {supported} supported.\n\n\
         | keyword | where | treatment | default | what it does |\n|---|---|---|---|---|\n",
        rows.len()
    );
    for row in rows {
        let mut what = row.doc.to_owned();
        let accepted = match row.off {
            "" => String::new(),
            off => format!("`{off}` is accepted"),
        };
        for more in [row.treatment.why(), row.note.to_owned(), accepted] {
            if !more.is_empty() {
                let _ = write!(what, ". {}", capital(&more));
            }
        }
        let keyword = format!("{} {}", row.name, row.arguments);
        let dagger = if row.takes_no { " †" } else { "" };
        let _ = writeln!(
            text,
            "| `{}`{dagger} | {} | {} | {} | {} |",
            cell(keyword.trim_end()),
            row.sections.join(", "),
            row.treatment.word(),
            cell(row.default),
            cell(&what),
        );
    }
}

fn other_sections(text: &mut String) {
    text.push_str(
        "\n## Other sections\n\n| section | treatment | what it is for |\n|---|---|---|\n",
    );
    for entry in sections::ENTRIES {
        let (word, why) = match entry.treatment {
            sections::Treatment::Supported => ("supported", String::new()),
            sections::Treatment::Refused(why) => ("refused", capital(why)),
            sections::Treatment::Warned(why) => ("warning", capital(why)),
            sections::Treatment::Inert(without) => {
                ("accepted", format!("Does nothing without {without}"))
            }
            sections::Treatment::Removed(hint) => ("removed", capital(hint)),
        };
        let _ = writeln!(
            text,
            "| `{}` | {word} | {} |",
            entry.name,
            cell(format!("{}. {why}", entry.doc).trim_end_matches(". "))
        );
    }
}

/// A bar would end the cell, in code too.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_reference_has_five_cells() {
        for line in markdown().lines().filter(|line| line.starts_with("| `")) {
            let bars = line.replace("\\|", "").matches('|').count();
            assert!(bars == 6 || bars == 4, "{line}");
        }
    }

    #[test]
    fn every_keyword_is_in_the_reference() {
        let text = markdown();
        for row in reference() {
            assert!(text.contains(&format!("| `{}", row.name)), "{}", row.name);
        }
    }
}
