//! How a server's name becomes an address.
//!
//! Decides:  `init-addr`; that resolution at run time is refused.
//! Source:   HAProxy's manual, chapters 5.2 and 5.3; src/server.c, srv_parse_init_addr(), 3.5-dev5.
//! Not here: resolving (the control plane).

use crate::arguments::Args;
use crate::build::draft::ServerDraft;
use crate::keyword::{Entry, entries};
use crate::model::InitAddr;

const RESOLVERS: &str = "`resolvers`";

/// The family's entries.
pub const ENTRIES: &[Entry<ServerDraft>] = entries! {
    "init-addr" "<way>,…" SD supported(init_addr) "how the address is found at start" default("`last,libc`");
    "resolvers" "<name>" SD refused("the address would not follow the name") "resolve the name again and again";
    "resolve-prefer" "ipv4|ipv6" SD inert(RESOLVERS) "which family is preferred";
    "resolve-net" "<network>,…" SD inert(RESOLVERS) "which network is preferred";
    "resolve-opts" "<option>,…" SD inert(RESOLVERS) "options of resolution";
};

fn init_addr(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    const WAYS: [(&str, InitAddr); 3] = [
        ("last", InitAddr::Last),
        ("libc", InitAddr::Libc),
        ("none", InitAddr::None),
    ];
    let list = args.word("ways, like `last,libc,none`")?;
    let mut steps: Vec<InitAddr> = Vec::new();
    for (part, place) in args.comma_parts(list) {
        let step = match part.parse() {
            Ok(address) => InitAddr::Address(address),
            Err(_) => args.one_of(part, place, "a way to find an address", &WAYS)?,
        };
        let again = steps.iter().any(|old| match (old, &step) {
            (InitAddr::Address(_), InitAddr::Address(_)) => true,
            (old, new) => old == new,
        });
        if again {
            let message = format!("`{part}` comes a second time");
            return args.bad_at(place, &message, "each way may stand once, and one address");
        }
        steps.push(step);
    }
    server.init_addr = steps;
    Some(())
}
