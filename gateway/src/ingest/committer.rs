//! The one thread that orders appends.
//!
//! It takes all requests that wait, admits them, appends, syncs once, and then answers everyone:
//! while a sync is under way the next group gathers in the channel, so groups grow with the load
//! and no timer is needed. It owns the writer of the log and the table of streams.

mod upkeep;

use super::{
    Outcome, Request, StreamKey, Submission,
    admit::{Admission, Decision, Refusals, Seen, Stream},
    recover,
    room::Room,
};
use crate::{
    log,
    metrics::IngestMetrics,
    record::{self, Position},
};
use proto::ErrorCode;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};
use tokio::sync::{Semaphore, mpsc, watch};

/// Requests that may wait for the committer.
const QUEUE_REQUESTS: usize = 8192;
/// Bytes of batches that may wait for the committer, in all connections together.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// A group is closed at so many requests.
const GROUP_REQUESTS: usize = 8192;
/// A group is closed at so many bytes.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// When a batch that found the log full may come again.
const LOG_FULL_RETRY_MS: u32 = 5_000;

/// Why the committer ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CommitterError {
    /// The log cannot be relied on any more.
    #[error("{0}")]
    Log(#[from] log::CommitError),
    /// The log holds what this gateway cannot read.
    #[error("the log's state of streams cannot be read: {0}")]
    Recover(#[from] recover::RecoverError),
    /// No thread could be made.
    #[error("the committer's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// How the rest of the gateway reaches the committer.
#[derive(Debug, Clone)]
pub struct CommitterHandle {
    /// Requests, in order.
    pub requests: mpsc::Sender<Request>,
    /// One permit per byte of a batch on its way; bounds the memory of what waits.
    pub budget: Arc<Semaphore>,
    /// True while batches are refused because the log or its disk is full.
    pub full: Arc<AtomicBool>,
}

/// The committer before it runs.
#[derive(Debug)]
pub struct Committer {
    log: log::Writer,
    admission: Admission,
    /// Accepted readings up to and with what is appended.
    accepted_total: u64,
    /// Accepted readings up to and with what is durable.
    committed_total: u64,
    newest_checkpoint: Position,
    bytes_since_checkpoint: u64,
    checkpoint_bytes: u64,
    ack_position: watch::Receiver<Position>,
    group: Vec<Entry>,
    /// Private streams whose connection is gone, to be forgotten after the group.
    forgotten: Vec<StreamKey>,
    room: Room,
    /// `committed_total`, for the ledger.
    published_total: Arc<AtomicU64>,
    metrics: IngestMetrics,
}

#[derive(Debug)]
struct Entry {
    reply: mpsc::Sender<Outcome>,
    stream: StreamKey,
    seq: u64,
    verdict: Verdict,
    /// Given back when the entry is answered.
    _budget: Option<tokio::sync::OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Verdict {
    Open,
    Logged { position: Position, accepted: u32, refused: u32 },
    Duplicate { position: Position, refusals: Option<Box<Refusals>> },
    Reused,
    OutOfOrder,
    Retry,
}

impl Committer {
    /// Rebuilds the table of streams from the log. `ack_position` says up to where records may be
    /// acknowledged; `published_total` is kept at the number of accepted readings in the log, and
    /// comes with the highest count that a sink remembers: the log may have lost its newest
    /// records, and the count must not give their numbers out again.
    ///
    /// # Errors
    /// The log cannot be read, or was written by a newer gateway.
    pub fn new(
        log: log::Writer,
        shared: &log::Shared,
        ack_position: watch::Receiver<Position>,
        published_total: Arc<AtomicU64>,
        metrics: IngestMetrics,
    ) -> Result<Self, CommitterError> {
        let mut recovered = recover::recover(shared)?;
        let remembered = published_total.fetch_max(recovered.accepted_total, Ordering::AcqRel);
        let accepted_total = recovered.accepted_total.max(remembered);
        metrics.accepted.absolute(accepted_total);
        recovered.admission.counts_mut().reach(accepted_total);
        Ok(Self {
            log,
            admission: recovered.admission,
            accepted_total,
            committed_total: accepted_total,
            newest_checkpoint: recovered.newest_checkpoint,
            bytes_since_checkpoint: u64::MAX / 2,
            checkpoint_bytes: 0,
            ack_position,
            group: Vec::new(),
            forgotten: Vec::new(),
            room: Room::default(),
            published_total,
            metrics,
        })
    }

    /// Starts the thread. It ends well when every sender of the handle is gone, after it has
    /// written a checkpoint and closed the log; it ends badly when the log fails.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn spawn(
        self,
    ) -> Result<
        (CommitterHandle, tokio::sync::oneshot::Receiver<Result<(), CommitterError>>),
        CommitterError,
    > {
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS);
        let full = self.room.full();
        let (done, ended) = tokio::sync::oneshot::channel();
        thread::Builder::new().name("committer".into()).spawn(move || {
            // Nobody waits for the result any more when the gateway has given up on stopping well.
            let _ = done.send(self.run(queue));
        })?;
        let budget = Arc::new(Semaphore::new(QUEUE_BYTES));
        Ok((CommitterHandle { requests, budget, full }, ended))
    }

    fn run(mut self, mut queue: mpsc::Receiver<Request>) -> Result<(), CommitterError> {
        // A disk that is full already is said at once, not with the first batch.
        self.has_room(0);
        while let Some(first) = queue.blocking_recv() {
            self.take(first)?;
            while self.group.len() + self.forgotten.len() < GROUP_REQUESTS
                && self.log.group_bytes() < GROUP_BYTES
            {
                match queue.try_recv() {
                    Ok(request) => self.take(request)?,
                    Err(_) => break,
                }
            }
            self.finish_group()?;
        }
        if self.bytes_since_checkpoint > 0 {
            self.write_checkpoint()?;
        }
        self.log.close()?;
        Ok(())
    }

    fn take(&mut self, request: Request) -> Result<(), CommitterError> {
        match request {
            Request::Submit(submission) => self.submit(submission),
            Request::Open { stream, reply } => {
                let verdict = Verdict::Open;
                self.group.push(Entry { reply, stream, seq: 0, verdict, _budget: None });
            }
            // Later, since this group may hold the last batches of the stream; nobody else uses it.
            Request::Forget(stream) => self.forgotten.push(stream),
            Request::Retain { from } => {
                self.finish_group()?;
                self.retain(from)?;
            }
            Request::Count { of, reply } => {
                self.finish_group()?;
                // Who asked may not wait any more.
                let _ = reply.send(self.counted(of.as_ref()));
            }
            Request::Vouch => {
                self.finish_group()?;
                self.vouch()?;
            }
        }
        Ok(())
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { stream, seq, may_skip, payload_hash, mut header, payload, .. } =
            submission;
        let verdict = match self.admission.decide(&stream, seq, payload_hash, may_skip) {
            Decision::Duplicate { position, refusals } => Verdict::Duplicate { position, refusals },
            Decision::Reused => Verdict::Reused,
            Decision::OutOfOrder { .. } => Verdict::OutOfOrder,
            Decision::Admit { .. } if !self.has_room(header.len() + payload.len()) => {
                Verdict::Retry
            }
            Decision::Admit { gap } => {
                let total = self.accepted_total + u64::from(submission.accepted);
                record::patch_accepted_total(&mut header, total);
                match self.log.append(&[&header, &payload]) {
                    Ok(position) => {
                        self.metrics.gaps.increment(gap);
                        self.accepted_total = total;
                        let refusals = Refusals::of(submission.refused_whole, &submission.refused);
                        let seen = Seen { seq, hash: payload_hash, position, refusals };
                        self.admission.admit(&stream, seen);
                        let refused = u32::try_from(submission.refused.len()).unwrap_or(u32::MAX);
                        Verdict::Logged { position, accepted: submission.accepted, refused }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a batch was not appended");
                        Verdict::Retry
                    }
                }
            }
        };
        let (reply, budget) = (submission.reply, submission.budget);
        self.group.push(Entry { reply, stream, seq, verdict, _budget: budget });
    }

    /// Refuses before the reserve of the disk or the largest size of the log is reached.
    fn has_room(&mut self, bytes: usize) -> bool {
        let left = self.log.room_bytes().saturating_sub(self.log.group_bytes() as u64);
        self.room.fits(bytes as u64, left)
    }

    /// Syncs what was appended and answers everyone in the group.
    fn finish_group(&mut self) -> Result<(), CommitterError> {
        if self.group.is_empty() {
            self.forget();
            return Ok(());
        }
        let bytes = self.log.group_bytes() as u64;
        if bytes > 0 {
            match self.log.commit() {
                Ok(_) => {
                    self.admission.confirm();
                    self.count();
                    self.bytes_since_checkpoint = self.bytes_since_checkpoint.saturating_add(bytes);
                    self.committed_total = self.accepted_total;
                    self.published_total.store(self.accepted_total, Ordering::Release);
                    self.metrics.accepted.absolute(self.accepted_total);
                    self.metrics.group_batches.record(self.group.len() as f64);
                }
                Err(error @ (log::CommitError::Full { .. } | log::CommitError::Roll { .. })) => {
                    self.room.refuse(bytes, &error.to_string());
                    self.admission.roll_back();
                    self.accepted_total = self.committed_total;
                    for entry in &mut self.group {
                        if matches!(entry.verdict, Verdict::Logged { .. }) {
                            entry.verdict = Verdict::Retry;
                        }
                    }
                }
                Err(error @ log::CommitError::Poisoned { .. }) => {
                    self.admission.roll_back();
                    for entry in self.group.drain(..) {
                        let _ = entry.reply.try_send(Outcome::Failed { seq: entry.seq });
                    }
                    return Err(error.into());
                }
            }
        }
        self.answer();
        self.forget();
        if self.log.needs_roll() {
            self.roll(false)?;
        }
        Ok(())
    }

    fn forget(&mut self) {
        for stream in self.forgotten.drain(..) {
            self.admission.forget(&stream);
        }
    }

    fn answer(&mut self) {
        let durable = self.log.durable();
        for entry in std::mem::take(&mut self.group) {
            let outcome = self.outcome(&entry, durable);
            count(&self.metrics, &outcome);
            // The channel holds a whole window, so it is never full; it is closed when the
            // connection is gone, which then learns the outcome from `welcome` of the next one.
            let _ = entry.reply.try_send(outcome);
        }
    }

    fn outcome(&self, entry: &Entry, durable: Position) -> Outcome {
        let seq = entry.seq;
        let retry = Outcome::Retry { seq, code: ErrorCode::LogFull, after_ms: LOG_FULL_RETRY_MS };
        match &entry.verdict {
            Verdict::Open => self.opened(&entry.stream),
            Verdict::Logged { position, .. } => Outcome::Logged { seq, position: *position },
            // The first of the two was in this group, and the group was not logged.
            Verdict::Duplicate { position, .. } if *position > durable => retry,
            Verdict::Duplicate { position, refusals } => Outcome::Duplicate {
                seq,
                position: *position,
                refused: refusals.as_ref().map_or_else(|| [].into(), |r| r.readings.clone()),
                refused_total: refusals.as_ref().map_or(0, |r| r.total),
                refused_whole: refusals.as_ref().and_then(|r| r.whole),
            },
            // The other one was in this group, and the group was not logged.
            Verdict::Reused if self.last_seq(&entry.stream) < Some(seq) => retry,
            Verdict::Reused => Outcome::Refused { seq, code: ErrorCode::SeqReused },
            Verdict::OutOfOrder => {
                let last = self.last_seq(&entry.stream);
                Outcome::OutOfOrder { seq, expected: last.map_or(1, |last| last + 1) }
            }
            Verdict::Retry => retry,
        }
    }

    fn last_seq(&self, stream: &StreamKey) -> Option<u64> {
        self.admission.stream(stream).and_then(Stream::last_seq)
    }

    fn opened(&self, stream: &StreamKey) -> Outcome {
        let covered = *self.ack_position.borrow();
        let window = self.admission.stream(stream).map(|stream| &stream.window);
        Outcome::Opened {
            logged_seq: window.and_then(|w| w.back()).map(|seen| seen.seq),
            acked_seq: window
                .and_then(|w| w.iter().rev().find(|seen| seen.position <= covered))
                .map(|seen| seen.seq),
            position: window.and_then(|w| w.back()).map_or(Position::ZERO, |seen| seen.position),
        }
    }
}

fn count(metrics: &IngestMetrics, outcome: &Outcome) {
    match outcome {
        Outcome::Logged { .. } => metrics.logged.increment(1),
        Outcome::Duplicate { .. } => metrics.duplicate.increment(1),
        Outcome::Refused { .. } => metrics.refused.increment(1),
        Outcome::OutOfOrder { .. } => metrics.out_of_order.increment(1),
        Outcome::Retry { .. } | Outcome::Failed { .. } => metrics.retry.increment(1),
        Outcome::Opened { .. } => {}
    }
}

#[cfg(test)]
#[path = "committer_tests.rs"]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss)]
mod tests;

#[cfg(test)]
#[path = "committer_full_tests.rs"]
#[allow(clippy::unwrap_used, clippy::cast_precision_loss)]
mod full_tests;
