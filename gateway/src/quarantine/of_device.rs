//! What of each device a sink dropped, and what of it left the quarantine.
//!
//! Rows of `dropped` are written before the cursor passes their batch, under its last record, and
//! are folded into one a device (record 0) once it has: what lies beyond the cursor after a crash
//! comes again. Rows of `moved` are written with the removal that they count.

use super::{Quarantine, QuarantineError, file};
use crate::record::{Dropped, GivenUp, Identity, Ledger, Moves, Position};
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

/// Made in files of before, too: who does not know these tables leaves them alone.
pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS dropped ( -- what a sink does not get, by device
    sink            TEXT NOT NULL,
    realm           TEXT NOT NULL,
    device          TEXT NOT NULL,
    position        INTEGER NOT NULL, -- last record of the batch; 0: all that the cursor has passed
    damaged         INTEGER NOT NULL,
    skipped         INTEGER NOT NULL,
    unsupported     INTEGER NOT NULL,
    quarantine_full INTEGER NOT NULL,
    PRIMARY KEY (sink, realm, device, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dropped_fresh ON dropped (sink, position) WHERE position > 0;
CREATE TABLE IF NOT EXISTS moved (  -- as move, by device
    sink            TEXT NOT NULL,
    realm           TEXT NOT NULL,
    device          TEXT NOT NULL,
    unsupported     INTEGER NOT NULL,
    quarantine_full INTEGER NOT NULL,
    operator        INTEGER NOT NULL,
    PRIMARY KEY (sink, realm, device)
) STRICT, WITHOUT ROWID;
";

/// What is here of one device and one sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfDevice {
    /// Readings in the quarantine that the sink's ledger counts there.
    pub quarantined: u64,
    /// Readings that were dropped, by reason, also out of the quarantine.
    pub dropped: Dropped,
    /// The same of all devices together.
    pub dropped_of_all: u64,
    /// What left the quarantine of the sink by now.
    pub moves: Moves,
}

impl Quarantine {
    /// What is here of a device, from the records of this log up to where the sink stood.
    ///
    /// # Errors
    /// SQLite's.
    pub fn of_device(
        &self,
        identity: &Identity,
        log: Uuid,
        (sink, epoch, passed): (&str, u64, Position),
    ) -> Result<OfDevice, QuarantineError> {
        let mut connection = self.connection();
        let mut find = || {
            let transaction = connection.transaction()?;
            let passed = file::signed(passed.0);
            let (dropped, moved) = (
                dropped(&transaction, sink, identity, passed)?,
                moved(&transaction, sink, identity)?,
            );
            let mut of = OfDevice {
                quarantined: quarantined(&transaction, sink, identity, log, passed)?,
                dropped,
                dropped_of_all: of_all(&transaction, sink, passed)?,
                moves: file::moves(&transaction, sink, epoch)?,
            };
            of.dropped.add(moved);
            Ok(of)
        };
        find().map_err(|e| self.error(e))
    }
}

fn quarantined(
    connection: &Connection,
    sink: &str,
    Identity { realm, device }: &Identity,
    log: Uuid,
    passed: i64,
) -> rusqlite::Result<u64> {
    let sql = "SELECT count(*) FROM entry WHERE device = ?1 AND realm = ?2 AND sink = ?3
               AND log = ?4 AND position <= ?5 AND counted = 1";
    let mut statement = connection.prepare_cached(sql)?;
    let parameters = params![&**device, &**realm, sink, log.to_string(), passed];
    statement.query_row(parameters, |row| file::count(row, 0))
}

fn dropped(
    connection: &Connection,
    sink: &str,
    Identity { realm, device }: &Identity,
    passed: i64,
) -> rusqlite::Result<Dropped> {
    let sql = "SELECT coalesce(sum(damaged), 0), coalesce(sum(skipped), 0),
                      coalesce(sum(unsupported), 0), coalesce(sum(quarantine_full), 0)
               FROM dropped WHERE sink = ?1 AND realm = ?2 AND device = ?3 AND position <= ?4";
    let row = |row: &Row<'_>| {
        Ok(Dropped {
            damaged: file::count(row, 0)?,
            skipped: file::count(row, 1)?,
            unsupported: file::count(row, 2)?,
            quarantine_full: file::count(row, 3)?,
            ..Dropped::default()
        })
    };
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row(params![sink, &**realm, &**device, passed], row)
}

fn moved(
    connection: &Connection,
    sink: &str,
    Identity { realm, device }: &Identity,
) -> rusqlite::Result<Dropped> {
    let sql = "SELECT coalesce(sum(unsupported), 0), coalesce(sum(quarantine_full), 0),
                      coalesce(sum(operator), 0)
               FROM moved WHERE sink = ?1 AND realm = ?2 AND device = ?3";
    let row = |row: &Row<'_>| {
        Ok(Dropped {
            unsupported: file::count(row, 0)?,
            quarantine_full: file::count(row, 1)?,
            operator: file::count(row, 2)?,
            ..Dropped::default()
        })
    };
    connection.prepare_cached(sql)?.query_row(params![sink, &**realm, &**device], row)
}

