//! How long a device waits before it connects again.

use std::time::Duration;

/// First wait.
const FIRST: Duration = Duration::from_millis(200);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(30);

/// Exponential, with jitter: each wait is between half and all of twice the one before.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A connection got as far as `welcome`.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait. A wish of the gateway is kept to the millisecond: it gives each device a
    /// slot of its own.
    pub(super) fn next(&mut self, wish: Option<Duration>, random: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        wish.unwrap_or_else(|| full.mul_f64(0.5 + random / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_limit_and_starts_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..10).map(|_| backoff.next(None, 1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        for _ in 0..100 {
            backoff.next(None, 0.0);
        }
        assert_eq!(backoff.next(None, 0.0), Duration::from_secs(15));
        backoff.reset();
        assert_eq!(backoff.next(None, 0.0), Duration::from_millis(100));
    }

    #[test]
    fn the_wish_of_the_gateway_counts() {
        let wish = Duration::from_millis(1234);
        assert_eq!(Backoff::default().next(Some(wish), 0.7), wish);
    }
}
