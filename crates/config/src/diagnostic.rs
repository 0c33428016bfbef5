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
