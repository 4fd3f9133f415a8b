//! The gateway's clocks: one that never goes back, and the wall clock with a watch for its jumps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// A change of the wall clock against the steady one that counts as a jump, in nanoseconds.
const JUMP_NS: i64 = 30 * 1_000_000_000;
/// How long after a jump the wall clock is in doubt, in microseconds.
const DOUBT_US: u64 = 60 * 1_000_000;

/// Microseconds since the server was made, on a clock that never goes back.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Begins at 0.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Microseconds now.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The moment of `us` microseconds.
    pub fn instant(&self, us: u64) -> tokio::time::Instant {
        // Far away is as good as never; a day is far from what any timer here waits for.
        const FAR: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
        let at = self.start + std::time::Duration::from_micros(us.min(u64::MAX / 4096));
        tokio::time::Instant::from_std(at.min(Instant::now() + FAR))
    }
}

/// The wall clock.
#[derive(Debug, Clone)]
pub struct WallClock {
    clock: Clock,
    watch: Arc<JumpWatch>,
}

#[derive(Debug)]
struct JumpWatch {
    /// Wall clock minus steady clock, in nanoseconds.
    offset_ns: AtomicI64,
    /// When the last jump was seen; `u64::MAX` for never.
    jumped_us: AtomicU64,
}

impl WallClock {
    /// The wall clock beside a steady one.
    pub fn new(clock: Clock) -> Self {
        let offset_ns = unix_ns() - steady_ns(clock.now_us());
        let watch = JumpWatch { offset_ns: offset_ns.into(), jumped_us: u64::MAX.into() };
        Self { clock, watch: Arc::new(watch) }
    }

    /// Nanoseconds since the Unix epoch, and whether they can be held against a device.
    pub fn now(&self) -> super::Now {
        let (ns, now_us) = (unix_ns(), self.clock.now_us());
        super::Now { ns, settled: self.watch.settled(ns, now_us) }
    }

    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(&self) -> i64 {
        unix_ns() / 1_000_000
    }
}

impl JumpWatch {
    fn settled(&self, unix_ns: i64, now_us: u64) -> bool {
        let offset_ns = unix_ns - steady_ns(now_us);
        let known_ns = self.offset_ns.load(Ordering::Relaxed);
        if (offset_ns - known_ns).abs() > JUMP_NS {
            self.offset_ns.store(offset_ns, Ordering::Relaxed);
            self.jumped_us.store(now_us, Ordering::Relaxed);
            tracing::warn!(
                seconds = (offset_ns - known_ns) / 1_000_000_000,
                "the gateway's clock has jumped: readings that look wrong are put off for a minute"
            );
        }
        let jumped_us = self.jumped_us.load(Ordering::Relaxed);
        jumped_us == u64::MAX || now_us.saturating_sub(jumped_us) > DOUBT_US
    }
}

fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn steady_ns(us: u64) -> i64 {
    i64::try_from(us.saturating_mul(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_leaves_the_clock_in_doubt_for_a_while() {
        let watch = JumpWatch { offset_ns: 0.into(), jumped_us: u64::MAX.into() };
        const S: i64 = 1_000_000_000;
        for (wall_s, steady_s, settled) in [
            (10, 10, true),
            (30, 20, true),
            (3_600, 21, false),
            (3_620, 41, false),
            (3_700, 121, true),
            (140, 140, false),
        ] {
            let now_us = steady_s * 1_000_000;
            assert_eq!(watch.settled(wall_s * S, now_us), settled, "{wall_s} {steady_s}");
        }
    }
}
