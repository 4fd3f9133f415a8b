//! What the gateway publishes: the readings of a message, whatever it is written in.

use anyhow::{Context, Result, bail};
use influxdb_line_protocol::{FieldValue, parse_lines};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What messages hold; the sink's key `payload` says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Payload {
    /// JSON.
    Json,
    /// The same as MessagePack.
    #[value(name = "messagepack")]
    MessagePack,
    /// InfluxDB's line protocol.
    #[value(name = "lineprotocol")]
    LineProtocol,
}

/// A value of a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// Boolean.
    Bool(bool),
    /// Integer: written without a point.
    Int(i64),
    /// 64-bit float.
    Float(f64),
    /// Text.
    Text(String),
}

/// A message of a sink.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Message {
    pub(super) realm: String,
    pub(super) device: String,
    pub(super) readings: Vec<Reading>,
}

/// One of its readings.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Reading {
    pub(super) measurement: String,
    pub(super) time_ns: i64,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) fields: BTreeMap<String, Scalar>,
}

impl Payload {
    /// The messages in a payload: several in line protocol, where each line has its device.
    pub(super) fn read(self, payload: &[u8]) -> Result<Vec<Message>> {
        Ok(match self {
            Self::Json => vec![serde_json::from_slice(payload)?],
            Self::MessagePack => vec![rmp_serde::from_slice(payload)?],
            Self::LineProtocol => {
                let text = std::str::from_utf8(payload)?;
                parse_lines(text).map(|line| line_message(&line?)).collect::<Result<_>>()?
            }
        })
    }
}

fn line_message(line: &influxdb_line_protocol::ParsedLine<'_>) -> Result<Message> {
    let mut tags: BTreeMap<String, String> = line
        .series
        .tag_set
        .iter()
        .flatten()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    // These are of the gateway's own.
    let realm = tags.remove("realm").unwrap_or_else(|| "default".to_owned());
    let device = tags.remove("device").context("a line without the tag device")?;
    let mut fields = BTreeMap::new();
    for (name, value) in &line.field_set {
        let value = match value {
            FieldValue::F64(x) => Scalar::Float(*x),
            FieldValue::I64(n) => Scalar::Int(*n),
            FieldValue::Boolean(b) => Scalar::Bool(*b),
            FieldValue::String(text) => Scalar::Text(text.to_string()),
            FieldValue::U64(n) => bail!("the unsigned number {n}"),
        };
        fields.insert(name.to_string(), value);
    }
    let time_ns = line.timestamp.context("a line without a time")?;
    let measurement = line.series.measurement.to_string();
    Ok(Message { realm, device, readings: vec![Reading { measurement, time_ns, tags, fields }] })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reading() -> Reading {
        let fields = [
            ("b", Scalar::Bool(true)),
            ("f", Scalar::Float(-3.0)),
            ("n", Scalar::Int(-3)),
            ("s", Scalar::Text("a \"b\"\\ c".to_owned())),
            ("x", Scalar::Float(0.1 + 0.2)),
        ];
        Reading {
            measurement: "a room".to_owned(),
            time_ns: 1_760_000_000_123_456_789,
            tags: [("floor".to_owned(), "1, left".to_owned())].into(),
            fields: fields.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    #[test]
    fn every_payload_says_the_same() {
        let Reading { measurement, time_ns, tags, fields } = reading();
        let message = json!({ "realm": "plant", "device": "d/1", "record": 7, "readings": [{
            "index": 0, "measurement": measurement, "time_ns": time_ns, "tags": tags,
            "fields": fields,
        }]});
        let line = "a\\ room,device=d/1,realm=plant,floor=1\\,\\ left b=true,f=-3,n=-3i,\
                    s=\"a \\\"b\\\"\\\\ c\",x=0.30000000000000004 1760000000123456789\n";
        for (payload, bytes) in [
            (Payload::Json, serde_json::to_vec(&message).unwrap()),
            (Payload::MessagePack, rmp_serde::to_vec_named(&message).unwrap()),
            (Payload::LineProtocol, line.as_bytes().to_vec()),
        ] {
            let read = payload.read(&bytes).unwrap();
            let (realm, device) = ("plant".to_owned(), "d/1".to_owned());
            assert_eq!(read, [Message { realm, device, readings: vec![reading()] }], "{payload:?}");
        }
        // Line protocol does not name this one.
        let read = Payload::LineProtocol.read(b"m,device=d x=1 1").unwrap();
        assert_eq!(read[0].realm, "default");
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for payload in [Payload::Json, Payload::MessagePack, Payload::LineProtocol] {
            for bytes in [&b"{\"device\":\"d\"}"[..], b"\xff\xfe", b"m x=1", b"m,device=d x=1u 1"] {
                assert!(payload.read(bytes).is_err(), "{payload:?} {bytes:?}");
            }
        }
    }
}
