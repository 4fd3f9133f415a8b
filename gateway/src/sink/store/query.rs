//! Reading the store: which series there are, their points, their hours.
//!
//! Opens the file for reading only and never waits for the writer. Blocking: call it where that
//! is allowed. Every answer is bounded by a limit that the caller names.

use super::{
    OpenError,
    hourly::{DAY_HOURS, HOUR_NS, Hour, next_stale_hour},
    schema::{self, signed},
    series::Kind,
};
use rusqlite::{Connection, params, types::Value};
use std::{collections::BTreeMap, ops::Range, path::Path};

/// A series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesInfo {
    /// Its number in the file.
    pub id: i64,
    /// The realm.
    pub realm: String,
    /// The device id.
    pub device: String,
    /// The measurement.
    pub measurement: String,
    /// The field.
    pub field: String,
    /// What its values are.
    pub kind: Kind,
    /// Its tags, a JSON object with sorted names.
    pub tags: String,
}

/// Which series to list; what is `None` matches all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// The realm.
    pub realm: Option<&'a str>,
    /// The device id.
    pub device: Option<&'a str>,
    /// The measurement.
    pub measurement: Option<&'a str>,
    /// The field.
    pub field: Option<&'a str>,
}

/// A value as it was sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// 64-bit float.
    Float(f64),
    /// Signed 64-bit integer.
    Integer(i64),
    /// True or false.
    Boolean(bool),
    /// UTF-8 text.
    String(String),
}

