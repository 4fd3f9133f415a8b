//! Of a capture that is played only the places of its batches are in memory, and the oracle of a replay
//! holds what lies open at a time: a large capture takes little more than a small one.
//!
//! `REPLAY_CAPTURE_MIB=1024 cargo test --release -p device-sim --test replay_in_bounded_memory`
//! tries a large one.
#![allow(clippy::unwrap_used)]

mod common;

use capture_file::{BatchHead, EndedBy, Header, Writer};
use common::made_up::{MadeUp, peak_kib};
use common::readings::journal;
use device_sim::plan::{Plan, Replay};
use device_sim::verify::{Row, Stored, verify};
use proto::{BatchEncoder, RawValue};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

/// Size of the large capture, in MiB, unless `REPLAY_CAPTURE_MIB` says otherwise.
const CAPTURE_MIB: u64 = 32;
/// Batches of the small one.
const FEW: u64 = 100;
/// The large one may take so much more, in KiB: a twentieth of what it holds.
const MAX_GROWTH_KIB: u64 = 1536;
/// …and so many bytes for each batch: a place, twice while the list of them grows, what the oracle
/// knows of the order.
const MAX_PLACE_BYTES: u64 = 80;
const DEVICES: u64 = 2;
const READINGS: u64 = 20;
const S: u64 = 1_000_000_000;
/// Each device's batches come so far apart; each holds the readings of that time.
const STEP_NS: u64 = S;
const TEXT: &str = "what a device says of itself, at some length, so that a batch has a size: \
                    0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789";

/// The time of a reading after the first batch; every 50th batch begins with one from long ago.
fn time_ns(batch: u64, index: u64) -> i64 {
    let late = if index == 0 && batch % 50 == 49 { 40 * STEP_NS + 1 } else { 0 };
    let within = (index + 1) * STEP_NS / READINGS;
    i64::try_from(batch * STEP_NS + within).unwrap() - i64::try_from(STEP_NS + late).unwrap()
}

fn value(device: u64, batch: u64, index: u64) -> f64 {
    (device * 7 + batch * READINGS + index) as f64
}

/// Writes a capture in which each device has so many batches.
fn write(path: &Path, batches: u64) {
    let header = Header {
        tool: "test".into(),
        from_ns: 1_700_000_000_000_000_000,
        share: [1, 1],
        kept_tags: vec![],
        kept_fields: vec![],
        blanked_fields: vec![],
    };
    let mut writer = Writer::new(BufWriter::new(File::create(path).unwrap()), &header).unwrap();
    let mut encoder = BatchEncoder::new();
    for batch in 0..batches {
        for device in 0..DEVICES {
            if batch == 0 {
                writer.device(&format!("device-{device}"), "realm").unwrap();
            }
            let (device_number, readings) =
                (u32::try_from(device).unwrap(), u32::try_from(READINGS).unwrap());
            encoder.readings(batch + 1, readings);
            for index in 0..READINGS {
                let fields = [
                    ("x", RawValue::Float(value(device, batch, index))),
                    ("text", RawValue::Str(TEXT)),
                ];
                let time = time_ns(batch, index) + i64::try_from(S).unwrap();
                encoder.reading(None, Some(time), &[("site", "north")], &fields);
            }
            let head = BatchHead {
                device: device_number,
                arrival_us: (S + batch * STEP_NS) / 1_000,
                stream: 0,
                skipped: 0,
                readings,
                left_out: 0,
                measurement: "m",
            };
            writer.batch(&head, encoder.body()).unwrap();
        }
    }
    writer.finish(1_800_000_000_000_000_000, EndedBy::CaughtUp).unwrap();
}

/// Hands on what a capture with so many batches says of a device, in the order of time.
fn rows(plan: &Plan, batches: u64, id: &str, each: &mut dyn FnMut(Row<'_>)) {
    let device = (0..DEVICES).find(|device| id == format!("sim-device-{device}-1")).unwrap();
    let begin = plan.base_ns + i64::try_from(plan.ramp_ns).unwrap();
    let mut row = |batch: u64, index: u64| {
        let (time_ns, tags) = (begin + time_ns(batch, index), r#"{"site":"north"}"#);
        let x = Stored::Float(value(device, batch, index));
        for (field, value) in [("text", Stored::Str(TEXT)), ("x", x)] {
            each(Row { time_ns, measurement: "m", tags, field, value });
        }
    };
    for batch in 0..batches + 41 {
        // A reading from long ago comes just before those of the batch of that time.
        if (batch + 40) % 50 == 49 && batch + 40 < batches {
            row(batch + 40, 0);
        }
        let late = batch % 50 == 49;
        if batch < batches {
            (u64::from(late)..READINGS).for_each(|index| row(batch, index));
        }
    }
}

/// Opens a capture with so many batches of each device and verifies a replay of it; the most memory
/// that this process ever held, in KiB.
fn verified(folder: &Path, batches: u64) -> u64 {
    let path = folder.join("large.capture");
    write(&path, batches);
    let replay = Replay::open(&path, 1, 1.0, 0).unwrap();
    let devices = u32::try_from(DEVICES).unwrap();
    let plan = Plan {
        base_ns: 1_800_000_000_000_000_000,
        duration_ns: replay.duration_ns(false),
        replay: Some(replay),
        ..common::plan(devices, 1)
    };
    let journal = journal(folder, &plan, batches);
    let mut store = MadeUp {
        devices: vec![],
        rows: |id: &str, each: &mut dyn FnMut(Row<'_>)| rows(&plan, batches, id, each),
    };
    let report = verify(&mut store, &journal, Duration::ZERO).unwrap();
    let readings = DEVICES * batches * READINGS;
    assert!(report.passed && report.stored == readings, "{}", report.table());
    peak_kib()
}

#[test]
fn a_large_capture_takes_no_more_than_a_small_one() {
    let wanted = std::env::var("REPLAY_CAPTURE_MIB").map(|text| text.parse().unwrap());
    let mib: u64 = wanted.unwrap_or(CAPTURE_MIB);
    let folder = tempfile::tempdir().unwrap();
    let few = verified(folder.path(), FEW);
    let size = std::fs::metadata(folder.path().join("large.capture")).unwrap().len();
    let batches = (mib << 20).div_ceil(size / FEW);
    let many = verified(folder.path(), batches);
    let places = DEVICES * batches * MAX_PLACE_BYTES / 1024;
    println!("{few} KiB for {size} bytes; {many} KiB for {mib} MiB, {} batches", DEVICES * batches);
    assert!(
        many - few <= MAX_GROWTH_KIB + places,
        "{few} KiB for {size} bytes, {many} for {mib} MiB"
    );
}
