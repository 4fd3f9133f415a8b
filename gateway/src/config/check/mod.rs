//! From raw to valid: what a value means, and which values fit together.

mod mqtt;
mod sinks;

use super::{
    ConfigError, raw,
    tree::Node,
    units::{Span, format_duration},
    valid::{
        Admin, Auth, ClientCaRoot, Config, JwtRoot, Limits, Log, LogFormat, Logging,
        MAX_MESSAGE_BYTES, MAX_READINGS, MAX_WINDOW_BATCHES, OnConflict, Quarantine, Secret,
        Server, Shutdown, Tls, Types,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

/// Shortest admin token, in bytes; below it guessing is cheap.
const MIN_ADMIN_TOKEN_BYTES: usize = 16;
/// Longest name of a realm or sink, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Shortest time in which the closed segments of the log are checked once.
const MIN_SCRUB_EVERY: Duration = Duration::from_secs(1);

/// A value that is well-formed and still wrong.
#[derive(Debug)]
pub(super) struct Invalid {
    key: String,
    message: String,
}

impl Invalid {
    /// `"key" <what>`
    fn new(key: impl Into<String>, what: impl AsRef<str>) -> Self {
        let key = key.into();
        Self { message: format!("\"{key}\" {}", what.as_ref()), key }
    }

    /// Adds the place of the key.
    pub(super) fn locate(self, tree: &Node) -> ConfigError {
        let origin = tree.origin_of(&self.key);
        ConfigError { origin, message: self.message }
    }
}

impl TryFrom<&raw::Raw> for Config {
    type Error = Invalid;

    fn try_from(raw: &raw::Raw) -> Result<Self, Invalid> {
        if raw.data_dir.as_os_str().is_empty() {
            return Err(Invalid::new("data_dir", "must name a directory"));
        }
        let limits = limits(&raw.limits)?;
        let config = Config {
            data_dir: raw.data_dir.clone(),
            ack: raw.ack,
            server: server(&raw.server)?,
            tls: tls(&raw.tls)?,
            mqtt_source: mqtt::source(&raw.mqtt_source, &raw.auth)?,
            auth: auth(&raw.auth)?,
            log: log(&raw.log, &limits)?,
            limits,
            types: types(&raw.types)?,
            sinks: sinks::sinks(raw)?,
            quarantine: quarantine(&raw.quarantine)?,
            admin: admin(&raw.admin)?,
            shutdown: shutdown(&raw.shutdown)?,
            logging: logging(&raw.logging),
        };
        if config.admin.listen == config.server.listen && config.server.listen.port() != 0 {
            return Err(Invalid::new(
                "admin.listen",
                format!(
                    "is {}, which is \"server.listen\" too: give operators another port",
                    config.admin.listen
                ),
            ));
        }
        Ok(config)
    }
}

fn within(key: &str, value: u64, range: RangeInclusive<u64>) -> Result<u64, Invalid> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (from, to) = range.into_inner();
    Err(Invalid::new(key, format!("must be from {from} to {to}, not {value}")))
}

fn within_u32(key: &str, value: u64, range: RangeInclusive<u32>) -> Result<u32, Invalid> {
    let (from, to) = range.into_inner();
    within(key, value, from.into()..=to.into()).map(|n| u32::try_from(n).unwrap_or(to))
}

fn duration(key: &str, span: Span, from: Duration, to: Duration) -> Result<Duration, Invalid> {
    if (from..=to).contains(&span.0) {
        return Ok(span.0);
    }
    let [from, to, is] = [from, to, span.0].map(format_duration);
    Err(Invalid::new(key, format!("must be from {from} to {to}, not {is}")))
}

fn server(raw: &raw::Server) -> Result<Server, Invalid> {
    let timeout = |key: &str, span| {
        duration(key, span, Duration::from_millis(100), Duration::from_secs(3600))
    };
    for (i, origin) in raw.allowed_origins.iter().enumerate() {
        let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
        if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
            return Err(Invalid::new(
                format!("server.allowed_origins.{i}"),
                format!("must be of the form \"https://host\" without a path, not {origin:?}"),
            ));
        }
    }
    Ok(Server {
        listen: raw.listen.0,
        max_connections: within(
            "server.max_connections",
            raw.max_connections.into(),
            1..=1_000_000,
        )? as usize,
        max_handshakes: within("server.max_handshakes", raw.max_handshakes.into(), 1..=100_000)?
            as usize,
        handshake_timeout: timeout("server.handshake_timeout", raw.handshake_timeout)?,
        header_timeout: timeout("server.header_timeout", raw.header_timeout)?,
        message_timeout: timeout("server.message_timeout", raw.message_timeout)?,
        write_timeout: timeout("server.write_timeout", raw.write_timeout)?,
        // `welcome` announces whole seconds.
        ping_after: duration(
            "server.ping_after",
            raw.ping_after,
            Duration::from_secs(1),
            Duration::from_secs(3600),
        )?,
        close_after: timeout("server.close_after", raw.close_after)?,
        allowed_origins: raw.allowed_origins.iter().map(|o| o.to_ascii_lowercase()).collect(),
    })
}

