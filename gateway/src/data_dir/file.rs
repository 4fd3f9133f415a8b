//! Files that are whole or absent, and directories that last.

use super::DataDirError;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> DataDirError + use<'a> {
    move |source| DataDirError::Io { action, path: path.to_path_buf(), source }
}

/// The directory that a path stands in; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a directory (0700) and those above it, and syncs each new name into its parent.
/// One that exists is left as it is.
pub(super) fn make_directory(path: &Path) -> Result<(), DataDirError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if above != path {
        make_directory(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync(above),
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(failed("make the directory", path)(error)),
    }
}

fn sync(directory: &Path) -> Result<(), DataDirError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync the directory", directory))
}

/// Reads a text; `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, DataDirError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(DataDirError::Content {
            path: path.to_path_buf(),
            what: "is not a text file".to_owned(),
            remedy: "put the right one back from a backup".to_owned(),
        }),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Says so when a private key can be read by others than its owner. Refusing would break set-ups
/// in which an orchestrator sets group and mode.
pub(super) fn warn_if_open(key: &Path) {
    let mode = fs::metadata(key).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(
            path = %key.display(),
            mode = format!("{:o}", mode & 0o777),
            "others can read this private key: chmod 600 it"
        );
    }
}

/// Writes a file that must not exist yet. `Ok(false)`: it exists, and was left alone.
pub(super) fn create(path: &Path, text: &str, mode: u32) -> Result<bool, DataDirError> {
    let temporary = write_temporary(path, text, mode)?;
    // A link, unlike a rename, never replaces.
    let linked = match fs::hard_link(&temporary, path) {
        // A file system without links; the lock of the data directory keeps others out.
        Err(error) if without_links(&error) && !path.exists() => fs::rename(&temporary, path),
        linked => {
            fs::remove_file(&temporary).map_err(failed("remove", &temporary))?;
            linked
        }
    };
    match linked {
        Ok(()) => sync(parent(path)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("write", path)(error)),
    }
}

fn without_links(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
}

/// Writes a file in place of the one that may be there.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), DataDirError> {
    let temporary = write_temporary(path, text, mode)?;
    fs::rename(&temporary, path).map_err(failed("write", path))?;
    sync(parent(path))
}

fn write_temporary(path: &Path, text: &str, mode: u32) -> Result<PathBuf, DataDirError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // One of a crashed process that had our id.
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed("write", path))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(failed("write", path)(error));
    }
    Ok(temporary)
}
