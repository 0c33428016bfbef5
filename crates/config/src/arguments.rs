//! The words of a line, as a keyword's code takes them one after the other.
//!
//! Decides:  how a missing, a wrong and a superfluous word is reported.
//! Source:   HAProxy's src/cfgparse.c, alertif_too_many_args() and warnifnotcap(), 3.5-dev5.
//! Not here: the keyword itself (understand.rs), the notation of numbers (units.rs) and addresses
//!           (address.rs).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::address::Addresses;
use crate::build::draft::UnixDefaults;
use crate::diagnostic::Diagnostic;
use crate::environment::Environment;
use crate::model::{BindAddress, Host, LogDestination, ServerAddress};
use crate::report::{MAX_ADDRESSES, MAX_SERVERS, NOT_SUPPORTED, Report};
use crate::source::{At, Place};
use crate::suggest::suggest;
use crate::syntax::{Line, SectionKind, Word};
use crate::units::{self, TimeUnit};

/// The word before a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// None.
    None,
    /// `no`
    No,
    /// `default`
    Default,
}

/// Where a keyword of a set was first seen; the first one holds.
pub type Seen = BTreeMap<&'static str, Place>;

/// The words of one line after its prefix, and what they are read for.
pub struct Args<'a> {
    pub(crate) words: &'a [Word],
    pub(crate) at: usize,
    pub(crate) line: Place,
    pub(crate) prefix: Prefix,
    pub(crate) kind: SectionKind,
    pub(crate) name: &'static str,
    pub(crate) usage: &'static str,
    pub(crate) context: Context<'a>,
    pub(crate) report: &'a mut Report,
}

/// What the words of every line are read with.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The variables, which HAProxy fills in in addresses.
    pub environment: &'a Environment,
    /// `unix-bind`
    pub unix: &'a UnixDefaults,
}

