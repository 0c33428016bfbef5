//! Names, limits, shards, and what comes before the first byte.
//!
//! Decides:  the arguments of these parameters.
//! Source:   HAProxy's manual, chapter 5.1; src/listener.c, bind_parse_*(), 3.5-dev5.
//! Not here: socket options (tcp.rs).

use crate::arguments::Args;
use crate::build::draft::BindDraft;
use crate::keyword::{Entry, entries};
use crate::model::{SeverityOutput, Shards, StatsLevel};
use crate::units;

const STATS: &str = "`stats socket`";

/// The family's entries.
pub const ENTRIES: &[Entry<BindDraft>] = entries! {
    "name" "<name>" BIND supported(name) "the line's name" default("none");
    "id" "<number>" BIND supported(id) "the line's number" default("the next that is free") note("the log lines of Unix clients have it");
    "label" "<label>" BIND inert(STATS) "a label of the line";
    "guid-prefix" "<text>" BIND inert("`stats-file`") "names that outlive a reload";
    "maxconn" "<number>" BIND supported(maxconn) "connections at once, of each address of the line" default("no limit of its own");
    "backlog" "<number>" BIND supported(backlog) "the length of the accept queue, of each shard" default("`backlog` of the proxy, then `maxconn`, then 1024");
    "shards" "<number>|by-thread|by-group" BIND supported(shards) "sockets for each address" default("`tune.listener.default-shards`");
    "thread" "<threads>" BIND warned("every worker serves every line") "which threads serve the line" default("all");
    "process" "<processes>" BIND removed("left HAProxy in 2.7: use `thread`") "which processes serve the line";
    "nice" "<number>" BIND warned("sessions have no priorities") "the priority of its sessions" default("0");
    "accept-proxy" "" BIND supported(accept_proxy) "every connection begins with a PROXY header";
    "accept-netscaler-cip" "<magic>" BIND refused("the header would pass for data") "every connection begins with a NetScaler header";
    "proto" "none" BIND supported(proto) "the protocol that is forced; only `none` in a TCP proxy";
    "level" "user|operator|admin" BIND supported(level) "what the clients of a `stats socket` may do" default("`operator`");
    "severity-output" "none|number|string" BIND supported(severity_output) "the severity of each message of a `stats socket`" default("`none`");
    "expose-fd" "listeners" BIND supported(expose_fd) "another process may take the listeners through this `stats socket`";
    "idle-ping" "<time>" BIND inert("HTTP") "probe idle clients";
    "nbconn" "<number>" BIND refused("reverse HTTP is not served") "connections of reverse HTTP";
    "quic-cc-algo" "<algorithm>" BIND inert("QUIC") "QUIC's congestion control";
    "quic-force-retry" "" BIND inert("QUIC") "QUIC clients must prove their address";
    "quic-socket" "connection|listener" BIND inert("QUIC") "QUIC's sockets";
    "strict" "" BIND supported(strict) "an option that the kernel refuses refuses the listener" default("a warning") note("ours; `interface` is always strict");
    "incoming-cpu" "" BIND supported(incoming_cpu) "SO_INCOMING_CPU: shard n for worker n's processor" default("off") note("ours");
};

fn name(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.name = Some(args.word("a name")?.text.clone());
    Some(())
}

fn id(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.id = Some(args.integer(1..=i64::from(i32::MAX))?.value as u32);
    Some(())
}

fn accept_proxy(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.options.accept_proxy = true;
    Some(())
}

fn maxconn(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?.value as u32;
    // HAProxy: 0 is no limit of the line's own.
    bind.options.maxconn = (number > 0).then_some(number);
    Some(())
}

fn backlog(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(0..=i64::from(i32::MAX))?.value as u32;
    bind.options.backlog = (number > 0).then_some(number);
    Some(())
}

/// More shards than workers are of no use; HAProxy cuts them down to its threads.
const MOST_SHARDS: i64 = 1000;

fn shards(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.shards = Some(if args.take("by-thread") {
        Shards::ByThread
    } else if args.take("by-group") {
        Shards::ByGroup
    } else {
        let word = args.word("a number, `by-thread` or `by-group`")?;
        match units::integer(&word.text, 1..=MOST_SHARDS) {
            Ok(number) => Shards::Number(number as u16),
            Err(_) => {
                let message = format!("`{}` is no number of shards", word.text);
                let expected = "expected 1 to 1000, `by-thread` or `by-group`";
                return args.bad_at(word.place, &message, expected);
            }
        }
    });
    Some(())
}

fn proto(_: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    args.choice("a protocol of a TCP proxy", &[("none", ())])?;
    Some(())
}

fn strict(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.options.strict = true;
    Some(())
}

fn incoming_cpu(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.options.incoming_cpu = true;
    Some(())
}

/// On a `bind` line HAProxy takes these too, and makes nothing of them.
fn level(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    let levels = [StatsLevel::User, StatsLevel::Operator, StatsLevel::Admin];
    let choices = levels.map(|level| (level.word(), level));
    bind.stats.level = args.choice("a level", &choices)?.value;
    Some(())
}

fn severity_output(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    let choices = [
        ("none", SeverityOutput::None),
        ("number", SeverityOutput::Number),
        ("string", SeverityOutput::String),
    ];
    bind.stats.severity = args.choice("a form of severities", &choices)?.value;
    Some(())
}

fn expose_fd(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    args.choice("what to expose", &[("listeners", ())])?;
    bind.stats.exposes_listeners = true;
    Some(())
}
