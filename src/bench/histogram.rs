//! Latencies in bounded memory: counts in buckets whose width grows with the value.
//!
//! Every power of two is cut into 128 buckets of one width, so a percentile, which is the upper end
//! of its bucket, is never below the exact one and less than 1/128 (0.8 %) above it. Values up to
//! 255 ns are exact, those over 18 minutes count as that much; the smallest, the largest and the
//! mean are exact in any case. One histogram takes 34 KiB, whatever it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::units::to_f64;

/// Buckets of each power of two, as a power of two.
const SUB_BITS: u32 = 7;

/// Buckets of each power of two.
const SUB_BUCKETS: usize = 1 << SUB_BITS;

/// Bits of the largest value that has a bucket of its own, in nanoseconds.
const VALUE_BITS: u32 = 40;

const BUCKETS: usize = ((VALUE_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts that many threads add to.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64]>,
    /// Nanoseconds of all values together.
    sum: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
}

/// What a histogram held at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distribution {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

/// Which share of the values a percentile is not below, in parts of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PerMille(pub(crate) u64);

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
        }
    }

    /// Counts a latency.
    pub(crate) fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
        self.min.fetch_min(nanos, Ordering::Relaxed);
        self.max.fetch_max(nanos, Ordering::Relaxed);
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    /// What it holds now.
    pub(crate) fn distribution(&self) -> Distribution {
        let counts = self.buckets.iter();
        let buckets = counts.map(|count| count.load(Ordering::Relaxed));
        let buckets = buckets.collect::<Vec<_>>();
        Distribution {
            count: buckets.iter().sum(),
            buckets,
            sum: self.sum.load(Ordering::Relaxed),
            min: self.min.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

impl Distribution {
    /// What came since `earlier`, which the same histogram held; the extremes stay those of all.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Self {
            buckets: pairs.map(|(now, before)| now - before).collect(),
            count: self.count - earlier.count,
            sum: self.sum - earlier.sum,
            min: self.min,
            max: self.max,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The latency in milliseconds that the share `of` of all does not exceed; 0 without any.
    pub(crate) fn percentile(&self, of: PerMille) -> f64 {
        let rank = (u128::from(self.count) * u128::from(of.0)).div_ceil(1000);
        let mut left = rank.max(1);
        for (at, count) in self.buckets.iter().enumerate() {
            if u128::from(*count) >= left {
                return millis(upper_end(at).min(self.max));
            }
            left -= u128::from(*count);
        }
        0.0
    }

    /// The smallest latency in milliseconds; 0 without any.
    pub(crate) fn min(&self) -> f64 {
        millis(self.min.min(self.max))
    }

    /// The largest latency in milliseconds; 0 without any.
    pub(crate) fn max(&self) -> f64 {
        millis(self.max)
    }

    /// The mean latency in milliseconds; 0 without any.
    pub(crate) fn mean(&self) -> f64 {
        millis(self.sum) / to_f64(self.count.max(1))
    }
}

fn millis(nanos: u64) -> f64 {
    to_f64(nanos) / 1e6
}

/// The bucket that counts `nanos`.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min((1 << VALUE_BITS) - 1);
    // Below two times the buckets of a power of two, each value has its own.
    let shift = (nanos | (1 << SUB_BITS)).ilog2() - SUB_BITS;
    let within = usize::try_from(nanos >> shift).expect("below 256");
    shift as usize * SUB_BUCKETS + within
}

/// The largest value that counts in a bucket, in nanoseconds.
fn upper_end(bucket: usize) -> u64 {
    let shift = (bucket / SUB_BUCKETS).saturating_sub(1);
    let within = bucket - shift * SUB_BUCKETS;
    ((within as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrambled::scrambled;

    fn of(values: &[u64]) -> Distribution {
        let histogram = Histogram::new();
        for value in values {
            histogram.record(Duration::from_nanos(*value));
        }
        histogram.distribution()
    }

    /// The value of the given rank, by sorting.
    fn exact(values: &[u64], of: PerMille) -> u64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let rank = (sorted.len() as u64 * of.0).div_ceil(1000).max(1);
        sorted[usize::try_from(rank).unwrap() - 1]
    }

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_follow_each_other_without_gaps() {
        let mut next = 0;
        for at in 0..BUCKETS {
            let upper = upper_end(at);
            assert_eq!((bucket(next), bucket(upper)), (at, at), "{next}..={upper}");
            let width = upper - next;
            assert!(width * 128 <= next, "{next}..={upper} is too wide");
            next = upper + 1;
        }
        assert_eq!(next, 1 << VALUE_BITS);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_never_below_the_exact_ones_and_less_than_one_in_128_above() {
        // Sums of powers, flat, constant, and as few as there can be; some with far outliers.
        let shapes: [fn(u64) -> u64; 5] = [
            |random| 1 + (random >> (24 + random % 40)),
            |random| random % 5_000_000,
            |_| 777_777,
            |random| 300_000 + random % 1000 + (random % 97 / 96) * 90_000_000,
            |random| random % 200,
        ];
        for (shape, value) in shapes.iter().enumerate() {
            for len in [1, 2, 3, 10, 999, 1000, 1001, 20_000] {
                let values = (0..len).map(|at| value(scrambled(at)));
                let values = values.map(|value| value.min((1 << VALUE_BITS) - 1));
                let values = values.collect::<Vec<_>>();
                let distribution = of(&values);
                assert_eq!(distribution.count(), len);
                for share in [0, 1, 10, 500, 900, 950, 990, 999, 1000].map(PerMille) {
                    let exact = to_f64(exact(&values, share)) / 1e6;
                    let shown = distribution.percentile(share);
                    assert!(
                        shown >= exact && shown <= exact * (1.0 + 1.0 / 128.0),
                        "shape {shape}, {len} values, {share:?}: {shown} is not {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn extremes_and_mean_are_exact_and_an_outlier_is_not_cut_off() {
        let hour = 3_600_000_000_000;
        let distribution = of(&[1_000_000, 5_000_000, hour]);
        assert_eq!((distribution.min(), distribution.max()), (1.0, 3_600_000.0));
        assert_eq!(distribution.mean(), 1_200_002.0);
        let nothing = of(&[]);
        assert_eq!(
            (nothing.min(), nothing.max(), nothing.mean()),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(nothing.percentile(PerMille(999)), 0.0);
    }

    #[test]
    fn an_interval_holds_what_came_in_it() {
        let histogram = Histogram::new();
        (0..10).for_each(|_| histogram.record(Duration::from_millis(1)));
        let before = histogram.distribution();
        (0..4).for_each(|_| histogram.record(Duration::from_millis(64)));
        let interval = histogram.distribution().since(&before);
        assert_eq!(interval.count(), 4);
        assert!(
            (64.0..64.5).contains(&interval.percentile(PerMille(1))),
            "{interval:?}"
        );
        assert_eq!(interval.mean(), 64.0);
    }
}
