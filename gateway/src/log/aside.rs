//! Bytes that are set aside: what recovery cuts goes to `torn/`, a copy of what is damaged to
//! `damaged/`. Keeping them is worth an attempt and no more: a full disk must not keep the gateway
//! from starting.

use super::files::{self, File, Files, Open, read_full_at, write_all_at};
use crate::record::Position;
use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

const CHUNK_BYTES: usize = 1024 * 1024;
/// Files kept in `torn/`; the oldest goes first. Nothing in them was ever acknowledged.
const TORN_FILES: usize = 64;

/// A stretch of a segment that is about to be copied.
pub(super) struct Stretch<'a> {
    pub(super) file: &'a dyn File,
    pub(super) base: Position,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Keeps a copy of bytes that are about to be cut, and says where.
pub(super) fn keep_torn(files: &dyn Files, log: &Path, stretch: &Stretch<'_>) -> Option<PathBuf> {
    let dir = log.join("torn");
    // The time keeps two cuts at the same place apart.
    let name = format!("{:020}-{:012}-{}.bin", stretch.base.0, stretch.offset, files.now_ns());
    let kept = keep(files, &dir, &name, stretch);
    if let Ok(mut names) = files.list(&dir) {
        names.retain(|name| name.ends_with(".bin"));
        names.sort_unstable();
        for name in names.iter().rev().skip(TORN_FILES) {
            let _ = files.remove(&dir.join(name));
        }
    }
    kept
}

/// Keeps a copy of damaged bytes, which also stay where they are. Found again, they have a copy
/// already.
pub(super) fn keep_damaged(
    files: &dyn Files,
    log: &Path,
    stretch: &Stretch<'_>,
) -> Option<PathBuf> {
    let name = format!("{:020}-{:012}-{}.bin", stretch.base.0, stretch.offset, stretch.bytes);
    keep(files, &log.join("damaged"), &name, stretch)
}

fn keep(files: &dyn Files, dir: &Path, name: &str, stretch: &Stretch<'_>) -> Option<PathBuf> {
    let path = dir.join(name);
    let copied = files::create_dirs(files, dir, false).map_err(|(_, error)| error).and_then(|()| {
        if files.open(&path, Open::Read).and_then(|file| file.size()).ok() == Some(stretch.bytes) {
            return Ok(());
        }
        copy(files, &path, stretch).inspect_err(|_| {
            let _ = files.remove(&path);
        })?;
        files.sync_dir(dir)
    });
    match copied {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "could not keep a copy");
            None
        }
    }
}

fn copy(files: &dyn Files, path: &Path, stretch: &Stretch<'_>) -> io::Result<()> {
    let to = files.open(path, Open::Create)?;
    for_each_chunk(stretch, |at, chunk| write_all_at(&*to, chunk, at - stretch.offset))?;
    to.sync_all()
}

/// Reads a stretch piece by piece.
pub(super) fn for_each_chunk(
    stretch: &Stretch<'_>,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut at, end) = (stretch.offset, stretch.offset + stretch.bytes);
    let mut buffer = Vec::new();
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        buffer.resize(length, 0);
        if read_full_at(stretch.file, &mut buffer, at)? < length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        each(at, &buffer)?;
        at += length as u64;
    }
    Ok(())
}
