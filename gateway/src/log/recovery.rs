//! What is done when the log is opened: which log it is, what of it can be read, what was torn by a
//! crash and is cut, what is damaged and is only reported.
//!
//! A power cut may keep later sectors of a group that was not synced and lose earlier ones. So what
//! counts is not where the damage is but what was known to be durable: damage above that is a torn
//! tail, nothing in it was acknowledged, and it is cut with all that follows. Damage below it is
//! corruption of acknowledged data: everything else is kept, and nothing is ever cut.

use super::{
    Check, LogError, Options, aside,
    files::{File, Files, Open, read_full_at, write_all_at},
    format::{self, FRAME_OVERHEAD_BYTES, FrameHeader, FrameKind, SEGMENT_HEADER_BYTES, Salt},
    found::{Found, find, finish_deletions, identify},
    segment::{Extent, Segment, before},
    state::{self, StateFile},
    survey::Survey,
};
use crate::record::Position;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// What opening the log found and did.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// The log did not exist before.
    pub created: bool,
    /// The first position that is kept.
    pub oldest: Position,
    /// The last durable position; every record up to it may be read, unless it is in `damaged`.
    pub last: Position,
    /// What a crash left unfinished, and was cut. Nothing in it was acknowledged.
    pub torn: Vec<Torn>,
    /// Acknowledged data that cannot be read. An alert for a person.
    pub damaged: Vec<Damaged>,
    /// `log.meta` was missing or damaged, and was made anew from the segments.
    pub meta_rebuilt: bool,
    /// `log.low` was missing or damaged, and was made anew from the segments.
    pub low_mark_rebuilt: bool,
    /// Segments that a crash kept from being deleted, and that were deleted now.
    pub deletions_finished: u64,
}

/// The unfinished end of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub segment: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How much was cut, without zeros at the end.
    pub bytes: u64,
    /// Where a copy is kept; `None` if that failed.
    pub copy: Option<PathBuf>,
}

/// Acknowledged data that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The first position lost.
    pub from: Position,
    /// The last one; below `from` if only a header or a seal is damaged and no record is lost.
    pub to: Position,
    /// The segment in which they should be.
    pub segment: PathBuf,
    /// Where the damage begins.
    pub offset: u64,
    /// Its length; 0 if the records are simply not there.
    pub bytes: u64,
    /// Where a copy is kept; `None` if that failed or there is nothing to copy.
    pub copy: Option<PathBuf>,
}

impl Damaged {
    /// How many records are lost.
    pub fn records(&self) -> u64 {
        (self.to.0 + 1).saturating_sub(self.from.0)
    }
}

/// What the writer sets out from.
pub(super) struct Recovered {
    pub(super) uuid: Uuid,
    pub(super) segments: Vec<Segment>,
    /// The file to go on with; `None` if a new segment has to be begun.
    pub(super) active: Option<Active>,
    pub(super) next: Position,
    pub(super) report: Recovery,
}

/// The last segment, in which one can go on.
pub(super) struct Active {
    pub(super) file: Arc<dyn File>,
    pub(super) sealed: bool,
}

struct Work<'a> {
    files: &'a dyn Files,
    dir: &'a Path,
    check: Check,
    uuid: Uuid,
    /// The highest position that anything says to have been durable.
    known: Position,
    report: Recovery,
}

/// Recovers the log in `options.dir`, which exists and is locked.
pub(super) fn recover(
    files: &dyn Files,
    options: &Options,
    known_durable: Position,
) -> Result<Recovered, LogError> {
    let dir = options.dir.as_path();
    for which in [StateFile::Meta, StateFile::Low] {
        state::remove_temporary(files, dir, which)?;
    }
    let mut found = find(files, dir)?;
    let (uuid, low, mut report) = identify(files, dir, &found, known_durable)?;
    report.deletions_finished = finish_deletions(files, dir, &mut found, low)?;
    let known = found
        .iter()
        .filter(|segment| segment.is_valid())
        .map(|segment| before(segment.base))
        .fold(known_durable.max(before(low)), Position::max);
    let mut work = Work { files, dir, check: options.check, uuid, known, report };
    if work.report.created {
        // Only if the directory was lost or another is configured, while a sink remembers more.
        work.missing(Position::ZERO.next(), low, dir);
    }
    work.drop_unborn(&mut found)?;

    let mut segments = Vec::with_capacity(found.len());
    let mut next = low;
    for (index, segment) in found.iter().enumerate() {
        work.missing(next, segment.base, &segment.path);
        let Some(following) = found.get(index + 1) else { break };
        work.sealed(segment, following.base)?;
        let extent = Extent { end: segment.bytes, last: before(following.base) };
        next = following.base;
        segments.push(Segment::new(
            segment.base,
            segment.path.clone(),
            segment.created_at_ns(),
            extent,
        ));
    }
    let active = match found.last() {
        Some(last) => {
            let (segment, active) = work.last(last)?;
            next = segment.extent().last.next();
            segments.push(segment);
            active
        }
        None => {
            let following = work.known.next();
            work.missing(low, following, dir);
            next = following;
            None
        }
    };
    work.report.last = before(next);
    work.report.oldest = segments.first().map_or(next, |segment| segment.base);
    Ok(Recovered { uuid, segments, active, next, report: work.report })
}

