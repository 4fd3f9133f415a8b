//! The one writer of the log. A group of records is gathered in memory, written at once and synced
//! once; only then is anything of it durable.

use super::{
    CommitError, LogError, Options,
    files::{File, Lock, is_full, write_all_at},
    format::{self, FRAME_OVERHEAD_BYTES, MAX_PAYLOAD_BYTES, SEGMENT_HEADER_BYTES, Salt},
    recovery::Active,
    segment::{self, CreateError, Extent, Segment, before},
    shared::Inner,
    state::{self, State, StateFile},
};
use crate::record::Position;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// Most bytes that a group may hold before it has to be committed.
const MAX_GROUP_BYTES: usize = 64 * 1024 * 1024;
/// A group buffer that grew beyond this gives its memory back.
const KEEP_GROUP_BYTES: usize = 8 * 1024 * 1024;
/// What the file system may take for the beginning of a file, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// How long the file system's word on its free space is believed.
const FREE_TTL: Duration = Duration::from_millis(500);

/// Appends to the log. There is one, and one thread has it.
pub struct Writer {
    shared: Arc<Inner>,
    options: Options,
    file: Arc<dyn File>,
    segment: Arc<Segment>,
    salt: Salt,
    /// End of what is durable in the active segment.
    end: u64,
    /// A seal is the last thing in the active segment.
    sealed: bool,
    group: Vec<u8>,
    next: Position,
    durable: Position,
    free: Free,
    _lock: Box<dyn Lock>,
}

/// Free space of the file system as it was last asked for.
struct Free {
    bytes: u64,
    asked: Option<Instant>,
}

/// What retention deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeletedSegments {
    /// Segments.
    pub segments: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({}, durable to {})", self.shared.dir.display(), self.durable)
    }
}

impl Writer {
    /// Goes on in the last segment, or begins a new one.
    pub(super) fn open(
        shared: Arc<Inner>,
        options: Options,
        active: Option<Active>,
        next: Position,
        lock: Box<dyn Lock>,
    ) -> Result<Self, LogError> {
        let last = shared.list().last().cloned();
        let (file, segment, sealed) = match (active, last) {
            (Some(active), Some(segment)) => (active.file, segment, active.sealed),
            _ => {
                let created = segment::create(&*shared.files, &shared.dir, shared.uuid, next);
                let (file, segment) = created.map_err(|error| match error {
                    CreateError::Undone(source) | CreateError::Unknown(source) => {
                        let path = shared.dir.join(segment::name(next));
                        LogError::Io { what: "begin the segment", path, source }
                    }
                })?;
                let segment = Arc::new(segment);
                shared.change(|list| list.push(Arc::clone(&segment)));
                shared.size.fetch_add(SEGMENT_HEADER_BYTES as u64, Ordering::Relaxed);
                (file, segment, false)
            }
        };
        let mut writer = Self {
            salt: Salt::new(shared.uuid, segment.base),
            end: segment.extent().end,
            shared,
            options,
            file,
            segment,
            sealed,
            group: Vec::new(),
            next,
            durable: before(next),
            free: Free { bytes: 0, asked: None },
            _lock: lock,
        };
        // Vouches for what recovery found, so that damage to it is not taken for a torn tail. On a
        // full disk that has to wait.
        match writer.seal() {
            Ok(()) | Err(CommitError::Full { .. }) => Ok(writer),
            Err(error) => {
                let path = writer.segment.path.clone();
                Err(LogError::Io { what: "seal", path, source: io::Error::other(error) })
            }
        }
    }

    /// Adds a record, the parts one after another, to the group in memory, and gives its position.
    /// No input or output happens.
    ///
    /// # Errors
    /// It is larger than a record may be, the group is full, or the log is poisoned. The group is
    /// as it was.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<Position, LogError> {
        if let Some(reason) = self.shared.poison.get() {
            return Err(LogError::Poisoned { reason: Arc::clone(reason) });
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let limit = self.options.max_record_bytes.min(MAX_PAYLOAD_BYTES);
        if bytes > limit as usize {
            return Err(LogError::TooLarge { bytes, limit });
        }
        if !self.group.is_empty()
            && self.group.len() + bytes + FRAME_OVERHEAD_BYTES > MAX_GROUP_BYTES
        {
            return Err(LogError::GroupFull { bytes: self.group.len() });
        }
        let position = self.next;
        let offset = self.end + self.group.len() as u64;
        format::encode_record(&mut self.group, self.salt, offset, position, self.durable, parts);
        self.next = position.next();
        Ok(position)
    }

    /// Bytes in the group, frames included.
    pub fn group_bytes(&self) -> usize {
        self.group.len()
    }

