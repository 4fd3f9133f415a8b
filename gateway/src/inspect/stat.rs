//! `gateway log stat`: how much is in the log, from when, and who has it open.

use super::{InspectError, no_log, text};
use crate::{
    log::{RealFiles, SegmentHead, Tail, Tailed, heads, identity, low_mark},
    record::{Envelope, Position},
};
use serde_json::json;
use std::{fs, io::Write, os::unix::fs::MetadataExt, path::Path, sync::Arc};
use uuid::Uuid;

/// A segment of this length holds nothing yet.
const SEGMENT_HEADER_BYTES: u64 = 64;

struct Stat {
    uuid: Uuid,
    low: Option<Position>,
    segments: Vec<SegmentHead>,
    /// The last whole record.
    last: Position,
    accepted_total: Option<u64>,
    newest_ns: Option<i64>,
    oldest_ns: Option<i64>,
    bytes: u64,
    torn: u64,
    damaged: u64,
    open_by: Option<u32>,
}

/// Writes a summary of the log in `dir`. Reads the headers, the oldest record and the last segment.
///
/// # Errors
/// There is no log, it cannot be read, or the output cannot be written.
pub fn stat(dir: &Path, as_json: bool, out: &mut dyn Write) -> Result<(), InspectError> {
    let stat = gather(dir)?;
    if as_json {
        writeln!(out, "{}", text::json(&stat.json(dir)))?;
        return Ok(());
    }
    let records = (stat.last.0 + 1).saturating_sub(stat.oldest().0);
    writeln!(out, "log        {}", dir.display())?;
    writeln!(out, "identity   {}", stat.uuid)?;
    writeln!(out, "records    {records} ({} to {})", stat.oldest(), stat.last)?;
    if let Some(total) = stat.accepted_total {
        writeln!(out, "readings   {total} accepted since the log began")?;
    }
    let shown = |ns: Option<i64>| ns.map_or_else(|| "-".to_owned(), text::time);
    writeln!(out, "oldest     {}", shown(stat.oldest_ns))?;
    writeln!(out, "newest     {}", shown(stat.newest_ns))?;
    writeln!(out, "size       {} in {} segments", text::bytes(stat.bytes), stat.segments.len())?;
    match stat.open_by {
        Some(pid) => writeln!(out, "open       by process {pid}")?,
        None => writeln!(out, "open       no")?,
    }
    if stat.torn > 0 {
        writeln!(out, "torn       {} cut ends in torn/, never acknowledged", stat.torn)?;
    }
    if stat.damaged > 0 {
        let said = "copies of unreadable data in damaged/: run `gateway log verify`";
        writeln!(out, "damaged    {} {said}", stat.damaged)?;
    }
    writeln!(out, "\n{:>20}  {:>10}  {:>12}  begun", "first", "records", "bytes")?;
    for (at, segment) in stat.segments.iter().enumerate() {
        let records = stat.records(at);
        let begun = shown(segment.created_at_ns);
        writeln!(out, "{:>20}  {records:>10}  {:>12}  {begun}", segment.base.0, segment.bytes)?;
    }
    Ok(())
}

fn gather(dir: &Path) -> Result<Stat, InspectError> {
    let uuid = identity(dir, &RealFiles)?.ok_or_else(|| no_log(dir))?;
    let segments = heads(dir, &RealFiles)?;
    let mut stat = Stat {
        uuid,
        low: low_mark(dir, &RealFiles)?,
        last: Position::ZERO,
        accepted_total: None,
        newest_ns: None,
        oldest_ns: None,
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        torn: files_in(&dir.join("torn")),
        damaged: files_in(&dir.join("damaged")),
        open_by: open_by(&dir.join("log.lock")),
        segments,
    };
    if let Some(newest) = stat.segments.last() {
        stat.last = Position(newest.base.0.saturating_sub(1));
        // An empty newest segment says nothing of the records before it.
        let from = match stat.segments.len().checked_sub(2) {
            Some(at) if newest.bytes <= SEGMENT_HEADER_BYTES => stat.segments[at].base,
            _ => newest.base,
        };
        if let Some(newest) = walk(dir, from, u64::MAX)? {
            stat.last = newest.position.max(stat.last);
            stat.accepted_total = Some(newest.accepted_total);
            stat.newest_ns = Some(newest.receive_ns);
        }
    }
    if let Some(oldest) = stat.segments.first() {
        stat.oldest_ns = walk(dir, oldest.base, 1)?.map(|oldest| oldest.receive_ns);
    }
    Ok(stat)
}

/// What is shown of one record.
struct Edge {
    position: Position,
    receive_ns: i64,
    accepted_total: u64,
}

/// The last of the first `most` records from `from` on.
fn walk(dir: &Path, from: Position, most: u64) -> Result<Option<Edge>, InspectError> {
    let Some(mut tail) = Tail::open(dir, Arc::new(RealFiles), from)? else { return Ok(None) };
    let (mut last, mut count) = (None, 0);
    while count < most {
        match tail.next()? {
            Some(Tailed::Record(position, bytes)) => {
                count += 1;
                last = Some((position, bytes));
            }
            Some(Tailed::Missing(..)) => {}
            None => break,
        }
    }
    let Some((position, bytes)) = last else { return Ok(None) };
    let (envelope, _) = Envelope::decode(position, &bytes)?;
    let (receive_ns, accepted_total) = (envelope.receive_ns, envelope.accepted_total);
    Ok(Some(Edge { position, receive_ns, accepted_total }))
}

fn files_in(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| entries.count() as u64)
}

/// Who holds the lock, by the kernel's list: asking for the lock itself could be in the way of a
/// gateway that starts at this moment.
fn open_by(lock: &Path) -> Option<u32> {
    let inode = format!(":{}", fs::metadata(lock).ok()?.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", pid, file, ..] if file.ends_with(&inode) => pid.parse().ok(),
            _ => None,
        }
    })
}

impl Stat {
    fn oldest(&self) -> Position {
        self.segments.first().map_or(self.last.next(), |segment| segment.base)
    }

    fn records(&self, at: usize) -> u64 {
        let end = self.segments.get(at + 1).map_or(self.last.next(), |next| next.base);
        end.0.saturating_sub(self.segments[at].base.0)
    }

    fn json(&self, dir: &Path) -> serde_json::Value {
        let segments: Vec<_> = (self.segments.iter().enumerate())
            .map(|(at, segment)| {
                json!({
                    "first": segment.base.0,
                    "records": self.records(at),
                    "bytes": segment.bytes,
                    "begun_ns": segment.created_at_ns,
                })
            })
            .collect();
        json!({
            "dir": dir.to_string_lossy(),
            "uuid": self.uuid.to_string(),
            "low_mark": self.low.map(|low| low.0),
            "first": self.oldest().0,
            "last": self.last.0,
            "accepted_readings": self.accepted_total,
            "oldest_ns": self.oldest_ns,
            "newest_ns": self.newest_ns,
            "bytes": self.bytes,
            "open_by_process": self.open_by,
            "torn_files": self.torn,
            "damaged_files": self.damaged,
            "now_ns": text::now_ns(),
            "segments": segments,
        })
    }
}
