//! Pauses between attempts.

use std::time::Duration;

/// A destination's own wish for a pause is honoured up to here.
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// Pauses that double from attempt to attempt, each shortened by up to half at random so that
/// forwarders do not come back in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause after so many failures in a row; the destination's wish makes it longer, never
    /// shorter.
    pub fn pause(&self, failures: u32, wish: Option<Duration>) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let pause = doubled.min(self.longest).mul_f64(1.0 - fastrand::f64() / 2.0);
        wish.map_or(pause, |wish| wish.min(LONGEST_WISH).max(pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_honour_the_wish() {
        let backoff =
            Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(3) };
        for (failures, full_ms) in [(1, 100), (2, 200), (3, 400), (6, 3000), (u32::MAX, 3000)] {
            for _ in 0..100 {
                let pause = backoff.pause(failures, None);
                let full = Duration::from_millis(full_ms);
                assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
            }
        }
        let wish = Duration::from_secs(7);
        assert_eq!(backoff.pause(1, Some(wish)), wish);
        assert_eq!(backoff.pause(1, Some(Duration::from_secs(86_400))), LONGEST_WISH);
        assert!(backoff.pause(3, Some(Duration::ZERO)) >= Duration::from_millis(200));
    }
}
