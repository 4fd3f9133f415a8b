//! The verdict: counts of readings, and examples.

use super::counts::Counts;
use super::ledger::Reconciled;
use crate::journal::Journal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Version of the report's layout.
const SCHEMA: &str = "device-sim/verify/1";

/// The verdict. Counts are readings; null is what this store cannot show.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// `device-sim/verify/1`.
    pub schema: &'static str,
    /// Version of this tool.
    pub version: &'static str,
    /// Kind of the store.
    pub store: &'static str,
    /// The run that was verified.
    pub run: u64,
    /// False if the run was killed: its journal may be behind what it sent.
    pub journal_complete: bool,
    /// Something was acknowledged, and nothing lost, doubled, altered or unexpected.
    pub passed: bool,
    /// Acknowledged, without those refused.
    pub acked: u64,
    /// Acknowledged and found as sent.
    pub stored: u64,
    /// Those of `stored` that were not there at the first look.
    pub late: u64,
    /// Acknowledged and not found.
    pub lost: u64,
    /// Written more than once.
    pub duplicated: Option<u64>,
    /// Whether that is no fault.
    pub duplicates_allowed: bool,
    /// Found with another value, field, tag or measurement than was sent.
    pub altered: u64,
    /// Found under the names and times of the run, and not sent or refused.
    pub unexpected: u64,
    /// Sent, not acknowledged, and found once: allowed.
    pub unacknowledged_present: u64,
    /// Refused for good by the gateway: not to be found.
    pub refused: u64,
    /// Acknowledged, and nothing that this store could show apart: neither stored nor lost.
    pub not_shown: u64,
    /// Values that were compared as far as the store holds them: a boolean as a number, a time cut
    /// to the store's unit.
    pub values_reduced: u64,
    /// Values that the store cannot hold, not compared: strings in a store of numbers.
    pub values_not_held: u64,
    /// Time until the store had everything, or was given up, in seconds.
    pub waited_s: f64,
    /// What the gateway's ledger says of the run; null if it was not asked for.
    pub ledger: Option<Reconciled>,
    /// The first of each class.
    pub examples: BTreeMap<&'static str, Vec<Example>>,
}

/// One reading that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The device.
    pub device: String,
    /// Its batch; null for a reading that was not sent.
    pub seq: Option<u64>,
    /// Index in the batch.
    pub index: Option<u32>,
    /// Nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// What is wrong.
    pub detail: String,
}

impl Report {
    pub(super) fn new(
        store: &'static str,
        journal: &Journal,
        counts: Counts,
        doubled: Option<u64>,
        waited: Duration,
    ) -> Self {
        let seen = counts.duplicated;
        let duplicated = match doubled {
            None if seen == 0 => None,
            doubled => Some(doubled.unwrap_or(0).max(seen)),
        };
        let mut report = Self {
            schema: SCHEMA,
            version: crate::VERSION,
            store,
            run: journal.plan.run,
            journal_complete: journal.complete,
            passed: false,
            acked: counts.acked,
            stored: counts.stored,
            late: 0,
            lost: counts.lost,
            duplicated,
            duplicates_allowed: false,
            altered: counts.altered,
            unexpected: counts.unexpected,
            unacknowledged_present: counts.unacknowledged_present,
            refused: counts.refused,
            not_shown: counts.not_shown,
            values_reduced: counts.values_reduced,
            values_not_held: counts.values_not_held,
            waited_s: waited.as_secs_f64(),
            ledger: None,
            examples: counts.examples,
        };
        report.judge();
        report
    }

    /// …with how many came late, and what the ledger says.
    pub(super) fn with(mut self, late: u64, ledger: Option<Reconciled>) -> Self {
        (self.late, self.ledger) = (late, ledger);
        self.judge();
        self
    }

    /// What came more than once is no fault of a store that promises no more than at least once.
    pub fn allow_duplicates(&mut self) {
        self.duplicates_allowed = true;
        self.judge();
    }

    fn judge(&mut self) {
        let agrees = self.ledger.as_ref().is_none_or(Reconciled::holds);
        self.passed = self.acked > 0 && self.fault().is_none() && agrees;
    }

    /// In what the store is not as it should be: `3 lost, 1 altered`.
    pub fn fault(&self) -> Option<String> {
        let duplicated = self.duplicated.filter(|_| !self.duplicates_allowed).unwrap_or(0);
        let counts = [
            (self.lost, "lost"),
            (duplicated, "duplicated"),
            (self.altered, "altered"),
            (self.unexpected, "unexpected"),
        ];
        let found = counts.iter().filter(|(count, _)| *count > 0);
        let found: Vec<String> = found.map(|(count, class)| format!("{count} {class}")).collect();
        (!found.is_empty()).then(|| found.join(", "))
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "  {name:<26} {value}");
        };
        let or_unknown = |count: Option<u64>| {
            count.map_or("unknown: this store cannot show it".to_owned(), |count| count.to_string())
        };
        row("readings acknowledged", self.acked.to_string());
        row("  stored as sent", self.stored.to_string());
        row("  lost", self.lost.to_string());
        let allowed = if self.duplicates_allowed { ", which is allowed" } else { "" };
        row("duplicated", or_unknown(self.duplicated) + allowed);
        row("altered", self.altered.to_string());
        row("unexpected", self.unexpected.to_string());
        row("unacknowledged, present", self.unacknowledged_present.to_string());
        row("refused", self.refused.to_string());
        for (name, count) in [
            ("stored late", self.late),
            ("acknowledged, not shown", self.not_shown),
            ("values compared in part", self.values_reduced),
            ("values it cannot hold", self.values_not_held),
        ] {
            if count > 0 {
                row(name, count.to_string());
            }
        }
        // What came late is as it should be; its examples are in the report.
        for (class, examples) in self.examples.iter().filter(|(class, _)| **class != "late") {
            for Example { device, seq, index, time_ns, detail } in examples {
                let place = match (seq, index) {
                    (Some(seq), Some(index)) => format!("batch {seq} reading {index} "),
                    _ => String::new(),
                };
                let _ = writeln!(out, "  {class}: {device} {place}at {time_ns}: {detail}");
            }
        }
        if let Some(ledger) = &self.ledger {
            let _ = writeln!(out, "  ledger of {}", ledger.line());
            for problem in &ledger.problems {
                let _ = writeln!(out, "  ledger: {problem}");
            }
            for device in &ledger.devices {
                let _ = writeln!(out, "  ledger: {}", device.line());
            }
            if let Some(why) = &ledger.devices_untold {
                let _ = writeln!(out, "  ledger: {why}");
            }
            if !ledger.holds() && ledger.devices.is_empty() && ledger.devices_asked > 0 {
                let asked = ledger.devices_asked;
                let _ = writeln!(out, "  ledger: of the {asked} devices asked for it agrees");
            }
        }
        let in_part = self.not_shown + self.values_reduced + self.values_not_held > 0;
        let verdict = match (self.passed, self.acked) {
            (true, _) if in_part => "passed, as far as this store can hold what was sent",
            (true, _) => "passed: every acknowledged reading is in the store, as it was sent",
            (false, 0) => "failed: nothing was acknowledged",
            (false, _) if self.ledger.as_ref().is_some_and(|ledger| !ledger.holds()) => {
                "failed: the gateway's ledger, the journal and the store do not agree"
            }
            (false, _) => "failed: the store does not hold what was sent",
        };
        let _ = writeln!(out, "{verdict}");
        if !self.journal_complete {
            let _ = writeln!(out, "the run was killed: its journal may be behind what it sent");
        }
        out
    }
}
