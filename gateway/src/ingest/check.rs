//! Decode and validate: what of a batch may be logged, and what the device is told of the rest.
//!
//! Runs in the connection's task. Pure: the clock comes in as an argument.

mod times;

use super::{
    StreamId,
    guard::{Findings, Guard, Objection, Watch},
};
use crate::record::{self, Codec, Envelope, Identity, Kind, Refusal, Source};
use bytes::Bytes;
use proto::{
    Batch, ErrorCode, Limits, RawReading, TimeUnit,
    limits::{MAX_NACK_READINGS, MAX_NAME_BYTES, MAX_STRING_FIELD_BYTES, MAX_TAG_VALUE_BYTES},
    message::{MessageError, RefusedReading},
};
use std::{borrow::Cow, sync::Arc, time::Duration};
use times::Times;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// 2000-01-01T00:00:00Z in nanoseconds since the Unix epoch: a clock that says less was never set.
const YEAR_2000_NS: i64 = 946_684_800_000_000_000;
/// How far ahead of the gateway's clock a reading may be.
const MAX_AHEAD_NS: i64 = 600 * 1_000_000_000;
/// When a batch that fell into a jump of the gateway's clock may come again.
const CLOCK_JUMP_RETRY_MS: u32 = 10_000;
/// Measurements with this prefix are the gateway's own.
const RESERVED_MEASUREMENT_PREFIX: &str = "gateway_";
/// Longest detail in a nack, in characters.
const MAX_DETAIL_CHARS: usize = 120;

/// What is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Limits of the protocol.
    pub limits: Limits,
    /// Readings older than this are refused; `None`: late data is welcome.
    pub max_age: Option<Duration>,
}

/// What the connection said about its readings.
#[derive(Debug, Clone)]
pub struct ConnectionContext {
    /// Who sends.
    pub identity: Identity,
    /// The stream of its sequence numbers.
    pub stream: StreamId,
    /// Unit of integer times.
    pub time_unit: TimeUnit,
    /// Measurement of the readings that name none.
    pub measurement: Option<Box<str>>,
}

/// The gateway's clock at the moment of receipt.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Nanoseconds since the Unix epoch.
    pub ns: i64,
    /// False for a while after the clock has jumped: times are then not held against the device.
    pub settled: bool,
}

/// A batch after decoding and validation.
#[derive(Debug)]
pub struct Checked {
    /// Sequence number.
    pub seq: u64,
    /// Accepted readings.
    pub accepted: u32,
    /// All refused readings, ascending by index.
    pub refused: Arc<[Refusal]>,
    /// The first refused readings as the device is told.
    pub details: Vec<RefusedReading>,
    /// The whole batch is refused for good, with a sentence for a person.
    pub refused_whole: Option<(ErrorCode, String)>,
    /// The batch is not to be logged now: code, and milliseconds until it may come again.
    pub retry: Option<(ErrorCode, u32)>,
    /// The encoded envelope, the cumulative count not yet set.
    pub header: Vec<u8>,
    /// The batch body, empty if the whole batch is refused.
    pub payload: Bytes,
    /// XXH3-64 of the batch body as it came.
    pub payload_hash: u64,
    /// The change of `state.db` that has to be durable before the batch is submitted; 0 if none:
    /// what was learned from a batch is known as long as its readings are.
    pub settle: u64,
    /// Time of the last accepted reading that has one of its own, in nanoseconds.
    pub newest_ns: Option<i64>,
}

