//! Where accepted readings go. One file (or folder) per destination.
//!
//! A sink owns the conversation with its destination and nothing else: retry, back-off, cursors and
//! the isolation of poison live once, in `forward`. A sink knows no log.

pub mod influxdb;
pub mod line_protocol;
pub mod mqtt;
pub mod store;

use crate::record::{
    Dropped, Envelope, EnvelopeError, FieldKind, GivenUp, Ledger, Point, PointId, Points, Position,
};
use bytes::Bytes;
use std::time::Duration;
use uuid::Uuid;

/// One log record on its way to a sink.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it stands in the log.
    pub position: Position,
    /// Its envelope.
    pub envelope: Envelope,
    /// The device's bytes.
    pub payload: Bytes,
}

/// A run of consecutive records. Shared with retries, so cheap to clone.
#[derive(Debug, Clone)]
pub struct Batch {
    /// First position, inclusive. Records without points count too.
    pub first: Position,
    /// Last position, inclusive; the cursor after this batch.
    pub last: Position,
    /// The records that have points, ascending by position; may be empty.
    pub records: std::sync::Arc<[Record]>,
    /// Accepted readings in `records`.
    pub readings: u64,
    /// Accepted readings in the log up to and with `last`.
    pub accepted_total: u64,
    /// Accepted readings between the batch before and `last` that are not in `records`.
    pub dropped: Dropped,
    /// Whose these were, as far as that is known.
    pub given_up: std::sync::Arc<[GivenUp]>,
}

impl Batch {
    /// Enters this batch into the ledger of a sink. `quarantined` of its readings were refused and
    /// kept aside and `dropped` were not stored, besides those that the batch itself counts.
    pub fn enter(&self, ledger: &mut Ledger, quarantined: u64, mut dropped: Dropped) {
        ledger.stored += self.readings.saturating_sub(quarantined + dropped.total());
        ledger.quarantined += quarantined;
        dropped.add(self.dropped);
        ledger.dropped.add(dropped);
        // Nothing is known yet if all that was passed could not be read.
        if self.accepted_total > 0 {
            let of_batch = self.readings + self.dropped.total();
            ledger.base.get_or_insert(self.accepted_total.saturating_sub(of_batch));
        }
        ledger.accepted_total = self.accepted_total;
    }

    /// Calls `each` for every point, in the order of the log.
    ///
    /// # Errors
    /// A payload does not decode.
    pub fn for_each_point(
        &self,
        points: &mut Points,
        mut each: impl FnMut(&Point<'_>),
    ) -> Result<(), EnvelopeError> {
        for record in self.records.iter() {
            points.for_each(record.position, &record.envelope, &record.payload, &mut each)?;
        }
        Ok(())
    }
}

/// A point that the destination refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedPoint {
    /// Which.
    pub id: PointId,
    /// The destination's words.
    pub reason: String,
}

/// Learns what a destination says of the fields that it holds.
pub trait KindWitness: Send + Sync + std::fmt::Debug {
    /// The destination of this sink holds a field (realm, measurement, name) in this kind. Called
    /// for each reading that it refused because of that; must be quick and not block.
    fn holds(&self, sink: &str, field: (&str, &str, &str), kind: FieldKind);
}

/// Why a write did not (wholly) succeed.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It may succeed later; nothing is known to be stored.
    #[error("{why}")]
    Retry {
        /// The destination's own wish, if it has one.
        after: Option<Duration>,
        /// What happened, for a person.
        why: String,
    },
    /// Nothing is known to be stored, and nothing will be until a person does something at the
    /// destination or with its credential; it is tried again from time to time.
    #[error("{why}")]
    Blocked {
        /// What happened and what to do, for a person.
        why: String,
    },
    /// These points are not at the destination and never will be; all others of the batch are.
    /// Not for a destination that keeps its own cursor.
    #[error(
        "{} points refused, the first: {}; of {} records some that it cannot hold",
        points.len(), points.first().map_or("", |p| &p.reason), unsupported.len()
    )]
    Reject {
        /// Which it refused, and why.
        points: Vec<RejectedPoint>,
        /// How many besides it cannot hold, by record; they are counted as dropped.
        unsupported: Vec<(Position, u64)>,
    },
    /// A record does not decode as it did when it was accepted; nothing of the batch is stored.
    #[error("{0}")]
    Undecodable(EnvelopeError),
    /// It will not succeed until a person does something; the sink stops and keeps its data.
    #[error("{0}")]
    Fatal(String),
}

/// Which log a sink is fed from, and what that holds; a cursor has to fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRange {
    /// Names the log.
    pub uuid: Uuid,
    /// Its oldest record; one past `end` if it has none.
    pub oldest: Position,
    /// Its last record.
    pub end: Position,
}

/// A destination of readings.
pub trait Sink: Send + Sync + 'static {
    /// Writes a batch. `Ok` means that the destination confirmed every point durably.
    /// Batches come in the order of the log, one at a time; one may come again after an error or
    /// a restart. Not cancel safe: a dropped write may or may not have happened.
    fn write(&self, batch: Batch) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// The position up to which the destination itself knows that it has everything; `None` if it
    /// keeps no cursor, and the forwarder has to.
    fn committed(&self) -> Option<Position>;

    /// The ledger at that position, for a destination that keeps its own cursor.
    fn ledger(&self) -> Option<Ledger> {
        None
    }

    /// Goes on behind `position` with this ledger, durably; for a destination that keeps its own
    /// cursor. Not while a write is under way.
    fn rewind(
        &self,
        _position: Position,
        _ledger: Ledger,
    ) -> impl Future<Output = Result<(), SinkError>> + Send {
        async { Err(SinkError::Fatal("it keeps no cursor of its own: report this".to_owned())) }
    }
}
