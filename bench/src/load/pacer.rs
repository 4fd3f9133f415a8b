//! A fixed schedule: message `n` is due at the start plus `n` intervals, whatever happens.

use anyhow::{Context, Result};
use rustix::{
    fd::OwnedFd,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use std::time::{Duration, Instant};

/// The schedule and the clock that wakes the loop; `epoll` alone counts whole milliseconds.
#[derive(Debug)]
pub(super) struct Pacer {
    start: Instant,
    interval_ns: f64,
    next: u64,
    timer: OwnedFd,
}

impl Pacer {
    /// So many messages a second, from now on.
    pub(super) fn new(rate: f64) -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("no timer")?;
        Ok(Self { start: Instant::now(), interval_ns: 1e9 / rate, next: 0, timer })
    }

    pub(super) fn timer(&self) -> &OwnedFd {
        &self.timer
    }

    /// The next message if it is due: its number from 0 and when it was due.
    pub(super) fn due(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let at = self.at(self.next);
        (at <= now).then(|| {
            self.next += 1;
            (self.next - 1, at)
        })
    }

    /// Wakes the loop when the next message is due. Setting the timer also takes back that it has
    /// expired.
    pub(super) fn set(&self) -> Result<()> {
        let wait = self.at(self.next).saturating_duration_since(Instant::now());
        let wait = wait.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs())?,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn at(&self, n: u64) -> Instant {
        self.start + Duration::from_nanos((n as f64 * self.interval_ns) as u64)
    }
}
