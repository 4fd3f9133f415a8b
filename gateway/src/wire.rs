//! From the configuration to what each room is told.

use crate::{
    auth::{DEFAULT_REALM, TrustRoot},
    client_tls::{self, OwnCertificate},
    config::valid::{self, Config, MAX_WINDOW_BATCHES},
    data_dir::{DataDir, TokenKey},
    ingest::{self, Guards, MaxSeries, OnConflict, Rules},
    log,
    metrics::{GuardMetrics, LogMetrics, Registry},
    mqtt, mqtt_source, server,
    session::Patience,
    sink::{influxdb, line_protocol::Dialect, mqtt as mqtt_sink, store},
    state::State,
};
use anyhow::Context;
use proto::message::Window;
use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// Devices that are sent away come back spread over this time.
const RECONNECT_SPREAD: Duration = Duration::from_secs(10);

/// Longest record, in bytes.
const MAX_RECORD_BYTES: u32 = 1024 * 1024;

// Whatever the configuration allows can be written down, and is recognised when it comes again.
const _: () = {
    use crate::{ingest::admit, record};
    let names = 3 * u8::MAX as usize;
    let refusals = valid::MAX_READINGS as usize * record::REFUSAL_BYTES;
    assert!(record::HEADER_MIN_BYTES + names + refusals <= record::MAX_HEADER_BYTES);
    let record_bytes = valid::MAX_MESSAGE_BYTES as usize + record::MAX_HEADER_BYTES;
    assert!(record_bytes <= MAX_RECORD_BYTES as usize);
    assert!(record::room_for_adjustments(valid::MAX_READINGS as usize) >= 1000);
    assert!(valid::MAX_WINDOW_BATCHES as usize <= admit::WINDOW);
};

/// Options of the log below the data directory.
pub(crate) fn log(config: &Config, dir: &DataDir, registry: &Registry) -> log::Options {
    log::Options {
        dir: dir.path.join("log"),
        segment_bytes: config.log.segment_bytes,
        reserve_bytes: config.log.reserve_bytes,
        max_bytes: config.log.max_bytes,
        max_record_bytes: MAX_RECORD_BYTES,
        metrics: LogMetrics::new(registry),
        ..log::Options::default()
    }
}

/// How much the log may hold.
pub(crate) struct Room {
    /// What is kept although every sink has it.
    pub(crate) keep: log::retention::Keep,
    max_bytes: u64,
    /// Space that is freed before it is needed, because it is looked after only now and then and
    /// freed by whole segments: two of them, or an eighth of the log.
    spare_bytes: u64,
    /// Two segments.
    least_spare_bytes: u64,
    reserve_bytes: u64,
}

impl Room {
    /// Bytes that have to be freed when the log has this size and so much of the disk is free: so
    /// that neither the largest size nor the reserve is reached. Of the disk, an eighth of what the
    /// log could have of it is enough.
    pub(crate) fn lacking(&self, size_bytes: u64, free_bytes: u64) -> u64 {
        let left_of_disk = free_bytes.saturating_sub(self.reserve_bytes);
        let spare_of_disk =
            ((size_bytes + left_of_disk) / 8).clamp(self.least_spare_bytes, self.spare_bytes);
        let of_size = (size_bytes + self.spare_bytes).saturating_sub(self.max_bytes);
        of_size.max(spare_of_disk.saturating_sub(left_of_disk))
    }
}

/// Room of the log.
pub(crate) fn room(config: &Config) -> Room {
    let log = &config.log;
    Room {
        keep: log::retention::Keep { age: log.keep_for, bytes: log.keep_bytes },
        max_bytes: log.max_bytes,
        spare_bytes: (2 * log.segment_bytes).max(log.max_bytes / 8),
        least_spare_bytes: 2 * log.segment_bytes,
        reserve_bytes: log.reserve_bytes,
    }
}

/// What batches are checked by.
pub(crate) fn rules(config: &Config) -> Rules {
    Rules { limits: config.limits.message.clone(), max_age: config.limits.max_age }
}

