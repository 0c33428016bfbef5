//! Findings while keywords are understood, with the section that each is about.
//!
//! Decides:  the codes of these findings, which of them a `mode http` proxy keeps quiet, and how much
//!           a configuration may hold.
//! Not here: how findings are shown (render.rs).

use crate::diagnostic::{Diagnostic, Severity};

/// A keyword is known and refused.
pub const NOT_SUPPORTED: &str = "not-supported";
/// A keyword is known and has no effect.
pub const NO_EFFECT: &str = "no-effect";
/// A keyword is for HTTP.
pub const HTTP_ONLY: &str = "http-only";

/// After as many findings, more are only counted.
pub const MAX_FINDINGS: usize = 1000;

/// Addresses of all `bind` lines together, each port of a range counted: four addresses with all
/// their ports. A short file of ranges would fill the memory otherwise.
pub const MAX_ADDRESSES: usize = 4 * 65_536;
/// Servers of all backends together, each one of a template counted.
pub const MAX_SERVERS: usize = 4 * 65_536;

/// Findings by section.
#[derive(Debug, Default)]
pub struct Report {
    section: usize,
    found: Vec<(usize, Diagnostic)>,
    /// Findings that were only counted, and how many of them are errors.
    more: usize,
    more_errors: usize,
    /// Of `bind` lines so far.
    addresses: usize,
    /// So far.
    servers: usize,
}

impl Report {
    /// Is there room for so many more addresses of `bind` lines? Then they are counted.
    pub fn room_for_addresses(&mut self, more: usize) -> bool {
        take(&mut self.addresses, more, MAX_ADDRESSES)
    }

    /// Is there room for so many more servers? Then they are counted.
    pub fn room_for_servers(&mut self, more: usize) -> bool {
        take(&mut self.servers, more, MAX_SERVERS)
    }

    /// What is found from now on is about this section.
    pub fn enter(&mut self, section: usize) {
        self.section = section;
    }

    /// Adds a finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.is_full() {
            self.more += 1;
            self.more_errors += usize::from(diagnostic.severity == Severity::Error);
        } else {
            self.found.push((self.section, diagnostic));
        }
    }

    /// Are further findings only counted? Then a suggestion is wasted on them.
    pub fn is_full(&self) -> bool {
        self.found.len() >= MAX_FINDINGS
    }

    /// Adds a finding, or only its notes to the same one at the same place.
    pub fn push_merged(&mut self, diagnostic: Diagnostic) {
        let same = self.found.iter_mut().find(|(_, old)| {
            old.code == diagnostic.code
                && old.place == diagnostic.place
                && old.message == diagnostic.message
        });
        match same {
            Some((_, old)) => old.notes.extend(diagnostic.notes),
            None => self.push(diagnostic),
        }
    }

    /// Is there an error?
    pub fn has_errors(&self) -> bool {
        self.more_errors > 0
            || self
                .found
                .iter()
                .any(|(_, d)| d.severity == Severity::Error)
    }

    /// Is there an error about this section, other than that a keyword is not there yet?
    pub fn has_mistakes_in(&self, section: usize) -> bool {
        self.found.iter().any(|(of, d)| {
            *of == section && d.severity == Severity::Error && d.code != NOT_SUPPORTED
        })
    }

    /// Everything, less what these sections' keywords say of a TCP proxy.
    pub fn finish(self, quiet: &[usize]) -> Vec<Diagnostic> {
        let droppable = [NOT_SUPPORTED, NO_EFFECT, HTTP_ONLY];
        let more = (self.more > 0).then(|| {
            let severity = match self.more_errors {
                0 => Severity::Warning,
                _ => Severity::Error,
            };
            let message = format!("{} more findings are not shown", self.more);
            Diagnostic::new(severity, "too-many-findings", message)
        });
        self.found
            .into_iter()
            .filter(|(section, d)| !(quiet.contains(section) && droppable.contains(&d.code)))
            .map(|(_, diagnostic)| diagnostic)
            .chain(more)
            .collect()
    }
}

fn take(count: &mut usize, more: usize, most: usize) -> bool {
    let fits = *count + more <= most;
    if fits {
        *count += more;
    }
    fits
}

impl Extend<Diagnostic> for Report {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: I) {
        for diagnostic in diagnostics {
            self.push(diagnostic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_beyond_the_limit_are_counted_and_still_refuse() {
        let mut report = Report::default();
        for _ in 0..MAX_FINDINGS {
            report.push(Diagnostic::new(Severity::Warning, "w", "w"));
        }
        report.push(Diagnostic::new(Severity::Error, "e", "e"));
        assert!(report.has_errors());
        let found = report.finish(&[]);
        assert_eq!(found.len(), MAX_FINDINGS + 1);
        assert_eq!(found.last().map(|d| d.severity), Some(Severity::Error));
    }
}
