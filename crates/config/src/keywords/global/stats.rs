//! The runtime sockets.
//!
//! Decides:  the arguments of these keywords; a second `stats timeout` or `stats maxconn` takes the
//!           place of the first, as in HAProxy.
//! Source:   HAProxy's manual, chapter 3.1; src/cli.c, cli_parse_global(), 3.5-dev5.
//! Not here: the parameters of the line (bind/), `unix-bind`, which HAProxy applies to `bind` lines
//!           only.

use crate::arguments::Args;
use crate::build::draft::{BindDraft, GlobalDraft};
use crate::keyword::{BIND, Entry, entries};
use crate::keywords;
use crate::model::{Bind, StatsSocket};

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "stats socket" "<address>[,…] [<parameter>…]" G supported(socket) "a runtime socket: commands, one a line" default("none") note("the parameters are those of `bind` lines, `level` and `expose-fd listeners` among them");
    "stats timeout" "<time>" G supported(timeout) "how long a client of a runtime socket may be silent" default("10s");
    "stats maxconn" "<number>" G supported(maxconn) "clients of the runtime sockets at once" default("10");
    "stats bind-process" "<processes>" G removed("left HAProxy in 2.5") "which processes serve the runtime socket";
};

fn socket(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let place = args.place();
    let addresses = args.bind_addresses();
    let mut draft = BindDraft::new(args.unix_defaults());
    let on = "on a `stats socket` line";
    let read = args.parameters(&mut draft, keywords::BIND, BIND, on);
    let options = draft.stats;
    let bind = Bind {
        place,
        addresses: addresses?,
        options: draft.finish(args),
    };
    global
        .config
        .stats
        .sockets
        .push(StatsSocket { bind, options });
    read
}

fn timeout(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.stats.timeout = Some(args.positive_time()?);
    args.end()
}

fn maxconn(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(1..=i64::from(i32::MAX))?;
    global.config.stats.maxconn = Some(number.value as u32);
    args.end()
}
