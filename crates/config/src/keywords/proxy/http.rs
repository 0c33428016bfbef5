//! Keywords for HTTP.
//!
//! Decides:  what becomes of each in a TCP proxy: what HAProxy does, observed by running it.
//! Source:   HAProxy's manual, chapter 4.2; runs of 3.5-dev5 with `-c`, 2026-11.
//! Not here: `option httplog` (option.rs), a `mode http` proxy, which is refused (build/).

use crate::build::draft::ProxyDraft;
use crate::keyword::{Entry, HttpOnly, Prefixes, entries};

const ACCEPTED: HttpOnly = HttpOnly::Accepted;
const IGNORED: HttpOnly = HttpOnly::Ignored;
const BOTH: Prefixes = Prefixes::NoAndDefault;

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "option accept-invalid-http-request" "" DFL http(ACCEPTED) "`option accept-unsafe-violations-in-http-request`, by its old name" prefixes(BOTH);
    "option accept-invalid-http-response" "" DLB http(ACCEPTED) "`option accept-unsafe-violations-in-http-response`, by its old name" prefixes(BOTH);
    "option accept-unsafe-violations-in-http-request" "" DFL http(ACCEPTED) "be lax with requests" prefixes(BOTH);
    "option accept-unsafe-violations-in-http-response" "" DLB http(ACCEPTED) "be lax with answers" prefixes(BOTH);
    "option checkcache" "" DLB http(IGNORED) "refuse answers that leak cookies" prefixes(BOTH);
    "option disable-h2-upgrade" "" DFL http(IGNORED) "no HTTP/2 by its preface" prefixes(BOTH);
    "option forwardfor" "[<parameter>…]" DFLB http(IGNORED) "X-Forwarded-For" prefixes(BOTH);
    "option forwarded" "[<parameter>…]" DLB http(IGNORED) "Forwarded" prefixes(BOTH);
    "option h1-case-adjust-bogus-client" "" DFL http(ACCEPTED) "header case for clients" prefixes(BOTH);
    "option h1-case-adjust-bogus-server" "" DLB http(ACCEPTED) "header case for servers" prefixes(BOTH);
    "option http-buffer-request" "" DFLB http(IGNORED) "wait for the body" prefixes(BOTH);
    "option http-drop-request-trailers" "" DLB http(IGNORED) "drop trailers of requests" prefixes(BOTH);
    "option http-drop-response-trailers" "" DFL http(IGNORED) "drop trailers of answers" prefixes(BOTH);
    "option http-ignore-probes" "" DFL http(IGNORED) "no line and no error for a probe" prefixes(BOTH);
    "option http-keep-alive" "" DFLB http(ACCEPTED) "keep connections" prefixes(BOTH);
    "option http-no-delay" "" DFLB http(IGNORED) "send at once" prefixes(BOTH);
    "option http-pretend-keepalive" "" DLB http(IGNORED) "pretend keepalive to servers" prefixes(BOTH);
    "option http-restrict-req-hdr-names" "<mode>" DFLB http(ACCEPTED) "which header names are let through";
    "option http-server-close" "" DFLB http(ACCEPTED) "close towards servers" prefixes(BOTH);
    "option http-use-proxy-header" "" DFL http(IGNORED) "Proxy-Connection" prefixes(BOTH);
    "option httpclose" "" DFLB http(ACCEPTED) "close both sides" prefixes(BOTH);
    "option idle-close-on-response" "" DFL http(IGNORED) "close idle connections late" prefixes(BOTH);
    "option originalto" "[<parameter>…]" DFLB http(IGNORED) "X-Original-To" prefixes(BOTH);
    "capture cookie" "<name> len <length>" FL http(IGNORED) "log a cookie";
    "capture request header" "<name> len <length>" FL http(ACCEPTED) "log a header of requests";
    "capture response header" "<name> len <length>" FL http(ACCEPTED) "log a header of answers";
    "compression" "<parameter>…" DFLB http(ACCEPTED) "compress answers";
    "cookie" "<name> [<parameter>…]" DLB http(IGNORED) "stay with a server by cookie";
    "dynamic-cookie-key" "<text>" DLB http(ACCEPTED) "the key of cookies";
    "errorfile" "<status> <file>" DFLB http(ACCEPTED) "an error page";
    "errorfiles" "<section> [<status>…]" DFLB http(ACCEPTED) "error pages of a section";
    "errorloc" "<status> <url>" DFLB http(ACCEPTED) "redirect instead of an error";
    "errorloc302" "<status> <url>" DFLB http(ACCEPTED) "redirect instead of an error";
    "errorloc303" "<status> <url>" DFLB http(ACCEPTED) "redirect instead of an error";
    "http-after-response" "<action> [<condition>]" DFLB http(IGNORED) "rules for every answer";
    "http-error" "<parameter>…" DFLB http(ACCEPTED) "an error page";
    "http-request" "<action> [<condition>]" DFLB http(IGNORED) "rules for requests";
    "http-response" "<action> [<condition>]" DFLB http(IGNORED) "rules for answers";
    "http-reuse" "never|safe|aggressive|always" DLB http(ACCEPTED) "share server connections";
    "http-send-name-header" "[<name>]" DLB http(ACCEPTED) "tell the server its name";
    "max-keep-alive-queue" "<number>" DLB http(ACCEPTED) "when to leave a server";
    "monitor fail" "<condition>" FL http(ACCEPTED) "when `monitor-uri` fails";
    "monitor-uri" "<uri>" DFL http(IGNORED) "a page that says we live";
    "redirect" "<parameter>…" FLB http(IGNORED) "redirect requests";
    "stats admin" "<condition>" FLB http(IGNORED) "the statistics page may change things";
    "stats auth" "<user>:<password>" DFLB http(IGNORED) "a user of the statistics page";
    "stats enable" "" DFLB http(IGNORED) "the statistics page";
    "stats hide-version" "" DFLB http(IGNORED) "no version on the statistics page";
    "stats http-request" "<action> [<condition>]" FLB http(IGNORED) "rules for the statistics page";
    "stats realm" "<text>" DFLB http(IGNORED) "the statistics page's realm";
    "stats refresh" "<time>" DFLB http(IGNORED) "reload the statistics page";
    "stats scope" "<proxy>" DFLB http(IGNORED) "what the statistics page shows";
    "stats show-desc" "[<text>]" DFLB http(IGNORED) "a text on the statistics page";
    "stats show-legends" "" DFLB http(IGNORED) "more on the statistics page";
    "stats show-modules" "" DFLB http(IGNORED) "more on the statistics page";
    "stats show-node" "[<name>]" DFLB http(IGNORED) "the node on the statistics page";
    "stats show-version" "" DFLB http(IGNORED) "the version on the statistics page";
    "stats uri" "<uri>" DFLB http(IGNORED) "where the statistics page is";
    "unique-id-header" "<name>" DFL http(ACCEPTED) "a header with the unique name";
    "use-fcgi-app" "<name>" LB http(ACCEPTED) "a FastCGI application";
};
