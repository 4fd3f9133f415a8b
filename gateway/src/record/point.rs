//! From a raw reading to a point: the one place that decides what a number or a time means.

use super::{
    Adjustment, AdjustmentKind, Codec, Envelope, EnvelopeError, Identity, Kind, Position, coerce,
};
use proto::{
    ErrorCode, Limits, RawReading, RawTime, RawValue, TimeUnit, limits::MAX_EXACT_INTEGER,
};

/// A field value as stores receive it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// A finite 64-bit float; without a schema every number.
    Float(f64),
    /// A signed integer, only where a schema says so.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A UTF-8 string.
    Str(&'a str),
}

/// Names a point for ever: the record, and the reading in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId {
    /// The record.
    pub position: Position,
    /// Index of the reading, or row of the columns.
    pub index: u32,
}

/// One accepted reading, with everything that a store needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point<'a> {
    /// The record and reading that it comes from.
    pub id: PointId,
    /// Who sent it.
    pub identity: &'a Identity,
    /// The measurement.
    pub measurement: &'a str,
    /// Tags in the order of the message, names unique.
    pub tags: &'a [(&'a str, &'a str)],
    /// Fields in the order of the message, names unique, at least one.
    pub fields: &'a [(&'a str, Value<'a>)],
    /// Nanoseconds since the Unix epoch.
    pub time_ns: i64,
}

/// A value by the rule "without a schema every number is a float".
///
/// # Errors
/// The code with which a reading that holds such a value is refused.
pub fn value(raw: RawValue<'_>) -> Result<Value<'_>, ErrorCode> {
    match raw {
        RawValue::Float(x) if x.is_finite() => Ok(Value::Float(x)),
        RawValue::Float(_) => Err(ErrorCode::NotFinite),
        RawValue::Int(n) if (-MAX_EXACT_INTEGER..=MAX_EXACT_INTEGER).contains(&n) =>
        {
            #[expect(clippy::cast_precision_loss, reason = "within ±2⁵³, exact")]
            Ok(Value::Float(n as f64))
        }
        RawValue::Int(_) | RawValue::UInt(_) => Err(ErrorCode::IntegerInexact),
        RawValue::Bool(b) => Ok(Value::Bool(b)),
        RawValue::Str(s) => Ok(Value::Str(s)),
    }
}

/// The time of a reading in nanoseconds since the Unix epoch; `None` if 64 bits do not hold it.
/// Without a time of its own a reading gets the receipt time plus its index in nanoseconds, so
/// that readings of one batch stay apart.
pub fn time_ns(raw: Option<RawTime>, unit: TimeUnit, receive_ns: i64, index: u32) -> Option<i64> {
    match raw {
        None => receive_ns.checked_add(i64::from(index)),
        Some(RawTime::Units(n)) => n.checked_mul(unit.nanos()),
        Some(RawTime::Timestamp { seconds, nanos }) => {
            seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(nanos))
        }
    }
}

/// Walks the points of a record; its buffers are reused from record to record.
#[derive(Debug, Default)]
pub struct Points {
    fields: Vec<(&'static str, Value<'static>)>,
    /// What numbers became that were converted to texts.
    texts: Vec<String>,
}

