//! What a broker needs: `[sinks.NAME]` of type "mqtt".

use super::{Invalid, duration, name, pem, read, within};
use crate::config::{
    raw,
    units::{Size, Span},
    valid::{MqttBroker, MqttPayload, MqttSink, MqttSource, Secret, StoreToken},
};
use std::{path::PathBuf, time::Duration};

/// Longest topic template, user and client id, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// Most levels of a topic; brokers close the connection for many more.
const MAX_LEVELS: usize = 64;

/// The keys that say where a broker is, as they are written.
pub(super) struct BrokerKeys<'a> {
    pub(super) url: Option<&'a String>,
    pub(super) client_id: Option<&'a String>,
    pub(super) user: Option<&'a String>,
    pub(super) password_file: Option<&'a PathBuf>,
    pub(super) password_env: Option<&'a String>,
    pub(super) ca_file: Option<&'a PathBuf>,
    pub(super) cert_file: Option<&'a PathBuf>,
    pub(super) key_file: Option<&'a PathBuf>,
    pub(super) keep_alive: Span,
    pub(super) timeout: Span,
}

/// A broker.
pub(super) fn broker(
    keys: &BrokerKeys<'_>,
    at: &impl Fn(&str) -> String,
) -> Result<MqttBroker, Invalid> {
    let Some(url) = keys.url else {
        return Err(Invalid::new(
            at("url"),
            "is missing: say where the broker is, for example \"mqtt://localhost:1883\"",
        ));
    };
    let (host, port, tls) = address(url).ok_or_else(|| {
        let form = "must be of the form \"mqtt://host:port\" or \"mqtts://host\"";
        Invalid::new(at("url"), format!("{form}, not {url:?}"))
    })?;
    for (key, given) in [
        ("ca_file", keys.ca_file.is_some()),
        ("cert_file", keys.cert_file.is_some()),
        ("key_file", keys.key_file.is_some()),
    ] {
        if given && !tls {
            let message = "is for TLS, but \"url\" begins with mqtt://: write mqtts://";
            return Err(Invalid::new(at(key), message));
        }
    }
    if let Some(file) = keys.ca_file {
        pem(&at("ca_file"), file, &["CERTIFICATE"])?;
    }
    let certificate = match (keys.cert_file, keys.key_file) {
        (None, None) => None,
        (Some(cert), Some(key)) => {
            pem(&at("cert_file"), cert, &["CERTIFICATE"])?;
            pem(&at("key_file"), key, &["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"])?;
            Some((cert.clone(), key.clone()))
        }
        (Some(_), None) => {
            return Err(Invalid::new(at("cert_file"), "is set without \"key_file\""));
        }
        (None, Some(_)) => {
            return Err(Invalid::new(at("key_file"), "is set without \"cert_file\""));
        }
    };
    for (key, text) in [("user", keys.user), ("client_id", keys.client_id)] {
        if text.is_some_and(|text| !is_text(text)) {
            let what = format!("must be 1 to {MAX_TEXT_BYTES} bytes without control characters");
            return Err(Invalid::new(at(key), what));
        }
    }
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(3600));
    let (least, most) = (Duration::from_secs(5), Duration::from_secs(3600));
    Ok(MqttBroker {
        host,
        port,
        tls,
        ca_file: keys.ca_file.cloned(),
        certificate,
        client_id: keys.client_id.cloned(),
        user: keys.user.cloned(),
        password: password(keys, at)?,
        keep_alive: duration(&at("keep_alive"), keys.keep_alive, least, most)?,
        timeout: duration(&at("timeout"), keys.timeout, shortest, longest)?,
    })
}

/// Host, port, and whether TLS is spoken.
fn address(url: &str) -> Option<(String, u16, bool)> {
    let (rest, tls) = match (url.strip_prefix("mqtt://"), url.strip_prefix("mqtts://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return None,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '@', '?', '#', ' ']) {
        return None;
    }
    let standard = if tls { 8883 } else { 1883 };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, after.strip_prefix(':').or(after.is_empty().then_some(""))?)
        }
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let port = if port.is_empty() { standard } else { port.parse().ok()? };
    (!host.is_empty() && port != 0).then(|| (host.to_owned(), port, tls))
}

