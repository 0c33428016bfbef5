//! What the running process tells its operator.
//!
//! Decides:  one line on standard error, `portcullis: ` before it; notices are left out when quiet.
//! Not here: session logs and health events (logs.rs).

use std::io::Write;

/// The operator's ear.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    quiet: bool,
}

impl Messages {
    /// `quiet`: notices are left out, warnings are not.
    pub fn new(quiet: bool) -> Messages {
        Messages { quiet }
    }

    /// Something that went well.
    pub fn notice(&self, text: &str) {
        if !self.quiet {
            self.warning(text);
        }
    }

    /// Something that the operator must hear.
    pub fn warning(&self, text: &str) {
        // With nobody to read it there is nobody to tell.
        let _ = std::io::stderr()
            .lock()
            .write_all(format!("portcullis: {text}\n").as_bytes());
    }
}
