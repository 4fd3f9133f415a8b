//! How many readings of each device the log has accepted, since it was made.
//!
//! Kept by the committer beside the table of streams: one look a batch, and durable in the same
//! way, in checkpoints and the records behind them. The sum over all devices and of what belongs to
//! none that is counted is always what the log has accepted in total.

use crate::record::{Envelope, Identity};
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// Devices that are counted, at about 100 bytes each. Those that come when there are so many are
/// counted together: nobody's count ever begins anew.
pub const MAX_COUNTED: usize = 1_000_000;

/// What the log has of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Accepted readings.
    pub accepted: u64,
    /// Readings that were refused out of batches that were logged.
    pub refused: u64,
}

/// The counts of all devices.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    of: HashMap<Identity, Count, RandomState>,
    others: u64,
    total: u64,
}

impl Counts {
    /// A batch of this device is in the log.
    pub fn enter(&mut self, identity: &Identity, accepted: u32, refused: u32) {
        let accepted = u64::from(accepted);
        self.total += accepted;
        let is_full = self.of.len() >= MAX_COUNTED;
        let count = match self.of.get_mut(identity) {
            Some(count) => count,
            None if is_full => {
                self.others += accepted;
                return;
            }
            None => self.of.entry(identity.clone()).or_default(),
        };
        count.accepted += accepted;
        count.refused += u64::from(refused);
    }

    /// The next record of the log, when it is read again. What damaged records before it had
    /// accepted shows in its cumulative count, but not of whom it was.
    pub fn replay(&mut self, envelope: &Envelope) {
        self.reach(envelope.accepted_total.saturating_sub(u64::from(envelope.accepted)));
        let refused = u32::try_from(envelope.refused.len()).unwrap_or(u32::MAX);
        self.enter(&envelope.identity, envelope.accepted, refused);
    }

    /// The log has accepted so many readings: what lacks was of devices that nobody can name.
    pub fn reach(&mut self, total: u64) {
        self.others += total.saturating_sub(self.total);
        self.total = self.total.max(total);
    }

    /// Counts that do not sum up to what the log had accepted when they were written down are of
    /// another time: a gateway that does not count by device has written them on. All begin anew.
    pub fn hold_against(&mut self, total: u64) {
        if self.total != total {
            *self = Self { others: total, total, ..Self::default() };
        }
    }

    /// Puts a count back from a checkpoint.
    pub fn restore(&mut self, identity: Identity, count: Count) {
        self.total += count.accepted;
        self.of.insert(identity, count);
    }

    /// Puts back what was of no device that is counted.
    pub fn restore_others(&mut self, others: u64) {
        self.total += others;
        self.others += others;
    }

    /// The count of a device; `None` if it is not counted.
    pub fn get(&self, identity: &Identity) -> Option<Count> {
        self.of.get(identity).copied()
    }

    /// All that are counted.
    pub fn iter(&self) -> impl Iterator<Item = (&Identity, Count)> {
        self.of.iter().map(|(identity, count)| (identity, *count))
    }

    /// Accepted readings of no device that is counted: from before counting began, of damaged
    /// records, or of devices beyond [`MAX_COUNTED`].
    pub fn others(&self) -> u64 {
        self.others
    }

    /// Accepted readings in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether there is room for a device that was not seen yet.
    pub fn is_full(&self) -> bool {
        self.of.len() >= MAX_COUNTED
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn device(n: usize) -> Identity {
        Identity::new("default", &format!("d{n}"))
    }

    #[test]
    fn the_sum_is_what_the_log_has_whatever_is_known_of_whom() {
        let mut counts = Counts::default();
        counts.enter(&device(1), 5, 1);
        counts.enter(&device(2), 7, 0);
        counts.enter(&device(1), 3, 2);
        assert_eq!(counts.get(&device(1)), Some(Count { accepted: 8, refused: 3 }));
        // Damaged records, and a log that lost its newest ones.
        counts.reach(20);
        counts.reach(18);
        assert_eq!((counts.total(), counts.others()), (20, 5));
        counts.hold_against(20);
        assert_eq!(counts.get(&device(2)).unwrap().accepted, 7);
        counts.hold_against(21);
        assert_eq!((counts.total(), counts.others(), counts.iter().count()), (21, 21, 0));
    }

    #[test]
    fn devices_beyond_the_limit_are_counted_together() {
        let mut counts = Counts::default();
        for n in 0..MAX_COUNTED {
            counts.restore(device(n), Count { accepted: 1, refused: 0 });
        }
        assert!(counts.is_full());
        counts.enter(&device(MAX_COUNTED), 10, 0);
        counts.enter(&device(3), 10, 0);
        assert_eq!(counts.get(&device(MAX_COUNTED)), None);
        assert_eq!(counts.get(&device(3)).unwrap().accepted, 11);
        assert_eq!((counts.others(), counts.total()), (10, MAX_COUNTED as u64 + 20));
    }
}
