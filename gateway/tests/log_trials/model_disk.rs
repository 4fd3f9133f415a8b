//! What the model file system keeps: what is durable and what is only in the page cache.
//!
//! A crash keeps of every file a random choice of the sectors that were not synced, of every
//! directory a random choice of the entries that were not synced, and puts zeros, noise or the
//! bytes of another file where a file had grown and its contents were not written. A failed sync
//! takes its sectors for clean although they are not on the disk, as Linux does.

use fastrand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

const SECTOR_BYTES: usize = 512;

/// A kind of call, for choosing which one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    Read,
    Write,
    Sync,
    SyncDir,
    SetLen,
    Rename,
    Remove,
    List,
    CreateDir,
    Lock,
}

impl Call {
    pub(crate) const ALL: [Call; 11] = [
        Call::Open,
        Call::Read,
        Call::Write,
        Call::Sync,
        Call::SyncDir,
        Call::SetLen,
        Call::Rename,
        Call::Remove,
        Call::List,
        Call::CreateDir,
        Call::Lock,
    ];
}

/// Makes calls fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// Which kind; `None` counts all.
    pub(crate) call: Option<Call>,
    /// How many of these still succeed.
    pub(crate) after: u64,
    /// The error, by number.
    pub(crate) errno: i32,
    /// All later calls of every kind fail too: the process is dead.
    pub(crate) for_good: bool,
}

pub(crate) struct Disk {
    pub(crate) rng: Rng,
    /// Handles of an earlier epoch belong to a process that is dead.
    pub(crate) epoch: u64,
    pub(crate) inodes: BTreeMap<u64, Inode>,
    pub(crate) next_inode: u64,
    pub(crate) names: BTreeMap<PathBuf, Entry>,
    pub(crate) durable_names: BTreeMap<PathBuf, Entry>,
    pub(crate) locked: BTreeSet<PathBuf>,
    pub(crate) capacity: u64,
    pub(crate) fault: Option<Fault>,
    pub(crate) dead: bool,
    pub(crate) short: bool,
    pub(crate) clock_ns: i64,
    pub(crate) tick_ns: i64,
    /// A sector of a file that cannot be read, until it is written.
    pub(crate) bad: Option<(u64, u64)>,
    /// Calls that changed something, while somebody listens: what, and the name of the file.
    pub(crate) trace: Option<Vec<(Call, String)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Dir,
    File(u64),
}

#[derive(Default, Clone)]
pub(crate) struct Inode {
    pub(crate) now: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    pub(crate) dirty: BTreeSet<usize>,
}

impl Disk {
    pub(crate) fn add(&mut self, inode: Inode) -> u64 {
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, inode);
        self.next_inode
    }

    pub(crate) fn used(&self) -> u64 {
        let inodes: BTreeSet<u64> = self
            .names
            .values()
            .filter_map(|entry| match entry {
                Entry::File(inode) => Some(*inode),
                Entry::Dir => None,
            })
            .collect();
        inodes.iter().map(|inode| self.inodes[inode].now.len() as u64).sum()
    }

    pub(crate) fn call(&mut self, call: Call) -> io::Result<()> {
        let eio = || Err(io::Error::from_raw_os_error(5));
        if self.dead {
            return eio();
        }
        let Some(fault) = &mut self.fault else { return Ok(()) };
        if fault.call.is_some_and(|wanted| wanted != call) {
            return Ok(());
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let (errno, for_good) = (fault.errno, fault.for_good);
        self.dead = for_good;
        self.fault = None;
        Err(io::Error::from_raw_os_error(errno))
    }

    pub(crate) fn note(&mut self, call: Call, path: &Path) {
        if let Some(trace) = &mut self.trace {
            let name = path.file_name().unwrap_or(path.as_os_str());
            trace.push((call, name.to_str().unwrap().to_owned()));
        }
    }

    pub(crate) fn end_process(&mut self) {
        self.epoch += 1;
        self.locked.clear();
        self.dead = false;
        self.fault = None;
        let held: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .filter_map(|entry| match entry {
                Entry::File(inode) => Some(*inode),
                Entry::Dir => None,
            })
            .collect();
        self.inodes.retain(|inode, _| held.contains(inode));
    }

    pub(crate) fn cut_power(&mut self) {
        let mut rng = self.rng.fork();
        let donors: Vec<Vec<u8>> = self.inodes.values().map(|inode| inode.now.clone()).collect();
        for inode in self.inodes.values_mut() {
            inode.cut_power(&mut rng, &donors);
        }
        let paths: BTreeSet<PathBuf> =
            self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        let mut left = BTreeMap::new();
        for path in paths {
            let side = if rng.bool() { &self.names } else { &self.durable_names };
            let parent_is_there = path
                .parent()
                .is_none_or(|parent| parent == Path::new("/") || left.contains_key(parent));
            if let Some(entry) = side.get(&path).filter(|_| parent_is_there) {
                left.insert(path, *entry);
            }
        }
        self.names = left.clone();
        self.durable_names = left;
    }

    pub(crate) fn file(&mut self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::File(inode)) => Ok(*inode),
            Some(Entry::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if parent == Path::new("/") || self.names.contains_key(parent) => Ok(()),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }
}

impl Inode {
    pub(crate) fn touch(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
    }

    pub(crate) fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.write_back(sector);
        }
    }

    /// The kernel writes when it likes, too.
    pub(crate) fn write_back_some(&mut self, rng: &mut Rng) {
        self.durable.resize(self.now.len(), 0);
        let dirty = std::mem::take(&mut self.dirty);
        for sector in dirty {
            if rng.bool() {
                self.write_back(sector);
            } else {
                self.dirty.insert(sector);
            }
        }
    }

    /// The pages are clean from now on, and only some are on the disk.
    pub(crate) fn fail_to_sync(&mut self, rng: &mut Rng) {
        for sector in std::mem::take(&mut self.dirty) {
            if rng.bool() {
                self.write_back(sector);
            }
        }
    }

    pub(crate) fn write_back(&mut self, sector: usize) {
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(self.now.len()).min(self.durable.len());
        if from < to {
            self.durable[from..to].copy_from_slice(&self.now[from..to]);
        }
    }

    pub(crate) fn cut_power(&mut self, rng: &mut Rng, donors: &[Vec<u8>]) {
        let (old, new) = (self.durable.len(), self.now.len());
        let length = match rng.u8(..4) {
            0 => old,
            1 => new,
            _ => rng.usize(old.min(new)..=old.max(new)),
        };
        let filling = rng.u8(..3);
        self.durable.truncate(length);
        for at in self.durable.len()..length {
            let byte = match filling {
                0 => 0,
                1 => rng.u8(..),
                _ => donors[at % donors.len()].get(at).copied().unwrap_or(0),
            };
            self.durable.push(byte);
        }
        for sector in std::mem::take(&mut self.dirty) {
            if rng.bool() {
                self.write_back(sector);
            }
        }
        self.now = self.durable.clone();
    }
}
