//! What a run counts: readings, connections, errors, latencies.
//!
//! Devices add to it from many tasks; progress and report read it. Counts are readings unless the
//! name says otherwise.

use hdrhistogram::{AdditionError, Histogram};
use proto::ErrorCode;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Largest latency that is told apart, in microseconds: an hour.
const MAX_LATENCY_US: u64 = 3_600_000_000;
/// Histograms that share the recording, so that the threads seldom meet at one lock.
const SHARDS: usize = 4;

/// A number that many tasks add to.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes away.
    pub(super) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    /// The number now.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Everything that a run counts.
#[derive(Debug)]
pub(super) struct Tally {
    /// Due by the schedule so far.
    pub(super) scheduled: Count,
    /// Sent at least once.
    pub(super) sent: Count,
    /// Sent again.
    pub(super) resent: Count,
    /// Acknowledged, without those refused.
    pub(super) acked: Count,
    /// Due, but the outbox was full: never sent.
    pub(super) shed: Count,
    /// Due, and lost by the device, as the plan wants it: never sent.
    pub(super) dropped: Count,
    /// Refused for good, as the plan wants it, in batches that are acknowledged.
    pub(super) refused_planned: Count,
    /// Refused for good although the plan foresaw nothing, in batches that are acknowledged.
    pub(super) refused_unplanned: Count,
    /// Connections that are open now.
    pub(super) connected: Count,
    /// Connections that got as far as `welcome`.
    pub(super) welcomes: Count,
    /// Those of them that were not the first of their device.
    pub(super) reconnects: Count,
    /// Times that the gateway asked to send a batch again later.
    pub(super) retries: Count,
    refused: Mutex<BTreeMap<ErrorCode, u64>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    errors: Mutex<BTreeMap<&'static str, Errors>>,
    ack_latency: Latencies,
    schedule_lag: Latencies,
}

/// When a batch was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// While devices were still connecting for the first time.
    InTheRamp,
    /// While the plan kept its device from the gateway.
    Away,
    /// At any other time.
    Steadily,
}

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// The first one, for a person.
    pub first: String,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            scheduled: Count::default(),
            sent: Count::default(),
            resent: Count::default(),
            acked: Count::default(),
            shed: Count::default(),
            dropped: Count::default(),
            refused_planned: Count::default(),
            refused_unplanned: Count::default(),
            connected: Count::default(),
            welcomes: Count::default(),
            reconnects: Count::default(),
            retries: Count::default(),
            refused: Mutex::default(),
            faults: Mutex::default(),
            errors: Mutex::default(),
            ack_latency: Latencies::new(),
            schedule_lag: Latencies::new(),
        }
    }
}

impl Tally {
    /// Readings were refused for good.
    pub(super) fn refused(&self, code: ErrorCode, readings: u64) {
        *lock(&self.refused).entry(code).or_default() += readings;
    }

    /// Refused readings by code.
    pub(super) fn refused_by_code(&self) -> BTreeMap<String, u64> {
        let refused = lock(&self.refused);
        refused.iter().map(|(code, count)| (code.as_str().to_owned(), *count)).collect()
    }

    /// A fault of the plan has come about.
    pub(super) fn fault(&self, name: &'static str) {
        *lock(&self.faults).entry(name).or_default() += 1;
    }

    /// Faults that have come about, by kind.
    pub(super) fn faults(&self) -> BTreeMap<String, u64> {
        let faults = lock(&self.faults);
        faults.iter().map(|(&name, count)| (name.to_owned(), *count)).collect()
    }

    /// Something went wrong with a connection.
    pub(super) fn error(&self, kind: &'static str, sentence: impl FnOnce() -> String) {
        let mut errors = lock(&self.errors);
        let known = errors.entry(kind);
        known.or_insert_with(|| Errors { count: 0, first: sentence() }).count += 1;
    }

    /// Errors by kind.
    pub(super) fn errors(&self) -> BTreeMap<String, Errors> {
        let errors = lock(&self.errors);
        errors.iter().map(|(&kind, errors)| (kind.to_owned(), errors.clone())).collect()
    }

    /// A batch was acknowledged so long after the time at which it was due.
    pub(super) fn ack_latency(&self, device: u32, due: Due, latency: Duration) {
        self.ack_latency.record(device, due, latency);
    }

    /// The simulator itself took up a batch so long after the time at which it was due.
    pub(super) fn schedule_lag(&self, device: u32, due: Due, lag: Duration) {
        self.schedule_lag.record(device, due, lag);
    }

    /// From the time at which a batch was due to its ack.
    pub(super) fn ack_latencies(&self) -> &Latencies {
        &self.ack_latency
    }

    /// From the time at which a batch was due to the simulator taking it up.
    pub(super) fn schedule_lags(&self) -> &Latencies {
        &self.schedule_lag
    }
}

