//! The tables of `state.db`, their version, and what is read and written.

use super::{
    changes::Change,
    devices::DeviceFacts,
    revocations::Revocation,
    types::{KnownField, Origin},
};
use crate::record::{FieldKind, Identity};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};
use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Marks the file as ours in SQLite's header: "TGdb".
const APPLICATION_ID: i64 = 0x5447_6462;
/// Version of the tables below.
const SCHEMA_VERSION: i64 = 1;
/// How long a statement waits for somebody else's lock, such as a backup's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
CREATE TABLE field (
    realm       TEXT NOT NULL,
    measurement TEXT NOT NULL,
    field       TEXT NOT NULL,
    kind        TEXT NOT NULL CHECK (kind IN ('number', 'bool', 'text')),
    origin      TEXT NOT NULL CHECK (origin IN ('use', 'store', 'operator')),
    learned_from TEXT NOT NULL,       -- device or sink
    at_ms       INTEGER NOT NULL,     -- milliseconds since the Unix epoch, as all times here
    PRIMARY KEY (realm, measurement, field)
) STRICT, WITHOUT ROWID;
CREATE TABLE revoked (
    realm  TEXT NOT NULL,
    device TEXT NOT NULL,
    at_ms  INTEGER NOT NULL,
    PRIMARY KEY (realm, device)
) STRICT, WITHOUT ROWID;
CREATE TABLE device (
    realm         TEXT NOT NULL,
    device        TEXT NOT NULL,
    first_seen_ms INTEGER NOT NULL,
    last_seen_ms  INTEGER NOT NULL,
    connected_ms  INTEGER NOT NULL,
    connections   INTEGER NOT NULL,
    batches       INTEGER NOT NULL,
    accepted      INTEGER NOT NULL,
    refused       INTEGER NOT NULL,
    gaps          INTEGER NOT NULL,
    PRIMARY KEY (realm, device)
) STRICT, WITHOUT ROWID;
";

/// Why `state.db` cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer gateway has written it.
    #[error(
        "{} has version {found}, this gateway knows {SCHEMA_VERSION}: run the gateway that wrote \
         it, or a newer one", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// It is somebody else's.
    #[error("{} is not a state file of the gateway: move it away", path.display())]
    NotState {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged.
    #[error(
        "{} is damaged ({source}): put a copy back, or move it away; then the kinds of fields are \
         learned again, and revocations have to be made again", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// SQLite cannot use it.
    #[error("cannot use {}: {source}; check its permissions and its disk", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The file system refuses.
    #[error("cannot make {}: {source}; check its directory and its disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the file holds.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) fields: Vec<KnownField>,
    pub(super) revoked: Vec<Revocation>,
    pub(super) devices: Vec<DeviceFacts>,
}

/// Opens the file, making it if it is not there.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let sql = |source| explain(path, source);
    let made = !path.exists();
    // Made by us for its mode; SQLite gives the files beside it the same.
    let mut file = fs::OpenOptions::new();
    file.write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    let version = version(path, &connection)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;",
        )
        .map_err(sql)?;
    if version == 0 {
        let transaction = connection.transaction().map_err(sql)?;
        transaction.execute_batch(SCHEMA).map_err(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(sql)?;
        transaction.commit().map_err(sql)?;
    }
    if made && let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
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
    match (application, version) {
        (0, 0) if tables == 0 => Ok(0),
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(version),
        (APPLICATION_ID, found) => Err(OpenError::Newer { path: path.to_owned(), found }),
        _ => Err(OpenError::NotState { path: path.to_owned() }),
    }
}

