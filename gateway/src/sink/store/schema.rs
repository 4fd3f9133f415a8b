//! The tables, their version, and opening the file.

use super::{OpenError, OpenError as E, StoredCursor};
use crate::record::{Dropped, GivenUp, Identity, Ledger, Position};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};
use std::{fs, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};
use uuid::Uuid;

/// Marks the file as ours in SQLite's header: "TGst".
const APPLICATION_ID: i64 = 0x5447_7374;
/// Version of the tables below.
const SCHEMA_VERSION: i64 = 1;
/// How long a statement waits for somebody else's lock before the batch is retried.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages in the write-ahead log before they are carried over into the file: 64 MiB. A page that
/// several transactions touch is then carried over once.
const WAL_PAGES: i64 = 16_384;
/// The write-ahead log is cut back to this after a long reader has made it grow.
const WAL_KEEP_BYTES: i64 = 128 * 1024 * 1024;

/// `point` is clustered by bucket, a stretch of time that holds about [`super::buckets::TARGET`]
/// points: new points land in a few buckets that are in memory, however large the table is, and
/// a series is read with one seek per bucket.
///
/// `value` has no type of its own, so that every float keeps its bits (a REAL column would turn
/// -0.0 into 0); a float without a fraction is held as an integer, which is shorter.
///
/// SQLite cannot know how unevenly these tables are filled when a file is new, and plans the view
/// badly; the rows in `sqlite_stat1` tell it the shape that they have by design.
const SCHEMA: &str = "
CREATE TABLE series (
    id          INTEGER PRIMARY KEY,
    device      TEXT NOT NULL,
    realm       TEXT NOT NULL,
    measurement TEXT NOT NULL,
    field       TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('float', 'integer', 'boolean', 'string')),
    tags        TEXT NOT NULL, -- a JSON object, names sorted
    UNIQUE (device, realm, measurement, field, kind, tags)
) STRICT;
CREATE TABLE bucket (
    start     INTEGER PRIMARY KEY, -- seconds since the Unix epoch
    until     INTEGER NOT NULL,    -- exclusive; buckets never overlap nor cross an hour
    width     INTEGER NOT NULL,    -- the width it was opened with, in seconds
    points    INTEGER NOT NULL,    -- written into it, about
    newest_ns INTEGER NOT NULL     -- the latest time in it
) STRICT;
CREATE TABLE point (
    bucket INTEGER NOT NULL,
    series INTEGER NOT NULL,
    at     INTEGER NOT NULL,       -- nanoseconds since the start of the bucket
    value,
    PRIMARY KEY (bucket, series, at)
) WITHOUT ROWID;
CREATE TABLE hourly (
    day    INTEGER NOT NULL,       -- days since the Unix epoch
    series INTEGER NOT NULL,
    hour   INTEGER NOT NULL,       -- hours since the Unix epoch
    count  INTEGER NOT NULL,
    min, max, sum,                 -- of numbers and booleans
    last,
    PRIMARY KEY (day, series, hour)
) WITHOUT ROWID;
CREATE TABLE stale (               -- hours of series that changed since they were rolled up
    hour   INTEGER NOT NULL,
    series INTEGER NOT NULL,
    PRIMARY KEY (hour, series)
) WITHOUT ROWID;
CREATE TABLE cursor (              -- one row, written with the points
    id             INTEGER PRIMARY KEY CHECK (id = 1),
    log            TEXT NOT NULL,
    position       INTEGER NOT NULL,
    base           INTEGER,
    accepted_total INTEGER NOT NULL,
    stored         INTEGER NOT NULL,
    damaged        INTEGER NOT NULL,
    skipped        INTEGER NOT NULL,
    expired        INTEGER NOT NULL,
    overwritten    INTEGER NOT NULL, -- points
    points         INTEGER NOT NULL, -- in the table now
    raw_from_hour  INTEGER NOT NULL  -- points before this hour were deleted
) STRICT;
CREATE VIEW readings AS
    SELECT strftime('%Y-%m-%dT%H:%M:%S', p.bucket + p.at / 1000000000, 'unixepoch')
               || printf('.%09dZ', p.at % 1000000000) AS time,
           p.bucket * 1000000000 + p.at AS time_ns,
           s.realm, s.device, s.measurement, s.field, s.tags, s.kind,
           CASE s.kind WHEN 'float' THEN CAST(p.value AS REAL) ELSE p.value END AS value,
           p.bucket AS bucket_s
    FROM point p JOIN series s ON s.id = p.series;
