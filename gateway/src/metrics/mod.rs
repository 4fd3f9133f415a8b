//! Every metric: name, help, unit, buckets. Handles are looked up once and cloned.
//!
//! Prefix `gateway_`, base units, `_total` on counters. Labels come from closed sets only
//! (`code`, `sink`, `reason`, `outcome`, `result`, `version`): never a device, never a text from outside.

mod guard;
mod mqtt;
mod mqtt_source;
mod quarantine;
mod registry;
mod sink;

pub use guard::{GuardMetrics, StateMetrics};
pub use mqtt::MqttSinkMetrics;
pub use mqtt_source::MqttSourceMetrics;
pub use quarantine::QuarantineMetrics;
pub use registry::{ByCode, Registry};
pub use sink::{SinkMetrics, StoreMetrics};

use metrics::{Counter, Gauge, Histogram, Unit};
use std::{collections::BTreeMap, sync::Arc};

/// Says which build this is: a gauge that is 1, with the version as its label.
pub fn tell_build(registry: &Registry, version: &'static str) {
    let help = "The build that runs; always 1.";
    registry.gauge("gateway_build_info", help, &[("version", version.into())]).set(1.0);
}

/// Metrics of `server`.
#[derive(Clone)]
pub struct ServerMetrics {
    /// Open sockets, those in the middle of a handshake included.
    pub sockets: Gauge,
    /// Connected devices.
    pub connections: Gauge,
    /// Accepted sockets.
    pub accepted: Counter,
    /// TLS handshakes without a ticket.
    pub handshakes_full: Counter,
    /// TLS handshakes with a ticket.
    pub handshakes_resumed: Counter,
    /// TLS handshakes that failed.
    pub handshakes_failed: Counter,
    /// Duration of TLS handshakes.
    pub handshake_seconds: Histogram,
    /// Binary messages from devices.
    pub messages: Counter,
    /// Bytes from devices, under TLS.
    pub received_bytes: Counter,
    /// Refused readings and batches by code.
    pub refused: ByCode,
    /// Nacks by code.
    pub nacks: ByCode,
    /// Goodbyes by code.
    pub goodbyes: ByCode,
    /// Connections that devices closed.
    pub closed_by_device: Counter,
    /// Connections that were lost without a close.
    pub lost: Counter,
    /// Connections that took over from an older one of the same device.
    pub takeovers: Counter,
    /// From the receipt of a batch to its ack.
    pub ack_seconds: Histogram,
    upgrades_refused: Arc<BTreeMap<u16, Counter>>,
    closed: Arc<BTreeMap<u16, Counter>>,
}

impl std::fmt::Debug for ServerMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerMetrics")
    }
}

impl ServerMetrics {
    /// Every code that the gateway closes with.
    const CLOSE_CODES: [u16; 10] = [1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 4001];
    /// Every status that the upgrade refuses with.
    const STATUSES: [u16; 12] = [400, 401, 403, 404, 405, 408, 414, 426, 429, 431, 500, 503];

    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let handshakes = |result: &'static str| {
            registry.counter(
                "gateway_tls_handshakes_total",
                "TLS handshakes by result",
                &[("result", result.into())],
            )
        };
        let closed = |code: String| {
            registry.counter(
                "gateway_connections_closed_total",
                "Connections that ended, by close code; device: the device closed; lost: nobody did",
                &[("code", code.into())],
            )
        };
        let refused = |status: u16| {
            registry.counter(
                "gateway_upgrades_refused_total",
                "Upgrade requests that were refused, by status",
                &[("status", status.to_string().into())],
            )
        };
        Self {
            sockets: registry.gauge("gateway_sockets", "Open sockets of devices", &[]),
            connections: registry.gauge("gateway_connections", "Connected devices", &[]),
            accepted: registry.counter(
                "gateway_sockets_accepted_total",
                "Sockets accepted on the listener for devices",
                &[],
            ),
            handshakes_full: handshakes("full"),
            handshakes_resumed: handshakes("resumed"),
            handshakes_failed: handshakes("failed"),
            handshake_seconds: registry.histogram(
                "gateway_tls_handshake_seconds",
                "Duration of TLS handshakes that succeeded",
                Some(Unit::Seconds),
                &[],
            ),
            messages: registry.counter(
                "gateway_messages_total",
                "Binary messages from devices",
                &[],
            ),
            received_bytes: registry.counter(
                "gateway_received_bytes_total",
                "Bytes from devices after TLS was taken off",
                &[],
            ),
            refused: registry.by_code(
                "gateway_refused_total",
                "Readings, and batches refused as a whole, by code",
            ),
            nacks: registry.by_code("gateway_nacks_total", "Nacks sent, by code"),
            goodbyes: registry.by_code("gateway_goodbyes_total", "Goodbyes said, by code"),
            closed_by_device: closed("device".to_owned()),
            lost: closed("lost".to_owned()),
            takeovers: registry.counter(
                "gateway_takeovers_total",
                "Connections that took over from an older one of the same device",
                &[],
            ),
            ack_seconds: registry.histogram(
                "gateway_ack_seconds",
                "From the receipt of a batch to its ack",
                Some(Unit::Seconds),
                &[],
            ),
            upgrades_refused: Arc::new(
                Self::STATUSES.iter().map(|&status| (status, refused(status))).collect(),
            ),
            closed: Arc::new(
                Self::CLOSE_CODES.iter().map(|&code| (code, closed(code.to_string()))).collect(),
            ),
        }
    }

    /// Counts an upgrade that was refused.
    pub fn refused(&self, status: u16) {
        if let Some(counter) = self.upgrades_refused.get(&status) {
            counter.increment(1);
        }
    }

    /// Counts a connection that the gateway closed.
    pub fn closed(&self, code: u16) {
        if let Some(counter) = self.closed.get(&code) {
            counter.increment(1);
        }
    }
}

