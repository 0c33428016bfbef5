//! Rules: conditions, what they do with connections, and tables that remember.
//!
//! Decides:  that none is there yet but for `expect-proxy`, and that a file which has one is refused:
//!           it says where traffic goes. A condition that no rule uses says nothing.
//! Source:   HAProxy's manual, chapters 4.2, 7.1 and 11.1, newest version.
//! Not here: rules for HTTP (http.rs).

use crate::arguments::Args;
use crate::build::draft::ProxyDraft;
use crate::keyword::{Entry, entries};

const RULES: &str = "rules change where traffic goes; there are none yet";
const TABLES: &str = "stick tables change where traffic goes; there are none yet";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "acl" "<name> <expression> [<value>…]" DFLB inert("a rule that names it") "a condition by name" note("in HAProxy not in a `defaults` without a name");
    "use_backend" "<backend> [<condition>]" FL refused(RULES) "a backend by rule";
    "tcp-request connection" "expect-proxy layer4" DFL supported(connection) "every connection begins with a PROXY header, as with `accept-proxy`" note("other actions, and conditions, are refused as not supported yet. In HAProxy not in a `defaults` without a name");
    "tcp-request session" "<action> [<condition>]" DFL refused(RULES) "what to do after the handshakes";
    "tcp-request content" "<action> [<condition>]" DFLB refused(RULES) "what to do once data came";
    "tcp-request inspect-delay" "<time>" DFLB inert("`tcp-request content`") "how long to wait for data";
    "tcp-response content" "<action> [<condition>]" DLB refused(RULES) "what to do once the server answered";
    "tcp-response inspect-delay" "<time>" DLB inert("`tcp-response content`") "how long to wait for the answer";
    "stick-table" "type <type> size <size> [<parameter>…]" FLB refused(TABLES) "a table that remembers clients";
    "stick on" "<expression> [table <table>] [<condition>]" LB refused(TABLES) "stay with a server";
    "stick match" "<expression> [table <table>] [<condition>]" LB refused(TABLES) "a server from the table";
    "stick store-request" "<expression> [table <table>] [<condition>]" LB refused(TABLES) "remember the server";
    "stick store-response" "<expression> [table <table>] [<condition>]" LB refused(TABLES) "remember the server by its answer";
    "declare capture" "request|response len <length>" FL inert("`tcp-request content capture`") "a place for a captured value";
    "filter" "<name> [<parameter>…]" FLB refused("filters change the traffic; there are none yet") "a filter";
    "filter-sequence" "request|response <filter>,…" FLB inert("`filter`") "the order of filters";
};

/// `expect-proxy layer4` is a property of the frontend's addresses as long as it has no condition.
fn connection(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let action = args.word("an action")?;
    if action.text != "expect-proxy" {
        args.rest();
        let what = format!("`tcp-request connection {}`", action.text);
        return args.not_supported(action.place, &what, RULES);
    }
    args.choice("where the header is expected", &[("layer4", ())])?;
    if args.peek_is("if") || args.peek_is("unless") {
        let place = args.peek_place();
        args.rest();
        let why = "clients would have to send a header that do not, or the other way round";
        return args.not_supported(place, "a condition of `expect-proxy`", why);
    }
    proxy.expect_proxy = true;
    args.end()
}
