//! What the project promised, as a table, and whether a run kept it.
//!
//! Decides:  a ratio may miss its limit by the tolerance; what was not measured is not met.
//! Not here: how ratios are made (results.rs).

use serde::Serialize;

use crate::results::{Metric, Results};

/// Measurements of one run are not better than this.
pub const TOLERANCE: f64 = 0.03;
/// Ours, in tables.
pub const OURS: &str = "portcullis";

/// What is compared with the limit.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Processor time for one operation, over the peer's.
    Cpu { peer: &'static str },
    /// The share of user mode.
    UserShare,
    /// A number of our own.
    Own(Metric),
    /// Our p99 in one variant over that in another.
    Tail {
        over: &'static str,
        under: &'static str,
    },
    /// What two workers cost over one, less the same of the peer; for both kinds of operation.
    Scaling { peer: &'static str },
}

/// One promise.
#[derive(Debug)]
pub struct Target {
    /// In words.
    pub name: &'static str,
    /// The workload that shows it.
    pub workload: &'static str,
    rule: Rule,
    limit: f64,
    tolerance: f64,
}

/// Whether it was kept.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// In words.
    pub target: &'static str,
    /// What was found; absent: it was not measured.
    pub value: Option<f64>,
    /// The most it may be.
    pub limit: f64,
    /// By how much it may be more.
    pub tolerance: f64,
    /// Is it no more than both?
    pub met: bool,
}

const fn cpu(name: &'static str, workload: &'static str, peer: &'static str, limit: f64) -> Target {
    Target {
        name,
        workload,
        rule: Rule::Cpu { peer },
        limit,
        tolerance: TOLERANCE,
    }
}

const fn other(
    name: &'static str,
    workload: &'static str,
    rule: Rule,
    limit: f64,
    tolerance: f64,
) -> Target {
    Target {
        name,
        workload,
        rule,
        limit,
        tolerance,
    }
}

/// All promises.
pub const TARGETS: &[Target] = &[
    cpu(
        "short connections, 64 at once: CPU over HAProxy's",
        "short-64",
        "haproxy",
        0.87,
    ),
    cpu(
        "short connections, 2,000 at once: CPU over HAProxy's",
        "short-2000",
        "haproxy",
        0.92,
    ),
    cpu(
        "round trips on 200 connections: CPU over HAProxy's",
        "trips-200",
        "haproxy",
        0.86,
    ),
    cpu(
        "round trips on 1,000 connections: CPU over HAProxy's",
        "trips-1000",
        "haproxy",
        0.65,
    ),
    cpu(
        "bulk, 1 stream: CPU over HAProxy's with splice-auto",
        "bulk-1",
        "haproxy",
        0.75,
    ),
    cpu(
        "bulk, 8 streams: CPU over HAProxy's with splice-auto",
        "bulk-8",
        "haproxy",
        0.75,
    ),
    cpu(
        "bulk, 1 stream: CPU over HAProxy's with 1 MiB pipes",
        "bulk-1",
        "haproxy-1m",
        0.95,
    ),
    cpu(
        "bulk, 8 streams: CPU over HAProxy's with 1 MiB pipes",
        "bulk-8",
        "haproxy-1m",
        0.95,
    ),
    cpu(
        "short connections, 64 at once: CPU over nginx's",
        "short-64",
        "nginx",
        0.95,
    ),
    cpu(
        "short connections, 2,000 at once: CPU over nginx's",
        "short-2000",
        "nginx",
        0.95,
    ),
    cpu(
        "round trips on 200 connections: CPU over nginx's",
        "trips-200",
        "nginx",
        0.92,
    ),
    cpu(
        "round trips on 1,000 connections: CPU over nginx's",
        "trips-1000",
        "nginx",
        0.92,
    ),
    cpu("bulk, 1 stream: CPU over nginx's", "bulk-1", "nginx", 0.35),
    cpu("bulk, 8 streams: CPU over nginx's", "bulk-8", "nginx", 0.35),
    other(
        "user mode's share on short connections",
        "short-64",
        Rule::UserShare,
        0.08,
        0.0,
    ),
    other(
        "memory of an idle connection, bytes",
        "idle-9000",
        Rule::Own(|r| r.resident),
        600.0,
        0.0,
    ),
    other(
        "system calls of a short connection",
        "calls",
        Rule::Own(|r| r.calls),
        15.5,
        0.0,
    ),
    other(
        "p99 of round trips beside bulk over without",
        "mix",
        Rule::Tail {
            over: "beside bulk",
            under: "alone",
        },
        1.3,
        TOLERANCE,
    ),
    other(
        "short connections: cost of a second worker, less HAProxy's",
        "scaling-short",
        Rule::Scaling { peer: "haproxy" },
        0.0,
        TOLERANCE,
    ),
    other(
        "round trips: cost of a second worker, less HAProxy's",
        "scaling-trips",
        Rule::Scaling { peer: "haproxy" },
        0.0,
        TOLERANCE,
    ),
];

