//! From records of the log to batches of the file: which devices, and what becomes of their readings.

use super::{Options, Policy, rekey::Rekey};
use crate::record::{
    Codec, Envelope, EnvelopeError, Identity, Kind, Points, Position, Source, Value,
};
use capture_file::{BatchHead, Writer, transcode};
use proto::{Batch, BatchEncoder, Limits, RawReading, RawTime, RawValue};
use std::{
    collections::{HashMap, VecDeque},
    io::{self, Write},
};

/// Most devices that are told apart, taken or not; others are not taken.
const MAX_DEVICES: usize = 1_000_000;
/// Most streams of a device that are told apart: as many as the gateway remembers.
const MAX_STREAMS: usize = 8;

/// Shortest device id that is looked for within names, in bytes.
const MIN_BETRAYING_BYTES: usize = 4;

/// Why a record is not in the file.
pub(super) enum SampleError {
    Record(EnvelopeError),
    Write(io::Error),
}

impl From<EnvelopeError> for SampleError {
    fn from(error: EnvelopeError) -> Self {
        Self::Record(error)
    }
}

impl From<io::Error> for SampleError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// A device that is taken.
struct Taken {
    /// None before its first batch is in the file.
    number: Option<u32>,
    batches: u64,
    streams: VecDeque<Stream>,
    next_stream: u16,
}

struct Stream {
    stream: u64,
    number: u16,
    /// 0 if that is not known.
    last_seq: u64,
}

pub(super) struct Sample<'a, W> {
    pub(super) writer: Writer<W>,
    options: &'a Options,
    from_ns: i64,
    rekey: Rekey,
    /// `None` if it is not taken.
    devices: HashMap<Identity, Option<Taken>>,
    /// How many devices fitted.
    fitting: u64,
    encoder: BatchEncoder,
    points: Points,
}

impl<'a, W: Write> Sample<'a, W> {
    pub(super) fn new(options: &'a Options, from_ns: i64, writer: Writer<W>) -> Self {
        Self {
            writer,
            options,
            from_ns,
            rekey: Rekey::new(),
            devices: HashMap::new(),
            // Where the counting begins is left to chance, so that the first is not always taken.
            fitting: fastrand::u64(..u64::from(options.share[1].max(1))),
            encoder: BatchEncoder::new(),
            points: Points::default(),
        }
    }

    /// So many records are gone: what a stream skipped there is not known.
    pub(super) fn missing(&mut self, records: u64) {
        self.writer.missing(records);
        let taken = self.devices.values_mut().flatten();
        taken.flat_map(|taken| &mut taken.streams).for_each(|stream| stream.last_seq = 0);
    }

