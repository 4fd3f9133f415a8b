//! Readings that a destination refused for good, kept with the reason.

use crate::record::PointId;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// A refused reading with everything that is needed to send it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// The record.
    pub position: u64,
    /// Index of the reading in it.
    pub index: u32,
    /// The destination's words.
    pub reason: String,
    /// The realm.
    pub realm: String,
    /// The device id.
    pub device: String,
    /// The measurement.
    pub measurement: String,
    /// Nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// The tags.
    pub tags: BTreeMap<String, String>,
    /// The fields.
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl Rejected {
    fn id(&self) -> PointId {
        PointId { position: crate::record::Position(self.position), index: self.index }
    }
}

/// Keeps what a destination refused.
pub trait RejectedHandler: Send + Sync + std::fmt::Debug {
    /// Makes these readings durable; one that was kept before is not kept twice. Blocks.
    ///
    /// # Errors
    /// They are not durable; the cursor does not pass them.
    fn keep(&self, rejected: &[Rejected]) -> io::Result<()>;

    /// The sink goes back to `committed`: what it refused behind that may come again, and is not
    /// to be kept twice. Blocks.
    ///
    /// # Errors
    /// What was kept cannot be read; the sink does not go back.
    fn rewound(&self, committed: crate::record::Position) -> io::Result<()>;
}

/// A file with one line of JSON for each refused reading.
#[derive(Debug)]
pub struct RejectedFile {
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Where the next line goes; what lies behind was not synced.
    end: u64,
    /// Kept, and the cursor may not have passed them yet.
    known: HashSet<PointId>,
}

impl RejectedFile {
    /// Opens the file, making it if it is not there. `committed` is the sink's cursor.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: &Path, committed: crate::record::Position) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            File::open(dir)?.sync_all()?;
        }
        let (end, known) = read(&file, committed)?;
        Ok(Self { open: Mutex::new(Open { file, end, known }) })
    }
}

/// Where the last whole line ends, and what is kept from behind the cursor.
fn read(
    mut file: &File,
    committed: crate::record::Position,
) -> io::Result<(u64, HashSet<PointId>)> {
    file.seek(SeekFrom::Start(0))?;
    let mut known = HashSet::new();
    let (mut lines, mut line, mut end) = (BufReader::new(file), Vec::new(), 0);
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line)?;
        // A line without an end was not synced: the power went. It is written over.
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        end += read as u64;
        match serde_json::from_slice::<Rejected>(&line) {
            Ok(rejected) if rejected.position > committed.0 => {
                known.insert(rejected.id());
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a refused reading cannot be read, it is left");
            }
        }
    }
    Ok((end, known))
}

impl RejectedHandler for RejectedFile {
    fn keep(&self, rejected: &[Rejected]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::new();
        let new: Vec<&Rejected> =
            rejected.iter().filter(|rejected| !open.known.contains(&rejected.id())).collect();
        for rejected in &new {
            serde_json::to_writer(&mut text, rejected)?;
            text.push(b'\n');
        }
        let end = open.end;
        open.file.set_len(end)?;
        open.file.seek(SeekFrom::Start(end))?;
        open.file.write_all(&text)?;
        open.file.sync_data()?;
        open.end += text.len() as u64;
        // Batches come in order, so what is kept before this one is not asked for again.
        let first = rejected.iter().map(Rejected::id).min();
        open.known.retain(|id| first.is_some_and(|first| *id >= first));
        open.known.extend(new.into_iter().map(Rejected::id));
        Ok(())
    }

    fn rewound(&self, committed: crate::record::Position) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.known = read(&open.file, committed)?.1;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::Position;

    fn rejected(position: u64, index: u32) -> Rejected {
        Rejected {
            position,
            index,
            reason: "field type conflict\n\"x\"".to_owned(),
            realm: "default".to_owned(),
            device: "d".to_owned(),
            measurement: "m".to_owned(),
            time_ns: 1,
            tags: BTreeMap::new(),
            fields: BTreeMap::from([("x".to_owned(), 1.5.into())]),
        }
    }

    fn lines(path: &Path) -> Vec<Rejected> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn repeats_do_not_double_also_after_a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejected.jsonl");
        let file = RejectedFile::open(&path, Position(0)).unwrap();
        file.keep(&[rejected(1, 0), rejected(1, 3)]).unwrap();
        file.keep(&[rejected(1, 0), rejected(1, 3), rejected(2, 0)]).unwrap();
        drop(file);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"position\":3,").unwrap();
        let file = RejectedFile::open(&path, Position(1)).unwrap();
        file.keep(&[rejected(2, 0), rejected(4, 7)]).unwrap();
        let expected = [rejected(1, 0), rejected(1, 3), rejected(2, 0), rejected(4, 7)];
        assert_eq!(lines(&path), expected);
    }
}