/// Holds a run against the targets whose workloads it ran.
pub fn judge(results: &Results, ran: &[&str]) -> Vec<Verdict> {
    let asked = TARGETS
        .iter()
        .filter(|target| ran.contains(&target.workload));
    asked
        .map(|target| {
            let value = target.value(results);
            let most = target.limit + target.tolerance;
            Verdict {
                target: target.name,
                value,
                limit: target.limit,
                tolerance: target.tolerance,
                met: value.is_some_and(|value| value <= most),
            }
        })
        .collect()
}

impl Target {
    fn value(&self, results: &Results) -> Option<f64> {
        let workload = self.workload;
        let ours = || results.find(workload, "", OURS);
        match self.rule {
            Rule::Cpu { peer } => {
                let ratio = results.against(workload, "", [OURS, peer], |r| r.cpu_us)?;
                Some(ratio.median)
            }
            Rule::UserShare => ours()?.user_share,
            Rule::Own(metric) => ours()?.median(metric),
            Rule::Tail { over, under } => {
                let over = results.find(workload, over, OURS)?;
                let under = results.find(workload, under, OURS)?;
                Some(crate::results::ratio(over, under, |r| r.p99_us)?.median)
            }
            Rule::Scaling { peer } => Some(
                second_worker(results, workload, OURS)? - second_worker(results, workload, peer)?,
            ),
        }
    }
}

/// What an operation costs by two workers, over what it costs by one.
pub fn second_worker(results: &Results, workload: &str, contender: &str) -> Option<f64> {
    let two = results.find(workload, "two workers", contender)?;
    let one = results.find(workload, "one worker", contender)?;
    Some(crate::results::ratio(two, one, |r| r.cpu_us)?.median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::series_of;
    use crate::workload::WORKLOADS;

    #[test]
    fn every_target_names_a_workload_that_there_is() {
        for target in TARGETS {
            let known = WORKLOADS
                .iter()
                .any(|workload| workload.name == target.workload);
            assert!(known, "{}", target.name);
        }
    }

    #[test]
    fn a_target_is_met_up_to_its_tolerance_and_missed_beyond() {
        let table = [(8.0, true), (8.9, true), (9.1, false), (20.0, false)];
        for (ours, met) in table {
            let series = vec![
                series_of("short-64", OURS, &[ours]),
                series_of("short-64", "haproxy", &[10.0]),
            ];
            let verdicts = judge(&Results { series }, &["short-64"]);
            assert_eq!(verdicts[0].met, met, "{ours}");
            let value = verdicts[0].value.unwrap();
            assert!((value - ours / 10.0).abs() < 1e-9);
            let nginx = verdicts
                .iter()
                .find(|v| v.target.contains("nginx"))
                .unwrap();
            assert_eq!(
                (nginx.value, nginx.met),
                (None, false),
                "it was not measured"
            );
        }
    }

    #[test]
    fn only_workloads_that_ran_are_held_against_targets() {
        assert!(judge(&Results::default(), &[]).is_empty());
        assert_eq!(judge(&Results::default(), &["calls"]).len(), 1);
    }

    #[test]
    fn the_cost_of_a_second_worker_is_compared_with_the_peers() {
        let series = |contender: &str, variant, cpu| crate::results::Series {
            variant,
            ..series_of("scaling-short", contender, &[cpu])
        };
        let series = vec![
            series(OURS, "one worker", 10.0),
            series(OURS, "two workers", 12.0),
            series("haproxy", "one worker", 10.0),
            series("haproxy", "two workers", 15.0),
        ];
        let verdicts = judge(&Results { series }, &["scaling-short"]);
        assert!((verdicts[0].value.unwrap() + 0.3).abs() < 1e-9);
        assert!(verdicts[0].met);
    }
}
