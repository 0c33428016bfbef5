//! What is left of `global`: checks of the whole process, variables, the cluster.
//!
//! Decides:  `spread-checks`; the rest loads.
//! Source:   HAProxy's manual, chapter 3; src/cfgparse-global.c, 3.5-dev5.
//! Not here: checks of a server (server/check.rs).

use crate::arguments::Args;
use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, entries};

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "spread-checks" "<percent>" G supported(spread_checks) "how far a check may be moved in time, 0 to 50" default("0");
    "max-spread-checks" "<time>" G warned("the first checks are not spread this way") "the time between the first and the last check";
    "external-check" "[preserve-env]" G inert("`option external-check`") "allow checks by programs";
    "cluster-secret" "<text>" G inert("QUIC and `hash`") "a secret of the cluster";
    "set-var" "<name> <expression>" G inert("rules") "set a variable of the process";
    "set-var-fmt" "<name> <format>" G inert("rules") "set a variable of the process by a format";
};

fn spread_checks(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let percent = args.integer(0..=50)?;
    args.end()?;
    args.first_only(&mut global.seen, "spread-checks")?;
    global.config.spread_checks = percent.value as u8;
    Some(())
}
