//! Records into messages: one message for each topic that a record has readings for.
//!
//! A message never mixes records: so it names the record, with which a subscriber recognises what
//! comes twice, and a record that is known to be published needs no second look. One message a
//! reading would cost an acknowledgement each; readings of one measurement in one message keep
//! topics that can be subscribed to by measurement.

use super::Payload;
use crate::{
    mqtt::escape_level,
    record::{EnvelopeError, Identity, Point, PointId, Points, Position, Value},
    sink::{
        Batch, Record, RejectedPoint,
        line_protocol::{Dialect, Encoded, LineEncoder},
    },
};
use bytes::Bytes;
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::collections::HashMap;

/// A window ends at so many bytes of messages; one more record may come on top.
const WINDOW_BYTES: usize = 1 << 20;
/// What a packet is besides topic and payload: header, lengths, identifier, properties.
const PACKET_BYTES: usize = 16;

/// What is published at once.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) points: Vec<PointId>,
}

/// Where a record ends in a window; counts are from the window's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordEnd {
    pub(super) position: Position,
    pub(super) messages: usize,
    pub(super) too_large: usize,
    /// Readings of this record that the payload cannot say.
    pub(super) unsupported: u64,
}

/// Messages of a run of records, in order.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) messages: Vec<Message>,
    /// Readings that are larger than a message may be.
    pub(super) too_large: Vec<RejectedPoint>,
    pub(super) ends: Vec<RecordEnd>,
}

/// Makes windows.
#[derive(Debug)]
pub(super) struct Encoder {
    payload: Payload,
    topic: String,
    by_measurement: bool,
    lines: LineEncoder,
    points: Points,
    reading: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(payload: Payload, topic: &str) -> Self {
        Self {
            payload,
            topic: topic.to_owned(),
            by_measurement: topic.contains("{measurement}"),
            lines: LineEncoder::new(Dialect::InfluxDb),
            points: Points::default(),
            reading: Vec::new(),
        }
    }

    /// The messages of the records from `from` on, each at most `max_packet_bytes` as a packet.
    pub(super) fn window(
        &mut self,
        batch: &Batch,
        from: usize,
        max_packet_bytes: usize,
    ) -> Result<Window, EnvelopeError> {
        let mut window = Window::default();
        let mut points = std::mem::take(&mut self.points);
        let mut bytes = 0;
        let mut failed = None;
        for record in &batch.records[from..] {
            let mut groups = Groups::default();
            let mut unsupported = 0;
            let walked =
                points.for_each(record.position, &record.envelope, &record.payload, |point| {
                    match self.encode(point) {
                        true => {
                            self.place(point, record, &mut groups, &mut window, max_packet_bytes)
                        }
                        false => unsupported += 1,
                    }
                });
            if let Err(error) = walked {
                failed = Some(error);
                break;
            }
            for group in groups.open {
                self.close(group, record, &mut window);
            }
            bytes += window.messages[window.ends.last().map_or(0, |end| end.messages)..]
                .iter()
                .map(|message| message.payload.len() + message.topic.len())
                .sum::<usize>();
            window.ends.push(RecordEnd {
                position: record.position,
                messages: window.messages.len(),
                too_large: window.too_large.len(),
                unsupported,
            });
            if bytes >= WINDOW_BYTES {
                break;
            }
        }
        self.points = points;
        match failed {
            Some(error) => Err(error),
            None => Ok(window),
        }
    }

    /// Writes one reading down; false if the payload cannot say it.
    fn encode(&mut self, point: &Point<'_>) -> bool {
        self.reading.clear();
        match self.payload {
            Payload::Json => serde_json::to_writer(&mut self.reading, &Reading(point)).is_ok(),
            Payload::MessagePack => {
                rmp_serde::encode::write_named(&mut self.reading, &Reading(point)).is_ok()
            }
            Payload::LineProtocol => {
                matches!(self.lines.encode(point, &mut self.reading), Encoded::Line { .. })
            }
        }
    }

