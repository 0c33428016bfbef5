//! Keywords that left the language.
//!
//! Decides:  the hint for each.
//! Source:   HAProxy's src/cfgparse-listen.c and src/proxy.c, 3.5-dev5; its release notes.
//! Not here: keywords that work.

use crate::build::draft::ProxyDraft;
use crate::keyword::{Entry, entries};

const RSP: &str = "left HAProxy in 2.1; rules for HTTP replaced it";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "appsession" "<…>" DFLB removed("left HAProxy in 1.6; stick tables replaced it") "stay with a server by cookie";
    "bind-process" "<…>" DFLB removed("left HAProxy in 2.7; use the `bind` parameter `thread`") "which processes serve a proxy";
    "block" "<…>" DFLB removed(RSP) "refuse requests";
    "clitimeout" "<time>" DFLB removed("left HAProxy in 2.1: use `timeout client`") "`timeout client`";
    "contimeout" "<time>" DFLB removed("left HAProxy in 2.1: use `timeout connect`") "`timeout connect`";
    "srvtimeout" "<time>" DFLB removed("left HAProxy in 2.1: use `timeout server`") "`timeout server`";
    "dispatch" "<address>" DFLB removed("left HAProxy in 3.5: use `server NAME ADDRESS`") "one server without a name";
    "grace" "<time>" DFLB removed("left HAProxy's proxies in 2.5: use `grace` in `global`") "wait at a soft stop";
    "monitor-net" "<network>" DFLB removed("left HAProxy in 2.5: use `tcp-request connection`") "answer probes";
    "redisp" "" DFLB removed("left HAProxy in 2.1: use `option redispatch`") "`option redispatch`";
    "redispatch" "" DFLB removed("left HAProxy in 2.1: use `option redispatch`") "`option redispatch`";
    "transparent" "" DFLB removed("left HAProxy in 3.5: use `server NAME 0.0.0.0`") "connect to where the client meant to go";
    "option forceclose" "" DFLB removed("left HAProxy in 2.0: use `option httpclose`") "close both sides";
    "option http-tunnel" "" DFLB removed("left HAProxy in 2.1") "tunnel after a request";
    "option http_proxy" "" DFLB removed("left HAProxy in 2.5") "be an HTTP proxy";
    "option http-use-htx" "" DFLB removed("left HAProxy in 2.1; it is always so") "parse HTTP anew";
    "option tcpsplice" "" DFLB removed("left HAProxy in 1.4: use `option splice-auto`") "splice by a patched kernel";
    "reqadd" "<…>" DFLB removed(RSP) "change requests";
    "reqallow" "<…>" DFLB removed(RSP) "change requests";
    "reqdel" "<…>" DFLB removed(RSP) "change requests";
    "reqdeny" "<…>" DFLB removed(RSP) "change requests";
    "reqiallow" "<…>" DFLB removed(RSP) "change requests";
    "reqidel" "<…>" DFLB removed(RSP) "change requests";
    "reqideny" "<…>" DFLB removed(RSP) "change requests";
    "reqipass" "<…>" DFLB removed(RSP) "change requests";
    "reqirep" "<…>" DFLB removed(RSP) "change requests";
    "reqitarpit" "<…>" DFLB removed(RSP) "change requests";
    "reqpass" "<…>" DFLB removed(RSP) "change requests";
    "reqrep" "<…>" DFLB removed(RSP) "change requests";
    "reqtarpit" "<…>" DFLB removed(RSP) "change requests";
    "rspadd" "<…>" DFLB removed(RSP) "change answers";
    "rspdel" "<…>" DFLB removed(RSP) "change answers";
    "rspdeny" "<…>" DFLB removed(RSP) "change answers";
    "rspidel" "<…>" DFLB removed(RSP) "change answers";
    "rspideny" "<…>" DFLB removed(RSP) "change answers";
    "rspirep" "<…>" DFLB removed(RSP) "change answers";
    "rsprep" "<…>" DFLB removed(RSP) "change answers";
};
