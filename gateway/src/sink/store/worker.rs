//! The thread that owns the connection: batches first, upkeep between them.

use super::{
    Options, Progress, explain,
    retention::{delete_hourly, delete_points, horizon},
    schema,
    write::{Writer, now_ns},
};
use crate::{
    metrics::StoreMetrics,
    record::{Ledger, Position},
    sink::{Batch, SinkError},
};
use rusqlite::Connection;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// While batches keep coming, upkeep may take one part in so many of the time.
const UPKEEP_SHARE: u32 = 4;
/// Pause between two looks for something to do while nothing comes.
const IDLE: Duration = Duration::from_secs(1);
/// Upkeep that failed is left for so long.
const UPKEEP_RETRY: Duration = Duration::from_secs(30);

/// What the thread is asked for.
pub(super) enum Work {
    Write(Batch),
    /// To go on behind a position with another ledger.
    Rewind(Position, Ledger),
}

pub(super) struct Request {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<(), SinkError>>,
    /// Its place in the queue; free again once the request is dropped.
    pub(super) _place: tokio::sync::OwnedSemaphorePermit,
}

pub(super) struct Worker {
    pub(super) connection: Connection,
    pub(super) writer: Writer,
    pub(super) options: Options,
    pub(super) metrics: StoreMetrics,
    pub(super) progress: Arc<Mutex<Progress>>,
    pub(super) series: u64,
    pub(super) upkeep_after: Option<Instant>,
}

impl Worker {
    /// Serves until the other end of the channel is gone, then carries everything over into the
    /// file.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        self.report();
        let mut allowance = Duration::ZERO;
        let mut wait = Duration::ZERO;
        loop {
            match requests.recv_timeout(wait) {
                Ok(request) => {
                    let begun = Instant::now();
                    self.serve(request);
                    allowance = (allowance + begun.elapsed() / UPKEEP_SHARE).min(IDLE);
                    while !allowance.is_zero() {
                        let begun = Instant::now();
                        if !self.upkeep() {
                            break;
                        }
                        allowance = allowance.saturating_sub(begun.elapsed());
                    }
                    // One pause before the queue counts as idle, so that upkeep does not get in
                    // front of a batch that is about to come.
                    wait = Duration::from_millis(5);
                }
                Err(RecvTimeoutError::Timeout) => {
                    wait = if self.upkeep() { Duration::ZERO } else { IDLE };
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.report();
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!(%error, "the store's write-ahead log stays beside it");
        }
    }

    fn serve(&mut self, request: Request) {
        let Request { work, reply, .. } = request;
        let before = self.writer.state.overwritten;
        let result = match work {
            Work::Write(batch) => self.writer.write(&self.connection, &batch),
            Work::Rewind(position, ledger) => {
                self.writer.rewind(&self.connection, position, ledger)
            }
        };
        if result.is_ok() {
            self.series += self.writer.series.take_created();
            self.metrics.overwritten.increment(self.writer.state.overwritten - before);
            self.report();
        }
        // The forwarder may have been stopped meanwhile; the cursor tells what happened.
        let _ = reply.send(result.map_err(|error| explain(&self.options.path, error)));
    }

    /// One slice of upkeep; false if there is nothing to do.
    fn upkeep(&mut self) -> bool {
        if self.upkeep_after.is_some_and(|after| Instant::now() < after) {
            return false;
        }
        match self.try_upkeep() {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(
                    store = %self.options.path.display(), %error,
                    "upkeep of the store failed, it is tried again in {UPKEEP_RETRY:?}",
                );
                self.upkeep_after = Some(Instant::now() + UPKEEP_RETRY);
                false
            }
        }
    }

    fn try_upkeep(&mut self) -> Result<bool, rusqlite::Error> {
        let now = now_ns();
        let keep = horizon(self.options.keep_for, now);
        let Writer { state, stale, .. } = &mut self.writer;
        let more = stale.roll(&self.connection, now, keep)?
            || delete_points(&self.connection, state, keep)?
            || delete_hourly(&self.connection, horizon(self.options.keep_hourly_for, now))?;
        if more {
            self.report();
        }
        Ok(more)
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    fn report(&self) {
        let state = &self.writer.state;
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = Progress { position: state.position, ledger: state.ledger };
        drop(progress);
        self.metrics.points.set(state.points as f64);
        self.metrics.series.set(self.series as f64);
        let pages = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        if let (Ok(count), Ok(size)) = (pages("page_count"), pages("page_size")) {
            let bytes: i64 = i64::saturating_mul(count, size);
            self.metrics.bytes.set(schema::unsigned(bytes) as f64);
        }
    }
}
