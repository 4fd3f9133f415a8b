//! The embedded store: one SQLite file that a person can read with `sqlite3` while the gateway
//! writes.
//!
//! Owns the file, its tables, the cursor and ledger in it, roll-ups and retention. Promises that
//! every point is there exactly once (the cursor is committed with the points, synced), that times
//! are exact to the nanosecond and values to the bit, that the newer of two values for one series
//! and time wins, and that ingest does not slow down as the file grows. Refuses a file that holds
//! the points of another log, that is ahead of or too far behind its log, or that a newer gateway
//! has written.

mod buckets;
mod hourly;
pub mod query;
mod retention;
mod schema;
mod series;
#[cfg(test)]
mod tests;
mod worker;
mod write;

pub use hourly::Hour;
pub use series::Kind;

pub use super::LogRange;
use super::{Batch, Sink, SinkError};
use crate::{
    metrics::StoreMetrics,
    record::{Dropped, Identity, Ledger, Position},
};
use rusqlite::ErrorCode;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;
use worker::{Request, Work, Worker};
use write::{WriteError, Writer};

/// Memory for pages of the file while only its cursor is changed, in bytes.
const PLACE_CACHE_BYTES: u64 = 1024 * 1024;
/// Batches that wait for the store's thread.
const QUEUE: usize = 2;

/// What the operator may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file.
    pub path: PathBuf,
    /// How long points are kept; `None` keeps them for ever.
    pub keep_for: Option<Duration>,
    /// How long hourly roll-ups are kept; `None` keeps them for ever.
    pub keep_hourly_for: Option<Duration>,
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: u64,
    /// Series whose numbers are remembered, at about 200 bytes each; a point of another one costs
    /// a look-up.
    pub series_cache: usize,
}

impl Options {
    /// The defaults for this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            keep_for: None,
            keep_hourly_for: None,
            cache_bytes: 128 * 1024 * 1024,
            series_cache: 500_000,
        }
    }
}

/// How far a store has come, in which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredCursor {
    /// The log.
    pub log: Uuid,
    /// Everything up to here is stored.
    pub position: Position,
}

/// Why a store cannot be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It holds the points of another log.
    #[error(
        "the store {path} belongs to the log {store}, but the log here is {log}: put that log back, or move the store away and a new one is made from this log"
    )]
    OtherLog {
        /// The file.
        path: PathBuf,
        /// The log it belongs to.
        store: Uuid,
        /// The log here.
        log: Uuid,
    },
    /// Records that it does not have are no longer in the log.
    #[error(
        "the store {path} ends at record {cursor}, but the log begins at {oldest}: an old copy was put back; restore a newer copy, or move the store away and a new one is made from what the log has"
    )]
    BelowLog {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        cursor: Position,
        /// Where the log begins.
        oldest: Position,
    },
    /// It has records that the log has not.
    #[error(
        "the store {path} ends at record {cursor}, but the log ends at {end}: an old copy of the log was put back; restore a newer one, or move the log away and start with a new log and a new store"
    )]
    BeyondLog {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        cursor: Position,
        /// Where the log ends.
        end: Position,
    },
    /// A newer gateway has written it.
    #[error(
        "the store {path} has version {found}, this gateway knows {known}: run the gateway that wrote it, or a newer one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// It is something else.
    #[error("{path} is not a store of this gateway: name another file, or move it away")]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged.
    #[error(
        "the store {path} is damaged ({source}): move it away, then `sqlite3 MOVED .recover` shows what can be read; a new store is made from what the log has"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// SQLite cannot open it.
    #[error("the store {path} cannot be opened: {source}{}", hint(source))]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The file or its directory cannot be made.
    #[error("the store {path} cannot be made: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// How far a store has come; `None` if the file is not there. Opens nothing for writing, so that
/// the log can be asked whether it still reaches as far.
///
/// # Errors
/// The file is not a store, or is newer, or damaged.
pub fn stored_cursor(path: &Path) -> Result<Option<StoredCursor>, OpenError> {
    Ok(standing(path)?.map(|(cursor, _)| cursor))
}

/// …and its ledger there.
///
/// # Errors
/// As [`stored_cursor`].
pub fn standing(path: &Path) -> Result<Option<(StoredCursor, Ledger)>, OpenError> {
    if !path.exists() {
        return Ok(None);
    }
    let connection = match schema::open_read_only(path) {
        Ok(connection) => connection,
        // Made, and then the power went before its tables were there.
        Err(OpenError::NotAStore { .. }) if is_empty(path) => return Ok(None),
        Err(error) => return Err(error),
    };
    let state = schema::State::load(&connection)
        .map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })?;
    Ok(state.map(|state| (state.cursor(), state.ledger)))
}

/// How far a store has come, its ledger there, and what of it was dropped of a device and of all
/// devices together: of one moment.
///
/// # Errors
/// As [`stored_cursor`].
pub fn of_device(
    path: &Path,
    identity: &Identity,
) -> Result<Option<(Position, Ledger, Dropped, u64)>, OpenError> {
    let mut connection = schema::open_read_only(path)?;
    let mut look = || {
        let transaction = connection.transaction()?;
        let Some(state) = schema::State::load(&transaction)? else { return Ok(None) };
        let (dropped, all) = schema::given_up(&transaction, identity)?;
        Ok(Some((state.position, state.ledger, dropped, all)))
    };
    look().map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })
}

