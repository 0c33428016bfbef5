//! The file as sections of lines of words, before any keyword is understood.
//!
//! Decides:  what a word, a line, a section and a document are, and which words begin a section.
//! Source:   HAProxy's manual, chapters 2.1 and 2.2; src/cfgparse.c, parse_cfg(), 3.5-dev5.
//! Not here: how bytes become words (lexer.rs), how files become sections (load.rs), keywords.

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::environment::Environment;
use crate::source::{Place, Sources};

/// One word, quotes and escapes taken away and variables filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Its text; bytes that are not UTF-8 are replaced (see [`Word::bytes`]).
    pub text: String,
    /// Where it stands in the file, quotes included.
    pub place: Place,
    /// Its exact bytes where they are not UTF-8.
    pub(crate) raw: Option<Box<[u8]>>,
    /// For each byte of the text, the bytes of the line it came from; `None` if the word stands in
    /// the file as it is.
    pub(crate) origins: Option<Box<[(u32, u32)]>>,
}

impl Word {
    /// A word that stands in the file as it is.
    pub fn plain(text: impl Into<String>, place: Place) -> Word {
        Word {
            text: text.into(),
            place,
            raw: None,
            origins: None,
        }
    }

    /// Its exact bytes.
    pub fn bytes(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or(self.text.as_bytes())
    }

    /// Where a part of its text stands in the file; the whole word for a part that is not in it.
    /// A part that came from a variable is where the variable is named.
    pub fn place_of(&self, part: Range<usize>) -> Place {
        let length = self.text.len();
        if part.start > part.end || part.end > length || self.raw.is_some() {
            return self.place;
        }
        let Some(origins) = &self.origins else {
            return Place {
                start: self.place.start + part.start as u32,
                end: self.place.start + part.end as u32,
                ..self.place
            };
        };
        let begin = match origins.get(part.start) {
            Some(first) => first.0,
            None => origins.last().map_or(self.place.end, |last| last.1),
        };
        let end = match part.is_empty() {
            true => begin,
            false => origins.get(part.end - 1).map_or(begin, |last| last.1),
        };
        Place {
            start: begin,
            end: end.max(begin),
            ..self.place
        }
    }

    /// Is this its text?
    pub fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

/// One line that has words on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// At least one; the first is the keyword.
    pub words: Vec<Word>,
    /// From the first word to the last.
    pub place: Place,
}

impl Line {
    /// The text of word `n`, empty if there is none.
    pub fn text(&self, n: usize) -> &str {
        self.words.get(n).map_or("", |word| &word.text)
    }

    /// The first word.
    pub fn keyword(&self) -> &Word {
        &self.words[0]
    }

    /// The words after the first.
    pub fn arguments(&self) -> &[Word] {
        &self.words[1..]
    }
}

/// What kind of section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// `global`
    Global,
    /// `defaults`
    Defaults,
    /// `frontend`
    Frontend,
    /// `backend`
    Backend,
    /// `listen`
    Listen,
    /// Another that HAProxy knows, by its name.
    Other(&'static str),
}

/// The other sections that HAProxy 3.5-dev5 registers, and `program`, which 3.3 took away.
pub const OTHER_SECTIONS: [&str; 16] = [
    "acme",
    "cache",
    "crt-store",
    "fcgi-app",
    "healthcheck",
    "http-errors",
    "log-forward",
    "log-profile",
    "mailers",
    "namespace_list",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
];

impl SectionKind {
    /// The kind of section that a word begins.
    pub fn from_word(word: &str) -> Option<SectionKind> {
        Some(match word {
            "global" => SectionKind::Global,
            "defaults" => SectionKind::Defaults,
            "frontend" => SectionKind::Frontend,
            "backend" => SectionKind::Backend,
            "listen" => SectionKind::Listen,
            _ => {
                let known = OTHER_SECTIONS.iter().find(|name| **name == word)?;
                SectionKind::Other(known)
            }
        })
    }

    /// The word that begins it.
    pub fn word(self) -> &'static str {
        match self {
            SectionKind::Global => "global",
            SectionKind::Defaults => "defaults",
            SectionKind::Frontend => "frontend",
            SectionKind::Backend => "backend",
            SectionKind::Listen => "listen",
            SectionKind::Other(word) => word,
        }
    }

    /// Every word that begins a section.
    pub fn words() -> impl Iterator<Item = &'static str> {
        ["global", "defaults", "frontend", "backend", "listen"]
            .into_iter()
            .chain(OTHER_SECTIONS)
    }

    /// May a `from NAME` stand on its first line?
    pub fn takes_from(self) -> bool {
        !matches!(self, SectionKind::Global | SectionKind::Other(_))
    }
}

/// A section: its first line taken apart, and the lines after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its kind.
    pub kind: SectionKind,
    /// The word that begins it.
    pub keyword: Word,
    /// Its name, if it says one.
    pub name: Option<Word>,
    /// The `defaults` section that it says to start from.
    pub from: Option<Word>,
    /// Words of the first line that are neither.
    pub extra: Vec<Word>,
    /// Its lines.
    pub lines: Vec<Line>,
}

impl Section {
    /// The first line: the keyword, and the name if there is one.
    pub fn place(&self) -> Place {
        match &self.name {
            Some(name) => self.keyword.place.to(name.place),
            None => self.keyword.place,
        }
    }
}

/// A whole configuration as sections.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// The files, to show places with.
    pub sources: Sources,
    /// The sections of all files in order.
    pub sections: Vec<Section>,
    /// What was wrong up to here.
    pub diagnostics: Vec<Diagnostic>,
    /// The variables at the end of the last file.
    pub environment: Environment,
}