fn tls(raw: &raw::Tls) -> Result<Tls, Invalid> {
    match (&raw.cert_file, &raw.key_file) {
        (None, None) => {
            for (i, host) in raw.hosts.iter().enumerate() {
                if !crate::data_dir::is_host(host) {
                    return Err(Invalid::new(
                        format!("tls.hosts.{i}"),
                        format!("must be a host name or an address without a port, not {host:?}"),
                    ));
                }
            }
            Ok(Tls::Own { hosts: raw.hosts.clone() })
        }
        (Some(_), None) => Err(Invalid::new(
            "tls.cert_file",
            "is set without \"tls.key_file\": name the file of its private key, too",
        )),
        (None, Some(_)) => Err(Invalid::new(
            "tls.key_file",
            "is set without \"tls.cert_file\": name the file of its certificate, too",
        )),
        (Some(_), Some(_)) if !raw.hosts.is_empty() => Err(Invalid::new(
            "tls.hosts",
            "(or --host) names hosts for the gateway's own certificate, but \"tls.cert_file\" \
             brings another: remove one of them",
        )),
        (Some(cert), Some(key)) => {
            pem("tls.cert_file", cert, &["CERTIFICATE"])?;
            pem("tls.key_file", key, &["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"])?;
            Ok(Tls::Files { cert_file: cert.clone(), key_file: key.clone() })
        }
    }
}

fn auth(raw: &raw::Auth) -> Result<Auth, Invalid> {
    let mut realms: BTreeMap<String, String> = BTreeMap::new();
    if raw.own_key {
        realms.insert("default".to_owned(), "the data directory's own key".to_owned());
    }
    let mut take = |root: String, realm: &Option<String>| {
        let realm = name(format!("{root}.realm"), realm.as_deref().unwrap_or("default"))?;
        match realms.insert(realm.clone(), format!("\"{root}\"")) {
            None => Ok(realm),
            Some(other) => Err(Invalid::new(
                format!("{root}.realm"),
                format!(
                    "is \"{realm}\", which {other} names too, so that both could vouch for one \
                     device: give this root a realm of its own{}",
                    if realm == "default" && raw.own_key {
                        ", or set \"auth.own_key\" = false"
                    } else {
                        ""
                    }
                ),
            )),
        }
    };
    let mut jwt = Vec::new();
    for (i, root) in raw.jwt.iter().enumerate() {
        let at = format!("auth.jwt.{i}");
        let realm = take(at.clone(), &root.realm)?;
        let key_file = given(format!("{at}.key_file"), &root.key_file, "the public key")?;
        pem(&format!("{at}.key_file"), key_file, &["PUBLIC KEY"])?;
        jwt.push(JwtRoot { realm, key_file: key_file.into(), issuer: root.issuer.clone() });
    }
    let mut client_ca = Vec::new();
    for (i, root) in raw.client_ca.iter().enumerate() {
        let at = format!("auth.client_ca.{i}");
        let realm = take(at.clone(), &root.realm)?;
        let ca_file = given(format!("{at}.ca_file"), &root.ca_file, "the CA's certificate")?;
        pem(&format!("{at}.ca_file"), ca_file, &["CERTIFICATE"])?;
        client_ca.push(ClientCaRoot { realm, ca_file: ca_file.into() });
    }
    if realms.is_empty() {
        return Err(Invalid::new(
            "auth.own_key",
            "is false and no other root is configured, so that no device could connect: add \
             [[auth.jwt]] or [[auth.client_ca]]",
        ));
    }
    Ok(Auth { own_key: raw.own_key, jwt, client_ca })
}

