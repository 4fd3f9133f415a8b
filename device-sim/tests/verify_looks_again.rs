//! A store that is behind when the oracle begins to look, at more readings than it can look at within
//! the time to settle, is no store that has lost them.
#![allow(clippy::unwrap_used)]

mod common;

use common::readings::{Reading, Value, journal, readings};
use device_sim::plan::Plan;
use device_sim::verify::{Fidelity, Row, Store, Stored, verify};
use std::time::Duration;

const BATCHES: u64 = 3;
const SETTLE: Duration = Duration::from_millis(20);

/// Holds nothing at the first look, and one reading less than all for ever after.
struct Behind {
    readings: Vec<Reading>,
    looks: u32,
    lost: usize,
}

impl Store for Behind {
    fn kind(&self) -> &'static str {
        "behind"
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::FULL
    }

    fn progress(&mut self) -> anyhow::Result<u64> {
        Ok(self.looks.into())
    }

    fn begin(&mut self, _from_ns: i64, _to_ns: i64) -> anyhow::Result<()> {
        self.looks += 1;
        Ok(())
    }

    fn rows(&mut self, id: &str, each: &mut dyn FnMut(Row<'_>)) -> anyhow::Result<()> {
        if self.looks == 1 {
            // The look takes longer than the time to settle.
            std::thread::sleep(SETTLE);
            return Ok(());
        }
        let of_device = self.readings.iter().filter(|reading| reading.device == id);
        for reading in of_device.skip(self.lost) {
            let Reading { measurement, time_ns, .. } = reading;
            let tags = serde_json::to_string(&reading.tags)?;
            for (field, value) in &reading.fields {
                let value = match value {
                    Value::Float(x) => Stored::Float(*x),
                    Value::Int(n) => Stored::Int(*n),
                    Value::Bool(b) => Stored::Bool(*b),
                    Value::Text(text) => Stored::Str(text),
                };
                each(Row { time_ns: *time_ns, measurement, tags: &tags, field, value });
            }
        }
        Ok(())
    }

    fn devices(&mut self, _prefix: &str) -> anyhow::Result<Vec<String>> {
        Ok(vec![])
    }

    fn doubled(&mut self, _readings: u64, _rows: u64) -> anyhow::Result<Option<u64>> {
        Ok(Some(0))
    }
}

#[test]
fn a_long_look_at_a_store_that_is_behind_is_not_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { base_ns: 1_800_000_000_000_000_000, ..common::plan(2, 5) };
    let journal = journal(folder.path(), &plan, BATCHES);
    for lost in [0, 1] {
        let mut store = Behind { readings: readings(&plan, BATCHES), looks: 0, lost };
        let report = verify(&mut store, &journal, SETTLE).unwrap();
        assert_eq!(
            (report.lost, report.passed),
            (2 * lost as u64, lost == 0),
            "{}",
            report.table()
        );
        assert_eq!(report.stored + report.lost, 2 * 5 * BATCHES);
        assert_eq!(store.looks, 2);
    }
}
