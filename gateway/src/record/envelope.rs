//! The envelope, version 1: everything around the device's bytes that is needed to yield the same
//! points for ever, whatever the configuration is by then.
//!
//! Little-endian. A fixed part of 64 bytes, then the variable part, then the payload:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind: 1 batch, 2 checkpoint |
//! | 2 | 1 | source: 1 device over wss, 2 the gateway itself, 3 MQTT |
//! | 3 | 1 | codec of the payload: 0 none, 1 batch body of `telemetry.v1.msgpack`, 2 checkpoint |
//! | 4 | 1 | `time_unit` of the connection: 0 s, 1 ms, 2 µs, 3 ns |
//! | 5 | 1 | code with which the whole batch was refused, 0 if it was not |
//! | 6 | 2 | length of the header (fixed and variable part) up to 65,535; the payload begins there |
//! | 8 | 8 | receive time, nanoseconds since the Unix epoch |
//! | 16 | 8 | stream, 0 if private to a connection |
//! | 24 | 8 | sequence number |
//! | 32 | 4 | accepted readings in this record |
//! | 36 | 4 | entries in the list of refusals |
//! | 40 | 8 | accepted readings in this log up to and with this record |
//! | 48 | 8 | XXH3-64 of the payload as the device sent it |
//! | 56 | 4 | entries in the list of adjustments |
//! | 60 | 1 | length of the realm |
//! | 61 | 1 | length of the device id |
//! | 62 | 1 | length of the connection's measurement, 0 if none |
//! | 63 | 1 | 0 |
//! | 64 | | realm, device id, measurement |
//! | | 5 each | refusals: index (4), code (1) |
//! | | 6 each | adjustments: index (4), kind (1), field (1), ascending by index |
//!
//! Kinds of adjustments: 1 the field was left out; 2 reserved, changes nothing; 3, 4, 5 the value
//! was converted to a number, a boolean, a text.
//!
//! A batch with more refusals and adjustments than a header of 65,535 bytes holds is impossible:
//! the configuration takes at most 10,000 readings in a batch, a refused one takes 5 bytes, and
//! values are converted only as long as there is room for that, see [`room_for_adjustments`].

use super::{FieldKind, Identity, Position};
use proto::{ErrorCode, TimeUnit};

/// Length of the fixed part, in bytes.
pub const HEADER_MIN_BYTES: usize = 64;
/// Longest header, in bytes.
pub const MAX_HEADER_BYTES: usize = u16::MAX as usize;
const VERSION: u8 = 1;
const ACCEPTED_TOTAL_AT: usize = 40;
/// What a refused reading takes of the header, in bytes.
pub const REFUSAL_BYTES: usize = 5;
const ADJUSTMENT_BYTES: usize = 6;

/// How many adjustments a batch of so many readings may have at least, whatever else is noted.
pub const fn room_for_adjustments(readings: usize) -> usize {
    let names = 3 * u8::MAX as usize;
    let others = HEADER_MIN_BYTES + names + readings * REFUSAL_BYTES;
    MAX_HEADER_BYTES.saturating_sub(others) / ADJUSTMENT_BYTES
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A batch of readings.
    Batch = 1,
    /// Part of the state of order and dedupe.
    Checkpoint = 2,
}

/// Where a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// A device over wss.
    Device = 1,
    /// The gateway itself.
    Gateway = 2,
    /// A device over MQTT.
    Mqtt = 3,
}

/// Codec of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// No payload.
    None = 0,
    /// Batch body of `telemetry.v1.msgpack`.
    BatchV1 = 1,
    /// Checkpoint part.
    Checkpoint = 2,
}

/// A reading that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Index of the reading, or row of the columns.
    pub index: u32,
    /// Why.
    pub code: ErrorCode,
}

/// What was done to a reading before it was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AdjustmentKind {
    /// The field was left out.
    FieldDropped = 1,
    /// Reserved: says of a conversion not to what. Nothing is changed.
    ValueCoerced = 2,
    /// The field's value was converted to a number, see [`super::coerce`].
    CoercedToNumber = 3,
    /// The field's value was converted to a boolean.
    CoercedToBool = 4,
    /// The field's value was converted to a text.
    CoercedToText = 5,
}

impl AdjustmentKind {
    /// The conversion to a kind.
    pub fn coerced_to(kind: FieldKind) -> Self {
        match kind {
            FieldKind::Number => Self::CoercedToNumber,
            FieldKind::Bool => Self::CoercedToBool,
            FieldKind::Text => Self::CoercedToText,
        }
    }

