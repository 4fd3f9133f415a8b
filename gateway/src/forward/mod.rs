//! From the log to a sink: one forwarder for each.
//!
//! Owns batching, retry and back-off, the cursors of sinks that keep none of their own, the
//! isolation of what cannot be stored, and each sink's ledger. Promises that a cursor only passes
//! a record after the destination has confirmed it, or it was durably kept aside with the reason,
//! or it was counted as dropped; that a sink that is away costs no memory beyond a few batches;
//! and that nothing here ever waits for another sink.
//!
//! ```text
//! source (blocking reads) → Reader: batches → Delivery: write, retry, confirm → committed
//! ```
//!
//! One batch is under way at a time, while the next one is read. Several could be, partitioned by
//! device: the cursor would then be the prefix without gaps that is confirmed; `Reader` and
//! `Delivery` share nothing, so only `Forwarder::work` would change.

mod assemble;
mod backoff;
mod cursor;
mod delivery;
#[cfg(test)]
mod log_tests;
mod reader;
mod rejected;
mod source;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use cursor::{Cursor, CursorError, CursorFile};
pub use rejected::{Rejected, RejectedHandler};
pub use source::{RecordSource, SourceError};

use crate::{
    metrics::SinkMetrics,
    record::{Ledger, Position},
    sink::{LogRange, Sink},
};
use delivery::{Delivered, Delivery};
use reader::{Next, Reader};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task, time};
use tokio_util::sync::CancellationToken;

/// How often the number of pending readings is published.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What the operator may choose for a sink.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the sink, for metrics and messages.
    pub name: String,
    /// A batch is written once it has so many readings; one more record may come on top.
    pub batch_readings: u64,
    /// A batch is written once it has so many bytes; one more record may come on top. A forwarder
    /// holds at most two batches.
    pub batch_bytes: u64,
    /// A batch is written at the latest so long after its first record was there.
    pub linger: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// At shutdown, how long writing what the log still has may take.
    pub drain_deadline: Duration,
}

impl Options {
    /// The defaults for the sink of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            batch_readings: 20_000,
            batch_bytes: 8 * 1024 * 1024,
            linger: Duration::from_millis(100),
            backoff: Backoff::default(),
            drain_deadline: Duration::from_secs(5),
        }
    }
}

/// How a sink is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It takes what comes.
    Running,
    /// Attempts fail, and are repeated.
    Retrying {
        /// The destination's words.
        why: String,
    },
    /// It has stopped until a person does something and the gateway is restarted; the log keeps
    /// its readings.
    Parked {
        /// What to do.
        why: String,
    },
}

/// Why a forwarder has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Everything that is durable in the log is at the destination.
    Drained,
    /// The deadline came, or the destination was away: the rest follows after the next start.
    Pending,
}

/// Where a sink goes on: its own cursor, or the one kept for it in a file.
#[derive(Debug)]
pub struct Start {
    cursor: Cursor,
    file: Option<CursorFile>,
}

impl Start {
    /// From the destination's own cursor if it keeps one, else from the file at `path`.
    ///
    /// # Errors
    /// The file does not fit the log, or cannot be read.
    pub fn of<K: Sink>(sink: &K, path: &Path, log: LogRange) -> Result<Self, CursorError> {
        if let Some(position) = sink.committed() {
            let ledger = sink.ledger().unwrap_or_default();
            return Ok(Self { cursor: Cursor { position, ledger }, file: None });
        }
        let (file, cursor) = CursorFile::open(path, log)?;
        Ok(Self { cursor, file: Some(file) })
    }

    /// Everything up to here is done with.
    pub fn position(&self) -> Position {
        self.cursor.position
    }

    /// Accepted readings in the log up to where the sink stands, as it remembers.
    pub fn accepted_total(&self) -> u64 {
        self.cursor.ledger.accepted_total
    }

    /// The ledger there.
    pub fn ledger(&self) -> Ledger {
        self.cursor.ledger
    }

    /// The first record that is to be read.
    pub fn next(&self) -> Position {
        self.cursor.position.next()
    }
}

