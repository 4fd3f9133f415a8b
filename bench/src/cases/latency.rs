//! How long an acknowledgement takes while half of what the gateway can do is asked of it.
//!
//! Open loop: every message has a moment at which it is due, and its latency counts from there, so
//! a stall is paid by everything that was due in it. Beside it in each round: the bare loop at the
//! same rate (what this machine's scheduling alone costs), and a raw `fdatasync` of 4 KiB appended
//! to a file in the same place.

use super::Bench;
use crate::{
    load::Latency,
    sample::{Plan, Sample, measure},
    servers::Kind,
    stats::Spread,
};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

/// Connections.
const CONNECTIONS: u32 = 100;
/// Messages under way on each at most: the gateway's default window.
const WINDOW: u32 = 32;
/// Part of the highest rate.
const LOAD: f64 = 0.5;
/// Bytes of an append.
const APPEND_BYTES: usize = 4096;
/// Appends at most in a round.
const APPENDS: usize = 2_000;

#[derive(Debug, Serialize)]
struct Fdatasync {
    count: usize,
    p50_us: f64,
    p99_us: f64,
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let mut plan = Plan {
        readings: 1,
        connections: CONNECTIONS,
        window: WINDOW,
        rate: None,
        warm_s: bench.warm_s(),
        seconds: bench.seconds,
    };
    // The rate to halve is that of one under way on each connection, as in `single`.
    let single = bench.report.get("single").and_then(|part| part["messages_per_s"].as_f64());
    let highest = match single {
        Some(rate) => rate,
        None => {
            let plan = Plan { window: 1, ..plan.clone() };
            measure(&bench.place, Kind::Gateway, &plan)?.messages_per_s
        }
    };
    plan.rate = Some(highest * LOAD);
    let bare = Kind::Bare { read_buffer: 8 * 1024, gather: false };
    let (mut ours, mut bares, mut syncs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        syncs.push(fdatasync(bench)?);
        for (kind, samples) in [(Kind::Gateway, &mut ours), (bare, &mut bares)] {
            let sample = measure(&bench.place, kind, &plan)
                .with_context(|| format!("latency, {}, round {round}", kind.name()))?;
            let latency = sample.latency.as_ref().context("no message was due")?;
            let (p50, p99) = (latency.p50_us, latency.p99_us);
            let name = kind.name();
            eprintln!("  latency {round} {name:<10} p50 {p50:.0} µs, p99 {p99:.0} µs");
            samples.push(sample);
        }
    }
    let fdatasync_p99: Vec<f64> = syncs.iter().map(|sync| sync.p99_us).collect();
    let vs = Spread::of_ratios(&values(&ours, |latency| latency.p99_us), &fdatasync_p99);
    bench.table.latency("gateway", &latencies(&ours));
    bench.table.latency("bare_loop", &latencies(&bares));
    bench.table.note(format!(
        "fdatasync of {APPEND_BYTES} bytes: p99 {} µs; the gateway's p99 is {} times that",
        crate::table::range(Spread::of(fdatasync_p99.iter().copied()), 0),
        crate::table::range(vs, 2),
    ));
    let part = json!({
        "messages_per_s": plan.rate,
        "of_messages_per_s": highest,
        "connections": CONNECTIONS,
        "gateway": section(&ours),
        "bare_loop": section(&bares),
        "fdatasync": {
            "p99_us": Spread::of(fdatasync_p99.iter().copied()).map(|spread| spread.median),
            "rounds": syncs,
        },
        "p99_vs_fdatasync_p99": vs,
    });
    bench.report.insert("latency".to_owned(), part);
    Ok(())
}

/// p50, p99, p99.9 in microseconds.
fn latencies(samples: &[Sample]) -> [Option<Spread>; 3] {
    let of = |value: fn(&Latency) -> f64| Spread::of(values(samples, value));
    [of(|latency| latency.p50_us), of(|latency| latency.p99_us), of(|latency| latency.p999_us)]
}

fn values(samples: &[Sample], of: fn(&Latency) -> f64) -> Vec<f64> {
    samples.iter().filter_map(|sample| sample.latency.as_ref().map(of)).collect()
}

fn section(samples: &[Sample]) -> Value {
    let [p50, p99, p999] = latencies(samples);
    json!({
        "p50_us": p50.map(|spread| spread.median),
        "p99_us": p99.map(|spread| spread.median),
        "p999_us": p999.map(|spread| spread.median),
        "spreads": { "p50_us": p50, "p99_us": p99, "p999_us": p999 },
        "rounds": samples,
    })
}

/// Appends and syncs for as long as a measurement takes, where the gateway's log is.
fn fdatasync(bench: &Bench) -> Result<Fdatasync> {
    let path = bench.place.dir.join("fdatasync");
    let mut file = File::create(&path)?;
    let block = [7; APPEND_BYTES];
    let (begun, most) = (Instant::now(), Duration::from_secs_f64(bench.seconds));
    let mut times = Vec::new();
    while times.len() < APPENDS && begun.elapsed() < most {
        let begun = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    std::fs::remove_file(&path)?;
    times.sort();
    let us = |part: f64| {
        let at = ((times.len() - 1) as f64 * part).round() as usize;
        times[at].as_secs_f64() * 1e6
    };
    Ok(Fdatasync { count: times.len(), p50_us: us(0.5), p99_us: us(0.99) })
}
