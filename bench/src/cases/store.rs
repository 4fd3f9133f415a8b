//! Ingest of the embedded store alone, by the gateway's own example `store_bench`: 60,000 series,
//! one point each per transaction, decoding, cursor and sync included.

use super::Bench;
use crate::stats::Spread;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// Points of a round for each second of it, which takes about as long on two slow cores.
const POINTS_PER_S: f64 = 600_000.0;
/// Points in a transaction of the example.
const TRANSACTION: f64 = 60_000.0;

#[derive(Debug, Serialize)]
struct Sample {
    points: u64,
    points_per_s: f64,
    cpu_us_per_point: f64,
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let program = bench.place.gateway.with_file_name("examples").join("store_bench");
    ensure!(
        program.is_file(),
        "{} is missing: cargo build --release -p gateway --example store_bench",
        program.display()
    );
    let points = ((bench.seconds * POINTS_PER_S / TRANSACTION).ceil() * TRANSACTION) as u64;
    let mut samples = Vec::new();
    for round in 1..=bench.rounds {
        let sample = measure(&program, &bench.place.dir, points)
            .with_context(|| format!("store, round {round}"))?;
        eprintln!("  store {round} {:.0} points/s", sample.points_per_s);
        samples.push(sample);
    }
    let rate = Spread::of(samples.iter().map(|sample| sample.points_per_s));
    let cpu = Spread::of(samples.iter().map(|sample| sample.cpu_us_per_point));
    bench.table.note(format!(
        "embedded store: {} points/s, {} µs CPU a point",
        crate::table::range(rate, 0),
        crate::table::range(cpu, 2)
    ));
    let part = json!({
        "points_per_s": rate.map(|spread| spread.median),
        "cpu_us_per_point": cpu.map(|spread| spread.median),
        "spreads": { "points_per_s": rate, "cpu_us_per_point": cpu },
        "rounds": samples,
    });
    bench.report.insert("store".to_owned(), part);
    Ok(())
}

fn measure(program: &Path, dir: &Path, points: u64) -> Result<Sample> {
    let mut command = Command::new(program);
    command.arg("--points").arg(points.to_string()).arg("--every").arg(points.to_string());
    command.arg("--file").arg(dir.join("store.db"));
    let output = command.stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "it ended with {}: {said}", output.status);
    let (points_per_s, cpu_us_per_point) =
        mean(&said).with_context(|| format!("no mean in {said}"))?;
    Ok(Sample { points, points_per_s, cpu_us_per_point })
}

/// From `mean 484000 points/s, 1.40 µs CPU a point`.
fn mean(said: &str) -> Option<(f64, f64)> {
    let line = said.lines().find_map(|line| line.strip_prefix("mean "))?;
    let (rate, rest) = line.split_once(" points/s, ")?;
    Some((rate.parse().ok()?, rest.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_found() {
        let said = "1 transactions\nmean 484000 points/s, 1.40 µs CPU a point\nlast hour";
        assert_eq!(mean(said), Some((484_000.0, 1.4)));
        assert_eq!(mean("mean nothing"), None);
    }
}