/// What a forwarder is given.
#[derive(Debug)]
pub struct Setup<K, S> {
    /// The operator's choices.
    pub options: Options,
    /// The destination.
    pub sink: Arc<K>,
    /// Where to go on.
    pub start: Start,
    /// The log, at [`Start::next`].
    pub source: S,
    /// The highest position that is durable.
    pub durable: watch::Receiver<Position>,
    /// Accepted readings in the log, kept up to date by the log's writer.
    pub accepted_total: Arc<AtomicU64>,
    /// Keeps what the destination refuses.
    pub rejected: Arc<dyn RejectedHandler>,
    /// The sink's metrics.
    pub metrics: SinkMetrics,
}

/// Where a sink is asked to go back to.
#[derive(Debug, Clone, Copy, Default)]
struct Ask {
    /// Ascending; 0 is none.
    number: u64,
    position: Position,
    /// Accepted readings in the log up to there, if that is known.
    accepted: Option<u64>,
}

/// The number of an ask, and where the sink stood and its new epoch, or why not.
type Answered = (u64, Result<(Position, u64), Arc<str>>);

/// What others see and ask of a forwarder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Name of the sink.
    pub name: Arc<str>,
    /// Everything up to here is at the destination, kept aside or counted as dropped, durably.
    pub committed: watch::Receiver<Position>,
    /// The ledger at that position.
    pub ledger: watch::Receiver<Ledger>,
    /// How the sink is doing.
    pub status: watch::Receiver<Status>,
    skip: watch::Sender<Position>,
    /// Records behind this are kept for the sink.
    floor: watch::Sender<Position>,
    ask: watch::Sender<Ask>,
    rewound: watch::Receiver<Answered>,
}

impl Handle {
    /// Everything up to here may be deleted as far as this sink is concerned.
    pub fn done(&self) -> Position {
        (*self.committed.borrow()).min(*self.floor.borrow())
    }

    /// From now on nothing behind `position` is deleted, until [`Handle::release`].
    pub fn hold(&self, position: Position) {
        self.floor.send_replace(position);
    }

    /// What the sink is done with may be deleted again.
    pub fn release(&self) {
        self.floor.send_replace(Position(u64::MAX));
    }

    /// Lets the sink get everything behind `position` (again), in a new epoch of its ledger;
    /// `accepted` readings are in the log up to there. Takes effect between two attempts to write.
    /// Gives where it stood, and the epoch.
    ///
    /// # Errors
    /// The sink has stopped, or its cursor cannot be kept; it stands where it was.
    pub async fn rewind(
        &self,
        position: Position,
        accepted: Option<u64>,
    ) -> Result<(Position, u64), Arc<str>> {
        // What it was told to give up is not given up in the new epoch.
        self.skip.send_replace(Position::ZERO);
        let mut number = 0;
        self.ask.send_modify(|ask| {
            number = ask.number + 1;
            *ask = Ask { number, position, accepted };
        });
        let (mut rewound, mut status) = (self.rewound.clone(), self.status.clone());
        let stopped = "the sink has stopped: restart the gateway first";
        tokio::select! {
            answer = rewound.wait_for(|(of, _)| *of >= number) => match answer {
                Ok(answer) => answer.1.clone(),
                Err(_) => Err(stopped.into()),
            },
            _ = status.wait_for(|of| matches!(of, Status::Parked { .. })) => Err(stopped.into()),
        }
    }

    /// Gives up all records up to `position` that are not at the destination yet: they are counted
    /// as dropped. Takes effect between two attempts to write.
    pub fn skip_to(&self, position: Position) {
        self.skip.send_if_modified(|to| {
            let further = *to < position;
            *to = position.max(*to);
            further
        });
    }
}

/// Carries records from the log to one sink until it is told to stop.
#[derive(Debug)]
pub struct Forwarder<K, S> {
    reader: Reader<S>,
    delivery: Delivery<K>,
    accepted_total: Arc<AtomicU64>,
    drain_deadline: Duration,
}

