//! Whether the log has room. What devices, `/readyz` and operators are told agrees, and does not
//! change with every batch.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A whole group may be refused; room for two batches of the largest size is room again.
const MAX_REFUSED_BYTES: u64 = 1024 * 1024;

/// Remembers that batches are refused, until there is room for more than the one that was.
#[derive(Debug, Default)]
pub(super) struct Room {
    full: Arc<AtomicBool>,
    /// The largest batch that found no room; 0 while there is room.
    refused_bytes: u64,
}

impl Room {
    /// [`Room::is_full`] for others to read.
    pub(super) fn full(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.full)
    }

    /// True while batches are refused.
    pub(super) fn is_full(&self) -> bool {
        self.refused_bytes > 0
    }

    /// Whether a batch fits, where so much is left.
    pub(super) fn fits(&mut self, bytes: u64, left_bytes: u64) -> bool {
        let fits = left_bytes > bytes;
        if !fits {
            self.refuse(bytes, "less than log.reserve_bytes is free, or log.max_bytes is reached");
        } else if self.is_full() && left_bytes / 2 > self.refused_bytes {
            self.refused_bytes = 0;
            self.full.store(false, Ordering::Relaxed);
            tracing::info!("the log has room again: batches are taken");
        }
        fits
    }

    /// Batches of so many bytes are refused for this reason.
    pub(super) fn refuse(&mut self, bytes: u64, why: &str) {
        if !self.is_full() {
            tracing::warn!(why, "the log is full: devices are told to try later");
        }
        self.refused_bytes = self.refused_bytes.max(bytes.clamp(1, MAX_REFUSED_BYTES));
        self.full.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_full_until_there_is_room_for_more_than_was_refused() {
        let mut room = Room::default();
        let full = room.full();
        for (bytes, left, fits, is_full) in [
            (100, 1000, true, false),
            (100, 100, false, true),
            (10, 100, true, true),
            (10, 200, true, true),
            (10, 202, true, false),
            (0, 0, false, true),
            (0, 1, true, true),
            (0, 4, true, false),
        ] {
            assert_eq!(room.fits(bytes, left), fits, "{bytes} of {left}");
            assert_eq!(full.load(Ordering::Relaxed), is_full, "{bytes} of {left}");
        }
    }
}
