//! What a subscriber recorded of an MQTT broker: every reading as often as it came.
//!
//! A broker delivers at least once, so readings that came twice show, each time.

use super::store::{Fidelity, Row, Store, Stored};
use crate::subscribe::{FORMAT, Scalar};
use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for somebody else's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A recording, open for reading.
#[derive(Debug)]
pub struct Subscription {
    connection: Connection,
    path: PathBuf,
    from_ns: i64,
    to_ns: i64,
}

impl Subscription {
    /// Opens a recording; its subscriber may go on.
    ///
    /// # Errors
    /// It is not there, or no recording that this version reads.
    pub fn open(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read the recording {}", path.display());
        if !path.is_file() {
            bail!("{}: there is no such file", unreadable());
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).with_context(unreadable)?;
        connection.busy_timeout(BUSY_TIMEOUT).with_context(unreadable)?;
        let format: i64 = connection
            .query_row("SELECT format FROM subscription", [], |row| row.get(0))
            .context("it is not one of `device-sim subscribe`")
            .with_context(unreadable)?;
        ensure!(
            format == FORMAT,
            "{}: it has format {format}, this device-sim reads {FORMAT}",
            unreadable()
        );
        Ok(Self { connection, path: path.into(), from_ns: 0, to_ns: 0 })
    }

    fn rows_of(&self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        let mut statement = self.connection.prepare_cached(
            "SELECT time_ns, measurement, tags, fields FROM reading
             WHERE device = ?1 AND time_ns BETWEEN ?2 AND ?3 ORDER BY time_ns, arrival",
        )?;
        let mut rows = statement.query(params![device, self.from_ns, self.to_ns])?;
        while let Some(row) = rows.next()? {
            let (measurement, tags) = (row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
            let fields: BTreeMap<String, Scalar> = serde_json::from_str(row.get_ref(3)?.as_str()?)?;
            for (field, value) in &fields {
                let value = match value {
                    Scalar::Bool(b) => Stored::Bool(*b),
                    Scalar::Int(n) => Stored::Int(*n),
                    Scalar::Float(x) => Stored::Float(*x),
                    Scalar::Text(text) => Stored::Str(text),
                };
                each(Row { time_ns: row.get(0)?, measurement, tags, field, value });
            }
        }
        Ok(())
    }

    /// Device by device, each found by its key.
    fn devices_of(&self, prefix: &str) -> rusqlite::Result<Vec<String>> {
        let mut devices: Vec<String> = Vec::new();
        let mut first = self.connection.prepare_cached(
            "SELECT device FROM reading WHERE device >= ?1 ORDER BY device LIMIT 1",
        )?;
        let mut next = self.connection.prepare_cached(
            "SELECT device FROM reading WHERE device > ?1 ORDER BY device LIMIT 1",
        )?;
        loop {
            let (statement, after) = match devices.last() {
                None => (&mut first, prefix),
                Some(last) => (&mut next, last.as_str()),
            };
            let found: Option<String> =
                statement.query_row([after], |row| row.get(0)).optional()?;
            match found {
                Some(device) if device.starts_with(prefix) => devices.push(device),
                _ => return Ok(devices),
            }
        }
    }

    fn unreadable_of(&self) -> rusqlite::Result<(u64, Vec<String>)> {
        let count: i64 =
            self.connection
                .query_row("SELECT unreadable FROM subscription", [], |row| row.get(0))?;
        let mut statement =
            self.connection.prepare_cached("SELECT topic, why FROM unreadable ORDER BY arrival")?;
        let told = statement.query_map([], |row| {
            let (topic, why) = (row.get::<_, String>(0)?, row.get::<_, String>(1)?);
            Ok(format!("a message to {topic:?} cannot be read: {why}"))
        })?;
        Ok((u64::try_from(count).unwrap_or(0), told.collect::<rusqlite::Result<_>>()?))
    }

    fn unreadable_file(&self) -> String {
        format!("cannot read the recording {}", self.path.display())
    }
}

impl Store for Subscription {
    fn kind(&self) -> &'static str {
        "mqtt"
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::FULL
    }

    fn progress(&mut self) -> Result<u64> {
        let sql = "SELECT messages FROM subscription";
        let read = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)));
        Ok(u64::try_from(read.with_context(|| self.unreadable_file())?).unwrap_or(0))
    }

    fn begin(&mut self, from_ns: i64, to_ns: i64) -> Result<()> {
        (self.from_ns, self.to_ns) = (from_ns, to_ns);
        Ok(())
    }

    fn rows(&mut self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        self.rows_of(device, each).with_context(|| self.unreadable_file())
    }

    fn devices(&mut self, prefix: &str) -> Result<Vec<String>> {
        self.devices_of(prefix).with_context(|| self.unreadable_file())
    }

    /// Rows show all of them.
    fn doubled(&mut self, _readings: u64, _rows: u64) -> Result<Option<u64>> {
        Ok(Some(0))
    }

    fn unreadable(&mut self) -> Result<(u64, Vec<String>)> {
        self.unreadable_of().with_context(|| self.unreadable_file())
    }
}
