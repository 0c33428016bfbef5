//! Log lines kept in memory.
//!
//! Decides:  the oldest lines make room for the newest; a ring never grows beyond its size.
//! Source:   HAProxy's manual, chapter 3.9.
//! Not here: which lines come in (the plan), who reads them (QUIT; later the runtime socket).

use std::collections::VecDeque;

/// What a line costs besides its bytes.
const PER_LINE: usize = 16;

/// A ring.
#[derive(Debug)]
pub(super) struct Ring {
    lines: VecDeque<Box<[u8]>>,
    /// Bytes in use, with what lines cost besides.
    used: usize,
    size: usize,
    overwritten: u64,
}

impl Ring {
    pub(super) fn new(size: usize) -> Ring {
        Ring {
            lines: VecDeque::new(),
            used: 0,
            size,
            overwritten: 0,
        }
    }

    /// Keeps a line; without its newline, and cut if it alone is too long.
    pub(super) fn write(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = &line[..line.len().min(self.size.saturating_sub(PER_LINE))];
        let cost = line.len() + PER_LINE;
        while self.used + cost > self.size {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.used -= oldest.len() + PER_LINE;
            self.overwritten += 1;
        }
        self.used += cost;
        self.lines.push_back(line.into());
    }

    /// The lines, the oldest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let lines = self.lines.iter();
        lines.map(|line| String::from_utf8_lossy(line).into_owned())
    }

    /// In a few words.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} lines, {} of {} bytes, {} overwritten",
            self.lines.len(),
            self.used,
            self.size,
            self.overwritten
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_stay_and_the_size_holds() {
        let mut ring = Ring::new(100);
        for n in 0..1_000 {
            ring.write(format!("line {n}\n").as_bytes());
            assert!(ring.used <= 100, "{ring:?}");
        }
        let kept: Vec<String> = ring.lines().collect();
        assert_eq!(kept, ["line 996", "line 997", "line 998", "line 999"]);
        assert_eq!(ring.summary(), "4 lines, 96 of 100 bytes, 996 overwritten");
        ring.write(&[b'x'; 500]);
        assert_eq!(ring.lines().collect::<Vec<_>>(), ["x".repeat(84)]);
    }

    #[test]
    fn a_ring_smaller_than_any_line_keeps_one_that_is_empty() {
        let mut ring = Ring::new(0);
        ring.write(b"a\n");
        ring.write(b"b\n");
        assert_eq!(ring.lines().collect::<Vec<_>>(), [""]);
    }
}
