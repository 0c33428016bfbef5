//! What is wrong with a configuration, and where.
//!
//! Decides:  the facts a diagnostic carries.
//! Not here: how it is shown (render.rs), whether a keyword is known (keyword entries).

use crate::source::Place;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Said by the file itself (`.notice`), or for information.
    Notice,
    /// The configuration loads; something in it does nothing, or not what it seems to.
    Warning,
    /// The configuration is refused.
    Error,
}

impl Severity {
    /// The word shown to people and to programs.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One finding, with everything that its display needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// A stable name for machines, like `unknown-keyword`.
    pub code: &'static str,
    /// One lowercase line.
    pub message: String,
    /// The words meant; `None` where there is no file (a command line, a whole configuration).
    pub place: Option<Place>,
    /// What is said under the underlined words, like "did you mean `shards`?".
    pub label: Option<String>,
    /// Further places and facts, like where a value came from `defaults`.
    pub notes: Vec<Note>,
}

/// A further fact of a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// One lowercase line.
    pub message: String,
    /// The place it speaks of, if any.
    pub place: Option<Place>,
}

impl Diagnostic {
    /// A finding without a place yet.
    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity,
            code,
            message: message.into(),
            place: None,
            label: None,
            notes: Vec::new(),
        }
    }

    /// An error at a place.
    pub fn error(code: &'static str, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Error, code, message).at(place)
    }

    /// A warning at a place.
    pub fn warning(code: &'static str, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Warning, code, message).at(place)
    }

    /// A notice at a place.
    pub fn notice(code: &'static str, place: Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(Severity::Notice, code, message).at(place)
    }

    /// The same, at this place.
    pub fn at(mut self, place: Place) -> Diagnostic {
        self.place = Some(place);
        self
    }

    /// The same, with this said under the words.
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    /// The same, with "did you mean" under the words if there is a suggestion and no label yet.
    pub fn suggest(mut self, suggestion: Option<&str>) -> Diagnostic {
        if let (None, Some(word)) = (&self.label, suggestion) {
            self.label = Some(format!("did you mean `{word}`?"));
        }
        self
    }

    /// The same, with a further fact.
    pub fn note(mut self, message: impl Into<String>) -> Diagnostic {
        self.notes.push(Note {
            message: message.into(),
            place: None,
        });
        self
    }

    /// The same, with a further fact and its place.
    pub fn note_at(mut self, place: Place, message: impl Into<String>) -> Diagnostic {
        self.notes.push(Note {
            message: message.into(),
            place: Some(place),
        });
        self
    }
}

/// Findings as they come; shown in the order of files and lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Keeps what a step gave, or its finding.
    pub fn take<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(diagnostic) => {
                self.push(diagnostic);
                None
            }
        }
    }

    /// Is there an error among them?
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// As found.
    pub fn as_slice(&self) -> &[Diagnostic] {
        &self.list
    }

    /// By file and line, then as found; those without a place come last.
    pub fn into_sorted(self) -> Vec<Diagnostic> {
        let mut list = self.list;
        sort(&mut list);
        list
    }
}

/// By file, line and column, then as found; those without a place come last.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(|d| {
        d.place
            .map_or((u32::MAX, 0, 0), |p| (p.file, p.line, p.start))
    });
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: I) {
        self.list.extend(diagnostics);
    }
}