impl<'a> Args<'a> {
    /// The words of a line of a section of this kind.
    pub fn new(
        line: &'a Line,
        kind: SectionKind,
        context: Context<'a>,
        report: &'a mut Report,
    ) -> Args<'a> {
        let (prefix, words) = match line.words.as_slice() {
            [first, rest @ ..] if first.is("no") && !rest.is_empty() => (Prefix::No, rest),
            [first, rest @ ..] if first.is("default") && !rest.is_empty() => {
                (Prefix::Default, rest)
            }
            words => (Prefix::None, words),
        };
        Args {
            words,
            at: 0,
            line: line.place,
            prefix,
            kind,
            name: "",
            usage: "",
            context,
            report,
        }
    }

    /// The keyword that is being understood.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The whole line.
    pub fn place(&self) -> Place {
        self.line
    }

    /// Is `no` before the keyword?
    pub fn negated(&self) -> bool {
        self.prefix == Prefix::No
    }

    /// Is `default` before the keyword?
    pub fn defaulted(&self) -> bool {
        self.prefix == Prefix::Default
    }

    /// What `unix-bind` said.
    pub fn unix_defaults(&self) -> &'a UnixDefaults {
        self.context.unix
    }

    fn addresses(&self) -> Addresses<'a> {
        Addresses {
            environment: self.context.environment,
            unix_prefix: self.context.unix.prefix.as_deref().unwrap_or_default(),
        }
    }

    fn keep<T>(&mut self, read: Result<T, Diagnostic>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(finding) => {
                self.push(finding);
                None
            }
        }
    }

    /// The addresses of a `bind` line.
    pub fn bind_addresses(&mut self) -> Option<Vec<At<BindAddress>>> {
        let word = self.word("an address")?;
        match self.addresses().bind(word) {
            Ok(addresses) if self.report.room_for_addresses(addresses.len()) => Some(addresses),
            Ok(_) => self.too_many("addresses", MAX_ADDRESSES, word.place),
            Err(findings) => {
                self.report.extend(findings);
                None
            }
        }
    }

    /// So many servers more.
    pub fn servers(&mut self, more: usize, place: Place) -> Option<()> {
        match self.report.room_for_servers(more) {
            true => Some(()),
            false => self.too_many("servers", MAX_SERVERS, place),
        }
    }

    fn too_many<T>(&mut self, what: &str, most: usize, place: Place) -> Option<T> {
        let message = format!("more than {most} {what} in all");
        let finding = Diagnostic::error("too-many", place, message);
        self.push(finding.label("from here on they are not read"));
        None
    }

    /// A server's address.
    pub fn server_address(&mut self) -> Option<At<ServerAddress>> {
        let word = self.word("an address")?;
        let read = self.addresses().server(word);
        self.keep(read)
    }

    /// Where a log goes.
    pub fn log_destination(&mut self) -> Option<LogDestination> {
        let word = self.word("a target, like `/dev/log`, and a facility")?;
        let read = self.addresses().log(word);
        self.keep(read)
    }

    /// The address of a check, which may bring its port along.
    pub fn check_address(&mut self) -> Option<(Host, Option<u16>)> {
        let word = self.word("an address")?;
        let read = self.addresses().host(word);
        self.keep(read)
    }

    /// Adds a finding.
    pub fn push(&mut self, finding: Diagnostic) {
        self.report.push(finding);
    }

    /// Adds a finding about an HTTP keyword: `defaults` may serve other proxies as well, so there
    /// it is no finding.
    pub fn push_http(&mut self, finding: Diagnostic) {
        if self.kind != SectionKind::Defaults {
            self.report.push(finding);
        }
    }

    /// Is there another word?
    pub fn more(&self) -> bool {
        self.at < self.words.len()
    }

    /// Is this the next word?
    pub fn peek_is(&self, text: &str) -> bool {
        self.words.get(self.at).is_some_and(|word| word.is(text))
    }

    /// Where the next word stands; the last one's place if there is none.
    pub fn peek_place(&self) -> Place {
        self.words
            .get(self.at)
            .or(self.words.last())
            .map_or(self.line, |word| word.place)
    }

    /// Takes the next word if it is this one.
    pub fn take(&mut self, text: &str) -> bool {
        let there = self.peek_is(text);
        self.at += usize::from(there);
        there
    }

    /// Takes the next word, if there is one.
    pub fn optional(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    /// Takes the next word; without one, `what` was expected.
    pub fn word(&mut self, what: &str) -> Option<&'a Word> {
        match self.optional() {
            Some(word) => Some(word),
            None => self.missing(what),
        }
    }

    /// The text of the word that was taken last.
    pub fn last_text(&self) -> &'a str {
        match self.at.checked_sub(1).and_then(|at| self.words.get(at)) {
            Some(word) => &word.text,
            None => "",
        }
    }

    /// Takes all other words as one text, a space between them.
    pub fn text(&mut self, what: &str) -> Option<String> {
        let mut text = self.word(what)?.text.clone();
        for word in self.rest() {
            text.push(' ');
            text.push_str(&word.text);
        }
        Some(text)
    }

    /// Takes all other words.
    pub fn rest(&mut self) -> &'a [Word] {
        let rest = &self.words[self.at.min(self.words.len())..];
        self.at = self.words.len();
        rest
    }

    pub(crate) fn skip(&mut self, words: usize) {
        self.at = (self.at + words).min(self.words.len());
    }

    /// There must be no other word.
    pub fn end(&mut self) -> Option<()> {
        let rest = self.rest();
        let [first, ..] = rest else {
            return Some(());
        };
        let place = rest
            .last()
            .map_or(first.place, |last| first.place.to(last.place));
        let message = match self.usage {
            "" => format!("`{}` takes no argument", self.name),
            _ => format!("too many arguments for `{}`", self.name),
        };
        let finding = Diagnostic::error("extra-argument", place, message);
        let label = match self.usage {
            "" => "nothing may follow".to_owned(),
            usage => format!("expected `{} {usage}`", self.name),
        };
        self.push(finding.label(label));
        None
    }

    /// Reports that a word is missing.
    pub fn missing<T>(&mut self, what: &str) -> Option<T> {
        let last = self.words.last().map_or(self.line, |word| word.place);
        let message = format!("`{}` needs {what}", self.name);
        let usage = format!("expected `{} {}`", self.name, self.usage);
        self.push(Diagnostic::error("missing-argument", last, message).label(usage.trim_end()));
        None
    }

    /// Reports a wrong value.
    pub fn bad_at<T>(&mut self, place: Place, message: &str, label: &str) -> Option<T> {
        self.push(Diagnostic::error("bad-value", place, message).label(label));
        None
    }

    /// Reports that something of the language is not there yet.
    pub fn not_supported<T>(&mut self, place: Place, what: &str, why: &str) -> Option<T> {
        let message = format!("{what} is not supported yet");
        self.push(Diagnostic::error(NOT_SUPPORTED, place, message).label(why));
        None
    }

    /// The first of a set of keywords holds; a later one is a warning, and `None`.
    pub fn first_only(&mut self, seen: &mut Seen, set: &'static str) -> Option<()> {
        let Some(before) = seen.get(set) else {
            seen.insert(set, self.line);
            return Some(());
        };
        let message = format!("`{}` was said before", self.name);
        self.report.push(
            Diagnostic::warning("said-before", self.line, message)
                .label("ignored")
                .note_at(*before, "this one holds"),
        );
        None
    }

    /// A whole number in a range.
    pub fn integer(&mut self, range: RangeInclusive<i64>) -> Option<At<i64>> {
        self.integer_of(self.name, range)
    }

    /// A whole number in a range, which is not what the keyword is named for.
    pub fn integer_of(&mut self, what: &str, range: RangeInclusive<i64>) -> Option<At<i64>> {
        let word = self.word("a number")?;
        let read = units::integer_word(word, range, what);
        Some(At::new(self.keep(read)?, word.place))
    }

    /// A time; a bare number is milliseconds.
    pub fn time(&mut self) -> Option<At<Duration>> {
        let word = self.word("a time")?;
        let time = units::time_word(word, TimeUnit::Milliseconds, self.name, self.report)?;
        Some(At::new(time, word.place))
    }

    /// A time that is not zero.
    pub fn positive_time(&mut self) -> Option<Duration> {
        let time = self.time()?;
        if time.value.is_zero() {
            let message = format!("`{}` cannot be 0", self.name);
            return self.bad_at(time.place, &message, "expected a time above 0");
        }
        Some(time.value)
    }

    /// A keepalive time: a bare number is seconds, as the kernel's option has it.
    pub fn keepalive_time(&mut self) -> Option<Duration> {
        // Linux: MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL.
        const MOST: Duration = Duration::from_secs(32_767);
        let word = self.word("a time")?;
        let time = units::time_word(word, TimeUnit::Seconds, self.name, self.report)?;
        if time.is_zero() || time > MOST {
            let message = format!("`{}` is no valid {}", word.text, self.name);
            return self.bad_at(word.place, &message, "must be from 1s to 32767s");
        }
        Some(time)
    }

    /// A size in bytes, in a range.
    pub fn size(&mut self, range: RangeInclusive<i64>) -> Option<At<u32>> {
        let word = self.word("a size")?;
        let read = units::size_word(word, self.name);
        let size = self.keep(read)?;
        if !range.contains(&i64::from(size)) {
            let message = format!("`{}` is no valid {}", word.text, self.name);
            let label = format!("must be from {} to {} bytes", range.start(), range.end());
            return self.bad_at(word.place, &message, &label);
        }
        Some(At::new(size, word.place))
    }

    /// One of some words.
    pub fn choice<T: Copy>(&mut self, what: &str, choices: &[(&str, T)]) -> Option<At<T>> {
        let word = self.word(what)?;
        let value = self.one_of(&word.text, word.place, what, choices)?;
        Some(At::new(value, word.place))
    }

    /// One of some words, at this place.
    pub fn one_of<T: Copy>(
        &mut self,
        text: &str,
        place: Place,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.not_among(text, place, what, &names)
    }

    /// Reports a word that is none of those expected.
    pub fn unknown_choice<T>(&mut self, word: &Word, what: &str, names: &[&str]) -> Option<T> {
        self.not_among(&word.text, word.place, what, names)
    }

    fn not_among<T>(&mut self, text: &str, place: Place, what: &str, names: &[&str]) -> Option<T> {
        let finding = Diagnostic::error("bad-value", place, format!("`{text}` is not {what}"))
            .suggest(suggest(text, names.iter().copied()));
        let finding = match finding.label {
            None => finding.label(format!("expected {}", list(names, 24))),
            Some(_) => finding,
        };
        self.push(finding);
        None
    }

    /// The parts of a word between its commas, each with its place.
    pub fn comma_parts(&self, word: &'a Word) -> Vec<(&'a str, Place)> {
        let mut at = 0;
        word.text
            .split(',')
            .map(|part| {
                let place = word.place_of(at..at + part.len());
                at += part.len() + 1;
                (part, place)
            })
            .collect()
    }

    /// A name of letters, digits and these characters.
    pub fn valid_name(&mut self, word: &Word, what: &str, others: &str) -> Option<()> {
        match invalid_character(&word.text, others) {
            None if !word.text.is_empty() => Some(()),
            None => self.bad_at(
                word.place,
                &format!("{what} cannot be empty"),
                "expected a name",
            ),
            Some((at, c)) => {
                let place = word.place_of(at..at + c.len_utf8());
                let message = format!("{what} cannot hold `{c}`");
                self.bad_at(
                    place,
                    &message,
                    "letters, digits, `.`, `:`, `_` and `-` are allowed",
                )
            }
        }
    }
}

/// The first character that a name cannot hold; src/tools.c, invalid_char().
pub fn invalid_character(name: &str, others: &str) -> Option<(usize, char)> {
    name.char_indices()
        .find(|(_, c)| !(c.is_ascii_alphanumeric() || others.contains(*c)))
}

/// The first of some names, for a message.
pub(crate) fn list(names: &[&str], most: usize) -> String {
    let quoted: Vec<String> = names.iter().take(most).map(|n| format!("`{n}`")).collect();
    match names.len() > most {
        true => format!("{}, …", quoted.join(", ")),
        false => quoted.join(", "),
    }
}