/// Latencies of one kind, in microseconds.
#[derive(Debug)]
pub(super) struct Latencies {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug)]
struct Shard {
    other: Histogram<u64>,
    steady: Histogram<u64>,
    /// Since somebody asked for what is recent.
    recent: Histogram<u64>,
}

impl Latencies {
    fn new() -> Self {
        let shard =
            |_| Mutex::new(Shard { other: histogram(), steady: histogram(), recent: recent() });
        Self { shards: std::array::from_fn(shard) }
    }

    fn record(&self, device: u32, due: Due, latency: Duration) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut shard = lock(&self.shards[device as usize % SHARDS]);
        let whole = match due {
            Due::InTheRamp | Due::Away => &mut shard.other,
            Due::Steadily => &mut shard.steady,
        };
        whole.saturating_record(microseconds);
        shard.recent.saturating_record(microseconds);
    }

    /// Those of all batches so far.
    pub(super) fn all(&self) -> Histogram<u64> {
        self.sum(|shard, sum| sum.add(&shard.other).and_then(|()| sum.add(&shard.steady)))
    }

    /// Those of the batches that were due steadily.
    pub(super) fn steady(&self) -> Histogram<u64> {
        self.sum(|shard, sum| sum.add(&shard.steady))
    }

    fn sum(
        &self,
        add: impl Fn(&Shard, &mut Histogram<u64>) -> Result<(), AdditionError>,
    ) -> Histogram<u64> {
        let mut sum = histogram();
        for shard in &self.shards {
            add(&lock(shard), &mut sum).expect("histograms of the same bounds");
        }
        sum
    }

    /// Those since this was asked before.
    pub(super) fn take_recent(&self) -> Histogram<u64> {
        let mut all = recent();
        for shard in &self.shards {
            let mut shard = lock(shard);
            all.add(&shard.recent).expect("histograms of the same bounds");
            shard.recent.reset();
        }
        all
    }
}

/// A distribution of a whole run: values are told apart to a thousandth.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("bounds are valid")
}

/// A distribution of a moment: values are told apart to a hundredth.
pub(super) fn recent() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 2).expect("bounds are valid")
}

/// A device that panicked leaves its numbers as they were.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_all_shards_come_together() {
        let tally = Tally::default();
        for device in 0..100 {
            tally.ack_latency(device, Due::Steadily, Duration::from_millis(u64::from(device) + 1));
        }
        let all = tally.ack_latencies().all();
        assert_eq!(all.len(), 100);
        assert!(all.value_at_quantile(0.5).abs_diff(50_000) < 100);
        assert!(all.max().abs_diff(100_000) < 200);
        assert_eq!(tally.schedule_lags().all().len(), 0);
    }

    #[test]
    fn what_is_recent_is_told_once() {
        let tally = Tally::default();
        tally.ack_latency(0, Due::Steadily, Duration::from_millis(5));
        tally.ack_latency(1, Due::Steadily, Duration::from_millis(7));
        assert_eq!(tally.ack_latencies().take_recent().len(), 2);
        tally.ack_latency(1, Due::Steadily, Duration::from_millis(900));
        let recent = tally.ack_latencies().take_recent();
        assert_eq!(recent.len(), 1);
        assert!(recent.max().abs_diff(900_000) < 10_000);
        assert_eq!(tally.ack_latencies().take_recent().len(), 0);
        assert_eq!(tally.ack_latencies().all().len(), 3);
    }

    #[test]
    fn what_was_due_in_the_ramp_or_without_a_link_is_told_apart() {
        let tally = Tally::default();
        tally.ack_latency(0, Due::InTheRamp, Duration::from_secs(1));
        tally.ack_latency(1, Due::Steadily, Duration::from_millis(2));
        tally.ack_latency(2, Due::Away, Duration::from_secs(60));
        let latencies = tally.ack_latencies();
        assert_eq!((latencies.all().len(), latencies.steady().len()), (3, 1));
        assert!(latencies.all().max() >= 60_000_000 && latencies.steady().max() < 3_000);
        assert_eq!(latencies.take_recent().len(), 3, "a moment has both");
    }

    #[test]
    fn an_endless_latency_is_the_largest() {
        let tally = Tally::default();
        tally.ack_latency(0, Due::Steadily, Duration::MAX);
        assert!(tally.ack_latencies().all().max() >= MAX_LATENCY_US);
    }

    #[test]
    fn errors_keep_the_first_sentence_of_their_kind() {
        let tally = Tally::default();
        tally.error("refused", || "first".to_owned());
        tally.error("refused", || "second".to_owned());
        let expected = Errors { count: 2, first: "first".to_owned() };
        assert_eq!(tally.errors()["refused"], expected);
    }
}
