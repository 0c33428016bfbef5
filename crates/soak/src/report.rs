//! What is shown: tables for a person, JSON, and one line for machines.
//!
//! Decides:  the form; that the line for machines sums up Portcullis alone, without the phase that does nothing.
//! Not here: what counts as lost (ledger.rs).

use serde::Serialize;

use crate::ledger::{Gap, Loss, Sums};
use crate::operations::{Operation, Row, Rows};
use crate::program::Failure;

/// Losses that are shown.
const SHOWN_MAX: usize = 20;
/// Gaps that are shown.
const GAPS_SHOWN: usize = 5;

/// A part of the run with a load of its own.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// What it is.
    pub name: String,
    /// The program's name: `portcullis` or a peer.
    pub program: String,
    /// How long it was, s.
    pub seconds: f64,
    /// Connections.
    pub sums: Sums,
    /// Operations by name, of Portcullis's phases.
    #[serde(serialize_with = "by_name")]
    pub rows: Rows,
    /// The first losses.
    pub losses: Vec<Loss>,
    /// The longest gaps.
    pub gaps: Vec<Gap>,
    /// What was not done, or went wrong besides connections.
    pub failures: Vec<Failure>,
    /// Resident memory and descriptors of the serving process, at its begin and end, where it was looked at.
    pub memory_kib: Option<(u64, u64)>,
    /// See above.
    pub descriptors: Option<(usize, usize)>,
}

fn by_name<S: serde::Serializer>(rows: &Rows, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(rows.iter().map(|(operation, row)| (operation.name(), row)))
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What decides the order.
    pub seed: u64,
    /// How much longer than without operations the longest gap may be.
    pub gap_above_ms: Option<u64>,
    /// All parts.
    pub phases: Vec<Phase>,
    /// Parts that broke off, and why.
    pub broken: Vec<Failure>,
}

impl Report {
    /// Portcullis's phases with operations, together; the gap is of those that plan what they do, without kills.
    pub fn ours(&self) -> Sums {
        let ours = self.phases.iter();
        let ours = ours.filter(|it| it.program == "portcullis" && !it.rows.is_empty());
        ours.fold(Sums::default(), |sum, it| {
            let planned = !it.rows.keys().any(|operation| operation.is_a_kill());
            let gap_ms = if planned { it.sums.gap_ms } else { 0 };
            sum.with(&Sums {
                gap_ms,
                ..it.sums.clone()
            })
        })
    }

    /// How much the longest gap is above the permitted one, in words.
    fn too_long(&self) -> Option<String> {
        let calm = self.phases.iter().find(|it| it.rows.is_empty())?;
        let limit = calm.sums.gap_ms + self.gap_above_ms?;
        let gap = self.ours().gap_ms;
        (gap > limit).then(|| format!("a gap of {gap} ms, and {limit} ms are permitted"))
    }

    /// Whether nothing was lost, everything was done, and no gap was too long.
    pub fn is_well(&self) -> bool {
        let ours = self.phases.iter().filter(|it| it.program == "portcullis");
        let mut all = ours.map(|it| {
            let undone = it.rows.values().any(|row| !row.failures.is_empty());
            it.sums.lost() == 0 && it.failures.is_empty() && !undone
        });
        all.all(|well| well) && self.broken.is_empty() && self.too_long().is_none()
    }

    /// For a person.
    pub fn show(&self) {
        println!(
            "\n{:<46} {:>9} {:>8} {:>7} {:>8} {:>6} {:>6} {:>7} {:>9} {:>8}",
            "phase",
            "conns",
            "refused",
            "reset",
            "timeout",
            "short",
            "ended",
            "gap ms",
            "slowest",
            "MB"
        );
        for phase in &self.phases {
            let sums = &phase.sums;
            println!(
                "{:<46} {:>9} {:>8} {:>7} {:>8} {:>6} {:>6} {:>7} {:>9} {:>8}",
                phase.name,
                sums.conns,
                sums.refused,
                sums.reset,
                sums.timeout,
                sums.short,
                sums.ended,
                sums.gap_ms,
                sums.slowest_ms,
                sums.bytes / 1_000_000
            );
        }
        for phase in &self.phases {
            phase.show();
        }
        for failure in &self.broken {
            println!("BROKEN OFF: {failure}");
        }
        if let Some(why) = self.too_long() {
            println!("TOO LONG: {why}");
        }
        let ours = self.ours();
        println!(
            "conns={} refused={} reset={} timeout={} short={} gap_ms={}",
            ours.conns, ours.refused, ours.reset, ours.timeout, ours.short, ours.gap_ms
        );
    }
}

impl Phase {
    fn show(&self) {
        if self.rows.is_empty() && self.losses.is_empty() && self.failures.is_empty() {
            return;
        }
        println!("\n{} ({:.0} s)", self.name, self.seconds);
        if !self.rows.is_empty() {
            println!(
                "  {:<26} {:>6} {:>10} {:>8} {:>6} {:>9}",
                "operation", "count", "median ms", "max ms", "lost", "not done"
            );
        }
        for (operation, row) in &self.rows {
            show_row(*operation, row);
        }
        if let Some((before, after)) = self.memory_kib {
            println!("  memory of the serving process: {before} KiB, {after} KiB at the end");
        }
        if let Some((before, after)) = self.descriptors {
            println!("  descriptors: {before}, {after} at the end");
        }
        let told = self.losses.iter().take(SHOWN_MAX);
        for loss in told {
            println!(
                "  LOST {:?} at {} ms, {} (port {}), during: {}: {}",
                loss.kind, loss.at_ms, loss.listener, loss.port, loss.during, loss.what
            );
        }
        for gap in self.gaps.iter().take(GAPS_SHOWN) {
            println!(
                "  gap of {} ms until {} ms, {}, during: {}",
                gap.ms, gap.at_ms, gap.listener, gap.during
            );
        }
        for failure in &self.failures {
            println!("  FAILED {failure}");
        }
    }
}

fn show_row(operation: Operation, row: &Row) {
    let mut took = row.took_ms.clone();
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or(0);
    let most = took.last().copied().unwrap_or(0);
    println!(
        "  {:<26} {:>6} {:>10} {:>8} {:>6} {:>9}",
        operation.name(),
        row.count,
        median,
        most,
        row.lost,
        row.failures.len()
    );
    for failure in row.failures.iter().take(3) {
        println!("    FAILED {failure}");
    }
}
