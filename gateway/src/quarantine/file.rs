//! The tables of `quarantine.db`, version 1, and the statements on them.

use super::{Entry, Filter, Known, QuarantineError, entry::checksum, of_device};
use crate::record::{Dropped, Moves, Position};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params, types::ValueRef};
use std::{collections::BTreeMap, path::Path, time::Duration};

pub(super) const VERSION: i64 = 1;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE entry (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    log           TEXT NOT NULL,    -- UUID
    sink          TEXT NOT NULL,
    position      INTEGER NOT NULL, -- record of the log
    reading       INTEGER NOT NULL, -- index in the record
    epoch         INTEGER NOT NULL, -- of the sink's ledger
    counted       INTEGER NOT NULL, -- 1 if the sink's ledger has it, 0 if that began anew since
    realm         TEXT NOT NULL,
    device        TEXT NOT NULL,
    received_ns   INTEGER NOT NULL,
    kept_ns       INTEGER NOT NULL,
    reason        TEXT NOT NULL,    -- the destination's words
    body          BLOB NOT NULL,    -- batch body of telemetry.v1.msgpack, times in nanoseconds
    checksum      INTEGER NOT NULL, -- CRC-32C over realm, 0, device, 0, body
    bytes         INTEGER NOT NULL,
    UNIQUE (log, sink, position, reading)
) STRICT;
CREATE INDEX entry_size ON entry (sink, bytes);
CREATE INDEX entry_device ON entry (device, realm, sink);
CREATE TABLE move (                 -- what left again, of those that were counted
    sink            TEXT PRIMARY KEY,
    epoch           INTEGER NOT NULL, -- of the sink's ledger
    stored          INTEGER NOT NULL DEFAULT 0,
    unsupported     INTEGER NOT NULL DEFAULT 0,
    quarantine_full INTEGER NOT NULL DEFAULT 0,
    operator        INTEGER NOT NULL DEFAULT 0
) STRICT;
PRAGMA user_version = 1;
";

/// What is there by sink, kept up to date in memory: counting it anew costs 0.1 s for 900,000
/// entries, at each change.
const TOTALS: &str = "
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE total (sink TEXT PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO total SELECT sink, count(*), sum(bytes) FROM entry GROUP BY sink;
CREATE TEMP TRIGGER added AFTER INSERT ON main.entry BEGIN
    INSERT INTO total VALUES (new.sink, 1, new.bytes) ON CONFLICT (sink) DO UPDATE SET
    entries = entries + 1, bytes = bytes + new.bytes;
END;
CREATE TEMP TRIGGER resized AFTER UPDATE OF bytes ON main.entry BEGIN
    UPDATE total SET bytes = bytes + new.bytes - old.bytes WHERE sink = new.sink;
END;
CREATE TEMP TRIGGER removed AFTER DELETE ON main.entry BEGIN
    UPDATE total SET entries = entries - 1, bytes = bytes - old.bytes WHERE sink = old.sink;
END;
";

pub(super) fn open(path: &Path) -> Result<Connection, QuarantineError> {
    let sql = |source| error(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    let version = version(path, &connection)?;
    let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                   PRAGMA trusted_schema = OFF;";
    connection.execute_batch(pragmas).map_err(sql)?;
    if version == 0 {
        let make = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.commit()
        };
        make(&mut connection).map_err(sql)?;
    }
    connection.execute_batch(of_device::SCHEMA).map_err(sql)?;
    connection.execute_batch(TOTALS).map_err(sql)?;
    Ok(connection)
}

pub(super) fn open_to_read(path: &Path) -> Result<Connection, QuarantineError> {
    let sql = |source| error(path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    version(path, &connection)?;
    Ok(connection)
}

/// 0 for an empty file.
fn version(path: &Path, connection: &Connection) -> Result<i64, QuarantineError> {
    let path = path.to_owned();
    match connection.pragma_query_value(None, "user_version", |row| row.get(0)) {
        Ok(found) if found > VERSION => Err(QuarantineError::Newer { path, found }),
        Ok(found) => Ok(found),
        Err(source) => Err(error(&path, source)),
    }
}

/// Names what a person can do.
pub(super) fn error(path: &Path, source: rusqlite::Error) -> QuarantineError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            QuarantineError::Damaged { path, source }
        }
        _ => QuarantineError::Sql { path, source },
    }
}

pub(super) fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(sum(bytes), 0) FROM total";
    connection.query_row(sql, [], |row| count(row, 0))
}

/// Counts are never negative.
pub(super) fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|n| u64::try_from(n).unwrap_or(0))
}

