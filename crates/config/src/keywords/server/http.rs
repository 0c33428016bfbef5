//! Parameters for HTTP.
//!
//! Decides:  what becomes of each on a server of a TCP proxy: what HAProxy does.
//! Source:   HAProxy's manual, chapter 5.2; runs of 3.5-dev5 with `-c`, 2026-11.
//! Not here: HTTP keywords of proxies (proxy/http.rs).

use crate::build::draft::ServerDraft;
use crate::keyword::{Entry, HttpOnly, entries};

const ACCEPTED: HttpOnly = HttpOnly::Accepted;

/// The family's entries.
pub const ENTRIES: &[Entry<ServerDraft>] = entries! {
    "cookie" "<value>" SD http(HttpOnly::Ignored) "the server's cookie";
    "redir" "<prefix>" SD http(HttpOnly::Refused) "send clients there";
    "idle-ping" "<time>" SD http(ACCEPTED) "probe idle connections";
    "max-reuse" "<number>" SD http(ACCEPTED) "requests on one connection";
    "pool-conn-name" "<expression>" SD http(ACCEPTED) "names of idle connections";
    "pool-low-conn" "<number>" SD http(ACCEPTED) "idle connections shared";
    "pool-max-conn" "<number>" SD http(ACCEPTED) "idle connections kept";
    "pool-purge-delay" "<time>" SD http(ACCEPTED) "how long they are kept";
    "ws" "auto|h1|h2" SD http(ACCEPTED) "websockets";
};
