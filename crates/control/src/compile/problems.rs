//! What compiling found wrong.
//!
//! Decides:  that a plan comes out only where no finding is an error.
//! Not here: how a finding is shown (the config crate).

use portcullis_config::diagnostic::Note;
use portcullis_config::{Diagnostic, Place, Severity};

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<Diagnostic>,
}

impl Problems {
    /// Something that refuses the configuration.
    pub(super) fn error(
        &mut self,
        code: &'static str,
        place: Option<Place>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Error, code, place, message.into())
    }

    /// Something that the user wants to know.
    pub(super) fn warning(
        &mut self,
        code: &'static str,
        place: Option<Place>,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Warning, code, place, message.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        place: Option<Place>,
        message: String,
    ) -> &mut Diagnostic {
        self.found.push(Diagnostic {
            severity,
            code,
            message,
            place,
            label: None,
            notes: Vec::new(),
        });
        let last = self.found.len() - 1;
        &mut self.found[last]
    }

    /// `result`, unless an error was found; and the findings.
    pub(super) fn finish<T>(self, result: T) -> (Option<T>, Vec<Diagnostic>) {
        let refused = self.found.iter().any(|d| d.severity == Severity::Error);
        ((!refused).then_some(result), self.found)
    }

    #[cfg(test)]
    pub(super) fn found(&self) -> &[Diagnostic] {
        &self.found
    }
}

/// A further fact with its place.
pub(super) fn note(message: impl Into<String>, place: Place) -> Note {
    Note {
        message: message.into(),
        place: Some(place),
    }
}
