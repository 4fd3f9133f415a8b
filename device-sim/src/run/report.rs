//! What a run shows at its end: the JSON report and the table.

use super::latency::{Distribution, Latency};
use super::series::{Sample, per_second};
use super::tally::{Errors, Tally};
use crate::plan::Plan;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Version of the report's layout: 2 had no distributions and could not be merged, 3 did not tell
/// the ramp from what comes after it.
pub(super) const SCHEMA: &str = "device-sim/run/4";

/// What latencies of a closed loop leave out.
pub(super) const CLOSED_LOOP_WARNING: &str = "while the gateway stalls nothing is due: these latencies leave out what a fleet would have \
     sent meanwhile (coordinated omission)";

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The whole schedule was played.
    Completed,
    /// A signal ended the schedule early.
    Interrupted,
    /// No device ever connected; of several shards: none of one of them.
    Failed,
}

/// What makes a batch due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadMode {
    /// The schedule.
    OpenLoop,
    /// The ack of one before it.
    ClosedLoop,
}

/// The report of a run; counts are readings unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `device-sim/run/4`.
    pub schema: String,
    /// Version of this tool.
    pub version: String,
    /// How the run ended.
    pub outcome: Outcome,
    /// Why it is not as it should be; absent if everything due was sent and answered.
    pub problem: Option<String>,
    /// Whether the latencies tell how a fleet is served: those of a closed loop do not.
    pub mode: LoadMode,
    /// Of how many shards this was merged; absent in the report of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
    /// What the run was asked for.
    pub settings: Settings,
    /// From the start of the schedule to the end of the last device, in seconds.
    pub duration_s: f64,
    /// Due by the schedule.
    pub scheduled: u64,
    /// Sent at least once.
    pub sent: u64,
    /// Sent again, after a reconnect or because the gateway asked for it.
    pub resent: u64,
    /// Acknowledged, without those refused.
    pub acked: u64,
    /// Those a second, over the whole duration.
    pub acked_per_s: f64,
    /// Refused for good.
    pub refused: u64,
    /// Those of `refused` that the plan made the gateway refuse.
    pub refused_planned: u64,
    /// Those of `refused` for which the plan has no reason.
    pub refused_unplanned: u64,
    /// Refused for good, by code, as far as the gateway said it.
    pub refused_by_code: BTreeMap<String, u64>,
    /// Sent, and neither acknowledged nor refused at the end.
    pub unacknowledged: u64,
    /// Due and never sent.
    pub not_sent: u64,
    /// Those of `not_sent` that found the outbox full.
    pub outbox_full: u64,
    /// Those of `not_sent` that the device lost, as the plan wants it.
    pub dropped: u64,
    /// How often each fault of the plan has come about.
    pub faults: BTreeMap<String, u64>,
    /// Connections that got as far as `welcome`.
    pub connections: u64,
    /// Those that were not the first of their device.
    pub reconnects: u64,
    /// Times that the gateway put a batch off.
    pub retries: u64,
    /// What went wrong with connections, by kind.
    pub errors: BTreeMap<String, Errors>,
    /// From the time at which a batch was due to its ack; no batch waits unseen.
    pub ack_latency_ms: Latency,
    /// From the time at which a batch was due to the simulator taking it up: its own lateness.
    pub schedule_lag_ms: Latency,
    /// The same, whole: how many batches had each latency, by microseconds.
    pub ack_latency_us: Distribution,
    /// The same, whole.
    pub schedule_lag_us: Distribution,
    /// The same four figures of the batches that were due after the ramp, and while the plan kept
    /// their devices not away.
    pub steady: Steady,
    /// How the run went over time.
    pub samples: Vec<Sample>,
}

/// How a fleet is served that is there, without the cost of its coming and without what the plan
/// does to it: of the batches that were due after the ramp, by devices that had a link and a valid
/// credential by the plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    /// From the time at which a batch was due to its ack.
    pub ack_latency_ms: Latency,
    /// From the time at which a batch was due to the simulator taking it up.
    pub schedule_lag_ms: Latency,
    /// The same, whole.
    pub ack_latency_us: Distribution,
    /// The same, whole.
    pub schedule_lag_us: Distribution,
}

/// What the run was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The gateway.
    pub url: String,
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// Longest wait for acks after the schedule, in seconds.
    pub drain_timeout_s: f64,
}

impl Steady {
    fn of(acks: &Histogram<u64>, lags: &Histogram<u64>) -> Self {
        Self {
            ack_latency_ms: acks.into(),
            schedule_lag_ms: lags.into(),
            ack_latency_us: acks.into(),
            schedule_lag_us: lags.into(),
        }
    }
}

