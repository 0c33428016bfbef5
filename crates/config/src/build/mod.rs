//! Sections of words to a typed configuration.
//!
//! Decides:  the order: `global` first, then proxies as they stand, then what they mean together.
//!           Everything that is wrong in any file is found in one run.
//! Source:   HAProxy's src/cfgparse.c, check_config_validity(), 3.5-dev5.
//! Not here: files and words (load.rs), the keywords (keywords/), names of users and hosts (the
//!           control plane).

pub mod draft;
mod proxies;
mod resolve;
mod rings;
mod servers;

use std::path::PathBuf;

use crate::arguments::{Args, Context};
use crate::diagnostic::{Diagnostic, Severity, sort};
use crate::environment::Environment;
use crate::features::Features;
use crate::files::Files;
use crate::keyword;
use crate::keywords;
use crate::load::load_document;
use crate::model::Config;
use crate::report::Report;
use crate::source::Sources;
use crate::syntax::{Document, Section, SectionKind};
use draft::{GlobalDraft, UnixDefaults};

/// What became of the files.
#[derive(Debug)]
pub struct Outcome {
    /// The configuration; `None` if there is an error (under `zero-warning`, a warning).
    pub config: Option<Config>,
    /// What was understood of a configuration with errors: not to be run, but names and users in it
    /// can be looked up, so that all mistakes come from one run.
    pub refused: Option<Config>,
    /// The files, to show places with.
    pub sources: Sources,
    /// Everything that was found, by file and line.
    pub diagnostics: Vec<Diagnostic>,
}

impl Outcome {
    /// Is there an error?
    pub fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|found| found.severity == Severity::Error)
    }
}

/// Reads files (and the `*.cfg` of directories) and understands them as one configuration.
pub fn load(
    paths: &[PathBuf],
    files: &dyn Files,
    environment: &mut Environment,
    features: &Features,
) -> Outcome {
    build(load_document(paths, files, environment, features))
}

/// Warnings of what is not there: it may stand in a line or a file that could not be read.
const MISSING: [&str; 5] = [
    "missing-timeout",
    "no-backend",
    "no-bind",
    "no-listener",
    "no-server",
];

/// Understands what the files say.
pub fn build(document: Document) -> Outcome {
    let mut report = Report::default();
    let global = read_global(&document, &mut report);
    let context = Context {
        environment: &document.environment,
        unix: &global.unix,
    };
    let proxies = proxies::read(&document.sections, context, &mut report);
    let rings = rings::read(&document.sections, context, &mut report);
    let zero_warning = global.config.zero_warning;
    let (mut config, quiet) = resolve::resolve(global, proxies, &mut report);
    config.rings = rings;
    rings::check_targets(&config, &mut report);
    let mut diagnostics = document.diagnostics;
    let unread = diagnostics.iter().any(|d| d.severity == Severity::Error);
    let mut found = report.finish(&quiet);
    found.retain(|d| !(unread && MISSING.contains(&d.code)));
    diagnostics.extend(found);
    sort(&mut diagnostics);
    if zero_warning {
        refuse_warnings(&mut diagnostics);
    }
    let mut outcome = Outcome {
        config: Some(config),
        refused: None,
        sources: document.sources,
        diagnostics,
    };
    if outcome.has_errors() {
        outcome.refused = outcome.config.take();
    }
    outcome
}

/// `zero-warning`: warnings stay warnings, and one error says that they refuse the configuration.
fn refuse_warnings(diagnostics: &mut Vec<Diagnostic>) {
    let warnings = diagnostics
        .iter()
        .filter(|found| found.severity == Severity::Warning)
        .count();
    if warnings > 0 {
        diagnostics.push(Diagnostic::new(
            Severity::Error,
            "zero-warning",
            format!("`zero-warning` refuses a configuration with warnings ({warnings} found)"),
        ));
    }
}

fn read_global(document: &Document, report: &mut Report) -> GlobalDraft {
    // HAProxy applies `unix-bind` to `bind` lines only, not to `stats socket`.
    let context = Context {
        environment: &document.environment,
        unix: &UnixDefaults::default(),
    };
    let mut global = GlobalDraft::default();
    for (number, section) in document.sections.iter().enumerate() {
        report.enter(number);
        match section.kind {
            SectionKind::Global => {
                let extra = section.name.iter().chain(&section.extra);
                if let Some(word) = extra.into_iter().next() {
                    let message = "`global` has no name";
                    report.push(Diagnostic::error("extra-argument", word.place, message));
                }
                for line in &section.lines {
                    let mut args = Args::new(line, section.kind, context, report);
                    args.line(&mut global, keywords::GLOBAL, keyword::G);
                }
            }
            SectionKind::Other(name) => other_section(name, section, report),
            _ => {}
        }
    }
    global
}

fn other_section(name: &str, section: &Section, report: &mut Report) {
    use keywords::sections::Treatment;
    let Some(entry) = keywords::sections::find(name) else {
        return;
    };
    let place = section.place();
    match entry.treatment {
        Treatment::Supported | Treatment::Inert(_) => {}
        Treatment::Warned(why) => report.push(
            Diagnostic::warning(
                crate::report::NO_EFFECT,
                place,
                format!("a `{name}` section has no effect"),
            )
            .label(why),
        ),
        Treatment::Refused(why) => report.push(
            Diagnostic::error(
                crate::report::NOT_SUPPORTED,
                place,
                format!("a `{name}` section is not supported yet"),
            )
            .label(why),
        ),
        Treatment::Removed(hint) => report.push(
            Diagnostic::error(
                "removed-keyword",
                place,
                format!("a `{name}` section is no longer in the language"),
            )
            .label(hint),
        ),
    }
}
