//! `[sinks.NAME]`, and what `ack` promises about them.

use super::{Invalid, duration, mqtt, name, pem, read, within};
use crate::config::{
    raw,
    units::Span,
    valid::{AckMode, Batch, From, InfluxDb, Secret, Sink, SinkKind, StoreToken, WhenFull},
};
use std::{path::PathBuf, time::Duration};

/// Longest retention that InfluxDB 2's clients can ask for: 24,855 days.
const MAX_BUCKET_KEEP: Duration = Duration::from_secs(24_855 * 86_400);

/// The enabled sinks.
pub(super) fn sinks(raw: &raw::Raw) -> Result<Vec<Sink>, Invalid> {
    let mut sinks: Vec<Sink> = Vec::new();
    for (sink_name, sink) in &raw.sinks {
        let at = format!("sinks.{sink_name}");
        name(at.clone(), sink_name)?;
        let Some(kind) = sink.kind else {
            return Err(Invalid::new(
                format!("{at}.type"),
                "is missing: say what this sink is, for example type = \"store\"",
            ));
        };
        if !sink.enabled {
            continue;
        }
        let sink = one(raw, sink_name, sink, kind)?;
        for other in &sinks {
            if let Some((key, what)) = same_destination(&other.kind, &sink.kind) {
                let message =
                    format!("is the {what} of the sink \"{}\", too: name another", other.name);
                return Err(Invalid::new(format!("{at}.{key}"), message));
            }
        }
        sinks.push(sink);
    }
    if raw.ack == AckMode::Stored && !sinks.iter().any(|sink| sink.required) {
        return Err(Invalid::new(
            "ack",
            "is \"stored\", but no enabled sink is required, so that there is nothing to wait for: \
             set required = true on a sink, or ack = \"durable\"",
        ));
    }
    if sinks.is_empty() {
        return Err(Invalid::new(
            "sinks",
            "has no enabled sink, so that readings would only fill the log: enable one",
        ));
    }
    Ok(sinks)
}

/// The key that makes two sinks one, and what it names.
fn same_destination(a: &SinkKind, b: &SinkKind) -> Option<(&'static str, &'static str)> {
    match (a, b) {
        (SinkKind::Store { path: a, .. }, SinkKind::Store { path: b, .. }) if a == b => {
            Some(("path", "file"))
        }
        (SinkKind::InfluxDb(a), SinkKind::InfluxDb(b))
            if (&a.url, &a.org, &a.bucket) == (&b.url, &b.org, &b.bucket) =>
        {
            Some(("bucket", "destination"))
        }
        (SinkKind::Mqtt(a), SinkKind::Mqtt(b))
            if (&a.broker.host, a.broker.port, &a.topic)
                == (&b.broker.host, b.broker.port, &b.topic) =>
        {
            Some(("topic", "destination"))
        }
        _ => None,
    }
}

fn one(
    raw: &raw::Raw,
    sink_name: &str,
    sink: &raw::Sink,
    kind: raw::SinkType,
) -> Result<Sink, Invalid> {
    let at = |key: &str| format!("sinks.{sink_name}.{key}");
    let when_full = match sink.when_full {
        Some(raw::WhenFull::Skip) => WhenFull::Skip,
        Some(raw::WhenFull::Hold) | None => WhenFull::Hold,
    };
    let required = sink.required.unwrap_or(kind == raw::SinkType::Store);
    if raw.ack == AckMode::Stored && required && when_full == WhenFull::Skip {
        return Err(Invalid::new(
            at("when_full"),
            "is \"skip\" while the sink is required and ack = \"stored\": an ack would promise \
             what may be skipped; set it to \"hold\", or required = false",
        ));
    }
    only_its_keys(sink, kind, &at)?;
    let batch = Batch {
        readings: within(&at("batch_readings"), sink.batch_readings.into(), 1..=10_000_000)?,
        bytes: within(&at("batch_bytes"), sink.batch_bytes.0, 1024..=1 << 30)?,
        delay: duration(
            &at("batch_delay"),
            sink.batch_delay,
            Duration::ZERO,
            Duration::from_secs(60),
        )?,
    };
    let kind = match kind {
        raw::SinkType::Store => {
            let path = sink.path.clone().unwrap_or_default();
            if path.as_os_str().is_empty() {
                return Err(Invalid::new(at("path"), "must name a file"));
            }
            let keep_for = sink.keep_for.as_ref().and_then(|span| span.0);
            SinkKind::Store { path: raw.data_dir.join(path), keep_for }
        }
        raw::SinkType::InfluxDb => SinkKind::InfluxDb(influxdb(sink, &at)?),
        raw::SinkType::Mqtt => SinkKind::Mqtt(mqtt::sink(sink, &at)?),
    };
    let from = match sink.from {
        raw::From::Oldest => From::Oldest,
        raw::From::Now => From::Now,
    };
    Ok(Sink { name: sink_name.to_owned(), required, when_full, from, batch, kind })
}

