//! Loading a configuration for a command: files, environment, compile, and how findings are shown.
//!
//! Decides:  that every command loads by the same path, and prints findings in the same form.
//! Not here: the language (the config crate), the plan (control::compile).

use std::path::PathBuf;
use std::sync::Arc;

use portcullis_config::diagnostic;
use portcullis_config::render::{Colour, render_human, render_json};
use portcullis_config::{Config, Diagnostic, Environment, Features, Files, Severity, Sources};
use portcullis_control::compile::{HostLookup, Lookup, readable};
use portcullis_control::run::{Read, Reading, cannot_be_read_twice};
use portcullis_control::{Overrides, Plan, compile};

use crate::terminal;

/// What the files said, and what became of it.
pub struct Loaded {
    /// Where the places of messages are.
    pub sources: Sources,
    /// Everything found, by the language and by the compiler.
    pub diagnostics: Vec<Diagnostic>,
    /// The typed configuration, where the text is valid.
    pub config: Option<Config>,
    /// The plan, where the configuration can be put to work.
    pub plan: Option<Plan>,
    /// What of a refused configuration could be read all the same.
    pub readable: Option<Plan>,
}

/// May a warning pass?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warnings {
    /// They are shown.
    Allowed,
    /// They refuse the configuration (`-dW`, `zero-warning`).
    Refuse,
}

/// Reads and compiles, with the names of this host. The plan is there only if nothing refuses it.
pub fn load(
    paths: &[PathBuf],
    files: &dyn Files,
    overrides: &Overrides,
    warnings: Warnings,
) -> Loaded {
    load_with(paths, files, &HostLookup::default(), overrides, warnings)
}

/// How the same is read again at a reload.
pub fn again(paths: Vec<PathBuf>, overrides: Overrides, warnings: Warnings) -> Read {
    Arc::new(move |files, lookup| {
        if cannot_be_read_twice(&paths) {
            return Reading {
                sources: Sources::default(),
                plan: None,
                report: "error: standard input cannot be read again\n".to_owned(),
            };
        }
        let loaded = load_with(&paths, files, lookup, &overrides, warnings);
        Reading {
            report: render_human(&loaded.diagnostics, &loaded.sources, Colour::Never),
            sources: loaded.sources,
            plan: loaded.plan,
        }
    })
}

fn load_with(
    paths: &[PathBuf],
    files: &dyn Files,
    lookup: &dyn Lookup,
    overrides: &Overrides,
    warnings: Warnings,
) -> Loaded {
    let features = Features::default();
    let mut environment = Environment::from_iter(std::env::vars_os());
    let outcome = portcullis_config::load(paths, files, &mut environment, &features);
    let mut loaded = Loaded {
        sources: outcome.sources,
        diagnostics: outcome.diagnostics,
        config: outcome.config,
        plan: None,
        readable: None,
    };
    let Some(config) = &loaded.config else {
        // Refused already; what does not resolve or exist is said in the same run. Warnings of the
        // compiler may only follow from the errors.
        if let Some(config) = &outcome.refused {
            let (plan, found) = compile(config, lookup, overrides);
            loaded.readable = plan.or_else(|| Some(readable(config, lookup, overrides)));
            let errors = found.into_iter().filter(|d| d.severity == Severity::Error);
            loaded.diagnostics.extend(errors);
            diagnostic::sort(&mut loaded.diagnostics);
        }
        return loaded;
    };
    let (plan, found) = compile(config, lookup, overrides);
    loaded.diagnostics.extend(found);
    loaded.plan = plan;
    if loaded.plan.is_none() {
        loaded.readable = Some(readable(config, lookup, overrides));
    }
    diagnostic::sort(&mut loaded.diagnostics);
    let strict = warnings == Warnings::Refuse || config.global.zero_warning;
    if strict && loaded.worst() >= Some(Severity::Warning) {
        loaded.diagnostics.push(Diagnostic::new(
            Severity::Error,
            "warnings-refused",
            "a warning refuses this configuration (`-dW` or `zero-warning`)",
        ));
        loaded.readable = loaded.plan.take();
    }
    loaded
}

impl Loaded {
    /// The worst finding.
    pub fn worst(&self) -> Option<Severity> {
        self.diagnostics.iter().map(|d| d.severity).max()
    }

    /// Shows the findings on standard error.
    pub fn show(&self) {
        let colour = match terminal::err_colours() {
            true => Colour::Always,
            false => Colour::Never,
        };
        terminal::err(&render_human(&self.diagnostics, &self.sources, colour));
    }

    /// The findings as plain text.
    pub fn report(&self) -> String {
        render_human(&self.diagnostics, &self.sources, Colour::Never)
    }

    /// The findings as JSON.
    pub fn json(&self) -> String {
        render_json(&self.diagnostics, &self.sources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_config::MemoryFiles;

    const CONFIG: &str =
        "global\n    nbthread 5\nlisten l\n    bind 127.0.0.1:8000\n    mode tcp\n";

    fn read(path: &str) -> Reading {
        let read = again(
            vec![PathBuf::from(path)],
            Overrides::default(),
            Warnings::Allowed,
        );
        let files = MemoryFiles::default().with("a.cfg", CONFIG);
        read(&files, &HostLookup::default())
    }

    #[test]
    fn a_reload_has_the_workers_that_the_file_says() {
        let plan = read("a.cfg").plan.unwrap();
        assert_eq!((plan.workers, plan.listeners[0].spec.shards), (5, 5));
    }

    #[test]
    fn standard_input_and_a_file_that_is_gone_are_no_configuration() {
        for (path, words) in [("-", "standard input"), ("b.cfg", "b.cfg")] {
            let reading = read(path);
            assert!(reading.plan.is_none());
            assert!(reading.report.contains(words), "{}", reading.report);
        }
    }
}
