//! The front half: addresses, limits, keepalive, and where connections go.
//!
//! Decides:  the arguments of these keywords.
//! Source:   HAProxy's manual, chapter 4.2; src/cfgparse-listen.c, 3.5-dev5.
//! Not here: the parameters of a `bind` line (bind/), whether the backend exists (build/).

use crate::arguments::Args;
use crate::build::draft::{BindDraft, ProxyDraft};
use crate::keyword::{BIND, Entry, entries};
use crate::keywords;
use crate::model::Bind;
use crate::source::At;

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "bind" "<address>[,…] [<parameter>…]" FL supported(bind) "addresses to accept connections on";
    "default_backend" "<backend>" DFL supported(default_backend) "where connections go" default("none; a `listen` section's own servers");
    "maxconn" "<number>" DFL supported(maxconn) "connections at once; the others wait in the kernel's queue" default("no limit of its own");
    "backlog" "<number>" DFL supported(backlog) "the length of the accept queue" default("`maxconn` of the line, then of the proxy, then 1024");
    "clitcpka-cnt" "<number>" DFL supported(keepalive_count) "TCP_KEEPCNT of clients; needs `option clitcpka`" default("the system's");
    "clitcpka-idle" "<time>" DFL supported(keepalive_idle) "TCP_KEEPIDLE of clients; needs `option clitcpka`" default("the system's");
    "clitcpka-intvl" "<time>" DFL supported(keepalive_interval) "TCP_KEEPINTVL of clients; needs `option clitcpka`" default("the system's");
    "rate-limit sessions" "<number>" DFL supported(session_rate) "sessions accepted a second; the others wait in the kernel's queue" default("no limit");
    "max-session-srv-conns" "<number>" DFL inert("HTTP") "idle server connections a client may hold";
    "crt" "<file> [<parameter>…]" FL inert("`ssl`") "a certificate";
    "ssl-f-use" "<parameter>…" FL inert("`ssl`") "a certificate of the section's own";
    "quic-initial" "<action> [<condition>]" DFL inert("QUIC") "what to do with a QUIC client's first packet";
};

fn bind(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let place = args.place();
    let addresses = args.bind_addresses();
    let mut draft = BindDraft::new(args.unix_defaults());
    // A wrong address does not hide what is wrong with the parameters.
    let read = args.parameters(&mut draft, keywords::BIND, BIND, "on a `bind` line");
    let options = draft.finish(args);
    proxy.binds.push(Bind {
        place,
        addresses: addresses?,
        options,
    });
    read
}

fn default_backend(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let name = args.word("a backend's name")?;
    proxy.default_backend = Some(At::new(name.text.clone(), name.place));
    args.end()
}

fn maxconn(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    proxy.maxconn = Some(At::new(number.value as u32, number.place));
    args.end()
}

fn backlog(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    proxy.backlog = Some(At::new(number.value as u32, number.place));
    args.end()
}

fn session_rate(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer_of("number of sessions", 0..=i64::from(i32::MAX))?;
    proxy.session_rate = Some(number.value as u32);
    args.end()
}

/// Linux: MAX_TCP_KEEPCNT.
pub(crate) const KEEPALIVE_COUNT: std::ops::RangeInclusive<i64> = 1..=127;

fn keepalive_count(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.client_keepalive.count = Some(args.integer(KEEPALIVE_COUNT)?.value as u32);
    args.end()
}

fn keepalive_idle(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.client_keepalive.idle = Some(args.keepalive_time()?);
    args.end()
}

fn keepalive_interval(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.client_keepalive.interval = Some(args.keepalive_time()?);
    args.end()
}
