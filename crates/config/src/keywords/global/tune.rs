//! Tuning of HAProxy's insides.
//!
//! Decides:  that it loads; nothing here has an effect.
//! Source:   HAProxy's manual, chapter 3.2, newest version.
//! Not here: buffers and sockets (network.rs), HTTP and Lua (http.rs), TLS (tls.rs).

use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, entries};

const INSIDE: &str = "it tunes the insides of HAProxy";
const RULES: &str = "rules and variables";
const TABLES: &str = "stick tables";

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "tune.applet.zero-copy-forwarding" "on|off" G warned(INSIDE) "copies saved in applets";
    "tune.buffers.limit" "<number>" G warned(INSIDE) "the most buffers";
    "tune.buffers.reserve" "<number>" G warned(INSIDE) "buffers kept for answers";
    "tune.bufsize.large" "<bytes>" G warned(INSIDE) "the size of a large buffer";
    "tune.bufsize.small" "<bytes>" G warned(INSIDE) "the size of a small buffer";
    "tune.chksize" "<bytes>" G removed("left HAProxy in 2.4; `tune.bufsize` holds for checks too") "the size of a check's buffer";
    "tune.cli.max-payload-size" "<bytes>" G inert("the runtime socket") "the size of a command's payload";
    "tune.defaults.purge" "" G warned(INSIDE) "forget `defaults` after reading";
    "tune.disable-fast-forward" "" G warned(INSIDE) "forward more slowly";
    "tune.disable-zero-copy-forwarding" "" G warned(INSIDE) "forward with copies";
    "tune.epoll.mask-events" "<event>,…" G warned(INSIDE) "events not to trust";
    "tune.events.max-events-at-once" "<number>" G warned(INSIDE) "events handled at a stretch";
    "tune.fail-alloc" "<percent>" G warned(INSIDE) "refuse memory at random";
    "tune.fd.edge-triggered" "on|off" G warned("events are edge-triggered anyway") "edge-triggered events";
    "tune.glitches.kill.cpu-usage" "<number>" G inert("HTTP") "when to close connections with glitches";
    "tune.idle-pool.shared" "on|off|auto|full" G inert("HTTP") "share idle connections";
    "tune.idletimer" "<time>" G warned(INSIDE) "when a stream counts as idle";
    "tune.max-checks-per-thread" "<number>" G warned(INSIDE) "checks at once on a thread";
    "tune.max-rules-at-once" "<number>" G inert(RULES) "rules run at a stretch";
    "tune.maxpollevents" "<number>" G warned(INSIDE) "events taken at a stretch";
    "tune.maxrewrite" "<bytes>" G inert("HTTP") "room for header changes";
    "tune.pattern.cache-size" "<number>" G inert(RULES) "remembered pattern matches";
    "tune.peers.max-updates-at-once" "<number>" G inert(TABLES) "table updates at a stretch";
    "tune.pool-high-fd-ratio" "<percent>" G inert("HTTP") "when to close idle connections";
    "tune.pool-low-fd-ratio" "<percent>" G inert("HTTP") "when not to keep idle connections";
    "tune.pt.zero-copy-forwarding" "on|off" G warned(INSIDE) "forward without copies";
    "tune.recv_enough" "<bytes>" G warned(INSIDE) "when to stop reading";
    "tune.ring.queues" "<number>" G warned(INSIDE) "writers to a ring";
    "tune.runqueue-depth" "<number>" G warned(INSIDE) "tasks run at a stretch";
    "tune.sched.low-latency" "on|off" G warned(INSIDE) "short stretches first";
    "tune.stick-counters" "<number>" G inert(TABLES) "counters that a session may follow";
    "tune.streams-elasticity" "<percent>" G inert("HTTP") "streams of a connection under load";
    "tune.vars.check-max-size" "<bytes>" G inert(RULES) "memory of a check's variables";
    "tune.vars.global-max-size" "<bytes>" G inert(RULES) "memory of all variables";
    "tune.vars.proc-max-size" "<bytes>" G inert(RULES) "memory of the process's variables";
    "tune.vars.reqres-max-size" "<bytes>" G inert(RULES) "memory of a request's variables";
    "tune.vars.sess-max-size" "<bytes>" G inert(RULES) "memory of a session's variables";
    "tune.vars.txn-max-size" "<bytes>" G inert(RULES) "memory of a transaction's variables";
    "no-memory-trimming" "" G warned("memory is the allocator's") "do not give memory back";
    "quick-exit" "" G warned(INSIDE) "end without cleaning up";
    "stress-level" "<level>" G warned(INSIDE) "make rare things frequent";
};
