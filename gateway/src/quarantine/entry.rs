//! One refused reading.

use crate::record::{Codec, Envelope, Identity, Kind, Points, Position, Source, Value};
use crc32c::{crc32c, crc32c_append};
use proto::TimeUnit;
use serde_json::{Map, Value as Json, json};

/// A refused reading, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the quarantine, ascending.
    pub id: i64,
    /// Which destination refused it.
    pub sink: String,
    /// The record of the log.
    pub position: Position,
    /// Index of the reading in it.
    pub index: u32,
    /// The epoch of the sink's ledger.
    pub epoch: u64,
    /// Whether the sink's ledger has it: not if that began anew since.
    pub counted: bool,
    /// The realm.
    pub realm: String,
    /// The device id.
    pub device: String,
    /// When the gateway received it, nanoseconds since the Unix epoch; 0 if that is not known.
    pub received_ns: i64,
    /// When it was put here, nanoseconds since the Unix epoch.
    pub kept_ns: i64,
    /// The destination's words.
    pub reason: String,
    /// A batch body of `telemetry.v1.msgpack` with this reading alone, times in nanoseconds.
    pub body: Vec<u8>,
    /// The checksum of device and reading holds.
    pub is_sound: bool,
}

/// CRC-32C over realm, device and reading, with a zero byte behind the first two.
pub(super) fn checksum(realm: &str, device: &str, body: &[u8]) -> u32 {
    let name = |sum, text: &str| crc32c_append(crc32c_append(sum, text.as_bytes()), &[0]);
    crc32c_append(name(name(crc32c(&[]), realm), device), body)
}

impl Entry {
    /// An envelope that yields the same point from [`Entry::body`] as the record of the log did.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            kind: Kind::Batch,
            source: Source::Gateway,
            codec: Codec::BatchV1,
            time_unit: TimeUnit::Ns,
            refused_whole: None,
            receive_ns: self.received_ns,
            stream: 0,
            seq: 1,
            accepted: 1,
            accepted_total: 0,
            payload_hash: 0,
            identity: Identity::new(&self.realm, &self.device),
            measurement: None,
            refused: Vec::new(),
            adjustments: Vec::new(),
        }
    }

    /// All of it, for people and tools. What is damaged says so, and has its bytes in place of the
    /// reading.
    pub fn to_json(&self) -> Json {
        let mut shown = json!({
            "id": self.id,
            "sink": self.sink,
            "position": self.position.0,
            "index": self.index,
            "epoch": self.epoch,
            "realm": self.realm,
            "device": self.device,
            "received_ns": self.received_ns,
            "quarantined_ns": self.kept_ns,
            "reason": self.reason,
        });
        match self.reading() {
            Some(reading) => reading.into_iter().for_each(|(name, of)| shown[name] = of),
            None => {
                let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
                shown["damaged"] = json!(true);
                shown["reading_hex"] = self.body.iter().fold(String::new(), hex).into();
            }
        }
        shown
    }

    /// Whether it can be sent again.
    pub fn is_readable(&self) -> bool {
        self.reading().is_some()
    }

    fn reading(&self) -> Option<[(&'static str, Json); 4]> {
        if !self.is_sound {
            return None;
        }
        let mut reading = None;
        let value = |value: &Value<'_>| match *value {
            Value::Float(x) => json!(x),
            Value::Int(n) => json!(n),
            Value::Bool(b) => json!(b),
            Value::Str(text) => json!(text),
        };
        let walked =
            Points::default().for_each(self.position, &self.envelope(), &self.body, |point| {
                let tags = point.tags.iter().map(|&(name, text)| (name.to_owned(), json!(text)));
                let fields = point.fields.iter();
                let fields = fields.map(|(name, of)| ((*name).to_owned(), value(of)));
                reading = Some([
                    ("measurement", json!(point.measurement)),
                    ("time_ns", json!(point.time_ns)),
                    ("tags", tags.collect::<Map<_, _>>().into()),
                    ("fields", fields.collect::<Map<_, _>>().into()),
                ]);
            });
        reading.filter(|_| walked.is_ok())
    }
}
