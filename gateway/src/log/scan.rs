//! Walks the frames of one segment in order, and finds the next one behind damage.

use super::{
    files::{File, read_full_at},
    format::{
        FRAME_FIRST_BYTE, FRAME_HEADER_BYTES, FRAME_OVERHEAD_BYTES, FrameHeader, FrameKind,
        SEGMENT_HEADER_BYTES, Salt,
    },
    segment::before,
};
use crate::record::Position;
use bytes::{Bytes, BytesMut};
use std::{io, sync::Arc};

/// What is read at once, bytes.
const CHUNK_BYTES: usize = 256 * 1024;
/// What a disk fails to read at once, bytes.
const SECTOR_BYTES: usize = 4096;

/// One thing found in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A record, its checksums verified.
    Record { offset: u64, position: Position, durable_upto: Position, payload: Bytes },
    /// A seal.
    Seal { offset: u64, durable_upto: Position },
    /// Something that is no frame, or frames that are missing.
    Damage(Gap),
    /// The end of what may be read.
    End,
}

/// A stretch that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) offset: u64,
    /// May be 0: positions are missing between two frames.
    pub(super) bytes: u64,
    /// The first position that should be here.
    pub(super) from: Position,
    /// The last one; below `from` if none is lost, `None` if no frame follows.
    pub(super) to: Option<Position>,
    /// Highest `durable_upto` in a header within the gap that is valid itself.
    pub(super) durable_upto: Position,
    /// Highest position in such a header.
    pub(super) seen: Position,
}

/// A place in a segment.
pub(super) struct Scanner {
    window: Window,
    salt: Salt,
    offset: u64,
    expected: Position,
}

/// What is at an offset.
enum At {
    /// A whole frame.
    Frame(FrameHeader),
    /// A header that is valid, with a payload that is not or that the end cuts off.
    Header(FrameHeader),
    /// No frame.
    Nothing,
}

impl Scanner {
    /// At the beginning of the segment whose first record is `base`.
    pub(super) fn new(file: Arc<dyn File>, salt: Salt, base: Position) -> Self {
        Self::at_frame(file, salt, SEGMENT_HEADER_BYTES as u64, base)
    }

    /// Where the frame begins that should hold `expected`.
    pub(super) fn at_frame(
        file: Arc<dyn File>,
        salt: Salt,
        offset: u64,
        expected: Position,
    ) -> Self {
        let window =
            Window { file, start: 0, bytes: Bytes::new(), lenient: false, unreadable: None };
        Self { window, salt, offset, expected }
    }

    /// Where the next frame is looked for.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next position that should be found.
    pub(super) fn expected(&self) -> Position {
        self.expected
    }

    /// From now on takes sectors that cannot be read for damaged.
    pub(super) fn pass_unreadable(&mut self) {
        self.window.lenient = true;
    }

    /// The error of the first sector that was taken for damaged.
    pub(super) fn take_unreadable(&mut self) -> Option<io::Error> {
        self.window.unreadable.take()
    }

    /// The next thing before `end`. After an error the same call may be made again.
    pub(super) fn step(&mut self, end: u64) -> io::Result<Step> {
        if self.offset >= end {
            return Ok(Step::End);
        }
        match self.at(self.offset, end)? {
            At::Frame(header) if self.follows(&header) => Ok(self.take(&header)),
            _ => self.skip(end).map(Step::Damage),
        }
    }

    fn take(&mut self, header: &FrameHeader) -> Step {
        let offset = self.offset;
        self.offset += header.frame_bytes() as u64;
        let durable_upto = header.durable_upto;
        match header.kind {
            FrameKind::Seal => Step::Seal { offset, durable_upto },
            FrameKind::Record => {
                self.expected = header.position.next();
                let payload =
                    self.window.slice(offset + FRAME_HEADER_BYTES as u64, header.length as usize);
                Step::Record { offset, position: header.position, durable_upto, payload }
            }
        }
    }

    fn follows(&self, header: &FrameHeader) -> bool {
        header.position
            == match header.kind {
                FrameKind::Record => self.expected,
                FrameKind::Seal => before(self.expected),
            }
    }

    /// From the current offset to the next frame that can stand behind it.
    fn skip(&mut self, end: u64) -> io::Result<Gap> {
        let (start, from) = (self.offset, self.expected);
        let mut gap = Gap {
            offset: start,
            bytes: 0,
            from,
            to: None,
            durable_upto: Position::ZERO,
            seen: Position::ZERO,
        };
        let mut at = start;
        while at + FRAME_OVERHEAD_BYTES as u64 <= end {
            match self.at(at, end)? {
                At::Frame(header) if header.position >= floor(header.kind, from) => {
                    let to = match header.kind {
                        FrameKind::Record => before(header.position),
                        FrameKind::Seal => header.position,
                    };
                    gap.bytes = at - start;
                    gap.to = Some(to);
                    self.expected = to.next();
                    self.offset = at;
                    return Ok(gap);
                }
                At::Frame(header) | At::Header(header) => {
                    gap.durable_upto = gap.durable_upto.max(header.durable_upto);
                    gap.seen = gap.seen.max(header.position);
                    // The checksum vouches for the length.
                    at += header.frame_bytes() as u64;
                }
                At::Nothing => at = self.window.next_candidate(at + 1, end)?,
            }
        }
        gap.bytes = end - start;
        self.offset = end;
        Ok(gap)
    }

