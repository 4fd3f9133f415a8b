//! The oracle's memory does not grow with the run: a store that makes up its rows while it is
//! walked, so that nothing but the oracle holds anything.
//!
//! `VERIFY_READINGS=10000000 cargo test --release -p device-sim --test verify_in_bounded_memory`
//! tries a long run.
#![allow(clippy::unwrap_used)]

mod common;

use common::made_up::{MadeUp, peak_kib};
use common::readings::journal;
use device_sim::plan::{Kind, Plan};
use device_sim::profile::{Fields, Profile};
use device_sim::verify::{Row, Stored, verify};
use proto::RawValue;
use std::time::Duration;

/// Readings of the run, unless `VERIFY_READINGS` says otherwise.
const READINGS: u64 = 400_000;
/// Readings of the short run that it is compared with.
const FEW: u64 = 20_000;
/// The larger run may take so much more, in KiB: 42 bytes for each reading of the default.
const MAX_GROWTH_KIB: u64 = 16 << 10;
/// Devices; each has so many batches of [`BATCH`] readings as are needed.
const DEVICES: u32 = 4;
const BATCH: u32 = 1_000;

/// Hands on what the first batches of a device of a plan say.
fn rows(plan: &Plan, batches: u64, id: &str, each: &mut dyn FnMut(Row<'_>)) {
    let device = (0..plan.devices).find(|&device| plan.device_id(device) == id).unwrap();
    let profile = &plan.kind_of(device).profile;
    let tags: std::collections::BTreeMap<_, _> =
        profile.tags(plan.seed, device).into_iter().collect();
    let (tags, mut fields) = (serde_json::to_string(&tags).unwrap(), Fields::new());
    for seq in plan.start_seq..plan.start_seq + batches {
        let tick = u32::try_from(seq - plan.start_seq).unwrap();
        for index in 0..BATCH {
            plan.fields(device, tick, seq, index, &mut fields);
            let time_ns = plan.time_ns(device, tick, index);
            for (field, value) in &fields {
                let value = match *value {
                    RawValue::Float(x) => Stored::Float(x),
                    // The shorter form of a float without a fraction.
                    RawValue::Int(n) => Stored::Float(n as f64),
                    other => panic!("{other:?}"),
                };
                let measurement = profile.measurement();
                each(Row { time_ns, measurement, tags: &tags, field, value });
            }
        }
    }
}

/// Verifies a run of at least so many readings; the most memory that this process ever held, in KiB.
fn verified(readings: u64) -> u64 {
    let batches = readings.div_ceil(u64::from(DEVICES * BATCH));
    let kind = Kind { batch: BATCH, interval_ns: 1_000_000_000, ..Kind::of(Profile::Vibration) };
    let plan = Plan {
        kinds: vec![kind],
        devices: DEVICES,
        base_ns: 1_800_000_000_000_000_000,
        duration_ns: (batches + 2) * 1_000_000_000,
        ..common::plan(DEVICES, 1)
    };
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path(), &plan, batches);
    let mut store = MadeUp {
        devices: (0..plan.devices).map(|device| plan.device_id(device)).collect(),
        rows: |id: &str, each: &mut dyn FnMut(Row<'_>)| rows(&plan, batches, id, each),
    };
    let report = verify(&mut store, &journal, Duration::ZERO).unwrap();
    assert!(report.passed && report.stored >= readings, "{}", report.table());
    peak_kib()
}

#[test]
fn a_long_run_takes_no_more_than_a_short_one() {
    let wanted = std::env::var("VERIFY_READINGS").map(|text| text.parse().unwrap());
    let readings = wanted.unwrap_or(READINGS);
    let few = verified(FEW);
    let many = verified(readings);
    println!("{few} KiB for {FEW} readings, {many} KiB for {readings}");
    assert!(many - few <= MAX_GROWTH_KIB, "{few} KiB for {FEW} readings, {many} for {readings}");
}
