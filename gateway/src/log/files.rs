//! The narrow seam to the file system: what the log needs, the real thing, and the loops over
//! short reads, short writes and interruptions.

use std::{
    fs, io,
    io::ErrorKind,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new or existing file, emptied, for reading and writing.
    Create,
    /// A directory, for syncing its entries with [`File::sync_all`].
    Dir,
}

/// An open file. Reads and writes name their offset; both may be short or interrupted.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes some of `bytes`, and says how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes contents and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes contents and all of the inode durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// The next reads come from the disk, where that can be had: nobody learns of a rotten sector
    /// from the page cache.
    fn forget_cached(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Holds an advisory lock until it is dropped.
pub trait Lock: Send + Sync {}

/// What became of an attempt to lock.
pub enum Locked {
    /// We have it.
    Ours(Box<dyn Lock>),
    /// Another has it; the number of its process, if it left it.
    Taken(Option<u32>),
}

/// The file system, and the time it would stamp files with.
pub trait Files: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Makes one directory; its parent exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether there is such a directory.
    fn is_dir(&self, path: &Path) -> bool;
    /// Names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames a file over another, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Unlinks a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Takes an advisory lock, and leaves our process number in the file.
    fn lock(&self, path: &Path) -> io::Result<Locked>;
    /// Bytes that an unprivileged process may still use on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Nanoseconds since the Unix epoch.
    fn now_ns(&self) -> i64;
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFiles;

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        fs::File::sync_all(self)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        fs::File::set_len(self, bytes)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn forget_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed)?)
    }
}

/// The descriptor that holds the lock: the kernel releases it when it is closed, also when we die.
struct RealLock(#[expect(dead_code, reason = "kept open, never read")] fs::File);

impl Lock for RealLock {}

impl Files for RealFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(matches!(how, Open::Write | Open::Create)).mode(0o640);
        options.create(how == Open::Create).truncate(how == Open::Create);
        Ok(Arc::new(options.open(path)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Locked> {
        let mut options = fs::OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
                return Ok(Locked::Taken(pid));
            }
            Err(errno) => return Err(errno.into()),
        }
        // Only for the message of a second gateway: a full disk must not keep this one from
        // starting.
        let _ = file.set_len(0);
        let _ = FileExt::write_all_at(&file, format!("{}\n", std::process::id()).as_bytes(), 0);
        Ok(Locked::Ours(Box::new(RealLock(file))))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn now_ns(&self) -> i64 {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
    }
}

/// Whether an error says that there is no space, so that nothing but space is wrong.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all_at(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buffer` is full or the file ends, and says how much it read.
pub(super) fn read_full_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Makes a directory and those above it that are missing, and syncs every directory that got an
/// entry. With `anew` it also syncs those above that were there: an earlier start may have made
/// them and died before it synced them. On an error the path is the one that it is about.
pub(super) fn create_dirs(
    files: &dyn Files,
    dir: &Path,
    anew: bool,
) -> Result<(), (PathBuf, io::Error)> {
    let mut dirs: Vec<&Path> =
        dir.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
    dirs.reverse();
    for path in dirs {
        let made = !files.is_dir(path);
        if made {
            match files.create_dir(path) {
                // Another gateway was quicker; the lock tells them apart.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err((path.to_owned(), error)),
                Ok(()) => {}
            }
        }
        let Some(parent) = path.parent().filter(|_| made || anew) else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match files.sync_dir(parent) {
            // We cannot have made anything in it.
            Err(error) if error.kind() == ErrorKind::PermissionDenied && !made => {}
            Err(error) => return Err((parent.to_owned(), error)),
            Ok(()) => {}
        }
    }
    Ok(())
}
