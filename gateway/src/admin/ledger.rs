//! The ledger: for each sink, `accepted = stored + quarantined + pending + dropped`.

use serde_json::{Value, json};
use std::{collections::BTreeMap, pin::Pin, sync::Arc};

/// Takes the ledger at this moment. Called for each request; must be quick and not block.
pub type LedgerSource = Arc<dyn Fn() -> LedgerSnapshot + Send + Sync>;

/// What a walk through the log shows of a device, or why it cannot.
pub(super) type DeviceLedger = Pin<Box<dyn Future<Output = Result<Value, String>> + Send>>;
/// Counts the readings of the device of this realm and id. May take as long as the disk.
pub type DeviceLedgerSource = Arc<dyn Fn(String, String) -> DeviceLedger + Send + Sync>;

/// The ledger of all sinks, in readings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerSnapshot {
    /// Accepted into this log since it was made.
    pub accepted: u64,
    /// By sink.
    pub sinks: Vec<SinkLedger>,
}

/// The ledger of one sink, in readings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkLedger {
    /// Its name.
    pub name: String,
    /// How often it was rewound; each time all counts begin anew.
    pub epoch: u64,
    /// Accepted since the beginning of its epoch: a sink that came later, or was rewound, counts
    /// from its first position.
    pub accepted: u64,
    /// The destination confirmed them.
    pub stored: u64,
    /// Refused by the destination and kept with the reason.
    pub quarantined: u64,
    /// Given up, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Still in the log.
    pub pending: u64,
}

impl SinkLedger {
    /// Accepted minus all that is accounted for; anything but 0 is an error of the gateway.
    pub fn difference(&self) -> i128 {
        let dropped: i128 = self.dropped.values().map(|&n| i128::from(n)).sum();
        let accounted = [self.stored, self.quarantined, self.pending].map(i128::from);
        i128::from(self.accepted) - accounted.iter().sum::<i128>() - dropped
    }
}

impl LedgerSnapshot {
    /// Every sink's sum holds.
    pub fn balanced(&self) -> bool {
        self.sinks.iter().all(|sink| sink.difference() == 0)
    }

    pub(super) fn to_json(&self) -> Value {
        let sinks: Vec<Value> = self
            .sinks
            .iter()
            .map(|sink| {
                json!({
                    "name": sink.name,
                    "epoch": sink.epoch,
                    "accepted": sink.accepted,
                    "stored": sink.stored,
                    "quarantined": sink.quarantined,
                    "dropped": sink.dropped,
                    "pending": sink.pending,
                    "balanced": sink.difference() == 0,
                })
            })
            .collect();
        let quarantined: u64 = self.sinks.iter().map(|sink| sink.quarantined).sum();
        json!({
            "accepted": self.accepted, "quarantined": quarantined, "sinks": sinks,
            "balanced": self.balanced(),
        })
    }
}
