//! Deleting what is older than it has to be kept, a slice at a time, between batches.
//!
//! Whole hours of points are deleted, and only after they were rolled up. The first hour that is
//! kept is written down before anything of the hours below it is deleted; a reading that comes
//! later for one of those is counted as expired, for it would spoil the roll-up.

use super::{
    hourly::{DAY_HOURS, HOUR_NS, next_stale_hour},
    schema::{State, unsigned},
};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::time::Duration;

/// Points that are deleted in one transaction, at least; a series is not split within a bucket.
const SLICE: i64 = 20_000;

/// The first hour whose points are kept, as the configuration and the clock say.
pub(super) fn horizon(keep_for: Option<Duration>, now_ns: i64) -> i64 {
    let Some(keep_for) = keep_for else { return i64::MIN };
    let keep_ns = i64::try_from(keep_for.as_nanos()).unwrap_or(i64::MAX);
    now_ns.saturating_sub(keep_ns).div_euclid(HOUR_NS)
}

/// Deletes one slice of points before the hour `horizon`; false if there is nothing to delete.
pub(super) fn delete_points(
    connection: &Connection,
    state: &mut State,
    horizon: i64,
) -> Result<bool, rusqlite::Error> {
    let horizon = match next_stale_hour(connection, i64::MIN)? {
        Some(stale) => horizon.min(stale),
        None => horizon,
    };
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT min(start) FROM bucket")?
        .query_row([], |row| row.get(0))?;
    let Some(bucket) = oldest.filter(|start| start.div_euclid(3600) < horizon) else {
        return Ok(false);
    };
    let mut next = state.clone();
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let last: Option<i64> = transaction
        .prepare_cached("SELECT series FROM point WHERE bucket = ?1 LIMIT 1 OFFSET ?2")?
        .query_row([bucket, SLICE], |row| row.get(0))
        .optional()?;
    let deleted = transaction
        .prepare_cached("DELETE FROM point WHERE bucket = ?1 AND series <= ?2")?
        .execute([bucket, last.unwrap_or(i64::MAX)])?;
    if last.is_none() {
        transaction.prepare_cached("DELETE FROM bucket WHERE start = ?1")?.execute([bucket])?;
    }
    next.points = next.points.saturating_sub(deleted as u64);
    next.raw_from_hour = next.raw_from_hour.max(horizon);
    next.save(&transaction)?;
    transaction.commit()?;
    *state = next;
    Ok(true)
}

/// Deletes one slice of roll-ups before the hour `horizon`; false if there is nothing to delete.
pub(super) fn delete_hourly(
    connection: &Connection,
    horizon: i64,
) -> Result<bool, rusqlite::Error> {
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT min(day) FROM hourly")?
        .query_row([], |row| row.get(0))?;
    let Some(day) = oldest.filter(|day| (day + 1) * DAY_HOURS <= horizon) else {
        return Ok(false);
    };
    let last: Option<i64> = connection
        .prepare_cached("SELECT series FROM hourly WHERE day = ?1 LIMIT 1 OFFSET ?2")?
        .query_row([day, SLICE], |row| row.get(0))
        .optional()?;
    let deleted = connection
        .prepare_cached("DELETE FROM hourly WHERE day = ?1 AND series <= ?2")?
        .execute([day, last.unwrap_or(i64::MAX)])?;
    Ok(unsigned(i64::try_from(deleted).unwrap_or(0)) > 0)
}
