//! What a device encodes is what the gateway decodes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use proto::{
    Batch, BatchEncoder, DeviceMessage, Hello, Limits, RawReading, RawTime, RawValue, TimeUnit,
    encode::{ColumnTimes, encode_hello},
};
use serde::{Serialize, Serializer};

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Value {
    Float(f64),
    Int(i64),
    UInt(u64),
    Bool(bool),
    Str(String),
}

impl Value {
    fn raw(&self) -> RawValue<'_> {
        match self {
            Value::Float(x) => RawValue::Float(*x),
            Value::Int(n) => RawValue::Int(*n),
            Value::UInt(n) => RawValue::UInt(*n),
            Value::Bool(b) => RawValue::Bool(*b),
            Value::Str(text) => RawValue::Str(text),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Reading {
    measurement: Option<String>,
    time: Option<i64>,
    #[serde(serialize_with = "as_map")]
    tags: Vec<(String, String)>,
    #[serde(serialize_with = "as_map")]
    fields: Vec<(String, Value)>,
}

/// A batch as a device in Rust would declare it, without this crate's encoder.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Message<'a> {
    Batch { seq: u64, readings: &'a [Reading] },
}

fn as_map<V: Serialize, S: Serializer>(pairs: &[(String, V)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

fn text() -> impl Strategy<Value = String> {
    let chars = |range| prop::collection::vec(prop::char::range(' ', '\u{2fff}'), range);
    prop_oneof![8 => chars(0..12), 1 => chars(30..40), 1 => chars(250..300)]
        .prop_map(String::from_iter)
}

/// Integers of every width that MessagePack has.
fn int() -> impl Strategy<Value = i64> {
    (any::<i64>(), 0..64_u32).prop_map(|(n, bits)| n >> bits)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>()
            .prop_filter("NaN is not equal to itself", |x| !x.is_nan())
            .prop_map(Value::Float),
        int().prop_map(Value::Int),
        (1_u64 << 63..).prop_map(Value::UInt),
        any::<bool>().prop_map(Value::Bool),
        text().prop_map(Value::Str),
    ]
}

fn reading() -> impl Strategy<Value = Reading> {
    (
        prop::option::of(text()),
        prop::option::of(int()),
        prop::collection::vec((text(), text()), 0..6),
        prop::collection::vec((text(), value()), 1..12),
    )
        .prop_map(|(measurement, time, tags, fields)| Reading {
            measurement,
            time,
            tags,
            fields,
        })
}

fn borrowed(tags: &[(String, String)]) -> Vec<(&str, &str)> {
    tags.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn body(message: &[u8]) -> &[u8] {
    match DeviceMessage::decode(message, &Limits::default()).unwrap() {
        DeviceMessage::Batch(body) => body,
        other => panic!("{other:?}"),
    }
}

/// The message decodes to exactly these readings.
fn assert_sent(message: &[u8], seq: u64, sent: &[Reading]) {
    let batch = Batch::open(body(message), &Limits::default()).unwrap();
    assert_eq!(batch.seq(), seq);
    assert_eq!(batch.len() as usize, sent.len());
    assert_eq!(batch.fault(), None);
    let mut readings = batch.readings();
    let mut got = RawReading::default();
    for reading in sent {
        assert_eq!(readings.next(&mut got).unwrap(), Some(Ok(())));
        assert_eq!(got.measurement, reading.measurement.as_deref());
        assert_eq!(got.time, reading.time.map(RawTime::Units));
        assert_eq!(&got.tags, &borrowed(&reading.tags));
        let fields: Vec<_> =
            reading.fields.iter().map(|(name, value)| (name.as_str(), value.raw())).collect();
        assert_eq!(&got.fields, &fields);
    }
    assert_eq!(readings.next(&mut got).unwrap(), None);
    assert_eq!(readings.next(&mut got).unwrap(), None);
}

proptest! {
    #[test]
    fn readings(seq in 1..=proto::MAX_SEQ, sent in prop::collection::vec(reading(), 1..20)) {
        let mut encoder = BatchEncoder::new();
        encoder.readings(seq, sent.len() as u32);
        for reading in &sent {
            let fields: Vec<_> =
                reading.fields.iter().map(|(name, value)| (name.as_str(), value.raw())).collect();
            let measurement = reading.measurement.as_deref();
            encoder.reading(measurement, reading.time, &borrowed(&reading.tags), &fields);
        }
        assert_sent(encoder.finish(), seq, &sent);
        let by_serde = rmp_serde::to_vec_named(&Message::Batch { seq, readings: &sent }).unwrap();
        assert_sent(&by_serde, seq, &sent);
    }

    #[test]
    fn columns(
        seq in 1..=proto::MAX_SEQ,
        measurement in prop::option::of(text()),
        tags in prop::collection::vec((text(), text()), 0..17),
        (rows, table) in (1..30_usize).prop_flat_map(|rows| {
            let column = prop::collection::vec(prop::option::of(value()), rows);
            (Just(rows), prop::collection::vec((text(), column), 1..10))
        }),
        kind in 0..3,
        (start, step) in (-(1_i64 << 50)..1 << 50, -1_000_000..1_000_000_i64),
    ) {
        let each: Vec<i64> = (0..rows as i64).map(|row| start ^ (row * step)).collect();
        let times = match kind {
            0 => ColumnTimes::Absent,
            1 => ColumnTimes::Each(&each),
            _ => ColumnTimes::Steps { start, step },
        };
        let mut encoder = BatchEncoder::new();
        let count = table.len() as u32;
        encoder.columns(seq, measurement.as_deref(), &borrowed(&tags), times, count);
        for (name, column) in &table {
            encoder.column(name, column.iter().map(|value| value.as_ref().map(Value::raw)));
        }
        let batch = Batch::open(body(encoder.finish()), &Limits::default()).unwrap();
        prop_assert_eq!(batch.seq(), seq);
        prop_assert_eq!(batch.fault(), None);
        prop_assert_eq!(batch.len() as usize, rows);
        let mut readings = batch.readings();
        let mut got = RawReading::default();
        for row in 0..rows {
            let fields: Vec<_> = table
                .iter()
                .filter_map(|(name, column)| Some((name.as_str(), column[row].as_ref()?.raw())))
                .collect();
            let outcome = readings.next(&mut got).unwrap().unwrap();
            prop_assert_eq!(outcome.is_err(), fields.is_empty());
            prop_assert_eq!(&got.fields, &fields);
            prop_assert_eq!(got.measurement, measurement.as_deref());
            prop_assert_eq!(&got.tags, &borrowed(&tags));
            let time = match times {
                ColumnTimes::Absent => None,
                ColumnTimes::Each(each) => Some(RawTime::Units(each[row])),
                ColumnTimes::Steps { .. } => Some(RawTime::Units(start + row as i64 * step)),
            };
            prop_assert_eq!(got.time, time);
        }
        prop_assert_eq!(readings.next(&mut got).unwrap(), None);
    }

    #[test]
    fn hello(
        stream in prop::option::of(1..=proto::MAX_SEQ),
        unit in prop::sample::select(vec![TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns]),
        max_rx in prop::option::of(1024_u32..),
        [measurement, firmware, model] in prop::array::uniform3(prop::option::of("\\PC{0,30}")),
    ) {
        let sent = Hello { stream, time_unit: unit, measurement, max_rx, firmware, model };
        let mut bytes = Vec::new();
        encode_hello(&sent, &mut bytes);
        let got = DeviceMessage::decode(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!(got, DeviceMessage::Hello(sent));
    }
}
