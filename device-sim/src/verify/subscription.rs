//! What a subscriber recorded of an MQTT broker: every reading as often as it came.
//!
//! A broker delivers at least once, so readings that came twice show, each time.

use super::realm::OneRealm;
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
    /// Whose devices the run is of; absent: their only realm.
    realm: Option<String>,
    /// Whether it says the realm of what came: one of format 1 does not.
    has_realms: bool,
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
            (1..=FORMAT).contains(&format),
            "{}: it has format {format}, this device-sim reads up to {FORMAT}",
            unreadable()
        );
        let (path, has_realms) = (path.into(), format > 1);
        Ok(Self { connection, path, realm: None, has_realms, from_ns: 0, to_ns: 0 })
    }

    /// Only devices of this realm are looked at.
    #[must_use]
    pub fn of_realm(self, realm: Option<String>) -> Self {
        Self { realm, ..self }
    }

    fn rows_of(&self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        let mut one = OneRealm::new(device, self.realm.as_deref());
        let realm = if self.has_realms { "realm" } else { "NULL" };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT time_ns, measurement, tags, fields, {realm} FROM reading
             WHERE device = ?1 AND time_ns BETWEEN ?2 AND ?3 ORDER BY time_ns, arrival",
        ))?;
        let mut rows = statement.query(params![device, self.from_ns, self.to_ns])?;
        while let Some(row) = rows.next()? {
            match (row.get_ref(4)?.as_str_or_null()?, &self.realm) {
                (Some(of), Some(asked)) if of != asked => continue,
                (Some(of), _) => one.sees(of)?,
                (None, None) => {}
                (None, Some(_)) => bail!(
                    "what it has of {device} was recorded before realms were: --realm cannot be told"
                ),
            }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A recording as the first version made it, with one reading.
    fn of_format_1(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE subscription (
                     id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL,
                     topic TEXT NOT NULL, messages INTEGER NOT NULL, readings INTEGER NOT NULL,
                     unreadable INTEGER NOT NULL, subscribed INTEGER NOT NULL,
                     sessions_lost INTEGER NOT NULL) STRICT;
                 INSERT INTO subscription VALUES (1, 1, 't', 1, 1, 0, 1, 0);
                 CREATE TABLE reading (
                     device TEXT NOT NULL, time_ns INTEGER NOT NULL, arrival INTEGER NOT NULL,
                     measurement TEXT NOT NULL, tags TEXT NOT NULL, fields TEXT NOT NULL,
                     PRIMARY KEY (device, time_ns, arrival)) STRICT, WITHOUT ROWID;
                 INSERT INTO reading VALUES ('d', 5, 1, 'm', '{}', '{\"x\":1.5}');",
            )
            .unwrap();
        connection
    }

    /// The times of the rows of the device, or what is said instead.
    fn rows(path: &Path, realm: Option<&str>) -> Result<Vec<i64>, String> {
        let mut store = Subscription::open(path).unwrap().of_realm(realm.map(str::to_owned));
        store.begin(0, 100).unwrap();
        let mut times = Vec::new();
        let read = store.rows("d", &mut |row| times.push(row.time_ns));
        read.map(|()| times).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_was_recorded_before_realms_is_read_where_none_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subscription.db");
        let connection = of_format_1(&path);
        assert_eq!(rows(&path, None), Ok(vec![5]));
        let told = rows(&path, Some("plant")).unwrap_err();
        assert!(told.contains("recorded before realms were"), "{told}");

        // A subscriber of today goes on with it.
        connection.execute_batch(crate::subscribe::ADD_REALM).unwrap();
        for (time, realm) in [(6, "plant"), (7, "plant")] {
            let sql = "INSERT INTO reading VALUES ('d', ?1, ?1, 'm', '{}', '{\"x\":1.5}', ?2)";
            connection.execute(sql, params![time, realm]).unwrap();
        }
        assert_eq!(rows(&path, None), Ok(vec![5, 6, 7]));
        assert!(rows(&path, Some("plant")).is_err(), "whose the first one is nobody knows");
        connection.execute("DELETE FROM reading WHERE realm IS NULL", []).unwrap();
        assert_eq!(rows(&path, Some("plant")), Ok(vec![6, 7]));
        assert_eq!(rows(&path, Some("default")), Ok(vec![]));
        connection.execute("UPDATE reading SET realm = 'default' WHERE time_ns = 7", []).unwrap();
        assert!(rows(&path, None).unwrap_err().contains("name one with --realm"));
        assert_eq!(rows(&path, Some("default")), Ok(vec![7]));
    }
}
