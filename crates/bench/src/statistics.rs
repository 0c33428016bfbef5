//! Medians and spreads of a few rounds, and a histogram of many times.
//!
//! Decides:  the median of an even count is the mean of the middle two; a time in the histogram is
//!           known to 1/64 of itself.
//! Not here: what is measured (measure.rs).

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[middle - 1] + upper) / 2.0)
}

/// The lower and the upper quartile, between two values where they fall there; `None` of nothing.
pub fn quartiles(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        let below = sorted[place as usize];
        let above = sorted[(place as usize + 1).min(last)];
        below + (above - below) * place.fract()
    };
    Some((at(0.25), at(0.75)))
}

/// Steps within each power of two, as a power of two.
const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;
/// Times above 2^40 ns (18 minutes) share the last bucket.
const POWERS: usize = 40 - STEP_BITS as usize + 1;

/// How often each time was seen, ns.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: vec![0; STEPS * (POWERS + 1)],
            count: 0,
        }
    }
}

impl Histogram {
    /// Adds one time.
    pub fn add(&mut self, ns: u64) {
        let last = self.buckets.len() - 1;
        self.buckets[bucket_of(ns).min(last)] += 1;
        self.count += 1;
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that `share` (0 to 1) of all do not exceed, ns; `None` of nothing.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let wanted = ((share * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (bucket, &times) in self.buckets.iter().enumerate() {
            seen += u64::from(times);
            if seen >= wanted {
                return Some(middle_of(bucket));
            }
        }
        None
    }
}

/// Linear up to twice the steps, then so many steps for each power of two.
fn bucket_of(ns: u64) -> usize {
    let power = (u64::BITS - (ns >> STEP_BITS).leading_zeros()) as usize;
    if power <= 1 {
        return ns as usize;
    }
    let shift = power - 1;
    shift * STEPS + (ns >> shift) as usize
}

fn middle_of(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    let low = ((bucket - shift * STEPS) as u64) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let table: [(&[f64], Option<f64>); 5] = [
            (&[], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0, 5.0], Some(5.0)),
            (&[4.0, 1.0, 2.0, 100.0], Some(3.0)),
            (&[2.0, 2.0, 1.0, 9.0, 8.0], Some(2.0)),
        ];
        for (values, expected) in table {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn half_of_the_values_lie_between_the_quartiles() {
        let table: [(&[f64], f64, f64); 3] = [
            (&[3.0], 3.0, 3.0),
            (&[4.0, 1.0, 2.0], 1.5, 3.0),
            (&[5.0, 1.0, 2.0, 4.0, 3.0], 2.0, 4.0),
        ];
        for (values, lower, upper) in table {
            assert_eq!(quartiles(values), Some((lower, upper)), "{values:?}");
        }
        assert_eq!(quartiles(&[]), None);
    }

    #[test]
    fn buckets_follow_each_other_without_a_hole() {
        let mut before = 0;
        for ns in 0..200_000u64 {
            let bucket = bucket_of(ns);
            assert!(bucket == before || bucket == before + 1, "{ns}");
            before = bucket;
        }
    }

    #[test]
    fn a_time_comes_back_to_within_a_sixty_fourth() {
        for power in 0..40 {
            for offset in [0, 1, 3, 12_345] {
                let ns = (1u64 << power) + offset % (1 << power);
                let mut histogram = Histogram::default();
                histogram.add(ns);
                let back = histogram.quantile(0.5).unwrap();
                assert!(back.abs_diff(ns) <= ns / 64, "{ns} came back as {back}");
            }
        }
        let mut histogram = Histogram::default();
        histogram.add(u64::MAX);
        assert!(histogram.quantile(1.0).unwrap() >= 1 << 39);
    }

    #[test]
    fn quantiles_are_those_of_a_sorted_list() {
        let mut histogram = Histogram::default();
        (1..=1000u64).for_each(|n| histogram.add(n * 1000));
        assert_eq!(histogram.count(), 1000);
        for (share, expected) in [(0.5, 500_000u64), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = histogram.quantile(share).unwrap();
            assert!(
                found.abs_diff(expected) <= expected / 64,
                "{share}: {found}"
            );
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
