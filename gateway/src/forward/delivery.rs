//! One batch to the destination: write, retry, keep aside what it refuses, confirm.

use super::{Answered, Ask, Backoff, Cursor, CursorFile, Ended, Rejected, RejectedHandler, Status};
use crate::{
    metrics::SinkMetrics,
    record::{Dropped, EnvelopeError, GivenUp, Identity, Ledger, Point, Points, Position, Value},
    sink::{Batch, RejectedPoint, Sink, SinkError},
};
use proto::{BatchEncoder, RawValue};
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How often a destination is tried that waits for a person.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Delivered {
    Confirmed,
    /// Given up, as the sink's policy says; the cursor is where it was.
    Skipped,
    /// The sink is to be rewound first.
    Asked,
    /// Told to stop while the destination was away.
    Stopped,
    /// A person has to do something.
    Fatal(String),
}

/// The side of a forwarder that talks to the destination.
#[derive(Debug)]
pub(super) struct Delivery<K> {
    pub(super) name: Arc<str>,
    pub(super) sink: Arc<K>,
    /// For a destination that keeps no cursor.
    pub(super) file: Option<Arc<CursorFile>>,
    pub(super) cursor: Cursor,
    pub(super) committed: watch::Sender<Position>,
    pub(super) ledger: watch::Sender<Ledger>,
    pub(super) status: watch::Sender<Status>,
    pub(super) rejected: Arc<dyn RejectedHandler>,
    pub(super) skip_to: watch::Receiver<Position>,
    /// Giving up to here was passed on to the reader.
    pub(super) skipped_to: Position,
    pub(super) ask: watch::Receiver<Ask>,
    /// The number of the ask that was answered.
    pub(super) asked: u64,
    pub(super) rewound: watch::Sender<Answered>,
    pub(super) backoff: Backoff,
    /// Counts of earlier epochs since the start: metrics do not go back.
    pub(super) earlier: watch::Sender<Ledger>,
    pub(super) metrics: SinkMetrics,
}

/// Why an attempt has to be repeated.
struct Again {
    after: Option<Duration>,
    why: String,
    /// A person has to do something.
    blocked: bool,
}