/// Lets a store that nobody has open go on behind `position` of the log, with this ledger; makes
/// it if it is not there. Points that it has are not doubled when they come again.
///
/// # Errors
/// See [`OpenError`]; a store of another log among them.
pub fn place(
    path: &Path,
    log: LogRange,
    position: Position,
    ledger: Ledger,
) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let connection = schema::open(path, PLACE_CACHE_BYTES, log.uuid, position)?;
    let state = schema::State::load(&connection).map_err(sqlite)?;
    let Some(state) = state else { return Err(OpenError::NotAStore { path: path.to_owned() }) };
    if state.log != log.uuid {
        let (path, store) = (path.to_owned(), state.log);
        return Err(OpenError::OtherLog { path, store, log: log.uuid });
    }
    schema::place(&connection, &schema::State { position, ledger, ..state }).map_err(sqlite)
}

fn is_empty(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    position: Position,
    ledger: Ledger,
}

/// The store. Dropping it waits for the write under way and closes the file.
#[derive(Debug)]
pub struct Store {
    requests: Option<mpsc::SyncSender<Request>>,
    places: Arc<Semaphore>,
    progress: Arc<Mutex<Progress>>,
    thread: Option<thread::JoinHandle<()>>,
    path: PathBuf,
}

impl Store {
    /// Opens the file, making it if it is not there, and starts its thread.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: Options, log: LogRange, metrics: StoreMetrics) -> Result<Self, OpenError> {
        let path = options.path.clone();
        let before_first = Position(log.oldest.0.saturating_sub(1));
        let connection = schema::open(&path, options.cache_bytes, log.uuid, before_first)?;
        let sqlite = |source| OpenError::Sqlite { path: path.clone(), source };
        let state = schema::State::load(&connection)
            .map_err(sqlite)?
            .ok_or_else(|| OpenError::NotAStore { path: path.clone() })?;
        check(&path, state.cursor(), log)?;
        let series: i64 = connection
            .query_row("SELECT count(*) FROM series", [], |row| row.get(0))
            .map_err(sqlite)?;
        let progress =
            Arc::new(Mutex::new(Progress { position: state.position, ledger: state.ledger }));
        let worker = Worker {
            connection,
            writer: Writer::new(state, options.series_cache),
            options,
            metrics,
            progress: Arc::clone(&progress),
            series: schema::unsigned(series),
            upkeep_after: None,
        };
        let (requests, received) = mpsc::sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(&received))
            .map_err(|source| OpenError::Io { path: path.clone(), source })?;
        Ok(Self {
            requests: Some(requests),
            places: Arc::new(Semaphore::new(QUEUE)),
            progress,
            thread: Some(thread),
            path,
        })
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> SinkError {
        SinkError::Fatal(format!(
            "the thread of the store {} has ended: restart the gateway and report this",
            self.path.display()
        ))
    }
}

impl Store {
    async fn ask(&self, work: Work) -> Result<(), SinkError> {
        let places = Arc::clone(&self.places);
        let place = places.acquire_owned().await.map_err(|_| self.gone())?;
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(|| self.gone())?;
        // There is room: the queue is as long as there are places.
        requests.try_send(Request { work, reply, _place: place }).map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }
}

impl Sink for Store {
    async fn write(&self, batch: Batch) -> Result<(), SinkError> {
        self.ask(Work::Write(batch)).await
    }

    fn committed(&self) -> Option<Position> {
        Some(self.progress().position)
    }

    fn ledger(&self) -> Option<Ledger> {
        Some(self.progress().ledger)
    }

    async fn rewind(&self, position: Position, ledger: Ledger) -> Result<(), SinkError> {
        self.ask(Work::Rewind(position, ledger)).await
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(store = %self.path.display(), "the store's thread has failed");
        }
    }
}

/// Whether the store and the log fit.
fn check(path: &Path, cursor: StoredCursor, log: LogRange) -> Result<(), OpenError> {
    let StoredCursor { log: store, position: cursor } = cursor;
    let path = path.to_owned();
    if store != log.uuid {
        return Err(OpenError::OtherLog { path, store, log: log.uuid });
    }
    if cursor.next() < log.oldest {
        return Err(OpenError::BelowLog { path, cursor, oldest: log.oldest });
    }
    if cursor > log.end {
        return Err(OpenError::BeyondLog { path, cursor, end: log.end });
    }
    Ok(())
}

/// What SQLite's words leave out.
fn hint(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            "; the gateway must be able to write to it and to its directory"
        }
        _ => "",
    }
}

/// What the forwarder is told.
fn explain(path: &Path, error: WriteError) -> SinkError {
    let path = path.display();
    let error = match error {
        WriteError::Undecodable(error) => return SinkError::Undecodable(error),
        WriteError::Gap(what) => {
            return SinkError::Fatal(format!("the store {path} was given a gap: {what}"));
        }
        WriteError::Sqlite(error) => error,
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            SinkError::Retry { after: None, why: format!("no space for the store {path}") }
        }
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted,
        ) => SinkError::Retry { after: None, why: format!("the store {path}: {error}") },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SinkError::Fatal(format!(
            "the store {path} is damaged ({error}): stop the gateway, move the store away, and \
             start again; a new one is made from what the log has"
        )),
        // A sync that failed is never tried again on the same descriptor: the kernel would
        // report success for pages that it has thrown away.
        Some(ErrorCode::SystemIoFailure) => SinkError::Fatal(format!(
            "the disk under the store {path} failed ({error}): check the disk, then restart the \
             gateway"
        )),
        _ => SinkError::Fatal(format!(
            "the store {path} refuses to be written ({error}): set that right, then restart the \
             gateway"
        )),
    }
}
