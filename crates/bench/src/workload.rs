//! The workloads, by name.
//!
//! Decides:  which there are, what each counts, how long its windows are.
//! Not here: how one is run (measure.rs), which targets speak of it (targets.rs).

use std::time::Duration;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Connections with one request and one answer, the server closing; so many at once.
    Short {
        /// How many at once.
        at_once: usize,
    },
    /// Requests and answers on connections that stay.
    RoundTrips {
        /// How many connections.
        connections: usize,
    },
    /// Streams from server to client.
    Bulk {
        /// How many.
        streams: usize,
    },
    /// Connections that were used once and then say nothing.
    Idle {
        /// How many.
        connections: usize,
    },
    /// Round trips, without and with paced bulk beside them.
    Mix {
        /// Connections for round trips.
        connections: usize,
        /// Bulk streams.
        streams: usize,
        /// Bytes that each stream carries in a millisecond.
        pace: u64,
    },
    /// Another workload's operation, by one worker and by two.
    Scaling {
        /// Short connections, or else round trips.
        short: bool,
        /// How many at once.
        at_once: usize,
    },
    /// System calls of short connections, counted by the kernel.
    Calls {
        /// How many at once.
        at_once: usize,
        /// How many in all.
        count: u64,
    },
}

/// A workload.
#[derive(Debug)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// What is done.
    pub shape: Shape,
}

/// All, in the order of a run.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "short-64",
        about: "short connections, 64 at once: 128 bytes each way, the server closes",
        shape: Shape::Short { at_once: 64 },
    },
    Workload {
        name: "short-2000",
        about: "the same, 2,000 at once",
        shape: Shape::Short { at_once: 2000 },
    },
    Workload {
        name: "trips-200",
        about: "round trips of 128 bytes on 200 connections, all of them busy",
        shape: Shape::RoundTrips { connections: 200 },
    },
    Workload {
        name: "trips-1000",
        about: "the same on 1,000 connections",
        shape: Shape::RoundTrips { connections: 1000 },
    },
    Workload {
        name: "bulk-1",
        about: "one stream from server to client, as fast as it goes",
        shape: Shape::Bulk { streams: 1 },
    },
    Workload {
        name: "bulk-8",
        about: "eight streams",
        shape: Shape::Bulk { streams: 8 },
    },
    Workload {
        name: "idle-9000",
        about: "9,000 connections that were used once and then are idle: memory",
        shape: Shape::Idle { connections: 9000 },
    },
    Workload {
        name: "mix",
        about: "round trips on 100 connections, without and with 4 streams of 64 MB/s each",
        shape: Shape::Mix {
            connections: 100,
            streams: 4,
            pace: 64_000,
        },
    },
    Workload {
        name: "scaling-short",
        about: "short connections, 64 at once, by one worker and by two",
        shape: Shape::Scaling {
            short: true,
            at_once: 64,
        },
    },
    Workload {
        name: "scaling-trips",
        about: "round trips on 200 connections, by one worker and by two",
        shape: Shape::Scaling {
            short: false,
            at_once: 200,
        },
    },
    Workload {
        name: "calls",
        about: "system calls of a short connection, 64 at once, in a round of their own",
        shape: Shape::Calls {
            at_once: 64,
            count: 4000,
        },
    },
];

impl Shape {
    /// One unit of what is counted.
    pub fn unit(self) -> &'static str {
        match self {
            Shape::Short { .. } | Shape::Calls { .. } | Shape::Idle { .. } => "connection",
            Shape::RoundTrips { .. } | Shape::Mix { .. } => "round trip",
            Shape::Bulk { .. } => "GiB",
            Shape::Scaling { short: true, .. } => "connection",
            Shape::Scaling { short: false, .. } => "round trip",
        }
    }

    /// Is the contender to be configured for bulk?
    pub fn is_bulk(self) -> bool {
        matches!(self, Shape::Bulk { .. } | Shape::Mix { .. })
    }
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Interleaved rounds.
    pub rounds: usize,
    /// The length of one contender's window in a round.
    pub window: Duration,
    /// Rounds of workloads that start the contenders anew each time.
    pub fresh_rounds: usize,
}

impl Effort {
    /// The usual one, and that of `--quick`.
    pub fn new(quick: bool) -> Effort {
        Effort {
            rounds: if quick { 5 } else { 15 },
            window: Duration::from_millis(if quick { 200 } else { 500 }),
            fresh_rounds: if quick { 1 } else { 5 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_rounds_are_at_least_five() {
        let names: BTreeSet<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), WORKLOADS.len());
        for quick in [true, false] {
            assert!(Effort::new(quick).rounds >= 5);
        }
    }
}
