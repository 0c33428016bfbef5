//! Where a word stands: files, lines and columns.
//!
//! Decides:  how a place is written down so that it can be shown with its line underlined.
//! Not here: what is said about the place (diagnostic.rs).

use serde::Serialize;

/// A range of bytes of one line of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Place {
    /// Which of [`Sources`]' files.
    pub file: u32,
    /// The line, from 1.
    pub line: u32,
    /// The first byte of the range in its line, from 0.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
}

/// A value, and where the file says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// The words it came from.
    pub place: Place,
}

/// The files of one configuration, by number, with their text.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

#[derive(Debug, Clone)]
struct SourceFile {
    name: String,
    text: String,
}

impl Sources {
    /// Adds a file, and tells its number.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) -> u32 {
        self.files.push(SourceFile {
            name: name.into(),
            text: text.into(),
        });
        (self.files.len() - 1) as u32
    }

    /// The file's name as it was given; empty for a number that is not there.
    pub fn name(&self, file: u32) -> &str {
        self.files.get(file as usize).map_or("", |f| &f.name)
    }

    /// The line's text without its end, from line 1; empty for one that is not there.
    pub fn line(&self, file: u32, line: u32) -> &str {
        let text = self.files.get(file as usize).map_or("", |f| &f.text);
        text.split('\n')
            .nth(line.saturating_sub(1) as usize)
            .unwrap_or("")
            .trim_end_matches('\r')
    }
}
