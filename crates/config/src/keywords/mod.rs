//! Every keyword that is known, by table: a keyword is in the language if it is in a list here.
//!
//! Decides:  which families make up which table.
//! Source:   HAProxy's configuration manual, newest version; the registered keywords of its source.
//! Not here: what an entry is (keyword.rs).

pub mod bind;
pub mod global;
pub mod proxy;
pub mod ring;
pub mod sections;
pub mod server;

use crate::build::draft::{BindDraft, GlobalDraft, ProxyDraft, ServerDraft};
use crate::keyword::{self, Entry, Table};
use crate::model::Ring;
use crate::understand::belongs;

/// Keywords of `global`.
pub const GLOBAL: Table<GlobalDraft> = &[
    global::process::ENTRIES,
    global::limits::ENTRIES,
    global::log::ENTRIES,
    global::stats::ENTRIES,
    global::threads::ENTRIES,
    global::network::ENTRIES,
    global::tune::ENTRIES,
    global::tls::ENTRIES,
    global::http::ENTRIES,
    global::various::ENTRIES,
];

/// Keywords of `defaults`, `frontend`, `listen` and `backend`.
pub const PROXY: Table<ProxyDraft> = &[
    proxy::general::ENTRIES,
    proxy::listening::ENTRIES,
    proxy::timeout::ENTRIES,
    proxy::log::ENTRIES,
    proxy::option::ENTRIES,
    proxy::balance::ENTRIES,
    proxy::servers::ENTRIES,
    proxy::rules::ENTRIES,
    proxy::checks::ENTRIES,
    proxy::http::ENTRIES,
    proxy::past::ENTRIES,
];

/// Parameters of `bind` lines.
pub const BIND: Table<BindDraft> = &[
    bind::general::ENTRIES,
    bind::tcp::ENTRIES,
    bind::unix::ENTRIES,
    bind::tls::ENTRIES,
];

/// Parameters of `server`, `server-template` and `default-server` lines.
pub const SERVER: Table<ServerDraft> = &[
    server::general::ENTRIES,
    server::check::ENTRIES,
    server::connection::ENTRIES,
    server::name::ENTRIES,
    server::tls::ENTRIES,
    server::http::ENTRIES,
];

/// Keywords of `ring` sections.
pub const RING: Table<Ring> = &[ring::ENTRIES];

/// Where a word is a keyword, for one that stands in the wrong place.
pub fn elsewhere(word: &str) -> Option<String> {
    fn known<T>(table: Table<T>, word: &str) -> Option<&'static Entry<T>> {
        keyword::iter(table).find(|entry| entry.name.split(' ').next() == Some(word))
    }
    if known(GLOBAL, word).is_some() {
        Some("it belongs in `global`".to_owned())
    } else if let Some(entry) = known(PROXY, word) {
        Some(belongs(entry.sections))
    } else if known(BIND, word).is_some() {
        Some("it is a parameter of `bind` lines".to_owned())
    } else if known(SERVER, word).is_some() {
        Some("it is a parameter of `server` lines".to_owned())
    } else {
        None
    }
}
