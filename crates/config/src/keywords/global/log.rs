//! Where the process logs.
//!
//! Decides:  the global `log` lines, to which a proxy's `log global` refers.
//! Source:   HAProxy's manual, chapters 3.1 and 4.2 `log`; src/log.c, parse_logger(), 3.5-dev5.
//! Not here: the arguments of `log` (proxy/log.rs, which both share).

use crate::arguments::Args;
use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, Prefixes, entries};
use crate::keywords::proxy::log::log_target;

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "log" "<target> [len <bytes>] [format <format>] [sample <ranges>:<size>] <facility> [<level> [<minimum>]]" G supported(log) "a target of the process's logs, and of `log global`" prefixes(Prefixes::No) default("none");
    "log-tag" "<text>" G supported(log_tag) "the program's name in log lines" default("`portcullis`") note("HAProxy's default is its own name");
    "log-send-hostname" "[<name>]" G supported(log_send_hostname) "a host name in syslog headers" default("none");
    "stats-file" "<file>" G warned("counters are not read from a file") "counters to start from";
    "shm-stats-file" "<file>" G warned("counters are not kept in a file") "counters in shared memory";
    "shm-stats-file-max-objects" "<number>" G inert("`shm-stats-file`") "its size";
    "server-state-base" "<directory>" G inert("`load-server-state-from-file`") "where state files are";
    "server-state-file" "<file>" G inert("`load-server-state-from-file`") "the global state file";
    "anonkey" "<key>" G inert("the runtime socket") "how to hide names in its answers";
    "debug.counters" "on|off" G warned("there are no such counters") "count events inside HAProxy";
    "profiling.tasks" "auto|on|off" G warned("there is no such profile") "measure HAProxy's tasks";
    "profiling.memory" "on|off" G warned("there is no such profile") "measure HAProxy's memory";
    "warn-blocked-traffic-after" "<time>" G warned("it watches HAProxy's threads") "say that a thread is stuck";
};

fn log(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    if args.negated() {
        args.end()?;
        global.config.logs.clear();
        return Some(());
    }
    if args.peek_is("global") {
        let place = args.peek_place();
        return args.bad_at(
            place,
            "`log global` stands in a proxy",
            "expected a target, like `/dev/log`",
        );
    }
    let target = log_target(args)?;
    global.config.logs.push(target);
    Some(())
}

fn log_tag(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.log_tag = Some(args.word("a tag")?.text.clone());
    args.end()
}

fn log_send_hostname(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let name = args.optional().map(|word| word.text.clone());
    args.end()?;
    args.first_only(&mut global.seen, "log-send-hostname")?;
    global.config.log_send_hostname = Some(name);
    Some(())
}
