//! What the starting process tells its operator.
//!
//! Decides:  one line on standard error in HAProxy's form; notices are left out when quiet.
//! Source:   HAProxy's ha_warning() and ha_notice() (src/errors.c).
//! Not here: messages of the serving process, session logs and health events (logs.rs).

use std::io::Write;

/// The operator's ear, until the log writer takes over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Messages {
    quiet: bool,
}

impl Messages {
    /// `quiet`: notices are left out, warnings are not.
    pub(super) fn new(quiet: bool) -> Messages {
        Messages { quiet }
    }

    /// Something worth knowing.
    pub(super) fn notice(&self, text: &str) {
        if !self.quiet {
            line("[NOTICE]", text);
        }
    }

    /// Something that the operator must hear.
    pub(super) fn warning(&self, text: &str) {
        line("[WARNING]", text);
    }
}

fn line(word: &str, text: &str) {
    let line = format!("{word:<10} ({}) : {text}\n", std::process::id());
    // With nobody to read it there is nobody to tell.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}