    /// Writes a record if it is of a device that is taken; false if the file would be longer than
    /// `room`.
    pub(super) fn take(
        &mut self,
        position: Position,
        envelope: &Envelope,
        payload: &[u8],
        room: u64,
    ) -> Result<bool, SampleError> {
        let is_batch = envelope.kind == Kind::Batch
            && envelope.codec == Codec::BatchV1
            && envelope.source != Source::Gateway;
        if !is_batch || envelope.accepted == 0 {
            return Ok(true);
        }
        // A device that is new takes less than that.
        if self.writer.bytes() + payload.len() as u64 * 2 + 512 > room {
            return Ok(!self.is_taken(&envelope.identity));
        }
        if !self.knows(&envelope.identity) {
            return Ok(true);
        }
        self.rekey.tidy();
        let adjusted = match envelope.adjustments.is_empty() {
            true => None,
            false => Some(self.adjusted(position, envelope, payload)?),
        };
        let refused = match adjusted {
            None => &envelope.refused[..],
            Some(_) => &[],
        };
        let payload = adjusted.as_deref().unwrap_or(payload);
        let undecodable =
            EnvelopeError::Invalid { position, what: "its payload does not decode as accepted" };
        let is_refused = |index: u32| refused.binary_search_by_key(&index, |of| of.index).is_ok();
        learn(&mut self.rekey, self.options, envelope, payload, is_refused)
            .ok_or(undecodable.clone())?;
        let Some(Some(taken)) = self.devices.get_mut(&envelope.identity) else { return Ok(true) };
        let change = Change {
            rekey: &self.rekey,
            policy: &self.options.policy,
            device: &envelope.identity.device,
            unit_ns: if adjusted.is_some() { 1 } else { envelope.time_unit.nanos() },
            from_ns: self.from_ns,
        };
        let readings =
            transcode(payload, taken.batches + 1, &mut self.encoder, |index, reading| {
                !is_refused(index) && change.apply(reading)
            })
            .map_err(|_| undecodable)?;
        // A device is in the file once there is something of it.
        let number = match taken.number {
            Some(number) => number,
            None => {
                let Identity { realm, device } = &envelope.identity;
                let name = self.rekey.name(&[realm, device]);
                self.writer.device(&name, &self.rekey.name(&[realm]))?.number
            }
        };
        (taken.number, taken.batches) = (Some(number), taken.batches + 1);
        let (stream, skipped) = taken.stream(envelope.stream, envelope.seq);
        let after_ns = u64::try_from(envelope.receive_ns - self.from_ns).unwrap_or(0);
        let head = BatchHead {
            device: number,
            arrival_us: after_ns / 1_000,
            stream,
            skipped,
            readings,
            left_out: u32::try_from(envelope.refused.len()).unwrap_or(u32::MAX),
            measurement: envelope.measurement.as_deref().map_or("", |name| change.name(name)),
        };
        self.writer.batch(&head, self.encoder.body())?;
        Ok(true)
    }

    fn is_taken(&self, identity: &Identity) -> bool {
        self.devices.get(identity).is_some_and(Option::is_some)
    }

    /// Whether a device is taken; the first time it is seen that is decided.
    fn knows(&mut self, identity: &Identity) -> bool {
        if let Some(known) = self.devices.get(identity) {
            return known.is_some();
        }
        let Options { devices, realm, share: [taken, of], .. } = self.options;
        let fits = realm.as_ref().is_none_or(|realm| **realm == *identity.realm)
            && devices.iter().any(|pattern| pattern.fits(&identity.device));
        if !fits || self.devices.len() >= MAX_DEVICES {
            return false;
        }
        // Spread evenly: of each `of` that fit, `taken`.
        let (taken, of) = (u64::from(*taken), u64::from(*of));
        let is_taken = (self.fitting + 1) * taken / of > self.fitting * taken / of;
        self.fitting += 1;
        let streams = VecDeque::new();
        let taken = Taken { number: None, batches: 0, streams, next_stream: 0 };
        self.devices.insert(identity.clone(), is_taken.then_some(taken));
        is_taken
    }

    /// A batch some of whose values were converted or left out, as it was accepted: as readings, with
    /// times in nanoseconds.
    fn adjusted(
        &mut self,
        position: Position,
        envelope: &Envelope,
        payload: &[u8],
    ) -> Result<Vec<u8>, EnvelopeError> {
        let (encoder, points) = (&mut self.encoder, &mut self.points);
        encoder.readings(1, envelope.accepted);
        points.for_each(position, envelope, payload, |point| {
            let fields: Vec<_> = point.fields.iter().map(|(name, of)| (*name, raw(*of))).collect();
            encoder.reading(Some(point.measurement), Some(point.time_ns), point.tags, &fields);
        })?;
        Ok(encoder.body().to_vec())
    }
}

impl Taken {
    /// The number of a stream, and how many sequence numbers it skipped.
    fn stream(&mut self, stream: u64, seq: u64) -> (u16, u32) {
        if let Some(known) = self.streams.iter_mut().find(|known| known.stream == stream) {
            let last = std::mem::replace(&mut known.last_seq, seq);
            // A private stream begins anew with each connection.
            let skipped = if last == 0 || stream == 0 { 0 } else { seq.saturating_sub(last + 1) };
            return (known.number, u32::try_from(skipped).unwrap_or(u32::MAX));
        }
        let number = self.next_stream;
        self.next_stream = self.next_stream.wrapping_add(1);
        self.streams.push_back(Stream { stream, number, last_seq: seq });
        if self.streams.len() > MAX_STREAMS {
            self.streams.pop_front();
        }
        (number, 0)
    }
}

