//! Metrics of the sinks and of the embedded store.

use super::Registry;
use crate::record::{Dropped, Ledger, Position};
use metrics::{Counter, Gauge, Histogram, SharedString, Unit};

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

#[derive(Clone)]
struct DroppedCounters {
    damaged: Counter,
    skipped: Counter,
    unsupported: Counter,
    expired: Counter,
    quarantine_full: Counter,
    operator: Counter,
}

/// One sink and its forwarder. The counters follow the ledger, which lives across restarts.
#[derive(Clone)]
pub struct SinkMetrics {
    stored: Counter,
    quarantined: Counter,
    dropped: DroppedCounters,
    pending: Gauge,
    imbalance: Gauge,
    in_quarantine: Gauge,
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
                "Readings that the destination refused and the quarantine took; those that left it \
                 again stay counted.",
                &labels,
            ),
            dropped: DroppedCounters {
                damaged: dropped("damaged"),
                skipped: dropped("skipped"),
                unsupported: dropped("unsupported"),
                expired: dropped("expired"),
                quarantine_full: dropped("quarantine_full"),
                operator: dropped("operator"),
            },
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
            imbalance: registry.gauge(
                "gateway_ledger_imbalance_readings",
                "Readings that the sink has passed and cannot account for: anything but 0 that \
                 stays is an error of the gateway.",
                &labels,
            ),
            in_quarantine: registry.gauge(
                "gateway_quarantine_readings",
                "Readings of the sink's ledger that are in the quarantine now.",
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
        let Dropped { damaged, skipped, unsupported, expired, quarantine_full, operator } =
            ledger.dropped;
        self.dropped.damaged.absolute(damaged);
        self.dropped.skipped.absolute(skipped);
        self.dropped.unsupported.absolute(unsupported);
        self.dropped.expired.absolute(expired);
        self.dropped.quarantine_full.absolute(quarantine_full);
        self.dropped.operator.absolute(operator);
        self.position.set(position.0 as f64);
    }

    /// Publishes how the sink is doing.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub fn state(&self, pending: u64, in_quarantine: u64, imbalance: i128, up: bool) {
        self.in_quarantine.set(in_quarantine as f64);
        self.pending.set(pending as f64);
        self.imbalance.set(imbalance as f64);
        self.up.set(f64::from(u8::from(up)));
    }
}
