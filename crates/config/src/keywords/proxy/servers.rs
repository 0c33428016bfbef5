//! `server`, `server-template`, `default-server`, and keepalive towards servers.
//!
//! Decides:  the words before a server's parameters; that `default-server` adds up, and that a
//!           server takes what was said before its line.
//! Source:   HAProxy's manual, chapter 4.2; src/server.c, _srv_parse_init() and
//!           _srv_parse_tmpl_range(), 3.5-dev5.
//! Not here: the parameters (server/), whether a check has a port (build/).

use std::net::{IpAddr, SocketAddr};

use crate::arguments::Args;
use crate::build::draft::{ProxyDraft, ServerLine};
use crate::keyword::{self, DEFAULT_SERVER, Entry, S, entries};
use crate::keywords;
use crate::keywords::proxy::listening::KEEPALIVE_COUNT;
use crate::source::{At, Place};
use crate::syntax::Word;

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "server" "<name> <address>[:<port>] [<parameter>…]" LB supported(server) "a server";
    "server-template" "<prefix> <number>|<low>-<high> <name>[:<port>] [<parameter>…]" LB supported(server_template) "several servers of one address" note("without `resolvers` all of them get the address that the name has at start");
    "default-server" "<parameter>…" DLB supported(default_server) "parameters of the servers after it";
    "srvtcpka-cnt" "<number>" DLB supported(keepalive_count) "TCP_KEEPCNT of servers; needs `option srvtcpka`" default("the system's");
    "srvtcpka-idle" "<time>" DLB supported(keepalive_idle) "TCP_KEEPIDLE of servers; needs `option srvtcpka`" default("the system's");
    "srvtcpka-intvl" "<time>" DLB supported(keepalive_interval) "TCP_KEEPINTVL of servers; needs `option srvtcpka`" default("the system's");
    "load-server-state-from-file" "global|local|none" DLB refused("it changes which servers get traffic") "states of servers to start from" default("none") off("none");
    "server-state-file-name" "[use-backend-name|<file>]" DLB inert("`load-server-state-from-file`") "the backend's state file";
};

const ON_A_SERVER_LINE: &str = "on a `server` line";

fn server(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let name = args.word("a name and an address")?;
    name_is_missing(name, args)?;
    let valid = args.valid_name(name, "a server's name", ".:_-");
    let address = args.server_address();
    let mut settings = proxy.default_server.clone();
    let read = args.parameters(&mut settings, keywords::SERVER, S, ON_A_SERVER_LINE);
    valid?;
    args.servers(1, name.place)?;
    proxy.servers.push(ServerLine {
        name: name.text.clone(),
        place: args.place(),
        name_place: name.place,
        address: address?,
        settings,
    });
    // It is a server all the same: no further findings for want of it.
    read
}

/// `server 10.0.0.1:80 check` would be a server of that name at the host `check`.
fn name_is_missing(name: &Word, args: &mut Args<'_>) -> Option<()> {
    let text = &name.text;
    if text.parse::<SocketAddr>().is_err() && text.parse::<IpAddr>().is_err() {
        return Some(());
    }
    if !keyword::iter(keywords::SERVER).any(|entry| args.peek_is(entry.name)) {
        return Some(());
    }
    args.rest();
    let label = format!("expected `server NAME {text} …`");
    args.bad_at(
        name.place,
        "`server` needs a name before the address",
        &label,
    )
}

/// The most servers of one template. HAProxy has no limit, but for round robin's 4095 a backend.
const MOST_TEMPLATE_SERVERS: u32 = 10_000;

fn server_template(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let prefix = args.word("a prefix, a number and an address")?;
    let valid = args.valid_name(prefix, "a server's name", ".:_-");
    let count = args.word("a number of servers, or a range")?;
    let range = template_range(count, args);
    let address = args.server_address();
    let mut settings = proxy.default_server.clone();
    let read = args.parameters(
        &mut settings,
        keywords::SERVER,
        S,
        "on a `server-template` line",
    );
    valid?;
    let (low, high) = range?;
    let address = address?;
    args.servers((high - low) as usize + 1, count.place)?;
    for number in low..=high {
        proxy.servers.push(ServerLine {
            name: format!("{}{number}", prefix.text),
            place: args.place(),
            name_place: prefix.place,
            address: address.clone(),
            settings: settings.clone(),
        });
    }
    read
}

fn template_range(count: &Word, args: &mut Args<'_>) -> Option<(u32, u32)> {
    let text = &count.text;
    let range = match text.split_once('-') {
        Some((low, high)) => low.parse().ok().zip(high.parse().ok()),
        None => text.parse().ok().map(|high| (1, high)),
    };
    match range {
        Some((low, high)) if low <= high && high - low < MOST_TEMPLATE_SERVERS => Some((low, high)),
        _ => args.bad_at(
            count.place,
            &format!("`{text}` is no valid number of servers"),
            "expected a number, or a range like `1-5`, of at most 10000 servers",
        ),
    }
}

fn default_server(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    if !args.more() {
        return args.missing("a server's parameter");
    }
    if args.peek_is("name") {
        let place: Place = args.peek_place();
        return args.not_supported(
            place,
            "a named `default-server`",
            "give the parameters without a name",
        );
    }
    let mut settings = proxy.default_server.clone();
    let read = args.parameters(
        &mut settings,
        keywords::SERVER,
        DEFAULT_SERVER,
        "on a `default-server` line",
    );
    proxy.default_server = settings;
    read
}

fn keepalive_count(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let At { value, .. } = args.integer(KEEPALIVE_COUNT)?;
    proxy.server_keepalive.count = Some(value as u32);
    args.end()
}

fn keepalive_idle(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.server_keepalive.idle = Some(args.keepalive_time()?);
    args.end()
}

fn keepalive_interval(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.server_keepalive.interval = Some(args.keepalive_time()?);
    args.end()
}