CREATE VIEW readings_last_hour AS
    SELECT * FROM readings
    WHERE bucket_s > unixepoch('now') - 7200
      AND time_ns > (unixepoch('now') - 3600) * 1000000000;
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('point', 'point', '100000000 300000 5 1'),
    ('series', 'sqlite_autoindex_series_1', '60000 5 5 5 1 1 1'),
    ('bucket', NULL, '10000'),
    ('hourly', 'hourly', '1000000 60000 20 1'),
    ('stale', 'stale', '60000 30000 1');
";

/// One row for each time that the store was rewound. Made when it is first needed: a file without
/// it is one that never was.
const EPOCHS: &str = "
CREATE TABLE IF NOT EXISTS epoch (
    number   INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,     -- where it went back to
    base     INTEGER               -- readings that the log had accepted up to there
) STRICT;
";

/// Readings that are not stored, by device, in this epoch of the ledger. Made when it is first
/// needed, like the table of epochs.
const GIVEN_UP: &str = "
CREATE TABLE IF NOT EXISTS given_up (
    realm   TEXT NOT NULL,
    device  TEXT NOT NULL,
    damaged INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    PRIMARY KEY (realm, device)
) STRICT, WITHOUT ROWID;
";

/// Adds what is not stored of a device.
pub(super) fn give_up(
    connection: &Connection,
    GivenUp { identity, dropped }: &GivenUp,
) -> Result<(), rusqlite::Error> {
    if !has_table(connection, "given_up")? {
        connection.execute_batch(GIVEN_UP)?;
    }
    let sql = "INSERT INTO given_up VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
               damaged = damaged + ?3, skipped = skipped + ?4, expired = expired + ?5";
    let [damaged, skipped, expired] =
        [dropped.damaged, dropped.skipped, dropped.expired].map(signed);
    connection.prepare_cached(sql)?.execute(params![
        &*identity.realm,
        &*identity.device,
        damaged,
        skipped,
        expired
    ])?;
    Ok(())
}

/// What is not stored of a device, and of all together.
pub(super) fn given_up(
    connection: &Connection,
    identity: &Identity,
) -> Result<(Dropped, u64), rusqlite::Error> {
    if !has_table(connection, "given_up")? {
        return Ok((Dropped::default(), 0));
    }
    let sql = "SELECT damaged, skipped, expired FROM given_up WHERE realm = ?1 AND device = ?2";
    let row = |row: &rusqlite::Row<'_>| {
        let count = |index| row.get::<_, i64>(index).map(unsigned);
        let (damaged, skipped, expired) = (count(0)?, count(1)?, count(2)?);
        Ok(Dropped { damaged, skipped, expired, ..Dropped::default() })
    };
    let of = (&*identity.realm, &*identity.device);
    let dropped = connection.query_row(sql, of, row).optional()?.unwrap_or_default();
    let sql = "SELECT coalesce(sum(damaged + skipped + expired), 0) FROM given_up";
    let all = connection.query_row(sql, [], |row| row.get(0))?;
    Ok((dropped, unsigned(all)))
}

fn has_table(connection: &Connection, name: &str) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    Ok(connection.query_row(sql, [name], |row| row.get::<_, i64>(0))? > 0)
}

/// Makes a cursor and ledger durable that do not follow from those before.
pub(super) fn place(connection: &Connection, state: &State) -> Result<(), rusqlite::Error> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    state.save(&transaction)?;
    let State { position, ledger, .. } = state;
    if has_table(&transaction, "given_up")? {
        transaction.execute("DELETE FROM given_up", [])?;
    }
    if ledger.epoch > 0 {
        transaction.execute_batch(EPOCHS)?;
        transaction.execute(
            "INSERT OR REPLACE INTO epoch VALUES (?1, ?2, ?3)",
            params![signed(ledger.epoch), signed(position.0), ledger.base.map(signed)],
        )?;
    }
    transaction.commit()
}

fn epoch(connection: &Connection) -> Result<u64, rusqlite::Error> {
    if !has_table(connection, "epoch")? {
        return Ok(0);
    }
    let sql = "SELECT coalesce(max(number), 0) FROM epoch";
    connection.query_row(sql, [], |row| row.get(0)).map(unsigned)
}

