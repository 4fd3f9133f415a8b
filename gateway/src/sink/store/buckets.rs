//! Which stretch of time a point is filed under.
//!
//! Within a bucket the points are ordered by series and time. A bucket should hold enough points
//! that a series is read with few seeks, and few enough that the pages that new points touch stay
//! in memory and in one piece of the write-ahead log. That depends on how much the fleet sends, so
//! the width follows from what the bucket before was filled with, from one second to one hour.
//! A bucket that fills too fast is cut short. Where a bucket lies is written down; nothing is ever
//! computed from the width.

use super::schema::{signed, unsigned};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;

/// Points that a bucket should hold. Measured with 60,000 series, one point each per transaction:
/// 60,000 points a bucket 420,000 points/s, 360,000 480,000, 1,200,000 280,000.
pub(super) const TARGET: u64 = 360_000;
/// Widths of a bucket, in seconds; each divides the next, the last is one hour.
const WIDTHS: [i64; 5] = [1, 10, 60, 600, 3600];
/// Width of the first bucket of all, in seconds.
const FIRST_WIDTH: i64 = 10;
/// A bucket counts as filled this long after its end, in seconds; only then is the next one
/// opened wider.
const FILLED_AFTER: i64 = 60;
/// Buckets that are remembered.
const REMEMBERED: usize = 4096;
const NANOS: i64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    start: i64,
    until: i64,
    width: i64,
    points: u64,
    newest_ns: i64,
    changed: bool,
}

impl Bucket {
    fn holds(&self, second: i64) -> bool {
        self.start <= second && second < self.until
    }

    fn overfull(&self) -> bool {
        self.points >= 2 * TARGET && self.width > WIDTHS[0]
    }
}

/// The buckets that were written lately.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    known: BTreeMap<i64, Bucket>,
    /// The bucket of the point before: most often that of the next one too.
    current: Option<Bucket>,
}

impl Buckets {
    /// Forgets everything: the transaction was rolled back.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.current = None;
    }

    /// The start, in seconds, of the bucket for a point of this time. `now` is the clock in
    /// seconds.
    pub(super) fn place(
        &mut self,
        connection: &Connection,
        time_ns: i64,
        now: i64,
    ) -> Result<i64, rusqlite::Error> {
        let second = time_ns.div_euclid(NANOS);
        let mut bucket = match self.current.take() {
            Some(bucket) if bucket.holds(second) => bucket,
            other => {
                self.put_back(other);
                self.find(connection, second, now)?
            }
        };
        if bucket.overfull() && bucket.newest_ns.div_euclid(NANOS) + 1 < bucket.until {
            bucket.until = bucket.newest_ns.div_euclid(NANOS) + 1;
            bucket.changed = true;
            save(connection, &bucket)?;
            if !bucket.holds(second) {
                self.put_back(Some(bucket));
                bucket = self.find(connection, second, now)?;
            }
        }
        bucket.points += 1;
        bucket.newest_ns = bucket.newest_ns.max(time_ns);
        bucket.changed = true;
        self.current = Some(bucket);
        Ok(bucket.start)
    }

    /// Writes down what changed, at the end of a transaction.
    pub(super) fn flush(&mut self, connection: &Connection) -> Result<(), rusqlite::Error> {
        let current = self.current.take();
        self.put_back(current);
        for bucket in self.known.values_mut().filter(|bucket| bucket.changed) {
            save(connection, bucket)?;
            bucket.changed = false;
        }
        if self.known.len() > REMEMBERED {
            self.known.clear();
        }
        Ok(())
    }

    fn put_back(&mut self, bucket: Option<Bucket>) {
        if let Some(bucket) = bucket {
            self.known.insert(bucket.start, bucket);
        }
    }

    fn find(
        &mut self,
        connection: &Connection,
        second: i64,
        now: i64,
    ) -> Result<Bucket, rusqlite::Error> {
        if let Some((_, bucket)) = self.known.range(..=second).next_back()
            && bucket.holds(second)
        {
            return Ok(*bucket);
        }
        let before = self.neighbour(
            connection,
            "SELECT start, until, width, points, newest_ns FROM bucket
             WHERE start <= ?1 ORDER BY start DESC LIMIT 1",
            second,
        )?;
        if let Some(bucket) = before
            && bucket.holds(second)
        {
            return Ok(bucket);
        }
        let after = self.neighbour(
            connection,
            "SELECT start, until, width, points, newest_ns FROM bucket
             WHERE start > ?1 ORDER BY start LIMIT 1",
            second,
        )?;
        let width = width_after(before.as_ref(), now);
        let aligned = second - second.rem_euclid(width);
        let bucket = Bucket {
            start: before.map_or(aligned, |before| aligned.max(before.until)),
            until: after.map_or(aligned + width, |after| after.start.min(aligned + width)),
            width,
            points: 0,
            newest_ns: i64::MIN,
            changed: true,
        };
        // At once, so that the file always knows every bucket; its counts follow with `flush`.
        save(connection, &bucket)?;
        Ok(bucket)
    }

    /// The bucket that a query finds, with the counts of this transaction.
    fn neighbour(
        &self,
        connection: &Connection,
        sql: &str,
        second: i64,
    ) -> Result<Option<Bucket>, rusqlite::Error> {
        let found = connection
            .prepare_cached(sql)?
            .query_row([second], |row| {
                Ok(Bucket {
                    start: row.get(0)?,
                    until: row.get(1)?,
                    width: row.get(2)?,
                    points: unsigned(row.get(3)?),
                    newest_ns: row.get(4)?,
                    changed: false,
                })
            })
            .optional()?;
        Ok(found.map(|found| self.known.get(&found.start).copied().unwrap_or(found)))
    }
}

