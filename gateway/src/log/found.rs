//! What lies in the directory before anything of it is believed: the segments, which log they belong
//! to, and deletions that were not finished.

use super::{
    LogError, Recovery,
    aside::Stretch,
    files::{File, Files, Open, read_full_at},
    format::{self, Head, SEGMENT_HEADER_BYTES},
    segment,
    state::{self, State, StateFile},
};
use crate::record::Position;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// A segment as it was found.
pub(super) struct Found {
    pub(super) base: Position,
    pub(super) path: PathBuf,
    pub(super) head: Head,
    pub(super) bytes: u64,
}

impl Found {
    pub(super) fn is_valid(&self) -> bool {
        matches!(self.head, Head::Valid { .. })
    }

    pub(super) fn created_at_ns(&self) -> i64 {
        match self.head {
            Head::Valid { created_at_ns, .. } => created_at_ns,
            _ => 0,
        }
    }

    pub(super) fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> LogError {
        LogError::io(what, &self.path)
    }

    /// Opened one by one: there may be more segments than a process may have files open.
    pub(super) fn open(&self, files: &dyn Files, how: Open) -> Result<Arc<dyn File>, LogError> {
        files.open(&self.path, how).map_err(self.io("open"))
    }

    pub(super) fn stretch<'a>(&self, file: &'a dyn File, offset: u64, bytes: u64) -> Stretch<'a> {
        Stretch { file, base: self.base, offset, bytes }
    }
}

/// All segments, by number.
pub(super) fn find(files: &dyn Files, dir: &Path) -> Result<Vec<Found>, LogError> {
    let mut bases: Vec<Position> = files
        .list(dir)
        .map_err(LogError::io("list", dir))?
        .iter()
        .filter_map(|name| segment::base_of(name))
        .collect();
    bases.sort_unstable();
    bases
        .into_iter()
        .map(|base| {
            let path = dir.join(segment::name(base));
            let file = files.open(&path, Open::Read).map_err(LogError::io("open", &path))?;
            let bytes = file.size().map_err(LogError::io("measure", &path))?;
            let mut start = [0; SEGMENT_HEADER_BYTES];
            // A sector that cannot be read is as good as damaged.
            let head = match read_full_at(&*file, &mut start, 0) {
                Ok(read) => format::parse_segment_header(&start[..read]),
                Err(_) => Head::Damaged,
            };
            match head {
                Head::Newer(version) => Err(LogError::Newer { path, version }),
                Head::Valid { value, .. } if value != base.0 => {
                    Err(LogError::Misnamed { path, base: Position(value) })
                }
                _ => Ok(Found { base, path, head, bytes }),
            }
        })
        .collect()
}

/// Which log is in a directory that may be in use by another gateway.
pub(super) fn peek(files: &dyn Files, dir: &Path) -> Result<Option<Uuid>, LogError> {
    if let Some(meta) = state::load(files, dir, StateFile::Meta)? {
        return Ok(Some(meta.uuid));
    }
    let low = state::load(files, dir, StateFile::Low)?;
    Ok(uuid(None, low, &find(files, dir)?))
}

/// Which log this is, if anything says so.
fn uuid(meta: Option<State>, low: Option<State>, found: &[Found]) -> Option<Uuid> {
    let of_segments = found.iter().find_map(|segment| match segment.head {
        Head::Valid { uuid, .. } => Some(uuid),
        _ => None,
    });
    meta.map(|meta| meta.uuid).or(of_segments).or(low.map(|low| low.uuid))
}

/// Which log this is, and its low-water mark. State files that are missing or damaged are made
/// anew from the segments.
pub(super) fn identify(
    files: &dyn Files,
    dir: &Path,
    found: &[Found],
    known_durable: Position,
) -> Result<(Uuid, Position, Recovery), LogError> {
    let meta = state::load(files, dir, StateFile::Meta)?;
    let low = state::load(files, dir, StateFile::Low)?;
    let known = uuid(meta, low, found);
    let uuid = match known {
        Some(uuid) => uuid,
        // log.meta is durable before the first segment is begun, and a header before a record.
        None if found.iter().all(|found| found.bytes <= SEGMENT_HEADER_BYTES as u64) => {
            Uuid::new_v4()
        }
        None => return Err(LogError::Unidentified { dir: dir.to_owned() }),
    };
    for segment in found {
        match segment.head {
            Head::Valid { uuid: found, .. } if found != uuid => {
                let path = segment.path.clone();
                return Err(LogError::Foreign { path, found, expected: uuid });
            }
            _ => {}
        }
    }
    let created = known.is_none() && found.is_empty();
    if meta.is_none() {
        state::store(files, dir, StateFile::Meta, State { uuid, value: 0 })?;
    }
    let valid_low = low.filter(|low| low.uuid == uuid);
    let position = match (valid_low, found.first()) {
        (Some(low), _) => Position(low.value),
        (None, Some(first)) => first.base,
        (None, None) if created => known_durable.next(),
        (None, None) => Position::ZERO.next(),
    };
    if valid_low.is_none() {
        state::store(files, dir, StateFile::Low, State { uuid, value: position.0 })?;
    }
    let report = Recovery {
        created,
        meta_rebuilt: meta.is_none() && !created,
        low_mark_rebuilt: valid_low.is_none() && !created && !found.is_empty(),
        ..Recovery::default()
    };
    Ok((uuid, position, report))
}

/// Unlinks what was to be deleted when the gateway stopped.
pub(super) fn finish_deletions(
    files: &dyn Files,
    dir: &Path,
    found: &mut Vec<Found>,
    low: Position,
) -> Result<u64, LogError> {
    let gone = found.iter().skip(1).take_while(|following| following.base <= low).count();
    for segment in found.drain(..gone) {
        files.remove(&segment.path).map_err(segment.io("remove"))?;
    }
    if gone > 0 {
        files.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    }
    Ok(gone as u64)
}