impl Points {
    /// Calls `each` for every accepted reading of the record, in order. A checkpoint has none.
    ///
    /// # Errors
    /// The payload does not decode any more as it did when it was accepted.
    pub fn for_each(
        &mut self,
        position: Position,
        envelope: &Envelope,
        payload: &[u8],
        mut each: impl FnMut(&Point<'_>),
    ) -> Result<(), EnvelopeError> {
        if envelope.kind != Kind::Batch || envelope.codec != Codec::BatchV1 {
            return Ok(());
        }
        let undecodable =
            EnvelopeError::Invalid { position, what: "its payload does not decode as accepted" };
        let batch =
            proto::Batch::open(payload, &Limits::unbounded()).map_err(|_| undecodable.clone())?;
        let mut readings = batch.readings();
        let mut raw = RawReading::default();
        let mut fields = std::mem::take(&mut self.fields);
        let mut refused = envelope.refused.iter().peekable();
        let mut adjustments = &envelope.adjustments[..];
        let mut index = 0;
        let mut accepted = 0;
        while let Some(read) = readings.next(&mut raw).map_err(|_| undecodable.clone())? {
            let this = index;
            index += 1;
            if refused.next_if(|refusal| refusal.index == this).is_some() {
                continue;
            }
            let measurement = raw.measurement.or(envelope.measurement.as_deref());
            let time = time_ns(raw.time, envelope.time_unit, envelope.receive_ns, this);
            let (Ok(()), Some(measurement), Some(time_ns)) = (read, measurement, time) else {
                return Err(undecodable);
            };
            let mut of_reading = recycle(fields);
            let adjusted = take_of(&mut adjustments, this);
            for (ordinal, &(name, raw)) in raw.fields.iter().enumerate() {
                let value = match value(raw) {
                    Ok(value) => value,
                    // It is taken out below; what it was does not matter.
                    Err(_) if is_dropped(adjusted, ordinal) => Value::Bool(false),
                    Err(_) => return Err(undecodable),
                };
                of_reading.push((name, value));
            }
            if !adjusted.is_empty() {
                adjust(&mut of_reading, adjusted, &mut self.texts).ok_or(undecodable.clone())?;
            }
            accepted += 1;
            each(&Point {
                id: PointId { position, index: this },
                identity: &envelope.identity,
                measurement,
                tags: &raw.tags,
                fields: &of_reading,
                time_ns,
            });
            fields = recycle(of_reading);
        }
        self.fields = fields;
        if accepted == envelope.accepted { Ok(()) } else { Err(undecodable) }
    }
}

/// The adjustments of this reading; those of earlier ones are passed.
#[inline]
fn take_of<'a>(adjustments: &mut &'a [Adjustment], index: u32) -> &'a [Adjustment] {
    if adjustments.is_empty() {
        return adjustments;
    }
    let from = adjustments.partition_point(|adjustment| adjustment.index < index);
    let rest = &adjustments[from..];
    let (of_this, later) = rest.split_at(rest.partition_point(|of| of.index == index));
    *adjustments = later;
    of_this
}

/// Converts and leaves out what was converted and left out when the reading was accepted; `None`
/// if a value is not what it was then. `texts` are the buffers of new texts.
fn adjust<'a>(
    fields: &mut Vec<(&'a str, Value<'a>)>,
    adjustments: &[Adjustment],
    texts: &'a mut Vec<String>,
) -> Option<()> {
    if texts.len() < adjustments.len() {
        texts.resize_with(adjustments.len(), String::new);
    }
    for (adjustment, text) in adjustments.iter().zip(texts) {
        let Some(to) = adjustment.kind.target() else { continue };
        let (_, value) = fields.get_mut(usize::from(adjustment.field))?;
        *value = coerce(*value, to, text)?;
    }
    let mut ordinal = 0;
    fields.retain(|_| {
        ordinal += 1;
        !is_dropped(adjustments, ordinal - 1)
    });
    Some(())
}

fn is_dropped(adjustments: &[Adjustment], ordinal: usize) -> bool {
    adjustments
        .iter()
        .any(|of| of.kind == AdjustmentKind::FieldDropped && usize::from(of.field) == ordinal)
}

/// Empties a vector and gives its memory to one of another lifetime; the compiler turns the
/// in-place collection of nothing into the reuse of the allocation.
fn recycle<'to>(mut fields: Vec<(&str, Value<'_>)>) -> Vec<(&'to str, Value<'to>)> {
    fields.clear();
    fields.into_iter().map(|_| -> (&'to str, Value<'to>) { ("", Value::Bool(false)) }).collect()
}
