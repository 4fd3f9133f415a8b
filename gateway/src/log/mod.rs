//! The durable log: opaque records in segments, synced before they are acknowledged.
//!
//! Owns the files of one directory (`FORMAT.md` is their normative description). Knows no device
//! and no sink. One [`Writer`] appends groups of records; any number of [`Reader`]s follow it, up
//! to the durable position and never beyond.
//!
//! Promises: what [`Writer::commit`] returned is on the disk, with the directory entry of its
//! segment, and is read back after any crash; a record that cannot be read is reported as
//! [`ReadError::Damaged`] and never left out in silence. Refuses: a directory that another process
//! has open, files of another log, files of a newer format.
//!
//! ```text
//! log.lock                    flock, and the number of the process that holds it
//! log.meta                    which log this is
//! log.low                     low-water mark: everything below it may be gone
//! 00000000000000000001.seg    records from position 1 on
//! torn/                       what recovery cut, never acknowledged
//! damaged/                    copies of what cannot be read
//! ```

mod aside;
mod error;
mod files;
mod format;
mod found;
mod reader;
mod recovery;
pub mod retention;
mod scan;
mod scrub;
mod segment;
mod shared;
mod state;
mod survey;
mod tail;
mod verify;
mod writer;

pub use error::{CommitError, LogError, ReadError};
pub use files::{File, Files, Lock, Locked, Open, RealFiles};
pub use reader::Reader;
pub use recovery::{Damaged, Recovery, Torn};
pub use scrub::scrub;
pub use shared::{SegmentInfo, Shared};
pub use tail::{Tail, Tailed};
pub use verify::{Report, SegmentReport, verify, verify_with};
pub use writer::{DeletedSegments, Writer};

use crate::{metrics::LogMetrics, record::Position};
use shared::Inner;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, RwLock, atomic::AtomicU64},
};
use tokio::sync::watch;
use uuid::Uuid;

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory, made if it does not exist.
    pub dir: PathBuf,
    /// A segment of this many bytes or more is followed by another.
    pub segment_bytes: u64,
    /// Largest record, in bytes; at most 16 MiB.
    pub max_record_bytes: u32,
    /// What [`Writer::room_bytes`] leaves free on the file system, in bytes.
    pub reserve_bytes: u64,
    /// The size of the log at which [`Writer::room_bytes`] says 0, in bytes.
    pub max_bytes: u64,
    /// What is read when the log is opened.
    pub check: Check,
    /// Where its figures go.
    pub metrics: LogMetrics,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("log"),
            segment_bytes: 64 * 1024 * 1024,
            max_record_bytes: 1024 * 1024,
            reserve_bytes: 256 * 1024 * 1024,
            max_bytes: u64::MAX,
            check: Check::default(),
            metrics: LogMetrics::default(),
        }
    }
}

/// How much of the log is read when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// The last segment; of the others the header and the seal at the end, and all of those that
    /// have none. Damage within them is found by the scrub, or by the reader that comes to it. So
    /// the time to start does not grow with the log.
    #[default]
    Tail,
    /// Every byte.
    All,
}

/// Which log is in `dir`; `None` if there is none. Changes nothing and takes no lock: for asking
/// sinks how far they are in this log, before it is opened.
///
/// # Errors
/// A file cannot be read, or a newer gateway wrote it.
pub fn identity(dir: &Path, files: &dyn Files) -> Result<Option<Uuid>, LogError> {
    if !files.is_dir(dir) {
        return Ok(None);
    }
    found::peek(files, dir)
}

/// The low-water mark of the log in `dir`, if it can be read. Takes no lock.
///
/// # Errors
/// The file cannot be read, or a newer gateway wrote it.
pub fn low_mark(dir: &Path, files: &dyn Files) -> Result<Option<Position>, LogError> {
    let low = state::load(files, dir, state::StateFile::Low)?;
    Ok(low.map(|low| Position(low.value)))
}

/// A segment as its file shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHead {
    /// Its first position.
    pub base: Position,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// When it was begun, nanoseconds since the Unix epoch; `None` if its header is damaged.
    pub created_at_ns: Option<i64>,
}

/// All segments in `dir`, ascending, by their headers. Takes no lock.
///
/// # Errors
/// A file cannot be read, or a newer gateway wrote it.
pub fn heads(dir: &Path, files: &dyn Files) -> Result<Vec<SegmentHead>, LogError> {
    let head = |found: found::Found| SegmentHead {
        base: found.base,
        bytes: found.bytes,
        created_at_ns: found.is_valid().then(|| found.created_at_ns()),
    };
    Ok(found::find(files, dir)?.into_iter().map(head).collect())
}

/// Opens the log, or makes it. `known_durable` is the highest position that any sink of this log
/// has stored: it was durable, whatever the segments say.
///
/// # Errors
/// See [`LogError`]; nothing was deleted or cut that was ever acknowledged.
pub fn open(
    options: Options,
    files: Arc<dyn Files>,
    known_durable: Position,
) -> Result<(Writer, Shared, Recovery), LogError> {
    if options.max_record_bytes == 0 || options.max_record_bytes > format::MAX_PAYLOAD_BYTES {
        return Err(LogError::Options("the largest record must be of 1 byte to 16 MiB"));
    }
    let anew = !state::exists(&*files, &options.dir, state::StateFile::Meta);
    files::create_dirs(&*files, &options.dir, anew).map_err(|(path, source)| LogError::Io {
        what: "make the directory",
        path,
        source,
    })?;
    let lock_path = options.dir.join("log.lock");
    let lock = match files.lock(&lock_path).map_err(LogError::io("lock", lock_path))? {
        Locked::Ours(lock) => lock,
        Locked::Taken(pid) => return Err(LogError::InUse { dir: options.dir, pid }),
    };
    let recovered = recovery::recover(&*files, &options, known_durable)?;
    let mut report = recovered.report;
    let metrics = options.metrics.clone();
    metrics.poisoned.set(0.0);
    metrics.torn_bytes.increment(report.torn.iter().map(|torn| torn.bytes).sum());
    metrics.damaged_records.increment(report.damaged.iter().map(Damaged::records).sum());
    let size = recovered.segments.iter().map(|segment| segment.extent().end).sum();
    let inner = Arc::new(Inner {
        uuid: recovered.uuid,
        dir: options.dir.clone(),
        files: Arc::clone(&files),
        metrics,
        durable: watch::Sender::new(report.last),
        segments: RwLock::new(recovered.segments.into_iter().map(Arc::new).collect()),
        size: AtomicU64::new(size),
        poison: OnceLock::new(),
    });
    let (active, next) = (recovered.active, recovered.next);
    let writer = Writer::open(Arc::clone(&inner), options, active, next, lock)?;
    writer.publish_start();
    state::prepare_spare(&*files, &inner.dir, state::StateFile::Low);
    let shared = Shared(inner);
    report.oldest = shared.oldest();
    Ok((writer, shared, report))
}
