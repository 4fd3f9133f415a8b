//! `gateway capture`: a sample of real traffic, re-keyed, for load tests.
//!
//! The source is the log, read beside whoever writes it: it holds the very bytes of what was
//! accepted and when each batch came, reading it takes no lock and asks nothing of the gateway, and
//! the past can be had, too. What a log does not hold is not in a capture: messages that were
//! refused as a whole, malformed ones, and when devices connected.
//!
//! Promises: a file that exists is never written to; the file can be read by its owner only, and
//! has a limit in bytes; however the capture ends but by `kill -9`, it is whole, or there is none; a disk
//! that is full ends it, and what fitted stays; records that cannot be read are passed over and counted;
//! no device id, realm, stream number, tag value or text of a field is in it, unless its name was given
//! to be kept.

mod disk;
mod pattern;
mod rekey;
mod sample;

pub use pattern::Pattern;
pub use rekey::{POSITIONS, Policy};

use crate::{
    log::{Files, LogError, RealFiles, Tail, Tailed, heads},
    record::{Envelope, EnvelopeError, Position},
};
use capture_file::{End, EndedBy, Header, Writer};
use disk::{Disk, Marks, is_full};
use sample::{Sample, SampleError};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// Smallest limit of a file, in bytes.
pub const MIN_LIMIT_BYTES: u64 = 64 * 1024;
/// A capture leaves so much room on its disk, in bytes: the gateway's log may be on the same.
pub const RESERVE_BYTES: u64 = 256 * 1024 * 1024;
/// From one look at the room on the disk to the next, in bytes written.
const LOOK_EVERY_BYTES: u64 = 1024 * 1024;
/// Room for the end of the file within its limit, in bytes.
const END_BYTES: u64 = 1024;
/// From one look for new records to the next.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// A batch may stand in the log so long after others that came later, in nanoseconds.
const GRACE_NS: i64 = 1_000_000_000;
/// The process lets others go first: by so much more than usual.
const NICENESS: i32 = 10;

/// Of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// From so long ago.
    pub since: Duration,
    /// For so long from now on.
    pub live: Live,
}

/// How far a capture goes with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// Only what is there.
    No,
    /// For so long.
    For(Duration),
    /// Until it is stopped.
    On,
}

/// What is captured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Devices whose id is like one of these.
    pub devices: Vec<Pattern>,
    /// Only of this realm.
    pub realm: Option<String>,
    /// So many of so many of these devices, at least one of one.
    pub share: [u32; 2],
    /// Of when.
    pub span: Span,
    /// Largest file, in bytes; at least [`MIN_LIMIT_BYTES`].
    pub limit_bytes: u64,
    /// What of the readings is replaced.
    pub policy: Policy,
}

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is no log.
    #[error("there is no log in {}: name the gateway's --config or --data-dir", .0.display())]
    NoLog(PathBuf),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] EnvelopeError),
    /// There is such a file.
    #[error("{} exists, and a capture never overwrites a file", .0.display())]
    Exists(PathBuf),
    /// The disk is nearly full.
    #[error("the disk of {} has less than 256 MiB left", .0.display())]
    DiskFull(PathBuf),
    /// There is no room for the file.
    #[error(
        "no room for {}: {source}; what was written is too little to keep, and was removed",
        path.display()
    )]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No device fits.
    #[error("no batch of such a device is there; nothing was written")]
    Nothing,
}

