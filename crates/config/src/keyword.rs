//! What a keyword's entry says, and how a keyword is found by its words.
//!
//! Decides:  the classes of keywords, and that a keyword, its documentation and its code are one entry.
//! Source:   HAProxy's configuration manual, chapters 3, 4 and 5, newest version.
//! Not here: the entries themselves (keywords/), what an argument may be (arguments.rs).

use crate::arguments::Args;

/// Where a keyword may stand: a set of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sections(u16);

impl Sections {
    /// Is one of `other`'s places among these?
    pub const fn meets(self, other: Sections) -> bool {
        self.0 & other.0 != 0
    }

    /// The places' names, in the manual's order.
    pub fn names(self) -> Vec<&'static str> {
        const NAMES: [(Sections, &str); 9] = [
            (G, "global"),
            (D, "defaults"),
            (F, "frontend"),
            (L, "listen"),
            (B, "backend"),
            (BIND, "bind"),
            (S, "server"),
            (DEFAULT_SERVER, "default-server"),
            (RING, "ring"),
        ];
        NAMES
            .into_iter()
            .filter(|(section, _)| self.meets(*section))
            .map(|(_, name)| name)
            .collect()
    }
}

const fn all<const N: usize>(of: [Sections; N]) -> Sections {
    let mut bits = 0;
    let mut i = 0;
    while i < N {
        bits |= of[i].0;
        i += 1;
    }
    Sections(bits)
}

/// `global`
pub const G: Sections = Sections(1);
/// `defaults`
pub const D: Sections = Sections(2);
/// `frontend`
pub const F: Sections = Sections(4);
/// `listen`
pub const L: Sections = Sections(8);
/// `backend`
pub const B: Sections = Sections(16);
/// A `bind` line.
pub const BIND: Sections = Sections(32);
/// A `server` or `server-template` line only.
pub const S: Sections = Sections(64);
/// A `default-server` line.
pub const DEFAULT_SERVER: Sections = Sections(128);
/// A `ring` section.
pub const RING: Sections = Sections(256);
/// `server`, `server-template` and `default-server` lines.
pub const SD: Sections = all([S, DEFAULT_SERVER]);
/// `defaults` and every proxy.
pub const DFLB: Sections = all([D, F, L, B]);
/// Every proxy.
pub const FLB: Sections = all([F, L, B]);
/// `defaults` and what has a front half.
pub const DFL: Sections = all([D, F, L]);
/// `defaults` and what has a back half.
pub const DLB: Sections = all([D, L, B]);
/// What has a front half.
pub const FL: Sections = all([F, L]);
/// What has a back half.
pub const LB: Sections = all([L, B]);

/// The code of a supported keyword: it reads its arguments into the draft of what it belongs to.
/// `None` says that an argument was wrong and that this has been reported.
pub type Parse<T> = fn(&mut T, &mut Args<'_>) -> Option<()>;

/// What becomes of a keyword.
pub enum Class<T: 'static> {
    /// It works.
    Supported(Parse<T>),
    /// It changes where traffic goes or what is secure: refused by name. Why, or what to do.
    Refused(&'static str),
    /// It only observes or tunes: the file loads, with a warning. Why.
    Warned(&'static str),
    /// It does nothing without another keyword, one that is not supported: accepted. Which.
    Inert(&'static str),
    /// It is for HTTP: in a TCP proxy it is treated as HAProxy treats it.
    Http(HttpOnly),
    /// It left the language: refused, with what replaced it.
    Removed(&'static str),
}

/// What HAProxy does with an HTTP-only keyword in a TCP proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpOnly {
    /// Accepted in silence, without effect. We say so.
    Accepted,
    /// Ignored with a warning.
    Ignored,
    /// An error.
    Refused,
}

/// What a keyword's prefix may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefixes {
    /// Neither `no` nor `default`.
    None,
    /// `no`
    No,
    /// `no` and `default`
    NoAndDefault,
}

/// One keyword, with everything that the parser, the messages and the reference say of it.
pub struct Entry<T: 'static> {
    /// Its words, like `timeout client`.
    pub name: &'static str,
    /// Its arguments as the manual writes them; empty for none.
    pub arguments: &'static str,
    /// Where it may stand.
    pub sections: Sections,
    /// Which prefixes it may have.
    pub prefixes: Prefixes,
    /// What becomes of it.
    pub class: Class<T>,
    /// What it does, in one line.
    pub doc: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What differs from HAProxy, or since when it is so.
    pub note: &'static str,
    /// Of a refused one: the argument by which it changes nothing, which is accepted.
    pub off: &'static str,
}

impl<T> Entry<T> {
    const fn new(
        name: &'static str,
        arguments: &'static str,
        sections: Sections,
        class: Class<T>,
        doc: &'static str,
    ) -> Self {
        Entry {
            name,
            arguments,
            sections,
            prefixes: Prefixes::None,
            class,
            doc,
            default: "",
            note: "",
            off: "",
        }
    }

    /// An entry that works.
    pub const fn supported(
        name: &'static str,
        arguments: &'static str,
        sections: Sections,
        parse: Parse<T>,
        doc: &'static str,
    ) -> Self {
        Entry::new(name, arguments, sections, Class::Supported(parse), doc)
    }

    /// An entry that is refused by name.
    pub const fn refused(
        name: &'static str,
        arguments: &'static str,
        sections: Sections,
        why: &'static str,
        doc: &'static str,
    ) -> Self {
        Entry::new(name, arguments, sections, Class::Refused(why), doc)
    }

    /// An entry that loads with a warning.
    pub const fn warned(
        name: &'static str,
        arguments: &'static str,
        sections: Sections,
        why: &'static str,
        doc: &'static str,
    ) -> Self {
        Entry::new(name, arguments, sections, Class::Warned(why), doc)
    }

    /// An entry that does nothing by itself.
    pub const fn inert(
        name: &'static str,
        arguments: &'static str,
        sections: Sections,
        without: &'static str,
        doc: &'static str,
    ) -> Self {
        Entry::new(name, arguments, sections, Class::Inert(without), doc)
    }

    /// An entry for HTTP.
    pub const fn http(
        name: &'static str,
        arguments: &'static str,
        sections: Sections,
        treatment: HttpOnly,
        doc: &'static str,
    ) -> Self {
        Entry::new(name, arguments, sections, Class::Http(treatment), doc)
    }

    /// An entry of the past.
    pub const fn removed(
        name: &'static str,
        arguments: &'static str,
        sections: Sections,
        hint: &'static str,
        doc: &'static str,
    ) -> Self {
        Entry::new(name, arguments, sections, Class::Removed(hint), doc)
    }

    /// Says what holds without the keyword.
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Says what differs, or since when.
    pub const fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// Says with which argument a refused keyword changes nothing.
    pub const fn off(mut self, off: &'static str) -> Self {
        self.off = off;
        self
    }

    /// Allows prefixes.
    pub const fn prefixes(mut self, prefixes: Prefixes) -> Self {
        self.prefixes = prefixes;
        self
    }

    /// How many words the keyword has.
    pub fn words(&self) -> usize {
        self.name.split(' ').count()
    }

    /// How many words its arguments are, where an entry that is not supported stands among others
    /// on a line: the words of `arguments` outside of brackets.
    pub fn argument_words(&self) -> usize {
        self.arguments
            .split_whitespace()
            .take_while(|word| !word.starts_with('['))
            .count()
    }
}

/// A family's list of entries, one line each:
///
/// ```text
/// "name" "<arguments>" SECTIONS class(what) "what it does" default("…") note("…");
/// ```
macro_rules! entries {
    ($($name:literal $arguments:literal $sections:ident $class:ident($what:expr) $doc:literal
        $($extra:ident($value:expr))*;)*) => {
        &[$(
            $crate::keyword::Entry::$class($name, $arguments, $crate::keyword::$sections, $what, $doc)
                $(.$extra($value))*
        ),*]
    };
}
pub(crate) use entries;

/// A table: the lists of its families.
pub type Table<T> = &'static [&'static [Entry<T>]];

