//! What a run prints, and its JSON.
//!
//! Decides:  the layout of the tables; that JSON carries every round, so that anybody can judge anew.
//! Not here: the numbers (results.rs, targets.rs).

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::contender::Contender;
use crate::host::Machine;
use crate::results::{CALM, Metric, Results, Series, calm_rounds, ratio};
use crate::statistics::quartiles;
use crate::targets::{OURS, Verdict, second_worker};
use crate::workload::{Effort, Workload};

/// A number, or a dash.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Median and quartiles.
fn ranged(series: &Series, metric: Metric, digits: usize, scale: f64) -> String {
    let values: Vec<f64> = series.values(metric).iter().map(|v| v / scale).collect();
    match (crate::statistics::median(&values), quartiles(&values)) {
        (Some(median), Some((lower, upper))) if values.len() > 1 => {
            format!("{median:.digits$} ({lower:.digits$}–{upper:.digits$})")
        }
        (Some(median), _) => format!("{median:.digits$}"),
        _ => "-".to_owned(),
    }
}

/// The table of one workload.
pub fn workload(workload: &Workload, results: &Results) -> String {
    let series: Vec<&Series> = results
        .series
        .iter()
        .filter(|series| series.workload == workload.name)
        .collect();
    let mut text = format!("\n{}: {}\n", workload.name, workload.about);
    let of_bulk = workload.shape.unit() == "GiB";
    let (cpu, scale) = if of_bulk {
        ("CPU s/GiB", 1e6)
    } else {
        ("CPU µs", 1.0)
    };
    let _ = writeln!(
        text,
        "  {:<26} {:<22} {:<18} {:>9} {:>9} {:>9} {:>5} {:>5} {:>8} {:>6}",
        "", cpu, "ratio to it", "per s", "p50 µs", "p99 µs", "busy", "user", "load CPU", "others"
    );
    for series in &series {
        let name = format!("{} {}", series.contender, series.variant);
        let _ = writeln!(
            text,
            "  {:<26} {:<22} {:<18} {:>9} {:>9} {:>9} {:>5} {:>5} {:>8} {:>6}{}",
            name,
            ranged(series, |r| r.cpu_us, if of_bulk { 4 } else { 2 }, scale),
            against(series, results),
            number(series.median(|r| r.rate), if of_bulk { 2 } else { 0 }),
            number(series.median(|r| r.p50_us), 0),
            number(series.median(|r| r.p99_us), 0),
            number(series.median(|r| r.busy), 2),
            number(series.user_share, 3),
            number(
                series.median(|r| r.load_cpu_us).map(|v| v / scale),
                if of_bulk { 3 } else { 1 }
            ),
            number(series.median(|r| r.foreign), 2),
            extras(series, results),
        );
    }
    text + &weather(&series)
}

/// How disturbed the rounds were that count, if they were.
fn weather(all: &[&Series]) -> String {
    let rounds = all.first().map_or(0, |series| series.rounds.len());
    let (calm, aside) = (
        calm_rounds(all),
        all.first().map_or(0, |s| s.disturbed.len()),
    );
    if calm == rounds {
        return String::new();
    }
    format!(
        "  disturbed: in {} of {rounds} rounds others had more than {CALM} of the processors, \
         though {aside} worse rounds were put aside\n",
        rounds - calm
    )
}

/// Ours over this one's.
fn against(series: &Series, results: &Results) -> String {
    let ours = results.find(series.workload, series.variant, OURS);
    let found = ours.and_then(|ours| ratio(ours, series, |r| r.cpu_us));
    found.map_or_else(String::new, |ratio| {
        format!(
            "{:.2} ({:.2}–{:.2})",
            ratio.median, ratio.lower, ratio.upper
        )
    })
}

/// What only some workloads have.
fn extras(series: &Series, results: &Results) -> String {
    let mut text = String::new();
    if let Some(bytes) = series.median(|r| r.resident) {
        let _ = write!(text, "  {bytes:.0} bytes a connection");
    }
    if let Some(calls) = series.median(|r| r.calls) {
        let _ = write!(text, "  {calls:.2} system calls:");
        for (name, calls) in &series.calls_by_name {
            if *calls >= 0.01 {
                let _ = write!(text, " {name} {calls:.2}");
            }
        }
    }
    if let Some(rate) = series.median(|r| r.beside_mb_s) {
        let _ = write!(text, "  beside {rate:.0} MB/s");
    }
    if series.variant == "two workers"
        && let Some(cost) = second_worker(results, series.workload, &series.contender)
    {
        let _ = write!(text, "  {cost:.2} times one worker's");
    }
    for (kind, times) in &series.errors {
        let _ = write!(text, "  ERROR {kind}: {times}");
    }
    text
}

