//! Choosing a server.
//!
//! Decides:  which algorithms are served, and that another is refused by name.
//! Source:   HAProxy's manual, chapter 4.2 `balance`; src/backend.c, backend_parse_balance(), 3.5-dev5.
//! Not here: the algorithms (the balance crate).

use crate::arguments::Args;
use crate::build::draft::ProxyDraft;
use crate::diagnostic::Diagnostic;
use crate::keyword::{Entry, entries};
use crate::model::Balance;
use crate::source::At;

const HASH: &str = "`balance hash`";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "balance" "roundrobin|static-rr|leastconn|random[(<draws>)]" DLB supported(balance) "how a server is chosen" default("`random(2)`") note("HAProxy before 3.3: `roundrobin`. `source`, `hash`, `first`, `rdp-cookie` and `sticky` are refused as not supported yet");
    "hash-type" "<method> <function> [<modifier>]" DLB refused("it changes which server is chosen") "how hashes find servers";
    "hash-balance-factor" "<percent>" DLB inert(HASH) "how unequal servers may get";
    "hash-preserve-affinity" "always|maxconn|maxqueue" DLB inert(HASH) "when to leave the server of a hash";
    "fullconn" "<number>" DLB inert("the server parameter `minconn`") "the load at which servers get all their `maxconn`";
    "retries" "<number>" DLB supported(retries) "attempts to connect after the first" default("3");
    "retry-on" "<condition>…" DLB inert("HTTP") "what counts as failed";
    "use-server" "<server> <condition>" LB refused("it changes which server is chosen") "a server by rule";
    "persist rdp-cookie" "[(<name>)]" DLB refused("it changes which server is chosen") "stay with a server by RDP cookie";
    "force-persist" "<condition>" LB inert("persistence") "use a server that is down";
    "ignore-persist" "<condition>" LB inert("persistence") "forget persistence";
    "source" "<address> [usesrc <address>] [interface <name>]" DLB refused("it changes the address that servers see") "our own address towards servers";
};

/// Algorithms of the language that are not here yet.
const LATER: [&str; 5] = ["source", "first", "hash", "rdp-cookie", "sticky"];
/// Algorithms for HTTP, in whose place HAProxy takes round robin in a TCP proxy.
const HTTP: [&str; 5] = ["uri", "url_param", "hdr", "log-hash", "log-sticky"];
const SERVED: [&str; 4] = ["roundrobin", "static-rr", "leastconn", "random"];

/// HAProxy's limit: src/backend.c, backend_parse_balance().
const MOST_DRAWS: u32 = i32::MAX as u32;

fn balance(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let word = args.word("an algorithm")?;
    let (name, draws) = match word.text.split_once('(') {
        Some((name, rest)) => (name, Some(rest)),
        None => (word.text.as_str(), None),
    };
    let algorithm = match name {
        "roundrobin" if draws.is_none() => Balance::RoundRobin,
        "static-rr" if draws.is_none() => Balance::StaticRoundRobin,
        "leastconn" if draws.is_none() => Balance::LeastConn,
        "random" => Balance::Random {
            draws: match draws {
                None => 2,
                Some(text) => match text.strip_suffix(')').and_then(|n| n.parse().ok()) {
                    Some(draws @ 1..=MOST_DRAWS) => draws,
                    _ => {
                        let place = word.place_of("random".len()..word.text.len());
                        return args.bad_at(
                            place,
                            &format!("`{}` is no valid number of draws", word.text),
                            "expected `random(N)` with N of 1 or more",
                        );
                    }
                },
            },
        },
        _ if LATER.contains(&name) => {
            let what = format!("`balance {name}`");
            return args.not_supported(
                word.place,
                &what,
                "use roundrobin, static-rr, leastconn or random",
            );
        }
        _ if HTTP.contains(&name) => {
            args.rest();
            args.push_http(
                Diagnostic::warning(
                    "http-only",
                    word.place,
                    format!("`balance {name}` needs `mode http`"),
                )
                .label("a TCP proxy takes `roundrobin` in its place"),
            );
            proxy.balance = Some(At::new(Balance::RoundRobin, word.place));
            return Some(());
        }
        _ => return args.unknown_choice(word, "an algorithm", &SERVED),
    };
    proxy.balance = Some(At::new(algorithm, word.place));
    // The manual allows arguments only where an algorithm takes them.
    args.end()
}

fn retries(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    proxy.retries = Some(number.value as u32);
    args.end()
}
