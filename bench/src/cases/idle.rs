//! Devices that are connected and say nothing: memory of the server for each, beside the bare loop.
//!
//! Every device has said something before: its hello and one reading, which was acknowledged. So
//! buffers have grown as they do in real life.

use super::Bench;
use crate::{
    load,
    process::Process,
    servers::{Kind, Server},
    stats::Spread,
};
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Numbers of connections.
const STEPS: [u32; 2] = [5_000, 20_000];
/// Descriptors of a server besides its connections: log, sinks, admin, listener, runtime.
const SPARE_DESCRIPTORS: u32 = 200;
/// The bare loop's smallest sensible read buffer, in bytes: the comparison is not to be won by its
/// default of 128 KiB.
const BARE_READ_BUFFER: usize = 512;
/// Rest before memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// What a server took.
#[derive(Debug, Serialize)]
struct Sample {
    connections: u32,
    kib_before: u64,
    kib_connected: u64,
    kib_per_connection: f64,
    /// From the first connection of this step to the last acknowledgement.
    connect_s: f64,
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let allowed = raise_descriptors(STEPS[1] + SPARE_DESCRIPTORS)?;
    let steps = bench.idle.unwrap_or(STEPS).map(|n| n.min(allowed - SPARE_DESCRIPTORS));
    let bare = Kind::Bare { read_buffer: BARE_READ_BUFFER, gather: false };
    let mut rounds: [Vec<[Sample; 2]>; 2] = Default::default();
    for round in 1..=bench.rounds.min(3) {
        for (kind, rounds) in [Kind::Gateway, bare].into_iter().zip(&mut rounds) {
            let samples = measure(bench, kind, steps)
                .with_context(|| format!("idle, {}, round {round}", kind.name()))?;
            for Sample { connections, kib_per_connection, .. } in &samples {
                let kind = kind.name();
                eprintln!("  idle {round} {kind:<10} {connections} × {kib_per_connection:.1} KiB");
            }
            rounds.push(samples);
        }
    }
    let [ours, bare] = rounds;
    let last = section(&ours, 1);
    let mut part = json!({
        "connections": last["connections"],
        "kib_per_connection": last["kib_per_connection"],
        "wanted_connections": bench.idle.unwrap_or(STEPS),
        "descriptors_allowed": allowed,
        "gateway": [section(&ours, 0), section(&ours, 1)],
        "bare_loop": [section(&bare, 0), section(&bare, 1)],
    });
    for step in [0, 1] {
        let ours = Spread::of(ours.iter().map(|s| s[step].kib_per_connection));
        let bare = Spread::of(bare.iter().map(|s| s[step].kib_per_connection));
        bench.table.idle(steps[step], ours, bare);
    }
    if steps[1] < STEPS[1] && bench.idle.is_none() {
        let note = format!(
            "this machine allows a process {allowed} descriptors, so {} connections are measured \
             instead of {}",
            steps[1], STEPS[1]
        );
        bench.table.note(note.clone());
        part["note"] = json!(note);
    }
    bench.report.insert("idle".to_owned(), part);
    Ok(())
}

fn section(rounds: &[[Sample; 2]], step: usize) -> Value {
    let samples: Vec<&Sample> = rounds.iter().map(|samples| &samples[step]).collect();
    let per_connection = Spread::of(samples.iter().map(|sample| sample.kib_per_connection));
    json!({
        "connections": samples.first().map(|sample| sample.connections),
        "kib_per_connection": per_connection.map(|spread| spread.median),
        "spread": per_connection,
        "rounds": samples,
    })
}

/// Connects the devices of the first step, then those up to the second.
fn measure(bench: &Bench, kind: Kind, steps: [u32; 2]) -> Result<[Sample; 2]> {
    let server = bench.place.start(kind, 1)?;
    std::thread::sleep(SETTLE);
    let kib_before = server.process.resident_kib()?;
    let (first, one) = step(bench, &server, 0..steps[0], kib_before)?;
    let (second, two) = step(bench, &server, steps[0]..steps[1], kib_before)?;
    for mut load in [one, two] {
        load.send("quit")?;
        load.close()?;
    }
    server.stop()?;
    Ok([first, second])
}

fn step(
    bench: &Bench,
    server: &Server,
    devices: std::ops::Range<u32>,
    kib_before: u64,
) -> Result<(Sample, Process)> {
    let begun = std::time::Instant::now();
    let mut load = server.load(
        &bench.place,
        &[
            format!("--connections={}", devices.len()),
            format!("--first-device={}", devices.start),
            "--messages=1".to_owned(),
        ],
    )?;
    load.send("go")?;
    match load.ask("stop")? {
        load::Said::Counts { sent, acked, .. } if sent == acked && sent == devices.len() as u64 => {
        }
        other => bail!("the generator says {other:?}"),
    }
    let connect_s = begun.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let kib_connected = server.process.resident_kib()?;
    let connections = devices.end;
    let kib_per_connection =
        kib_connected.saturating_sub(kib_before) as f64 / f64::from(connections);
    Ok((Sample { connections, kib_before, kib_connected, kib_per_connection, connect_s }, load))
}

/// Raises this process's limit, which its children inherit; says what it is then.
fn raise_descriptors(wanted: u32) -> Result<u32> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = u64::from(wanted);
    if current.is_some_and(|current| current < wanted) {
        let all = Rlimit { current: Some(wanted), maximum: maximum.map(|max| max.max(wanted)) };
        let most = Rlimit { current: maximum.map(|max| max.min(wanted)), maximum };
        // Beyond the hard limit only where it is allowed.
        setrlimit(Resource::Nofile, all).or_else(|_| setrlimit(Resource::Nofile, most))?;
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(wanted).min(wanted);
    Ok(u32::try_from(current)?)
}