    /// Writes the group and syncs it. What is returned is durable, up to and with that position.
    ///
    /// # Errors
    /// Nothing of the group is durable: see [`CommitError`].
    pub fn commit(&mut self) -> Result<Position, CommitError> {
        self.check_poison()?;
        if self.group.is_empty() {
            return Ok(self.durable);
        }
        self.write_group()?;
        self.sealed = false;
        self.durable = before(self.next);
        self.publish();
        Ok(self.durable)
    }

    /// Forgets the group; its positions are given again.
    pub fn discard(&mut self) {
        self.group.clear();
        self.next = self.durable.next();
    }

    /// Whether the active segment has reached its size.
    pub fn needs_roll(&self) -> bool {
        self.end >= self.options.segment_bytes
    }

    /// Begins a new segment, after committing the group if there is one. The old segment is synced
    /// by then, and sealed.
    ///
    /// # Errors
    /// After `Full` and `Roll` the old segment is still the active one, and it may be tried again.
    pub fn roll(&mut self) -> Result<(), CommitError> {
        self.commit()?;
        if self.segment.base == self.next {
            return Ok(());
        }
        self.seal()?;
        let inner = Arc::clone(&self.shared);
        match segment::create(&*inner.files, &inner.dir, inner.uuid, self.next) {
            Ok((file, segment)) => {
                self.segment = Arc::new(segment);
                self.file = file;
                self.salt = Salt::new(inner.uuid, self.next);
                self.end = SEGMENT_HEADER_BYTES as u64;
                self.sealed = false;
                inner.change(|list| list.push(Arc::clone(&self.segment)));
                inner.size.fetch_add(self.end, Ordering::Relaxed);
                self.free.bytes = self.free.bytes.saturating_sub(BLOCK_BYTES);
                Ok(())
            }
            Err(CreateError::Undone(source)) if is_full(&source) => {
                Err(CommitError::Full { source })
            }
            Err(CreateError::Undone(source)) => {
                Err(CommitError::Roll { path: inner.dir.join(segment::name(self.next)), source })
            }
            Err(CreateError::Unknown(source)) => Err(self.poison("begin a segment after", &source)),
        }
    }

    /// The highest position that is durable.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// The highest position given by [`Writer::append`]; those above `durable` are in the group.
    pub fn written(&self) -> Position {
        before(self.next)
    }

    /// How many bytes may still be appended before the reserve or the largest size of the log is
    /// reached, the group not counted; 0 means: refuse. Cheap: the file system is asked at most
    /// every half second.
    pub fn room_bytes(&mut self) -> u64 {
        let fresh = self.free.asked.is_some_and(|asked| asked.elapsed() < FREE_TTL);
        if !fresh {
            match self.shared.files.free_bytes(&self.shared.dir) {
                Ok(bytes) => self.free.bytes = bytes,
                Err(error) => {
                    // The write itself says when there is no space.
                    tracing::warn!(%error, "cannot ask for the free space of the log");
                    self.free.bytes = u64::MAX;
                }
            }
            self.free.asked = Some(Instant::now());
        }
        let size = self.shared.size.load(Ordering::Relaxed);
        let of_disk = self.free.bytes.saturating_sub(self.options.reserve_bytes);
        of_disk.min(self.options.max_bytes.saturating_sub(size))
    }

    /// Deletes the segments all of whose records are below `low`, after making durable that they
    /// may be missing. The active segment stays.
    ///
    /// # Errors
    /// The low-water mark could not be made durable, and nothing is deleted; or a file could not
    /// be unlinked, and the next start does it.
    pub fn delete_below(&mut self, low: Position) -> Result<DeletedSegments, LogError> {
        let inner = Arc::clone(&self.shared);
        if let Some(reason) = inner.poison.get() {
            return Err(LogError::Poisoned { reason: Arc::clone(reason) });
        }
        let (gone, oldest) = {
            let list = inner.list();
            let count = list.iter().skip(1).take_while(|following| following.base <= low).count();
            (list[..count].to_vec(), list.get(count).map_or(low, |segment| segment.base))
        };
        if gone.is_empty() {
            return Ok(DeletedSegments::default());
        }
        let state = State { uuid: inner.uuid, value: oldest.0 };
        state::store(&*inner.files, &inner.dir, StateFile::Low, state)?;
        // In this order: a reader that finds its segment deleted looks for it in the list.
        inner.change(|list| list.drain(..gone.len()).count());
        for segment in &gone {
            segment.set_deleted();
        }
        let mut deleted = DeletedSegments::default();
        let mut result = Ok(());
        for segment in &gone {
            match inner.files.remove(&segment.path) {
                Ok(()) => {
                    deleted.segments += 1;
                    deleted.bytes += segment.extent().end;
                }
                Err(error) => result = Err(LogError::io("remove", &segment.path)(error)),
            }
        }
        let size = inner.size.fetch_sub(deleted.bytes, Ordering::Relaxed) - deleted.bytes;
        set(&inner.metrics.size_bytes, size);
        self.free.asked = None;
        state::prepare_spare(&*inner.files, &inner.dir, StateFile::Low);
        result.map(|()| deleted)
    }

