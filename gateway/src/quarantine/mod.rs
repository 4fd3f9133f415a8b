//! Readings that a destination refused after they had been acknowledged.
//!
//! Owns `quarantine.db` in the data directory (SQLite, synced before the cursor passes what it
//! holds): for each refused reading the sink, the record and index, the device, the exact reading,
//! when it was received and kept, and the destination's words. It promises: a reading that is
//! refused again, after a crash or a rewind, is there once; what leaves is removed and counted
//! where it went in one transaction, so the ledger balances whenever the process ends; the limit
//! in bytes holds, and what does not fit waits or is counted as dropped, as the operator chose.
//! It refuses: a file of a newer gateway, and to touch what the cursor has not passed yet.
//!
//! The ledger that is committed with a sink's cursor counts what was ever kept; [`Moves`], which
//! are committed here, say what left again. One never waits for the other.

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod disk_tests;
mod entry;
mod file;
mod of_device;
mod of_sink;
mod taken_over;
#[cfg(test)]
mod tests;

pub use entry::Entry;
pub use of_device::OfDevice;
pub use of_sink::OfSink;
pub use taken_over::take_over;

use crate::{
    metrics::QuarantineMetrics,
    record::{Dropped, Moves, Position},
};
use rusqlite::{Connection, Transaction, params};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Most entries that one call gives.
pub const MAX_PAGE: u32 = 1_000;

/// What happens when the quarantine is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The sink waits until there is room.
    Hold,
    /// The oldest readings are dropped and counted.
    DropOldest,
}

/// What the operator may choose.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Most bytes of readings, with their words.
    pub max_bytes: u64,
    /// When that is reached.
    pub when_full: WhenFull,
}

/// The quarantine cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// SQLite's or the disk's.
    #[error("the quarantine {}: {source}", path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
    /// It is no database, or no whole one.
    #[error(
        "the quarantine {} is damaged: {source}; move it and its -wal aside (they hold the \
         refused readings: `sqlite3 FILE .recover` reads what is left of them) and start again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
    /// A newer gateway wrote it.
    #[error(
        "the quarantine {} has version {found}, this gateway knows {}: run the gateway that wrote it, or a newer one",
        path.display(), file::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
}

/// Which readings are meant; nothing set means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only this one.
    pub id: Option<i64>,
    /// Only of this sink.
    pub sink: Option<String>,
    /// Only of this device id.
    pub device: Option<String>,
    /// Only what was kept at this time or later, nanoseconds since the Unix epoch.
    pub since_ns: Option<i64>,
    /// Only after this id: the last one of the page before.
    pub after: Option<i64>,
}

/// What was done with readings that were sent again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// The destination has them.
    pub stored: Vec<i64>,
    /// It cannot hold them at all.
    pub unsupported: Vec<i64>,
    /// Refused again, with the new words.
    pub refused: Vec<(i64, String)>,
}

/// The open file. One process at a time changes it: whoever holds the lock of the log.
#[derive(Debug)]
pub struct Quarantine {
    path: PathBuf,
    options: Options,
    connection: Mutex<Connection>,
    /// By sink, as it was after the last change; for who must not wait for the disk.
    known: Mutex<BTreeMap<String, Known>>,
    metrics: QuarantineMetrics,
}

/// What is known of one sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Its cursor; `None` if it does not run.
    pub passed: Option<Position>,
    /// What left again.
    pub moves: Moves,
    /// Readings that are here.
    pub entries: u64,
    /// What they take.
    pub bytes: u64,
}

impl Quarantine {
    /// Opens the file, making it if it is not there.
    ///
    /// # Errors
    /// See [`QuarantineError`].
    pub fn open(
        path: &Path,
        options: Options,
        metrics: QuarantineMetrics,
    ) -> Result<Self, QuarantineError> {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        metrics.limit_bytes.set(options.max_bytes as f64);
        let connection = file::open(path)?;
        let (connection, known) = (Mutex::new(connection), Mutex::default());
        let opened = Self { path: path.to_owned(), options, connection, known, metrics };
        opened.change(|_| Ok(()))?;
        Ok(opened)
    }

    /// What is there, the oldest first, at most `limit` and [`MAX_PAGE`].
    ///
    /// # Errors
    /// SQLite's.
    pub fn list(&self, filter: &Filter, limit: u32) -> Result<Vec<Entry>, QuarantineError> {
        file::list(&self.connection(), filter, limit.min(MAX_PAGE)).map_err(|e| self.error(e))
    }

    /// What is known of a sink, without waiting for the disk.
    pub fn known(&self, sink: &str) -> Known {
        self.all_known().get(sink).copied().unwrap_or_default()
    }