/// Decodes and validates a batch body, and holds it against what the gateway has learned.
///
/// # Errors
/// The body is not sound MessagePack, or is no batch at all: nothing of it can be answered by
/// sequence number.
pub fn check(
    body: Bytes,
    context: &ConnectionContext,
    guard: &mut Guard,
    rules: &Rules,
    now: Now,
) -> Result<Checked, MessageError> {
    let batch = Batch::open(&body, &rules.limits)?;
    let seq = batch.seq();
    let refused_whole = batch.fault().map(|fault| (fault.code, fault.detail.clone()));
    let mut verdict = Verdict::default();
    if refused_whole.is_none() {
        verdict = judge(&batch, context, guard, rules, now)?;
    }
    let payload_hash = xxh3_64(&body);
    let envelope = Envelope {
        kind: Kind::Batch,
        source: match context.stream {
            StreamId::Content => Source::Mqtt,
            StreamId::Named(_) | StreamId::Private(_) => Source::Device,
        },
        codec: if refused_whole.is_some() { Codec::None } else { Codec::BatchV1 },
        time_unit: context.time_unit,
        refused_whole: refused_whole.as_ref().map(|(code, _)| *code),
        receive_ns: now.ns,
        stream: match context.stream {
            StreamId::Named(stream) => stream,
            StreamId::Private(_) | StreamId::Content => 0,
        },
        seq,
        accepted: verdict.accepted,
        accepted_total: 0,
        payload_hash,
        identity: context.identity.clone(),
        measurement: context.measurement.clone(),
        refused: verdict.refused,
        adjustments: verdict.findings.adjustments,
    };
    let mut header = Vec::new();
    envelope.encode(&mut header);
    Ok(Checked {
        seq,
        accepted: verdict.accepted,
        refused: envelope.refused.into(),
        details: verdict.details,
        payload: if refused_whole.is_some() { Bytes::new() } else { body },
        refused_whole,
        retry: verdict.clock_in_doubt.then_some((ErrorCode::ClockJump, CLOCK_JUMP_RETRY_MS)),
        header,
        payload_hash,
        settle: verdict.findings.settle,
        newest_ns: verdict.newest_ns,
    })
}

#[derive(Default)]
struct Verdict {
    accepted: u32,
    refused: Vec<Refusal>,
    details: Vec<RefusedReading>,
    clock_in_doubt: bool,
    newest_ns: Option<i64>,
    findings: Findings,
}

struct Fault<'a> {
    code: ErrorCode,
    field: Option<&'a str>,
    detail: Cow<'static, str>,
}

impl<'a> Fault<'a> {
    fn new(code: ErrorCode, field: Option<&'a str>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, field, detail: detail.into() }
    }
}

impl<'a> From<Objection<'a>> for Fault<'a> {
    fn from(Objection { code, field, detail }: Objection<'a>) -> Self {
        Self { code, field, detail }
    }
}

fn judge(
    batch: &Batch<'_>,
    context: &ConnectionContext,
    guard: &mut Guard,
    rules: &Rules,
    now: Now,
) -> Result<Verdict, MessageError> {
    let mut verdict = Verdict::default();
    let mut readings = batch.readings();
    let mut reading = RawReading::default();
    let seed = guard.seed();
    let mut walk = Walk {
        seed,
        previous: Shape::default(),
        times: Times::new(batch.len() as usize),
        watch: guard.watch(batch.len(), now.ns),
    };
    let mut index: u32 = 0;
    while let Some(read) = readings.next(&mut reading)? {
        let judged = match read {
            Ok(()) => judge_reading(&reading, index, context, rules, now, &mut walk),
            Err(fault) => Err(Fault::new(fault.code, fault.field, "")),
        };
        match judged {
            Ok(time) => {
                verdict.accepted += 1;
                if reading.time.is_some() {
                    verdict.newest_ns = Some(time);
                }
            }
            Err(fault) => {
                // Both are held against the gateway's clock.
                let by_clock =
                    matches!(fault.code, ErrorCode::TimeInFuture | ErrorCode::TimeTooOld);
                verdict.clock_in_doubt |= !now.settled && by_clock;
                if verdict.details.len() < MAX_NACK_READINGS {
                    verdict.details.push(RefusedReading {
                        index,
                        code: fault.code,
                        field: fault.field.map(shorten),
                        detail: (!fault.detail.is_empty()).then(|| shorten(&fault.detail)),
                    });
                }
                verdict.refused.push(Refusal { index, code: fault.code });
            }
        }
        index += 1;
    }
    verdict.findings = walk.watch.finish();
    Ok(verdict)
}

/// What is remembered from one reading of a batch to the next.
struct Walk<'a, 'g> {
    /// Of hashes.
    seed: u64,
    previous: Shape<'a>,
    times: Times,
    watch: Watch<'g>,
}

