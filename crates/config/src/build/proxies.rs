//! `defaults` and proxies, in the order of the files.
//!
//! Decides:  which `defaults` a section takes over, and which names may stand together.
//! Source:   HAProxy's manual, chapter 4; src/cfgparse-listen.c, cfg_parse_listen(), 3.5-dev5.
//! Not here: what the proxies mean together (resolve.rs).

use std::collections::BTreeMap;

use crate::arguments::{Args, Context, invalid_character};
use crate::build::draft::ProxyDraft;
use crate::diagnostic::Diagnostic;
use crate::keyword::{self, Sections};
use crate::keywords;
use crate::report::Report;
use crate::source::Place;
use crate::suggest::suggest;
use crate::syntax::{Section, SectionKind, Word};

/// All sections of these kinds.
pub struct Proxies {
    /// `frontend`, `backend`, `listen`.
    pub proxies: Vec<ProxyDraft>,
    /// `defaults`
    pub defaults: Vec<ProxyDraft>,
}

struct Reader<'a> {
    read: Proxies,
    /// The latest `defaults`, which holds for the proxies after it that do not say `from`.
    current: Option<usize>,
    /// Names of proxies and of `defaults`, which may not meet.
    names: BTreeMap<String, Place>,
    defaults_by_name: BTreeMap<String, NamedDefaults>,
    report: &'a mut Report,
}

struct NamedDefaults {
    index: usize,
    /// The section of the same name before this one, if any.
    before: Option<Place>,
    /// Did a section say `from` with this name?
    referenced: bool,
}

/// Reads the sections.
pub fn read(sections: &[Section], context: Context<'_>, report: &mut Report) -> Proxies {
    let mut reader = Reader {
        read: Proxies {
            proxies: Vec::new(),
            defaults: Vec::new(),
        },
        current: None,
        names: BTreeMap::new(),
        defaults_by_name: BTreeMap::new(),
        report,
    };
    for (number, section) in sections.iter().enumerate() {
        reader.report.enter(number);
        let Some(here) = place_of(section.kind) else {
            continue;
        };
        let mut draft = match section.kind {
            SectionKind::Defaults => reader.begin_defaults(number, section),
            _ => reader.begin_proxy(number, section),
        };
        for line in &section.lines {
            let mut args = Args::new(line, section.kind, context, reader.report);
            args.line(&mut draft, keywords::PROXY, here);
        }
        reader.end(draft);
    }
    reader.read
}

fn place_of(kind: SectionKind) -> Option<Sections> {
    Some(match kind {
        SectionKind::Defaults => keyword::D,
        SectionKind::Frontend => keyword::F,
        SectionKind::Listen => keyword::L,
        SectionKind::Backend => keyword::B,
        SectionKind::Global | SectionKind::Other(_) => return None,
    })
}

