//! A file system in memory that can lose what was not synced.

use crate::model_disk::{Call, Disk, Entry, Fault, Inode};
use fastrand::Rng;
use gateway::log::{File, Files, Lock, Locked, Open};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

#[derive(Clone)]
pub(crate) struct ModelFiles(Arc<Mutex<Disk>>);

impl ModelFiles {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            rng: Rng::with_seed(seed),
            epoch: 0,
            inodes: BTreeMap::new(),
            next_inode: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            locked: BTreeSet::new(),
            capacity: u64::MAX,
            fault: None,
            dead: false,
            short: false,
            clock_ns: 1_700_000_000_000_000_000,
            tick_ns: 1_000_000,
            bad: None,
            trace: None,
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// The power is cut: nothing that was open is of use any more.
    pub(crate) fn cut_power(&self) {
        let mut disk = self.disk();
        disk.cut_power();
        disk.end_process();
    }

    /// The process is killed: the page cache survives.
    pub(crate) fn kill(&self) {
        self.disk().end_process();
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        self.disk().fault = fault;
    }

    /// Whether a fault that was set has struck; it does not strike any more.
    pub(crate) fn fault_struck(&self) -> bool {
        self.disk().fault.take().is_none()
    }

    /// The time stands still.
    pub(crate) fn stop_clock(&self) {
        self.disk().tick_ns = 0;
    }

    /// Reads and writes are short and interrupted at random.
    pub(crate) fn set_short(&self, short: bool) {
        self.disk().short = short;
    }

    /// Makes 4096 bytes from `offset` on unreadable.
    pub(crate) fn set_bad(&self, path: &Path, offset: u64) {
        let mut disk = self.disk();
        let inode = disk.file(path).unwrap();
        disk.bad = Some((inode, offset));
    }

    /// What was called since the last time, in order: writes, syncs, cuts, renames, removals.
    pub(crate) fn calls(&self) -> Vec<(Call, String)> {
        self.disk().trace.replace(Vec::new()).unwrap_or_default()
    }

    /// Leaves this much free.
    pub(crate) fn set_free(&self, free: Option<u64>) {
        let mut disk = self.disk();
        disk.capacity = free.map_or(u64::MAX, |free| disk.used() + free);
    }

    /// The files and their contents.
    pub(crate) fn contents(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let disk = self.disk();
        let files = disk.names.iter().filter_map(|(path, entry)| match entry {
            Entry::File(inode) => Some((path.clone(), disk.inodes[inode].now.clone())),
            Entry::Dir => None,
        });
        files.collect()
    }

    /// A file system that durably holds these files.
    pub(crate) fn holding(files: &[(PathBuf, Vec<u8>)]) -> Self {
        let this = Self::new(0);
        let mut disk = this.disk();
        for (path, bytes) in files {
            for dir in path.ancestors().skip(1) {
                disk.names.insert(dir.to_owned(), Entry::Dir);
            }
            let inode = Inode { now: bytes.clone(), durable: bytes.clone(), ..Inode::default() };
            let number = disk.add(inode);
            disk.names.insert(path.clone(), Entry::File(number));
        }
        disk.durable_names = disk.names.clone();
        drop(disk);
        this
    }
}

struct Handle {
    files: ModelFiles,
    inode: u64,
    epoch: u64,
    writable: bool,
    path: PathBuf,
}

impl Handle {
    /// The disk, if the process that has this handle still lives and the call is to succeed.
    fn enter(&self, call: Call) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.files.disk();
        assert_eq!(disk.epoch, self.epoch, "a handle outlived its process");
        disk.call(call)?;
        if call != Call::Read {
            disk.note(call, &self.path);
        }
        Ok(disk)
    }
}