fn judge_reading<'a>(
    reading: &RawReading<'a>,
    index: u32,
    context: &ConnectionContext,
    rules: &Rules,
    now: Now,
    walk: &mut Walk<'a, '_>,
) -> Result<i64, Fault<'a>> {
    let Walk { seed, previous, times, watch } = walk;
    // Readings of one batch are mostly of one shape: names are judged once for a run of them.
    if !previous.matches(reading) {
        judge_names(reading, context, previous)?;
        let measurement = reading.measurement.or(context.measurement.as_deref()).unwrap_or("");
        previous.become_that_of(reading, measurement, *seed);
        watch.enter(measurement, reading, previous.hash);
    }
    for &(name, raw) in &reading.fields {
        match record::value(raw) {
            Ok(record::Value::Str(text)) if text.len() > MAX_STRING_FIELD_BYTES => {
                let detail = format!("{} bytes, at most {MAX_STRING_FIELD_BYTES}", text.len());
                return Err(Fault::new(ErrorCode::StringTooLong, Some(name), detail));
            }
            Ok(_) => {}
            Err(code) => return Err(Fault::new(code, Some(name), "")),
        }
    }
    let time = record::time_ns(reading.time, context.time_unit, now.ns, index);
    let time = judge_time(time, rules, now)?;
    watch.judge(reading)?;
    if times.is_repeated(previous.hash, time) {
        let detail = "the same measurement, tags and time came before in this batch";
        return Err(Fault::new(ErrorCode::DuplicatePoint, Some("time"), detail));
    }
    watch.take(index, reading)?;
    Ok(time)
}

/// Names that stand where the shape before has them were judged with it.
fn judge_names<'a>(
    reading: &RawReading<'a>,
    context: &ConnectionContext,
    previous: &Shape<'a>,
) -> Result<(), Fault<'a>> {
    match reading.measurement {
        Some(_) if previous.valid && reading.measurement == previous.measurement => {}
        Some(name) => {
            judge_measurement(name)?;
        }
        // The measurement of `hello` has been judged when it came.
        None if context.measurement.is_some() => {}
        None => return Err(Fault::new(ErrorCode::NoMeasurement, None, "")),
    }
    if reading.fields.is_empty() {
        return Err(Fault::new(ErrorCode::NoFields, None, ""));
    }
    let same_tags = previous.has_tag_names_of(reading);
    for (i, &(name, value)) in reading.tags.iter().enumerate() {
        if !same_tags {
            judge_tag_name(name, &reading.tags[..i])?;
        }
        if value.is_empty() || value.len() > MAX_TAG_VALUE_BYTES || has_control(value) {
            let detail = "1 to 256 bytes without control characters";
            return Err(Fault::new(ErrorCode::BadTagValue, Some(name), detail));
        }
    }
    if previous.has_fields_of(reading) {
        return Ok(());
    }
    for (i, &(name, _)) in reading.fields.iter().enumerate() {
        judge_name(name)?;
        if name == "time" {
            return Err(Fault::new(ErrorCode::ReservedName, Some(name), "reserved as a field"));
        }
        if reading.fields[..i].iter().any(|&(other, _)| other == name) {
            return Err(Fault::new(ErrorCode::DuplicateKey, Some(name), "field comes twice"));
        }
    }
    Ok(())
}

fn judge_tag_name<'a>(name: &'a str, before: &[(&str, &str)]) -> Result<(), Fault<'a>> {
    judge_name(name)?;
    if matches!(name, "device" | "realm" | "time") {
        return Err(Fault::new(ErrorCode::ReservedName, Some(name), "reserved as a tag"));
    }
    if before.iter().any(|&(other, _)| other == name) {
        return Err(Fault::new(ErrorCode::DuplicateKey, Some(name), "tag comes twice"));
    }
    Ok(())
}

/// Names of measurements, fields and tags.
fn judge_name(name: &str) -> Result<(), Fault<'_>> {
    if name.len() > MAX_NAME_BYTES {
        let detail = format!("{} bytes, at most {MAX_NAME_BYTES}", name.len());
        return Err(Fault::new(ErrorCode::NameTooLong, Some(name), detail));
    }
    if name.is_empty() || name.starts_with('_') || has_control(name) {
        let detail = "empty, begins with _ or holds a control character";
        return Err(Fault::new(ErrorCode::BadName, Some(name), detail));
    }
    Ok(())
}