/// All entries of a table.
pub fn iter<T>(table: Table<T>) -> impl Iterator<Item = &'static Entry<T>> {
    table.iter().flat_map(|family| family.iter())
}

/// The entry with the longest name that these words begin with. A first word that ends in a
/// parenthesis, like `set-proxy-v2-tlv-fmt(0x05)`, is known by what stands before it.
pub fn find<T>(table: Table<T>, words: &[&str]) -> Option<&'static Entry<T>> {
    let first = words.first()?;
    let letter = first.as_bytes().first();
    iter(table)
        // Most entries end here: files have many lines, and tables hundreds of entries.
        .filter(|entry| entry.name.as_bytes().first() == letter && entry.name.starts_with(first))
        .filter(|entry| {
            let mut given = words.iter();
            entry
                .name
                .split(' ')
                .all(|word| given.next().is_some_and(|have| *have == word))
        })
        .max_by_key(|entry| entry.words())
        .or_else(|| {
            let (head, _) = first.split_once('(')?;
            iter(table).find(|entry| entry.name == head)
        })
}

/// The second words of the entries that begin with this one, like those of `timeout`.
pub fn second_words<T>(table: Table<T>, first: &str) -> Vec<&'static str> {
    let mut seconds: Vec<&'static str> = iter(table)
        .filter_map(|entry| {
            let mut words = entry.name.split(' ');
            (words.next() == Some(first)).then(|| words.next())?
        })
        .collect();
    seconds.sort_unstable();
    seconds.dedup();
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &mut (), _: &mut Args<'_>) -> Option<()> {
        Some(())
    }

    const FAMILY: &[Entry<()>] = entries! {
        "stats" "" G supported(nothing) "a";
        "stats socket" "<address> [<more>]" G supported(nothing) "b";
        "set-tlv" "<value> <value>" S refused("c") "c" prefixes(Prefixes::No);
    };
    const TABLE: Table<()> = &[FAMILY];

    fn name(words: &[&str]) -> Option<&'static str> {
        find(TABLE, words).map(|entry| entry.name)
    }

    #[test]
    fn the_longest_name_that_fits_is_found() {
        assert_eq!(name(&["stats", "socket", "x"]), Some("stats socket"));
        assert_eq!(name(&["stats", "other"]), Some("stats"));
        assert_eq!(name(&["stats"]), Some("stats"));
        assert_eq!(name(&["socket"]), None);
        assert_eq!(name(&[]), None);
    }

    #[test]
    fn a_parenthesis_ends_a_name() {
        assert_eq!(name(&["set-tlv(5)"]), Some("set-tlv"));
        assert_eq!(name(&["set-tl(5)"]), None);
    }

    #[test]
    fn arguments_are_counted_up_to_the_optional_ones() {
        let counts: Vec<usize> = FAMILY.iter().map(Entry::argument_words).collect();
        assert_eq!(counts, [0, 1, 2]);
    }

    #[test]
    fn second_words_are_those_after_the_first() {
        assert_eq!(second_words(TABLE, "stats"), ["socket"]);
        assert!(second_words(TABLE, "set-tlv").is_empty());
    }

    #[test]
    fn a_set_of_sections_names_its_members() {
        assert_eq!(DFL.names(), ["defaults", "frontend", "listen"]);
        assert!(DFL.meets(FL) && !FL.meets(B));
    }
}
