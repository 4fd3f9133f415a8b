//! The thread that writes the file.

use super::{
    changes::{Changes, Work},
    devices::{DeviceFacts, Devices},
    schema,
};
use crate::metrics::StateMetrics;
use rusqlite::Connection;
use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often what is only counted is written.
const COUNTS_EVERY: Duration = Duration::from_secs(60);
/// Pause after the file could not be written.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Most rows of counts in one transaction, so that a change never waits long for them.
const COUNTS_AT_ONCE: usize = 2_000;

/// Owns the file. Nothing is written until it runs.
#[derive(Debug)]
pub struct Keeper {
    connection: Connection,
    changes: Arc<Changes>,
    devices: Arc<Devices>,
    /// Counts that are still to be written.
    counts: Vec<DeviceFacts>,
    metrics: StateMetrics,
}

impl Keeper {
    pub(super) fn new(
        connection: Connection,
        changes: Arc<Changes>,
        devices: Arc<Devices>,
        metrics: StateMetrics,
    ) -> Self {
        Self { connection, changes, devices, counts: Vec::new(), metrics }
    }

    /// Starts the thread. It ends after [`Changes::stop`], when all is written that can be.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn spawn(self) -> io::Result<oneshot::Receiver<()>> {
        let (done, ended) = oneshot::channel();
        thread::Builder::new().name("state".into()).spawn(move || {
            self.run();
            // Nobody waits any more when the gateway has given up on stopping well.
            let _ = done.send(());
        })?;
        Ok(ended)
    }

    fn run(mut self) {
        let mut counts_due = Instant::now() + COUNTS_EVERY;
        loop {
            let wait = match self.counts.is_empty() {
                true => counts_due.saturating_duration_since(Instant::now()),
                false => Duration::ZERO,
            };
            let work = self.changes.next(wait);
            let stopped = work.stopped;
            if self.counts.is_empty() && (stopped || Instant::now() >= counts_due) {
                self.counts = self.devices.take_changed();
                counts_due = Instant::now() + COUNTS_EVERY;
            }
            match self.write(work).and_then(|()| self.write_counts()) {
                Ok(()) if stopped && self.counts.is_empty() => break,
                Ok(()) => {}
                Err(error) => {
                    self.metrics.trouble.set(1.0);
                    tracing::error!(
                        %error,
                        "state.db cannot be written: readings with fields that are new have to wait"
                    );
                    if stopped {
                        return;
                    }
                    thread::sleep(RETRY_AFTER);
                }
            }
        }
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!(%error, "the write-ahead log of state.db stays beside it");
        }
    }

    fn write(&mut self, work: Work) -> Result<(), rusqlite::Error> {
        if work.changes.is_empty() {
            return Ok(());
        }
        match schema::write(&mut self.connection, &work.changes) {
            Ok(()) => {
                self.metrics.trouble.set(0.0);
                self.changes.done(work.last);
                Ok(())
            }
            Err(error) => {
                self.changes.give_back(work.changes, error.to_string());
                Err(error)
            }
        }
    }

    /// One transaction of them, so that a change never waits for all.
    fn write_counts(&mut self) -> Result<(), rusqlite::Error> {
        let forgotten = self.devices.take_forgotten();
        schema::forget_devices(&mut self.connection, &forgotten)?;
        let rest = self.counts.len().saturating_sub(COUNTS_AT_ONCE);
        if rest < self.counts.len() {
            schema::write_devices(&mut self.connection, &self.counts[rest..])?;
            self.counts.truncate(rest);
        }
        Ok(())
    }
}
