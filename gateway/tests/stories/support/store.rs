//! What is in the embedded store, as the view `readings` shows it.

use super::Home;
use rusqlite::{Connection, OpenFlags, types::Value};

/// A row of the view.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub time_ns: i64,
    pub device: String,
    pub measurement: String,
    pub field: String,
    pub tags: String,
    pub value: Value,
}

impl Home {
    /// Opens the store for reading, as a person with `sqlite3 -readonly` would.
    pub fn open_store(&self) -> Connection {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let store = Connection::open_with_flags(self.store(), flags).unwrap();
        store.busy_timeout(super::PATIENCE).unwrap();
        store
    }

    /// All rows of a device, by time.
    pub fn rows(&self, device: &str) -> Vec<Row> {
        let store = self.open_store();
        let sql = "SELECT time_ns, device, measurement, field, tags, value FROM readings \
                   WHERE device = ?1 ORDER BY time_ns, field";
        let mut statement = store.prepare(sql).unwrap();
        let rows = statement
            .query_map([device], |row| {
                Ok(Row {
                    time_ns: row.get(0)?,
                    device: row.get(1)?,
                    measurement: row.get(2)?,
                    field: row.get(3)?,
                    tags: row.get(4)?,
                    value: row.get(5)?,
                })
            })
            .unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Number of rows of a device.
    pub fn count(&self, device: &str) -> u64 {
        let sql = "SELECT count(*) FROM readings WHERE device = ?1";
        let count: i64 = self.open_store().query_row(sql, [device], |row| row.get(0)).unwrap();
        count.unsigned_abs()
    }
}
