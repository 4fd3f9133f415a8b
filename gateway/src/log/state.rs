//! The two small state files: `log.meta` says which log this is, `log.low` what retention has
//! deleted. Each is replaced as a whole: temporary file, fsync, rename, fsync of the directory.

use super::{
    LogError,
    files::{Files, Open, read_full_at, write_all_at},
    format::{self, Head, STATE_BYTES},
};
use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// One of the state files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateFile {
    /// The log's identity; the value is 0.
    Meta,
    /// The value is the low-water mark: every record below it may be gone.
    Low,
}

impl StateFile {
    const fn name(self) -> &'static str {
        match self {
            Self::Meta => "log.meta",
            Self::Low => "log.low",
        }
    }

    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Meta => *b"GWLOGMET",
            Self::Low => *b"GWLOGLOW",
        }
    }

    fn temporary(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.tmp", self.name()))
    }
}

/// What a valid state file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) uuid: Uuid,
    pub(super) value: u64,
}

/// Reads a state file; `None` if it is missing or damaged, which the caller repairs.
pub(super) fn load(
    files: &dyn Files,
    dir: &Path,
    which: StateFile,
) -> Result<Option<State>, LogError> {
    let path = dir.join(which.name());
    let file = match files.open(&path, Open::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LogError::io("open", path)(error)),
    };
    let mut bytes = [0; STATE_BYTES];
    let read = read_full_at(&*file, &mut bytes, 0).map_err(LogError::io("read", &path))?;
    match format::parse_head(which.magic(), &bytes[..read]) {
        Head::Valid { uuid, value, .. } => Ok(Some(State { uuid, value })),
        Head::Newer(version) => Err(LogError::Newer { path, version }),
        Head::Damaged => Ok(None),
    }
}

/// Whether a state file is there, valid or not.
pub(super) fn exists(files: &dyn Files, dir: &Path, which: StateFile) -> bool {
    files.open(&dir.join(which.name()), Open::Read).is_ok()
}

/// Replaces a state file durably.
pub(super) fn store(
    files: &dyn Files,
    dir: &Path,
    which: StateFile,
    state: State,
) -> Result<(), LogError> {
    let temporary = which.temporary(dir);
    let path = dir.join(which.name());
    let bytes = format::encode_head(which.magic(), state.uuid, state.value, files.now_ns());
    // The spare that is there already has its block: replacing a state file works on a full disk.
    let file = match files.open(&temporary, Open::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => files.open(&temporary, Open::Create),
        opened => opened,
    }
    .map_err(LogError::io("open", &temporary))?;
    write_all_at(&*file, &bytes, 0).map_err(LogError::io("write", &temporary))?;
    file.sync_all().map_err(LogError::io("sync", &temporary))?;
    files.rename(&temporary, &path).map_err(LogError::io("rename", &temporary))?;
    files.sync_dir(dir).map_err(LogError::io("sync", dir))
}

/// Prepares the file that the next [`store`] writes, so that retention can free space when there
/// is none. Failing is no harm now.
pub(super) fn prepare_spare(files: &dyn Files, dir: &Path, which: StateFile) {
    let temporary = which.temporary(dir);
    let prepared = files.open(&temporary, Open::Create).and_then(|file| {
        write_all_at(&*file, &[0; STATE_BYTES], 0)?;
        // Delayed allocation would find the disk full only at the sync.
        file.sync_data()
    });
    if let Err(error) = prepared {
        tracing::debug!(path = %temporary.display(), %error, "no spare for a state file");
    }
}

/// Unlinks what a crash left: it may be another name of the state file itself, and must not be
/// written through.
pub(super) fn remove_temporary(
    files: &dyn Files,
    dir: &Path,
    which: StateFile,
) -> Result<(), LogError> {
    let temporary = which.temporary(dir);
    match files.remove(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(LogError::io("remove", temporary)(error))
        }
        _ => Ok(()),
    }
}

/// Opens a file for reading and reads its first 64 bytes; fewer if it is shorter.
pub(super) fn read_head(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open(path, Open::Read)?;
    let mut bytes = vec![0; STATE_BYTES];
    let read = read_full_at(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