/// A key of another type would be without effect, and whoever wrote it expects one.
fn only_its_keys(
    sink: &raw::Sink,
    kind: raw::SinkType,
    at: &impl Fn(&str) -> String,
) -> Result<(), Invalid> {
    use raw::SinkType::{InfluxDb, Mqtt, Store};
    let given = [
        ("path", &[Store][..], sink.path.is_some()),
        ("keep_for", &[Store], sink.keep_for.is_some()),
        ("url", &[InfluxDb, Mqtt], sink.url.is_some()),
        ("org", &[InfluxDb], sink.org.is_some()),
        ("bucket", &[InfluxDb], sink.bucket.is_some()),
        ("token_file", &[InfluxDb], sink.token_file.is_some()),
        ("token_env", &[InfluxDb], sink.token_env.is_some()),
        ("ca_file", &[InfluxDb, Mqtt], sink.ca_file.is_some()),
        ("gzip", &[InfluxDb], sink.gzip.is_some()),
        ("timeout", &[InfluxDb, Mqtt], sink.timeout.is_some()),
        ("in_flight", &[InfluxDb, Mqtt], sink.in_flight.is_some()),
        ("dialect", &[InfluxDb], sink.dialect.is_some()),
        ("create_bucket", &[InfluxDb], sink.create_bucket.is_some()),
        ("bucket_keep_for", &[InfluxDb], sink.bucket_keep_for.is_some()),
        ("topic", &[Mqtt], sink.topic.is_some()),
        ("payload", &[Mqtt], sink.payload.is_some()),
        ("retain", &[Mqtt], sink.retain.is_some()),
        ("client_id", &[Mqtt], sink.client_id.is_some()),
        ("user", &[Mqtt], sink.user.is_some()),
        ("password_file", &[Mqtt], sink.password_file.is_some()),
        ("password_env", &[Mqtt], sink.password_env.is_some()),
        ("cert_file", &[Mqtt], sink.cert_file.is_some()),
        ("key_file", &[Mqtt], sink.key_file.is_some()),
        ("keep_alive", &[Mqtt], sink.keep_alive.is_some()),
        ("max_packet_bytes", &[Mqtt], sink.max_packet_bytes.is_some()),
    ];
    match given.iter().find(|(_, of, given)| *given && !of.contains(&kind)) {
        None => Ok(()),
        Some((key, of, _)) => {
            let name = |of: &raw::SinkType| match of {
                Store => "\"store\"",
                InfluxDb => "\"influxdb\"",
                Mqtt => "\"mqtt\"",
            };
            let of: Vec<_> = of.iter().map(name).collect();
            let of = of.join(" and ");
            Err(Invalid::new(at(key), format!("is a key of sinks of type {of}: remove it")))
        }
    }
}