    /// Vouches for all that is durable while nothing else comes that would, so that later damage to
    /// the newest records is told from a torn tail. Nothing is done if a group waits or nothing was
    /// committed since the last seal.
    ///
    /// # Errors
    /// The seal is not there; what was committed is not in danger.
    pub fn vouch(&mut self) -> Result<(), CommitError> {
        self.check_poison()?;
        if self.group.is_empty() { self.seal() } else { Ok(()) }
    }

    /// Ends in order: a seal vouches for all that is durable. A group that was not committed is
    /// forgotten.
    ///
    /// # Errors
    /// The seal is not there; nothing that was committed is in danger.
    pub fn close(mut self) -> Result<(), CommitError> {
        self.discard();
        self.check_poison()?;
        self.seal()
    }

    /// Writes a frame that says that all before it is durable, unless the last one says so.
    fn seal(&mut self) -> Result<(), CommitError> {
        if self.sealed || self.segment.base == self.next {
            return Ok(());
        }
        format::encode_seal(&mut self.group, self.salt, self.end, self.durable);
        self.write_group()?;
        self.sealed = true;
        self.publish();
        Ok(())
    }

    /// Puts the group behind what is durable. After `Full` the file is as it was.
    fn write_group(&mut self) -> Result<(), CommitError> {
        let metrics = &self.shared.metrics;
        if let Err(error) = write_all_at(&*self.file, &self.group, self.end) {
            self.discard();
            if !is_full(&error) {
                return Err(self.poison("write", &error));
            }
            // Synced, so that no power cut brings the cut bytes back between those of a later
            // group at the same place.
            return match self.file.set_len(self.end).and_then(|()| self.file.sync_all()) {
                Ok(()) => Err(CommitError::Full { source: error }),
                Err(error) => Err(self.poison("cut back", &error)),
            };
        }
        set(&metrics.written_position, before(self.next).0);
        let started = Instant::now();
        if let Err(error) = self.file.sync_data() {
            self.discard();
            return Err(self.poison("sync", &error));
        }
        metrics.sync_seconds.record(started.elapsed());
        let bytes = self.group.len() as u64;
        metrics.appended_bytes.increment(bytes);
        self.end += bytes;
        self.free.bytes = self.free.bytes.saturating_sub(bytes);
        let size = self.shared.size.fetch_add(bytes, Ordering::Relaxed) + bytes;
        set(&metrics.size_bytes, size);
        self.group.clear();
        if self.group.capacity() > KEEP_GROUP_BYTES {
            self.group.shrink_to(KEEP_GROUP_BYTES);
        }
        Ok(())
    }

    /// Readers may go up to here.
    fn publish(&self) {
        self.segment.set_extent(Extent { end: self.end, last: self.durable });
        self.shared.durable.send_if_modified(|durable| {
            let moved = *durable != self.durable;
            *durable = self.durable;
            moved
        });
        set(&self.shared.metrics.durable_position, self.durable.0);
    }

    /// Shows what was found at the start, before anything is appended.
    pub(super) fn publish_start(&self) {
        let metrics = &self.shared.metrics;
        set(&metrics.written_position, self.written().0);
        set(&metrics.durable_position, self.durable.0);
        set(&metrics.size_bytes, self.shared.size.load(Ordering::Relaxed));
        self.shared.change(|_| {});
    }

    fn check_poison(&self) -> Result<(), CommitError> {
        match self.shared.poison.get() {
            Some(reason) => Err(CommitError::Poisoned { reason: Arc::clone(reason) }),
            None => Ok(()),
        }
    }

    /// From now on nothing is taken: after a failed sync the kernel takes the pages for clean, and
    /// a second sync would succeed without them being on the disk.
    fn poison(&self, what: &str, error: &io::Error) -> CommitError {
        let path = self.segment.path.display();
        let reason =
            self.shared.poison.get_or_init(|| format!("cannot {what} {path}: {error}").into());
        self.shared.metrics.poisoned.set(1.0);
        CommitError::Poisoned { reason: Arc::clone(reason) }
    }
}

fn set(gauge: &metrics::Gauge, value: u64) {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2⁵³")]
    gauge.set(value as f64);
}