    /// To what the value was converted, if it was.
    pub fn target(self) -> Option<FieldKind> {
        match self {
            Self::FieldDropped | Self::ValueCoerced => None,
            Self::CoercedToNumber => Some(FieldKind::Number),
            Self::CoercedToBool => Some(FieldKind::Bool),
            Self::CoercedToText => Some(FieldKind::Text),
        }
    }
}

/// One adjustment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adjustment {
    /// Index of the reading.
    pub index: u32,
    /// What was done.
    pub kind: AdjustmentKind,
    /// Which field, counted from 0 in the order of the message.
    pub field: u8,
}

/// The envelope of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What the record is.
    pub kind: Kind,
    /// Where it came from.
    pub source: Source,
    /// Codec of the payload.
    pub codec: Codec,
    /// Unit of integer times in the payload.
    pub time_unit: TimeUnit,
    /// The code with which the whole batch was refused.
    pub refused_whole: Option<ErrorCode>,
    /// Receive time, nanoseconds since the Unix epoch.
    pub receive_ns: i64,
    /// Stream, 0 if private to a connection.
    pub stream: u64,
    /// Sequence number.
    pub seq: u64,
    /// Accepted readings in this record.
    pub accepted: u32,
    /// Accepted readings in the log up to and with this record.
    pub accepted_total: u64,
    /// XXH3-64 of the payload as it was sent.
    pub payload_hash: u64,
    /// Who sent it.
    pub identity: Identity,
    /// Measurement of the readings that name none.
    pub measurement: Option<Box<str>>,
    /// Refused readings, ascending by index.
    pub refused: Vec<Refusal>,
    /// Adjusted readings, ascending by index.
    pub adjustments: Vec<Adjustment>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Written by a newer gateway.
    #[error(
        "record {position} has envelope version {version}, this gateway reads up to 1: run the gateway that wrote it, or a newer one"
    )]
    Newer {
        /// Where.
        position: Position,
        /// The version found.
        version: u8,
    },
    /// Not an envelope.
    #[error("record {position}: {what}")]
    Invalid {
        /// Where.
        position: Position,
        /// What is wrong.
        what: &'static str,
    },
}

