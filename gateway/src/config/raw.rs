//! The configuration as it is written: one struct per section, one field per key, the defaults.
//!
//! What each key means stands in `deploy/gateway.toml`, where operators read it.

mod mqtt_source;
mod sink;

pub(super) use mqtt_source::MqttSource;
pub(super) use sink::{Dialect, From, Payload, Sink, SinkType, WhenFull};

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