fn influxdb(sink: &raw::Sink, at: &impl Fn(&str) -> String) -> Result<InfluxDb, Invalid> {
    let Some(url) = sink.url.clone() else {
        return Err(Invalid::new(
            at("url"),
            "is missing: say where the store is, for example \"http://localhost:8086\"",
        ));
    };
    let authority = url.strip_prefix("https://").or(url.strip_prefix("http://"));
    let host = authority.map(|rest| rest.split('/').next().unwrap_or_default());
    if host.is_none_or(|host| host.is_empty() || host.contains('@')) || url.contains(['?', '#']) {
        return Err(Invalid::new(
            at("url"),
            format!("must be of the form \"http://host:port\" or \"https://host\", not {url:?}"),
        ));
    }
    let bucket = sink.bucket.clone().unwrap_or_default();
    let fixed = bucket.replace("{realm}", "");
    if bucket.is_empty() || fixed.contains(['{', '}']) {
        return Err(Invalid::new(
            at("bucket"),
            format!("must name a bucket, with {{realm}} as its only variable, not {bucket:?}"),
        ));
    }
    if let Some(file) = &sink.ca_file {
        pem(&at("ca_file"), file, &["CERTIFICATE"])?;
    }
    let timeout = sink.timeout.unwrap_or(Span(Duration::from_secs(30)));
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(3600));
    let in_flight = within(&at("in_flight"), sink.in_flight.unwrap_or(1).into(), 1..=64)?;
    Ok(InfluxDb {
        url,
        org: sink.org.clone().unwrap_or_default(),
        bucket,
        token: token(sink, at)?,
        ca_file: sink.ca_file.clone(),
        gzip: sink.gzip.unwrap_or(false),
        timeout: duration(&at("timeout"), timeout, shortest, longest)?,
        in_flight: usize::try_from(in_flight).unwrap_or(1),
        victoria_metrics: sink.dialect == Some(raw::Dialect::VictoriaMetrics),
        create_bucket: create_bucket(sink, at)?,
        bucket_keep_for: bucket_keep_for(sink, at)?,
    })
}

/// Buckets are made by calls of InfluxDB 2, which name an organisation and know no path before
/// them.
fn create_bucket(sink: &raw::Sink, at: &impl Fn(&str) -> String) -> Result<bool, Invalid> {
    if sink.create_bucket != Some(true) {
        return Ok(false);
    }
    let url = sink.url.as_deref().unwrap_or_default();
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    let why = if sink.dialect == Some(raw::Dialect::VictoriaMetrics) {
        "VictoriaMetrics has no buckets: remove it"
    } else if sink.org.as_deref().unwrap_or_default().is_empty() {
        "a bucket belongs to an organisation: set \"org\""
    } else if path.is_some_and(|(_, path)| !path.is_empty()) {
        "it works only where InfluxDB 2 stands at the root of its address, not below a path as in \
         \"url\": make the bucket yourself"
    } else {
        return Ok(true);
    };
    Err(Invalid::new(at("create_bucket"), format!("is true, but {why}")))
}

fn bucket_keep_for(
    sink: &raw::Sink,
    at: &impl Fn(&str) -> String,
) -> Result<Option<Duration>, Invalid> {
    let Some(span) = sink.bucket_keep_for.as_ref().and_then(|of| of.0) else { return Ok(None) };
    let shortest = Duration::from_secs(3600);
    duration(&at("bucket_keep_for"), Span(span), shortest, MAX_BUCKET_KEEP).map(Some)
}

fn token(sink: &raw::Sink, at: &impl Fn(&str) -> String) -> Result<StoreToken, Invalid> {
    let visible = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    match (&sink.token_file, &sink.token_env) {
        (None, None) => Ok(StoreToken::None),
        (Some(_), Some(_)) => Err(Invalid::new(
            at("token_env"),
            "is set together with \"token_file\": there is one token, keep one of them",
        )),
        (Some(file), None) => {
            if !visible(read(&at("token_file"), file)?.trim()) {
                let what = "which must hold one line of visible ASCII characters";
                let message = format!("names {}, {what}", file.display());
                return Err(Invalid::new(at("token_file"), message));
            }
            Ok(StoreToken::File(PathBuf::clone(file)))
        }
        (None, Some(variable)) => match std::env::var(variable) {
            Ok(token) if visible(token.trim()) => Ok(StoreToken::Text(Secret::new(token.trim()))),
            _ => Err(Invalid::new(
                at("token_env"),
                format!("names the environment variable {variable:?}, which holds no token"),
            )),
        },
    }
}