/// Gives every text of a batch that will be replaced its replacement.
fn learn(
    rekey: &mut Rekey,
    options: &Options,
    envelope: &Envelope,
    payload: &[u8],
    is_refused: impl Fn(u32) -> bool,
) -> Option<()> {
    let (policy, device) = (&options.policy, &*envelope.identity.device);
    let name = |rekey: &mut Rekey, name: &str| {
        if betrays(name, device) {
            rekey.learn(name);
        }
    };
    if let Some(measurement) = &envelope.measurement {
        name(rekey, measurement);
    }
    let batch = Batch::open(payload, &Limits::unbounded()).ok()?;
    let (mut readings, mut reading, mut index) = (batch.readings(), RawReading::default(), 0);
    while readings.next(&mut reading).ok()?.is_some() {
        index += 1;
        if is_refused(index - 1) {
            continue;
        }
        reading.measurement.into_iter().for_each(|of| name(rekey, of));
        for (tag, value) in &reading.tags {
            name(rekey, tag);
            if !policy.keeps_tag(tag) {
                rekey.learn(value);
            }
        }
        for (field, value) in &reading.fields {
            name(rekey, field);
            if let RawValue::Str(text) = value
                && !policy.keeps_field(field)
            {
                rekey.learn(text);
            }
        }
    }
    Some(())
}

fn raw(value: Value<'_>) -> RawValue<'_> {
    match value {
        Value::Float(x) => RawValue::Float(x),
        Value::Int(n) => RawValue::Int(n),
        Value::Bool(b) => RawValue::Bool(b),
        Value::Str(text) => RawValue::Str(text),
    }
}

/// Whether a name holds the id of its device. A shorter one may be in any word.
fn betrays(name: &str, device: &str) -> bool {
    name == device || (device.len() >= MIN_BETRAYING_BYTES && name.contains(device))
}

/// What becomes of each reading.
struct Change<'a> {
    rekey: &'a Rekey,
    policy: &'a Policy,
    device: &'a str,
    unit_ns: i64,
    from_ns: i64,
}

impl<'a> Change<'a> {
    fn apply(&self, reading: &mut RawReading<'a>) -> bool {
        if let Some(measurement) = &mut reading.measurement {
            *measurement = self.name(measurement);
        }
        reading.time = reading.time.map(|time| {
            let time_ns = match time {
                RawTime::Units(time) => time.saturating_mul(self.unit_ns),
                RawTime::Timestamp { seconds, nanos } => {
                    seconds.saturating_mul(1_000_000_000).saturating_add(nanos.into())
                }
            };
            RawTime::Units(time_ns.saturating_sub(self.from_ns))
        });
        for (name, value) in &mut reading.tags {
            if !self.policy.keeps_tag(name) {
                *value = self.rekey.of(value);
            }
            *name = self.name(name);
        }
        for (name, value) in &mut reading.fields {
            let blanks = self.policy.blanks(name);
            *value = match *value {
                RawValue::Float(_) if blanks => RawValue::Float(0.0),
                RawValue::Int(_) | RawValue::UInt(_) if blanks => RawValue::Int(0),
                RawValue::Bool(_) if blanks => RawValue::Bool(false),
                RawValue::Str(_) if blanks => RawValue::Str(Rekey::blank()),
                RawValue::Str(text) if !self.policy.keeps_field(name) => {
                    RawValue::Str(self.rekey.of(text))
                }
                value => value,
            };
            *name = self.name(name);
        }
        true
    }

    /// A name as it is, unless it holds the id of the device.
    fn name(&self, name: &'a str) -> &'a str {
        if betrays(name, self.device) { self.rekey.of(name) } else { name }
    }
}
