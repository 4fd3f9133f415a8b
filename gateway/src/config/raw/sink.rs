//! `[sinks.NAME]` as it is written.

use super::{MIB, seconds};
use crate::config::units::{Size, Span, SpanOrOff};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum SinkType {
    Store,
    InfluxDb,
    Mqtt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum WhenFull {
    Hold,
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum From {
    Oldest,
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Dialect {
    InfluxDb,
    VictoriaMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Payload {
    Json,
    MessagePack,
    LineProtocol,
}

/// The keys of all types; which of them a type has stands in `check/sinks.rs`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Sink {
    #[serde(rename = "type")]
    pub(in crate::config) kind: Option<SinkType>,
    pub(in crate::config) enabled: bool,
    pub(in crate::config) required: Option<bool>,
    pub(in crate::config) when_full: Option<WhenFull>,
    pub(in crate::config) from: From,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) keep_for: Option<SpanOrOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) token_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) gzip: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) timeout: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) in_flight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) dialect: Option<Dialect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) create_bucket: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) bucket_keep_for: Option<SpanOrOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) retain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) password_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) keep_alive: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_packet_bytes: Option<Size>,
    pub(in crate::config) batch_readings: u32,
    pub(in crate::config) batch_bytes: Size,
    pub(in crate::config) batch_delay: Span,
}

impl Default for Sink {
    fn default() -> Self {
        Self {
            kind: None,
            enabled: true,
            required: None,
            when_full: None,
            from: From::Oldest,
            path: None,
            keep_for: None,
            url: None,
            org: None,
            bucket: None,
            token_file: None,
            token_env: None,
            ca_file: None,
            gzip: None,
            timeout: None,
            in_flight: None,
            dialect: None,
            create_bucket: None,
            bucket_keep_for: None,
            topic: None,
            payload: None,
            retain: None,
            client_id: None,
            user: None,
            password_file: None,
            password_env: None,
            cert_file: None,
            key_file: None,
            keep_alive: None,
            max_packet_bytes: None,
            batch_readings: 100_000,
            batch_bytes: Size(8 * MIB),
            batch_delay: Span(Duration::from_millis(500)),
        }
    }
}

impl Sink {
    /// Fills the defaults of its type.
    pub(super) fn fill(&mut self) {
        match self.kind {
            Some(SinkType::Store) => {
                self.path.get_or_insert_with(|| "telemetry.db".into());
                self.keep_for.get_or_insert(SpanOrOff(None));
            }
            Some(SinkType::InfluxDb) => {
                self.org.get_or_insert_default();
                self.bucket.get_or_insert_with(|| "telemetry".to_owned());
                self.gzip.get_or_insert(false);
                self.timeout.get_or_insert(seconds(30));
                self.in_flight.get_or_insert(4);
                self.dialect.get_or_insert(Dialect::InfluxDb);
                self.create_bucket.get_or_insert(false);
                self.bucket_keep_for.get_or_insert(SpanOrOff(None));
            }
            Some(SinkType::Mqtt) => {
                self.topic
                    .get_or_insert_with(|| "readings/{realm}/{device}/{measurement}".to_owned());
                self.payload.get_or_insert(Payload::Json);
                self.retain.get_or_insert(false);
                self.timeout.get_or_insert(seconds(30));
                self.keep_alive.get_or_insert(seconds(60));
                self.in_flight.get_or_insert(100);
                self.max_packet_bytes.get_or_insert(Size(256 * 1024));
            }
            None => {}
        }
        let required = *self.required.get_or_insert(self.kind == Some(SinkType::Store));
        let when_full = if required { WhenFull::Hold } else { WhenFull::Skip };
        self.when_full.get_or_insert(when_full);
    }
}
