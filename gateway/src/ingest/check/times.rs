//! Finds points that come twice in a batch.

use foldhash::fast::RandomState;
use std::{cmp::Ordering, collections::HashSet};

/// Readings of one moment that are compared one by one; more of them are hashed.
const MAX_AT_ONE_MOMENT: usize = 16;

/// The series and times of a batch that were taken. Times that do not go back, which is the rule,
/// cost a comparison each: whatever is later than all before is not among them.
#[derive(Debug)]
pub(super) struct Times {
    /// While no time has gone back.
    in_order: Vec<(u64, i64)>,
    /// How many of the last ones are of one moment.
    at_one_moment: usize,
    any_order: Option<HashSet<(u64, i64), RandomState>>,
}

impl Times {
    /// For a batch of so many readings.
    pub(super) fn new(readings: usize) -> Self {
        Self { in_order: Vec::with_capacity(readings), at_one_moment: 0, any_order: None }
    }

    /// Whether this series, given as its hash, has this time already; takes it if not.
    pub(super) fn is_repeated(&mut self, series: u64, time: i64) -> bool {
        if let Some(seen) = &mut self.any_order {
            return !seen.insert((series, time));
        }
        let latest = self.in_order.last().map_or(i64::MIN, |&(_, time)| time);
        match time.cmp(&latest) {
            Ordering::Greater => self.at_one_moment = 1,
            Ordering::Equal if self.at_one_moment < MAX_AT_ONE_MOMENT => {
                let moment = &self.in_order[self.in_order.len() - self.at_one_moment..];
                if moment.iter().any(|&(other, _)| other == series) {
                    return true;
                }
                self.at_one_moment += 1;
            }
            _ => return self.hash(series, time),
        }
        self.in_order.push((series, time));
        false
    }

    #[cold]
    fn hash(&mut self, series: u64, time: i64) -> bool {
        // The seed is new for each batch: no device can know what collides.
        let mut seen =
            HashSet::with_capacity_and_hasher(self.in_order.capacity(), RandomState::default());
        seen.extend(self.in_order.drain(..));
        let repeated = !seen.insert((series, time));
        self.any_order = Some(seen);
        repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_set_in_any_order() {
        let mut random = fastrand::Rng::with_seed(7);
        for (series, moments) in [(1, 50), (3, 4), (40, 1), (100, 3), (5, 1_000)] {
            for sorted in [true, false] {
                let mut points: Vec<(i64, u64)> =
                    (0..200).map(|_| (random.i64(0..moments), random.u64(0..series))).collect();
                if sorted {
                    points.sort_by_key(|&(time, _)| time);
                }
                let (mut times, mut seen) = (Times::new(points.len()), HashSet::new());
                for (time, series) in points {
                    assert_eq!(times.is_repeated(series, time), !seen.insert((series, time)));
                }
            }
        }
    }

    #[test]
    fn the_earliest_time_is_a_time() {
        let mut times = Times::new(2);
        assert!(!times.is_repeated(1, i64::MIN));
        assert!(times.is_repeated(1, i64::MIN));
    }
}