impl<K: Sink, S: RecordSource> Forwarder<K, S> {
    /// A forwarder, and what others see of it.
    pub fn new(setup: Setup<K, S>) -> (Self, Handle) {
        let Setup { options, sink, start, source, durable, accepted_total, rejected, metrics } =
            setup;
        let cursor = start.cursor;
        let (skip, skip_to) = watch::channel(Position::ZERO);
        let (ask, asked) = watch::channel(Ask::default());
        let (rewound, answers) = watch::channel((0, Ok((Position::ZERO, 0))));
        let name: Arc<str> = options.name.as_str().into();
        metrics.ledger(&delivery::shown(&*rejected, &cursor.ledger), cursor.position);
        let delivery = Delivery {
            name: Arc::clone(&name),
            sink,
            file: start.file.map(Arc::new),
            cursor,
            committed: watch::Sender::new(cursor.position),
            ledger: watch::Sender::new(cursor.ledger),
            status: watch::Sender::new(Status::Running),
            rejected,
            skip_to: skip_to.clone(),
            skipped_to: Position::ZERO,
            ask: asked.clone(),
            asked: 0,
            rewound,
            earlier: watch::Sender::new(Ledger::default()),
            backoff: options.backoff,
            metrics,
        };
        let handle = Handle {
            name,
            committed: delivery.committed.subscribe(),
            ledger: delivery.ledger.subscribe(),
            status: delivery.status.subscribe(),
            skip,
            floor: watch::Sender::new(Position(u64::MAX)),
            ask,
            rewound: answers,
        };
        let drain_deadline = options.drain_deadline;
        let reader = Reader::new(source, cursor, &options, durable, skip_to, asked);
        (Self { reader, delivery, accepted_total, drain_deadline }, handle)
    }

    /// Runs until `stop` is cancelled, then writes what the log still has if that is quick. A sink
    /// that needs a person is parked until then.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let Self { mut reader, mut delivery, accepted_total, drain_deadline } = self;
        let metrics = delivery.metrics.clone();
        let (status, ledger) = (delivery.status.subscribe(), delivery.ledger.subscribe());
        let (earlier, committed) = (delivery.earlier.subscribe(), delivery.committed.subscribe());
        let rejected = Arc::clone(&delivery.rejected);
        let report = || {
            let ledger = *ledger.borrow();
            // Readings leave the quarantine without a batch of the forwarder.
            let shown = delivery::shown(&*rejected, &ledger).plus(&earlier.borrow());
            metrics.ledger(&shown, *committed.borrow());
            let ledger = rejected.moves().applied(ledger);
            let accepted = accepted_total.load(Ordering::Relaxed);
            let pending = accepted.saturating_sub(ledger.accepted_total);
            let up = matches!(*status.borrow(), Status::Running);
            metrics.state(pending, ledger.quarantined, ledger.imbalance(accepted), up);
        };
        let deadline = async {
            stop.cancelled().await;
            time::sleep(drain_deadline).await;
        };
        let mut ticks = time::interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let ended = {
            let work = Self::work(&mut reader, &mut delivery, &stop);
            tokio::pin!(work, deadline);
            loop {
                tokio::select! {
                    ended = &mut work => break ended,
                    () = &mut deadline => break Ended::Pending,
                    _ = ticks.tick() => report(),
                }
            }
        };
        report();
        // Closing a destination may wait for what it still does: not on a worker thread.
        let closed = task::spawn_blocking(move || drop(delivery)).await;
        if let Err(error) = closed {
            tracing::error!(%error, "a sink did not close in order");
        }
        ended
    }

    async fn work(
        reader: &mut Reader<S>,
        delivery: &mut Delivery<K>,
        stop: &CancellationToken,
    ) -> Ended {
        loop {
            if delivery.is_asked() {
                delivery.rewind().await;
                reader.restart(delivery.cursor);
            }
            let batch = match reader.next(stop, &delivery.status).await {
                Next::Batch(batch) => batch,
                Next::Asked => continue,
                Next::Drained => return Ended::Drained,
                Next::Stopped => return Ended::Pending,
                Next::Fatal(why) => return delivery.park(why, stop).await,
            };
            // The next batch is read while this one is written.
            let (delivered, ()) = tokio::join!(delivery.deliver(batch, stop), reader.prefetch());
            match delivered {
                Delivered::Confirmed | Delivered::Asked => {}
                Delivered::Skipped => reader.restart(delivery.cursor),
                Delivered::Stopped => return Ended::Pending,
                Delivered::Fatal(why) => return delivery.park(why, stop).await,
            }
        }
    }
}
