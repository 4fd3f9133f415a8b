//! Readings that reached the store while it was waited for.
//!
//! A store does not say when something came to it. What was not there when `verify` first looked,
//! and was there at its end, came late: the sink was behind, or the store shows late what it has.

use super::counts::Counts;
use super::report::Example;
use std::time::Duration;

/// What the first walk has found.
pub(super) struct FirstLook {
    stored: u64,
    lost: Vec<Example>,
}

impl FirstLook {
    pub(super) fn new(counts: &Counts) -> Self {
        let lost = counts.examples.get("lost").cloned().unwrap_or_default();
        Self { stored: counts.stored, lost }
    }

    /// How many were found as sent only later than that, by what the last walk has found. The
    /// examples of lost readings that are no longer lost are those of late ones: every walk takes
    /// the readings in the same order, so one that is still lost is among its first, too.
    pub(super) fn late(self, last: &mut Counts, waited: Duration) -> u64 {
        let late = last.stored.saturating_sub(self.stored);
        if late == 0 {
            return 0;
        }
        let lost = last.examples.get("lost").cloned().unwrap_or_default();
        for example in self.lost.into_iter().filter(|example| !lost.contains(example)) {
            let detail = format!(
                "not in the store at the first look, and there within {:.1} s",
                waited.as_secs_f64()
            );
            last.example("late", || Example { detail, ..example });
        }
        late
    }
}