fn save(connection: &Connection, bucket: &Bucket) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO bucket VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            bucket.start,
            bucket.until,
            bucket.width,
            signed(bucket.points),
            bucket.newest_ns
        ])?;
    Ok(())
}

/// The width for the next bucket: the widest that would hold no more than the target at the pace
/// of the bucket before; wider than that one by one step at most, and only if it is filled.
fn width_after(before: Option<&Bucket>, now: i64) -> i64 {
    let Some(before) = before else { return FIRST_WIDTH };
    let filled = before.until + FILLED_AFTER <= now;
    let step = WIDTHS.iter().position(|&width| width >= before.width).unwrap_or(0);
    let widest = WIDTHS[(step + usize::from(filled)).min(WIDTHS.len() - 1)];
    let seconds = u128::from(unsigned(before.until - before.start).max(1));
    WIDTHS
        .iter()
        .rev()
        .copied()
        .filter(|&width| width <= widest)
        .find(|&width| {
            u128::from(before.points) * u128::from(unsigned(width)) <= u128::from(TARGET) * seconds
        })
        .unwrap_or(WIDTHS[0])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE bucket (start INTEGER PRIMARY KEY, until, width, points, newest_ns)",
            )
            .unwrap();
        connection
    }

    fn all(db: &Connection) -> Vec<(i64, i64, i64)> {
        db.prepare("SELECT start, until, points FROM bucket ORDER BY start")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    #[test]
    fn buckets_never_overlap_and_every_point_lies_in_its_own() {
        let (db, seed) = (connection(), fastrand::u64(..));
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut buckets = Buckets::default();
        let mut placed = Vec::new();
        for round in 0..300 {
            for _ in 0..random.usize(1..40) {
                let time = random.i64(-20_000..20_000) * NANOS + random.i64(0..NANOS);
                let start = buckets.place(&db, time, random.i64(-30_000..30_000)).unwrap();
                placed.push((time, start));
                if let Some(current) = &mut buckets.current {
                    current.points += random.u64(0..TARGET / 4);
                }
            }
            buckets.flush(&db).unwrap();
            if round % 7 == 0 {
                buckets.clear();
            }
        }
        let all = all(&db);
        for pair in all.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{pair:?}");
        }
        for &(start, until, _) in &all {
            assert!(start < until && start.div_euclid(3600) == (until - 1).div_euclid(3600));
        }
        for (time, start) in placed {
            let second = time.div_euclid(NANOS);
            let of_time = all.iter().find(|b| b.0 <= second && second < b.1).unwrap();
            assert_eq!(of_time.0, start, "{time}");
        }
    }

    #[test]
    fn a_quiet_fleet_gets_wide_buckets_and_a_busy_one_narrow_ones() {
        let day = 86_400;
        let width = |points_a_second: u64| {
            let db = connection();
            let mut buckets = Buckets::default();
            let mut last = 0;
            for second in 0..4 * 3600 {
                last = buckets.place(&db, second * NANOS, day).unwrap();
                buckets.current.as_mut().unwrap().points += points_a_second - 1;
            }
            buckets.flush(&db).unwrap();
            all(&db).iter().find(|b| b.0 == last).map(|b| b.1 - b.0).unwrap()
        };
        assert_eq!(width(10), 3600);
        assert_eq!(width(6_000), 60);
        assert_eq!(width(200_000), 1);
    }

    #[test]
    fn a_bucket_that_fills_too_fast_is_cut_short() {
        let db = connection();
        let mut buckets = Buckets::default();
        for second in 0..4 * 3600 {
            buckets.place(&db, second * NANOS, 86_400).unwrap();
        }
        let before = buckets.place(&db, 4 * 3600 * NANOS, 86_400).unwrap();
        buckets.current.as_mut().unwrap().points = 2 * TARGET;
        assert_eq!(buckets.place(&db, 4 * 3600 * NANOS, 86_400).unwrap(), before);
        let after = buckets.place(&db, (4 * 3600 + 5) * NANOS, 86_400).unwrap();
        assert_eq!((before, after), (4 * 3600, 4 * 3600 + 5));
        buckets.flush(&db).unwrap();
        let cut = all(&db).into_iter().find(|b| b.0 == before).unwrap();
        assert_eq!(cut.1, before + 1);
    }
}