    fn at(&mut self, offset: u64, end: u64) -> io::Result<At> {
        let Some(bytes) = self.window.get(offset, FRAME_HEADER_BYTES, end)? else {
            return Ok(At::Nothing);
        };
        let header =
            bytes.first_chunk().and_then(|bytes| FrameHeader::parse(self.salt, offset, bytes));
        let Some(header) = header else { return Ok(At::Nothing) };
        match self.window.get(offset, header.frame_bytes(), end)? {
            Some(frame) if header.matches(&frame[FRAME_HEADER_BYTES..]) => Ok(At::Frame(header)),
            _ => Ok(At::Header(header)),
        }
    }
}

fn floor(kind: FrameKind, expected: Position) -> Position {
    match kind {
        FrameKind::Record => expected,
        FrameKind::Seal => before(expected),
    }
}

/// The piece of the file that is in memory. Payloads are slices of it, so that a record costs no
/// copy; when none is held any more, its memory is used again.
struct Window {
    file: Arc<dyn File>,
    start: u64,
    bytes: Bytes,
    lenient: bool,
    unreadable: Option<io::Error>,
}

impl Window {
    /// `length` bytes at `offset`; `None` if they do not lie before `end` or the file is shorter.
    fn get(&mut self, offset: u64, length: usize, end: u64) -> io::Result<Option<&[u8]>> {
        if self.held(offset) < length {
            let available = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
            if available < length {
                return Ok(None);
            }
            self.fill(offset, available.min(CHUNK_BYTES.max(length)))?;
            if self.bytes.len() < length {
                return Ok(None);
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "within the window")]
        let from = (offset - self.start) as usize;
        Ok(Some(&self.bytes[from..from + length]))
    }

    /// How many bytes of the window lie at and behind `offset`.
    fn held(&self, offset: u64) -> usize {
        match offset.checked_sub(self.start).map(usize::try_from) {
            Some(Ok(from)) => self.bytes.len().saturating_sub(from),
            _ => 0,
        }
    }

    fn fill(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let mut buffer =
            std::mem::take(&mut self.bytes).try_into_mut().unwrap_or_else(|_| BytesMut::new());
        buffer.resize(length, 0);
        let read = match read_full_at(&*self.file, &mut buffer, offset) {
            Err(_) if self.lenient => self.fill_by_sector(&mut buffer, offset),
            read => read?,
        };
        buffer.truncate(read);
        self.start = offset;
        self.bytes = buffer.freeze();
        Ok(())
    }

    /// Reads what can be read, and leaves zeros for the rest: no frame has a checksum of zeros.
    fn fill_by_sector(&mut self, buffer: &mut [u8], offset: u64) -> usize {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            #[expect(clippy::cast_possible_truncation, reason = "a remainder")]
            let rest = SECTOR_BYTES - (at % SECTOR_BYTES as u64) as usize;
            let to = buffer.len().min(filled + rest);
            let sector = &mut buffer[filled..to];
            match read_full_at(&*self.file, sector, at) {
                Ok(read) if read < sector.len() => return filled + read,
                Ok(_) => {}
                Err(error) => {
                    sector.fill(0);
                    self.unreadable.get_or_insert(error);
                }
            }
            filled = to;
        }
        filled
    }

    /// A part of what the last `get` returned.
    fn slice(&self, offset: u64, length: usize) -> Bytes {
        #[expect(clippy::cast_possible_truncation, reason = "within the window")]
        let from = (offset - self.start) as usize;
        self.bytes.slice(from..from + length)
    }

    /// The next offset at or behind `at` where a frame may begin; `end` if there is none.
    fn next_candidate(&mut self, mut at: u64, end: u64) -> io::Result<u64> {
        while let Some(first) = self.get(at, 1, end)? {
            let _ = first;
            #[expect(clippy::cast_possible_truncation, reason = "within the window")]
            let from = (at - self.start) as usize;
            let rest = &self.bytes[from..];
            if let Some(found) = rest.iter().position(|&byte| byte == FRAME_FIRST_BYTE) {
                return Ok((at + found as u64).min(end));
            }
            at += rest.len() as u64;
        }
        Ok(end)
    }
}
