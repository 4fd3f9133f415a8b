//! The gateway's embedded store: a SQLite file, read while the gateway writes.
//!
//! Reads the tables behind the view `readings`, in the order in which they are clustered: a device
//! has few series, and within a bucket of time each of them is one seek. The view leaves that order
//! to the planner, which may walk a whole bucket for each device. The ledger is in `cursor`.

use super::realm::OneRealm;
use super::store::{Fidelity, Row, Store, Stored};
use anyhow::{Context, Result, bail};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for somebody else's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Measurements of the gateway's own begin with this.
const GATEWAYS_OWN: &str = "gateway_";

/// An embedded store, open for reading.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    path: PathBuf,
    /// Whose devices the run is of; absent: their only realm.
    realm: Option<String>,
    /// Start of every bucket within the times of the walk, ascending.
    buckets: Vec<i64>,
    from_ns: i64,
    to_ns: i64,
}

impl SqliteStore {
    /// Opens a file.
    ///
    /// # Errors
    /// It is not there, or not an embedded store.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read the store {}", path.display());
        if !path.is_file() {
            bail!("{}: there is no such file", unreadable());
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).with_context(unreadable)?;
        connection.busy_timeout(BUSY_TIMEOUT).with_context(unreadable)?;
        for needed in ["point", "bucket", "series", "cursor"] {
            let found: i64 = connection
                .query_row("SELECT count(*) FROM sqlite_schema WHERE name = ?1", [needed], |row| {
                    row.get(0)
                })
                .with_context(unreadable)?;
            if found == 0 {
                bail!("{}: it is not a store of the gateway, it has no {needed}", unreadable());
            }
        }
        let path = path.into();
        Ok(Self { connection, path, realm: None, buckets: vec![], from_ns: 0, to_ns: 0 })
    }

    /// Only devices of this realm are looked at. Without one, devices of the run's names in
    /// several realms are an error, since only one of them can be the run's.
    #[must_use]
    pub fn of_realm(self, realm: Option<String>) -> Self {
        Self { realm, ..self }
    }

    fn unreadable(path: &Path) -> impl FnOnce() -> String {
        move || format!("cannot read the store {}", path.display())
    }

    fn number(&self, sql: &str) -> Result<u64> {
        let read = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, Option<i64>>(0)));
        let number = read.with_context(Self::unreadable(&self.path))?;
        Ok(u64::try_from(number.unwrap_or(0)).unwrap_or(0))
    }

    fn rows_of(&self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        let mut one = OneRealm::new(device, self.realm.as_deref());
        // Buckets do not overlap: bucket after bucket, each sorted, is in the order of time.
        let mut statement = self.connection.prepare_cached(
            "SELECT p.bucket * 1000000000 + p.at AS time_ns, s.measurement, s.tags, s.field, s.kind,
                    CASE s.kind WHEN 'float' THEN CAST(p.value AS REAL) ELSE p.value END, s.realm
             FROM series s CROSS JOIN point p ON p.bucket = ?2 AND p.series = s.id
             WHERE s.device = ?1 AND time_ns BETWEEN ?3 AND ?4 AND (?5 IS NULL OR s.realm = ?5)
             ORDER BY time_ns",
        )?;
        for bucket in &self.buckets {
            let (from_ns, to_ns) = (self.from_ns, self.to_ns);
            let mut rows = statement.query(params![device, bucket, from_ns, to_ns, self.realm])?;
            while let Some(row) = rows.next()? {
                let measurement = row.get_ref(1)?.as_str()?;
                if measurement.starts_with(GATEWAYS_OWN) {
                    continue;
                }
                one.sees(row.get_ref(6)?.as_str()?)?;
                let value = match (row.get_ref(4)?.as_str()?, row.get_ref(5)?) {
                    ("boolean", ValueRef::Integer(n)) => Stored::Bool(n != 0),
                    (_, ValueRef::Real(x)) => Stored::Float(x),
                    (_, ValueRef::Integer(n)) => Stored::Int(n),
                    (_, text @ ValueRef::Text(_)) => Stored::Str(text.as_str()?),
                    // Nothing of ours: shown as what it certainly is not.
                    _ => Stored::Str("(blob or null)"),
                };
                each(Row {
                    time_ns: row.get(0)?,
                    measurement,
                    tags: row.get_ref(2)?.as_str()?,
                    field: row.get_ref(3)?.as_str()?,
                    value,
                });
            }
        }
        Ok(())
    }
}

impl Store for SqliteStore {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::FULL
    }

    fn progress(&mut self) -> Result<u64> {
        self.number("SELECT position FROM cursor")
    }

    fn begin(&mut self, from_ns: i64, to_ns: i64) -> Result<()> {
        (self.from_ns, self.to_ns) = (from_ns, to_ns);
        let second = 1_000_000_000;
        let buckets = self
            .connection
            .prepare_cached("SELECT start FROM bucket WHERE until > ?1 AND start <= ?2 ORDER BY 1")
            .and_then(|mut statement| {
                let times = [from_ns.div_euclid(second), to_ns.div_euclid(second)];
                statement.query_map(times, |row| row.get(0))?.collect()
            });
        self.buckets = buckets.with_context(Self::unreadable(&self.path))?;
        Ok(())
    }

    fn rows(&mut self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        self.rows_of(device, each).with_context(Self::unreadable(&self.path))
    }

    fn devices(&mut self, prefix: &str) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT device FROM series
                   WHERE device >= ?1 AND (?2 IS NULL OR realm = ?2) ORDER BY device";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![prefix, self.realm])?;
            let mut devices = Vec::new();
            while let Some(row) = rows.next()? {
                let device: String = row.get(0)?;
                // Sorted: what begins with the prefix stands together.
                if !device.starts_with(prefix) {
                    break;
                }
                devices.push(device);
            }
            Ok::<_, rusqlite::Error>(devices)
        };
        read().with_context(Self::unreadable(&self.path))
    }

    /// The key of a point is its series and time, so a second writing shows no second row. The
    /// store counts such writings (`overwritten`), though not whose they were: if there were any,
    /// the ledger tells how many readings they made, provided that it holds this run alone.
    fn doubled(&mut self, readings: u64, rows: u64) -> Result<Option<u64>> {
        if self.number("SELECT overwritten FROM cursor")? == 0 {
            return Ok(Some(0));
        }
        if self.number("SELECT points FROM cursor")? != rows {
            return Ok(None);
        }
        let written = self.number("SELECT stored FROM cursor")?;
        Ok(Some(written.saturating_sub(readings).max(1)))
    }
}
