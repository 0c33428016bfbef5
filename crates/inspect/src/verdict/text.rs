//! A verdict for people, in the house's form of an error.
//!
//! Decides:  the words and their order. `try` stands before what was tried on the model, `hint` before
//!           advice that was not.
//! Not here: the facts (the parent).

use std::fmt;

use portcullis_kernel_model::Call;

use super::{Outcome, PossibleAnswer, RuleText, Verdict};

/// So many of each are told.
const WAYS_MAX: usize = 8;
const HOLDERS_MAX: usize = 3;
const ELSEWHERE_MAX: usize = 3;
/// The width of what stands before a line: `  holder: `.
const MARGIN: usize = 10;

/// Lines with a word before the first: `  holder: …`.
pub(crate) fn lines(
    f: &mut fmt::Formatter<'_>,
    word: &str,
    lines: impl IntoIterator<Item = String>,
) -> fmt::Result {
    let margin = MARGIN.max(word.len() + "  : ".len());
    for (at, line) in lines.into_iter().enumerate() {
        let head = match at {
            0 => format!("  {word}:"),
            _ => String::new(),
        };
        writeln!(f, "{head:margin$}{line}")?;
    }
    Ok(())
}

/// A call as people name it.
pub(super) fn call_name(call: Call) -> String {
    match call {
        Call::Bind(_) => "bind".to_owned(),
        Call::Listen(_) => "listen".to_owned(),
        Call::Set(opt) => {
            let text = opt.to_string();
            let name = text.split(' ').next().unwrap_or_default();
            format!("setsockopt {name}")
        }
        Call::Fchown(_) => "fchown".to_owned(),
        other => format!("{other:?}"),
    }
}

impl fmt::Display for RuleText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.text)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Outcome::Works => self.works(f)?,
            Outcome::Refused => self.refused(f)?,
            Outcome::Unknown => self.unknown(f)?,
        }
        self.ways(f)?;
        self.others(f)
    }
}

impl Verdict {
    fn works(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ok: {}{}", self.success(), self.where_and_who())?;
        let rule = self.answers.first().and_then(|answer| answer.rule.as_ref());
        lines(f, "rule", rule.map(ToString::to_string))
    }

    fn refused(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(answer) = self.answers.first() else {
            return Ok(());
        };
        writeln!(
            f,
            "error: {}{}",
            self.headline(answer),
            self.where_and_who()
        )?;
        self.facts(f, answer)
    }

    fn success(&self) -> String {
        let at = self.question.address;
        match at.port() {
            0 => format!("{} can be bound at a port that the kernel chooses", at.ip()),
            _ => format!("{at} can be bound and listened on"),
        }
    }

    fn headline(&self, answer: &PossibleAnswer) -> String {
        let at = self.question.address;
        let call = answer.call.as_deref().unwrap_or_default();
        let what = match call.split_once(' ') {
            Some((_, option)) => format!("cannot set {option} for {at}"),
            None if call == "socket" => format!("cannot make a socket for {at}"),
            None if call == "listen" => format!("cannot listen on {at}"),
            None if call == "fchown" => format!("cannot give the socket for {at} away"),
            None => format!("cannot bind {at}"),
        };
        match (answer.message, answer.error) {
            (Some(message), Some(error)) => format!("{what}: {message} ({error})"),
            _ => self.success(),
        }
    }

    /// Whose call it is, where it is not the reader's own.
    fn where_and_who(&self) -> String {
        let mut text = String::new();
        if let Some(name) = self.question.namespace_names.first() {
            text += &format!(", in network namespace {name}");
        }
        text
    }

    fn facts(&self, f: &mut fmt::Formatter<'_>, answer: &PossibleAnswer) -> fmt::Result {
        for holder in answer.holders.iter().take(HOLDERS_MAX) {
            lines(f, "holder", holder.lines())?;
        }
        let more = answer.holders.len().saturating_sub(HOLDERS_MAX) + answer.more_holders;
        if more > 0 {
            lines(f, "holder", [format!("{more} more")])?;
        }
        if answer
            .error
            .is_some_and(|error| ["EMFILE", "ENFILE"].contains(&error))
        {
            let limits = self.descriptors.as_ref();
            lines(f, "limit", limits.map(super::Descriptors::told))?;
        }
        lines(f, "rule", answer.rule.as_ref().map(ToString::to_string))
    }

    fn unknown(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.question.address;
        let place = self.where_and_who();
        writeln!(
            f,
            "unknown: whether {at} can be bound and listened on{place} depends on what cannot be seen"
        )?;
        for answer in &self.answers {
            let supposing = match answer.supposing.as_slice() {
                [] => vec!["nothing is remembered or set that was not seen".to_owned()],
                some => some.to_vec(),
            };
            if self.answers.len() > 1 {
                lines(f, "if", supposing)?;
            }
            lines(f, "then", [self.headline(answer)])?;
            self.facts(f, answer)?;
        }
        Ok(())
    }

    fn ways(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |tried: bool| {
            let ways = self.ways.iter().filter(move |way| way.tried == tried);
            ways.map(|way| way.text.clone())
        };
        lines(f, "try", of(true).take(WAYS_MAX))?;
        lines(f, "hint", of(false))
    }

    fn others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for holder in self.beside.iter().take(HOLDERS_MAX) {
            let shared = self.outcome == Outcome::Works
                && holder.address == self.question.address
                && holder.options.reuseport != Some(false);
            let word = if shared { "shares" } else { "beside" };
            lines(f, word, holder.lines())?;
        }
        if self.beside.len() > HOLDERS_MAX {
            lines(
                f,
                "beside",
                [format!("{} more", self.beside.len() - HOLDERS_MAX)],
            )?;
        }
        for one in self.elsewhere.iter().take(ELSEWHERE_MAX) {
            let mut all = one.holder.lines();
            all.insert(
                0,
                format!(
                    "the port is taken in {}, which is no hindrance here:",
                    one.place()
                ),
            );
            lines(f, "note", all)?;
        }
        let likely = self.refusers.iter().filter(|one| one.likely);
        lines(
            f,
            "may refuse too",
            likely.map(|one| format!("{}: {}; it shows by {}", one.name, one.what, one.shows)),
        )?;
        lines(f, "unseen", self.unseen.iter().cloned())
    }
}