/// Captures from the log in `log` into the new file `path`, until the span, the limit or `stop` ends
/// it. What fails leaves no file.
///
/// # Errors
/// There is no log, it cannot be read, nothing fits, or the file cannot be written.
pub fn capture(
    log: &Path,
    path: &Path,
    options: &Options,
    stop: &AtomicBool,
) -> Result<End, CaptureError> {
    // It is no misfortune if that is not allowed.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let now_ns = RealFiles.now_ns();
    let since_ns = now_ns.saturating_sub(nanos(options.span.since)).max(0);
    let tail = Tail::open(log, Arc::new(RealFiles), first_of(log, since_ns)?)?
        .ok_or_else(|| CaptureError::NoLog(log.to_owned()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let disk = Disk { folder: folder.unwrap_or(Path::new(".")), path };
    if !disk.has_room()? {
        return Err(CaptureError::DiskFull(path.to_owned()));
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => CaptureError::Exists(path.to_owned()),
        _ => disk.failed(error),
    })?;
    let until_ns = match options.span.live {
        Live::No => now_ns,
        Live::For(duration) => now_ns.saturating_add(nanos(duration)),
        Live::On => i64::MAX,
    };
    let marks = Marks::of(&file).map_err(|error| disk.failed(error));
    let captured = marks.and_then(|marks| {
        Capture { tail, options, disk, marks, since_ns, until_ns }.write(file, stop)
    });
    if captured.is_err() {
        let _ = fs::remove_file(path);
    }
    captured
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Where the first record from a moment on may be: the last segment that was begun before.
fn first_of(log: &Path, since_ns: i64) -> Result<Position, CaptureError> {
    if !log.is_dir() {
        return Err(CaptureError::NoLog(log.to_owned()));
    }
    let begun = |at: Option<i64>| at.is_some_and(|at| at <= since_ns.saturating_sub(GRACE_NS));
    let heads = heads(log, &RealFiles)?;
    Ok(heads
        .iter()
        .rev()
        .find(|head| begun(head.created_at_ns))
        .map_or(Position::ZERO, |head| head.base))
}

struct Capture<'a> {
    tail: Tail,
    options: &'a Options,
    disk: Disk<'a>,
    marks: Marks,
    since_ns: i64,
    until_ns: i64,
}

/// Why no more is taken.
enum Stop {
    Over(EndedBy),
    /// The file takes no more.
    Unwritten(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Unwritten(error)
    }
}

impl Capture<'_> {
    fn write(mut self, file: File, stop: &AtomicBool) -> Result<End, CaptureError> {
        let Policy { kept_tags, kept_fields, blanked_fields } = self.options.policy.clone();
        let header = Header {
            tool: format!("gateway {}", env!("CARGO_PKG_VERSION")),
            from_ns: self.since_ns - self.since_ns % 1_000_000_000,
            share: self.options.share,
            kept_tags,
            kept_fields,
            blanked_fields,
        };
        let writer = Writer::new(BufWriter::new(file), &header);
        let writer = writer.map_err(|error| self.disk.failed(error))?;
        let mut sample = Sample::new(self.options, header.from_ns, writer);
        let ended = match self.take(&mut sample, stop)? {
            Stop::Unwritten(error) => {
                drop(sample);
                Err(error)
            }
            Stop::Over(ended_by) => self.finish(sample, ended_by),
        };
        let end = match ended {
            Err(full) if is_full(&full) => self.marks.end(RealFiles.now_ns(), full),
            ended => ended,
        };
        let end = end.map_err(|error| self.disk.failed(error))?;
        if end.batches == 0 {
            return Err(CaptureError::Nothing);
        }
        let folder = File::open(self.disk.folder).and_then(|folder| folder.sync_all());
        folder.map_err(|error| self.disk.failed(error))?;
        Ok(end)
    }

    fn finish(&self, sample: Sample<'_, BufWriter<File>>, ended_by: EndedBy) -> io::Result<End> {
        let to_ns = match ended_by {
            EndedBy::CaughtUp | EndedBy::Duration => self.until_ns,
            _ => RealFiles.now_ns(),
        };
        let (file, end) = sample.writer.finish(to_ns, ended_by)?;
        file.into_inner()?.sync_all()?;
        Ok(end)
    }

    /// Takes record after record until something ends it.
    fn take(
        &mut self,
        sample: &mut Sample<'_, BufWriter<impl Write>>,
        stop: &AtomicBool,
    ) -> Result<Stop, CaptureError> {
        let over = self.over();
        let mut looked_at = 0;
        while !stop.load(Ordering::Relaxed) {
            match self.tail.next()? {
                Some(Tailed::Missing(from, to)) => sample.missing(to.0 - from.0 + 1),
                Some(Tailed::Record(position, bytes)) => {
                    match self.record(sample, position, &bytes) {
                        Ok(None) => {}
                        Ok(Some(ended_by)) => return Ok(Stop::Over(ended_by)),
                        Err(SampleError::Write(error)) => return Ok(error.into()),
                        // What a newer gateway wrote is not damaged.
                        Err(SampleError::Record(error @ EnvelopeError::Newer { .. })) => {
                            return Err(error.into());
                        }
                        Err(SampleError::Record(_)) => sample.missing(1),
                    }
                }
                None if self.options.span.live == Live::No => return Ok(Stop::Over(over)),
                None if self.is_after(RealFiles.now_ns()) => return Ok(Stop::Over(over)),
                None => {
                    if let Err(error) = sample.writer.flush() {
                        return Ok(error.into());
                    }
                    thread::sleep(FOLLOW_INTERVAL);
                }
            }
            if let Err(error) = self.marks.look(&mut sample.writer) {
                return Ok(error.into());
            }
            if sample.writer.bytes() >= looked_at + LOOK_EVERY_BYTES {
                looked_at = sample.writer.bytes();
                if !self.disk.has_room()? {
                    return Ok(Stop::Over(EndedBy::Disk));
                }
            }
        }
        Ok(Stop::Over(EndedBy::Interrupted))
    }

    /// Takes a record, or says that it is the last.
    fn record(
        &self,
        sample: &mut Sample<'_, BufWriter<impl Write>>,
        position: Position,
        bytes: &[u8],
    ) -> Result<Option<EndedBy>, SampleError> {
        let (envelope, payload) = Envelope::decode(position, bytes)?;
        let at_ns = envelope.receive_ns;
        if self.is_after(at_ns) {
            return Ok(Some(self.over()));
        }
        if !(self.since_ns..=self.until_ns).contains(&at_ns) {
            return Ok(None);
        }
        let room = self.options.limit_bytes.saturating_sub(END_BYTES);
        let is_taken = sample.take(position, &envelope, payload, room)?;
        Ok((!is_taken).then_some(EndedBy::Limit))
    }

    /// What has ended it when its time is over.
    fn over(&self) -> EndedBy {
        match self.options.span.live {
            Live::No => EndedBy::CaughtUp,
            Live::For(_) | Live::On => EndedBy::Duration,
        }
    }

    fn is_after(&self, at_ns: i64) -> bool {
        at_ns > self.until_ns.saturating_add(GRACE_NS)
    }
}
