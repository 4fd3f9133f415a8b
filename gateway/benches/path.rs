//! The way of a reading, step by step: check (decode, validate, envelope), admit, append and
//! commit, lines. And as a whole beside what is usually written: `rmp_serde` into owned structs
//! and `format!`.
//!
//! Criterion shows elements per second; an element is a reading, of 100 in a batch.

#![allow(missing_docs, clippy::unwrap_used)]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gateway::{
    ingest::{
        Checked, ConnectionContext, Guards, Now, Rules, StreamId, StreamKey,
        admit::{Admission, Decision, Seen},
        check,
    },
    log,
    record::{Envelope, Identity, Points, Position},
    sink::line_protocol::{Dialect, LineEncoder},
};
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write, hint::black_box, sync::Arc};

const READINGS: u32 = 100;
const NOW_MS: i64 = 1_795_305_600_000;
/// Records of a group of the log.
const GROUP: usize = 64;

#[derive(Deserialize)]
struct Owned {
    readings: Vec<Reading>,
}

#[derive(Deserialize)]
struct Reading {
    time: i64,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, f64>,
}

/// The body of a batch message.
fn body() -> Bytes {
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, READINGS);
    for n in 0..READINGS {
        let sensor = format!("s-{:03}", n % 10);
        let fields = [
            ("temperature", RawValue::Float(f64::from(n * 137 % 6_000) / 100.0)),
            ("humidity", RawValue::Float(f64::from(n * 271 % 10_000) / 100.0)),
            ("battery", RawValue::Int(i64::from(n))),
        ];
        let time = NOW_MS - i64::from(n);
        encoder.reading(None, Some(time), &[("sensor", &sensor)], &fields);
    }
    match DeviceMessage::decode(encoder.finish(), &Limits::default()).unwrap() {
        DeviceMessage::Batch(body) => Bytes::copy_from_slice(body),
        other => unreachable!("the encoder writes batches: {other:?}"),
    }
}

fn identity() -> Identity {
    Identity::new("default", "bench-00001")
}

fn checked(body: Bytes) -> Checked {
    let context = ConnectionContext {
        identity: identity(),
        stream: StreamId::Named(1),
        time_unit: TimeUnit::Ms,
        measurement: Some("environment".into()),
    };
    let now = Now { ns: NOW_MS * 1_000_000, settled: true };
    let mut guard = Guards::unguarded().of(&context.identity);
    let checked = check(body, &context, &mut guard, &Rules::default(), now).unwrap();
    assert_eq!(checked.accepted, READINGS);
    checked
}

fn lines(envelope: &Envelope, payload: &[u8], encoder: &mut LineEncoder, out: &mut Vec<u8>) {
    let each = |point: &gateway::record::Point<'_>| {
        encoder.encode(point, out);
    };
    Points::default().for_each(Position(1), envelope, payload, each).unwrap();
}

/// What is usually written.
fn usual(body: &[u8], out: &mut String) {
    let owned: Owned = rmp_serde::from_slice(body).unwrap();
    for Reading { time, tags, fields } in owned.readings {
        assert!(!fields.is_empty() && fields.values().all(|value| value.is_finite()));
        let tags: Vec<String> = tags.iter().map(|(name, tag)| format!("{name}={tag}")).collect();
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let (tags, fields) = (tags.join(","), fields.join(","));
        let ns = time * 1_000_000;
        writeln!(out, "environment,device=bench-00001,{tags} {fields} {ns}").unwrap();
    }
}

fn steps(criterion: &mut Criterion) {
    let body = body();
    let Checked { header, payload, .. } = checked(body.clone());
    let record = [header.as_slice(), &payload].concat();
    let (envelope, _) = Envelope::decode(Position(1), &record).unwrap();
    let mut group = criterion.benchmark_group("batch of 100");
    group.throughput(Throughput::Elements(READINGS.into()));
    group.bench_function("check", |b| b.iter(|| checked(black_box(body.clone()))));
    let mut encoder = LineEncoder::new(Dialect::InfluxDb);
    let mut out = Vec::new();
    group.bench_function("decode and line protocol", |b| {
        b.iter(|| {
            out.clear();
            lines(&envelope, black_box(&payload), &mut encoder, &mut out);
        });
    });
    group.bench_function("check, decode and line protocol", |b| {
        b.iter(|| {
            out.clear();
            let Checked { payload, .. } = checked(black_box(body.clone()));
            lines(&envelope, &payload, &mut encoder, &mut out);
        });
    });
    let mut text = String::new();
    group.bench_function("rmp_serde into owned structs and format!", |b| {
        b.iter(|| {
            text.clear();
            usual(black_box(&body), &mut text);
        });
    });
    group.finish();
    assert_eq!(text.lines().count(), out.split(|&byte| byte == b'\n').count() - 1);
}

fn admit(criterion: &mut Criterion) {
    let key = StreamKey { identity: identity(), stream: StreamId::Named(1) };
    let mut admission = Admission::default();
    let mut seq = 0;
    criterion.bench_function("admit one batch", |b| {
        b.iter(|| {
            seq += 1;
            let decision = admission.decide(black_box(&key), seq, seq, false);
            assert_eq!(decision, Decision::Admit { gap: 0 });
            let seen = Seen { seq, hash: seq, position: Position(seq), refusals: None };
            admission.admit(&key, seen);
            admission.confirm();
        });
    });
}

fn append(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let options = log::Options { dir: dir.path().join("log"), ..log::Options::default() };
    let (mut writer, _, _) = log::open(options, Arc::new(log::RealFiles), Position::ZERO).unwrap();
    let Checked { header, payload, .. } = checked(body());
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(u64::from(READINGS) * GROUP as u64));
    group.bench_function("append and commit 64 batches, fdatasync included", |b| {
        b.iter_batched(
            || (),
            |()| {
                for _ in 0..GROUP {
                    writer.append(&[&header, &payload]).unwrap();
                }
                let durable = writer.commit().unwrap();
                if writer.needs_roll() {
                    writer.roll().unwrap();
                    writer.delete_below(durable).unwrap();
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, steps, admit, append);
criterion_main!(benches);
