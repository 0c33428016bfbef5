//! Choosing a server.
//!
//! Decides:  which algorithms are served, and that another is refused by name.
//! Source:   HAProxy's manual, chapter 4.2 `balance`; src/backend.c, backend_parse_balance(), 3.5-dev5.
//! Not here: the algorithms (the balance crate).

use crate::arguments::Args;
use crate::build::draft::ProxyDraft;
use crate::diagnostic::Diagnostic;
use crate::keyword::{Entry, entries};
use crate::keywords::server::source::source as read_source;
use crate::model::{Balance, HashAffinity, HashFunction, HashMethod, HashType};
use crate::source::{At, Place};

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "balance" "roundrobin|static-rr|leastconn|first|source|hash src[,ipmask(<bits>[,<bits>])]|random[(<draws>)]" DLB supported(balance) "how a server is chosen" default("`random(2)`") note("HAProxy before 3.3: `roundrobin`. `hash` of anything else than the client's address, `rdp-cookie` and `sticky` are refused as not supported yet");
    "hash-type" "map-based|consistent [sdbm|djb2|wt6|crc32|none] [avalanche]" DLB supported(hash_type) "how hashes find servers" default("`map-based sdbm`; `consistent` alone is `consistent sdbm avalanche`");
    "hash-balance-factor" "<percent>" DLB supported(hash_balance_factor) "how much more than its share a server of a consistent hash may have, from 101; 0: any" default("0");
    "hash-preserve-affinity" "always|maxconn|maxqueue" DLB supported(hash_affinity) "when a consistent hash takes the next server: never, at its `maxconn`, with its queue full" default("`always`");
    "fullconn" "<number>" DLB supported(fullconn) "the load at which servers with a `minconn` get all their `maxconn`" default("a tenth of the `maxconn` of the frontends that lead here");
    "retries" "<number>" DLB supported(retries) "attempts to connect after the first" default("3");
    "retry-on" "<condition>…" DLB inert("HTTP") "what counts as failed";
    "use-server" "<server> <condition>" LB refused("it changes which server is chosen") "a server by rule";
    "persist rdp-cookie" "[(<name>)]" DLB refused("it changes which server is chosen") "stay with a server by RDP cookie";
    "force-persist" "<condition>" LB inert("persistence") "use a server that is down";
    "ignore-persist" "<condition>" LB inert("persistence") "forget persistence";
    "source" "<address>[:<port>[-<port>]] [usesrc client|clientip|<address>[:<port>]] [interface <name>]" DLB supported(source) "our own address towards servers, and its device; `usesrc`: another host's (IP_TRANSPARENT)" default("the system's") note("`usesrc hdr_ip()` needs `mode http`, and is refused");
};

/// Algorithms of the language that are not here yet.
const LATER: [&str; 2] = ["rdp-cookie", "sticky"];
/// Algorithms for HTTP, in whose place HAProxy takes round robin in a TCP proxy.
const HTTP: [&str; 5] = ["uri", "url_param", "hdr", "log-hash", "log-sticky"];
const SERVED: [&str; 7] = [
    "roundrobin",
    "static-rr",
    "leastconn",
    "first",
    "source",
    "hash",
    "random",
];

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
        "first" if draws.is_none() => Balance::First,
        "source" if draws.is_none() => Balance::Source,
        "hash" if draws.is_none() => hash_source(args)?,
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

/// The expression of `balance hash`: `src`, or `src,ipmask(24)`, or `src,ipmask(24,64)`.
fn hash_source(args: &mut Args<'_>) -> Option<Balance> {
    let word = args.word("what is hashed, like `src`")?;
    let everything = Balance::HashSource { v4: 32, v6: 128 };
    let (fetch, converter) = match word.text.split_once(',') {
        None => (word.text.as_str(), None),
        Some((fetch, rest)) => (fetch, Some(rest)),
    };
    let masks = converter.map(|rest| rest.strip_prefix("ipmask(")?.strip_suffix(')'));
    match (fetch, masks) {
        ("src", None) => Some(everything),
        ("src", Some(Some(masks))) => match masks_of(masks) {
            Some((v4, v6)) => Some(Balance::HashSource { v4, v6 }),
            None => args.bad_at(
                word.place,
                &format!("`{masks}` are no masks"),
                "expected `ipmask(BITS)` or `ipmask(BITS,BITS)`, of an IPv4 and an IPv6 address",
            ),
        },
        _ => args.not_supported(
            word.place,
            &format!("`balance hash {}`", word.text),
            "use `src`, or `src,ipmask(BITS)`",
        ),
    }
}

/// Of an IPv4 address up to 32 bits, or a mask; of an IPv6 address up to 128.
fn masks_of(text: &str) -> Option<(u8, u8)> {
    let (v4, v6) = text.split_once(',').unwrap_or((text, "128"));
    let v4 = match v4.parse::<std::net::Ipv4Addr>() {
        Ok(mask) if mask.to_bits().count_zeros() == mask.to_bits().trailing_zeros() => {
            mask.to_bits().count_ones() as u8
        }
        Ok(_) => return None,
        Err(_) => v4.parse().ok()?,
    };
    let v6: u8 = v6.parse().ok()?;
    (v4 <= 32 && v6 <= 128).then_some((v4, v6))
}

fn hash_type(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    const METHODS: [(&str, HashMethod); 2] = [
        ("map-based", HashMethod::Map),
        ("consistent", HashMethod::Consistent),
    ];
    const FUNCTIONS: [(&str, HashFunction); 5] = [
        ("sdbm", HashFunction::Sdbm),
        ("djb2", HashFunction::Djb2),
        ("wt6", HashFunction::Wt6),
        ("crc32", HashFunction::Crc32),
        ("none", HashFunction::None),
    ];
    let method = args.choice("a hash method", &METHODS)?.value;
    let (function, avalanche) = match args.more() {
        false => (HashFunction::Sdbm, method == HashMethod::Consistent),
        true => {
            let function = args.choice("a hash function", &FUNCTIONS)?.value;
            (function, args.take("avalanche"))
        }
    };
    proxy.hash_type = HashType {
        method,
        function,
        avalanche,
        ..proxy.hash_type
    };
    args.end()
}

fn hash_balance_factor(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    if (1..=100).contains(&number.value) {
        return factor_too_small(args, number.place);
    }
    proxy.hash_type.balance_factor = number.value as u32;
    args.end()
}

fn factor_too_small(args: &mut Args<'_>, place: Place) -> Option<()> {
    let message = "a server cannot be held to less than its share";
    args.bad_at(place, message, "expected 101 or more, or 0 for no bound")
}

fn hash_affinity(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    const CHOICES: [(&str, HashAffinity); 3] = [
        ("always", HashAffinity::Always),
        ("maxconn", HashAffinity::MaxConn),
        ("maxqueue", HashAffinity::MaxQueue),
    ];
    proxy.hash_type.affinity = args.choice("when to leave a server", &CHOICES)?.value;
    args.end()
}

fn fullconn(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    proxy.fullconn = Some(number.value as u32);
    args.end()
}

fn source(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.source = Some(read_source(args)?);
    args.end()
}

fn retries(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    proxy.retries = Some(number.value as u32);
    args.end()
}
