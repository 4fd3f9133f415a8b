//! Roll-ups: count, least, greatest, sum and last value of a series in an hour.
//!
//! Writing a point marks its (hour, series) stale in the same transaction. An hour that is over
//! and has been quiet for a while is rolled up from its points, a slice of series at a time,
//! between batches. Until then, and again when late data comes, queries read the points.

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params, types::Value};
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

pub(super) const HOUR_NS: i64 = 3_600_000_000_000;
/// Hours in a day: roll-ups of one day lie together.
pub(super) const DAY_HOURS: i64 = 24;
/// An hour is rolled up once nothing has come for it for so long.
const QUIET: Duration = Duration::from_secs(60);
/// Series, or hours of series, that are rolled up in one transaction.
const SLICE: usize = 250;
/// Series between two stale ones that are read over rather than sought past.
const READ_OVER: i64 = 16;
/// How long to leave it when no hour is ready.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The roll-up of one hour of one series. Texts have only a count and a last value.
#[derive(Debug, Clone, PartialEq)]
pub struct Hour {
    /// Hours since the Unix epoch.
    pub hour: i64,
    /// Points in it.
    pub count: u64,
    /// The least.
    pub min: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// The sum.
    pub sum: Option<f64>,
    /// The last in time.
    pub last: Value,
}

impl Hour {
    /// Adds the next point in time to the hour.
    pub(super) fn add(into: &mut Option<Self>, hour: i64, value: Value) {
        let number = number(&value);
        match into {
            None => {
                let (min, max, sum) = (number, number, number);
                *into = Some(Self { hour, count: 1, min, max, sum, last: value });
            }
            Some(of_hour) => {
                of_hour.count += 1;
                if let Some(x) = number {
                    of_hour.min = Some(of_hour.min.map_or(x, |min| min.min(x)));
                    of_hour.max = Some(of_hour.max.map_or(x, |max| max.max(x)));
                    of_hour.sum = Some(of_hour.sum.unwrap_or(0.0) + x);
                }
                of_hour.last = value;
            }
        }
    }

    pub(super) fn read(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            hour: row.get(0)?,
            count: super::schema::unsigned(row.get(1)?),
            min: row.get(2)?,
            max: row.get(3)?,
            sum: row.get(4)?,
            last: row.get(5)?,
        })
    }
}

pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        #[expect(clippy::cast_precision_loss, reason = "a roll-up is a float")]
        Value::Integer(n) => Some(*n as f64),
        Value::Real(x) => Some(*x),
        Value::Null | Value::Text(_) | Value::Blob(_) => None,
    }
}

/// What is known about stale hours without asking the file.
#[derive(Debug)]
pub(super) struct Stale {
    /// The hour of each series that was marked last.
    marked: HashMap<i64, i64>,
    limit: usize,
    /// When an hour was last written to; hours that have long been quiet are forgotten.
    written: BTreeMap<i64, Instant>,
    /// The hour of the point before.
    writing: Option<i64>,
    look_again: Option<Instant>,
}