fn limits(raw: &raw::Limits) -> Result<Limits, Invalid> {
    let message_bytes =
        within_u32("limits.message_bytes", raw.message_bytes.0, 1024..=MAX_MESSAGE_BYTES)?;
    let window_bytes = raw.window_bytes.0;
    if window_bytes < message_bytes.into() {
        return Err(Invalid::new(
            "limits.window_bytes",
            format!(
                "is {window_bytes}, less than the {message_bytes} of \"limits.message_bytes\": a \
                 device could never send its largest message"
            ),
        ));
    }
    let max_age = raw.max_age.0;
    if max_age.is_some_and(|age| age < Duration::from_secs(1)) {
        return Err(Invalid::new("limits.max_age", "must be at least 1s, or \"off\""));
    }
    Ok(Limits {
        message: proto::Limits {
            message_bytes,
            readings: within_u32("limits.readings", raw.readings.into(), 1..=MAX_READINGS)?,
            fields: within_u32("limits.fields", raw.fields.into(), 1..=1024)?,
            tags: within_u32("limits.tags", raw.tags.into(), 0..=256)?,
            depth: within_u32("limits.depth", raw.depth.into(), 6..=32)?,
        },
        window_batches: within_u32(
            "limits.window_batches",
            raw.window_batches.into(),
            1..=MAX_WINDOW_BATCHES,
        )?,
        window_bytes: within_u32("limits.window_bytes", window_bytes, 1024..=1 << 30)?,
        max_age,
        series_per_device: within(
            "limits.series_per_device",
            raw.series_per_device.into(),
            1..=1_000_000,
        )? as usize,
        series: within("limits.series", raw.series.into(), 1..=100_000_000)? as usize,
    })
}

fn types(raw: &raw::Types) -> Result<Types, Invalid> {
    let fields = within("types.fields_per_realm", raw.fields_per_realm.into(), 1..=1_000_000)?;
    Ok(Types {
        guard: raw.guard,
        on_conflict: match raw.on_conflict {
            raw::OnConflict::Refuse => OnConflict::Refuse,
            raw::OnConflict::Coerce => OnConflict::Coerce,
        },
        fields_per_realm: fields as usize,
    })
}

fn log(raw: &raw::Log, limits: &Limits) -> Result<Log, Invalid> {
    let segment_bytes = within("log.segment_bytes", raw.segment_bytes.0, 1 << 16..=1 << 32)?;
    if segment_bytes < 2 * u64::from(limits.message.message_bytes) {
        return Err(Invalid::new(
            "log.segment_bytes",
            "must be at least twice \"limits.message_bytes\"",
        ));
    }
    if raw.max_bytes.0 < 4 * segment_bytes {
        return Err(Invalid::new(
            "log.max_bytes",
            "must be at least four times \"log.segment_bytes\", because space is freed by whole \
             segments",
        ));
    }
    if raw.keep_bytes.0 > raw.max_bytes.0 / 2 {
        return Err(Invalid::new(
            "log.keep_bytes",
            "must be at most half of \"log.max_bytes\": what is only kept must leave room for \
             what is not stored yet",
        ));
    }
    if raw.scrub_every.0.is_some_and(|every| every < MIN_SCRUB_EVERY) {
        return Err(Invalid::new("log.scrub_every", "must be at least 1s, or \"off\""));
    }
    Ok(Log {
        segment_bytes,
        max_bytes: raw.max_bytes.0,
        keep_for: raw.keep_for.0,
        keep_bytes: raw.keep_bytes.0,
        reserve_bytes: raw.reserve_bytes.0,
        scrub_every: raw.scrub_every.0,
    })
}

