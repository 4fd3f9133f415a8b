//! Decoding of a batch of 100 readings: in place, and into owned structs by `rmp_serde`.
//!
//! Criterion shows elements per second; an element is a reading.

#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::{Batch, BatchEncoder, DeviceMessage, Limits, RawReading, RawValue};
use serde::Deserialize;
use std::{collections::BTreeMap, hint::black_box};

const READINGS: u32 = 100;

#[derive(Deserialize)]
#[allow(dead_code)]
enum Message {
    #[serde(rename = "batch")]
    Batch { seq: u64, readings: Vec<Reading> },
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Reading {
    time: i64,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, f64>,
}

fn message() -> Vec<u8> {
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, READINGS);
    for n in 0..READINGS {
        let sensor = format!("s-{:03}", n % 10);
        let fields = [
            ("temperature", RawValue::Float(f64::from(n) * 1.37)),
            ("humidity", RawValue::Float(f64::from(n) / 7.0)),
            ("battery", RawValue::Int(i64::from(n))),
        ];
        let time = 1_795_305_600_000 + i64::from(n);
        encoder.reading(None, Some(time), &[("sensor", &sensor)], &fields);
    }
    encoder.finish().to_vec()
}

fn in_place(message: &[u8], limits: &Limits) -> usize {
    let DeviceMessage::Batch(body) = DeviceMessage::decode(message, limits).unwrap() else {
        unreachable!("the encoder writes batches")
    };
    let mut readings = Batch::open(body, limits).unwrap().readings();
    let (mut reading, mut fields) = (RawReading::default(), 0);
    while let Some(result) = readings.next(&mut reading).unwrap() {
        result.unwrap();
        fields += reading.fields.len();
    }
    fields
}

fn decode(criterion: &mut Criterion) {
    let (message, limits) = (message(), Limits::default());
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(READINGS.into()));
    group.bench_function("in place", |b| b.iter(|| in_place(black_box(&message), &limits)));
    group.bench_function("rmp_serde into owned structs", |b| {
        b.iter(|| rmp_serde::from_slice::<Message>(black_box(&message)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
