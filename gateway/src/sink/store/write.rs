//! One batch, one transaction: the points, the cursor and the ledger.

use super::{
    buckets::Buckets,
    hourly::{HOUR_NS, Stale},
    schema::{self, State},
    series::{Identity, Kind, Series},
};
use crate::{
    record::{self, Dropped, EnvelopeError, GivenUp, Ledger, Point, Points, Position, Value},
    sink::Batch,
};
use rusqlite::{Connection, Transaction, TransactionBehavior, params, types::ValueRef};
use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

/// Integers up to here fit six bytes, shorter than a float.
const SHORT_INTEGER: f64 = (1_i64 << 47) as f64;

/// A value on its way into the table; texts lie in [`Writer::texts`].
#[derive(Debug, Clone, Copy)]
enum Cell {
    Real(f64),
    Integer(i64),
    Text { from: usize, to: usize },
}

#[derive(Debug, Clone, Copy)]
struct Row {
    bucket: i64,
    series: i64,
    time_ns: i64,
    cell: Cell,
}

/// Why a batch was not written.
#[derive(Debug)]
pub(super) enum WriteError {
    Sqlite(rusqlite::Error),
    Undecodable(EnvelopeError),
    /// The batch does not follow the cursor.
    Gap(String),
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// What is reused from batch to batch.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) state: State,
    pub(super) series: Series,
    pub(super) stale: Stale,
    buckets: Buckets,
    points: Points,
    rows: Vec<Row>,
    texts: String,
}

impl Writer {
    pub(super) fn new(state: State, series_limit: usize) -> Self {
        Self {
            state,
            series: Series::new(series_limit),
            stale: Stale::new(series_limit),
            buckets: Buckets::default(),
            points: Points::default(),
            rows: Vec::new(),
            texts: String::new(),
        }
    }

    /// Writes a batch; a batch that the cursor has passed changes nothing.
    pub(super) fn write(
        &mut self,
        connection: &Connection,
        batch: &Batch,
    ) -> Result<(), WriteError> {
        if batch.last <= self.state.position {
            return Ok(());
        }
        if batch.first != self.state.position.next() {
            return Err(WriteError::Gap(format!(
                "the batch begins at {} but the cursor stands at {}",
                batch.first, self.state.position
            )));
        }
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        match self.fill(&transaction, batch) {
            Ok(state) => match transaction.commit() {
                Ok(()) => {
                    self.state = state;
                    Ok(())
                }
                Err(error) => {
                    self.forget();
                    Err(error.into())
                }
            },
            Err(error) => {
                drop(transaction);
                self.forget();
                Err(error)
            }
        }
    }

    /// Goes on behind a position with another ledger; the points stay.
    pub(super) fn rewind(
        &mut self,
        connection: &Connection,
        position: Position,
        ledger: Ledger,
    ) -> Result<(), WriteError> {
        let state = State { position, ledger, ..self.state.clone() };
        schema::place(connection, &state)?;
        self.state = state;
        Ok(())
    }

    /// What was remembered may be of a transaction that was rolled back.
    fn forget(&mut self) {
        self.series.clear();
        self.stale.clear();
        self.buckets.clear();
    }

    fn fill(&mut self, connection: &Connection, batch: &Batch) -> Result<State, WriteError> {
        let late = self.collect(connection, batch)?;
        let expired = late.values().sum();
        let expired_of = |(identity, expired)| {
            let dropped = Dropped { expired, ..Dropped::default() };
            GivenUp { identity, dropped }
        };
        for of in batch.given_up.iter().cloned().chain(late.into_iter().map(expired_of)) {
            schema::give_up(connection, &of)?;
        }
        let mut state = self.state.clone();
        let (inserted, overwritten) = self.insert(connection)?;
        self.buckets.flush(connection)?;
        self.stale.begin();
        for row in &self.rows {
            self.stale.mark(connection, row.series, row.time_ns.div_euclid(HOUR_NS))?;
        }
        state.position = batch.last;
        batch.enter(&mut state.ledger, 0, Dropped { expired, ..Dropped::default() });
        state.overwritten += overwritten;
        state.points += inserted;
        state.save(connection)?;
        Ok(state)
    }