/// The store, open for reading.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// Opens a store.
    ///
    /// # Errors
    /// The file is not there, or is not a store that this gateway knows.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { connection: schema::open_read_only(path)? })
    }

    /// At most `limit` series with a number above `after`, in the order of their numbers.
    ///
    /// # Errors
    /// SQLite's.
    pub fn series(
        &self,
        filter: Filter<'_>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, rusqlite::Error> {
        // A condition on a device goes by the index, one on anything else reads the list.
        let device = if filter.device.is_some() { "device = ?2" } else { "?2 IS NULL" };
        let sql = format!(
            "SELECT id, realm, device, measurement, field, kind, tags FROM series
             WHERE id > ?1 AND {device} AND (?3 IS NULL OR realm = ?3)
             AND (?4 IS NULL OR measurement = ?4) AND (?5 IS NULL OR field = ?5)
             ORDER BY id LIMIT ?6"
        );
        let Filter { realm, device, measurement, field } = filter;
        self.connection
            .prepare_cached(&sql)?
            .query_map(params![after, device, realm, measurement, field, limit], |row| {
                Ok(SeriesInfo {
                    id: row.get(0)?,
                    realm: row.get(1)?,
                    device: row.get(2)?,
                    measurement: row.get(3)?,
                    field: row.get(4)?,
                    kind: kind(row.get_ref(5)?.as_str()?)?,
                    tags: row.get(6)?,
                })
            })?
            .collect()
    }

    /// At most `limit` points of a series, by time, from `times.start` to before `times.end` in
    /// nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// SQLite's, `QueryReturnedNoRows` if there is no such series.
    pub fn points(
        &self,
        series: i64,
        times: Range<i64>,
        limit: u32,
    ) -> Result<Vec<(i64, Stored)>, rusqlite::Error> {
        let kind = self.kind(series)?;
        let mut points = Vec::new();
        self.each_point(series, times, limit, |time, value| points.push((time, value)))?;
        points.into_iter().map(|(time, value)| Ok((time, stored(kind, value)?))).collect()
    }

    /// The hours of a series from `hours.start` to before `hours.end`, in hours since the Unix
    /// epoch; from roll-ups, and from the points where those are not up to date.
    ///
    /// # Errors
    /// SQLite's.
    pub fn hourly(&self, series: i64, hours: Range<i64>) -> Result<Vec<Hour>, rusqlite::Error> {
        // One snapshot, so that an hour that is rolled up meanwhile is neither missed nor doubled.
        let snapshot = self.connection.unchecked_transaction()?;
        let mut all: BTreeMap<i64, Hour> = BTreeMap::new();
        let mut of_day = snapshot.prepare_cached(
            "SELECT hour, count, min, max, sum, last FROM hourly
             WHERE day = ?1 AND series = ?2 AND hour >= ?3 AND hour < ?4",
        )?;
        let (first, end): (Option<i64>, Option<i64>) =
            snapshot.query_row("SELECT min(day), max(day) FROM hourly", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        if let (Some(first), Some(last)) = (first, end) {
            let from = first.max(hours.start.div_euclid(DAY_HOURS));
            for day in from..=last.min(hours.end.div_euclid(DAY_HOURS)) {
                let rows = of_day.query_map([day, series, hours.start, hours.end], Hour::read)?;
                for hour in rows {
                    let hour = hour?;
                    all.insert(hour.hour, hour);
                }
            }
        }
        let mut is_stale =
            snapshot.prepare_cached("SELECT 1 FROM stale WHERE hour = ?1 AND series = ?2")?;
        let mut after = hours.start.saturating_sub(1);
        while let Some(hour) = next_stale_hour(&snapshot, after)?.filter(|&h| h < hours.end) {
            after = hour;
            if !is_stale.exists([hour, series])? {
                continue;
            }
            let from = hour.saturating_mul(HOUR_NS);
            let mut fresh = None;
            self.each_point(series, from..from.saturating_add(HOUR_NS), u32::MAX, |_, value| {
                Hour::add(&mut fresh, hour, value);
            })?;
            match fresh {
                Some(fresh) => all.insert(hour, fresh),
                None => all.remove(&hour),
            };
        }
        Ok(all.into_values().collect())
    }

    /// Points in the store, and points that took the place of an earlier one.
    ///
    /// # Errors
    /// SQLite's.
    pub fn counts(&self) -> Result<(u64, u64), rusqlite::Error> {
        let state = schema::State::load(&self.connection)?;
        Ok(state.map_or((0, 0), |state| (state.points, state.overwritten)))
    }

    fn kind(&self, series: i64) -> Result<Kind, rusqlite::Error> {
        self.connection
            .prepare_cached("SELECT kind FROM series WHERE id = ?1")?
            .query_row([series], |row| kind(row.get_ref(0)?.as_str()?))
    }

    fn each_point(
        &self,
        series: i64,
        times: Range<i64>,
        limit: u32,
        mut each: impl FnMut(i64, Value),
    ) -> Result<(), rusqlite::Error> {
        let from = times.start.div_euclid(1_000_000_000);
        let to = times.end.div_euclid(1_000_000_000);
        // Buckets do not overlap: by bucket, and by time within a bucket, is by time.
        let mut statement = self.connection.prepare_cached(
            "SELECT p.bucket * 1000000000 + p.at, p.value
             FROM bucket b CROSS JOIN point p ON p.bucket = b.start AND p.series = ?1
             WHERE b.start >= coalesce((SELECT max(start) FROM bucket WHERE start <= ?2), ?2)
               AND b.start <= ?3
               AND p.bucket * 1000000000 + p.at >= ?4 AND p.bucket * 1000000000 + p.at < ?5
             ORDER BY b.start, p.at LIMIT ?6",
        )?;
        let limit = signed(u64::from(limit));
        let mut rows = statement.query(params![series, from, to, times.start, times.end, limit])?;
        while let Some(row) = rows.next()? {
            each(row.get(0)?, row.get(1)?);
        }
        Ok(())
    }
}

fn kind(text: &str) -> Result<Kind, rusqlite::Error> {
    Kind::from_text(text).ok_or(rusqlite::Error::InvalidQuery)
}

/// A value in the file as what it was.
fn stored(kind: Kind, value: Value) -> Result<Stored, rusqlite::Error> {
    Ok(match (kind, value) {
        #[expect(clippy::cast_precision_loss, reason = "it was a float without a fraction")]
        (Kind::Float, Value::Integer(n)) => Stored::Float(n as f64),
        (Kind::Float, Value::Real(x)) => Stored::Float(x),
        (Kind::Integer, Value::Integer(n)) => Stored::Integer(n),
        (Kind::Boolean, Value::Integer(n)) => Stored::Boolean(n != 0),
        (Kind::String, Value::Text(text)) => Stored::String(text),
        (_, other) => {
            return Err(rusqlite::Error::InvalidColumnType(
                1,
                "value".to_owned(),
                other.data_type(),
            ));
        }
    })
}