impl Report {
    /// The report of what was counted.
    pub(super) fn new(
        tally: &Tally,
        samples: Vec<Sample>,
        settings: Settings,
        outcome: Outcome,
        took: Duration,
    ) -> Self {
        let (scheduled, sent) = (tally.scheduled.get(), tally.sent.get());
        let (planned, unplanned) = (tally.refused_planned.get(), tally.refused_unplanned.get());
        let (acked, refused) = (tally.acked.get(), planned + unplanned);
        let mode = match settings.plan.closed_loop {
            None => LoadMode::OpenLoop,
            Some(_) => LoadMode::ClosedLoop,
        };
        let (acks, lags) = (tally.ack_latencies(), tally.schedule_lags());
        let (ack_latencies, schedule_lags) = (acks.all(), lags.all());
        let mut report = Self {
            schema: SCHEMA.to_owned(),
            version: crate::VERSION.to_owned(),
            outcome,
            problem: None,
            mode,
            shards: None,
            settings,
            duration_s: took.as_secs_f64(),
            scheduled,
            sent,
            resent: tally.resent.get(),
            acked,
            acked_per_s: per_second(acked, 0, took.as_secs_f64()),
            refused,
            refused_planned: planned,
            refused_unplanned: unplanned,
            refused_by_code: tally.refused_by_code(),
            unacknowledged: sent.saturating_sub(acked + refused),
            not_sent: scheduled.saturating_sub(sent),
            outbox_full: tally.shed.get(),
            dropped: tally.dropped.get(),
            faults: tally.faults(),
            connections: tally.welcomes.get(),
            reconnects: tally.reconnects.get(),
            retries: tally.retries.get(),
            errors: tally.errors(),
            ack_latency_ms: (&ack_latencies).into(),
            schedule_lag_ms: (&schedule_lags).into(),
            ack_latency_us: (&ack_latencies).into(),
            schedule_lag_us: (&schedule_lags).into(),
            steady: Steady::of(&acks.steady(), &lags.steady()),
            samples,
        };
        report.problem = report.find_problem();
        report
    }

    pub(super) fn find_problem(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.outcome == Outcome::Failed {
            let of = if self.shards.is_some() { " of a shard" } else { "" };
            parts.push(format!("no device{of} ever connected"));
        } else if self.scheduled == 0 {
            parts.push("nothing was due: the run is too short for its --interval".to_owned());
        }
        if self.outbox_full > 0 {
            parts.push(format!("{} readings found the outbox full", self.outbox_full));
        }
        if self.refused_unplanned > 0 && !self.settings.plan.faults.is_empty() {
            let count = self.refused_unplanned;
            parts.push(format!("{count} readings were refused, and no fault of the plan says why"));
        }
        let unsent = self.not_sent.saturating_sub(self.outbox_full + self.dropped);
        if unsent > 0 {
            parts.push(format!("{unsent} readings were not sent in time"));
        }
        if self.unacknowledged > 0 {
            parts.push(format!("{} readings were sent and not acknowledged", self.unacknowledged));
        }
        if parts.is_empty() {
            return None;
        }
        // The commonest cause says most.
        let cause = self.errors.values().max_by_key(|errors| errors.count);
        parts.extend(cause.map(|errors| errors.first.clone()));
        Some(parts.join("; "))
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<22} {value}");
        };
        let share = |part: u64, whole: u64| match whole {
            0 => part.to_string(),
            #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
            _ => format!("{part}  ({:.2} %)", part as f64 * 100.0 / whole as f64),
        };
        let plan = &self.settings.plan;
        row("devices", plan.own_count().to_string());
        if let Some(shard) = plan.shard {
            row("shard", format!("{shard} of {} devices", plan.devices));
        }
        if let Some(shards) = self.shards {
            row("shards", shards.to_string());
        }
        row("readings due", self.scheduled.to_string());
        row("  sent", share(self.sent, self.scheduled));
        row("  acknowledged", share(self.acked, self.sent));
        row("  refused", self.refused.to_string());
        for (code, count) in &self.refused_by_code {
            row(&format!("    {code}"), count.to_string());
        }
        if !plan.faults.is_empty() {
            row("    foreseen", self.refused_planned.to_string());
        }
        row("  not acknowledged", self.unacknowledged.to_string());
        row("  not sent", self.not_sent.to_string());
        row("  sent again", self.resent.to_string());
        for (name, count) in &self.faults {
            row(&format!("fault {name}"), format!("{count} times"));
        }
        row("reconnects", self.reconnects.to_string());
        for (kind, errors) in &self.errors {
            row(&format!("  {kind}"), format!("{} × {}", errors.count, errors.first));
        }
        row("acknowledged a second", format!("{:.0}", self.acked_per_s));
        row("ack latency, ms", self.ack_latency_ms.to_string());
        row("  steady", self.steady.ack_latency_ms.to_string());
        if let Some(in_flight) = plan.closed_loop {
            row("  of a closed loop", format!("each device with {in_flight} in flight"));
            row("", CLOSED_LOOP_WARNING.to_owned());
        }
        row("schedule lag, ms", self.schedule_lag_ms.to_string());
        row("  steady", self.steady.schedule_lag_ms.to_string());
        row("took, s", format!("{:.1}", self.duration_s));
        out
    }
}