    /// Turns the batch into rows in the order of the table; gives the readings that are too old, by
    /// device.
    fn collect(
        &mut self,
        connection: &Connection,
        batch: &Batch,
    ) -> Result<BTreeMap<record::Identity, u64>, WriteError> {
        let Self { series, buckets, points, rows, texts, state, .. } = self;
        rows.clear();
        texts.clear();
        let now = now_ns().div_euclid(1_000_000_000);
        let mut expired = BTreeMap::new();
        let mut failed = None;
        let mut take = |point: &Point<'_>| -> Result<(), rusqlite::Error> {
            if point.time_ns.div_euclid(HOUR_NS) < state.raw_from_hour {
                *expired.entry(point.identity.clone()).or_default() += 1;
                return Ok(());
            }
            let bucket = buckets.place(connection, point.time_ns, now)?;
            let identity = Identity {
                realm: &point.identity.realm,
                device: &point.identity.device,
                measurement: point.measurement,
                tags: point.tags,
            };
            let prefix = series.begin(&identity);
            for &(field, value) in point.fields {
                let id = series.id(connection, &identity, prefix, field, Kind::of(value))?;
                let cell = cell(value, texts);
                rows.push(Row { bucket, series: id, time_ns: point.time_ns, cell });
            }
            Ok(())
        };
        batch
            .for_each_point(points, |point| {
                if failed.is_none() {
                    failed = take(point).err();
                }
            })
            .map_err(WriteError::Undecodable)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        // Stable: of two values for one series and time the later in the log stays.
        rows.sort_by_key(|row| (row.bucket, row.series, row.time_ns));
        Ok(expired)
    }

    /// Gives the points that were new, and those that took the place of an earlier one.
    fn insert(&self, connection: &Connection) -> Result<(u64, u64), rusqlite::Error> {
        let mut insert =
            connection.prepare_cached("INSERT OR IGNORE INTO point VALUES (?1, ?2, ?3, ?4)")?;
        let mut replace = connection.prepare_cached(
            "UPDATE point SET value = ?4 WHERE bucket = ?1 AND series = ?2 AND at = ?3",
        )?;
        let (mut inserted, mut overwritten) = (0, 0);
        for row in &self.rows {
            // A bucket is at most an hour long, so this cannot overflow although the seconds of
            // the far past and future in nanoseconds would.
            let offset = i128::from(row.time_ns) - i128::from(row.bucket) * 1_000_000_000;
            let at = i64::try_from(offset).unwrap_or(i64::MAX);
            let value = match row.cell {
                Cell::Real(x) => ValueRef::Real(x),
                Cell::Integer(n) => ValueRef::Integer(n),
                Cell::Text { from, to } => ValueRef::Text(&self.texts.as_bytes()[from..to]),
            };
            let value = rusqlite::types::ToSqlOutput::Borrowed(value);
            if insert.execute(params![row.bucket, row.series, at, value])? == 1 {
                inserted += 1;
            } else {
                replace.execute(params![row.bucket, row.series, at, value])?;
                overwritten += 1;
            }
        }
        Ok((inserted, overwritten))
    }
}

fn cell(value: Value<'_>, texts: &mut String) -> Cell {
    match value {
        #[expect(clippy::cast_possible_truncation, reason = "no fraction, and in range")]
        Value::Float(x)
            if x.fract() == 0.0
                && x.abs() < SHORT_INTEGER
                && !(x == 0.0 && x.is_sign_negative()) =>
        {
            Cell::Integer(x as i64)
        }
        Value::Float(x) => Cell::Real(x),
        Value::Int(n) => Cell::Integer(n),
        Value::Bool(b) => Cell::Integer(i64::from(b)),
        Value::Str(text) => {
            let from = texts.len();
            texts.push_str(text);
            Cell::Text { from, to: texts.len() }
        }
    }
}

pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