/// Targets, met or missed.
pub fn targets(verdicts: &[Verdict]) -> String {
    let mut text = String::from("\ntargets\n");
    for verdict in verdicts {
        let word = match (verdict.met, verdict.value) {
            (true, Some(value)) if value <= verdict.limit => "met",
            (true, _) => "met within the tolerance",
            (false, Some(_)) => "MISSED",
            (false, None) => "NOT MEASURED",
        };
        let digits = if verdict.limit >= 10.0 { 1 } else { 3 };
        let _ = writeln!(
            text,
            "  {:<58} {:>8} ≤ {:<6} {word}",
            verdict.target,
            number(verdict.value, digits),
            verdict.limit,
        );
    }
    text
}

/// What a run writes with `--json`.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    machine: &'a Machine,
    contenders: Vec<Who<'a>>,
    rounds: usize,
    window_ms: u128,
    /// No mistake was counted.
    valid: bool,
    series: &'a [Series],
    ratios: Vec<Compared<'a>>,
    targets: &'a [Verdict],
}

#[derive(Debug, Serialize)]
struct Who<'a> {
    name: &'a str,
    program: String,
    version: &'a str,
}

/// Ours over another one's, by processor time.
#[derive(Debug, Serialize)]
struct Compared<'a> {
    workload: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    to: &'a str,
    cpu: crate::results::Ratio,
}

impl<'a> Report<'a> {
    /// Everything of a run.
    pub fn new(
        machine: &'a Machine,
        contenders: &'a [Contender],
        effort: Effort,
        results: &'a Results,
        targets: &'a [Verdict],
    ) -> Report<'a> {
        let ratios = results.series.iter().filter_map(|series| {
            let ours = results.find(series.workload, series.variant, OURS)?;
            let cpu = ratio(ours, series, |r| r.cpu_us)?;
            let to = series.contender.as_str();
            (to != OURS).then_some(Compared {
                workload: series.workload,
                variant: series.variant,
                to,
                cpu,
            })
        });
        let who = contenders.iter().map(|contender| Who {
            name: &contender.name,
            program: contender.program.display().to_string(),
            version: &contender.version,
        });
        Report {
            machine,
            contenders: who.collect(),
            rounds: effort.rounds,
            window_ms: Duration::as_millis(&effort.window),
            valid: results.mistakes() == 0,
            series: &results.series,
            ratios: ratios.collect(),
            targets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::series_of;
    use crate::workload::WORKLOADS;

    #[test]
    fn a_table_shows_medians_ratios_and_mistakes() {
        let mut theirs = series_of("short-64", "haproxy", &[10.0, 12.0, 11.0]);
        theirs.errors.insert("wrong bytes", 3);
        let series = vec![series_of("short-64", OURS, &[8.0, 9.0, 9.9]), theirs];
        let text = workload(&WORKLOADS[0], &Results { series });
        assert!(text.contains("11.00 (10.50–11.50)"), "{text}");
        assert!(text.contains("0.80 (0.78–0.85)"), "{text}");
        assert!(text.contains("ERROR wrong bytes: 3"), "{text}");
        assert!(!text.contains("disturbed"), "{text}");
    }

    #[test]
    fn a_table_says_when_others_disturbed_the_rounds_that_count() {
        let mut ours = series_of("short-64", OURS, &[8.0, 9.0]);
        ours.rounds[1].foreign = Some(0.4);
        ours.disturbed = ours.rounds.clone();
        let series = vec![ours];
        let text = workload(&WORKLOADS[0], &Results { series });
        assert!(text.contains("disturbed: in 1 of 2 rounds"), "{text}");
        assert!(text.contains("2 worse rounds"), "{text}");
    }

    #[test]
    fn json_carries_every_round_and_says_if_the_run_is_valid() {
        let machine = crate::host::machine();
        let series = vec![
            series_of("short-64", OURS, &[8.0, 9.0]),
            series_of("short-64", "haproxy", &[10.0, 12.0]),
        ];
        let mut results = Results { series };
        for valid in [true, false] {
            let report = Report::new(&machine, &[], Effort::new(true), &results, &[]);
            let json = serde_json::to_value(&report).unwrap();
            assert_eq!(json["valid"], valid);
            assert_eq!(json["series"][0]["rounds"][1]["cpu_us"], 9.0);
            assert_eq!(json["ratios"][0]["cpu"]["median"], 0.775);
            results.series[0].errors.insert("stuck", 1);
        }
    }

    #[test]
    fn verdicts_say_met_missed_or_not_measured() {
        let verdict = |value, met| Verdict {
            target: "t",
            value,
            limit: 0.9,
            tolerance: 0.03,
            met,
        };
        let table = [
            (verdict(Some(0.5), true), " met\n"),
            (verdict(Some(0.92), true), "met within the tolerance"),
            (verdict(Some(1.5), false), "MISSED"),
            (verdict(None, false), "NOT MEASURED"),
        ];
        for (verdict, expected) in table {
            assert!(targets(&[verdict]).contains(expected), "{expected}");
        }
    }
}
