//! The configuration as it is written: one struct per section, one field per key, the defaults.
//!
//! What each key means stands in `deploy/gateway.toml`, where operators read it.

mod mqtt_source;

pub(super) use mqtt_source::MqttSource;

use super::units::{Address, Size, Span, SpanOrOff};
use proto::message::AckMode;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, time::Duration};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn seconds(n: u64) -> Span {
    Span(Duration::from_secs(n))
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) data_dir: PathBuf,
    pub(super) ack: AckMode,
    pub(super) server: Server,
    pub(super) tls: Tls,
    pub(super) auth: Auth,
    pub(super) limits: Limits,
    pub(super) types: Types,
    pub(super) mqtt_source: MqttSource,
    pub(super) log: Log,
    pub(super) sinks: BTreeMap<String, Sink>,
    pub(super) quarantine: Quarantine,
    pub(super) admin: Admin,
    pub(super) shutdown: Shutdown,
    pub(super) logging: Logging,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            ack: AckMode::Durable,
            server: Server::default(),
            tls: Tls::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            types: Types::default(),
            mqtt_source: MqttSource::default(),
            log: Log::default(),
            sinks: BTreeMap::new(),
            quarantine: Quarantine::default(),
            admin: Admin::default(),
            shutdown: Shutdown::default(),
            logging: Logging::default(),
        }
    }
}

impl Raw {
    /// Fills the defaults that depend on other keys.
    pub(super) fn fill(&mut self) {
        // The embedded store is there unless it is switched off by name.
        self.sinks.entry("store".to_owned()).or_default();
        for (name, sink) in &mut self.sinks {
            if name == "store" {
                sink.kind.get_or_insert(SinkType::Store);
            }
            sink.fill();
        }
        let realms = self.auth.jwt.iter_mut().map(|jwt| &mut jwt.realm);
        for realm in realms.chain(self.auth.client_ca.iter_mut().map(|ca| &mut ca.realm)) {
            realm.get_or_insert_with(|| "default".to_owned());
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    pub(super) listen: Address,
    pub(super) max_connections: u32,
    pub(super) max_handshakes: u32,
    pub(super) handshake_timeout: Span,
    pub(super) header_timeout: Span,
    pub(super) message_timeout: Span,
    pub(super) write_timeout: Span,
    pub(super) ping_after: Span,
    pub(super) close_after: Span,
    pub(super) allowed_origins: Vec<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Address((Ipv4Addr::UNSPECIFIED, 8443).into()),
            max_connections: 25_000,
            max_handshakes: 512,
            handshake_timeout: seconds(10),
            header_timeout: seconds(10),
            message_timeout: seconds(120),
            write_timeout: seconds(30),
            ping_after: seconds(30),
            close_after: seconds(30),
            allowed_origins: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_file: Option<PathBuf>,
    pub(super) hosts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Auth {
    pub(super) own_key: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) jwt: Vec<Jwt>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) client_ca: Vec<ClientCa>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { own_key: true, jwt: Vec::new(), client_ca: Vec::new() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Jwt {
    pub(super) realm: Option<String>,
    pub(super) key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issuer: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClientCa {
    pub(super) realm: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) message_bytes: Size,
    pub(super) readings: u32,
    pub(super) fields: u32,
    pub(super) tags: u32,
    pub(super) depth: u32,
    pub(super) window_batches: u32,
    pub(super) window_bytes: Size,
    pub(super) max_age: SpanOrOff,
    pub(super) series_per_device: u32,
    pub(super) series: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let proto = proto::Limits::default();
        Self {
            message_bytes: Size(proto.message_bytes.into()),
            readings: proto.readings,
            fields: proto.fields,
            tags: proto.tags,
            depth: proto.depth,
            window_batches: 32,
            window_bytes: Size(MIB),
            max_age: SpanOrOff(None),
            series_per_device: 2_000,
            series: 2_000_000,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnConflict {
    Refuse,
    Coerce,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Types {
    pub(super) guard: bool,
    pub(super) on_conflict: OnConflict,
    pub(super) fields_per_realm: u32,
}

impl Default for Types {
    fn default() -> Self {
        Self { guard: true, on_conflict: OnConflict::Refuse, fields_per_realm: 100_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) segment_bytes: Size,
    pub(super) max_bytes: Size,
    pub(super) keep_for: Span,
    pub(super) keep_bytes: Size,
    pub(super) reserve_bytes: Size,
    pub(super) scrub_every: SpanOrOff,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            segment_bytes: Size(64 * MIB),
            max_bytes: Size(16 * GIB),
            keep_for: seconds(24 * 3600),
            keep_bytes: Size(GIB),
            reserve_bytes: Size(256 * MIB),
            scrub_every: SpanOrOff(Some(Duration::from_secs(24 * 3600))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SinkType {
    Store,
    InfluxDb,
    Mqtt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WhenFull {
    Hold,
    Skip,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum From {
    Oldest,
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dialect {
    InfluxDb,
    VictoriaMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Payload {
    Json,
    MessagePack,
    LineProtocol,
}

/// The keys of all types; which of them a type has stands in `check/sinks.rs`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Sink {
    #[serde(rename = "type")]
    pub(super) kind: Option<SinkType>,
    pub(super) enabled: bool,
    pub(super) required: Option<bool>,
    pub(super) when_full: Option<WhenFull>,
    pub(super) from: From,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keep_for: Option<SpanOrOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gzip: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) in_flight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dialect: Option<Dialect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) create_bucket: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bucket_keep_for: Option<SpanOrOff>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retain: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) password_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keep_alive: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_packet_bytes: Option<Size>,
    pub(super) batch_readings: u32,
    pub(super) batch_bytes: Size,
    pub(super) batch_delay: Span,
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
    fn fill(&mut self) {
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

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) listen: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Address((Ipv4Addr::LOCALHOST, 8080).into()), token_file: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum QuarantineFull {
    Hold,
    DropOldest,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Quarantine {
    pub(super) max_bytes: Size,
    pub(super) when_full: QuarantineFull,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { max_bytes: Size(256 * MIB), when_full: QuarantineFull::Hold }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    pub(super) deadline: Span,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: seconds(20) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Logging {
    pub(super) format: Format,
    pub(super) level: Level,
}

impl Default for Logging {
    fn default() -> Self {
        Self { format: Format::Text, level: Level::Info }
    }
}
