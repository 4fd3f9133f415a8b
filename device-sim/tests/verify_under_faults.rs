//! The oracle of a run in which much goes wrong, as the plan wants it: mixed profiles, poison, wrong
//! clocks, batches that the device lost. The truth passes, and each lie beside the faults is found.
#![allow(clippy::unwrap_used)]

mod common;

use common::readings::{Reading, Value as Sent, readings};
use common::store::{HandMade, Point};
use device_sim::journal::{self, Journal, Ledger};
use device_sim::plan::{Fault, Kind, Plan, Trouble};
use device_sim::profile::Profile;
use device_sim::verify::{Report, SqliteStore, verify};
use rusqlite::types::Value;
use std::time::Duration;

const BATCHES: u64 = 20;
const S: u64 = 1_000_000_000;

fn plan() -> Plan {
    let kind = |profile| Kind { interval_ns: S / 10, batch: 5, ..Kind::of(profile) };
    let lasting = |trouble, from_ns| Fault {
        trouble,
        from_ns,
        lasts_ns: S,
        share: 0.6,
        spread_ns: 0,
        every_ns: None,
    };
    Plan {
        base_ns: 1_800_000_000_123_456_789,
        kinds: Profile::BUILT_IN.map(kind).to_vec(),
        faults: vec![
            lasting(Trouble::Poison { ratio: 0.2 }, 0),
            lasting(Trouble::BadBatch { ratio: 0.3 }, S),
            lasting(Trouble::ClockSkew { offset_ns: -300_000_000 }, S / 2),
            lasting(Trouble::ClockSkew { offset_ns: 86_400_000_000_000 }, S / 2),
        ],
        ..common::plan(8, 3)
    }
}

/// Devices lose batches 5 to 7; batches 19 and 20 are not acknowledged.
fn ledger(plan: &Plan, device: u32) -> Ledger {
    let acked = plan.start_seq + BATCHES - 3;
    Ledger { acked, sent: acked + 2, dropped: vec![(5, 7)], ..Ledger::new(plan, device) }
}

struct Run {
    plan: Plan,
    journal: Journal,
    /// Readings by what became of them.
    kept: Vec<Reading>,
    refused: Vec<Reading>,
    lost_by_the_device: Vec<Reading>,
    folder: tempfile::TempDir,
}

fn run() -> Run {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    assert_eq!(plan.check(), Ok(()));
    let path = folder.path().join("run.journal");
    journal::write(&path, &plan, (0..8).map(|device| ledger(&plan, device)), true).unwrap();
    let (mut kept, mut refused, mut lost_by_the_device) = (vec![], vec![], vec![]);
    for (at, reading) in (0..).zip(readings(&plan, BATCHES)) {
        let (device, seq) = (at / (5 * BATCHES), at / 5 % BATCHES + 1);
        let (device, index) = (u32::try_from(device).unwrap(), u32::try_from(at % 5).unwrap());
        let tick = u32::try_from(seq - 1).unwrap();
        if (5..=7).contains(&seq) {
            lost_by_the_device.push(reading);
        } else if plan.refuses(device, tick, seq, index) {
            refused.push(reading);
        } else {
            kept.push(reading);
        }
    }
    let journal = Journal::open(&path).unwrap();
    Run { plan, journal, kept, refused, lost_by_the_device, folder }
}

fn point(reading: &Reading) -> Point {
    let fields = reading.fields.iter().map(|(name, value)| {
        let (kind, value) = match value {
            Sent::Float(x) => ("float", Value::Real(*x)),
            Sent::Int(n) => ("float", Value::Real(*n as f64)),
            Sent::Bool(b) => ("boolean", Value::Integer(i64::from(*b))),
            Sent::Text(text) => ("string", Value::Text(text.clone())),
        };
        (name.clone(), kind, value)
    });
    Point {
        device: reading.device.clone(),
        measurement: reading.measurement.clone(),
        tags: reading.tags.clone(),
        time_ns: reading.time_ns,
        fields: fields.collect(),
    }
}

impl Run {
    fn told<'a>(&self, held: impl IntoIterator<Item = &'a Reading>) -> Report {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        let store = HandMade::create(folder.path());
        held.into_iter().for_each(|reading| store.put(&point(reading)));
        let mut store = SqliteStore::open(&store.path).unwrap();
        verify(&mut store, &self.journal, Duration::ZERO).unwrap()
    }
}

#[test]
fn the_truth_passes_under_all_faults() {
    let run = run();
    let report = run.told(&run.kept);
    assert!(report.passed, "{}", report.table());
    assert_eq!((report.lost, report.altered, report.unexpected), (0, 0, 0));
    assert_eq!(report.acked + report.refused, 8 * 5 * (BATCHES - 2 - 3));
    assert_eq!(report.stored, report.acked);
    assert_eq!(report.stored + report.unacknowledged_present, run.kept.len() as u64);
    assert!(report.refused > 50 && report.stored > 200, "{}", report.table());
    let kinds = (0..8).map(|device| run.plan.kind_of(device).profile.measurement());
    assert_eq!(kinds.collect::<std::collections::BTreeSet<_>>().len(), 4, "all profiles");
}

#[test]
fn what_was_foreseen_to_be_refused_must_not_be_there() {
    let run = run();
    for reading in run.refused.iter().step_by(7) {
        let report = run.told(run.kept.iter().chain([reading]));
        assert_eq!((report.passed, report.unexpected), (false, 1), "{reading:?}");
        let example = &report.examples["unexpected"][0];
        assert_eq!((&example.device, example.time_ns), (&reading.device, reading.time_ns));
        assert!(example.detail.contains("refused"), "{}", example.detail);
    }
}

#[test]
fn what_a_device_lost_must_not_be_there() {
    let run = run();
    let reading = &run.lost_by_the_device[3];
    let report = run.told(run.kept.iter().chain([reading]));
    assert_eq!((report.passed, report.unexpected, report.lost), (false, 1, 0));
}

/// Every acknowledged reading is missed, whatever clock it was taken by.
#[test]
fn every_reading_is_missed_by_name() {
    let run = run();
    let whole = run.told(&run.kept);
    let mut missed = 0;
    for gone in (0..run.kept.len()).step_by(11) {
        let others = run.kept.iter().enumerate().filter(|(at, _)| *at != gone);
        let report = run.told(others.map(|(_, reading)| reading));
        if report.unacknowledged_present < whole.unacknowledged_present {
            assert_eq!((report.passed, report.lost), (true, 0));
            continue;
        }
        missed += 1;
        assert_eq!((report.passed, report.lost, report.unexpected), (false, 1, 0));
        let example = &report.examples["lost"][0];
        let gone = &run.kept[gone];
        assert_eq!((&example.device, example.time_ns), (&gone.device, gone.time_ns));
    }
    assert!(missed > 20, "{missed}");
}
