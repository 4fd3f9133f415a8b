//! Every metric: name, help, unit, buckets. Handles are looked up once and cloned.
//!
//! Prefix `gateway_`, base units, `_total` on counters. Labels come from closed sets only
//! (`code`, `sink`, `reason`, `outcome`, `result`): never a device, never a text from outside.

use crate::{
    record::Position,
    sink::{Dropped, Ledger},
};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use proto::ErrorCode;
use std::{collections::BTreeMap, sync::Arc};

/// Latencies in seconds: from a sync of a fast disk (0.1 ms) to the deadline of a device (60 s),
/// about three per decade.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
/// Counts of things that are taken together: powers of four up to the largest group.
const COUNTS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0];

const METADATA: Metadata<'static> = Metadata::new("gateway", Level::INFO, None);

/// The registry that every room gets its handles from.
#[derive(Clone)]
pub struct Registry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for (suffix, buckets) in
            [("_seconds", SECONDS), ("_batches", COUNTS), ("_readings", COUNTS)]
        {
            builder =
                match builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets) {
                    Ok(builder) => builder,
                    Err(_) => unreachable!("the bucket lists are not empty"),
                };
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { recorder: Arc::new(recorder), handle }
    }

    /// The exposition in the Prometheus text format.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }

    fn key(&self, name: &'static str, labels: &[(&'static str, SharedString)]) -> Key {
        let labels: Vec<Label> =
            labels.iter().map(|(name, value)| Label::new(*name, value.clone())).collect();
        Key::from_parts(name, labels)
    }

    /// A counter.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, SharedString)],
    ) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_counter(&self.key(name, labels), &METADATA)
    }

    /// A gauge.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, SharedString)],
    ) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_gauge(&self.key(name, labels), &METADATA)
    }

    /// A histogram; its buckets follow from the suffix of its name.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        unit: Option<Unit>,
        labels: &[(&'static str, SharedString)],
    ) -> Histogram {
        self.recorder.describe_histogram(KeyName::from_const_str(name), unit, help.into());
        self.recorder.register_histogram(&self.key(name, labels), &METADATA)
    }

    /// One counter per error code, under the label `code`.
    pub fn by_code(&self, name: &'static str, help: &'static str) -> ByCode {
        ByCode(Arc::new(
            ErrorCode::ALL
                .iter()
                .map(|&code| (code, self.counter(name, help, &[("code", code.as_str().into())])))
                .collect(),
        ))
    }
}

/// Counters by error code.
#[derive(Clone)]
pub struct ByCode(Arc<BTreeMap<ErrorCode, Counter>>);

impl std::fmt::Debug for ByCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByCode")
    }
}

impl ByCode {
    /// Adds `n` under `code`.
    pub fn add(&self, code: ErrorCode, n: u64) {
        if let Some(counter) = self.0.get(&code) {
            counter.increment(n);
        }
    }
}

/// The embedded store.
#[derive(Clone)]
pub struct StoreMetrics {
    /// Points that took the place of an earlier one with the same series and time.
    pub overwritten: Counter,
    /// Points in the file.
    pub points: Gauge,
    /// Series in the file.
    pub series: Gauge,
    /// Size of the file.
    pub bytes: Gauge,
}

impl std::fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreMetrics")
    }
}

impl StoreMetrics {
    /// Handles in this registry.
    pub fn new(registry: &Registry) -> Self {
        Self {
            overwritten: registry.counter(
                "gateway_store_overwritten_total",
                "Points that took the place of an earlier one with the same series and time.",
                &[],
            ),
            points: registry.gauge("gateway_store_points", "Points in the embedded store.", &[]),
            series: registry.gauge("gateway_store_series", "Series in the embedded store.", &[]),
            bytes: registry.gauge(
                "gateway_store_bytes",
                "Size of the embedded store's file, without its write-ahead log.",
                &[],
            ),
        }
    }
}

/// One sink and its forwarder. The counters follow the ledger, which lives across restarts.
#[derive(Clone)]
pub struct SinkMetrics {
    stored: Counter,
    quarantined: Counter,
    dropped: [(Counter, fn(&Dropped) -> u64); 4],
    pending: Gauge,
    position: Gauge,
    up: Gauge,
    /// Duration of an attempt to write a batch.
    pub write_seconds: Histogram,
    /// Readings of a batch.
    pub batch_readings: Histogram,
    /// Attempts that failed and were repeated.
    pub retries: Counter,
}

impl std::fmt::Debug for SinkMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SinkMetrics")
    }
}

impl SinkMetrics {
    /// Handles in this registry, for the sink of this name.
    pub fn new(registry: &Registry, sink: &str) -> Self {
        let sink = SharedString::from(sink.to_owned());
        let labels = [("sink", sink.clone())];
        let dropped = |reason: &'static str| {
            registry.counter(
                "gateway_sink_dropped_readings_total",
                "Accepted readings that are nowhere, by reason.",
                &[("sink", sink.clone()), ("reason", reason.into())],
            )
        };
        Self {
            stored: registry.counter(
                "gateway_sink_stored_readings_total",
                "Readings that the destination confirmed.",
                &labels,
            ),
            quarantined: registry.counter(
                "gateway_sink_quarantined_readings_total",
                "Readings that the destination refused, kept with the reason.",
                &labels,
            ),
            dropped: [
                (dropped("damaged"), |dropped| dropped.damaged),
                (dropped("skipped"), |dropped| dropped.skipped),
                (dropped("unsupported"), |dropped| dropped.unsupported),
                (dropped("expired"), |dropped| dropped.expired),
            ],
            pending: registry.gauge(
                "gateway_sink_pending_readings",
                "Accepted readings in the log that the sink has not passed yet.",
                &labels,
            ),
            position: registry.gauge(
                "gateway_sink_cursor_position",
                "Record of the log up to which the sink has come.",
                &labels,
            ),
            up: registry.gauge(
                "gateway_sink_up",
                "1 if the last attempt to write succeeded, 0 if it failed or the sink has stopped.",
                &labels,
            ),
            write_seconds: registry.histogram(
                "gateway_sink_write_seconds",
                "Duration of an attempt to write a batch.",
                Some(Unit::Seconds),
                &labels,
            ),
            batch_readings: registry.histogram(
                "gateway_sink_batch_readings",
                "Readings in a batch, per attempt to write it.",
                None,
                &labels,
            ),
            retries: registry.counter(
                "gateway_sink_retries_total",
                "Attempts to write that failed and were repeated.",
                &labels,
            ),
        }
    }

    /// Publishes the ledger at a position.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub fn ledger(&self, ledger: &Ledger, position: Position) {
        self.stored.absolute(ledger.stored);
        self.quarantined.absolute(ledger.quarantined);
        for (counter, reason) in &self.dropped {
            counter.absolute(reason(&ledger.dropped));
        }
        self.position.set(position.0 as f64);
    }

    /// Publishes how the sink is doing.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub fn state(&self, pending: u64, up: bool) {
        self.pending.set(pending as f64);
        self.up.set(f64::from(u8::from(up)));
    }
}
