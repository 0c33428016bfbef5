//! A line by its keyword, and a line's parameters by theirs.
//!
//! Decides:  what is said of a keyword that is unknown, in the wrong place, with a wrong prefix, or
//!           not there yet.
//! Source:   HAProxy's src/cfgparse.c, warnifnotcap() and failifnotcap(), and
//!           src/cfgparse-listen.c, 3.5-dev5.
//! Not here: the words after the keyword (arguments.rs), the entries (keywords/).

use crate::arguments::{Args, Prefix, list};
use crate::diagnostic::Diagnostic;
use crate::keyword::{self, Class, Entry, HttpOnly, Prefixes, Sections, Table};
use crate::report::{HTTP_ONLY, NO_EFFECT};
use crate::source::Place;
use crate::suggest::suggest;
use crate::syntax::{SectionKind, Word};

impl<'a> Args<'a> {
    /// Understands the whole line by a table.
    pub fn line<T>(&mut self, draft: &mut T, table: Table<T>, here: Sections) -> Option<()> {
        let texts: Vec<&str> = self.words.iter().map(|word| word.text.as_str()).collect();
        let Some(entry) = keyword::find(table, &texts) else {
            self.unknown_keyword(table, here);
            return None;
        };
        let words = &self.words[..entry.words().min(self.words.len())];
        self.at = words.len();
        let place = match words {
            [first, .., last] => first.place.to(last.place),
            [only] => only.place,
            [] => self.line,
        };
        if !entry.sections.meets(here) {
            return self.misplaced(entry, place);
        }
        if !self.prefix_allowed(entry.prefixes) {
            return self.bad_prefix(entry.name);
        }
        self.apply(entry, draft, place)?;
        match entry.class {
            Class::Supported(_) => self.end(),
            _ => {
                self.rest();
                Some(())
            }
        }
    }

    /// Understands the rest of the line as parameters of a table. All of them are looked at; `None`
    /// if one was wrong.
    pub fn parameters<T>(
        &mut self,
        draft: &mut T,
        table: Table<T>,
        here: Sections,
        on: &str,
    ) -> Option<()> {
        let outer = (self.name, self.usage);
        let mut good = Some(());
        while let Some(word) = self.optional() {
            let done = match keyword::find(table, &[word.text.as_str()]) {
                Some(entry) if entry.sections.meets(here) => {
                    let done = self.apply(entry, draft, word.place);
                    if !matches!(entry.class, Class::Supported(_)) {
                        self.skip(entry.argument_words());
                    }
                    done
                }
                Some(entry) => {
                    self.skip(entry.argument_words());
                    let message = format!("`{}` cannot stand {on}", entry.name);
                    self.bad_at(word.place, &message, &belongs(entry.sections))
                }
                None => self.unknown_parameter(word, table, here, on),
            };
            good = good.and(done);
        }
        (self.name, self.usage) = outer;
        good
    }

    /// Does what the entry's class says.
    fn apply<T>(&mut self, entry: &'static Entry<T>, draft: &mut T, place: Place) -> Option<()> {
        self.name = entry.name;
        self.usage = entry.arguments;
        let what = format!("`{}`", entry.name);
        match entry.class {
            Class::Supported(parse) => return parse(draft, self),
            // Turned off, a keyword that is not there does what it should.
            Class::Refused(_) | Class::Warned(_) if self.prefix != Prefix::None => {}
            Class::Refused(_) if !entry.off.is_empty() && self.peek_is(entry.off) => {}
            Class::Refused(why) => return self.not_supported(place, &what, why),
            Class::Warned(why) => self.push(
                Diagnostic::warning(NO_EFFECT, place, format!("{what} has no effect")).label(why),
            ),
            Class::Inert(_) => {}
            Class::Http(HttpOnly::Refused) => {
                let message = format!("{what} needs `mode http`");
                let finding = Diagnostic::error(HTTP_ONLY, place, message);
                self.push(finding.label("not possible in a TCP proxy"));
                return None;
            }
            Class::Http(_) => {
                let message = format!("{what} needs `mode http`");
                let finding = Diagnostic::warning(HTTP_ONLY, place, message);
                self.push_http(finding.label("ignored in a TCP proxy"));
            }
            Class::Removed(hint) => {
                let message = format!("{what} is no longer in the language");
                self.push(Diagnostic::error("removed-keyword", place, message).label(hint));
                return None;
            }
        }
        Some(())
    }

    fn prefix_allowed(&self, prefixes: Prefixes) -> bool {
        match self.prefix {
            Prefix::None => true,
            Prefix::No => prefixes != Prefixes::None,
            Prefix::Default => prefixes == Prefixes::NoAndDefault,
        }
    }

    fn bad_prefix(&mut self, name: &str) -> Option<()> {
        let word = match self.prefix {
            Prefix::No => "no",
            _ => "default",
        };
        let place = Place {
            end: self.line.start + word.len() as u32,
            ..self.line
        };
        self.push(
            Diagnostic::error(
                "bad-prefix",
                place,
                format!("`{word}` cannot stand before `{name}`"),
            )
            .label("it goes with options that are on or off"),
        );
        None
    }