impl Work<'_> {
    /// Removes segments at the end that a crash kept from being begun.
    fn drop_unborn(&mut self, found: &mut Vec<Found>) -> Result<(), LogError> {
        while let Some(last) = found.last() {
            if last.is_valid() || self.known >= last.base {
                break;
            }
            let file = last.open(self.files, Open::Read)?;
            let mut survey = self.survey(last, &file)?;
            let any_frame =
                survey.gaps.iter().any(|gap| gap.seen > Position::ZERO || gap.to.is_some());
            if survey.records > 0 || survey.sealed || any_frame {
                break;
            }
            if let Some(error) = survey.unreadable.take() {
                return Err(last.io("read")(error));
            }
            self.torn(last, &*file, 0)?;
            self.files.remove(&last.path).map_err(last.io("remove"))?;
            self.files.sync_dir(self.dir).map_err(LogError::io("sync", self.dir))?;
            found.pop();
        }
        Ok(())
    }

    /// Checks a segment that is followed by another: all of it is durable, so whatever is wrong
    /// with it is damage.
    fn sealed(&mut self, segment: &Found, following: Position) -> Result<(), LogError> {
        let file = segment.open(self.files, Open::Read)?;
        if !segment.is_valid() {
            let bytes = segment.bytes.min(SEGMENT_HEADER_BYTES as u64);
            self.damaged(segment, &*file, 0, bytes, (segment.base, before(segment.base)));
        }
        if self.check == Check::Tail && self.ends_well(segment, &*file, following) {
            return Ok(());
        }
        let survey = self.survey(segment, &file)?;
        for gap in &survey.gaps {
            let to = gap.to.unwrap_or(before(following));
            self.damaged(segment, &*file, gap.offset, gap.bytes, (gap.from, to));
        }
        if survey.trailing().is_none() {
            self.missing(survey.last.next(), following, &segment.path);
        }
        Ok(())
    }

    /// Whether the segment ends with the seal that a roll leaves: then it is whole, as far as one
    /// can tell without reading it.
    fn ends_well(&self, segment: &Found, file: &dyn File, following: Position) -> bool {
        let mut frame = [0; FRAME_OVERHEAD_BYTES];
        let Some(at) = segment.bytes.checked_sub(frame.len() as u64) else { return false };
        if read_full_at(file, &mut frame, at).is_err() {
            return false;
        }
        let salt = Salt::new(self.uuid, segment.base);
        let Some((header, rest)) = frame.split_first_chunk() else { return false };
        FrameHeader::parse(salt, at, header).is_some_and(|header| {
            header.kind == FrameKind::Seal
                && header.matches(rest)
                && header.position == before(following)
        })
    }

    /// The last segment, where damage may be a torn tail.
    fn last(&mut self, found: &Found) -> Result<(Segment, Option<Active>), LogError> {
        let file = found.open(self.files, Open::Write)?;
        let mut survey = self.survey(found, &file)?;
        let vouched = survey.durable_upto;
        let known = self.known.max(vouched);
        let cut = survey.gaps.iter().find(|gap| gap.from > known).copied();
        let trailing = survey.trailing().copied();
        if cut.or(trailing).is_some()
            && let Some(error) = survey.unreadable.take()
        {
            // What cannot be read may have been acknowledged, and nothing says up to where.
            return Err(found.io("read the end of")(error));
        }
        for gap in survey.gaps.iter().filter(|gap| gap.from <= known) {
            let to = gap.to.unwrap_or(known.max(gap.seen));
            self.damaged(found, &*file, gap.offset, gap.bytes, (gap.from, to));
        }
        let mut end = found.bytes.max(SEGMENT_HEADER_BYTES as u64);
        let mut last = survey.last;
        let mut usable = found.is_valid();
        if let Some(gap) = cut {
            self.torn(found, &*file, gap.offset)?;
            file.set_len(gap.offset).map_err(found.io("cut"))?;
            end = gap.offset;
            last = before(gap.from);
        } else if let Some(gap) = trailing {
            last = known.max(gap.seen);
            usable = false;
        } else if last < known {
            self.missing(last.next(), known.next(), &found.path);
            last = known;
            usable = false;
        }
        let mut created_at_ns = found.created_at_ns();
        if last < found.base && !usable {
            // The next segment would get the same name.
            created_at_ns = self.files.now_ns();
            let header = format::encode_segment_header(self.uuid, found.base, created_at_ns);
            write_all_at(&*file, &header, 0).map_err(found.io("write"))?;
            usable = true;
        } else if !found.is_valid() {
            let bytes = found.bytes.min(SEGMENT_HEADER_BYTES as u64);
            self.damaged(found, &*file, 0, bytes, (found.base, before(found.base)));
        }
        // The header too, as long as nothing behind it vouches for it.
        let unvouched = if vouched < found.base { Some(0) } else { survey.first_above(vouched) };
        self.make_durable(found, &*file, unvouched.unwrap_or(end), end)?;
        let extent = Extent { end, last };
        let segment = Segment::new(found.base, found.path.clone(), created_at_ns, extent);
        let sealed = survey.sealed && cut.is_none();
        Ok((segment, usable.then_some(Active { file, sealed })))
    }

    /// What nothing vouches for may be in the page cache only, and after a failed sync the kernel
    /// takes such pages for clean. Written again, they are dirty, and a sync means something.
    fn make_durable(
        &self,
        found: &Found,
        file: &dyn File,
        from: u64,
        end: u64,
    ) -> Result<(), LogError> {
        let stretch = found.stretch(file, from, end.min(found.bytes).saturating_sub(from));
        aside::for_each_chunk(&stretch, |at, chunk| write_all_at(file, chunk, at))
            .map_err(found.io("rewrite"))?;
        file.sync_all().map_err(found.io("sync"))?;
        self.files.sync_dir(self.dir).map_err(LogError::io("sync", self.dir))
    }

    fn survey(&self, found: &Found, file: &Arc<dyn File>) -> Result<Survey, LogError> {
        let salt = Salt::new(self.uuid, found.base);
        Survey::take(Arc::clone(file), salt, found.base, found.bytes).map_err(found.io("read"))
    }

    /// Sets aside everything from `offset` on, unless it is zeros only: space that was reserved and
    /// never written.
    fn torn(&mut self, found: &Found, file: &dyn File, offset: u64) -> Result<(), LogError> {
        let mut content = offset;
        let tail = found.stretch(file, offset, found.bytes.saturating_sub(offset));
        aside::for_each_chunk(&tail, |at, chunk| {
            if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
                content = at + last as u64 + 1;
            }
            Ok(())
        })
        .map_err(found.io("read"))?;
        let bytes = content - offset;
        if bytes > 0 {
            let stretch = found.stretch(file, offset, bytes);
            let copy = aside::keep_torn(self.files, self.dir, &stretch);
            self.report.torn.push(Torn { segment: found.path.clone(), offset, bytes, copy });
        }
        Ok(())
    }

    fn damaged(
        &mut self,
        found: &Found,
        file: &dyn File,
        offset: u64,
        bytes: u64,
        (from, to): (Position, Position),
    ) {
        let stretch = found.stretch(file, offset, bytes);
        let copy = match bytes {
            0 => None,
            _ => aside::keep_damaged(self.files, self.dir, &stretch),
        };
        let segment = found.path.clone();
        self.report.damaged.push(Damaged { from, to, segment, offset, bytes, copy });
    }

    /// Reports the positions from `from` up to the one before `to`, if there are any.
    fn missing(&mut self, from: Position, to: Position, segment: &Path) {
        if from < to {
            self.report.damaged.push(Damaged {
                from,
                to: before(to),
                segment: segment.to_owned(),
                offset: 0,
                bytes: 0,
                copy: None,
            });
        }
    }
}
