//! Limits of the whole process.
//!
//! Decides:  which limits are kept, and that one that cannot be kept yet is refused: it protects.
//! Source:   HAProxy's manual, chapter 3.2; src/cfgparse-global.c, 3.5-dev5.
//! Not here: the limit that follows from the descriptor limit (the control plane).

use crate::arguments::Args;
use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, Prefixes, entries};

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "maxconn" "<number>" G supported(maxconn) "connections of the process" default("from the descriptor limit");
    "ulimit-n" "<number>" G supported(ulimit_n) "the descriptor limit to set" default("what `maxconn` needs");
    "fd-hard-limit" "<number>" G supported(fd_hard_limit) "the most that the descriptor limit may become" default("the system's");
    "strict-limits" "" G supported(strict_limits) "a limit that cannot be raised is an error" prefixes(Prefixes::NoAndDefault) default("on");
    "maxpipes" "<number>" G supported(maxpipes) "pipes for splicing" default("as many as are needed");
    "maxconnrate" "<number>" G supported(rate) "connections accepted a second; the others wait in the kernel's queue" default("no limit");
    "maxsessrate" "<number>" G supported(rate) "the same: without TLS a connection is a session" default("no limit");
    "maxsslconn" "<number>" G inert("`ssl`") "TLS connections";
    "maxsslrate" "<number>" G inert("`ssl`") "TLS connections a second";
    "prealloc-fd" "" G warned("descriptors are made when they are needed") "make the descriptor table at start";
    "harden.reject-privileged-ports.tcp" "on|off" G refused("it closes connections that would then come in") "refuse clients whose port is below 1024" default("off") off("off");
    "harden.reject-privileged-ports.quic" "on|off" G inert("QUIC") "the same for QUIC";
};

fn maxconn(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    args.end()?;
    args.first_only(&mut global.seen, "maxconn")?;
    // 0 stands for the automatic value, as in HAProxy.
    global.config.maxconn = (number.value > 0).then_some(number.value as u32);
    Some(())
}

/// The lesser of the two holds. 0 is no limit.
fn rate(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    args.end()?;
    args.first_only(&mut global.seen, args.name())?;
    if number.value > 0 {
        let before = global.config.max_connection_rate.unwrap_or(u32::MAX);
        global.config.max_connection_rate = Some(before.min(number.value as u32));
    }
    Some(())
}

fn ulimit_n(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    args.end()?;
    args.first_only(&mut global.seen, "ulimit-n")?;
    global.config.ulimit_n = (number.value > 0).then_some(number.value as u64);
    Some(())
}

fn fd_hard_limit(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    args.end()?;
    args.first_only(&mut global.seen, "fd-hard-limit")?;
    global.config.fd_hard_limit = (number.value > 0).then_some(number.value as u64);
    Some(())
}

fn strict_limits(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.strict_limits = !args.negated();
    args.end()
}

fn maxpipes(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    args.end()?;
    args.first_only(&mut global.seen, "maxpipes")?;
    global.config.max_pipes = Some(number.value as u32);
    Some(())
}