impl Stale {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            marked: HashMap::new(),
            limit,
            written: BTreeMap::new(),
            writing: None,
            look_again: None,
        }
    }

    pub(super) fn clear(&mut self) {
        self.marked.clear();
    }

    pub(super) fn mark(
        &mut self,
        connection: &Connection,
        series: i64,
        hour: i64,
    ) -> Result<(), rusqlite::Error> {
        if self.writing != Some(hour) {
            self.writing = Some(hour);
            self.written.insert(hour, Instant::now());
        }
        if self.marked.get(&series) == Some(&hour) {
            return Ok(());
        }
        connection
            .prepare_cached("INSERT OR IGNORE INTO stale VALUES (?1, ?2)")?
            .execute([hour, series])?;
        if self.marked.len() >= self.limit {
            self.marked.clear();
        }
        self.marked.insert(series, hour);
        Ok(())
    }

    /// Begins with the points of a batch, which come by the hour.
    pub(super) fn begin(&mut self) {
        let at = Instant::now();
        self.written.retain(|_, last| at.duration_since(*last) < QUIET);
        self.writing = None;
    }

    /// Rolls up one slice of an hour that is ready; false if none is. `now_ns` is the clock,
    /// hours before `hurry` do not have to be quiet.
    pub(super) fn roll(
        &mut self,
        connection: &Connection,
        now_ns: i64,
        hurry: i64,
    ) -> Result<bool, rusqlite::Error> {
        let at = Instant::now();
        if self.look_again.is_some_and(|again| at < again) {
            return Ok(false);
        }
        if self.ready(connection, now_ns, hurry, at)?.is_none() {
            self.look_again = Some(at + LOOK_AGAIN);
            return Ok(false);
        }
        self.look_again = None;
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let mut rolled = Vec::with_capacity(SLICE);
        while rolled.len() < SLICE {
            let Some(hour) = self.ready(&transaction, now_ns, hurry, at)? else { break };
            let room = SLICE - rolled.len();
            rolled.extend(roll_up_some(&transaction, hour, room)?.into_iter().map(|id| (id, hour)));
        }
        transaction.commit()?;
        for (id, hour) in rolled {
            if self.marked.get(&id) == Some(&hour) {
                self.marked.remove(&id);
            }
        }
        Ok(true)
    }

    fn ready(
        &self,
        connection: &Connection,
        now_ns: i64,
        hurry: i64,
        at: Instant,
    ) -> Result<Option<i64>, rusqlite::Error> {
        let current = now_ns.div_euclid(HOUR_NS);
        let mut after = i64::MIN;
        loop {
            let Some(hour) = next_stale_hour(connection, after)? else { return Ok(None) };
            if hour >= current {
                return Ok(None);
            }
            let quiet = self.written.get(&hour).is_none_or(|last| at.duration_since(*last) > QUIET);
            if quiet || hour < hurry {
                return Ok(Some(hour));
            }
            after = hour;
        }
    }
}

/// The first hour after `after` that has stale series.
pub(super) fn next_stale_hour(
    connection: &Connection,
    after: i64,
) -> Result<Option<i64>, rusqlite::Error> {
    connection
        .prepare_cached("SELECT min(hour) FROM stale WHERE hour > ?1")?
        .query_row([after], |row| row.get(0))
}

/// Rolls up at most `most` stale series of an hour; gives them.
fn roll_up_some(
    connection: &Connection,
    hour: i64,
    most: usize,
) -> Result<Vec<i64>, rusqlite::Error> {
    let series: Vec<i64> = connection
        .prepare_cached("SELECT series FROM stale WHERE hour = ?1 ORDER BY series LIMIT ?2")?
        .query_map(params![hour, i64::try_from(most).unwrap_or(i64::MAX)], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for (first, last) in runs(&series) {
        roll_up(connection, hour, first, last)?;
    }
    if let (Some(first), Some(last)) = (series.first(), series.last()) {
        connection
            .prepare_cached("DELETE FROM stale WHERE hour = ?1 AND series BETWEEN ?2 AND ?3")?
            .execute([hour, *first, *last])?;
    }
    Ok(series)
}

/// Stretches of series that are worth reading in one go.
fn runs(series: &[i64]) -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for &id in series {
        match runs.last_mut() {
            Some((_, last)) if id - *last <= READ_OVER => *last = id,
            _ => runs.push((id, id)),
        }
    }
    runs
}

/// Rolls up the series from `first` to `last`, those that were not stale too: it gives the same.
fn roll_up(
    connection: &Connection,
    hour: i64,
    first: i64,
    last: i64,
) -> Result<(), rusqlite::Error> {
    let mut hours: BTreeMap<i64, Option<Hour>> = BTreeMap::new();
    // The series of one bucket after the other: in time for each of them.
    let mut points = connection.prepare_cached(
        "SELECT p.series, p.value FROM bucket b CROSS JOIN point p
         ON p.bucket = b.start AND p.series BETWEEN ?3 AND ?4
         WHERE b.start >= ?1 AND b.start < ?2 ORDER BY b.start",
    )?;
    let mut rows = points.query(params![hour * 3600, (hour + 1) * 3600, first, last])?;
    while let Some(row) = rows.next()? {
        Hour::add(hours.entry(row.get(0)?).or_default(), hour, row.get(1)?);
    }
    let mut insert = connection
        .prepare_cached("INSERT OR REPLACE INTO hourly VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    for (series, of_hour) in hours {
        let Some(Hour { count, min, max, sum, last, .. }) = of_hour else { continue };
        let (day, count) = (hour.div_euclid(DAY_HOURS), super::schema::signed(count));
        insert.execute(params![day, series, hour, count, min, max, sum, last])?;
    }
    Ok(())
}