fn admin(raw: &raw::Admin) -> Result<Admin, Invalid> {
    let listen = raw.listen.0;
    let Some(file) = &raw.token_file else {
        if listen.ip().is_loopback() {
            return Ok(Admin { listen, token: None });
        }
        return Err(Invalid::new(
            "admin.listen",
            format!(
                "is {listen}, which others can reach: name a file with a token in \
                 \"admin.token_file\", or listen on 127.0.0.1"
            ),
        ));
    };
    let token = read("admin.token_file", file)?.trim().to_owned();
    if token.len() < MIN_ADMIN_TOKEN_BYTES || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Invalid::new(
            "admin.token_file",
            format!(
                "names {}, which must hold one line of at least {MIN_ADMIN_TOKEN_BYTES} visible \
                 ASCII characters",
                file.display()
            ),
        ));
    }
    Ok(Admin { listen, token: Some(Secret::new(token)) })
}

fn quarantine(raw: &raw::Quarantine) -> Result<Quarantine, Invalid> {
    Ok(Quarantine {
        max_bytes: within("quarantine.max_bytes", raw.max_bytes.0, 64 << 10..=1 << 40)?,
        drop_oldest: raw.when_full == raw::QuarantineFull::DropOldest,
    })
}

fn shutdown(raw: &raw::Shutdown) -> Result<Shutdown, Invalid> {
    let (from, to) = (Duration::from_secs(1), Duration::from_secs(600));
    Ok(Shutdown { deadline: duration("shutdown.deadline", raw.deadline, from, to)? })
}

fn logging(raw: &raw::Logging) -> Logging {
    Logging {
        format: match raw.format {
            raw::Format::Text => LogFormat::Text,
            raw::Format::Json => LogFormat::Json,
        },
        level: match raw.level {
            raw::Level::Error => tracing::Level::ERROR,
            raw::Level::Warn => tracing::Level::WARN,
            raw::Level::Info => tracing::Level::INFO,
            raw::Level::Debug => tracing::Level::DEBUG,
            raw::Level::Trace => tracing::Level::TRACE,
        },
    }
}

/// Names of realms and sinks: they become labels, topics and file names.
fn name(key: String, name: &str) -> Result<String, Invalid> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(good) {
        return Ok(name.to_owned());
    }
    let what = format!("must be named with 1 to {MAX_NAME_BYTES} of a-z, 0-9, - and _");
    Err(Invalid::new(key, what))
}

fn given<'a>(key: String, file: &'a Option<PathBuf>, what: &str) -> Result<&'a Path, Invalid> {
    match file {
        Some(file) => Ok(file),
        None => Err(Invalid::new(key, format!("is missing: name the file of {what}"))),
    }
}

fn read(key: &str, path: &Path) -> Result<String, Invalid> {
    fs::read_to_string(path).map_err(|error| {
        let path = path.display();
        Invalid::new(key, format!("names {path}, which cannot be read: {error}"))
    })
}

/// The file exists and holds a PEM block of one of these kinds.
fn pem(key: &str, path: &Path, kinds: &[&str]) -> Result<(), Invalid> {
    let text = read(key, path)?;
    if kinds.iter().any(|kind| text.contains(&format!("-----BEGIN {kind}-----"))) {
        return Ok(());
    }
    let (path, kind) = (path.display(), kinds[0]);
    Err(Invalid::new(key, format!("names {path}, which holds no PEM block \"BEGIN {kind}\"")))
}
