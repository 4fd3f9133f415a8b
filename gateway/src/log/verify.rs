//! Reads a whole log and changes nothing, while the gateway runs or not.

use super::{
    LogError,
    files::{Files, Open, RealFiles},
    format::{self, Head, SEGMENT_HEADER_BYTES, Salt},
    recovery::Damaged,
    segment::{self, before},
    state::{self, StateFile},
    survey::Survey,
};
use crate::record::Position;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The log; `None` if nothing that can be read says so.
    pub uuid: Option<Uuid>,
    /// Every position below it may have been deleted; `None` if `log.low` cannot be read.
    pub low: Option<Position>,
    /// The highest position that the log itself says to be durable.
    pub durable_upto: Position,
    /// Each segment, ascending.
    pub segments: Vec<SegmentReport>,
    /// Acknowledged data that is damaged or missing.
    pub damaged: Vec<Damaged>,
    /// Length in bytes of what follows the last whole record and nothing vouches for: a write in
    /// progress, or what a crash left. The next start cuts it.
    pub unfinished_bytes: u64,
}

/// What one segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub path: PathBuf,
    /// Its first position.
    pub base: Position,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whole records in it.
    pub records: u64,
    /// The last of them; the position before `base` if there is none.
    pub last: Position,
    /// A seal is the last thing in it.
    pub sealed: bool,
    /// What is damaged or missing in it.
    pub damaged: Vec<Damaged>,
}

impl Report {
    /// Whole records in the log.
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }

    /// Acknowledged records that are lost.
    pub fn lost(&self) -> u64 {
        self.damaged.iter().map(Damaged::records).sum()
    }
}

impl SegmentReport {
    /// `last` is the position with which the segment should end; what begins at or behind
    /// `durable_end` is torn, not damaged.
    pub(super) fn new(
        path: PathBuf,
        base: Position,
        bytes: u64,
        survey: &Survey,
        last: Position,
        durable_end: u64,
    ) -> Self {
        let damage = |from, to, offset, bytes| Damaged {
            from,
            to,
            segment: path.clone(),
            offset,
            bytes,
            copy: None,
        };
        let mut damaged: Vec<Damaged> = survey
            .gaps
            .iter()
            .filter(|gap| gap.offset < durable_end)
            .map(|gap| damage(gap.from, gap.to.unwrap_or(last), gap.offset, gap.bytes))
            .collect();
        if survey.trailing().is_none() && survey.last < last {
            damaged.push(damage(survey.last.next(), last, bytes, 0));
        }
        let (records, last, sealed) = (survey.records, survey.last, survey.sealed);
        Self { path, base, bytes, records, last, sealed, damaged }
    }
}

/// Walks every frame of the log in `dir`.
///
/// # Errors
/// A file cannot be read, or is of a newer format.
pub fn verify(dir: &Path) -> Result<Report, LogError> {
    verify_with(&RealFiles, dir)
}

/// [`verify`] on any file system.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(files: &dyn Files, dir: &Path) -> Result<Report, LogError> {
    let meta = state::load(files, dir, StateFile::Meta)?;
    let low = state::load(files, dir, StateFile::Low)?;
    let names = files.list(dir).map_err(LogError::io("list", dir))?;
    let mut bases: Vec<Position> = names.iter().filter_map(|name| segment::base_of(name)).collect();
    bases.sort_unstable();
    let mut heads = Vec::with_capacity(bases.len());
    for base in &bases {
        let path = dir.join(segment::name(*base));
        let bytes = state::read_head(files, &path).map_err(LogError::io("read", &path))?;
        match format::parse_segment_header(&bytes) {
            Head::Newer(version) => return Err(LogError::Newer { path, version }),
            head => heads.push(head),
        }
    }
    let uuid = meta
        .map(|meta| meta.uuid)
        .or_else(|| heads.iter().find_map(uuid_of))
        .or(low.map(|low| low.uuid));
    let low_mark = low.filter(|low| Some(low.uuid) == uuid).map(|low| Position(low.value));
    let mut report = Report {
        uuid,
        low: low_mark,
        durable_upto: before(low_mark.unwrap_or_default()),
        segments: Vec::new(),
        damaged: Vec::new(),
        unfinished_bytes: 0,
    };
    let Some(uuid) = uuid else { return Ok(report) };
    let mut next = low_mark.or(bases.first().copied()).unwrap_or_default();
    for (index, (&base, head)) in bases.iter().zip(&heads).enumerate() {
        let path = dir.join(segment::name(base));
        if uuid_of(head).is_some() {
            report.durable_upto = report.durable_upto.max(before(base));
        }
        report.header_and_gap(&path, *head, base, next);
        let following = bases.get(index + 1).copied();
        next = report.segment(files, path, uuid, base, following)?;
    }
    Ok(report)
}

fn uuid_of(head: &Head) -> Option<Uuid> {
    match head {
        Head::Valid { uuid, .. } => Some(*uuid),
        _ => None,
    }
}

impl Report {
    /// Notes a damaged header, and records missing before the segment.
    fn header_and_gap(&mut self, path: &Path, head: Head, base: Position, next: Position) {
        let damage = |from, to, bytes| Damaged {
            from,
            to,
            segment: path.to_owned(),
            offset: 0,
            bytes,
            copy: None,
        };
        if next < base {
            self.damaged.push(damage(next, before(base), 0));
        }
        if uuid_of(&head).is_none() {
            self.damaged.push(damage(base, before(base), SEGMENT_HEADER_BYTES as u64));
        }
    }

    /// Adds a segment, and gives the position that should follow it.
    fn segment(
        &mut self,
        files: &dyn Files,
        path: PathBuf,
        uuid: Uuid,
        base: Position,
        following: Option<Position>,
    ) -> Result<Position, LogError> {
        let file = files.open(&path, Open::Read).map_err(LogError::io("open", &path))?;
        let bytes = file.size().map_err(LogError::io("measure", &path))?;
        let survey = Survey::take(file, Salt::new(uuid, base), base, bytes)
            .map_err(LogError::io("read", &path))?;
        self.durable_upto = self.durable_upto.max(survey.durable_upto);
        let (last, durable_end) = match following {
            Some(following) => (before(following), bytes),
            // Of the last segment only what it vouches for itself has to be there.
            None => {
                let torn = survey.gaps.iter().find(|gap| gap.from > self.durable_upto);
                let durable_end = torn.map_or(bytes, |gap| gap.offset);
                self.unfinished_bytes = bytes.saturating_sub(durable_end);
                (self.durable_upto, durable_end)
            }
        };
        let report = SegmentReport::new(path, base, bytes, &survey, last, durable_end);
        self.damaged.extend(report.damaged.iter().cloned());
        let next = following.unwrap_or(report.last.max(last).next());
        self.segments.push(report);
        Ok(next)
    }
}
