//! The configuration as the rooms use it: every value checked, units in the types.

pub use proto::message::AckMode;

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// Everything that is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where keys, log and state live.
    pub data_dir: PathBuf,
    /// What an ack means.
    pub ack: AckMode,
    /// The listener for devices.
    pub server: Server,
    /// The server's certificate.
    pub tls: Tls,
    /// Who vouches for devices.
    pub auth: Auth,
    /// What a device may send.
    pub limits: Limits,
    /// The kinds of fields.
    pub types: Types,
    /// The durable log.
    pub log: Log,
    /// The enabled sinks by name, ascending.
    pub sinks: Vec<Sink>,
    /// Where devices that speak MQTT only are heard, if anywhere.
    pub mqtt_source: Option<MqttSource>,
    /// What sinks refused.
    pub quarantine: Quarantine,
    /// The listener for operators.
    pub admin: Admin,
    /// How to stop.
    pub shutdown: Shutdown,
    /// The process's own log.
    pub logging: Logging,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where devices connect.
    pub listen: SocketAddr,
    /// Most connections at once; more are closed after accept.
    pub max_connections: usize,
    /// Most TLS handshakes and upgrades at once; more wait in the listen queue.
    pub max_handshakes: usize,
    /// A TLS handshake must be done within this.
    pub handshake_timeout: Duration,
    /// The HTTP request of the upgrade must be complete within this.
    pub header_timeout: Duration,
    /// A WebSocket message must be complete within this.
    pub message_timeout: Duration,
    /// A device that takes no byte of what we send for this long is closed.
    pub write_timeout: Duration,
    /// Silence after which the gateway pings.
    pub ping_after: Duration,
    /// Further silence after which it closes.
    pub close_after: Duration,
    /// Origins (`https://host[:port]`) whose pages may connect; requests without one always may.
    pub allowed_origins: Vec<String>,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// A certificate of the data directory's own CA, which covers these names and addresses
    /// besides those of the machine.
    Own {
        /// `tls.hosts` and `--host`.
        hosts: Vec<String>,
    },
    /// A certificate chain and its key from elsewhere, PEM.
    Files {
        /// The chain, leaf first.
        cert_file: PathBuf,
        /// PKCS#8, SEC1 or PKCS#1.
        key_file: PathBuf,
    },
}

/// `[auth]`: the trust roots; realms are distinct and at least one root exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Tokens of the data directory's own key are good for the realm `default`.
    pub own_key: bool,
    /// `[[auth.jwt]]`
    pub jwt: Vec<JwtRoot>,
    /// `[[auth.client_ca]]`
    pub client_ca: Vec<ClientCaRoot>,
}

/// A key that signs device tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRoot {
    /// The realm of its devices.
    pub realm: String,
    /// The public key, PEM.
    pub key_file: PathBuf,
    /// What `iss` must say, if anything.
    pub issuer: Option<String>,
}

/// A CA that signs device certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCaRoot {
    /// The realm of its devices.
    pub realm: String,
    /// The CA certificates, PEM.
    pub ca_file: PathBuf,
}

/// Largest message, in bytes: with the largest envelope it must fit a log record.
pub const MAX_MESSAGE_BYTES: u32 = 960 * 1024;
/// Most readings in a batch: if all are refused, the list of them must fit the envelope.
pub const MAX_READINGS: u32 = 10_000;
/// Largest window, in batches: all of it must be recognised when it comes again on the next
/// connection.
pub const MAX_WINDOW_BATCHES: u32 = 64;

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// What one message may hold.
    pub message: proto::Limits,
    /// Batches that a device may have unacknowledged.
    pub window_batches: u32,
    /// Bytes of those batches.
    pub window_bytes: u32,
    /// Readings older than this are refused; `None` takes any age.
    pub max_age: Option<Duration>,
    /// Series that a device may make in a day.
    pub series_per_device: usize,
    /// Series that all devices together may make in a day.
    pub series: usize,
}

/// What happens to a value of another kind than its field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// The reading is refused.
    Refuse,
    /// It is converted if nothing is lost, else the reading is refused.
    Coerce,
}

/// `[types]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Types {
    /// The kind of each field is learned and held against later readings.
    pub guard: bool,
    /// See [`OnConflict`].
    pub on_conflict: OnConflict,
    /// Most fields of a realm whose kind is learned.
    pub fields_per_realm: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Size at which a segment is closed and the next begun.
    pub segment_bytes: u64,
    /// Most bytes of all segments; at it, `when_full` of the slowest sink decides.
    pub max_bytes: u64,
    /// Records that every sink has are kept this long…
    pub keep_for: Duration,
    /// …but not more than this many bytes of them.
    pub keep_bytes: u64,
    /// Free bytes on the file system below which batches are refused.
    pub reserve_bytes: u64,
    /// Closed segments are read and checked once in this time.
    pub scrub_every: Option<Duration>,
}

