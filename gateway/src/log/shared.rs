//! What everybody but the writer has of the open log.

use super::{files::Files, reader::Reader, segment::Segment};
use crate::{metrics::LogMetrics, record::Position};
use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use uuid::Uuid;

/// The open log as readers and operators see it. Cheap to clone.
#[derive(Clone)]
pub struct Shared(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) uuid: Uuid,
    pub(super) dir: PathBuf,
    pub(super) files: Arc<dyn Files>,
    pub(super) metrics: LogMetrics,
    /// Set after the extent of the active segment, so that whoever is woken finds the records.
    pub(super) durable: watch::Sender<Position>,
    /// Ascending, never empty, the last one active. Locked for a moment when a segment is begun,
    /// deleted or entered.
    pub(super) segments: RwLock<Vec<Arc<Segment>>>,
    pub(super) size: AtomicU64,
    pub(super) poison: OnceLock<Arc<str>>,
}

/// A segment of the open log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its first position.
    pub base: Position,
    /// Its last durable position; the one before `base` if it is empty.
    pub last: Position,
    /// Its durable length in bytes.
    pub bytes: u64,
    /// When it was begun, nanoseconds since the Unix epoch; 0 if its header is damaged.
    pub created_at_ns: i64,
    /// Its file.
    pub path: PathBuf,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({}, durable to {})", self.0.dir.display(), self.durable())
    }
}

impl Shared {
    /// Names this log; cursors and stores that belong to it remember it.
    pub fn uuid(&self) -> Uuid {
        self.0.uuid
    }

    /// The highest position that is durable.
    pub fn durable(&self) -> Position {
        *self.0.durable.borrow()
    }

    /// The durable position, to be woken when it moves.
    pub fn watch_durable(&self) -> watch::Receiver<Position> {
        self.0.durable.subscribe()
    }

    /// The oldest position that is kept; one above `durable` if there is no record.
    pub fn oldest(&self) -> Position {
        self.0.list().first().map_or(Position::ZERO.next(), |segment| segment.base)
    }

    /// All segments, ascending.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.0
            .list()
            .iter()
            .map(|segment| {
                let extent = segment.extent();
                SegmentInfo {
                    base: segment.base,
                    last: extent.last,
                    bytes: extent.end,
                    created_at_ns: segment.created_at_ns,
                    path: segment.path.clone(),
                }
            })
            .collect()
    }

    /// Bytes in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.0.size.load(Ordering::Relaxed)
    }

    /// Bytes that are free on the file system of the log; as good as endless if it does not say.
    pub fn free_bytes(&self) -> u64 {
        self.0.files.free_bytes(&self.0.dir).unwrap_or(u64::MAX)
    }

    /// Why the log takes no more records, if that is so.
    pub fn poisoned(&self) -> Option<Arc<str>> {
        self.0.poison.get().cloned()
    }

    /// A reader whose first record is `first`: for a cursor, the position after it. It may be ahead
    /// of the log and then waits; if the position was deleted, the first read says so.
    pub fn reader_at(&self, first: Position) -> Reader {
        Reader::new(Arc::clone(&self.0), first)
    }
}

impl Inner {
    pub(super) fn list(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment in which `position` is or will be, or the first one if it is older than that.
    pub(super) fn containing(&self, position: Position) -> Option<Arc<Segment>> {
        let list = self.list();
        let index = list.partition_point(|segment| segment.base <= position).saturating_sub(1);
        list.get(index).cloned()
    }

    /// The segment after the one that begins with `base`.
    pub(super) fn after(&self, base: Position) -> Option<Arc<Segment>> {
        let list = self.list();
        list.get(list.partition_point(|segment| segment.base <= base)).cloned()
    }

    /// Adds to the list, or takes from it.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>) -> R) -> R {
        let mut list = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut list);
        #[expect(clippy::cast_precision_loss)]
        self.metrics.segments.set(list.len() as f64);
        result
    }
}