fn judge_measurement(name: &str) -> Result<(), Fault<'_>> {
    judge_name(name)?;
    if name.starts_with(RESERVED_MEASUREMENT_PREFIX) {
        return Err(Fault::new(ErrorCode::ReservedName, Some(name), "reserved prefix"));
    }
    Ok(())
}

/// Why `name` may not be a measurement, such as the one that `hello` gives to all readings.
pub fn fault_of_measurement(name: &str) -> Option<ErrorCode> {
    judge_measurement(name).err().map(|fault| fault.code)
}

/// Control characters of ASCII and of Latin-1 (U+0080 to U+009F, in UTF-8 C2 80 to C2 9F).
fn has_control(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().any(u8::is_ascii_control)
        || (!text.is_ascii() && bytes.windows(2).any(|w| w[0] == 0xC2 && w[1] < 0xA0))
}

fn judge_time<'a>(time: Option<i64>, rules: &Rules, now: Now) -> Result<i64, Fault<'a>> {
    let fault = |code, detail: &'static str| Fault::new(code, Some("time"), detail);
    let time = time.ok_or_else(|| {
        fault(
            ErrorCode::TimeImplausible,
            "beyond what nanoseconds in 64 bits hold; is the unit right?",
        )
    })?;
    if time < YEAR_2000_NS {
        return Err(fault(ErrorCode::TimeImplausible, "before the year 2000; is the unit right?"));
    }
    if time > now.ns.saturating_add(MAX_AHEAD_NS) {
        return Err(fault(
            ErrorCode::TimeInFuture,
            "more than ten minutes ahead of the gateway; are clock and unit right?",
        ));
    }
    if let Some(max_age) = rules.max_age {
        let max_age = i64::try_from(max_age.as_nanos()).unwrap_or(i64::MAX);
        if time < now.ns.saturating_sub(max_age) {
            return Err(fault(ErrorCode::TimeTooOld, "older than this gateway takes"));
        }
    }
    Ok(time)
}

/// Text from outside as it may stand in an answer: bounded, and cut between characters.
fn shorten(text: &str) -> String {
    text.chars().take(MAX_DETAIL_CHARS).collect()
}

/// Names and tags of the last reading whose names were judged good.
#[derive(Default)]
struct Shape<'a> {
    valid: bool,
    measurement: Option<&'a str>,
    tags: Vec<(&'a str, &'a str)>,
    fields: Vec<&'a str>,
    /// Order-independent hash of measurement and tags: the series, up to its field.
    hash: u64,
}

impl<'a> Shape<'a> {
    /// Keeps its memory: where a device has many sensors, every reading has another shape.
    fn become_that_of(&mut self, reading: &RawReading<'a>, measurement: &str, seed: u64) {
        // With a seed that no device knows: the hash stands for the series.
        let of = |text: &str| xxh3_64_with_seed(text.as_bytes(), seed);
        let mut hash = of(measurement);
        for (name, value) in &reading.tags {
            let pair = of(name).rotate_left(32) ^ of(value);
            hash = hash.wrapping_add(pair.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        self.valid = true;
        self.measurement = reading.measurement;
        self.tags.clone_from(&reading.tags);
        self.fields.clear();
        self.fields.extend(reading.fields.iter().map(|(name, _)| *name));
        self.hash = hash;
    }

    fn matches(&self, reading: &RawReading<'a>) -> bool {
        self.valid
            && self.measurement == reading.measurement
            && self.tags == reading.tags
            && self.has_fields_of(reading)
    }

    fn has_fields_of(&self, reading: &RawReading<'a>) -> bool {
        self.fields.len() == reading.fields.len()
            && self.fields.iter().zip(&reading.fields).all(|(a, (b, _))| a == b)
    }

    fn has_tag_names_of(&self, reading: &RawReading<'a>) -> bool {
        self.tags.len() == reading.tags.len()
            && self.tags.iter().zip(&reading.tags).all(|((a, _), (b, _))| a == b)
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
