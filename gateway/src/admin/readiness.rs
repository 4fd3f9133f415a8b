//! Whether the gateway takes batches, and if not, why.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// A reason not to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// The log is being recovered, listeners are not open yet.
    Starting,
    /// A sync of the log failed; nothing is acknowledged any more.
    LogPoisoned,
    /// The disk or the log is full; batches are refused until there is room.
    DiskFull,
    /// A sink that is required stopped and needs a person.
    SinkStopped,
    /// The process is stopping.
    ShuttingDown,
}

impl NotReady {
    /// All of them.
    pub const ALL: [NotReady; 5] = [
        NotReady::Starting,
        NotReady::LogPoisoned,
        NotReady::DiskFull,
        NotReady::SinkStopped,
        NotReady::ShuttingDown,
    ];

    /// Stable, for programs.
    pub fn code(self) -> &'static str {
        match self {
            NotReady::Starting => "starting",
            NotReady::LogPoisoned => "log_poisoned",
            NotReady::DiskFull => "disk_full",
            NotReady::SinkStopped => "sink_stopped",
            NotReady::ShuttingDown => "shutting_down",
        }
    }

    /// For people.
    pub fn detail(self) -> &'static str {
        match self {
            NotReady::Starting => "the gateway is starting",
            NotReady::LogPoisoned => {
                "a sync of the log failed: check the disk, then restart the gateway, which \
                 verifies the log"
            }
            NotReady::DiskFull => {
                "the disk or the log is full: free space, or see which sink lags in the ledger"
            }
            NotReady::SinkStopped => {
                "a required sink stopped and needs a person: the reason is in the gateway's log"
            }
            NotReady::ShuttingDown => "the gateway is stopping",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Shared by the rooms that know reasons and the listener that tells them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<AtomicU32>);

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Not ready yet: [`NotReady::Starting`] is set.
    pub fn new() -> Self {
        Self(Arc::new(AtomicU32::new(NotReady::Starting.bit())))
    }

    /// Adds a reason.
    pub fn set(&self, reason: NotReady) {
        self.0.fetch_or(reason.bit(), Ordering::Relaxed);
    }

    /// Takes a reason back.
    pub fn clear(&self, reason: NotReady) {
        self.0.fetch_and(!reason.bit(), Ordering::Relaxed);
    }

    /// The reasons at this moment; none means ready.
    pub fn reasons(&self) -> Vec<NotReady> {
        let bits = self.0.load(Ordering::Relaxed);
        NotReady::ALL.into_iter().filter(|reason| bits & reason.bit() != 0).collect()
    }
}
