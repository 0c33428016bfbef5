//! Workers and processors.
//!
//! Decides:  that `nbthread` is honoured, and where HAProxy puts its threads is not.
//! Source:   HAProxy's manual, chapters 3.1 and 3.2; src/thread.c, cfg_parse_nbthread(), 3.5-dev5.
//! Not here: how many workers there are without it (the control plane).

use crate::arguments::Args;
use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, Prefixes, entries};

const PLACED: &str = "workers are not tied to processors this way";
const GROUPS: &str = "there is one group of workers";

/// The most workers: HAProxy allows 1 to its build limit, 256 to 1024.
const MAX_THREADS: i64 = 1024;

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "nbthread" "<number>" G supported(nbthread) "worker threads" default("one a usable processor");
    "nbproc" "<number>" G removed("left HAProxy in 2.5: use `nbthread`") "processes";
    "cpu-map" "<threads> <processors>…" G warned(PLACED) "which thread runs where";
    "cpu-set" "<directive>…" G warned(PLACED) "which processors to use";
    "cpu-policy" "<policy> […]" G warned(PLACED) "how to choose processors";
    "cpu-affinity" "<affinity>" G warned(PLACED) "how threads are tied to processors";
    "thread-groups" "<number>" G warned(GROUPS) "groups of threads";
    "thread-group" "<group> <threads>" G warned(GROUPS) "a group's threads";
    "max-threads-per-group" "<number>" G warned(GROUPS) "the size of a group";
    "thread-hard-limit" "<number>" G supported(thread_hard_limit) "the most worker threads" default("none");
    "numa-cpu-mapping" "" G warned(PLACED) "stay on one NUMA node" prefixes(Prefixes::NoAndDefault);
    "tune.renice.runtime" "<number>" G warned("priorities are left to the system") "the process's priority";
    "tune.renice.startup" "<number>" G warned("priorities are left to the system") "the process's priority at start";
    "tune.takeover-other-tg-connections" "none|restricted|full" G warned(GROUPS) "idle connections of other groups";
    "tune.memory.hot-size" "<size>" G warned("memory is the allocator's") "cached memory of a thread";
    "tune.fd.tables" "<tables>" G warned("HAProxy's descriptor tables") "descriptor tables of a group";
};

fn nbthread(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(1..=MAX_THREADS)?;
    args.end()?;
    global.config.nbthread = Some(number.value as u16);
    Some(())
}

fn thread_hard_limit(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(1..=MAX_THREADS)?;
    args.end()?;
    global.config.thread_hard_limit = Some(number.value as u16);
    Some(())
}
