//! The cursor of a sink whose destination keeps none: a small file, replaced as a whole.
//!
//! One line of JSON and one line with its CRC32C. Written to a temporary file, synced, renamed,
//! the directory synced: after a power cut it is the old one or the new one. A damaged file is not
//! taken for an empty one: the sink goes back to the oldest record that the log has and says so.

use crate::{
    record::{Ledger, Position},
    sink::LogRange,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use uuid::Uuid;

const VERSION: u32 = 1;

/// How far a sink has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Everything up to here is at the destination, kept aside or counted as dropped.
    pub position: Position,
    /// Where the readings up to there went.
    pub ledger: Ledger,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    log: String,
    position: Position,
    ledger: Ledger,
}

/// The file of one sink's cursor.
#[derive(Debug)]
pub struct CursorFile {
    path: PathBuf,
    log: Uuid,
}

/// A cursor that cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// It counts the records of another log.
    #[error(
        "the cursor {} belongs to the log {cursor}, but the log here is {log}: put that log back, or delete the cursor and the sink gets everything that this log has",
        path.display()
    )]
    OtherLog {
        /// The file.
        path: PathBuf,
        /// The log it belongs to.
        cursor: Uuid,
        /// The log here.
        log: Uuid,
    },
    /// Records that the sink has not had are no longer in the log.
    #[error(
        "the cursor {} stands at record {position}, but the log begins at {oldest}: an old copy was put back; restore a newer one, or delete the cursor and the sink gets what the log has",
        path.display()
    )]
    BelowLog {
        /// The file.
        path: PathBuf,
        /// Where it stands.
        position: Position,
        /// Where the log begins.
        oldest: Position,
    },
    /// It is ahead of the log.
    #[error(
        "the cursor {} stands at record {position}, but the log ends at {end}: an old copy of the log was put back; restore a newer one, or delete the cursor and the sink gets everything again",
        path.display()
    )]
    BeyondLog {
        /// The file.
        path: PathBuf,
        /// Where it stands.
        position: Position,
        /// Where the log ends.
        end: Position,
    },
    /// A newer gateway has written it.
    #[error(
        "the cursor {} has version {found}, this gateway knows {VERSION}: run the gateway that wrote it, or a newer one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It cannot be read or written.
    #[error("the cursor {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl CursorFile {
    /// The file at `path` and where it stands; without a file, before the oldest record.
    ///
    /// # Errors
    /// See [`CursorError`].
    pub fn open(path: &Path, log: LogRange) -> Result<(Self, Cursor), CursorError> {
        let file = Self { path: path.to_owned(), log: log.uuid };
        let path = path.to_owned();
        let start = Position(log.oldest.0.saturating_sub(1));
        let start = Cursor { position: start, ledger: Ledger::default() };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, start)),
            Err(source) => return Err(CursorError::Io { path, source }),
        };
        let Some(body) = checked(&bytes) else {
            tracing::error!(
                cursor = %path.display(),
                "the cursor is damaged: its sink gets everything again that the log has",
            );
            return Ok((file, start));
        };
        let found = version(body);
        if found > VERSION {
            return Err(CursorError::Newer { path, found });
        }
        let invalid = |source| CursorError::Io { path: path.clone(), source };
        let content = serde_json::from_slice(body).map_err(|error| invalid(error.into()))?;
        let Content { log: cursor, position, ledger, .. } = content;
        let cursor: Uuid = cursor.parse().map_err(|error| invalid(io::Error::other(error)))?;
        if cursor != log.uuid {
            return Err(CursorError::OtherLog { path, cursor, log: log.uuid });
        }
        if position.next() < log.oldest {
            return Err(CursorError::BelowLog { path, position, oldest: log.oldest });
        }
        if position > log.end {
            return Err(CursorError::BeyondLog { path, position, end: log.end });
        }
        Ok((file, Cursor { position, ledger }))
    }

    /// The file at `path` for a cursor in this log, whatever is in it now.
    pub fn anew(path: &Path, log: Uuid) -> Self {
        Self { path: path.to_owned(), log }
    }

    /// Which log the file at `path` belongs to and where it stands; `None` if there is none that
    /// can be read. For who asks before the log is open: [`CursorFile::open`] judges it later.
    ///
    /// # Errors
    /// The disk's.
    pub fn peek(path: &Path) -> Result<Option<(Uuid, Cursor)>, CursorError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CursorError::Io { path: path.to_owned(), source }),
        };
        let content = checked(&bytes).and_then(|body| serde_json::from_slice::<Content>(body).ok());
        let known = content.filter(|of| of.version <= VERSION);
        Ok(known.and_then(|of| {
            Some((of.log.parse().ok()?, Cursor { position: of.position, ledger: of.ledger }))
        }))
    }

    /// Makes a new position durable. Blocks for two syncs.
    ///
    /// # Errors
    /// The disk's; the old position is then still there, or the new one is.
    pub fn save(&self, cursor: &Cursor) -> io::Result<()> {
        let Cursor { position, ledger } = *cursor;
        let log = self.log.to_string();
        let content = Content { version: VERSION, log, position, ledger };
        let mut text = serde_json::to_string(&content).map_err(io::Error::other)?;
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("\ncrc32c {crc:08x}\n"));
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let temporary = self.path.with_extension("tmp");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        File::open(dir)?.sync_all()
    }
}

