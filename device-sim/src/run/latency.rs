//! Distributions of latencies as a report has them: a few percentiles, and the whole of it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A distribution, in milliseconds; null where nothing was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of all are at most this.
    pub p50: Option<f64>,
    /// 90 %.
    pub p90: Option<f64>,
    /// 99 %.
    pub p99: Option<f64>,
    /// 99.9 %.
    pub p999: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// How many were measured: batches.
    pub count: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of at most an hour")]
        let ms = |microseconds: u64| (!histogram.is_empty()).then(|| microseconds as f64 / 1e3);
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(histogram.max()),
            count: histogram.len(),
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50, p90, p99, p999, max, .. } = self;
        for (name, value) in
            [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)]
        {
            match value {
                Some(value) => write!(f, "{name} {value:.1}  ")?,
                None => write!(f, "{name} –  ")?,
            }
        }
        Ok(())
    }
}

/// A whole distribution: how many batches had each value. The values are microseconds, each the
/// upper end of a step that the histogram tells apart, so distributions of the same kind add up
/// without any loss.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Distribution(pub BTreeMap<u64, u64>);

impl From<&Histogram<u64>> for Distribution {
    fn from(histogram: &Histogram<u64>) -> Self {
        let steps = histogram.iter_recorded();
        Self(steps.map(|step| (step.value_iterated_to(), step.count_at_value())).collect())
    }
}

impl Distribution {
    /// Adds another one of the same kind.
    pub(super) fn add(&mut self, other: &Self) {
        for (&value, &count) in &other.0 {
            *self.0.entry(value).or_default() += count;
        }
    }

    /// Its percentiles, as a histogram of the same kind would have them.
    pub(super) fn latency(&self, mut kind: Histogram<u64>) -> Latency {
        for (&value, &count) in &self.0 {
            kind.saturating_record_n(value, count);
        }
        (&kind).into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tally::{histogram, recent};
    use super::*;

    #[test]
    fn distributions_add_up_without_loss() {
        for kind in [histogram, recent] {
            let (mut all, mut sum) = (kind(), Distribution::default());
            for part in 0..3_u64 {
                let mut histogram = kind();
                for n in 0..10_000_u64 {
                    let value = (n * n * (part + 1)) % 7_000_000;
                    histogram.saturating_record(value);
                    all.saturating_record(value);
                }
                histogram.saturating_record(u64::MAX);
                all.saturating_record(u64::MAX);
                let written = serde_json::to_string(&Distribution::from(&histogram)).unwrap();
                sum.add(&serde_json::from_str(&written).unwrap());
            }
            assert_eq!(sum, Distribution::from(&all));
            assert_eq!(sum.latency(kind()), Latency::from(&all));
        }
        assert_eq!(Distribution::default().latency(histogram()), Latency::default());
    }
}
