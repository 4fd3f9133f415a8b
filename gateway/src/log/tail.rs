//! Reads the log without opening it: beside the gateway that writes it, or without one. Takes no
//! lock and changes nothing.

use super::{
    LogError,
    files::{File, Files, Open},
    format::Salt,
    found,
    scan::{Gap, Scanner, Step},
    segment,
};
use crate::record::Position;
use bytes::Bytes;
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};
use uuid::Uuid;

/// A place in a log that somebody else may be writing.
pub struct Tail {
    files: Arc<dyn Files>,
    dir: PathBuf,
    uuid: Uuid,
    /// The next position.
    next: Position,
    at: Option<Place>,
}

struct Place {
    base: Position,
    file: Arc<dyn File>,
    scanner: Scanner,
    /// The next segment, once there is one.
    following: Option<Position>,
}

/// What was found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tailed {
    /// A whole record. The newest ones may not be durable yet.
    Record(Position, Bytes),
    /// These records are damaged or missing, or were deleted meanwhile.
    Missing(Position, Position),
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tail({}, at {})", self.dir.display(), self.next)
    }
}

impl Tail {
    /// The bases of the segments in `dir`, ascending.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn bases(dir: &Path, files: &dyn Files) -> Result<Vec<Position>, LogError> {
        let names = files.list(dir).map_err(LogError::io("list", dir))?;
        let mut bases: Vec<_> = names.iter().filter_map(|name| segment::base_of(name)).collect();
        bases.sort_unstable();
        Ok(bases)
    }

    /// At the first record from `first` on; `None` if there is no log in `dir`.
    ///
    /// # Errors
    /// A file cannot be read, or a newer gateway wrote it.
    pub fn open(
        dir: &Path,
        files: Arc<dyn Files>,
        first: Position,
    ) -> Result<Option<Self>, LogError> {
        let uuid = if files.is_dir(dir) { found::peek(&*files, dir)? } else { None };
        Ok(uuid.map(|uuid| Self { files, dir: dir.to_owned(), uuid, next: first, at: None }))
    }

    /// The next record, or what is missing before it; `None` if nothing more is written yet. The
    /// call may be made again later.
    ///
    /// # Errors
    /// A file cannot be read.
    #[expect(clippy::should_implement_trait, reason = "it goes on after `None`")]
    pub fn next(&mut self) -> Result<Option<Tailed>, LogError> {
        loop {
            self.enter()?;
            let Some(place) = &mut self.at else { return Ok(None) };
            let path = self.dir.join(segment::name(place.base));
            let end = place.file.size().map_err(LogError::io("measure", &path))?;
            let (offset, expected) = (place.scanner.offset(), place.scanner.expected());
            let step = place.scanner.step(end).map_err(LogError::io("read", &path))?;
            match (step, place.following) {
                (Step::Record { position, payload, .. }, _) => {
                    if position >= self.next {
                        self.next = position.next();
                        return Ok(Some(Tailed::Record(position, payload)));
                    }
                }
                (Step::Seal { .. }, _) => {}
                (Step::Damage(Gap { to: Some(to), .. }), _) => {
                    if let Some(missing) = self.missing(to) {
                        return Ok(Some(missing));
                    }
                }
                (Step::Damage(_) | Step::End, Some(following)) => {
                    self.at = None;
                    if let Some(missing) = self.missing(segment::before(following)) {
                        return Ok(Some(missing));
                    }
                }
                // The end, or half a frame, which is being written: what is in memory of it is
                // stale by then. A segment that is followed by another does not grow any more.
                (Step::Damage(_) | Step::End, None) => {
                    let salt = Salt::new(self.uuid, place.base);
                    place.scanner = Scanner::at_frame(place.file.clone(), salt, offset, expected);
                    let base = place.base;
                    let bases = Self::bases(&self.dir, &*self.files)?;
                    place.following = bases.into_iter().find(|found| *found > base);
                    if place.following.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn missing(&mut self, to: Position) -> Option<Tailed> {
        let from = self.next;
        self.next = from.max(to.next());
        (from <= to).then_some(Tailed::Missing(from, to))
    }

    /// The segment that holds the next record, or will.
    fn enter(&mut self) -> Result<(), LogError> {
        if self.at.is_none() {
            let bases = Self::bases(&self.dir, &*self.files)?;
            let index = bases.partition_point(|base| *base <= self.next).saturating_sub(1);
            let Some(&base) = bases.get(index) else { return Ok(()) };
            let path = self.dir.join(segment::name(base));
            let file = match self.files.open(&path, Open::Read) {
                Ok(file) => file,
                // Retention was quicker; the next call finds what is left.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(LogError::io("open", path)(error)),
            };
            self.next = self.next.max(base);
            let scanner = Scanner::new(Arc::clone(&file), Salt::new(self.uuid, base), base);
            self.at = Some(Place { base, file, scanner, following: None });
        }
        Ok(())
    }
}
