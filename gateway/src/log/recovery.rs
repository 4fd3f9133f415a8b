//! What is done when the log is opened: which log it is, what of it can be read, what was torn by a
//! crash and is cut, what is damaged and is only reported.
//!
//! A power cut may keep later sectors of a group that was not synced and lose earlier ones. So what
//! counts is not where the damage is but what was known to be durable: damage above that is a torn
//! tail, nothing in it was acknowledged, and it is cut with all that follows. Damage below it is
//! corruption of acknowledged data: everything else is kept, and nothing is ever cut.

use super::{
    Check, LogError, Options,
    aside::{self, Stretch},
    files::{File, Files, Open, read_full_at, write_all_at},
    format::{
        self, FRAME_OVERHEAD_BYTES, FrameHeader, FrameKind, Head, SEGMENT_HEADER_BYTES, Salt,
    },
    segment::{self, Extent, Segment, before},
    state::{self, State, StateFile},
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

/// A segment as it was found.
struct Found {
    base: Position,
    path: PathBuf,
    head: Head,
    file: Arc<dyn File>,
    bytes: u64,
}

impl Found {
    fn created_at_ns(&self) -> i64 {
        match self.head {
            Head::Valid { created_at_ns, .. } => created_at_ns,
            _ => 0,
        }
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> LogError {
        LogError::io(what, &self.path)
    }

    fn stretch(&self, offset: u64, bytes: u64) -> Stretch<'_> {
        Stretch { file: &*self.file, base: self.base, offset, bytes }
    }
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
        .filter(|segment| matches!(segment.head, Head::Valid { .. }))
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
        if segment.head == Head::Damaged {
            work.damaged(segment, 0, segment.bytes.min(SEGMENT_HEADER_BYTES as u64), None);
        }
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

/// All segments, by number.
fn find(files: &dyn Files, dir: &Path) -> Result<Vec<Found>, LogError> {
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
            let file = files.open(&path, Open::Write).map_err(LogError::io("open", &path))?;
            let bytes = file.size().map_err(LogError::io("measure", &path))?;
            let mut header = [0; SEGMENT_HEADER_BYTES];
            let read = read_full_at(&*file, &mut header, 0).map_err(LogError::io("read", &path))?;
            let head = format::parse_segment_header(&header[..read]);
            match head {
                Head::Newer(version) => Err(LogError::Newer { path, version }),
                Head::Valid { value, .. } if value != base.0 => {
                    Err(LogError::Misnamed { path, base: Position(value) })
                }
                _ => Ok(Found { base, path, head, file, bytes }),
            }
        })
        .collect()
}