fn of_all(connection: &Connection, sink: &str, passed: i64) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce((SELECT sum(damaged + skipped + unsupported + quarantine_full)
                                FROM dropped WHERE sink = ?1 AND position <= ?2), 0)
                    + coalesce((SELECT sum(unsupported + quarantine_full + operator)
                                FROM moved WHERE sink = ?1), 0)";
    connection.prepare_cached(sql)?.query_row(params![sink, passed], |row| file::count(row, 0))
}

/// Adds what is dropped of a device with the batch that ends at `position`.
pub(super) fn put(
    connection: &Connection,
    sink: &str,
    position: Position,
    GivenUp { identity: Identity { realm, device }, dropped }: &GivenUp,
) -> rusqlite::Result<()> {
    let Dropped { damaged, skipped, unsupported, quarantine_full, .. } = *dropped;
    let [position, damaged, skipped, unsupported, full] =
        [position.0, damaged, skipped, unsupported, quarantine_full].map(file::signed);
    let sql = "INSERT INTO dropped VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT DO UPDATE SET damaged = damaged + ?5, skipped = skipped + ?6,
               unsupported = unsupported + ?7, quarantine_full = quarantine_full + ?8";
    let parameters =
        params![sink, &**realm, &**device, position, damaged, skipped, unsupported, full];
    connection.prepare_cached(sql)?.execute(parameters)?;
    Ok(())
}

/// Counts an entry of a device that leaves.
pub(super) fn add_moved(
    connection: &Connection,
    (sink, realm, device): (&str, &str, &str),
    dropped: Dropped,
) -> rusqlite::Result<()> {
    if dropped.total() == 0 {
        return Ok(());
    }
    let Dropped { unsupported, quarantine_full, operator, .. } = dropped;
    let [unsupported, full, operator] = [unsupported, quarantine_full, operator].map(file::signed);
    let sql = "INSERT INTO moved VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT DO UPDATE SET unsupported = unsupported + ?4,
               quarantine_full = quarantine_full + ?5, operator = operator + ?6";
    let parameters = params![sink, realm, device, unsupported, full, operator];
    connection.prepare_cached(sql)?.execute(parameters)?;
    Ok(())
}

/// Takes back what the cursor has not passed.
pub(super) fn retract(
    connection: &Connection,
    sink: &str,
    passed: Position,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM dropped WHERE sink = ?1 AND position > 0 AND position > ?2";
    connection.prepare_cached(sql)?.execute(params![sink, file::signed(passed.0)])?;
    Ok(())
}

/// One row a device for what the cursor has passed.
pub(super) fn fold(connection: &Connection, sink: &str, passed: Position) -> rusqlite::Result<()> {
    let sql = "INSERT INTO dropped
               SELECT sink, realm, device, 0, damaged, skipped, unsupported, quarantine_full
               FROM dropped WHERE sink = ?1 AND position > 0 AND position <= ?2
               ON CONFLICT DO UPDATE SET damaged = damaged + excluded.damaged,
               skipped = skipped + excluded.skipped,
               unsupported = unsupported + excluded.unsupported,
               quarantine_full = quarantine_full + excluded.quarantine_full";
    let passed = file::signed(passed.0);
    connection.prepare_cached(sql)?.execute(params![sink, passed])?;
    let sql = "DELETE FROM dropped WHERE sink = ?1 AND position > 0 AND position <= ?2";
    connection.prepare_cached(sql)?.execute(params![sink, passed])?;
    Ok(())
}

/// The sink's ledger has begun anew: nothing was dropped in it.
pub(super) fn begin_anew(connection: &Connection, sink: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM dropped WHERE sink = ?1", [sink])?;
    connection.execute("DELETE FROM moved WHERE sink = ?1", [sink])?;
    Ok(())
}

/// Lets what is there fit the sink's ledger and cursor: what that does not count is of a ledger
/// that has begun anew since.
pub(super) fn settle(
    connection: &Connection,
    sink: &str,
    passed: Position,
    ledger: &Ledger,
) -> rusqlite::Result<()> {
    retract(connection, sink, passed)?;
    let sql = "SELECT coalesce(sum(damaged + skipped + unsupported + quarantine_full), 0)
               FROM dropped WHERE sink = ?1";
    let known = connection.query_row(sql, [sink], |row| file::count(row, 0))?;
    if known > ledger.dropped.total() {
        begin_anew(connection, sink)?;
    }
    if file::moves(connection, sink, ledger.epoch)? == Moves::default() {
        connection.execute("DELETE FROM moved WHERE sink = ?1", [sink])?;
    }
    Ok(())
}
