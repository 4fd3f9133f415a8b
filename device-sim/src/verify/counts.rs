//! What a walk has found so far.

use super::accounts::Accounts;
use super::report::Example;
use super::rows::describe;
use super::store::Row;
use std::collections::BTreeMap;

/// Most examples that are kept of each class.
pub(super) const EXAMPLES: usize = 10;

/// What was found so far, in readings.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) acked: u64,
    pub(super) stored: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) altered: u64,
    pub(super) unexpected: u64,
    pub(super) unacknowledged_present: u64,
    pub(super) refused: u64,
    /// Sent and not answered, at most.
    pub(super) unanswered: u64,
    /// Acknowledged readings of which this store can show nothing by themselves.
    pub(super) not_shown: u64,
    /// Values that were compared as far as this store holds them.
    pub(super) values_reduced: u64,
    /// Values that this store cannot hold, and that were not compared.
    pub(super) values_not_held: u64,
    /// Rows that were compared.
    pub(super) rows: u64,
    pub(super) examples: BTreeMap<&'static str, Vec<Example>>,
    pub(super) accounts: Accounts,
    /// Time of the reading of a stranger that was counted last.
    pub(super) stranger_ns: Option<i64>,
}

impl Counts {
    /// Different readings that are in the store.
    pub(super) fn present(&self) -> u64 {
        self.sent_and_present() + self.unexpected
    }

    /// Those of them that were sent.
    pub(super) fn sent_and_present(&self) -> u64 {
        self.stored + self.altered + self.unacknowledged_present
    }

    pub(super) fn example(&mut self, class: &'static str, make: impl FnOnce() -> Example) {
        let examples = self.examples.entry(class).or_default();
        if examples.len() < EXAMPLES {
            examples.push(make());
        }
    }

    /// The rows of a device that the run does not have follow.
    pub(super) fn begin_stranger(&mut self) {
        self.stranger_ns = None;
    }

    /// A row of a device that the run does not have.
    pub(super) fn stranger(&mut self, device: &str, row: Row<'_>) {
        self.rows += 1;
        if self.stranger_ns.replace(row.time_ns) != Some(row.time_ns) {
            self.unexpected += 1;
            self.example("unexpected", || {
                let detail = format!("the run has no such device; {}", describe(&row));
                Example {
                    device: device.into(),
                    seq: None,
                    index: None,
                    time_ns: row.time_ns,
                    detail,
                }
            });
        }
    }

    /// What came to the store and is no reading.
    pub(super) fn unreadable(&mut self, count: u64, sentences: Vec<String>) {
        self.unexpected += count;
        for detail in sentences {
            self.example("unexpected", || Example {
                device: "nobody".to_owned(),
                seq: None,
                index: None,
                time_ns: 0,
                detail,
            });
        }
    }
}
