//! What a run found, and what follows from it: medians and ratios.
//!
//! Decides:  a ratio is the median of the rounds' ratios, since two windows of one round met the same
//!           weather; rounds that others disturbed are put aside, calmer ones taken in their place; a
//!           series with a mistake in it makes the run invalid.
//! Not here: how it was found (measure.rs), how it is shown (report.rs).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::statistics::{median, quartiles};

/// One contender's window in one round. What a workload does not measure is absent.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct Round {
    /// The contender's processor time for one operation, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    /// Operations a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Half of the operations took no longer, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    /// 99 of 100 took no longer, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    /// The contender's processor time over the window's length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
    /// The generator's and backend's processor time for one operation, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_cpu_us: Option<f64>,
    /// Bulk beside the operations, MB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside_mb_s: Option<f64>,
    /// Resident memory for one connection, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident: Option<f64>,
    /// System calls for one operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<f64>,
    /// The share of the processors' time that others had, the window's neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<f64>,
}

/// One number of a round.
pub type Metric = fn(&Round) -> Option<f64>;

/// All rounds of a contender in one variant of a workload.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Series {
    /// The workload.
    pub workload: &'static str,
    /// Which part of it, where it has several.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub variant: &'static str,
    /// One unit of what is counted.
    pub unit: &'static str,
    /// Who.
    pub contender: String,
    /// Its rounds, in order.
    pub rounds: Vec<Round>,
    /// Rounds that were put aside, because others were busy during anybody's window of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disturbed: Vec<Round>,
    /// The share of its processor time in user mode, over all rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_share: Option<f64>,
    /// System calls for one operation, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub calls_by_name: BTreeMap<String, f64>,
    /// What went wrong, by kind.
    pub errors: BTreeMap<&'static str, u64>,
}

impl Series {
    /// The rounds' values of a metric.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.rounds.iter().filter_map(metric).collect()
    }

    /// Their median.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        median(&self.values(metric))
    }

    /// How many mistakes were counted.
    pub fn mistakes(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// A round is calm if others had no more than this of the processors' time in any window of it.
pub const CALM: f64 = 0.1;

/// The share of others in the windows of each round of these series, whichever was the worst.
fn disturbances(all: &[&Series]) -> Vec<f64> {
    let rounds = all.iter().map(|series| series.rounds.len()).min();
    let worst = |round: usize| {
        let shares = all.iter().map(|series| series.rounds[round].foreign);
        shares.map(|share| share.unwrap_or(0.0)).fold(0.0, f64::max)
    };
    (0..rounds.unwrap_or(0)).map(worst).collect()
}

/// How many rounds of these series were calm?
pub fn calm_rounds(all: &[&Series]) -> usize {
    let disturbances = disturbances(all);
    disturbances.iter().filter(|&&share| share <= CALM).count()
}

/// Keeps the `wanted` calmest rounds of these series, in their order, and puts the others aside.
pub fn keep_calmest(mut all: Vec<&mut Series>, wanted: usize) {
    let disturbances = disturbances(&all.iter().map(|series| &**series).collect::<Vec<_>>());
    let mut calmest: Vec<usize> = (0..disturbances.len()).collect();
    calmest.sort_by(|&a, &b| disturbances[a].total_cmp(&disturbances[b]));
    calmest.truncate(wanted);
    for series in &mut all {
        for (round, found) in std::mem::take(&mut series.rounds).into_iter().enumerate() {
            match calmest.contains(&round) {
                true => series.rounds.push(found),
                false => series.disturbed.push(found),
            }
        }
    }
}

/// A ratio over rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the rounds' ratios.
    pub median: f64,
    /// A quarter of them are no more than this.
    pub lower: f64,
    /// A quarter of them are no less than this.
    pub upper: f64,
}

/// `over / under`, round by round.
pub fn ratio(over: &Series, under: &Series, metric: Metric) -> Option<Ratio> {
    let pairs = over.rounds.iter().zip(&under.rounds);
    let ratios: Vec<f64> = pairs
        .filter_map(|(over, under)| Some(metric(over)? / metric(under)?))
        .filter(|ratio| ratio.is_finite())
        .collect();
    let (lower, upper) = quartiles(&ratios)?;
    Some(Ratio {
        median: median(&ratios)?,
        lower,
        upper,
    })
}

/// All series of a run.
#[derive(Debug, Default)]
pub struct Results {
    /// In the order of the run.
    pub series: Vec<Series>,
}

impl Results {
    /// The series of a contender in a workload's variant.
    pub fn find(&self, workload: &str, variant: &str, contender: &str) -> Option<&Series> {
        self.series.iter().find(|series| {
            series.workload == workload
                && series.variant == variant
                && series.contender == contender
        })
    }

    /// `ours / theirs` of a metric in a workload.
    pub fn against(
        &self,
        workload: &str,
        variant: &str,
        pair: [&str; 2],
        metric: Metric,
    ) -> Option<Ratio> {
        let ours = self.find(workload, variant, pair[0])?;
        ratio(ours, self.find(workload, variant, pair[1])?, metric)
    }

    /// Mistakes in all series.
    pub fn mistakes(&self) -> u64 {
        self.series.iter().map(Series::mistakes).sum()
    }
}

#[cfg(test)]
pub(crate) fn series_of(workload: &'static str, contender: &str, cpu: &[f64]) -> Series {
    let rounds = cpu.iter().map(|&cpu_us| Round {
        cpu_us: Some(cpu_us),
        ..Round::default()
    });
    Series {
        workload,
        contender: contender.into(),
        rounds: rounds.collect(),
        ..Series::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_pairs_the_windows_of_a_round() {
        // A machine that was slow in the second round slowed both.
        let ours = series_of("w", "ours", &[8.0, 80.0, 9.0]);
        let theirs = series_of("w", "theirs", &[10.0, 100.0, 10.0]);
        let found = ratio(&ours, &theirs, |round| round.cpu_us).unwrap();
        assert_eq!(
            found,
            Ratio {
                median: 0.8,
                lower: 0.8,
                upper: 0.8500000000000001
            }
        );
        assert_eq!(ratio(&ours, &theirs, |round| round.p99_us), None);
        let results = Results {
            series: vec![ours, theirs],
        };
        assert!(
            results
                .against("w", "", ["ours", "theirs"], |r| r.cpu_us)
                .is_some()
        );
        assert!(
            results
                .against("w", "", ["ours", "nobody"], |r| r.cpu_us)
                .is_none()
        );
    }

    #[test]
    fn the_calmest_rounds_of_all_are_kept_in_their_order() {
        let with = |contender: &str, shares: [f64; 4]| {
            let mut series = series_of("w", contender, &[1.0, 2.0, 3.0, 4.0]);
            let rounds = series.rounds.iter_mut().zip(shares);
            rounds.for_each(|(round, share)| round.foreign = Some(share));
            series
        };
        // Whoever is disturbed, the round is for all.
        let mut ours = with("ours", [0.02, 0.4, 0.05, 0.09]);
        let mut theirs = with("theirs", [0.3, 0.0, 0.06, 0.01]);
        assert_eq!(calm_rounds(&[&ours, &theirs]), 2);
        assert_eq!(calm_rounds(&[&ours]), 3);
        keep_calmest(vec![&mut ours, &mut theirs], 3);
        for series in [ours, theirs] {
            assert_eq!(series.values(|r| r.cpu_us), [1.0, 3.0, 4.0]);
            assert_eq!(series.disturbed[0].cpu_us, Some(2.0));
        }
    }
}
