//! What becomes of connections, for people.
//!
//! Decides:  the words and their order; ways with the same receivers are told once.
//! Not here: the facts (the parent).

use std::fmt;

use super::{Arrival, Served, Traffic};
use crate::verdict::{Holder, lines};

/// So many receivers of one way are told.
const RECEIVERS_MAX: usize = 4;

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whence = self
            .from
            .map_or(String::new(), |from| format!(" from {from}"));
        let what = format!("connections to {}{whence}", self.to);
        match self.outcome {
            Served::All => writeln!(f, "ok: {what} are served, as far as this host is concerned")?,
            Served::NotAll => writeln!(f, "error: not all {what} are served")?,
            Served::None => writeln!(f, "error: {what} are not served")?,
            Served::Unknown => {
                writeln!(
                    f,
                    "unknown: who serves {what} depends on what cannot be seen"
                )?;
            }
        }
        for (places, way) in self.together() {
            let mut told: Vec<String> = way
                .receivers
                .iter()
                .take(RECEIVERS_MAX)
                .flat_map(Holder::lines)
                .collect();
            if way.receivers.len() > RECEIVERS_MAX {
                told.push(format!("{} more", way.receivers.len() - RECEIVERS_MAX));
            }
            if told.is_empty() {
                told.push("nobody: the connection is refused".to_owned());
            }
            if !way.or.is_empty() {
                told.push("or, if what cannot be seen is otherwise:".to_owned());
                told.extend(way.or.iter().take(RECEIVERS_MAX).flat_map(Holder::lines));
            }
            told[0] = format!("{places}: {}", told[0]);
            lines(f, "to", told)?;
        }
        for finding in &self.findings {
            let word = if finding.fault { "fault" } else { "note" };
            lines(f, word, [format!("{}: {}", finding.kind, finding.text)])?;
            lines(f, "hint", [finding.hint.to_owned()])?;
        }
        lines(f, "unseen", self.unseen.iter().cloned())
    }
}

impl Traffic {
    /// Ways with the same receivers, and what they are called.
    fn together(&self) -> Vec<(String, &Arrival)> {
        let mut all: Vec<(String, &Arrival)> = Vec::new();
        for way in &self.ways {
            let place = format!("{} by {}", way.to, way.device);
            let same = |known: &&mut (String, &Arrival)| {
                known.1.receivers == way.receivers && known.1.or == way.or
            };
            match all.iter_mut().find(same) {
                Some(known) => known.0 += &format!(", {place}"),
                None => all.push((place, way)),
            }
        }
        all
    }
}
