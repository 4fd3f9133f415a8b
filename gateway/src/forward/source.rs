//! What a forwarder needs of the log.

use crate::{
    log::{self, ReadError},
    record::Position,
};
use bytes::Bytes;

/// Records in order, up to the durable position. Calls may block for as long as the disk takes;
/// they are made where that is allowed.
pub trait RecordSource: Send + 'static {
    /// The next record; `None` if there is none yet.
    ///
    /// # Errors
    /// See [`SourceError`].
    fn next(&mut self) -> Result<Option<(Position, Bytes)>, SourceError>;

    /// Goes on with the record at `position`.
    fn seek(&mut self, position: Position);
}

/// Why the next record is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// These records cannot be read; the next call goes on behind them.
    Damaged {
        /// First, inclusive.
        from: Position,
        /// Last, inclusive.
        to: Position,
    },
    /// The same call may succeed later.
    Retry(String),
    /// It will not; the text says what to do.
    Fatal(String),
}

impl RecordSource for log::Reader {
    fn next(&mut self) -> Result<Option<(Position, Bytes)>, SourceError> {
        log::Reader::next(self).map_err(|error| match error {
            ReadError::Damaged { from, to } => SourceError::Damaged { from, to },
            ReadError::Io { .. } => SourceError::Retry(error.to_string()),
            ReadError::Deleted { .. } => SourceError::Fatal(format!(
                "{error}: what it held is gone; restore the log from a backup, or move the sink's \
                 cursor away and it starts from what is left"
            )),
        })
    }

    fn seek(&mut self, position: Position) {
        log::Reader::seek(self, position);
    }
}