/// The first line, if the second has its checksum.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (body, rest) = bytes.split_at(end);
    let expected = format!("\ncrc32c {:08x}\n", crc32c::crc32c(body));
    (rest == expected.as_bytes()).then_some(body)
}

/// The version of a body whose other parts are unknown here.
fn version(body: &[u8]) -> u32 {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    serde_json::from_slice::<Version>(body).map_or(0, |of| of.version)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::Dropped;

    fn range() -> LogRange {
        LogRange { uuid: Uuid::new_v4(), oldest: Position(5), end: Position(100) }
    }

    fn cursor() -> Cursor {
        let dropped = Dropped { damaged: 1, ..Dropped::default() };
        let ledger = Ledger {
            base: Some(9),
            accepted_total: 40,
            stored: 20,
            quarantined: 10,
            dropped,
            epoch: 2,
        };
        Cursor { position: Position(50), ledger }
    }

    #[test]
    fn a_cursor_comes_back_and_a_new_one_begins_at_the_oldest_record() {
        let (dir, log) = (tempfile::tempdir().unwrap(), range());
        let path = dir.path().join("influx.cursor");
        let (file, start) = CursorFile::open(&path, log).unwrap();
        assert_eq!(start, Cursor { position: Position(4), ledger: Ledger::default() });
        file.save(&cursor()).unwrap();
        assert_eq!(CursorFile::open(&path, log).unwrap().1, cursor());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_cursor_that_does_not_fit_the_log_is_refused() {
        let (dir, log) = (tempfile::tempdir().unwrap(), range());
        let path = dir.path().join("c");
        let (file, _) = CursorFile::open(&path, log).unwrap();
        file.save(&cursor()).unwrap();
        let open = |log| CursorFile::open(&path, log).unwrap_err();
        let other = open(LogRange { uuid: Uuid::new_v4(), ..log });
        assert!(matches!(other, CursorError::OtherLog { .. }), "{other}");
        let below = open(LogRange { oldest: Position(52), ..log });
        assert!(matches!(below, CursorError::BelowLog { .. }), "{below}");
        let beyond = open(LogRange { end: Position(49), ..log });
        assert!(matches!(beyond, CursorError::BeyondLog { .. }), "{beyond}");
        assert!(CursorFile::open(&path, LogRange { oldest: Position(51), ..log }).is_ok());

        let body = r#"{"version":7,"something":"new"}"#;
        let text = format!("{body}\ncrc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        fs::write(&path, text).unwrap();
        assert!(matches!(open(log), CursorError::Newer { found: 7, .. }));
    }

    #[test]
    fn every_damage_is_noticed() {
        let (dir, log) = (tempfile::tempdir().unwrap(), range());
        let path = dir.path().join("c");
        let (file, start) = CursorFile::open(&path, log).unwrap();
        file.save(&cursor()).unwrap();
        let good = fs::read(&path).unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(CursorFile::open(&path, log).unwrap().1, start, "cut to {length}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            assert_eq!(CursorFile::open(&path, log).unwrap().1, start, "bit {bit}");
        }
    }
}
