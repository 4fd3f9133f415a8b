//! Where a capture goes: how much room there is, and what becomes of the file when there is none.

use super::{CaptureError, RESERVE_BYTES};
use crate::log::{Files, RealFiles};
use capture_file::{End, EndedBy, Mark, Writer};
use std::{
    fs::File,
    io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write},
    path::Path,
};

/// From one mark to the next, in bytes: so much room at least is won by going back to the one before
/// the last, and an end takes less.
const MARK_EVERY_BYTES: u64 = 16 * 1024;

/// Where the file goes.
pub(super) struct Disk<'a> {
    pub(super) folder: &'a Path,
    pub(super) path: &'a Path,
}

impl Disk<'_> {
    pub(super) fn has_room(&self) -> Result<bool, CaptureError> {
        let free = RealFiles.free_bytes(self.folder).map_err(|error| self.failed(error))?;
        Ok(free >= RESERVE_BYTES)
    }

    pub(super) fn failed(&self, source: io::Error) -> CaptureError {
        let path = self.path.to_owned();
        match is_full(&source) {
            true => CaptureError::NoRoom { path, source },
            false => CaptureError::Write { path, source },
        }
    }
}

/// The disk, a quota or a limit of the process has no more room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// The last places where the file could end, and a handle to end it there.
pub(super) struct Marks {
    file: File,
    /// The newest first.
    marks: [Option<Mark>; 2],
}

impl Marks {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self { file: file.try_clone()?, marks: [None; 2] })
    }

    /// Makes a mark after a whole batch, if it is time for one.
    pub(super) fn look(&mut self, writer: &mut Writer<impl Write>) -> io::Result<()> {
        let last = self.marks[0].map_or(0, |mark| mark.bytes());
        if writer.bytes() < last + MARK_EVERY_BYTES {
            return Ok(());
        }
        // Behind it is only what the file has.
        writer.flush()?;
        self.marks = [Some(writer.mark()), self.marks[0]];
        Ok(())
    }

    /// Ends the file at the last mark where it can be ended; what was written after that is given up.
    /// Nobody writes to the file any more. `full` comes back if there is no such mark.
    pub(super) fn end(mut self, to_ns: i64, full: io::Error) -> io::Result<End> {
        for mark in self.marks.into_iter().flatten() {
            let ended = self.end_at(mark, to_ns);
            if !ended.as_ref().is_err_and(is_full) {
                return ended;
            }
        }
        Err(full)
    }

    fn end_at(&mut self, mark: Mark, to_ns: i64) -> io::Result<End> {
        self.file.set_len(mark.bytes())?;
        self.file.seek(SeekFrom::Start(mark.bytes()))?;
        let writer = Writer::resume(BufWriter::new(&self.file), mark);
        let (_, end) = writer.finish(to_ns, EndedBy::Disk)?;
        self.file.sync_all()?;
        Ok(end)
    }
}
