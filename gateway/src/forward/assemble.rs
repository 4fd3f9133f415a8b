//! Records into batches. Blocking: runs where reads may wait for the disk.

use super::{Cursor, Options, RecordSource, SourceError};
use crate::{
    record::{Dropped, Envelope, EnvelopeError, GivenUp, Identity, Position},
    sink::{Batch, Record},
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Most records in a batch: also records without readings take memory.
const BATCH_RECORDS: usize = 20_000;

/// The batch that is being put together, and the source it comes from.
#[derive(Debug)]
pub(super) struct Assembly<S> {
    source: S,
    batch_readings: u64,
    batch_bytes: u64,
    /// Where the batch before ended.
    from: Position,
    /// Accepted readings in the log up to there; unknown before the first record of a sink that
    /// does not begin with the log.
    total_before: Option<u64>,
    /// The last position that was read or passed.
    last: Position,
    /// Accepted readings in the log up to there, as far as is known.
    total: Option<u64>,
    records: Vec<Record>,
    readings: u64,
    bytes: u64,
    dropped: Dropped,
    /// Records that are given up, and readings of them by device.
    given_up: (usize, BTreeMap<Identity, u64>),
    /// Everything up to here is given up, as the sink's policy says.
    skip_to: Position,
    /// The record up to which is given up was not reached yet.
    skipping: bool,
    /// The batch ends here, so that the cursor passes what was given up although the destination
    /// takes nothing of what follows.
    cut: bool,
}

impl<S: RecordSource> Assembly<S> {
    pub(super) fn new(source: S, cursor: Cursor, options: &Options) -> Self {
        let mut assembly = Self {
            source,
            batch_readings: options.batch_readings,
            batch_bytes: options.batch_bytes,
            from: cursor.position,
            total_before: None,
            last: cursor.position,
            total: None,
            records: Vec::new(),
            readings: 0,
            bytes: 0,
            dropped: Dropped::default(),
            given_up: Default::default(),
            skip_to: Position::ZERO,
            skipping: false,
            cut: false,
        };
        assembly.begin(cursor);
        assembly
    }

    /// Throws away what was read and goes on behind the cursor.
    pub(super) fn restart(&mut self, cursor: Cursor) {
        self.begin(cursor);
        self.source.seek(cursor.position.next());
    }

    fn begin(&mut self, cursor: Cursor) {
        let known = cursor.ledger.base.is_some() || cursor.position == Position::ZERO;
        self.from = cursor.position;
        self.last = cursor.position;
        self.total_before = known.then_some(cursor.ledger.accepted_total);
        self.total = self.total_before;
        self.clear();
        self.skip_to = Position::ZERO;
        self.skipping = false;
    }

    fn clear(&mut self) {
        self.records = Vec::new();
        self.readings = 0;
        self.bytes = 0;
        self.dropped = Dropped::default();
        self.given_up = Default::default();
        self.cut = false;
    }

    /// The last position that was read or passed.
    pub(super) fn last(&self) -> Position {
        self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last == self.from
    }

    pub(super) fn is_full(&self) -> bool {
        self.cut
            || self.readings >= self.batch_readings
            || self.bytes >= self.batch_bytes
            || self.records.len() + self.given_up.0 >= BATCH_RECORDS
    }

    /// Whether giving up everything up to `to` changes anything.
    pub(super) fn would_skip(&self, to: Position) -> bool {
        to > self.from && to > self.skip_to
    }

    /// Gives up everything up to `to` that was not taken yet.
    pub(super) fn skip(&mut self, to: Position) {
        if !self.would_skip(to) {
            return;
        }
        self.skip_to = to;
        self.total = self.total_before;
        self.clear();
        self.skipping = true;
        // They are read: each says whose readings it has.
        self.last = self.from;
        self.source.seek(self.last.next());
    }

    /// Reads until the batch is full (`true`) or nothing more is there (`false`).
    pub(super) fn fill(&mut self) -> Result<bool, SourceError> {
        while !self.is_full() {
            match self.source.next() {
                Ok(Some((position, bytes))) => self.take_record(position, bytes)?,
                Ok(None) => return Ok(false),
                Err(SourceError::Damaged { from, to }) => {
                    tracing::error!(%from, %to, "records of the log are damaged, they are lost");
                    self.last = self.last.max(to);
                }
                Err(other) => return Err(other),
            }
            if self.skipping && self.last >= self.skip_to {
                self.skipping = false;
                self.cut = true;
            }
        }
        Ok(true)
    }

    fn take_record(&mut self, position: Position, bytes: Bytes) -> Result<(), SourceError> {
        let (envelope, payload) = match Envelope::decode(position, &bytes) {
            Ok(decoded) => decoded,
            Err(error @ EnvelopeError::Newer { .. }) => {
                self.source.seek(position);
                return Err(SourceError::Fatal(error.to_string()));
            }
            Err(error) => {
                tracing::error!(%error, "a record of the log is damaged, its readings are lost");
                self.last = position;
                return Ok(());
            }
        };
        let accepted = u64::from(envelope.accepted);
        let before = envelope.accepted_total.saturating_sub(accepted);
        // What was passed since the last readable record shows in the cumulative count.
        let passed = before.saturating_sub(*self.total.get_or_insert(before));
        self.total_before.get_or_insert(before);
        if self.skipping {
            self.dropped.skipped += passed;
        } else {
            self.dropped.damaged += passed;
        }
        self.total = Some(envelope.accepted_total);
        self.last = position;
        if position <= self.skip_to {
            self.dropped.skipped += accepted;
            self.given_up.0 += 1;
            if accepted > 0 {
                *self.given_up.1.entry(envelope.identity).or_default() += accepted;
            }
            return Ok(());
        }
        if accepted > 0 {
            let payload = bytes.slice_ref(payload);
            self.readings += accepted;
            self.bytes += bytes.len() as u64;
            self.records.push(Record { position, envelope, payload });
        }
        Ok(())
    }

    /// Takes what was put together; `None` if nothing was.
    pub(super) fn take(&mut self) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        let total = self.total.unwrap_or_default();
        let given_up = std::mem::take(&mut self.given_up.1);
        let given_up = given_up.into_iter().map(|(identity, skipped)| GivenUp {
            identity,
            dropped: Dropped { skipped, ..Dropped::default() },
        });
        let batch = Batch {
            first: self.from.next(),
            last: self.last,
            records: std::mem::take(&mut self.records).into(),
            readings: self.readings,
            accepted_total: total,
            dropped: self.dropped,
            given_up: given_up.collect(),
        };
        self.from = self.last;
        self.total_before = self.total;
        self.clear();
        Some(batch)
    }
}
