//! Changes on their way to the file, and how far they have come.

use super::{revocations::Revocation, types::KnownField};
use crate::record::Identity;
use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// One change of what is kept.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// A field has this kind now.
    Field(KnownField),
    /// The kind of a field was forgotten.
    ForgetField { realm: Box<str>, measurement: Box<str>, field: Box<str> },
    /// A device was revoked.
    Revoke(Revocation),
    /// A device is allowed again.
    Allow(Identity),
}

/// The queue of changes. Its length is bounded by what makes them: a field is learned once and
/// fields are limited by realm, and everything else is done by a person.
#[derive(Debug)]
pub struct Changes {
    queue: Mutex<Queue>,
    woken: Condvar,
    durable: AtomicU64,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Change>,
    /// Number of the last change.
    last: u64,
    stopped: bool,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// Changes up to this number are durable.
    durable: u64,
    /// Why the file cannot be written right now.
    trouble: Option<String>,
}

/// A change could not be made durable in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state.db cannot be written: {why}")]
pub struct Unsettled {
    /// What the file or its disk says.
    pub why: String,
}

/// What the keeper has to do next.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) changes: Vec<Change>,
    /// The number of the last of them.
    pub(super) last: u64,
    pub(super) stopped: bool,
}

impl Changes {
    pub(super) fn new() -> Self {
        Self {
            queue: Mutex::default(),
            woken: Condvar::new(),
            durable: AtomicU64::new(0),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    /// Everything up to this number is durable.
    #[inline]
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Why the file cannot be written right now, if so.
    pub fn trouble(&self) -> Option<String> {
        self.progress.borrow().trouble.clone()
    }

    /// Waits until the change of this number is durable. Cancel safe.
    ///
    /// # Errors
    /// It is not within this time.
    pub async fn settled(&self, number: u64, within: Duration) -> Result<(), Unsettled> {
        if self.durable() >= number {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let done = progress.wait_for(|progress| progress.durable >= number);
        match tokio::time::timeout(within, done).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unsettled {
                why: self.trouble().unwrap_or_else(|| format!("it took longer than {within:?}")),
            }),
        }
    }

    /// Writes what waits, ends the keeper, and takes no further changes.
    pub fn stop(&self) {
        self.queue().stopped = true;
        self.woken.notify_all();
    }

    /// Enters a change; gives its number.
    pub(super) fn push(&self, change: Change) -> u64 {
        let mut queue = self.queue();
        queue.waiting.push(change);
        queue.last += 1;
        let number = queue.last;
        drop(queue);
        self.woken.notify_all();
        number
    }

    /// Waits for changes, at most so long.
    pub(super) fn next(&self, wait: Duration) -> Work {
        let queue = self.queue();
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.stopped;
        let (mut queue, _) = self
            .woken
            .wait_timeout_while(queue, wait, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let changes = std::mem::take(&mut queue.waiting);
        Work { changes, last: queue.last, stopped: queue.stopped }
    }

    /// These changes were not written: they come first next time.
    pub(super) fn give_back(&self, mut changes: Vec<Change>, why: String) {
        let mut queue = self.queue();
        changes.append(&mut queue.waiting);
        queue.waiting = changes;
        drop(queue);
        self.progress.send_modify(|progress| progress.trouble = Some(why));
    }

    /// Changes up to this number are durable.
    pub(super) fn done(&self, last: u64) {
        self.durable.store(last, Ordering::Release);
        self.progress.send_modify(|progress| *progress = Progress { durable: last, trouble: None });
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
