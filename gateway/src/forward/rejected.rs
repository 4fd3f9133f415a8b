//! Readings that a destination refused for good: what a forwarder hands on, and to whom.

use crate::record::{GivenUp, Ledger, Moves, Position};
use std::io;

/// A refused reading with everything that is needed to send it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The record.
    pub position: Position,
    /// Index of the reading in it.
    pub index: u32,
    /// The destination's words.
    pub reason: String,
    /// The realm.
    pub realm: String,
    /// The device id.
    pub device: String,
    /// When the gateway received it, nanoseconds since the Unix epoch.
    pub receive_ns: i64,
    /// A batch body of `telemetry.v1.msgpack` with this reading alone, as a store is given it:
    /// with its measurement, and its time in nanoseconds.
    pub reading: Vec<u8>,
}

/// Keeps what one destination refuses.
pub trait RejectedHandler: Send + Sync + std::fmt::Debug {
    /// Makes durable what was refused of a batch, if anything was. What was kept of records that
    /// the cursor has not passed is from an attempt that came to no end, and is replaced. Gives
    /// how many could not be kept and are to be counted as dropped. Blocks.
    ///
    /// # Errors
    /// They are not durable; the cursor does not pass them.
    fn keep(&self, rejected: &[Rejected]) -> io::Result<u64>;

    /// Makes durable whose the readings are that are dropped with a batch that ends at `last`, if any
    /// are. As with [`RejectedHandler::keep`], what the cursor has not passed is replaced. Blocks.
    ///
    /// # Errors
    /// It is not durable; the cursor does not pass them.
    fn give_up(&self, last: Position, given_up: &[GivenUp]) -> io::Result<()>;

    /// The cursor has passed everything up to here, durably.
    fn passed(&self, position: Position);

    /// What left again of that which was kept in this epoch of the ledger. Does not block.
    fn moves(&self) -> Moves;

    /// The sink goes on behind `position` with this ledger, durably: what was kept is not counted
    /// in it. Blocks.
    ///
    /// # Errors
    /// The disk's; the sink goes on where it was.
    fn rewound(&self, position: Position, ledger: &Ledger) -> io::Result<()>;
}