/// Opens the file for writing, making it if it is not there; `log` is the log whose points it is
/// to hold.
pub(super) fn open(
    path: &Path,
    cache_bytes: u64,
    log: Uuid,
    before_first: Position,
) -> Result<Connection, OpenError> {
    let io = |source| E::Io { path: path.to_owned(), source };
    let made = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(io(error)),
    };
    let sql = |source| explain(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    let version = version(path, &connection)?;
    let kib = i64::try_from(cache_bytes / 1024).unwrap_or(i64::MAX);
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -{kib};
             PRAGMA wal_autocheckpoint = {WAL_PAGES}; PRAGMA journal_size_limit = {WAL_KEEP_BYTES};
             PRAGMA trusted_schema = OFF;"
        ))
        .map_err(sql)?;
    if version == 0 {
        let transaction = connection.transaction().map_err(sql)?;
        transaction.execute_batch(SCHEMA).map_err(sql)?;
        let insert = "INSERT INTO cursor VALUES (1, ?1, ?2, NULL, 0, 0, 0, 0, 0, 0, 0, ?3)";
        transaction
            .execute(insert, params![log.to_string(), signed(before_first.0), i64::MIN])
            .map_err(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(sql)?;
        transaction.commit().map_err(sql)?;
    }
    if made && let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    }
    Ok(connection)
}

/// Opens the file for reading only.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, OpenError> {
    let sql = |source| explain(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    if version(path, &connection)? == 0 {
        return Err(E::NotAStore { path: path.to_owned() });
    }
    Ok(connection)
}

/// The version of a file that is ours; 0 for an empty one.
fn version(path: &Path, connection: &Connection) -> Result<i64, OpenError> {
    let sql = |source| explain(path, source);
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0)).map_err(sql);
    let (application, version): (i64, i64) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sql)?;
    if tables == 0 && application == 0 && version == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(E::NotAStore { path: path.to_owned() });
    }
    if version > SCHEMA_VERSION {
        return Err(E::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    Ok(version)
}

fn explain(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => E::Corrupt { path, source },
        _ => E::Sqlite { path, source },
    }
}

/// What the cursor row holds.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) log: Uuid,
    pub(super) position: Position,
    pub(super) ledger: Ledger,
    pub(super) overwritten: u64,
    pub(super) points: u64,
    pub(super) raw_from_hour: i64,
}

impl State {
    pub(super) fn load(connection: &Connection) -> Result<Option<Self>, rusqlite::Error> {
        let sql = "SELECT log, position, base, accepted_total, stored, damaged, skipped, expired,
                          overwritten, points, raw_from_hour FROM cursor";
        let epoch = epoch(connection)?;
        let row = |row: &rusqlite::Row<'_>| {
            let count = |index| row.get::<_, i64>(index).map(unsigned);
            Ok(Self {
                log: row.get::<_, String>(0)?.parse().unwrap_or_default(),
                position: Position(count(1)?),
                ledger: Ledger {
                    base: row.get::<_, Option<i64>>(2)?.map(unsigned),
                    accepted_total: count(3)?,
                    stored: count(4)?,
                    quarantined: 0,
                    dropped: Dropped {
                        damaged: count(5)?,
                        skipped: count(6)?,
                        expired: count(7)?,
                        ..Dropped::default()
                    },
                    epoch,
                },
                overwritten: count(8)?,
                points: count(9)?,
                raw_from_hour: row.get(10)?,
            })
        };
        connection.query_row(sql, [], row).optional()
    }

    pub(super) fn save(&self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let sql = "UPDATE cursor SET position = ?1, base = ?2, accepted_total = ?3, stored = ?4,
                   damaged = ?5, skipped = ?6, expired = ?7, overwritten = ?8, points = ?9,
                   raw_from_hour = ?10";
        let ledger = &self.ledger;
        connection.prepare_cached(sql)?.execute(params![
            signed(self.position.0),
            ledger.base.map(signed),
            signed(ledger.accepted_total),
            signed(ledger.stored),
            signed(ledger.dropped.damaged),
            signed(ledger.dropped.skipped),
            signed(ledger.dropped.expired),
            signed(self.overwritten),
            signed(self.points),
            self.raw_from_hour,
        ])?;
        Ok(())
    }

    pub(super) fn cursor(&self) -> StoredCursor {
        StoredCursor { log: self.log, position: self.position }
    }
}

/// Counts are far below 2⁶³; SQLite has no unsigned integers.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
