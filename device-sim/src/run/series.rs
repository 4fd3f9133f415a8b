//! How a run went over time: a sample every second, every few seconds in a long run.

use super::fleet::Fleet;
use super::latency::{Distribution, Latency};
use super::tally::lock;
use crate::plan::Plan;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Most samples of the schedule; a longer run is sampled less often.
const MAX_SAMPLES: u64 = 600;
/// Samples in all: the draining after the schedule is sampled too.
const MAX_SAMPLES_IN_ALL: usize = 1_200;

/// What was known at one moment. Counts are readings since the start unless the name says
/// otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the start.
    pub t_s: f64,
    /// Devices that are connected.
    pub connected: u64,
    /// Due by the schedule.
    pub scheduled: u64,
    /// Sent at least once.
    pub sent: u64,
    /// Acknowledged, without those refused.
    pub acked: u64,
    /// Refused for good.
    pub refused: u64,
    /// Refused for good, by code, as far as the gateway said it.
    pub refused_by_code: BTreeMap<String, u64>,
    /// Due and never to be sent: the outbox was full, or the plan wants it so.
    pub given_up: u64,
    /// Connections that were not the first of their device.
    pub reconnects: u64,
    /// From the time at which a batch was due to its ack, of the acks since the sample before.
    pub ack_latency_ms: Latency,
    /// The same, whole, in the report of a shard: so the shards can be merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_latency_us: Option<Distribution>,
    /// From the time at which a batch was due to the simulator taking it up, of the batches taken
    /// up since the sample before.
    pub schedule_lag_ms: Latency,
    /// The same, whole, in the report of a shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_lag_us: Option<Distribution>,
}

impl Sample {
    /// Due, and neither answered nor given up: what the devices still hold.
    pub fn waiting(&self) -> u64 {
        let done = self.acked + self.refused + self.given_up;
        self.scheduled.saturating_sub(done)
    }
}

/// The rate at which a count has grown.
pub(super) fn per_second(now: u64, before: u64, seconds: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with few digits")]
    let grown = now.saturating_sub(before) as f64;
    if seconds > 0.0 { grown / seconds } else { 0.0 }
}

/// The samples so far.
#[derive(Debug)]
pub(super) struct Series {
    samples: Mutex<Vec<Sample>>,
    newest: watch::Sender<Sample>,
}

impl Series {
    pub(super) fn new() -> Self {
        Self { samples: Mutex::default(), newest: watch::Sender::new(Sample::default()) }
    }

    /// The newest sample, and every later one.
    pub(super) fn newest(&self) -> watch::Receiver<Sample> {
        self.newest.subscribe()
    }

    /// All samples so far.
    pub(super) fn taken(&self) -> Vec<Sample> {
        lock(&self.samples).clone()
    }

    /// Takes one more sample now.
    pub(super) fn take(&self, fleet: &Fleet) {
        let sample = sample(fleet);
        let mut samples = lock(&self.samples);
        if samples.len() < MAX_SAMPLES_IN_ALL {
            samples.push(sample.clone());
        }
        self.newest.send_replace(sample);
    }
}

/// Takes samples until it is dropped. Cancel safe.
pub(super) async fn watch(fleet: Arc<Fleet>, series: &Series) {
    let every = interval(&fleet.plan);
    let mut next = fleet.start;
    loop {
        next += every;
        sleep_until(next).await;
        series.take(&fleet);
        // What was slept through is not made up for.
        next = next.max(Instant::now().checked_sub(every).unwrap_or(next));
    }
}

/// From one sample to the next: whole seconds.
pub(super) fn interval(plan: &Plan) -> Duration {
    let duration = Duration::from_nanos(plan.duration_ns);
    Duration::from_secs(duration.as_secs().div_ceil(MAX_SAMPLES).max(1))
}

fn sample(fleet: &Fleet) -> Sample {
    let tally = &fleet.tally;
    let acks = tally.ack_latencies().take_recent();
    let lags = tally.schedule_lags().take_recent();
    let whole = |of: &Histogram<u64>| fleet.plan.shard.map(|_| of.into());
    Sample {
        t_s: fleet.start.elapsed().as_secs_f64(),
        connected: tally.connected.get(),
        scheduled: tally.scheduled.get(),
        sent: tally.sent.get(),
        acked: tally.acked.get(),
        refused: tally.refused_planned.get() + tally.refused_unplanned.get(),
        refused_by_code: tally.refused_by_code(),
        given_up: tally.shed.get() + tally.dropped.get(),
        reconnects: tally.reconnects.get(),
        ack_latency_ms: (&acks).into(),
        ack_latency_us: whole(&acks),
        schedule_lag_ms: (&lags).into(),
        schedule_lag_us: whole(&lags),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    #[test]
    fn a_long_run_is_sampled_less_often() {
        for (seconds, every) in [(0, 1), (20, 1), (600, 1), (601, 2), (86_400, 144)] {
            let plan = Plan { duration_ns: seconds * 1_000_000_000, ..plan() };
            assert_eq!(interval(&plan), Duration::from_secs(every));
        }
    }

    #[test]
    fn what_waits_is_neither_answered_nor_given_up() {
        let sample =
            Sample { scheduled: 100, acked: 60, refused: 5, given_up: 20, ..Sample::default() };
        assert_eq!(sample.waiting(), 15);
        assert!((per_second(60, 10, 2.0) - 25.0).abs() < 1e-9);
        assert!(per_second(60, 10, 0.0).abs() < 1e-9, "no time has passed");
    }
}