/// A text, also if a damaged disk has made it none.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    match row.get_ref(column)? {
        ValueRef::Text(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
        _ => row.get(column),
    }
}

/// SQLite's integers are signed; no count comes near the end of them.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// What left again in this epoch of the sink's ledger.
pub(super) fn moves(connection: &Connection, sink: &str, epoch: u64) -> rusqlite::Result<Moves> {
    let all = all_moves(connection)?;
    let of = all.into_iter().find(|(name, (of, _))| name == sink && *of == epoch);
    Ok(of.unwrap_or_default().1.1)
}

/// By sink, with the epoch.
fn all_moves(connection: &Connection) -> rusqlite::Result<Vec<(String, (u64, Moves))>> {
    let sql = "SELECT sink, epoch, stored, unsupported, quarantine_full, operator FROM move";
    let row = |row: &Row<'_>| {
        let dropped = Dropped {
            unsupported: count(row, 3)?,
            quarantine_full: count(row, 4)?,
            operator: count(row, 5)?,
            ..Dropped::default()
        };
        Ok((row.get(0)?, (count(row, 1)?, Moves { stored: count(row, 2)?, dropped })))
    };
    connection.prepare_cached(sql)?.query_map([], row)?.collect()
}

/// By sink, without the cursors.
pub(super) fn known(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Known>> {
    let mut known = BTreeMap::<String, Known>::new();
    for (sink, (_, moves)) in all_moves(connection)? {
        known.entry(sink).or_default().moves = moves;
    }
    let sql = "SELECT sink, entries, bytes FROM total";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let of = known.entry(row.get(0)?).or_default();
        (of.entries, of.bytes) = (count(row, 1)?, count(row, 2)?);
    }
    Ok(known)
}

/// Removes an entry that may leave and counts where it went; false if it is gone or may not.
pub(super) fn leave(
    connection: &Connection,
    id: i64,
    to: Moves,
    may_leave: impl Fn(&Entry) -> bool,
) -> rusqlite::Result<bool> {
    let only = Filter { id: Some(id), ..Filter::default() };
    let Some(entry) = list(connection, &only, 1)?.into_iter().find(may_leave) else {
        return Ok(false);
    };
    connection.prepare_cached("DELETE FROM entry WHERE id = ?1")?.execute([id])?;
    if entry.counted {
        let sql = "INSERT INTO move (sink, epoch, stored, unsupported, quarantine_full, operator)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sink) DO UPDATE SET
                   stored = stored + ?3, unsupported = unsupported + ?4,
                   quarantine_full = quarantine_full + ?5, operator = operator + ?6";
        let Dropped { unsupported, quarantine_full, operator, .. } = to.dropped;
        let [stored, unsupported, full, operator] =
            [to.stored, unsupported, quarantine_full, operator].map(signed);
        let mut add = connection.prepare_cached(sql)?;
        let epoch = signed(entry.epoch);
        add.execute(params![entry.sink, epoch, stored, unsupported, full, operator])?;
        let of = (&*entry.sink, &*entry.realm, &*entry.device);
        of_device::add_moved(connection, of, to.dropped)?;
    }
    Ok(true)
}

pub(super) fn list(
    connection: &Connection,
    filter: &Filter,
    limit: u32,
) -> rusqlite::Result<Vec<Entry>> {
    let sql = "SELECT id, sink, position, reading, epoch, counted, realm, device, received_ns,
                      kept_ns, reason, body, checksum FROM entry
               WHERE id BETWEEN coalesce(?2, ?1 + 1, 0) AND coalesce(?2, 9223372036854775807)
                 AND (?1 IS NULL OR id > ?1)
                 AND (?3 IS NULL OR sink = ?3) AND (?4 IS NULL OR device = ?4)
                 AND (?5 IS NULL OR kept_ns >= ?5) ORDER BY id LIMIT ?6";
    let Filter { id, sink, device, since_ns, after } = filter;
    let row = |row: &Row<'_>| {
        let (realm, device) = (text(row, 6)?, text(row, 7)?);
        let body = row.get_ref(11)?.as_bytes()?.to_vec();
        let sum = i64::from(checksum(&realm, &device, &body));
        Ok(Entry {
            id: row.get(0)?,
            sink: text(row, 1)?,
            position: Position(count(row, 2)?),
            index: row.get(3)?,
            epoch: count(row, 4)?,
            counted: row.get(5)?,
            realm,
            device,
            received_ns: row.get(8)?,
            kept_ns: row.get(9)?,
            reason: text(row, 10)?,
            is_sound: row.get::<_, i64>(12)? == sum,
            body,
        })
    };
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(params![after, id, sink, device, since_ns, limit], row)?.collect()
}