/// Which log this is, and its low-water mark. State files that are missing or damaged are made
/// anew from the segments.
fn identify(
    files: &dyn Files,
    dir: &Path,
    found: &[Found],
    known_durable: Position,
) -> Result<(Uuid, Position, Recovery), LogError> {
    let meta = state::load(files, dir, StateFile::Meta)?;
    let low = state::load(files, dir, StateFile::Low)?;
    let of_segments = found.iter().find_map(|segment| match segment.head {
        Head::Valid { uuid, .. } => Some(uuid),
        _ => None,
    });
    let known = meta.map(|meta| meta.uuid).or(of_segments).or(low.map(|low| low.uuid));
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
fn finish_deletions(
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

impl Work<'_> {
    /// Removes segments at the end that a crash kept from being begun.
    fn drop_unborn(&mut self, found: &mut Vec<Found>) -> Result<(), LogError> {
        while let Some(last) = found.last() {
            if matches!(last.head, Head::Valid { .. }) || self.known >= last.base {
                break;
            }
            let survey = self.survey(last)?;
            let any_frame =
                survey.gaps.iter().any(|gap| gap.seen > Position::ZERO || gap.to.is_some());
            if survey.records > 0 || survey.sealed || any_frame {
                break;
            }
            self.torn(last, 0)?;
            self.files.remove(&last.path).map_err(last.io("remove"))?;
            self.files.sync_dir(self.dir).map_err(LogError::io("sync", self.dir))?;
            found.pop();
        }
        Ok(())
    }

    /// Checks a segment that is followed by another: all of it is durable, so whatever is wrong
    /// with it is damage.
    fn sealed(&mut self, segment: &Found, following: Position) -> Result<(), LogError> {
        if self.check == Check::Tail && self.ends_well(segment, following)? {
            return Ok(());
        }
        let survey = self.survey(segment)?;
        for gap in &survey.gaps {
            let to = gap.to.unwrap_or(before(following));
            self.damaged(segment, gap.offset, gap.bytes, Some((gap.from, to)));
        }
        if survey.trailing().is_none() {
            self.missing(survey.last.next(), following, &segment.path);
        }
        Ok(())
    }

    /// Whether the segment ends with the seal that a roll leaves: then it is whole, as far as one
    /// can tell without reading it.
    fn ends_well(&self, segment: &Found, following: Position) -> Result<bool, LogError> {
        let Some(at) = segment.bytes.checked_sub(FRAME_OVERHEAD_BYTES as u64) else {
            return Ok(false);
        };
        let mut frame = [0; FRAME_OVERHEAD_BYTES];
        read_full_at(&*segment.file, &mut frame, at).map_err(segment.io("read"))?;
        let salt = Salt::new(self.uuid, segment.base);
        let Some((header, rest)) = frame.split_first_chunk() else { return Ok(false) };
        Ok(FrameHeader::parse(salt, at, header).is_some_and(|header| {
            header.kind == FrameKind::Seal
                && header.matches(rest)
                && header.position == before(following)
        }))
    }

    /// The last segment, where damage may be a torn tail.
    fn last(&mut self, found: &Found) -> Result<(Segment, Option<Active>), LogError> {
        let survey = self.survey(found)?;
        let vouched = survey.durable_upto;
        let known = self.known.max(vouched);
        let cut = survey.gaps.iter().find(|gap| gap.from > known);
        let mut end = found.bytes.max(SEGMENT_HEADER_BYTES as u64);
        let mut last = survey.last;
        let mut usable = matches!(found.head, Head::Valid { .. });
        let sealed = survey.sealed && cut.is_none();
        for gap in survey.gaps.iter().filter(|gap| gap.from <= known) {
            let to = gap.to.unwrap_or(known.max(gap.seen));
            self.damaged(found, gap.offset, gap.bytes, Some((gap.from, to)));
        }
        if let Some(gap) = cut {
            self.torn(found, gap.offset)?;
            found.file.set_len(gap.offset).map_err(found.io("cut"))?;
            end = gap.offset;
            last = before(gap.from);
        } else if let Some(gap) = survey.trailing() {
            last = known.max(gap.seen);
            usable = false;
        } else if last < known {
            self.missing(last.next(), known.next(), &found.path);
            last = known;
            usable = false;
        }
        // The header too, as long as nothing behind it vouches for it.
        let header = usable && vouched < found.base;
        let unvouched = if header { Some(0) } else { survey.first_above(vouched) };
        self.make_durable(found, unvouched.unwrap_or(end), end)?;
        let segment = Segment::new(
            found.base,
            found.path.clone(),
            found.created_at_ns(),
            Extent { end, last },
        );
        let active = usable.then(|| Active { file: Arc::clone(&found.file), sealed });
        Ok((segment, active))
    }

    /// What nothing vouches for may be in the page cache only, and after a failed sync the kernel
    /// takes such pages for clean. Written again, they are dirty, and a sync means something.
    fn make_durable(&self, found: &Found, from: u64, end: u64) -> Result<(), LogError> {
        let stretch = found.stretch(from, end.saturating_sub(from));
        aside::for_each_chunk(&stretch, |at, chunk| write_all_at(&*found.file, chunk, at))
            .map_err(found.io("rewrite"))?;
        found.file.sync_all().map_err(found.io("sync"))?;
        self.files.sync_dir(self.dir).map_err(LogError::io("sync", self.dir))
    }

    fn survey(&self, found: &Found) -> Result<Survey, LogError> {
        let salt = Salt::new(self.uuid, found.base);
        Survey::take(Arc::clone(&found.file), salt, found.base, found.bytes)
            .map_err(found.io("read"))
    }

    /// Sets aside everything from `offset` on, unless it is zeros only: space that was reserved and
    /// never written.
    fn torn(&mut self, found: &Found, offset: u64) -> Result<(), LogError> {
        let mut content = offset;
        let tail = found.stretch(offset, found.bytes.saturating_sub(offset));
        aside::for_each_chunk(&tail, |at, chunk| {
            if let Some(last) = chunk.iter().rposition(|&byte| byte != 0) {
                content = at + last as u64 + 1;
            }
            Ok(())
        })
        .map_err(found.io("read"))?;
        let bytes = content - offset;
        if bytes > 0 {
            let copy = aside::keep_torn(self.files, self.dir, &found.stretch(offset, bytes));
            self.report.torn.push(Torn { segment: found.path.clone(), offset, bytes, copy });
        }
        Ok(())
    }

    fn damaged(
        &mut self,
        found: &Found,
        offset: u64,
        bytes: u64,
        lost: Option<(Position, Position)>,
    ) {
        let copy = match bytes {
            0 => None,
            _ => aside::keep_damaged(self.files, self.dir, &found.stretch(offset, bytes)),
        };
        let (from, to) = lost.unwrap_or((found.base, before(found.base)));
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
