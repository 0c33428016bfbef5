//! Where a word stands: files, lines and columns.
//!
//! Decides:  how a place is written down so that it can be shown with its line underlined.
//! Not here: what is said about the place (diagnostic.rs), how it is shown (render.rs).

use std::borrow::Cow;

use serde::Serialize;

/// A range of bytes of one line of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
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

impl Place {
    /// From this place's first byte to the other's last; both stand on one line.
    pub fn to(self, other: Place) -> Place {
        Place {
            end: other.end.max(self.end),
            ..self
        }
    }
}

/// A value, and where the file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// The words it came from.
    pub place: Place,
}

impl<T> At<T> {
    /// A value and its place.
    pub fn new(value: T, place: Place) -> At<T> {
        At { value, place }
    }
}

/// The files of one configuration, by number, with their bytes as they were read.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

#[derive(Debug, Clone)]
struct SourceFile {
    name: String,
    bytes: Vec<u8>,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl Sources {
    /// Adds a file, and tells its number.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<Vec<u8>>) -> u32 {
        let bytes = text.into();
        let mut starts = vec![0];
        starts.extend(
            bytes
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'\n')
                .map(|(at, _)| at + 1),
        );
        self.files.push(SourceFile {
            name: name.into(),
            bytes,
            starts,
        });
        (self.files.len() - 1) as u32
    }

    /// How many files there are.
    pub fn files(&self) -> u32 {
        self.files.len() as u32
    }

    /// The file's name as it was given; empty for a number that is not there.
    pub fn name(&self, file: u32) -> &str {
        self.files.get(file as usize).map_or("", |f| &f.name)
    }

    /// How many lines the file has; what stands after the last line feed counts if it is not empty.
    pub fn lines(&self, file: u32) -> u32 {
        self.files.get(file as usize).map_or(0, |f| {
            let open = f.starts.last().is_some_and(|last| *last == f.bytes.len());
            (f.starts.len() - usize::from(open)) as u32
        })
    }

    /// The line's bytes without its end, from line 1; empty for one that is not there.
    pub fn line_bytes(&self, file: u32, line: u32) -> &[u8] {
        let Some(source) = self.files.get(file as usize) else {
            return &[];
        };
        let index = (line as usize).wrapping_sub(1);
        let Some(start) = source.starts.get(index) else {
            return &[];
        };
        let end = match source.starts.get(index + 1) {
            Some(next) => next - 1,
            None => source.bytes.len(),
        };
        let line = &source.bytes[*start..end];
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    /// The line's text without its end, bytes that are not UTF-8 replaced; empty for one that is
    /// not there.
    pub fn line(&self, file: u32, line: u32) -> Cow<'_, str> {
        String::from_utf8_lossy(self.line_bytes(file, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_whatever_their_end() {
        let mut sources = Sources::default();
        let file = sources.add("a.cfg", "one\r\ntwo\n\nfour");
        assert_eq!(sources.lines(file), 4);
        let lines: Vec<_> = (0..=5).map(|n| sources.line(file, n)).collect();
        assert_eq!(lines, ["", "one", "two", "", "four", ""]);
        let closed = sources.add("b.cfg", "one\n");
        assert_eq!(sources.lines(closed), 1);
        assert_eq!(sources.lines(7), 0);
        assert_eq!(sources.name(7), "");
    }
}
