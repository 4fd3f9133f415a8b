//! A segment: its name, what is known of it while the log is open, and how one is begun.

use super::{
    files::{File, Files, Open, write_all_at},
    format::{self, SEGMENT_HEADER_BYTES},
};
use crate::record::Position;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use uuid::Uuid;

const EXTENSION: &str = ".seg";
const DIGITS: usize = 20;

/// The name of the segment that begins with `base`.
pub(super) fn name(base: Position) -> String {
    format!("{:020}{EXTENSION}", base.0)
}

/// The base position in a segment's name; `None` if it is not one.
pub(super) fn base_of(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(EXTENSION)?;
    if digits.len() != DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Position)
}

/// How far a segment is durable, and so how far it may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Length in bytes of what is durable.
    pub(super) end: u64,
    /// The last record in it; the one before `base` if there is none.
    pub(super) last: Position,
}

/// A segment of the open log, shared by the writer and the readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: Position,
    pub(super) path: PathBuf,
    pub(super) created_at_ns: i64,
    extent: Mutex<Extent>,
    deleted: AtomicBool,
}

impl Segment {
    pub(super) fn new(base: Position, path: PathBuf, created_at_ns: i64, extent: Extent) -> Self {
        let (extent, deleted) = (Mutex::new(extent), AtomicBool::new(false));
        Self { base, path, created_at_ns, extent, deleted }
    }

    pub(super) fn extent(&self) -> Extent {
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_extent(&self, extent: Extent) {
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner) = extent;
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(super) fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }
}

/// Why a segment could not be begun.
#[derive(Debug)]
pub(super) enum CreateError {
    /// Nothing of it is left; it may be tried again.
    Undone(io::Error),
    /// A sync failed, or the remains could not be removed: what the disk holds is unknown.
    Unknown(io::Error),
}

/// Begins a segment: header, fsync of the file, fsync of the directory; only then records.
pub(super) fn create(
    files: &dyn Files,
    dir: &Path,
    uuid: Uuid,
    base: Position,
) -> Result<(Arc<dyn File>, Segment), CreateError> {
    let path = dir.join(name(base));
    let created_at_ns = files.now_ns();
    // Before there is anything to sync: without descriptors nothing has happened yet.
    let entries = files.open(dir, Open::Dir).map_err(CreateError::Undone)?;
    let file = files.open(&path, Open::Create).map_err(CreateError::Undone)?;
    let header = format::encode_segment_header(uuid, base, created_at_ns);
    if let Err(error) = write_all_at(&*file, &header, 0) {
        // A later segment must not find this name taken after a crash.
        let removed = files.remove(&path).and_then(|()| entries.sync_all());
        return Err(match removed {
            Ok(()) => CreateError::Undone(error),
            Err(_) => CreateError::Unknown(error),
        });
    }
    file.sync_all().and_then(|()| entries.sync_all()).map_err(CreateError::Unknown)?;
    let extent = Extent { end: SEGMENT_HEADER_BYTES as u64, last: before(base) };
    Ok((file, Segment::new(base, path, created_at_ns, extent)))
}

/// The position before `position`; that before the first is 0.
pub(super) const fn before(position: Position) -> Position {
    Position(position.0.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_twenty_digits() {
        for (text, base) in [
            ("00000000000000000001.seg", Some(1)),
            ("18446744073709551615.seg", Some(u64::MAX)),
            ("99999999999999999999.seg", None),
            ("1.seg", None),
            ("+0000000000000000001.seg", None),
            ("00000000000000000001.seg.tmp", None),
            ("log.meta", None),
        ] {
            assert_eq!(base_of(text), base.map(Position), "{text}");
        }
        assert_eq!(name(Position(42)), "00000000000000000042.seg");
    }
}
