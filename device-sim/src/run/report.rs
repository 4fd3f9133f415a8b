//! What a run shows at its end: the JSON report and the table.

use super::series::Sample;
use super::tally::{Errors, Tally};
use crate::plan::Plan;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Version of the report's layout.
const SCHEMA: &str = "device-sim/run/2";

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The whole schedule was played.
    Completed,
    /// A signal ended the schedule early.
    Interrupted,
    /// No device ever connected.
    Failed,
}

/// The report of a run; counts are readings unless the name says otherwise.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `device-sim/run/2`.
    pub schema: &'static str,
    /// Version of this tool.
    pub version: &'static str,
    /// How the run ended.
    pub outcome: Outcome,
    /// Why it is not as it should be; absent if everything due was sent and answered.
    pub problem: Option<String>,
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
    /// Refused for good.
    pub refused: u64,
    /// Those of `refused` that the plan made the gateway refuse.
    pub refused_planned: u64,
    /// Those of `refused` for which the plan has no reason.
    pub refused_unplanned: u64,
    /// Refused for good, by code, as far as the gateway said it.
    pub refused_by_code: BTreeMap<&'static str, u64>,
    /// Sent, and neither acknowledged nor refused at the end.
    pub unacknowledged: u64,
    /// Due and never sent.
    pub not_sent: u64,
    /// Those of `not_sent` that found the outbox full.
    pub outbox_full: u64,
    /// Those of `not_sent` that the device lost, as the plan wants it.
    pub dropped: u64,
    /// How often each fault of the plan has come about.
    pub faults: BTreeMap<&'static str, u64>,
    /// Connections that got as far as `welcome`.
    pub connections: u64,
    /// Those that were not the first of their device.
    pub reconnects: u64,
    /// Times that the gateway put a batch off.
    pub retries: u64,
    /// What went wrong with connections, by kind.
    pub errors: BTreeMap<&'static str, Errors>,
    /// From the time at which a batch was due to its ack; no batch waits unseen.
    pub ack_latency_ms: Latency,
    /// From the time at which a batch was due to the simulator taking it up: its own lateness.
    pub schedule_lag_ms: Latency,
    /// How the run went over time.
    pub samples: Vec<Sample>,
}

/// What the run was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// The gateway.
    pub url: String,
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// Longest wait for acks after the schedule, in seconds.
    pub drain_timeout_s: f64,
}

/// A distribution, in milliseconds; null where nothing was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
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
        let mut report = Self {
            schema: SCHEMA,
            version: crate::VERSION,
            outcome,
            problem: None,
            settings,
            duration_s: took.as_secs_f64(),
            scheduled,
            sent,
            resent: tally.resent.get(),
            acked,
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
            ack_latency_ms: (&tally.ack_latencies()).into(),
            schedule_lag_ms: (&tally.schedule_lags()).into(),
            samples,
        };
        report.problem = report.find_problem();
        report
    }

    fn find_problem(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.outcome == Outcome::Failed {
            parts.push("no device ever connected".to_owned());
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
        row("devices", self.settings.plan.devices.to_string());
        row("readings due", self.scheduled.to_string());
        row("  sent", share(self.sent, self.scheduled));
        row("  acknowledged", share(self.acked, self.sent));
        row("  refused", self.refused.to_string());
        for (code, count) in &self.refused_by_code {
            row(&format!("    {code}"), count.to_string());
        }
        if !self.settings.plan.faults.is_empty() {
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
        row("ack latency, ms", self.ack_latency_ms.to_string());
        row("schedule lag, ms", self.schedule_lag_ms.to_string());
        row("took, s", format!("{:.1}", self.duration_s));
        out
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
