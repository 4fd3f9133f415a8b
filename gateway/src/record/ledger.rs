//! Where the readings of a log went, as one sink counts them.

use super::Identity;

/// Accepted readings that a sink does not hold, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Dropped {
    /// Their record in the log cannot be read.
    pub damaged: u64,
    /// The sink's policy was to let the log go on without it.
    pub skipped: u64,
    /// The destination cannot hold them.
    pub unsupported: u64,
    /// Older than what the destination is told to keep.
    pub expired: u64,
    /// Refused by the destination, and the quarantine was full.
    pub quarantine_full: u64,
    /// Refused by the destination, and an operator dropped them from the quarantine.
    pub operator: u64,
}

impl Dropped {
    /// The sum over all reasons.
    pub const fn total(&self) -> u64 {
        self.damaged
            + self.skipped
            + self.unsupported
            + self.expired
            + self.quarantine_full
            + self.operator
    }

    /// Adds the counts of another.
    pub const fn add(&mut self, other: Dropped) {
        self.damaged += other.damaged;
        self.skipped += other.skipped;
        self.unsupported += other.unsupported;
        self.expired += other.expired;
        self.quarantine_full += other.quarantine_full;
        self.operator += other.operator;
    }
}

/// Readings of one device that a sink does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Whose.
    pub identity: Identity,
    /// How many, by reason.
    pub dropped: Dropped,
}

/// Where readings went that left the quarantine of a sink. They stand in the quarantine's own
/// file, committed with the removal, and are put on top of the ledger that goes with the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moves {
    /// Sent again, and confirmed by the destination.
    pub stored: u64,
    /// Given up, by reason.
    pub dropped: Dropped,
}

impl Moves {
    /// All that left.
    pub const fn total(&self) -> u64 {
        self.stored + self.dropped.total()
    }

    /// The ledger as it is with these moves.
    pub fn applied(&self, mut ledger: Ledger) -> Ledger {
        ledger.quarantined = ledger.quarantined.saturating_sub(self.total());
        ledger.stored += self.stored;
        ledger.dropped.add(self.dropped);
        ledger
    }
}

/// Where every reading went that a sink has passed. Written atomically with its cursor, so that
/// `accepted_total - base = stored + quarantined + dropped` holds at every position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Ledger {
    /// Accepted readings in the log before the first record that this sink was given; `None`
    /// until it has been given one.
    pub base: Option<u64>,
    /// Accepted readings in the log up to and with the cursor.
    pub accepted_total: u64,
    /// Readings that the destination confirmed.
    pub stored: u64,
    /// Readings that the destination refused, kept with the reason.
    pub quarantined: u64,
    /// Readings that are nowhere, by reason.
    pub dropped: Dropped,
    /// How often the sink was rewound; each time all counts begin anew.
    #[serde(default)]
    pub epoch: u64,
}

impl Ledger {
    /// The ledger of a sink that goes on where the log has accepted so many readings; unknown
    /// until it has been given a record if that cannot be told.
    pub fn beginning(accepted: Option<u64>) -> Self {
        Self { base: accepted, accepted_total: accepted.unwrap_or(0), ..Self::default() }
    }

    /// The counts of both, for counters that never go back.
    pub fn plus(&self, earlier: &Self) -> Self {
        let mut dropped = self.dropped;
        dropped.add(earlier.dropped);
        Self {
            stored: self.stored + earlier.stored,
            quarantined: self.quarantined + earlier.quarantined,
            dropped,
            ..*self
        }
    }

    /// Readings that the sink has passed and cannot account for; anything but 0 is an error of the
    /// gateway. `accepted` is what the log has accepted in total, which no sink can be ahead of.
    pub fn imbalance(&self, accepted: u64) -> i128 {
        let passed = self.base.map_or(0, |base| i128::from(self.accepted_total) - i128::from(base));
        let counted = [self.stored, self.quarantined, self.dropped.total()].map(i128::from);
        let ahead = self.accepted_total.saturating_sub(accepted);
        passed - counted.iter().sum::<i128>() + i128::from(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_accounted_for_shows() {
        let dropped = Dropped { skipped: 3, unsupported: 1, ..Dropped::default() };
        let ledger = Ledger {
            base: Some(100),
            accepted_total: 150,
            stored: 44,
            quarantined: 2,
            dropped,
            epoch: 1,
        };
        assert_eq!(ledger.imbalance(150), 0);
        assert_eq!(ledger.imbalance(1_000), 0);
        assert_eq!(ledger.imbalance(148), 2, "ahead of the log");
        assert_eq!(Ledger { stored: 43, ..ledger }.imbalance(150), 1);
        assert_eq!(Ledger { stored: 45, ..ledger }.imbalance(150), -1);
        assert_eq!(Ledger { base: None, ..Ledger::default() }.imbalance(0), 0);
        assert_eq!(Ledger::beginning(Some(7)).imbalance(7), 0);
        assert_eq!(Ledger::beginning(None).imbalance(7), 0);
    }
}
