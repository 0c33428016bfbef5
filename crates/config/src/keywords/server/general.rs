//! A server's part in its backend.
//!
//! Decides:  the arguments of these parameters, and which are refused by name.
//! Source:   HAProxy's manual, chapter 5.2; src/server.c, srv_parse_*(), 3.5-dev5.
//! Not here: health (check.rs), its connections (connection.rs).

use crate::arguments::Args;
use crate::build::draft::ServerDraft;
use crate::keyword::{Entry, entries};
use crate::keywords::proxy::general::NUMBER;
use crate::model::InitState;
use crate::source::At;

const IDLE: &str = "idle connections to servers, which HTTP has";

/// The family's entries.
pub const ENTRIES: &[Entry<ServerDraft>] = entries! {
    "weight" "<number>" SD supported(weight) "its share, 0 to 256; 0 gets no new connections" default("1");
    "backup" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.backup, true)) "used when all others are down";
    "no-backup" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.backup, false)) "takes `backup` back";
    "disabled" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.disabled, true)) "starts in maintenance";
    "enabled" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.disabled, false)) "takes `disabled` back" default("enabled");
    "id" "<number>" S supported(id) "its number" default("the next that is free") note(NUMBER);
    "guid" "<text>" S inert("`stats-file`") "a name that outlives a reload";
    "from" "none|be:<name>|srv:<name>" S refused("settings of a named `default-server` would be missing") "where its settings come from";
    "maxconn" "<number>" SD supported(|s: &mut ServerDraft, a: &mut Args<'_>| number(&mut s.maxconn, a)) "connections at once; the others wait in a queue" default("no limit");
    "minconn" "<number>" SD supported(|s: &mut ServerDraft, a: &mut Args<'_>| number(&mut s.minconn, a)) "the least that `maxconn` is at low load; it grows with the load, up to `fullconn`" default("`maxconn`");
    "maxqueue" "<number>" SD supported(|s: &mut ServerDraft, a: &mut Args<'_>| number(&mut s.maxqueue, a)) "how many may wait for this very server" default("no limit");
    "strict-maxconn" "" SD inert(IDLE) "count idle connections too";
    "slowstart" "<time>" SD supported(slow_start) "after it came up, grow to full weight and `maxconn` over this time" default("at once");
    "track" "<backend>/<server>|<server>" SD refused("the server would not follow the other's state") "take over another server's state";
    "on-marked-down" "shutdown-sessions" SD supported(on_marked_down) "end its sessions when a check brings it down" default("they stay");
    "on-marked-up" "shutdown-backup-sessions" SD supported(on_marked_up) "end the backups' sessions when a check brings it up" default("they stay");
    "init-state" "fully-up|up|down|fully-down|none" SD supported(init_state) "the state to start in: `up` goes down by the first bad check, `fully-up` by `fall` of them; `down` comes up by the first good check, `fully-down` by `rise` of them; without `check` it stays" default("`up`, which `none` means too");
    "hash-key" "id|id32|guid|addr|addr-port" SD refused("another server would be chosen") "what its place in a hash ring comes from" default("`id`") off("id");
    "stick" "" SD inert("stick tables") "may be remembered in stick tables";
    "non-stick" "" SD inert("stick tables") "is not remembered in stick tables";
    "shard" "<number>" SD inert("`peers`") "which part of a table it gets";
    "log-bufsize" "<bytes>" SD inert("`mode log`") "a ring's buffer";
    "log-proto" "legacy|octet-count" SD inert("`mode log`") "how log lines are framed";
};

fn set(what: &mut bool, value: bool) -> Option<()> {
    *what = value;
    Some(())
}

fn number(limit: &mut u32, args: &mut Args<'_>) -> Option<()> {
    *limit = args.integer(0..=i64::from(i32::MAX))?.value as u32;
    Some(())
}

fn slow_start(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    let time = args.time()?;
    // Whole seconds, as HAProxy counts it.
    let seconds = time.value.as_millis().div_ceil(1000);
    server.slow_start = Some(std::time::Duration::from_secs(seconds as u64));
    Some(())
}

fn on_marked_down(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    args.choice(
        "what a server that goes down does",
        &[("shutdown-sessions", ())],
    )?;
    set(&mut server.on_marked_down, true)
}

fn on_marked_up(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    let choices = [("shutdown-backup-sessions", ())];
    args.choice("what a server that comes up does", &choices)?;
    set(&mut server.on_marked_up, true)
}

fn init_state(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    let choices = [
        ("none", InitState::Up),
        ("up", InitState::Up),
        ("fully-up", InitState::FullyUp),
        ("down", InitState::Down),
        ("fully-down", InitState::FullyDown),
    ];
    server.init_state = args.choice("a state to start in", &choices)?.value;
    Some(())
}

fn weight(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.weight = Some(args.integer(0..=256)?.value as u16);
    Some(())
}

fn id(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(1..=i64::from(i32::MAX))?;
    server.id = Some(At::new(number.value as u32, number.place));
    Some(())
}
