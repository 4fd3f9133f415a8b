//! The closed loop: each device sends its next batch when one before it is acknowledged.
//!
//! For finding how much a gateway takes, and for nothing else: a gateway that stands still is asked
//! for less, so the latencies leave out every batch that a real fleet would have sent meanwhile.

use std::collections::VecDeque;
use tokio::time::Instant;

/// The part of a device that stands in for the schedule.
#[derive(Debug)]
pub(super) struct ClosedLoop {
    in_flight: usize,
    /// When each batch was taken up that is not acknowledged, the oldest first.
    taken: VecDeque<Instant>,
}

impl ClosedLoop {
    /// For so many batches that are not acknowledged.
    pub(super) fn new(in_flight: u32) -> Self {
        Self { in_flight: in_flight as usize, taken: VecDeque::new() }
    }

    /// Takes up one more batch; false if as many as there may be are not acknowledged.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let room = self.taken.len() < self.in_flight;
        if room {
            self.taken.push_back(now);
        }
        room
    }

    /// The oldest batch is acknowledged: when it was taken up.
    pub(super) fn acknowledged(&mut self) -> Option<Instant> {
        self.taken.pop_front()
    }
}