impl File for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.enter(Call::Read)?;
        let mut wanted = buffer.len();
        if disk.short {
            match disk.rng.u8(..8) {
                0 => return Err(ErrorKind::Interrupted.into()),
                1 if wanted > 1 => wanted = disk.rng.usize(1..wanted),
                _ => {}
            }
        }
        if let Some((inode, bad)) = disk.bad
            && inode == self.inode
            && offset < bad + 4096
            && bad < offset + wanted as u64
        {
            return Err(io::Error::from_raw_os_error(5));
        }
        let bytes = &disk.inodes[&self.inode].now;
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let to = (from + wanted).min(bytes.len());
        buffer[..to - from].copy_from_slice(&bytes[from..to]);
        Ok(to - from)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        assert!(self.writable);
        let mut disk = self.enter(Call::Write)?;
        let mut length = bytes.len();
        if disk.short {
            match disk.rng.u8(..8) {
                0 => return Err(ErrorKind::Interrupted.into()),
                1..4 if length > 1 => length = disk.rng.usize(1..length),
                _ => {}
            }
        }
        let offset = usize::try_from(offset).unwrap();
        let grows = (offset + length).saturating_sub(disk.inodes[&self.inode].now.len());
        let free = usize::try_from(disk.capacity.saturating_sub(disk.used())).unwrap();
        if grows > free {
            length = length.saturating_sub(grows - free);
            if length == 0 {
                return Err(io::Error::from_raw_os_error(28));
            }
        }
        let inode = disk.inodes.get_mut(&self.inode).unwrap();
        if inode.now.len() < offset + length {
            inode.now.resize(offset + length, 0);
        }
        inode.now[offset..offset + length].copy_from_slice(&bytes[..length]);
        inode.touch(offset, offset + length);
        if disk.rng.u8(..4) == 0 {
            let mut rng = disk.rng.fork();
            disk.inodes.get_mut(&self.inode).unwrap().write_back_some(&mut rng);
        }
        Ok(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.enter(Call::Sync) {
            Ok(mut disk) => {
                disk.inodes.get_mut(&self.inode).unwrap().sync();
                Ok(())
            }
            Err(error) => {
                let mut disk = self.files.disk();
                if !disk.dead {
                    let mut rng = disk.rng.fork();
                    disk.inodes.get_mut(&self.inode).unwrap().fail_to_sync(&mut rng);
                }
                Err(error)
            }
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        assert!(self.writable);
        let mut disk = self.enter(Call::SetLen)?;
        let inode = disk.inodes.get_mut(&self.inode).unwrap();
        let (old, new) = (inode.now.len(), usize::try_from(bytes).unwrap());
        inode.now.resize(new, 0);
        inode.touch(old.min(new), old.max(new));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let disk = self.enter(Call::Read)?;
        Ok(disk.inodes[&self.inode].now.len() as u64)
    }
}

struct DirHandle(ModelFiles, PathBuf);

impl File for DirHandle {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(ErrorKind::IsADirectory.into())
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(ErrorKind::IsADirectory.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_dir(&self.1)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_dir(&self.1)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(ErrorKind::IsADirectory.into())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(0)
    }
}

struct Held(ModelFiles, PathBuf, u64);

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        let mut disk = self.0.disk();
        if disk.epoch == self.2 {
            disk.locked.remove(&self.1);
        }
    }
}

impl Files for ModelFiles {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        disk.call(Call::Open)?;
        if how == Open::Dir {
            return Ok(Arc::new(DirHandle(self.clone(), path.to_owned())));
        }
        let inode = match (disk.file(path), how) {
            (Ok(inode), Open::Create) => {
                let file = disk.inodes.get_mut(&inode).unwrap();
                let length = file.now.len();
                file.now.clear();
                file.touch(0, length);
                inode
            }
            (Err(error), Open::Create) if error.kind() == ErrorKind::NotFound => {
                disk.parent_exists(path)?;
                let inode = disk.add(Inode::default());
                disk.names.insert(path.to_owned(), Entry::File(inode));
                inode
            }
            (found, _) => found?,
        };
        let (epoch, writable) = (disk.epoch, matches!(how, Open::Write | Open::Create));
        let (files, path) = (self.clone(), path.to_owned());
        Ok(Arc::new(Handle { files, inode, epoch, writable, path }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Call::CreateDir)?;
        disk.note(Call::CreateDir, path);
        disk.parent_exists(path)?;
        if disk.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        disk.names.insert(path.to_owned(), Entry::Dir);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Call::SyncDir)?;
        disk.note(Call::SyncDir, path);
        let of_dir = |name: &PathBuf| name.parent() == Some(path);
        let now: Vec<_> = disk
            .names
            .iter()
            .filter(|(name, _)| of_dir(name))
            .map(|(n, e)| (n.clone(), *e))
            .collect();
        disk.durable_names.retain(|name, _| !of_dir(name));
        disk.durable_names.extend(now);
        Ok(())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("/") || self.disk().names.get(path) == Some(&Entry::Dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.call(Call::List)?;
        let of_dir = disk.names.keys().filter(|name| name.parent() == Some(dir));
        Ok(of_dir.map(|name| name.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Call::Rename)?;
        disk.note(Call::Rename, to);
        let inode = disk.file(from)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), Entry::File(inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.call(Call::Remove)?;
        disk.file(path)?;
        disk.note(Call::Remove, path);
        disk.names.remove(path);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Locked> {
        let mut disk = self.disk();
        disk.call(Call::Lock)?;
        if !disk.locked.insert(path.to_owned()) {
            return Ok(Locked::Taken(Some(42)));
        }
        Ok(Locked::Ours(Box::new(Held(self.clone(), path.to_owned(), disk.epoch))))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk.capacity.saturating_sub(disk.used()))
    }

    fn now_ns(&self) -> i64 {
        let mut disk = self.disk();
        disk.clock_ns += disk.tick_ns;
        disk.clock_ns
    }
}
