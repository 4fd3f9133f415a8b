//! What durability costs: the same gateway with its data directory on a disk and in memory, where
//! `fdatasync` returns at once. Everything else, the code included, is the same.

use super::Bench;
use crate::{
    sample::{Plan, Sample, measure},
    servers::Kind,
    stats::Spread,
};
use anyhow::{Context, Result};
use serde_json::json;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let plan = Plan {
        readings: 100,
        connections: 50,
        window: 8,
        rate: None,
        warm_s: bench.warm_s(),
        seconds: bench.seconds,
    };
    let (mut disk, mut memory) = (Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        for (kind, samples) in [(Kind::Gateway, &mut disk), (Kind::GatewayInMemory, &mut memory)] {
            let sample = measure(&bench.place, kind, &plan)
                .with_context(|| format!("durability_tax, {}, round {round}", kind.name()))?;
            let (name, rate) = (kind.name(), sample.readings_per_s);
            eprintln!("  durability_tax {round} {name:<18} {rate:>9.0} readings/s");
            samples.push(sample);
        }
    }
    let rates = |samples: &[Sample]| -> Vec<f64> {
        samples.iter().map(|sample| sample.readings_per_s).collect()
    };
    let (disk_rates, memory_rates) = (rates(&disk), rates(&memory));
    let kept = Spread::of_ratios(&disk_rates, &memory_rates);
    bench.table.note(format!(
        "durability: {} of the readings/s without a disk under the log (batch100)",
        crate::table::range(kept, 2)
    ));
    let part = json!({
        "kept": kept.map(|spread| spread.median),
        "kept_spread": kept,
        "disk": { "readings_per_s": Spread::of(disk_rates), "rounds": disk },
        "memory": { "readings_per_s": Spread::of(memory_rates), "rounds": memory },
        "what": "batch100 with data_dir on disk, and on tmpfs where fdatasync costs nothing",
    });
    bench.report.insert("durability_tax".to_owned(), part);
    Ok(())
}