/// What readings are held against.
pub(crate) fn guards(config: &Config, state: &State, registry: &Registry) -> Arc<Guards> {
    let types = config.types.guard.then(|| state.types.clone());
    let on_conflict = match config.types.on_conflict {
        valid::OnConflict::Refuse => OnConflict::Refuse,
        valid::OnConflict::Coerce => OnConflict::Coerce,
    };
    let limits = &config.limits;
    let max = MaxSeries { per_device: limits.series_per_device, total: limits.series };
    Guards::new(types, on_conflict, max, GuardMetrics::new(registry))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// Options of an InfluxDB.
pub(crate) fn influxdb(name: &str, of: &valid::InfluxDb) -> influxdb::Options {
    influxdb::Options {
        name: name.to_owned(),
        url: of.url.clone(),
        org: of.org.clone(),
        bucket: of.bucket.clone(),
        token: match &of.token {
            valid::StoreToken::None => influxdb::Token::None,
            valid::StoreToken::File(path) => influxdb::Token::File(path.clone()),
            valid::StoreToken::Text(token) => {
                influxdb::Token::Text(String::from_utf8_lossy(token.expose()).into_owned())
            }
        },
        ca_file: of.ca_file.clone(),
        gzip: of.gzip,
        timeout: of.timeout,
        in_flight: of.in_flight,
        dialect: match of.victoria_metrics {
            true => Dialect::VictoriaMetrics,
            false => Dialect::InfluxDb,
        },
        create_bucket: of
            .create_bucket
            .then(|| of.bucket_keep_for.map_or(influxdb::Keep::Forever, influxdb::Keep::For)),
    }
}

/// Options of a sink that publishes to a broker. `name` and `log` make it known there: the same
/// after every start, and another for every gateway.
///
/// # Errors
/// A certificate cannot be used.
pub(crate) fn mqtt_sink(
    name: &str,
    of: &valid::MqttSink,
    log: Uuid,
) -> anyhow::Result<mqtt_sink::Options> {
    Ok(mqtt_sink::Options {
        broker: broker(&format!("sink-{name}"), &of.broker, log)
            .with_context(|| format!("the sink {name}"))?,
        topic: of.topic.clone(),
        payload: match of.payload {
            valid::MqttPayload::Json => mqtt_sink::Payload::Json,
            valid::MqttPayload::MessagePack => mqtt_sink::Payload::MessagePack,
            valid::MqttPayload::LineProtocol => mqtt_sink::Payload::LineProtocol,
        },
        retain: of.retain,
        in_flight: of.in_flight,
        max_packet_bytes: of.max_packet_bytes,
    })
}

/// Options of the source that subscribes to a broker.
///
/// # Errors
/// A certificate cannot be used.
pub(crate) fn mqtt_source(
    of: &valid::MqttSource,
    log: Uuid,
) -> anyhow::Result<mqtt_source::Options> {
    Ok(mqtt_source::Options {
        broker: broker("source", &of.broker, log).context("[mqtt_source]")?,
        realm: of.realm.clone(),
        share: of.share.clone(),
        acks: of.acks,
        in_flight: of.in_flight,
        session: of.keep_session,
        time_unit: of.time_unit,
        measurement: of.measurement.clone(),
    })
}

fn broker(purpose: &str, of: &valid::MqttBroker, log: Uuid) -> anyhow::Result<mqtt::Broker> {
    let tls = match of.tls {
        false => None,
        true => {
            let own = of.certificate.clone();
            let own = own.map(|(cert_file, key_file)| OwnCertificate { cert_file, key_file });
            Some(client_tls::client_config(of.ca_file.as_deref(), own.as_ref())?)
        }
    };
    let login = of.user.clone().map(|user| mqtt::Login {
        user,
        password: match &of.password {
            valid::StoreToken::None => mqtt::Password::None,
            valid::StoreToken::File(path) => mqtt::Password::file(path),
            valid::StoreToken::Text(text) => {
                mqtt::Password::Text(String::from_utf8_lossy(text.expose()).into_owned())
            }
        },
    });
    let made = || format!("gateway-{}-{purpose}", log.simple());
    Ok(mqtt::Broker {
        host: of.host.clone(),
        port: of.port,
        tls,
        client_id: of.client_id.clone().unwrap_or_else(made),
        login,
        keep_alive: of.keep_alive,
        timeout: of.timeout,
    })
}

/// Options of an embedded store.
pub(crate) fn store(path: &Path, keep_for: Option<Duration>) -> store::Options {
    store::Options { keep_for, ..store::Options::new(path) }
}

/// The keys whose tokens are taken.
///
/// # Errors
/// A key cannot be read.
pub(crate) fn trust_roots(config: &Config, dir: &DataDir) -> anyhow::Result<Vec<TrustRoot>> {
    let mut roots = Vec::new();
    if config.auth.own_key {
        let key = TokenKey::load(&dir.token_key_file())?;
        roots.push(TrustRoot {
            realm: DEFAULT_REALM.to_owned(),
            public_pem: key.public_pem().to_owned(),
            issuer: None,
        });
    }
    for root in &config.auth.jwt {
        let file = root.key_file.display();
        let public_pem = fs::read_to_string(&root.key_file)
            .with_context(|| format!("cannot read the token key {file} of [[auth.jwt]]"))?;
        roots.push(TrustRoot {
            realm: root.realm.clone(),
            public_pem,
            issuer: root.issuer.clone(),
        });
    }
    Ok(roots)
}

/// Certificates.
pub(crate) fn tls(config: &Config, dir: &DataDir) -> server::TlsOptions {
    let (certificate, key) = match &config.tls {
        valid::Tls::Own { .. } => (dir.cert_file(), dir.key_file()),
        valid::Tls::Files { cert_file, key_file } => (cert_file.clone(), key_file.clone()),
    };
    let client_cas = config
        .auth
        .client_ca
        .iter()
        .map(|root| server::ClientCa { realm: root.realm.clone(), file: root.ca_file.clone() })
        .collect();
    server::TlsOptions { certificate, key, client_cas }
}

// A device that keeps to its window may send all of it again after a reconnect.
const _: () = assert!(MAX_WINDOW_BATCHES as usize <= ingest::admit::WINDOW);

/// The devices' listener.
pub(crate) fn server(config: &Config) -> server::Config {
    let server = &config.server;
    server::Config {
        listen: server.listen,
        max_connections: server.max_connections,
        max_handshakes: server.max_handshakes,
        handshake_time: server.handshake_timeout,
        head_time: server.header_timeout,
        write_time: server.write_timeout,
        patience: Patience {
            ping_after: server.ping_after,
            close_after: server.close_after,
            message_time: server.message_timeout,
        },
        window: Window { batches: config.limits.window_batches, bytes: config.limits.window_bytes },
        allowed_origins: server.allowed_origins.clone(),
        reconnect_spread: RECONNECT_SPREAD,
        // The rest of the deadline is for the log, the sinks and the admin side.
        drain: config.shutdown.deadline / 2,
        restart: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_freed_before_the_size_or_the_reserve_is_reached() {
        let room = Room {
            keep: log::retention::Keep::default(),
            max_bytes: 8000,
            spare_bytes: 1000,
            least_spare_bytes: 200,
            reserve_bytes: 500,
        };
        for (size, free, lacking, why) in [
            (0, 100_000, 0, "an empty log on a large disk"),
            (7000, 100_000, 0, "the spare is just left"),
            (7500, 100_000, 500, "the size is near"),
            (4000, 1500, 0, "an eighth of 5000 is less than the 1000 above the reserve"),
            (4000, 700, 325, "an eighth of 4200, of which 200 are there"),
            (4000, 100, 500, "the reserve is touched"),
            (100, 500, 200, "a small log keeps two segments free"),
        ] {
            assert_eq!(room.lacking(size, free), lacking, "{why}");
        }
    }
}
