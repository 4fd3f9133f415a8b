//! When to look again at a store that cannot say whether it has moved.

use std::time::{Duration, Instant};

/// Shortest time from one walk to the next.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Says that a store has moved once it had as much rest as the last walk took.
#[derive(Debug, Default)]
pub(super) struct Pace {
    looks: u64,
    walking_since: Option<Instant>,
    next_look: Option<Instant>,
}

impl Pace {
    /// A walk begins.
    pub(super) fn begin(&mut self) {
        self.walking_since = Some(Instant::now());
    }

    /// A number that changes when it is time to look again.
    pub(super) fn progress(&mut self) -> u64 {
        let now = Instant::now();
        if let Some(since) = self.walking_since.take() {
            self.next_look = Some(now + (now - since).max(LOOK_AGAIN));
        }
        if self.next_look.is_some_and(|next| now >= next) {
            self.next_look = None;
            self.looks += 1;
        }
        self.looks
    }
}
