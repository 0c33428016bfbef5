//! `timeout …`
//!
//! Decides:  which timeouts there are and what each bounds.
//! Source:   HAProxy's manual, chapter 4.2 `timeout …`; src/proxy.c, proxy_parse_timeout(), 3.5-dev5.
//! Not here: the notation of times (units.rs), the warning for a missing one (build/).

use std::time::Duration;

use crate::arguments::Args;
use crate::build::draft::ProxyDraft;
use crate::diagnostic::Diagnostic;
use crate::keyword::{Entry, HttpOnly, entries};
use crate::source::At;

const NONE: &str = "none, with a warning";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "timeout client" "<time>" DFL supported(client) "how long a client may be silent" default(NONE);
    "timeout client-fin" "<time>" DFL supported(client_fin) "the same once one side has closed" default("`timeout client`");
    "timeout connect" "<time>" DLB supported(connect) "how long one attempt to connect to a server may take" default(NONE);
    "timeout server" "<time>" DLB supported(server) "how long a server may be silent" default(NONE);
    "timeout server-fin" "<time>" DLB supported(server_fin) "the same once one side has closed" default("`timeout server`");
    "timeout tunnel" "<time>" DLB supported(tunnel) "how long either side may be silent once a server is connected" default("`timeout client` and `timeout server`");
    "timeout check" "<time>" DLB supported(check) "how long a check may take once connected" default("`inter`");
    "timeout queue" "<time>" DLB supported(queue) "how long a connection may wait for a server" default("`timeout connect`");
    "timeout client-hs" "<time>" DFL supported(client_hs) "how long the PROXY header of a client may take" default("`timeout client`");
    "timeout lifetime" "<time>" DFL supported(lifetime) "how long a session may last in all, whatever it does" default("for ever") note("ours");
    "timeout drain-age" "<time>" DFL supported(drain_age) "how old a session may become once no new ones are taken (USR1)" default("for ever") note("ours");
    "timeout http-keep-alive" "<time>" DFLB http(HttpOnly::Accepted) "how long to wait for the next request";
    "timeout http-request" "<time>" DFLB http(HttpOnly::Accepted) "how long to wait for a whole request";
    "timeout tarpit" "<time>" DFLB http(HttpOnly::Accepted) "how long to hold a refused request";
};

fn client(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.client, args)
}

fn client_fin(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.client_fin, args)
}

fn connect(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.connect, args)
}

fn server(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.server, args)
}

fn server_fin(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.server_fin, args)
}

fn tunnel(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.tunnel, args)
}

fn check(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.check, args)
}

fn client_hs(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.client_hs, args)
}

fn drain_age(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.drain_age, args)
}

fn lifetime(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.lifetime, args)
}

fn queue(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    set(&mut proxy.timeouts.queue, args)
}

fn set(timeout: &mut Option<At<Duration>>, args: &mut Args<'_>) -> Option<()> {
    let time = args.time()?;
    warn_if_a_unit_is_missing(&time, args);
    *timeout = Some(time);
    args.end()
}

/// HAProxy warns of a number below 100 without a unit: `timeout client 30` is 30 milliseconds.
fn warn_if_a_unit_is_missing(time: &At<Duration>, args: &mut Args<'_>) {
    const SUSPICIOUS_MS: u128 = 100;
    let written = args.last_text();
    let ms = time.value.as_millis();
    if ms > 0 && ms < SUSPICIOUS_MS && written.bytes().all(|b| b.is_ascii_digit()) {
        let name = args.name();
        let unit = if ms == 1 {
            "millisecond"
        } else {
            "milliseconds"
        };
        args.push(
            Diagnostic::warning(
                "suspicious-time",
                time.place,
                format!("`{name} {ms}` is {ms} {unit}"),
            )
            .label(format!(
                "write `{ms}ms` if it is meant, `{ms}s` for seconds"
            )),
        );
    }
}
