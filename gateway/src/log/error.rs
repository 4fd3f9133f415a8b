//! What can go wrong with the log, by what the caller can do about it.

use crate::record::Position;
use std::{io, path::PathBuf, sync::Arc};
use uuid::Uuid;

/// The log cannot be opened, or a record or a deletion was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has the log open.
    #[error(
        "the log {} is in use by another gateway{}: stop it, or give this one a data directory of its own",
        dir.display(),
        pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    InUse {
        /// Directory of the log.
        dir: PathBuf,
        /// The other process, if it left its number.
        pid: Option<u32>,
    },
    /// Written by a newer gateway.
    #[error(
        "{} has format version {version}, this gateway reads up to {}: run the gateway that wrote it, or a newer one",
        path.display(),
        super::format::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        version: u32,
    },
    /// A segment of another log lies in the directory.
    #[error(
        "{} belongs to the log {found}, this is the log {expected}: move the file elsewhere, it was put here by mistake",
        path.display()
    )]
    Foreign {
        /// The segment, or a state file.
        path: PathBuf,
        /// The log that it belongs to.
        found: Uuid,
        /// The log of this directory.
        expected: Uuid,
    },
    /// A segment bears the name of another.
    #[error("{} begins at position {base}: give it back the name {base:020}.seg", path.display())]
    Misnamed {
        /// The segment.
        path: PathBuf,
        /// The base position in its header.
        base: Position,
    },
    /// There are segments, and nothing that can be read says which log they belong to.
    #[error(
        "the log {} cannot be identified: neither log.meta nor any segment header can be read; restore log.meta from a backup",
        dir.display()
    )]
    Unidentified {
        /// Directory of the log.
        dir: PathBuf,
    },
    /// The record is larger than the configured limit.
    #[error("a record of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Length of the record.
        bytes: usize,
        /// The limit.
        limit: u32,
    },
    /// The group has reached its limit: commit it first.
    #[error("the group holds {bytes} bytes already: commit it first")]
    GroupFull {
        /// Bytes in the group.
        bytes: usize,
    },
    /// An option is out of its range.
    #[error("log: {0}")]
    Options(&'static str),
    /// A write or sync failed before; nothing is taken any more.
    #[error("the log takes no more records: {reason}; restart the gateway, it then checks the log")]
    Poisoned {
        /// What failed.
        reason: Arc<str>,
    },
    /// The file system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl LogError {
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// A group was not committed. Nothing of it may be acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// No space. Nothing of the group is kept, its positions are given again; a later commit works
    /// when there is space.
    #[error("no space for the log: {source}")]
    Full {
        /// The system's error.
        source: io::Error,
    },
    /// A new segment could not be begun. Nothing is lost, and the old one can still be written.
    #[error("cannot begin the segment {}: {source}", path.display())]
    Roll {
        /// The segment that was to be made.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A write or sync failed, now or before: what the disk holds is unknown, and no commit ever
    /// succeeds again on this writer.
    #[error("the log takes no more records: {reason}")]
    Poisoned {
        /// What failed.
        reason: Arc<str>,
    },
}

/// A reader cannot give the next record.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// These records are damaged or missing; they had been acknowledged. The next call goes on
    /// behind them.
    #[error("records {from} to {to} of the log are damaged")]
    Damaged {
        /// First, inclusive.
        from: Position,
        /// Last, inclusive.
        to: Position,
    },
    /// Retention has deleted what this reader wanted next.
    #[error("record {wanted} was deleted from the log, the oldest is {oldest}")]
    Deleted {
        /// The position wanted.
        wanted: Position,
        /// The oldest that is left.
        oldest: Position,
    },
    /// The file could not be read; the same call may succeed later.
    #[error("cannot read {} at {offset}: {source}", path.display())]
    Io {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The system's error.
        source: io::Error,
    },
}
