//! The `ring` section: log lines kept in memory.
//!
//! Decides:  how large a ring is and what its lines look like.
//! Source:   HAProxy's manual, chapter 3.9; src/sink.c, cfg_parse_ring(), 3.5-dev5.
//! Not here: `log ring@NAME` (address/mod.rs).

use crate::arguments::Args;
use crate::keyword::{Entry, entries};
use crate::keywords::proxy::log::FORMATS;
use crate::model::Ring;

const FORWARDS: &str = "a ring is kept in memory, and not sent on";

/// The family's entries.
pub const ENTRIES: &[Entry<Ring>] = entries! {
    "description" "<text>" RING supported(description) "a text for people";
    "format" "<format>" RING supported(format) "the header of its lines, whatever the `log` line says" default("the `log` line's");
    "maxlen" "<bytes>" RING supported(max_length) "longer lines are cut" default("the `log` line's `len`");
    "size" "<bytes>" RING supported(size) "how much it keeps; the oldest lines make room" default("16384");
    "backing-file" "<path>" RING refused("a ring is kept in memory") "a file that outlives the process";
    "server" "<name> <address> [<parameter>…]" RING refused(FORWARDS) "where its lines are sent";
    "timeout connect" "<time>" RING inert("`server` in a ring") "how long an attempt to connect may take";
    "timeout server" "<time>" RING inert("`server` in a ring") "how long the server may be silent";
};

/// The least and the most of `size`.
const SIZES: std::ops::RangeInclusive<i64> = 1_024..=1 << 30;
/// The least and the most of `maxlen`.
const LENGTHS: std::ops::RangeInclusive<i64> = 80..=1 << 20;

fn description(_: &mut Ring, args: &mut Args<'_>) -> Option<()> {
    args.text("a text").map(drop)
}

fn format(ring: &mut Ring, args: &mut Args<'_>) -> Option<()> {
    ring.format = Some(args.choice("a log format", &FORMATS)?.value);
    Some(())
}

fn max_length(ring: &mut Ring, args: &mut Args<'_>) -> Option<()> {
    ring.max_length = Some(args.integer(LENGTHS)?.value as u32);
    Some(())
}

fn size(ring: &mut Ring, args: &mut Args<'_>) -> Option<()> {
    ring.size = args.size(SIZES)?.value;
    Some(())
}