    /// As HAProxy has it: what a proxy has no use for is a warning, but `server` and the rules of
    /// `tcp-request` and `tcp-response`; what cannot be a default is an error. `bind` in a backend is an error too: a port would not be opened.
    fn misplaced<T>(&mut self, entry: &Entry<T>, place: Place) -> Option<()> {
        self.rest();
        let section = self.kind.word();
        let fatal = self.kind == SectionKind::Defaults
            || matches!(
                entry.name,
                "server"
                    | "server-template"
                    | "default-server"
                    | "bind"
                    | "tcp-request connection"
                    | "tcp-request session"
                    | "tcp-response content"
            );
        let finding = if fatal {
            let message = format!("`{}` cannot stand in a `{section}` section", entry.name);
            Diagnostic::error("misplaced", place, message)
        } else {
            let message = format!("`{}` has no effect in a `{section}` section", entry.name);
            Diagnostic::warning("misplaced", place, message)
        };
        self.push(finding.label(belongs(entry.sections)));
        (!fatal).then_some(())
    }

    fn unknown_keyword<T>(&mut self, table: Table<T>, here: Sections) {
        let Some(first) = self.words.first() else {
            return;
        };
        if self.report.is_full() {
            let message = "unknown keyword";
            self.push(Diagnostic::error("unknown-keyword", first.place, message));
            return;
        }
        let seconds = keyword::second_words(table, &first.text);
        let section = self.kind.word();
        let finding = match self.words.get(1) {
            Some(second) if !seconds.is_empty() => {
                let message = format!("unknown keyword `{} {}`", first.text, second.text);
                Diagnostic::error("unknown-keyword", second.place, message)
                    .suggest(suggest(&second.text, seconds.iter().copied()))
            }
            None if !seconds.is_empty() => {
                let expected = format!("expected {}", list(&seconds, 8));
                let message = format!("`{}` needs another word", first.text);
                Diagnostic::error("missing-argument", first.place, message).label(expected)
            }
            _ => {
                let names = keyword::iter(table)
                    .filter(|entry| entry.sections.meets(here))
                    .map(|entry| entry.name.split(' ').next().unwrap_or_default());
                // A section that is not begun makes all its lines look wrong: it is the likelier one.
                let begun = self.words.len() <= MOST_WORDS_OF_A_SECTION;
                let sections = SectionKind::words().filter(|_| begun);
                let message = format!("unknown keyword `{}` in a `{section}` section", first.text);
                let finding = Diagnostic::error("unknown-keyword", first.place, message);
                match crate::keywords::elsewhere(&first.text).or_else(|| invisible(&first.text)) {
                    Some(place) => finding.label(place),
                    None => finding.suggest(suggest(&first.text, sections.chain(names))),
                }
            }
        };
        self.push(finding);
    }

    fn unknown_parameter<T>(
        &mut self,
        word: &'a Word,
        table: Table<T>,
        here: Sections,
        on: &str,
    ) -> Option<()> {
        if self.report.is_full() {
            self.rest();
            return self.bad_at(word.place, "unknown keyword", "");
        }
        let known = || keyword::iter(table).filter(|entry| entry.sections.meets(here));
        let meant = suggest(&word.text, known().map(|entry| entry.name));
        let message = format!("unknown keyword `{}` {on}", word.text);
        let finding = Diagnostic::error("unknown-keyword", word.place, message);
        let label = || crate::keywords::elsewhere(&word.text).or_else(|| invisible(&word.text));
        self.push(match meant.is_none().then(label).flatten() {
            Some(place) => finding.label(place),
            None => finding.suggest(meant),
        });
        // Its arguments are not worth a finding each: go on with the next word that is known.
        match known().find(|entry| Some(entry.name) == meant) {
            Some(entry) => self.skip(entry.argument_words()),
            None => {
                while let Some(next) = self.words.get(self.at) {
                    if keyword::find(table, &[next.text.as_str()]).is_some() {
                        break;
                    }
                    self.at += 1;
                }
            }
        }
        None
    }
}

/// `frontend NAME from NAME`
const MOST_WORDS_OF_A_SECTION: usize = 4;

/// What an editor or a web page put in the place of a space, and nobody sees.
fn invisible(word: &str) -> Option<String> {
    let hidden = word.chars().find(|c| {
        (c.is_whitespace() && !c.is_ascii())
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    })?;
    let code = u32::from(hidden);
    Some(format!(
        "there is an invisible character in it, U+{code:04X}: only spaces and tabs part words"
    ))
}

/// "it belongs in …"
pub(crate) fn belongs(sections: Sections) -> String {
    let names: Vec<String> = sections
        .names()
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    match names.split_last() {
        Some((last, [])) => format!("it belongs in {last}"),
        Some((last, rest)) => format!("it belongs in {} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