impl<K: Sink> Delivery<K> {
    /// Writes a batch until the destination has confirmed it, and makes the cursor durable.
    pub(super) async fn deliver(
        &mut self,
        mut batch: Batch,
        stop: &CancellationToken,
    ) -> Delivered {
        let mut failures = 0;
        let mut outcome = None;
        loop {
            if outcome.is_none() {
                // A destination without a cursor has nothing to do for a batch without points.
                let empty = batch.records.is_empty() && self.file.is_some();
                let result = if empty { Ok(()) } else { self.write(&batch).await };
                match result {
                    Ok(()) if self.lags(&batch) => {
                        return Delivered::Fatal(
                            "it confirmed a batch that its own cursor has not passed: report this"
                                .to_owned(),
                        );
                    }
                    Ok(()) => outcome = Some((Vec::new(), Vec::new())),
                    Err(SinkError::Fatal(why)) => return Delivered::Fatal(why),
                    Err(SinkError::Undecodable(error)) => match without(&mut batch, &error) {
                        Ok(()) => continue,
                        Err(why) => return Delivered::Fatal(why),
                    },
                    Err(SinkError::Reject { points, unsupported }) if self.file.is_some() => {
                        outcome = Some((points, unsupported));
                    }
                    Err(SinkError::Reject { .. }) => {
                        return Delivered::Fatal(
                            "it refuses readings although it keeps its own cursor: report this"
                                .to_owned(),
                        );
                    }
                    Err(SinkError::Retry { after, why }) => {
                        failures += 1;
                        let again = Again { after, why, blocked: false };
                        if let Some(end) = self.pause(failures, again, &batch, stop).await {
                            return end;
                        }
                        continue;
                    }
                    Err(SinkError::Blocked { why }) => {
                        failures += 1;
                        let again = Again { after: Some(PROBE_EVERY), why, blocked: true };
                        if let Some(end) = self.pause(failures, again, &batch, stop).await {
                            return end;
                        }
                        continue;
                    }
                }
            }
            let (points, unsupported) =
                outcome.as_ref().map_or((&[][..], &[][..]), |(p, n)| (&p[..], &n[..]));
            match self.confirm(&batch, points, unsupported).await {
                Ok(()) => {
                    self.recovered();
                    return Delivered::Confirmed;
                }
                Err(error) => {
                    failures += 1;
                    let why = format!("the cursor or a refused reading cannot be kept: {error}");
                    let again = Again { after: None, why, blocked: false };
                    if let Some(end) = self.pause(failures, again, &batch, stop).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Whether a destination that keeps its own cursor has not come as far as it said.
    fn lags(&self, batch: &Batch) -> bool {
        self.file.is_none() && self.sink.committed().is_none_or(|at| at < batch.last)
    }

    async fn write(&self, batch: &Batch) -> Result<(), SinkError> {
        let begun = Instant::now();
        let result = self.sink.write(batch.clone()).await;
        self.metrics.write_seconds.record(begun.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a histogram is of floats")]
        self.metrics.batch_readings.record(batch.readings as f64);
        result
    }

    /// Waits before the next attempt; gives what ends the batch instead.
    async fn pause(
        &mut self,
        failures: u32,
        again: Again,
        batch: &Batch,
        stop: &CancellationToken,
    ) -> Option<Delivered> {
        let Again { after, why, blocked } = again;
        let pause = self.backoff.pause(failures, after);
        self.metrics.retries.increment(1);
        let said = matches!(&*self.status.borrow(), Status::Retrying { why: of } if *of == why);
        if blocked && !said {
            tracing::error!(
                sink = %self.name, %why,
                "the sink waits for a person; it is tried every minute, the log keeps its readings",
            );
        } else if failures == 1 && !blocked {
            tracing::warn!(sink = %self.name, %why, "a write failed, it is tried again");
        } else {
            tracing::debug!(sink = %self.name, %why, failures, ?pause, "a write failed again");
        }
        self.status.send_replace(Status::Retrying { why });
        let done = self.skipped_to;
        let given_up = async {
            let further = self.skip_to.wait_for(|to| *to >= batch.first && *to > done);
            match further.await.map(|to| *to).ok() {
                Some(to) => to,
                // Nobody is left to ask for it.
                None => std::future::pending().await,
            }
        };
        let asked = self.asked;
        let rewind = async {
            if self.ask.wait_for(|ask| ask.number > asked).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => Some(Delivered::Stopped),
            () = rewind => Some(Delivered::Asked),
            to = given_up => {
                self.skipped_to = to;
                Some(Delivered::Skipped)
            }
            () = sleep(pause) => None,
        }
    }

    /// Makes the refused readings and the cursor durable, then publishes.
    async fn confirm(
        &mut self,
        batch: &Batch,
        points: &[RejectedPoint],
        unsupported: &[(Position, u64)],
    ) -> io::Result<()> {
        let mut cursor = self.cursor;
        cursor.position = batch.last;
        match &self.file {
            None => cursor.ledger = self.sink.ledger().unwrap_or_default(),
            Some(file) => {
                let rejected = describe(batch, points);
                let given_up = given_up(batch, unsupported);
                let unsupported = unsupported.iter().map(|(_, readings)| readings).sum();
                let (file, handler) = (Arc::clone(file), Arc::clone(&self.rejected));
                let batch = batch.clone();
                let keep = task::spawn_blocking(move || {
                    let quarantine_full = handler.keep(&rejected)?;
                    handler.give_up(batch.last, &given_up)?;
                    let kept = (rejected.len() as u64).saturating_sub(quarantine_full);
                    let dropped = Dropped { unsupported, quarantine_full, ..Dropped::default() };
                    batch.enter(&mut cursor.ledger, kept, dropped);
                    file.save(&cursor)?;
                    Ok::<_, io::Error>(cursor)
                });
                cursor = keep.await.map_err(io::Error::other)??;
            }
        }
        self.publish(cursor);
        Ok(())
    }

    fn publish(&mut self, cursor: Cursor) {
        self.cursor = cursor;
        self.ledger.send_replace(cursor.ledger);
        self.committed.send_replace(cursor.position);
        // Last: from here on what is kept may leave, and the ledger has it.
        self.rejected.passed(cursor.position);
        let shown = shown(&*self.rejected, &cursor.ledger).plus(&self.earlier.borrow());
        self.metrics.ledger(&shown, cursor.position);
    }

    /// Whether the sink is to be rewound.
    pub(super) fn is_asked(&self) -> bool {
        self.ask.borrow().number > self.asked
    }

    /// Goes back to where it is asked to, in a new epoch of the ledger, and answers.
    pub(super) async fn rewind(&mut self) {
        let Ask { number, position, accepted } = *self.ask.borrow_and_update();
        self.asked = number;
        let before = self.cursor;
        let epoch = before.ledger.epoch + 1;
        let cursor = Cursor { position, ledger: Ledger { epoch, ..Ledger::beginning(accepted) } };
        let gone = shown(&*self.rejected, &before.ledger);
        let answer = match self.place(cursor).await {
            Ok(()) => {
                self.skipped_to = Position::ZERO;
                self.earlier.send_modify(|earlier| *earlier = gone.plus(earlier));
                self.publish(cursor);
                tracing::info!(
                    sink = %self.name, from = %before.position, to = %position, epoch,
                    "the sink is rewound"
                );
                Ok((before.position, epoch))
            }
            Err(why) => Err(why.into()),
        };
        self.rewound.send_modify(|of| *of = (number, answer));
    }

    async fn place(&self, cursor: Cursor) -> Result<(), String> {
        let Cursor { position, ledger } = cursor;
        let Some(file) = &self.file else {
            return self.sink.rewind(position, ledger).await.map_err(|error| error.to_string());
        };
        let (file, handler) = (Arc::clone(file), Arc::clone(&self.rejected));
        let kept = task::spawn_blocking(move || {
            file.save(&cursor)?;
            handler.rewound(position, &ledger)
        });
        let kept = kept.await.map_err(io::Error::other).and_then(|kept| kept);
        kept.map_err(|error| format!("the cursor cannot be kept: {error}"))
    }

    fn recovered(&self) {
        self.status.send_if_modified(|status| {
            let was_away = *status != Status::Running;
            if was_away {
                tracing::info!(sink = %self.name, "the sink takes readings again");
                *status = Status::Running;
            }
            was_away
        });
    }

    /// Stops until the gateway does; the log keeps the sink's readings.
    pub(super) async fn park(&self, why: String, stop: &CancellationToken) -> Ended {
        tracing::error!(sink = %self.name, %why, "the sink has stopped, the log keeps its readings");
        self.status.send_replace(Status::Parked { why });
        stop.cancelled().await;
        Ended::Pending
    }
}

/// The ledger with what has left the quarantine, for counters: they never go back, so what was kept
/// and left again stays counted as kept.
pub(super) fn shown(rejected: &dyn RejectedHandler, ledger: &Ledger) -> Ledger {
    Ledger { quarantined: ledger.quarantined, ..rejected.moves().applied(*ledger) }
}

/// Takes the record that does not decode out of the batch and counts its readings.
fn without(batch: &mut Batch, error: &EnvelopeError) -> Result<(), String> {
    let bad = match error {
        EnvelopeError::Invalid { position, .. } => *position,
        EnvelopeError::Newer { .. } => return Err(error.to_string()),
    };
    let Some(record) = batch.records.iter().find(|record| record.position == bad) else {
        return Err(format!("it stumbles over a record that it was not given: {error}"));
    };
    let lost = u64::from(record.envelope.accepted);
    tracing::error!(%error, readings = lost, "a record of the log is damaged, it is lost");
    let identity = record.envelope.identity.clone();
    batch.records = batch.records.iter().filter(|record| record.position != bad).cloned().collect();
    batch.readings = batch.readings.saturating_sub(lost);
    batch.dropped.damaged += lost;
    let dropped = Dropped { damaged: lost, ..Dropped::default() };
    let of_record = GivenUp { identity, dropped };
    batch.given_up = batch.given_up.iter().cloned().chain([of_record]).collect();
    Ok(())
}

/// Whose the readings are that the destination does not get, each device once.
fn given_up(batch: &Batch, unsupported: &[(Position, u64)]) -> Vec<GivenUp> {
    let mut of = BTreeMap::<Identity, Dropped>::new();
    for GivenUp { identity, dropped } in batch.given_up.iter() {
        of.entry(identity.clone()).or_default().add(*dropped);
    }
    let mut records = batch.records.iter();
    for &(position, unsupported) in unsupported {
        let Some(record) = records.find(|record| record.position == position) else { continue };
        let identity = record.envelope.identity.clone();
        of.entry(identity).or_default().unsupported += unsupported;
    }
    of.into_iter().map(|(identity, dropped)| GivenUp { identity, dropped }).collect()
}

/// The refused readings as they are kept, each once.
fn describe(batch: &Batch, points: &[RejectedPoint]) -> Vec<Rejected> {
    if points.is_empty() {
        return Vec::new();
    }
    let reasons: BTreeMap<_, _> = points.iter().map(|point| (point.id, &point.reason)).collect();
    let mut received = batch.records.iter().map(|record| (record.position, &record.envelope));
    let mut of = received.next();
    let mut rejected = Vec::with_capacity(reasons.len());
    let walked = batch.for_each_point(&mut Points::default(), |point| {
        if let Some(reason) = reasons.get(&point.id) {
            while of.is_some_and(|(position, _)| position < point.id.position) {
                of = received.next();
            }
            let receive_ns = of.map_or(0, |(_, envelope)| envelope.receive_ns);
            rejected.push(entry(point, receive_ns, reason));
        }
    });
    if let Err(error) = walked {
        tracing::error!(%error, "a refused reading cannot be decoded");
    }
    rejected
}

fn entry(point: &Point<'_>, receive_ns: i64, reason: &str) -> Rejected {
    let fields: Vec<_> = point.fields.iter().map(|&(name, value)| (name, raw(value))).collect();
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 1).reading(
        Some(point.measurement),
        Some(point.time_ns),
        point.tags,
        &fields,
    );
    Rejected {
        position: point.id.position,
        index: point.id.index,
        reason: reason.to_owned(),
        realm: point.identity.realm.to_string(),
        device: point.identity.device.to_string(),
        receive_ns,
        reading: encoder.body().to_vec(),
    }
}

fn raw(value: Value<'_>) -> RawValue<'_> {
    match value {
        Value::Float(x) => RawValue::Float(x),
        Value::Int(n) => RawValue::Int(n),
        Value::Bool(b) => RawValue::Bool(b),
        Value::Str(text) => RawValue::Str(text),
    }
}
