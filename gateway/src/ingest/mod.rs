//! From raw bytes to what may be logged: decode, validate, admit.
//!
//! `check` decodes and validates a batch in the connection's task. `Committer` is the one thread
//! that orders appends: it admits (order, dedupe), appends, syncs and answers. Nothing is answered
//! before the record it speaks of is durable.

pub mod admit;
pub mod check;
pub mod checkpoint;
pub mod clock;
pub mod committer;
pub mod contents;
pub mod counts;
mod guard;
mod notes;
pub mod recover;
mod room;
mod series;
mod show;

pub use check::{Checked, ConnectionContext, Now, Rules, check, fault_of_measurement};
pub use committer::{Committer, CommitterError, CommitterHandle};
pub use guard::{Guard, Guards, OnConflict};
pub use notes::Notes;
pub use series::MaxSeries;
pub use show::show_readings;

use crate::record::{Identity, Position, Refusal};
use bytes::Bytes;
use counts::Count;
use proto::ErrorCode;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// A device's line of sequence numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamId {
    /// Named by the device in `hello`: lives across connections.
    Named(u64),
    /// Without a name: lives as long as the connection with this number.
    Private(u64),
    /// No line at all: batches come in any order and are recognised by their content alone. So it
    /// is over MQTT, where a broker may divide what a device sends among gateways.
    Content,
}

/// A stream of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Whose.
    pub identity: Identity,
    /// Which.
    pub stream: StreamId,
}

/// A batch that was decoded and validated, on its way to the log.
#[derive(Debug)]
pub struct Submission {
    /// The stream it belongs to.
    pub stream: StreamKey,
    /// Its sequence number.
    pub seq: u64,
    /// True only for the first batch that came on a connection (and its repetitions until it is
    /// admitted): it may leave a gap behind the last admitted sequence number.
    pub may_skip: bool,
    /// XXH3-64 of the batch body.
    pub payload_hash: u64,
    /// The encoded envelope, the cumulative count not yet set.
    pub header: Vec<u8>,
    /// The batch body as it came; empty if the whole batch was refused.
    pub payload: Bytes,
    /// Accepted readings.
    pub accepted: u32,
    /// Refused readings, for repetitions of the batch.
    pub refused: Arc<[Refusal]>,
    /// The whole batch was refused with this code: its sequence number is consumed all the same.
    pub refused_whole: Option<ErrorCode>,
    /// Where the outcome goes.
    pub reply: mpsc::Sender<Outcome>,
    /// Its share of the memory for batches on their way, given back with the outcome.
    pub budget: Option<OwnedSemaphorePermit>,
}

impl Submission {
    /// A batch of `stream` that was checked, without its share of the memory yet.
    pub fn of(
        checked: Checked,
        stream: StreamKey,
        may_skip: bool,
        reply: mpsc::Sender<Outcome>,
    ) -> Self {
        Self {
            stream,
            seq: checked.seq,
            may_skip,
            payload_hash: checked.payload_hash,
            header: checked.header,
            payload: checked.payload,
            accepted: checked.accepted,
            refused: checked.refused,
            refused_whole: checked.refused_whole.map(|(code, _)| code),
            reply,
            budget: None,
        }
    }

    /// What it takes of the memory for batches on their way.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.header.len() + self.payload.len()).unwrap_or(u32::MAX)
    }
}

/// What a connection asks of the committer, in order.
#[derive(Debug)]
pub enum Request {
    /// Admit and log a batch; answered with an [`Outcome`] that names its sequence number.
    Submit(Submission),
    /// A connection wants to know where a stream stands; answered with [`Outcome::Opened`] once
    /// everything submitted before it is durable or has failed.
    Open {
        /// The stream.
        stream: StreamKey,
        /// Where the outcome goes.
        reply: mpsc::Sender<Outcome>,
    },
    /// A connection with a private stream is gone: forget its stream.
    Forget(StreamKey),
    /// Records before this position are needed by nobody but the committer itself.
    Retain {
        /// The oldest position to keep.
        from: Position,
    },
    /// Nothing has come for a while: vouch for what is durable.
    Vouch,
    /// How much the log has of a device, or of each.
    Count {
        /// Which one; `None` for all.
        of: Option<Identity>,
        /// Where the answer goes.
        reply: oneshot::Sender<Counted>,
    },
}

/// How much the log has of devices, at one position.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Up to and with this record, which is durable.
    pub upto: Position,
    /// Those that were asked for and are counted.
    pub devices: HashMap<Identity, Count>,
    /// Accepted readings of no device that is counted, see [`counts::Counts::others`].
    pub others: u64,
    /// Devices that were not seen yet are not counted any more.
    pub is_full: bool,
}

/// What became of a request. Outcomes of one connection come in the order of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answer to [`Request::Open`].
    Opened {
        /// The last sequence number that is durable in the log; `None` for a new stream.
        logged_seq: Option<u64>,
        /// The highest sequence number whose record the ack position covers.
        acked_seq: Option<u64>,
        /// A position that covers the record of `logged_seq`.
        position: Position,
    },
    /// The batch is durable in the log at this position.
    Logged {
        /// Sequence number of the batch.
        seq: u64,
        /// Its record.
        position: Position,
    },
    /// The same batch was logged before; its record is durable.
    Duplicate {
        /// Sequence number of the batch.
        seq: u64,
        /// A position that covers its record.
        position: Position,
        /// The first of the readings that were refused then, as many as a nack lists.
        refused: Arc<[Refusal]>,
        /// How many were refused then.
        refused_total: u32,
        /// The code with which the whole batch was refused then.
        refused_whole: Option<ErrorCode>,
    },
    /// Refused for good with this code ([`ErrorCode::SeqReused`]); nothing was logged.
    Refused {
        /// Sequence number of the batch.
        seq: u64,
        /// Why.
        code: ErrorCode,
    },
    /// Nothing was kept: not the sequence number that comes next.
    OutOfOrder {
        /// Sequence number of the batch.
        seq: u64,
        /// The one that comes next in the stream.
        expected: u64,
    },
    /// Nothing was kept: send it again later.
    Retry {
        /// Sequence number of the batch.
        seq: u64,
        /// Why: [`ErrorCode::LogFull`] or [`ErrorCode::Overloaded`].
        code: ErrorCode,
        /// When, in milliseconds.
        after_ms: u32,
    },
    /// The log has failed for good; nothing more is acknowledged.
    Failed {
        /// Sequence number of the batch, 0 for an open.
        seq: u64,
    },
}
