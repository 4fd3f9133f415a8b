//! What the generator counts, and what it says of it.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Shortest latency that is told from others, in nanoseconds.
const SHORTEST_NS: u64 = 1_000;
/// Longest latency that is told from others, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 3;

/// What the generator says; one line each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Said {
    /// Everybody is connected and welcome.
    Ready {
        /// From the first to the last.
        connect_s: f64,
        /// What TLS agreed on.
        cipher: String,
    },
    /// Answer to `mark` and `stop`.
    Counts {
        /// Messages sent.
        sent: u64,
        /// Messages acknowledged.
        acked: u64,
        /// Frames that acknowledged them.
        answers: u64,
        /// Messages that were due and could not be sent, for the window was full.
        waiting: u64,
        /// In the open loop: of the messages that were due between the marks.
        latency: Option<Latency>,
    },
    /// The end.
    Failed {
        /// Why.
        reason: String,
    },
}

/// From the moment a message was meant to be sent to its acknowledgement, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Messages.
    pub count: u64,
    /// Half are faster.
    pub p50_us: f64,
    /// 99 of 100 are faster.
    pub p99_us: f64,
    /// 999 of 1,000 are faster.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Said {
    /// Says it.
    pub(super) fn say(&self) {
        println!("{}", serde_json::to_string(self).expect("plain data is always JSON"));
    }
}

/// What is counted.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) answers: u64,
    /// Batches that were due in this stretch are measured.
    marks: (Option<Instant>, Option<Instant>),
    latency: Histogram<u64>,
}

impl Counts {
    pub(super) fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, DIGITS)?;
        Ok(Self { sent: 0, acked: 0, answers: 0, marks: (None, None), latency })
    }

    /// A stretch begins, or ends.
    pub(super) fn mark(&mut self, now: Instant) {
        self.marks = match self.marks {
            (Some(from), None) => (Some(from), Some(now)),
            _ => {
                self.latency.reset();
                (Some(now), None)
            }
        };
    }

    /// Answer to `mark` and `stop`.
    pub(super) fn told(&self, waiting: u64) -> Said {
        let Self { sent, acked, answers, .. } = *self;
        Said::Counts { sent, acked, answers, waiting, latency: self.latencies() }
    }

    /// A batch that was meant to be sent at `intended` is acknowledged.
    pub(super) fn latency(&mut self, intended: Instant, now: Instant) {
        let (Some(from), to) = self.marks else { return };
        if intended >= from && to.is_none_or(|to| intended < to) {
            let ns = u64::try_from(now.duration_since(intended).as_nanos()).unwrap_or(u64::MAX);
            self.latency.saturating_record(ns);
        }
    }

    fn latencies(&self) -> Option<Latency> {
        let us = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1_000.0;
        (!self.latency.is_empty()).then(|| Latency {
            count: self.latency.len(),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.latency.max() as f64 / 1_000.0,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn latencies_are_those_of_what_was_due_between_the_marks() {
        let mut counts = Counts::new().unwrap();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        counts.latency(at(0), at(5));
        counts.mark(at(10));
        counts.latency(at(9), at(500));
        counts.latency(at(11), at(14));
        counts.mark(at(20));
        // Due before the end, answered after it: it counts. Due after it: it does not.
        counts.latency(at(19), at(69));
        counts.latency(at(21), at(900));
        let latency = counts.latencies().unwrap();
        assert_eq!(latency.count, 2);
        assert!((latency.max_us - 50_000.0).abs() < 100.0, "{}", latency.max_us);
        counts.mark(at(30));
        assert_eq!(counts.latencies(), None);
    }
}
