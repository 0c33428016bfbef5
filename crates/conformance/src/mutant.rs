//! The model's conditions by number, in a build that has each of them behind one.
//!
//! Decides:  how the list of conditions is read; that an ordinary build has none.
//! Not here: how they come into a build: `cargo xtask conformance --mutants` and `--branches` copy the
//!           sources and put every condition of the model behind a number (xtask/src/conformance/).

use std::fmt;

/// Seen of a condition: it was true once. Of an errno: it was reached.
pub const TRUE: u8 = 2;
/// Seen of a condition: it was false once.
pub const FALSE: u8 = 1;

/// How many conditions this build can turn round.
#[must_use]
pub fn count() -> u32 {
    build::COUNT
}

/// Turns one of them round, by its number from 1.
pub fn activate(number: u32) {
    build::activate(number);
}

/// What came up of a condition so far.
#[must_use]
pub fn seen(number: u32) -> u8 {
    build::seen(number)
}

/// Replaced in a build with deliberate errors.
mod build {
    pub(super) const COUNT: u32 = 0;
    pub(super) fn activate(_: u32) {}
    pub(super) fn seen(_: u32) -> u8 {
        0
    }
}

/// A condition of the list: `NUMBER FILE:LINE FUNCTION WHAT TEXT`, with tabs between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub number: u32,
    /// The model's file.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// The function that it is in.
    pub function: String,
    /// What is broken.
    pub what: String,
    /// Its source text, in one line.
    pub text: String,
}

impl Place {
    /// A line of the list.
    #[must_use]
    pub fn read(line: &str) -> Option<Place> {
        let mut fields = line.split('\t');
        let number = fields.next()?.parse().ok()?;
        let (file, at) = fields.next()?.split_once(':')?;
        Some(Place {
            number,
            file: file.to_owned(),
            line: at.parse().ok()?,
            function: fields.next()?.to_owned(),
            what: fields.next()?.to_owned(),
            text: fields.next()?.to_owned(),
        })
    }

    /// What it is known by while lines move: `FILE FUNCTION WHAT TEXT`, with tabs between.
    #[must_use]
    pub fn key(&self) -> String {
        let Place {
            file,
            function,
            what,
            text,
            ..
        } = self;
        format!("{file}\t{function}\t{what}\t{text}")
    }

    /// Whether it is an errno, which has no other side.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.text.starts_with("Errno::")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{} {}: `{}`",
            self.file, self.line, self.function, self.text
        )
    }
}
