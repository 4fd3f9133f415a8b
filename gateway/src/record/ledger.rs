//! Where the readings of a log went, as one sink counts them.

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
}

impl Dropped {
    /// The sum over all reasons.
    pub const fn total(&self) -> u64 {
        self.damaged + self.skipped + self.unsupported + self.expired
    }

    /// Adds the counts of another.
    pub const fn add(&mut self, other: Dropped) {
        self.damaged += other.damaged;
        self.skipped += other.skipped;
        self.unsupported += other.unsupported;
        self.expired += other.expired;
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
}
