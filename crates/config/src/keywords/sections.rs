//! Sections that are neither `global`, `defaults` nor a proxy.
//!
//! Decides:  which of them a file may hold.
//! Source:   HAProxy's configuration manual, chapters 3.2, 5.3.2, 6, 10 and 12, newest version.
//! Not here: their keywords, which are not looked at but for `ring` (ring.rs).

/// What becomes of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Refused. Why.
    Refused(&'static str),
    /// It loads, with a warning. Why.
    Warned(&'static str),
    /// It does nothing unless a keyword that is not supported refers to it: accepted.
    Inert(&'static str),
    /// It works.
    Supported,
    /// It left the language.
    Removed(&'static str),
}

/// A section's entry.
pub struct SectionEntry {
    /// The word that begins it.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// What it is for.
    pub doc: &'static str,
}

use Treatment::{Inert, Refused, Removed, Supported, Warned};

/// Every other section.
#[rustfmt::skip]
pub const ENTRIES: &[SectionEntry] = &[
    SectionEntry { name: "acme", treatment: Inert("`crt-store`"), doc: "certificates from an ACME server" },
    SectionEntry { name: "cache", treatment: Inert("HTTP"), doc: "an HTTP cache" },
    SectionEntry { name: "crt-store", treatment: Inert("`ssl`"), doc: "certificates by name" },
    SectionEntry { name: "fcgi-app", treatment: Inert("HTTP"), doc: "a FastCGI application" },
    SectionEntry { name: "healthcheck", treatment: Inert("the `healthcheck` server parameter"), doc: "a health check by name" },
    SectionEntry { name: "http-errors", treatment: Inert("HTTP"), doc: "HTTP error pages" },
    SectionEntry { name: "log-forward", treatment: Refused("it opens ports of its own, to forward syslog"), doc: "a syslog forwarder" },
    SectionEntry { name: "log-profile", treatment: Inert("`log … profile`"), doc: "log formats by step" },
    SectionEntry { name: "mailers", treatment: Inert("`email-alert`"), doc: "mail servers for alerts" },
    SectionEntry { name: "namespace_list", treatment: Inert("`namespace`"), doc: "network namespaces known beforehand" },
    SectionEntry { name: "peers", treatment: Warned("there are no stick tables to share yet"), doc: "peers that share stick tables" },
    SectionEntry { name: "program", treatment: Removed("left HAProxy in 3.3: let systemd start the program"), doc: "a program run by the master" },
    SectionEntry { name: "resolvers", treatment: Inert("the `resolvers` server parameter"), doc: "DNS servers for resolution at run time" },
    SectionEntry { name: "ring", treatment: Supported, doc: "log lines kept in memory, for `log ring@…`; QUIT shows them" },
    SectionEntry { name: "traces", treatment: Warned("there are no traces of this kind"), doc: "what HAProxy's traces show" },
    SectionEntry { name: "userlist", treatment: Inert("HTTP authentication"), doc: "users and groups" },
];

/// A section's entry by its word.
pub fn find(name: &str) -> Option<&'static SectionEntry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::OTHER_SECTIONS;

    #[test]
    fn every_other_section_has_an_entry_and_no_other_word_has() {
        let mut entries: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
        entries.sort_unstable();
        assert_eq!(entries, OTHER_SECTIONS);
    }
}
