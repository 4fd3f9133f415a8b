//! What the guard costs a reading: `check` with it and without it, in turns, on one thread.
//!
//! Batches of 100 readings of five fields: all of one series; with a tag that changes with every
//! reading; and of four shapes in turn. Prints the median of the rounds in nanoseconds a reading.
//!
//! `cargo run --release -p gateway --example guard_bench`

use anyhow::{Context, Result};
use bytes::Bytes;
use gateway::{
    ingest::{
        ConnectionContext, Guard, Guards, MaxSeries, Now, OnConflict, Rules, StreamId, check,
    },
    metrics::{GuardMetrics, StateMetrics},
    record::Identity,
    state,
};
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};
use std::{hint::black_box, time::Instant};

const READINGS: u32 = 100;
const ROUNDS: usize = 15;
const BATCHES_A_ROUND: u32 = 2_000;
const NOW: Now = Now { ns: 1_760_000_000_000_000_000, settled: true };

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("state.db");
    let (state, _keeper) = state::open(&file, 1_000, StateMetrics::default())?;
    let max = MaxSeries { per_device: 10_000, total: 100_000 };
    let types = Some(state.types.clone());
    let guards = Guards::new(types, OnConflict::Refuse, max, GuardMetrics::default());
    let identity = Identity::new("default", "device");
    let context = ConnectionContext {
        identity: identity.clone(),
        stream: StreamId::Named(1),
        time_unit: TimeUnit::Ms,
        measurement: Some("environment".into()),
    };
    for (what, body) in [
        ("one series", batch(1, 1)?),
        ("a tag that changes", batch(100, 1)?),
        ("four shapes in turn", batch(1, 4)?),
    ] {
        let (mut guarded, mut free) = (guards.of(&identity), Guards::unguarded().of(&identity));
        let mut figures: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for (guard, figures) in [&mut guarded, &mut free].into_iter().zip(&mut figures) {
                figures.push(round(&body, &context, guard)?);
            }
        }
        let [with, without] = figures.map(|mut figures| {
            figures.sort_by(f64::total_cmp);
            figures[ROUNDS / 2]
        });
        println!(
            "{what}: {with:.1} ns a reading with the guard, {without:.1} without, {:.1} for it",
            with - without
        );
    }
    Ok(())
}

/// Nanoseconds a reading.
fn round(body: &Bytes, context: &ConnectionContext, guard: &mut Guard) -> Result<f64> {
    let rules = Rules::default();
    let begun = Instant::now();
    for _ in 0..BATCHES_A_ROUND {
        let checked = check(body.clone(), context, guard, &rules, NOW)?;
        anyhow::ensure!(black_box(checked).accepted == READINGS, "readings were refused");
    }
    let readings = f64::from(BATCHES_A_ROUND * READINGS);
    Ok(begun.elapsed().as_secs_f64() * 1e9 / readings)
}

/// A batch whose tag has so many values, and whose readings have so many shapes.
fn batch(tags: u32, shapes: u32) -> Result<Bytes> {
    let names = ["temperature", "humidity", "pressure", "battery", "signal"];
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, READINGS);
    for n in 0..READINGS {
        let tag = format!("sensor-{}", n % tags);
        let fields: Vec<_> = names
            .iter()
            .skip((n % shapes) as usize)
            .map(|name| (*name, RawValue::Float(f64::from(n) + 0.5)))
            .collect();
        let time = NOW.ns / 1_000_000 - 1_000 + i64::from(n);
        encoder.reading(None, Some(time), &[("sensor", &tag)], &fields);
    }
    match DeviceMessage::decode(encoder.finish(), &Limits::default())? {
        DeviceMessage::Batch(body) => Ok(Bytes::copy_from_slice(body)),
        _ => None.context("a batch was encoded"),
    }
}