/// Metrics of `ingest`.
#[derive(Clone)]
pub struct IngestMetrics {
    /// Accepted readings, across restarts: the first term of the ledger.
    pub accepted: Counter,
    /// Sequence numbers that devices left out.
    pub gaps: Counter,
    /// Batches that were made durable with one sync.
    pub group_batches: Histogram,
    /// Batches with this outcome.
    pub logged: Counter,
    /// Batches with this outcome.
    pub duplicate: Counter,
    /// Batches with this outcome.
    pub refused: Counter,
    /// Batches with this outcome.
    pub out_of_order: Counter,
    /// Batches with this outcome.
    pub retry: Counter,
}

impl std::fmt::Debug for IngestMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IngestMetrics")
    }
}

impl IngestMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let batches = |outcome: &'static str| {
            registry.counter(
                "gateway_batches_total",
                "Batches from devices by what became of them",
                &[("outcome", outcome.into())],
            )
        };
        Self {
            accepted: registry.counter(
                "gateway_accepted_readings_total",
                "Readings that were accepted into the log, across restarts",
                &[],
            ),
            gaps: registry.counter(
                "gateway_sequence_gaps_total",
                "Sequence numbers that devices left out because they dropped data",
                &[],
            ),
            group_batches: registry.histogram(
                "gateway_commit_batches",
                "Requests that were answered after one sync of the log",
                None,
                &[],
            ),
            logged: batches("logged"),
            duplicate: batches("duplicate"),
            refused: batches("refused"),
            out_of_order: batches("out_of_order"),
            retry: batches("retry"),
        }
    }
}

/// The log.
#[derive(Clone)]
pub struct LogMetrics {
    /// Bytes written and synced, frames included.
    pub appended_bytes: Counter,
    /// Time of one `fdatasync`.
    pub sync_seconds: Histogram,
    /// The highest position written to the file.
    pub written_position: Gauge,
    /// The highest position that is durable.
    pub durable_position: Gauge,
    /// Bytes in all segments.
    pub size_bytes: Gauge,
    /// Segments.
    pub segments: Gauge,
    /// Unfinished bytes that recovery cut.
    pub torn_bytes: Counter,
    /// Acknowledged records that could not be read.
    pub damaged_records: Counter,
    /// Segments checked by the scrub.
    pub scrubbed: Counter,
    /// Bytes checked by the scrub.
    pub scrubbed_bytes: Counter,
    /// Acknowledged records that the scrub knows to be damaged.
    pub scrub_damaged: Gauge,
    /// When the scrub had checked everything, seconds since the Unix epoch.
    pub scrub_completed: Gauge,
    /// 1 after a failed write or sync.
    pub poisoned: Gauge,
}

impl std::fmt::Debug for LogMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogMetrics")
    }
}

impl Default for LogMetrics {
    /// Counts nothing.
    fn default() -> Self {
        Self {
            appended_bytes: Counter::noop(),
            sync_seconds: Histogram::noop(),
            written_position: Gauge::noop(),
            durable_position: Gauge::noop(),
            size_bytes: Gauge::noop(),
            segments: Gauge::noop(),
            torn_bytes: Counter::noop(),
            damaged_records: Counter::noop(),
            scrubbed: Counter::noop(),
            scrubbed_bytes: Counter::noop(),
            scrub_damaged: Gauge::noop(),
            scrub_completed: Gauge::noop(),
            poisoned: Gauge::noop(),
        }
    }
}

impl LogMetrics {
    /// Looks up the handles.
    pub fn new(registry: &Registry) -> Self {
        Self {
            appended_bytes: registry.counter(
                "gateway_log_appended_bytes_total",
                "Bytes written to the log and synced, frames included.",
                &[],
            ),
            sync_seconds: registry.histogram(
                "gateway_log_sync_seconds",
                "Time of one fdatasync of the log.",
                Some(Unit::Seconds),
                &[],
            ),
            written_position: registry.gauge(
                "gateway_log_written_position",
                "Highest position written to the log.",
                &[],
            ),
            durable_position: registry.gauge(
                "gateway_log_durable_position",
                "Highest position of the log that is durable.",
                &[],
            ),
            size_bytes: registry.gauge("gateway_log_size_bytes", "Size of all segments.", &[]),
            segments: registry.gauge("gateway_log_segments", "Segments of the log.", &[]),
            torn_bytes: registry.counter(
                "gateway_log_torn_bytes_total",
                "Unfinished bytes, never acknowledged, that were cut off when the log was opened.",
                &[],
            ),
            damaged_records: registry.counter(
                "gateway_log_damaged_records_total",
                "Acknowledged records that could not be read, each time somebody came upon them.",
                &[],
            ),
            scrubbed: registry.counter(
                "gateway_log_scrubbed_segments_total",
                "Segments that were read and checked while idle.",
                &[],
            ),
            scrubbed_bytes: registry.counter(
                "gateway_log_scrubbed_bytes_total",
                "Bytes of segments that were read and checked while idle.",
                &[],
            ),
            scrub_damaged: registry.gauge(
                "gateway_log_scrub_damaged_records",
                "Acknowledged records in sealed segments that the scrub found unreadable.",
                &[],
            ),
            scrub_completed: registry.gauge(
                "gateway_log_scrub_completed_timestamp_seconds",
                "When all sealed segments had been checked, Unix time; 0 before the first time.",
                &[],
            ),
            poisoned: registry.gauge(
                "gateway_log_poisoned",
                "1 after a write or sync of the log failed: it takes no more records.",
                &[],
            ),
        }
    }
}