    /// Puts the reading that was written down last into its message.
    fn place(
        &self,
        point: &Point<'_>,
        record: &Record,
        groups: &mut Groups,
        window: &mut Window,
        max_packet_bytes: usize,
    ) {
        let measurement = if self.by_measurement { point.measurement } else { "" };
        let at = match groups.by_measurement.get(measurement) {
            Some(&at) => at,
            None => {
                let topic = self.topic(point.identity, measurement);
                let head = self.head(record, 0).len() + topic.len() + PACKET_BYTES;
                groups.open.push(Group { topic, head, ..Group::default() });
                groups.by_measurement.insert(measurement.to_owned(), groups.open.len() - 1);
                groups.open.len() - 1
            }
        };
        let group = &mut groups.open[at];
        let alone = group.head + self.reading.len();
        if alone > max_packet_bytes {
            window.too_large.push(RejectedPoint {
                id: point.id,
                reason: format!(
                    "as a message it has {alone} bytes, more than the {max_packet_bytes} of a packet"
                ),
            });
            return;
        }
        if alone + group.body.len() + 1 > max_packet_bytes && !group.points.is_empty() {
            let topic = group.topic.clone();
            let next = Group { topic, head: group.head, ..Group::default() };
            let full = std::mem::replace(group, next);
            self.close(full, record, window);
        }
        let group = &mut groups.open[at];
        if self.payload == Payload::Json && !group.points.is_empty() {
            group.body.push(b',');
        }
        group.body.extend_from_slice(&self.reading);
        group.points.push(point.id);
    }

    fn close(&self, group: Group, record: &Record, window: &mut Window) {
        if group.points.is_empty() {
            return;
        }
        let mut payload = self.head(record, group.points.len());
        payload.extend_from_slice(&group.body);
        if self.payload == Payload::Json {
            payload.extend_from_slice(b"]}");
        }
        let (topic, points) = (group.topic.into(), group.points);
        window.messages.push(Message { topic, payload: payload.into(), points });
    }

    /// What stands before the readings.
    fn head(&self, record: &Record, readings: usize) -> Vec<u8> {
        let Identity { realm, device } = &record.envelope.identity;
        let head = Head { realm, device, record: record.position.0, readings: [] };
        let mut out = Vec::new();
        // Neither fails: the text is plain and the memory takes it.
        match self.payload {
            Payload::LineProtocol => {}
            Payload::Json => {
                let _ = serde_json::to_writer(&mut out, &head);
                out.truncate(out.len().saturating_sub(2));
            }
            Payload::MessagePack => {
                let _ = rmp_serde::encode::write_named(&mut out, &head);
                // The empty array at the end becomes one of four bytes of length.
                out.pop();
                out.push(0xDD);
                out.extend_from_slice(&u32::try_from(readings).unwrap_or(u32::MAX).to_be_bytes());
            }
        }
        out
    }

    fn topic(&self, identity: &Identity, measurement: &str) -> String {
        let mut out = String::with_capacity(self.topic.len() + 64);
        let mut rest = self.topic.as_str();
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            let end = rest[at..].find('}').map_or(rest.len(), |length| at + length + 1);
            match &rest[at..end] {
                "{device}" => escape_level(&identity.device, &mut out),
                "{realm}" => escape_level(&identity.realm, &mut out),
                "{measurement}" => escape_level(measurement, &mut out),
                other => out.push_str(other),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        out
    }
}

/// The messages of a record that may still take readings.
#[derive(Default)]
struct Groups {
    open: Vec<Group>,
    by_measurement: HashMap<String, usize>,
}

#[derive(Default)]
struct Group {
    topic: String,
    /// Bytes of the packet without readings.
    head: usize,
    body: Vec<u8>,
    points: Vec<PointId>,
}

#[derive(Serialize)]
struct Head<'a> {
    realm: &'a str,
    device: &'a str,
    record: u64,
    readings: [(); 0],
}

struct Reading<'a>(&'a Point<'a>);

impl Serialize for Reading<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let point = self.0;
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("index", &point.id.index)?;
        map.serialize_entry("measurement", point.measurement)?;
        map.serialize_entry("time_ns", &point.time_ns)?;
        map.serialize_entry("tags", &Tags(point.tags))?;
        map.serialize_entry("fields", &Fields(point.fields))?;
        map.end()
    }
}

struct Tags<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for Tags<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

struct Fields<'a>(&'a [(&'a str, Value<'a>)]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            match value {
                Value::Float(x) => map.serialize_entry(name, x)?,
                Value::Int(n) => map.serialize_entry(name, n)?,
                Value::Bool(b) => map.serialize_entry(name, b)?,
                Value::Str(text) => map.serialize_entry(name, text)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