/// What happens when the log is full because of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// New batches are refused until the sink catches up.
    Hold,
    /// The sink's cursor advances; what it skips counts as dropped.
    Skip,
}

/// Where a sink begins that has never run on this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the oldest record that the log still has.
    Oldest,
    /// With what comes from now on.
    Now,
}

/// `[sinks.NAME]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// Label in metrics and the ledger.
    pub name: String,
    /// With `ack = "stored"`, acks wait for it.
    pub required: bool,
    /// See [`WhenFull`].
    pub when_full: WhenFull,
    /// See [`From`].
    pub from: From,
    /// How its forwarder groups records.
    pub batch: Batch,
    /// What it is.
    pub kind: SinkKind,
}

/// Limits of one write to a sink; the first that is reached ends the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Most readings.
    pub readings: u64,
    /// Most bytes of log records.
    pub bytes: u64,
    /// Longest wait for more.
    pub delay: Duration,
}

/// What a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// The embedded store.
    Store {
        /// The database file, absolute or below the working directory.
        path: PathBuf,
        /// Points older than this are deleted; `None` keeps them for ever.
        keep_for: Option<Duration>,
    },
    /// InfluxDB, or what speaks its line protocol.
    InfluxDb(InfluxDb),
    /// An MQTT broker.
    Mqtt(MqttSink),
}

/// A broker that readings are published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSink {
    /// Where it is.
    pub broker: MqttBroker,
    /// The topic, with `{realm}`, `{device}` and `{measurement}`.
    pub topic: String,
    /// What a message holds.
    pub payload: MqttPayload,
    /// The broker keeps the last message of each topic.
    pub retain: bool,
    /// Most messages without an acknowledgement.
    pub in_flight: usize,
    /// Largest packet, in bytes.
    pub max_packet_bytes: usize,
}

/// `[mqtt_source]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttSource {
    /// The broker that devices publish to.
    pub broker: MqttBroker,
    /// The realm of the devices; no other root has it.
    pub realm: String,
    /// Gateways of this group divide the messages.
    pub share: Option<String>,
    /// Devices are told of what was taken, too.
    pub acks: bool,
    /// Most messages under way.
    pub in_flight: u16,
    /// How long the broker keeps messages while the gateway is away.
    pub keep_session: Duration,
    /// Unit of integer times.
    pub time_unit: proto::TimeUnit,
    /// Measurement of the readings that name none.
    pub measurement: Option<Box<str>>,
}

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttPayload {
    /// JSON.
    Json,
    /// The same as MessagePack.
    MessagePack,
    /// Line protocol.
    LineProtocol,
}

/// Where a broker is, and who we are for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttBroker {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS.
    pub tls: bool,
    /// CA certificates that vouch for the broker, PEM; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Who we are; `None` for a name that is made from this gateway's log.
    pub client_id: Option<String>,
    /// The user, if the broker asks for one.
    pub user: Option<String>,
    /// Where the password is.
    pub password: StoreToken,
    /// Silence after which the other side is asked whether it is there.
    pub keep_alive: Duration,
    /// Every answer must come within this.
    pub timeout: Duration,
}

/// A store that takes line protocol at `/api/v2/write`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfluxDb {
    /// `http://host:port` or `https://…`.
    pub url: String,
    /// The organisation.
    pub org: String,
    /// The bucket; `{realm}` stands for the realm of the device.
    pub bucket: String,
    /// Where the token is.
    pub token: StoreToken,
    /// CA certificates that vouch for the store, PEM; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// Compresses what is sent.
    pub gzip: bool,
    /// An answer must be complete within this.
    pub timeout: Duration,
    /// Most requests under way at once.
    pub in_flight: usize,
    /// The store is VictoriaMetrics.
    pub victoria_metrics: bool,
    /// Makes buckets that are missing.
    pub create_bucket: bool,
    /// A bucket that is made deletes its points after this; `None` keeps them for ever.
    pub bucket_keep_for: Option<Duration>,
}

/// Where the token of a store, or the password for a broker, is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreToken {
    /// It asks for none.
    None,
    /// In this file.
    File(PathBuf),
    /// This one, from the environment.
    Text(Secret),
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where operators connect.
    pub listen: SocketAddr,
    /// What they must present; always there off loopback.
    pub token: Option<Secret>,
}

/// A text that no log and no printout may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The bytes, for comparison.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `[quarantine]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// Most bytes of refused readings, with their words.
    pub max_bytes: u64,
    /// When that is reached, the oldest are dropped and counted; else the sink waits.
    pub drop_oldest: bool,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// Everything must have stopped this long after the signal.
    pub deadline: Duration,
}

/// Form of the process's log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[logging]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// The form.
    pub format: LogFormat,
    /// The least level that is written; `RUST_LOG` overrides it.
    pub level: tracing::Level,
}
