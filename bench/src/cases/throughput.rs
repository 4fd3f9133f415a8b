//! As fast as answers come: the gateway, the bare loop and the peers, one after the other, again
//! and again.

use super::Bench;
use crate::{
    sample::{Plan, Sample, measure},
    servers::Kind,
    stats::Spread,
};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Read buffer of the bare loop, in bytes.
const BARE_READ_BUFFER: usize = 8 * 1024;

/// One of the three.
#[derive(Debug)]
pub(super) struct Throughput {
    name: &'static str,
    readings: u32,
    connections: u32,
    window: u32,
}

/// 100 readings a message. With eight messages under way on each of 50 connections the gateway
/// always has something to do.
pub(super) const BATCH100: Throughput =
    Throughput { name: "batch100", readings: 100, connections: 50, window: 8 };
/// One reading a message, each answered before the next is sent.
pub(super) const SINGLE: Throughput =
    Throughput { name: "single", readings: 1, connections: 100, window: 1 };
/// One reading a message, as many under way as the gateway's window allows by default.
pub(super) const PIPELINED: Throughput =
    Throughput { name: "pipelined", readings: 1, connections: 50, window: 32 };

/// Its name and how it is taken from a sample.
type Figure = (&'static str, fn(&Sample) -> f64);

/// The rounds of one server.
struct Series {
    kind: Kind,
    samples: Vec<Sample>,
}

impl Series {
    fn values(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.samples.iter().map(of).collect()
    }
}

pub(super) fn run(bench: &mut Bench, case: &Throughput) -> Result<()> {
    let plan = Plan {
        readings: case.readings,
        connections: case.connections,
        window: case.window,
        rate: None,
        warm_s: bench.warm_s(),
        seconds: bench.seconds,
    };
    let bare = |gather| Kind::Bare { read_buffer: BARE_READ_BUFFER, gather };
    let mut kinds = vec![Kind::Gateway, bare(false)];
    if case.window > 1 {
        kinds.push(bare(true));
    }
    if bench.peers {
        kinds.extend([Kind::Node, Kind::Mosquitto]);
    }
    let mut all: Vec<Series> =
        kinds.into_iter().map(|kind| Series { kind, samples: Vec::new() }).collect();
    for round in 1..=bench.rounds {
        for series in &mut all {
            let sample = measure(&bench.place, series.kind, &plan)
                .with_context(|| format!("{}, {}, round {round}", case.name, series.kind.name()))?;
            eprintln!("  {} {round}/{} {}", case.name, bench.rounds, line(series.kind, &sample));
            series.samples.push(sample);
        }
    }
    report(bench, case, &all);
    Ok(())
}

fn line(kind: Kind, sample: &Sample) -> String {
    format!(
        "{:<10} {:>9.0} readings/s  {:>7.3} µs CPU a reading  headroom {:.1}",
        kind.name(),
        sample.readings_per_s,
        sample.cpu_us_per_reading,
        sample.headroom
    )
}

fn report(bench: &mut Bench, case: &Throughput, all: &[Series]) {
    let [ours, others @ ..] = all else { return };
    let mut part = section(case, ours);
    for other in others {
        let mut section = section(case, other);
        let cpu = |sample: &Sample| sample.cpu_us_per_message;
        let rate = |sample: &Sample| sample.messages_per_s;
        // How many times the gateway does better, in each pair.
        let cpu = Spread::of_ratios(&other.values(cpu), &ours.values(cpu));
        let rate = Spread::of_ratios(&ours.values(rate), &other.values(rate));
        if let Kind::Bare { .. } = other.kind {
            let name = other.kind.name();
            part.insert(format!("vs_{name}"), json!(rate.map(|spread| spread.median)));
            part.insert(format!("vs_{name}_rate"), json!(rate));
            part.insert(format!("vs_{name}_cpu"), json!(cpu));
            part.insert(name.to_owned(), Value::Object(section));
        } else {
            section.insert("gateway_is_times".to_owned(), json!({ "rate": rate, "cpu": cpu }));
            let peers = bench.report.entry("peers").or_insert_with(|| json!({}));
            peers[other.kind.name()][case.name] = Value::Object(section);
        }
        bench.table.versus(case.name, other.kind.name(), rate, cpu);
    }
    bench.report.insert(case.name.to_owned(), Value::Object(part));
    for series in all {
        bench.table.throughput(case.name, series.kind.name(), &series.samples);
    }
}

/// The figures of one server: medians first, then spreads, then rounds.
fn section(case: &Throughput, series: &Series) -> Map<String, Value> {
    let mut section = Map::new();
    let mut spreads = Map::new();
    let of_unit: [Figure; 2] = match case.readings {
        1 => [
            ("cpu_us_per_message", |s| s.cpu_us_per_message),
            ("messages_per_s", |s| s.messages_per_s),
        ],
        _ => [
            ("cpu_us_per_reading", |s| s.cpu_us_per_reading),
            ("readings_per_s", |s| s.readings_per_s),
        ],
    };
    let of_all: [Figure; 6] = [
        ("confirmed_per_s", |s| s.confirmed_readings_per_s),
        ("answers_per_message", |s| s.answers as f64 / s.messages as f64),
        ("server_cores", |s| s.cpu_s.server / s.seconds),
        ("generator_cores", |s| s.generator_cores),
        ("headroom", |s| s.headroom),
        ("others", |s| s.others),
    ];
    for (name, of) in of_unit.into_iter().chain(of_all) {
        if let Some(spread) = Spread::of(series.values(of)) {
            section.insert(name.to_owned(), json!(spread.median));
            spreads.insert(name.to_owned(), json!(spread));
        }
    }
    let Throughput { readings, connections, window, .. } = case;
    section.insert("readings_per_message".to_owned(), json!(readings));
    section.insert("connections".to_owned(), json!(connections));
    section.insert("window".to_owned(), json!(window));
    section.insert("spreads".to_owned(), Value::Object(spreads));
    section.insert("rounds".to_owned(), json!(series.samples));
    section
}
