//! Histograms of times, and their form between processes.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::report::model::Quantiles;

/// The greatest time that is told apart, in microseconds: one hour.
const MOST: u64 = 3_600_000_000;

/// Times in microseconds, to three digits.
#[derive(Debug, Clone)]
pub struct Times(Option<Histogram<u64>>);

impl Default for Times {
    fn default() -> Self {
        // The bounds are constants that the library accepts.
        Self(Histogram::new_with_bounds(1, MOST, 3).ok())
    }
}

/// A histogram between processes: (value, count), in order of the value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sparse(Vec<(u64, u64)>);

impl Times {
    /// Records a time in nanoseconds.
    pub fn record_ns(&mut self, nanoseconds: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record((nanoseconds / 1_000).max(1));
        }
    }

    /// Adds what another process recorded.
    pub fn add(&mut self, other: &Sparse) {
        if let Some(histogram) = &mut self.0 {
            for &(value, count) in &other.0 {
                histogram.saturating_record_n(value, count);
            }
        }
    }

    /// Takes what was recorded, and begins anew.
    pub fn take(&mut self) -> Sparse {
        let Some(histogram) = &mut self.0 else {
            return Sparse::default();
        };
        let values = histogram
            .iter_recorded()
            .map(|value| (value.value_iterated_to(), value.count_at_value()))
            .collect();
        histogram.reset();
        Sparse(values)
    }

    /// The quantiles.
    #[must_use]
    pub fn quantiles(&self) -> Quantiles {
        let Some(histogram) = self.0.as_ref().filter(|h| !h.is_empty()) else {
            return Quantiles::default();
        };
        Quantiles {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            p9999: histogram.value_at_quantile(0.9999),
            max: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_recorded_adds_to_another() {
        let (mut one, mut all) = (Times::default(), Times::default());
        for time in 1..=1_000u64 {
            one.record_ns(time * 1_000);
        }
        let sparse = one.take();
        assert_eq!(one.quantiles(), Quantiles::default());
        all.add(&sparse);
        all.add(&sparse);
        let quantiles = all.quantiles();
        assert_eq!(
            (quantiles.count, quantiles.p50, quantiles.p99),
            (2_000, 500, 990)
        );
        assert_eq!(quantiles.max, 1_000);
    }
}