/// Reads everything.
pub(super) fn read(path: &Path, connection: &Connection) -> Result<Read, OpenError> {
    let fields = "SELECT realm, measurement, field, kind, origin, learned_from, at_ms FROM field";
    let devices = "SELECT realm, device, first_seen_ms, last_seen_ms, connected_ms, connections,
                          batches, accepted, refused, gaps FROM device";
    let read = || {
        Ok(Read {
            fields: rows(connection, fields, field)?.into_iter().flatten().collect(),
            revoked: rows(connection, "SELECT realm, device, at_ms FROM revoked", |row| {
                Ok(Revocation { identity: identity(row)?, at_ms: row.get(2)? })
            })?,
            devices: rows(connection, devices, device)?,
        })
    };
    read().map_err(|source| explain(path, source))
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    row: impl FnMut(&Row<'_>) -> Result<T, rusqlite::Error>,
) -> Result<Vec<T>, rusqlite::Error> {
    connection.prepare(sql)?.query_map([], row)?.collect()
}

fn identity(row: &Row<'_>) -> Result<Identity, rusqlite::Error> {
    Ok(Identity::new(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?))
}

/// `None` for a kind that the table's check excludes.
fn field(row: &Row<'_>) -> Result<Option<KnownField>, rusqlite::Error> {
    let kind = FieldKind::from_text(row.get_ref(3)?.as_str()?);
    let origin = Origin::from_text(row.get_ref(4)?.as_str()?);
    let (Some(kind), Some(origin)) = (kind, origin) else { return Ok(None) };
    Ok(Some(KnownField {
        realm: row.get::<_, Box<str>>(0)?,
        measurement: row.get::<_, Box<str>>(1)?,
        field: row.get::<_, Box<str>>(2)?,
        kind,
        origin,
        from: row.get::<_, Box<str>>(5)?,
        at_ms: row.get(6)?,
    }))
}

fn device(row: &Row<'_>) -> Result<DeviceFacts, rusqlite::Error> {
    let count =
        |index| Ok::<_, rusqlite::Error>(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0));
    Ok(DeviceFacts {
        identity: identity(row)?,
        first_seen_ms: row.get(2)?,
        last_seen_ms: row.get(3)?,
        connected_ms: row.get(4)?,
        connected: false,
        connections: count(5)?,
        batches: count(6)?,
        accepted: count(7)?,
        refused: count(8)?,
        gaps: count(9)?,
        last_seq: 0,
        clock_offset_ms: None,
        ack_us: 0,
        ack_max_us: 0,
    })
}

/// Makes changes durable, all in one transaction.
pub(super) fn write(
    connection: &mut Connection,
    changes: &[Change],
) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    for change in changes {
        match change {
            Change::Field(of) => {
                let sql = "INSERT OR REPLACE INTO field VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
                transaction.prepare_cached(sql)?.execute(params![
                    of.realm,
                    of.measurement,
                    of.field,
                    of.kind.as_str(),
                    of.origin.as_str(),
                    of.from,
                    of.at_ms
                ])?;
            }
            Change::ForgetField { realm, measurement, field } => {
                let sql = "DELETE FROM field WHERE realm = ?1 AND measurement = ?2 AND field = ?3";
                transaction.prepare_cached(sql)?.execute(params![realm, measurement, field])?;
            }
            Change::Revoke(Revocation { identity, at_ms }) => {
                let sql = "INSERT OR REPLACE INTO revoked VALUES (?1, ?2, ?3)";
                let of = params![&*identity.realm, &*identity.device, at_ms];
                transaction.prepare_cached(sql)?.execute(of)?;
            }
            Change::Allow(identity) => {
                let sql = "DELETE FROM revoked WHERE realm = ?1 AND device = ?2";
                let of = params![&*identity.realm, &*identity.device];
                transaction.prepare_cached(sql)?.execute(of)?;
            }
        }
    }
    transaction.commit()
}

/// Writes the counts of these devices.
pub(super) fn write_devices(
    connection: &mut Connection,
    devices: &[DeviceFacts],
) -> Result<(), rusqlite::Error> {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let transaction = connection.transaction()?;
    for of in devices {
        let sql = "INSERT OR REPLACE INTO device VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        transaction.prepare_cached(sql)?.execute(params![
            &*of.identity.realm,
            &*of.identity.device,
            of.first_seen_ms,
            of.last_seen_ms,
            of.connected_ms,
            signed(of.connections),
            signed(of.batches),
            signed(of.accepted),
            signed(of.refused),
            signed(of.gaps),
        ])?;
    }
    transaction.commit()
}

/// Takes these devices out.
pub(super) fn forget_devices(
    connection: &mut Connection,
    devices: &[Identity],
) -> Result<(), rusqlite::Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for identity in devices {
        let sql = "DELETE FROM device WHERE realm = ?1 AND device = ?2";
        let of = params![&*identity.realm, &*identity.device];
        transaction.prepare_cached(sql)?.execute(of)?;
    }
    transaction.commit()
}

fn explain(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Corrupt { path, source }
        }
        _ => OpenError::Sqlite { path, source },
    }
}