impl Reader<'_> {
    fn begin_defaults(&mut self, number: usize, section: &Section) -> ProxyDraft {
        self.no_extra(section);
        // Before its own name is known: a section takes nothing over from itself.
        let base = section.from.as_ref().and_then(|from| self.from(from));
        let name = match &section.name {
            Some(name) => {
                self.valid_name(section.kind, name);
                self.defaults_name(name);
                name.text.clone()
            }
            None => String::new(),
        };
        self.draft(section, number, name, base)
    }

    /// A `defaults` name may come again only while nothing says `from` with it.
    fn defaults_name(&mut self, name: &Word) {
        let index = self.read.defaults.len();
        if let Some(place) = self.names.get(&name.text) {
            let message = format!("`{}` is a proxy's name already", name.text);
            self.report.push(
                Diagnostic::error("duplicate-name", name.place, message)
                    .note_at(*place, "this one"),
            );
        }
        let before = self.defaults_by_name.get(&name.text);
        if let Some(old) = before.filter(|old| old.referenced) {
            let place = self.read.defaults[old.index].place;
            let message = format!("a `defaults` section `{}` is in use already", name.text);
            self.report.push(
                Diagnostic::error("duplicate-name", name.place, message)
                    .label("a section said `from` with this name")
                    .note_at(place, "the one it means"),
            );
        }
        let before = before.map(|old| self.read.defaults[old.index].place);
        self.defaults_by_name.insert(
            name.text.clone(),
            NamedDefaults {
                index,
                before,
                referenced: false,
            },
        );
    }

    fn begin_proxy(&mut self, number: usize, section: &Section) -> ProxyDraft {
        let kind = section.kind;
        match section.extra.first() {
            Some(word) if kind != SectionKind::Backend => {
                let message = format!("`{}` cannot stand on this line", word.text);
                self.report.push(
                    Diagnostic::error("extra-argument", word.place, message)
                        .label("addresses have lines of their own, with `bind`"),
                );
            }
            _ => self.no_extra(section),
        }
        let name = match &section.name {
            Some(name) => {
                self.valid_name(kind, name);
                self.proxy_name(kind, name);
                name.text.clone()
            }
            None => {
                let message = format!("`{}` needs a name", kind.word());
                self.report.push(
                    Diagnostic::error("missing-argument", section.keyword.place, message)
                        .label(format!("expected `{} NAME`", kind.word())),
                );
                String::new()
            }
        };
        let base = match &section.from {
            Some(from) => self.from(from),
            None => self.current,
        };
        self.draft(section, number, name, base)
    }

    /// Since 3.3 no two proxies share a name, nor a proxy and a named `defaults`.
    fn proxy_name(&mut self, kind: SectionKind, name: &Word) {
        let defaults = self
            .defaults_by_name
            .get(&name.text)
            .map(|named| self.read.defaults[named.index].place);
        if let Some(place) = self.names.get(&name.text).copied().or(defaults) {
            let message = format!("`{}` has the name of another section", name.text);
            self.report.push(
                Diagnostic::error("duplicate-name", name.place, message)
                    .label(format!("a {} needs a name of its own", kind.word()))
                    .note_at(place, "the first one"),
            );
            return;
        }
        self.names.insert(name.text.clone(), name.place);
    }

    fn from(&mut self, from: &Word) -> Option<usize> {
        let Some(named) = self.defaults_by_name.get_mut(&from.text) else {
            let known = self.defaults_by_name.keys().map(String::as_str);
            let meant = suggest(&from.text, known).map(str::to_owned);
            let message = format!("there is no `defaults` section `{}` before this", from.text);
            self.report.push(
                Diagnostic::error("unknown-defaults", from.place, message)
                    .suggest(meant.as_deref()),
            );
            return None;
        };
        named.referenced = true;
        let index = named.index;
        if let Some(before) = named.before {
            let message = format!("there are two `defaults` sections `{}`", from.text);
            self.report.push(
                Diagnostic::error("duplicate-name", from.place, message)
                    .label("which of them is meant?")
                    .note_at(before, "one")
                    .note_at(self.read.defaults[index].place, "the other"),
            );
        }
        Some(index)
    }

    fn draft(
        &self,
        section: &Section,
        number: usize,
        name: String,
        base: Option<usize>,
    ) -> ProxyDraft {
        let place = section.place();
        match base.and_then(|index| self.read.defaults.get(index)) {
            Some(base) => ProxyDraft::from_defaults(section.kind, number, name, place, base),
            None => ProxyDraft::new(section.kind, number, name, place),
        }
    }

    fn end(&mut self, draft: ProxyDraft) {
        if draft.kind == SectionKind::Defaults {
            self.current = Some(self.read.defaults.len());
            self.read.defaults.push(draft);
        } else {
            self.read.proxies.push(draft);
        }
    }

    fn no_extra(&mut self, section: &Section) {
        if let Some(word) = section.extra.first() {
            let message = format!("`{}` cannot stand on this line", word.text);
            let expected = format!("expected `{} [NAME] [from DEFAULTS]`", section.kind.word());
            self.report
                .push(Diagnostic::error("extra-argument", word.place, message).label(expected));
        }
    }

    fn valid_name(&mut self, kind: SectionKind, name: &Word) {
        if let Some((at, c)) = invalid_character(&name.text, ".:_-") {
            let message = format!("a {}'s name cannot hold `{c}`", kind.word());
            let place = name.place_of(at..at + c.len_utf8());
            self.report.push(
                Diagnostic::error("bad-value", place, message)
                    .label("letters, digits, `.`, `:`, `_` and `-` are allowed"),
            );
        }
    }
}
