//! Reads records in order, up to the durable position and never beyond.

use super::{
    ReadError,
    files::Open,
    format::Salt,
    scan::{Scanner, Step},
    segment::{Segment, before},
    shared::Inner,
};
use crate::record::Position;
use bytes::Bytes;
use std::sync::Arc;

/// A place in the log. Reads block for as long as the disk takes.
pub struct Reader {
    shared: Arc<Inner>,
    /// The position to be given next.
    wanted: Position,
    at: Option<Place>,
    /// A record that was read before it was published as durable.
    early: Option<(Position, Bytes)>,
}

struct Place {
    segment: Arc<Segment>,
    scanner: Scanner,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader(at {})", self.wanted)
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Inner>, first: Position) -> Self {
        let wanted = first.max(Position::ZERO.next());
        Self { shared, wanted, at: None, early: None }
    }

    /// The position that [`Reader::next`] gives next.
    pub fn position(&self) -> Position {
        self.wanted
    }

    /// Goes on with the record at `position`.
    pub fn seek(&mut self, position: Position) {
        *self = Self::new(Arc::clone(&self.shared), position);
    }

    /// The next record; `None` if there is none yet that is durable.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] is returned once, and the next call goes on behind the damage. After
    /// [`ReadError::Io`] the same record is tried again. [`ReadError::Deleted`] stays.
    #[expect(clippy::should_implement_trait, reason = "it goes on after `None`")]
    pub fn next(&mut self) -> Result<Option<(Position, Bytes)>, ReadError> {
        if let Some(record) = self.early.take() {
            return Ok(self.give(record));
        }
        loop {
            let Some((last, following, step)) = self.step()? else { return Ok(None) };
            match step {
                Step::Record { position, payload, .. } if position >= self.wanted => {
                    return Ok(self.give((position, payload)));
                }
                Step::Record { .. } | Step::Seal { .. } => {}
                Step::Damage(gap) => {
                    self.pass(gap.to.unwrap_or(last))?;
                }
                Step::End => {
                    if !following {
                        return Ok(None);
                    }
                    self.at = None;
                    self.pass(last)?;
                }
            }
        }
    }

    /// One step in the segment where the wanted position is, the last position of that segment,
    /// and whether another one follows.
    fn step(&mut self) -> Result<Option<(Position, bool, Step)>, ReadError> {
        // At the very end of a segment that was deleted, the next one is still there.
        if self.at.as_ref().is_some_and(|place| place.segment.is_deleted()) {
            self.at = None;
        }
        let place = match &mut self.at {
            Some(place) => place,
            None => {
                let Some(place) = enter(&self.shared, self.wanted)? else { return Ok(None) };
                self.at.insert(place)
            }
        };
        let segment = Arc::clone(&place.segment);
        // In this order: if there is a following segment, the extent does not change any more.
        let following = self.shared.after(segment.base);
        let extent = segment.extent();
        let last = following.as_ref().map_or(extent.last, |following| before(following.base));
        let offset = place.scanner.offset();
        match place.scanner.step(extent.end) {
            Ok(step) => Ok(Some((last, following.is_some(), step))),
            Err(source) => Err(ReadError::Io { path: segment.path.clone(), offset, source }),
        }
    }

    fn give(&mut self, record: (Position, Bytes)) -> Option<(Position, Bytes)> {
        if record.0 > *self.shared.durable.borrow() {
            self.early = Some(record);
            return None;
        }
        self.wanted = record.0.next();
        Some(record)
    }

    /// Goes on behind `to`; an error if something that was wanted is left out.
    fn pass(&mut self, to: Position) -> Result<(), ReadError> {
        let from = self.wanted;
        if to < from {
            return Ok(());
        }
        self.wanted = to.next();
        self.shared.metrics.damaged_records.increment(to.0 - from.0 + 1);
        Err(ReadError::Damaged { from, to })
    }
}

fn enter(shared: &Inner, wanted: Position) -> Result<Option<Place>, ReadError> {
    let Some(segment) = shared.containing(wanted) else { return Ok(None) };
    if segment.base > wanted {
        return Err(deleted(shared, wanted));
    }
    let file = match shared.files.open(&segment.path, Open::Read) {
        Ok(file) => file,
        Err(_) if segment.is_deleted() => return Err(deleted(shared, wanted)),
        Err(source) => {
            return Err(ReadError::Io { path: segment.path.clone(), offset: 0, source });
        }
    };
    let scanner = Scanner::new(file, Salt::new(shared.uuid, segment.base), segment.base);
    Ok(Some(Place { segment, scanner }))
}

fn deleted(shared: &Inner, wanted: Position) -> ReadError {
    let oldest = shared.list().first().map_or(wanted, |segment| segment.base);
    ReadError::Deleted { wanted, oldest }
}