fn is_text(text: &str) -> bool {
    (1..=MAX_TEXT_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_measurement(text: &str) -> bool {
    is_text(text) && text.len() <= 128 && !text.starts_with('_') && !text.starts_with("gateway_")
}

fn password(keys: &BrokerKeys<'_>, at: &impl Fn(&str) -> String) -> Result<StoreToken, Invalid> {
    let key = match (keys.password_file, keys.password_env) {
        (None, None) => return Ok(StoreToken::None),
        (Some(_), Some(_)) => {
            return Err(Invalid::new(
                at("password_env"),
                "is set together with \"password_file\": there is one password, keep one of them",
            ));
        }
        (Some(_), None) => "password_file",
        (None, Some(_)) => "password_env",
    };
    if keys.user.is_none() {
        return Err(Invalid::new(at(key), "is set without \"user\": say whose password it is"));
    }
    if let Some(file) = keys.password_file {
        if !is_text(read(&at(key), file)?.trim_end_matches(['\r', '\n'])) {
            let what = "which must hold one line with a password";
            return Err(Invalid::new(at(key), format!("names {}, {what}", file.display())));
        }
        return Ok(StoreToken::File(file.clone()));
    }
    let variable = keys.password_env.map_or("", String::as_str);
    match std::env::var(variable) {
        Ok(password) if is_text(&password) => Ok(StoreToken::Text(Secret::new(password))),
        _ => Err(Invalid::new(
            at(key),
            format!("names the environment variable {variable:?}, which holds no password"),
        )),
    }
}

/// `[mqtt_source]`, if it is switched on.
pub(super) fn source(
    of: &raw::MqttSource,
    auth: &raw::Auth,
) -> Result<Option<MqttSource>, Invalid> {
    if !of.enabled {
        return Ok(None);
    }
    let at = |key: &str| format!("mqtt_source.{key}");
    let realm = name(at("realm"), &of.realm)?;
    let default = || "default".to_owned();
    let taken = auth.jwt.iter().map(|root| &root.realm);
    let mut taken = taken.chain(auth.client_ca.iter().map(|root| &root.realm));
    if realm == "default" || taken.any(|of| *of.clone().unwrap_or_else(default) == *realm) {
        return Err(Invalid::new(
            at("realm"),
            format!(
                "is \"{realm}\", which is another root's, so that both could vouch for one \
                 device: give these devices a realm of their own"
            ),
        ));
    }
    if let Some(group) = &of.share {
        name(at("share"), group)?;
    }
    if let Some(measurement) = &of.measurement
        && !is_measurement(measurement)
    {
        let what = "must be 1 to 128 bytes without control characters, and begin neither with _ \
                    nor with gateway_";
        return Err(Invalid::new(at("measurement"), what));
    }
    let in_flight = within(&at("in_flight"), of.in_flight.into(), 1..=64)?;
    let (shortest, longest) = (Duration::ZERO, Duration::from_secs(365 * 24 * 3600));
    let keys = BrokerKeys {
        url: of.url.as_ref(),
        client_id: of.client_id.as_ref(),
        user: of.user.as_ref(),
        password_file: of.password_file.as_ref(),
        password_env: of.password_env.as_ref(),
        ca_file: of.ca_file.as_ref(),
        cert_file: of.cert_file.as_ref(),
        key_file: of.key_file.as_ref(),
        keep_alive: of.keep_alive,
        timeout: of.timeout,
    };
    Ok(Some(MqttSource {
        broker: broker(&keys, &at)?,
        realm,
        share: of.share.clone(),
        acks: of.acks,
        in_flight: u16::try_from(in_flight).unwrap_or(1),
        keep_session: duration(&at("keep_session"), of.keep_session, shortest, longest)?,
        time_unit: of.time_unit,
        measurement: of.measurement.as_deref().map(Into::into),
    }))
}

/// The keys of a sink.
pub(super) fn sink(sink: &raw::Sink, at: &impl Fn(&str) -> String) -> Result<MqttSink, Invalid> {
    let broker = broker(
        &BrokerKeys {
            url: sink.url.as_ref(),
            client_id: sink.client_id.as_ref(),
            user: sink.user.as_ref(),
            password_file: sink.password_file.as_ref(),
            password_env: sink.password_env.as_ref(),
            ca_file: sink.ca_file.as_ref(),
            cert_file: sink.cert_file.as_ref(),
            key_file: sink.key_file.as_ref(),
            keep_alive: sink.keep_alive.unwrap_or(Span(Duration::from_secs(60))),
            timeout: sink.timeout.unwrap_or(Span(Duration::from_secs(30))),
        },
        at,
    )?;
    let topic = sink.topic.clone().unwrap_or_default();
    if let Some(wrong) = fault_of_topic(&topic) {
        return Err(Invalid::new(at("topic"), format!("{wrong}, not {topic:?}")));
    }
    let packet = sink.max_packet_bytes.unwrap_or(Size(1024)).0;
    let packet = within(&at("max_packet_bytes"), packet, 1024..=16 << 20)?;
    let in_flight = within(&at("in_flight"), sink.in_flight.unwrap_or(1).into(), 1..=65_535)?;
    Ok(MqttSink {
        broker,
        topic,
        payload: match sink.payload {
            Some(raw::Payload::MessagePack) => MqttPayload::MessagePack,
            Some(raw::Payload::LineProtocol) => MqttPayload::LineProtocol,
            Some(raw::Payload::Json) | None => MqttPayload::Json,
        },
        retain: sink.retain.unwrap_or(false),
        in_flight: usize::try_from(in_flight).unwrap_or(1),
        max_packet_bytes: usize::try_from(packet).unwrap_or(usize::MAX),
    })
}

fn fault_of_topic(topic: &str) -> Option<String> {
    let fixed = ["{realm}", "{device}", "{measurement}"]
        .iter()
        .fold(topic.to_owned(), |text, variable| text.replace(variable, "x"));
    if !is_text(topic) || fixed.split('/').count() > MAX_LEVELS {
        return Some(format!(
            "must be 1 to {MAX_TEXT_BYTES} bytes without control characters, in at most \
             {MAX_LEVELS} levels"
        ));
    }
    if fixed.contains(['{', '}']) {
        return Some("has other variables than {realm}, {device} and {measurement}".to_owned());
    }
    if fixed.contains(['+', '#']) || topic.starts_with('$') {
        return Some("must be a topic, without + and #, and not begin with $".to_owned());
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_realm_of_its_own_and_a_broker() {
        let given = raw::MqttSource {
            enabled: true,
            url: Some("mqtts://broker".to_owned()),
            ..raw::MqttSource::default()
        };
        let root = raw::Jwt { realm: Some("plant".to_owned()), ..raw::Jwt::default() };
        let auth = raw::Auth { jwt: vec![root], ..raw::Auth::default() };
        let of = |change: fn(&mut raw::MqttSource)| {
            let mut changed = given.clone();
            change(&mut changed);
            source(&changed, &auth).map_err(|invalid| invalid.key)
        };
        assert!(of(|of| of.share = Some("gateways".to_owned())).unwrap().is_some());
        assert_eq!(of(|of| (of.enabled, of.url) = (false, None)), Ok(None));
        for (change, wrong) in [
            ((|of| of.url = None) as fn(&mut raw::MqttSource), "url"),
            (|of| of.realm = "plant".to_owned(), "realm"),
            (|of| of.realm = "default".to_owned(), "realm"),
            (|of| of.realm = "A".to_owned(), "realm"),
            (|of| of.share = Some("a/b".to_owned()), "share"),
            (|of| of.measurement = Some("gateway_x".to_owned()), "measurement"),
            (|of| of.measurement = Some(String::new()), "measurement"),
            (|of| of.in_flight = 0, "in_flight"),
            (|of| of.in_flight = 65, "in_flight"),
            (|of| of.keep_session = Span(Duration::from_secs(400 * 86_400)), "keep_session"),
        ] {
            assert_eq!(of(change).unwrap_err(), format!("mqtt_source.{wrong}"));
        }
    }

    #[test]
    fn an_address_has_a_host_and_perhaps_a_port() {
        let of = |host: &str, port, tls| Some((host.to_owned(), port, tls));
        for (url, expected) in [
            ("mqtt://localhost", of("localhost", 1883, false)),
            ("mqtt://localhost:1884/", of("localhost", 1884, false)),
            ("mqtts://broker.example.com", of("broker.example.com", 8883, true)),
            ("mqtt://[::1]:1884", of("::1", 1884, false)),
            ("mqtts://[::1]", of("::1", 8883, true)),
            ("tcp://localhost", None),
            ("mqtt://", None),
            ("mqtt://user:secret@host", None),
            ("mqtt://host:port", None),
            ("mqtt://host:0", None),
            ("mqtt://host/path", None),
            ("mqtt://[::1]1884", None),
        ] {
            assert_eq!(address(url), expected, "{url}");
        }
    }

    #[test]
    fn a_topic_is_a_topic() {
        for topic in ["readings/{realm}/{device}/{measurement}", "all", "a//b", "{device}"] {
            assert_eq!(fault_of_topic(topic), None, "{topic}");
        }
        for topic in ["", "a/#", "a/+/b", "$SYS/x", "{devise}", "a{", "a\nb", &"a/".repeat(64)] {
            assert!(fault_of_topic(topic).is_some(), "{topic}");
        }
    }
}