impl Envelope {
    /// Appends the header to `out`; the payload goes right after it.
    ///
    /// # Panics
    /// If a name or list is longer than the protocol's limits, which the validation before it
    /// excludes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let measurement = self.measurement.as_deref().unwrap_or("");
        let length = HEADER_MIN_BYTES
            + self.identity.realm.len()
            + self.identity.device.len()
            + measurement.len()
            + self.refused.len() * REFUSAL_BYTES
            + self.adjustments.len() * ADJUSTMENT_BYTES;
        let start = out.len();
        out.reserve(length);
        out.extend_from_slice(&[
            VERSION,
            self.kind as u8,
            self.source as u8,
            self.codec as u8,
            self.time_unit as u8,
            self.refused_whole.map_or(0, |code| code as u8),
        ]);
        out.extend_from_slice(&narrow::<u16>(length).to_le_bytes());
        out.extend_from_slice(&self.receive_ns.to_le_bytes());
        out.extend_from_slice(&self.stream.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.accepted.to_le_bytes());
        out.extend_from_slice(&narrow::<u32>(self.refused.len()).to_le_bytes());
        out.extend_from_slice(&self.accepted_total.to_le_bytes());
        out.extend_from_slice(&self.payload_hash.to_le_bytes());
        out.extend_from_slice(&narrow::<u32>(self.adjustments.len()).to_le_bytes());
        out.extend_from_slice(&[
            narrow::<u8>(self.identity.realm.len()),
            narrow::<u8>(self.identity.device.len()),
            narrow::<u8>(measurement.len()),
            0,
        ]);
        out.extend_from_slice(self.identity.realm.as_bytes());
        out.extend_from_slice(self.identity.device.as_bytes());
        out.extend_from_slice(measurement.as_bytes());
        for refusal in &self.refused {
            out.extend_from_slice(&refusal.index.to_le_bytes());
            out.push(refusal.code as u8);
        }
        for adjustment in &self.adjustments {
            out.extend_from_slice(&adjustment.index.to_le_bytes());
            out.extend_from_slice(&[adjustment.kind as u8, adjustment.field]);
        }
        debug_assert_eq!(out.len() - start, length);
    }

    /// Reads a record: the envelope, and the payload as a slice of `record`.
    ///
    /// # Errors
    /// The version is newer, or the bytes are not an envelope.
    pub fn decode(position: Position, record: &[u8]) -> Result<(Self, &[u8]), EnvelopeError> {
        let invalid = |what| EnvelopeError::Invalid { position, what };
        let version = *record.first().ok_or(invalid("empty"))?;
        if version != VERSION {
            return Err(EnvelopeError::Newer { position, version });
        }
        let mut fixed = Cursor { bytes: record };
        let short = || invalid("shorter than its header");
        let [_, kind, source, codec, unit, refused_whole] = fixed.take().ok_or_else(short)?;
        let length = usize::from(u16::from_le_bytes(fixed.take().ok_or_else(short)?));
        if length < HEADER_MIN_BYTES || length > record.len() {
            return Err(short());
        }
        let receive_ns = i64::from_le_bytes(fixed.take().ok_or_else(short)?);
        let stream = u64::from_le_bytes(fixed.take().ok_or_else(short)?);
        let seq = u64::from_le_bytes(fixed.take().ok_or_else(short)?);
        let accepted = u32::from_le_bytes(fixed.take().ok_or_else(short)?);
        let refused_count = u32::from_le_bytes(fixed.take().ok_or_else(short)?) as usize;
        let accepted_total = u64::from_le_bytes(fixed.take().ok_or_else(short)?);
        let payload_hash = u64::from_le_bytes(fixed.take().ok_or_else(short)?);
        let adjusted_count = u32::from_le_bytes(fixed.take().ok_or_else(short)?) as usize;
        let [realm_len, device_len, measurement_len, _] = fixed.take().ok_or_else(short)?;

        let mut rest = Cursor { bytes: &record[HEADER_MIN_BYTES..length] };
        let realm = rest.text(realm_len).ok_or(invalid("bad realm"))?;
        let device = rest.text(device_len).ok_or(invalid("bad device id"))?;
        let measurement = rest.text(measurement_len).ok_or(invalid("bad measurement"))?;
        let expected = refused_count
            .checked_mul(REFUSAL_BYTES)
            .and_then(|n| n.checked_add(adjusted_count.checked_mul(ADJUSTMENT_BYTES)?));
        if expected != Some(rest.bytes.len()) {
            return Err(invalid("lists do not fill the header"));
        }
        let code = |n| ErrorCode::from_number(n).ok_or(invalid("unknown error code"));
        let mut refused = Vec::with_capacity(refused_count);
        for _ in 0..refused_count {
            let index = u32::from_le_bytes(rest.take().ok_or_else(short)?);
            let [number] = rest.take().ok_or_else(short)?;
            refused.push(Refusal { index, code: code(number)? });
        }
        let mut adjustments = Vec::with_capacity(adjusted_count);
        for _ in 0..adjusted_count {
            let index = u32::from_le_bytes(rest.take().ok_or_else(short)?);
            let [kind, field] = rest.take().ok_or_else(short)?;
            let kind = match kind {
                1 => AdjustmentKind::FieldDropped,
                2 => AdjustmentKind::ValueCoerced,
                3 => AdjustmentKind::CoercedToNumber,
                4 => AdjustmentKind::CoercedToBool,
                5 => AdjustmentKind::CoercedToText,
                _ => return Err(invalid("unknown adjustment")),
            };
            adjustments.push(Adjustment { index, kind, field });
        }
        let envelope = Self {
            kind: match kind {
                1 => Kind::Batch,
                2 => Kind::Checkpoint,
                _ => return Err(invalid("unknown kind")),
            },
            source: match source {
                1 => Source::Device,
                2 => Source::Gateway,
                3 => Source::Mqtt,
                _ => return Err(invalid("unknown source")),
            },
            codec: match codec {
                0 => Codec::None,
                1 => Codec::BatchV1,
                2 => Codec::Checkpoint,
                _ => return Err(invalid("unknown codec")),
            },
            time_unit: TimeUnit::from_number(unit).ok_or(invalid("unknown time unit"))?,
            refused_whole: if refused_whole == 0 { None } else { Some(code(refused_whole)?) },
            receive_ns,
            stream,
            seq,
            accepted,
            accepted_total,
            payload_hash,
            identity: Identity::new(realm, device),
            measurement: (!measurement.is_empty()).then(|| measurement.into()),
            refused,
            adjustments,
        };
        Ok((envelope, &record[length..]))
    }
}

/// Sets the cumulative count in an encoded envelope: it is known only when the record is appended.
pub fn patch_accepted_total(record: &mut [u8], total: u64) {
    record[ACCEPTED_TOTAL_AT..ACCEPTED_TOTAL_AT + 8].copy_from_slice(&total.to_le_bytes());
}

fn narrow<T: TryFrom<usize>>(n: usize) -> T {
    match T::try_from(n) {
        Ok(n) => n,
        Err(_) => unreachable!("limits of the protocol keep every length in its field"),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = tail;
        Some(*head)
    }

    fn text(&mut self, length: u8) -> Option<&'a str> {
        let (head, tail) = self.bytes.split_at_checked(usize::from(length))?;
        self.bytes = tail;
        std::str::from_utf8(head).ok()
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