    /// Gives up the readings meant, counted as dropped by the operator; gives how many. What a
    /// sink's cursor has not passed yet is left: it may come again.
    ///
    /// # Errors
    /// SQLite's; what was given up before stays so.
    pub fn give_up(&self, filter: &Filter) -> Result<u64, QuarantineError> {
        let mut page = filter.clone();
        let mut gone = 0;
        loop {
            let (of_page, last) = self.give_up_page(&page)?;
            gone += of_page;
            if last.is_none() {
                return Ok(gone);
            }
            page.after = last;
        }
    }

    /// …a page of them: how many, and the last one that was looked at; none when there are no more.
    ///
    /// # Errors
    /// SQLite's; nothing has changed then.
    pub fn give_up_page(&self, filter: &Filter) -> Result<(u64, Option<i64>), QuarantineError> {
        let (entries, last) = self.due(filter)?;
        let gone = self.change(|transaction| {
            let mut removed = 0;
            for entry in &entries {
                let dropped = Dropped { operator: 1, ..Dropped::default() };
                let moves = Moves { stored: 0, dropped };
                removed += u64::from(self.leave(transaction, entry.id, moves)?);
            }
            Ok(removed)
        })?;
        Ok((gone, last))
    }

    /// The readings of a sink that may be sent again, as [`Quarantine::list`] gives them.
    ///
    /// # Errors
    /// SQLite's.
    pub fn due(&self, filter: &Filter) -> Result<(Vec<Entry>, Option<i64>), QuarantineError> {
        let mut entries = self.list(filter, MAX_PAGE)?;
        let last = entries.last().map(|of| of.id);
        entries.retain(|of| self.is_settled(of));
        Ok((entries, last))
    }

    /// Enters what came of sending readings again.
    ///
    /// # Errors
    /// SQLite's; nothing has changed then, and sending them once more changes nothing either.
    pub fn sent(&self, sent: &Sent) -> Result<(), QuarantineError> {
        self.change(|transaction| {
            let unheld = Dropped { unsupported: 1, ..Dropped::default() };
            for &id in &sent.unsupported {
                self.leave(transaction, id, Moves { stored: 0, dropped: unheld })?;
            }
            for &id in &sent.stored {
                self.leave(transaction, id, Moves { stored: 1, dropped: Dropped::default() })?;
            }
            let sql = "UPDATE entry SET reason = ?2 WHERE id = ?1";
            for (id, reason) in &sent.refused {
                transaction.execute(sql, params![id, reason])?;
            }
            Ok(())
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sink's cursor has passed everything up to here.
    pub fn stands_at(&self, sink: &str, position: Position) {
        self.all_known().entry(sink.to_owned()).or_default().passed = Some(position);
    }

    /// Whether no cursor can come back before this entry.
    fn is_settled(&self, entry: &Entry) -> bool {
        let passed = self.known(&entry.sink).passed;
        !entry.counted || passed.is_none_or(|passed| entry.position <= passed)
    }

    /// Removes a settled entry and counts where it went; false if there is none.
    fn leave(&self, tx: &Transaction<'_>, id: i64, to: Moves) -> rusqlite::Result<bool> {
        file::leave(tx, id, to, |entry| self.is_settled(entry))
    }

    fn error(&self, source: rusqlite::Error) -> QuarantineError {
        file::error(&self.path, source)
    }

    /// One transaction, and what is known after it.
    fn change<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, QuarantineError> {
        let mut connection = self.connection();
        let run = || {
            let transaction = connection.transaction()?;
            let done = work(&transaction)?;
            let found = file::known(&transaction)?;
            transaction.commit()?;
            let mut known = self.all_known();
            for of in known.values_mut() {
                *of = Known { passed: of.passed, ..Known::default() };
            }
            let bytes: u64 = found.values().map(|of| of.bytes).sum();
            #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
            self.metrics.bytes.set(bytes as f64);
            for (sink, of) in found {
                let passed = known.get(&sink).and_then(|of| of.passed);
                known.insert(sink, Known { passed, ..of });
            }
            Ok(done)
        };
        run().map_err(|e| self.error(e))
    }
}

/// What left the quarantine of a sink in this epoch of its ledger, by the file at `path`; nothing
/// if there is none. For who asks beside a running gateway.
///
/// # Errors
/// SQLite's.
pub fn moves(path: &Path, sink: &str, epoch: u64) -> Result<Moves, QuarantineError> {
    if !path.exists() {
        return Ok(Moves::default());
    }
    let sql = |source| file::error(path, source);
    file::moves(&file::open_to_read(path)?, sink, epoch).map_err(sql)
}

/// What is in the file at `path`, as [`Quarantine::list`] gives it; nothing if there is none. For
/// who asks beside a running gateway.
///
/// # Errors
/// SQLite's.
pub fn look(path: &Path, filter: &Filter, limit: u32) -> Result<Vec<Entry>, QuarantineError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let sql = |source| file::error(path, source);
    file::list(&file::open_to_read(path)?, filter, limit.min(MAX_PAGE)).map_err(sql)
}
