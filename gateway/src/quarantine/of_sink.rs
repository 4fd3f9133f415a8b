//! The part of the quarantine that one forwarder fills.

use super::{
    Filter, MAX_PAGE, Quarantine, QuarantineError, WhenFull, entry::checksum, file, of_device,
};
use crate::{
    forward::{Rejected, RejectedHandler},
    record::{Dropped, GivenUp, Identity, Ledger, Moves, Position},
};
use rusqlite::{Transaction, params};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// What an entry takes besides its texts and its reading, in bytes: numbers, keys, indices.
pub(super) const ENTRY_BYTES: u64 = 200;

/// Keeps what one sink refuses.
#[derive(Debug)]
pub struct OfSink {
    quarantine: Arc<Quarantine>,
    sink: String,
    log: String,
    epoch: AtomicU64,
    /// Something is kept that the cursor may not have passed.
    is_unsettled: AtomicBool,
}

impl OfSink {
    /// The part of the sink of this name, which goes on in this log behind `position`, with this
    /// ledger. What was kept of records that its cursor never passed goes: they come again. If the
    /// ledger has begun anew, what is there stays and is no longer counted.
    ///
    /// # Errors
    /// SQLite's.
    pub fn open(
        quarantine: Arc<Quarantine>,
        sink: &str,
        log: Uuid,
        position: Position,
        ledger: &Ledger,
    ) -> Result<Self, QuarantineError> {
        let of = Self {
            quarantine,
            sink: sink.to_owned(),
            log: log.to_string(),
            epoch: AtomicU64::new(ledger.epoch),
            is_unsettled: AtomicBool::new(false),
        };
        of.settle(position, ledger, false)?;
        Ok(of)
    }

    /// Lets what is there fit the sink's ledger and cursor.
    fn settle(
        &self,
        position: Position,
        ledger: &Ledger,
        begins_anew: bool,
    ) -> Result<(), QuarantineError> {
        let (sink, log, epoch) = (&*self.sink, &*self.log, file::signed(ledger.epoch));
        let lacking = self.quarantine.change(|tx| {
            // Of an epoch or a log that is over.
            let sql = "UPDATE entry SET counted = 0
                       WHERE sink = ?1 AND counted = 1 AND (epoch <> ?2 OR log <> ?3)";
            tx.execute(sql, params![sink, epoch, log])?;
            let sql = "DELETE FROM move WHERE sink = ?1 AND epoch <> ?2";
            tx.execute(sql, params![sink, epoch])?;
            if begins_anew {
                of_device::begin_anew(tx, sink)?;
            }
            of_device::settle(tx, sink, position, ledger)?;
            if ledger.quarantined > 0 {
                retract(tx, (log, sink), position)?;
            }
            let sql = "SELECT count(*) FROM entry WHERE sink = ?1 AND counted = 1";
            let held = tx.query_row(sql, [sink], |row| file::count(row, 0))?;
            let known = held + file::moves(tx, sink, ledger.epoch)?.total();
            if known > ledger.quarantined {
                // The ledger has begun anew without a new epoch: its cursor was removed.
                tx.execute("UPDATE entry SET counted = 0 WHERE sink = ?1", [sink])?;
                tx.execute("DELETE FROM move WHERE sink = ?1", [sink])?;
                of_device::begin_anew(tx, sink)?;
                return Ok(ledger.quarantined);
            }
            Ok(ledger.quarantined - known)
        })?;
        if lacking > 0 {
            tracing::warn!(
                sink,
                readings = lacking,
                "the quarantine lacks readings that the ledger counts there: quarantine.db, or the \
                 .refused.jsonl of an older release, was taken away"
            );
        }
        self.epoch.store(ledger.epoch, Ordering::Release);
        self.is_unsettled.store(false, Ordering::Release);
        self.quarantine.stands_at(sink, position);
        Ok(())
    }

    /// Makes room for `needed` bytes by dropping the oldest entries of whatever sink; gives how
    /// many bytes there is room for. Only what is older than this batch can go.
    fn make_room(&self, tx: &Transaction<'_>, needed: u64) -> rusqlite::Result<u64> {
        let max = self.quarantine.options.max_bytes;
        loop {
            let room = max.saturating_sub(file::bytes(tx)?);
            if room >= needed || self.quarantine.options.when_full == WhenFull::Hold {
                return Ok(room);
            }
            let mut oldest = file::list(tx, &Filter::default(), MAX_PAGE)?;
            oldest.retain(|of| self.quarantine.is_settled(of));
            if oldest.is_empty() {
                return Ok(room);
            }
            let mut freed = room;
            for entry in oldest {
                if freed >= needed {
                    break;
                }
                let dropped = Dropped { quarantine_full: 1, ..Dropped::default() };
                self.quarantine.leave(tx, entry.id, Moves { stored: 0, dropped })?;
                let texts = [&entry.sink, &entry.realm, &entry.device, &entry.reason];
                freed += size(texts, &entry.body);
            }
        }
    }

    fn put(&self, tx: &Transaction<'_>, rejected: &Rejected, kept_ns: i64) -> rusqlite::Result<()> {
        let sql = "INSERT INTO entry (log, sink, position, reading, epoch, counted, realm, device,
                                      received_ns, kept_ns, reason, body, bytes, checksum)
                   VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
                   ON CONFLICT (log, sink, position, reading) DO UPDATE SET epoch = ?5,
                   counted = 1, received_ns = ?8, kept_ns = ?9, reason = ?10, body = ?11,
                   bytes = ?12, checksum = ?13";
        tx.prepare_cached(sql)?.execute(params![
            self.log,
            self.sink,
            file::signed(rejected.position.0),
            rejected.index,
            file::signed(self.epoch.load(Ordering::Acquire)),
            rejected.realm,
            rejected.device,
            rejected.receive_ns,
            kept_ns,
            rejected.reason,
            rejected.reading,
            file::signed(self.size(rejected)),
            checksum(&rejected.realm, &rejected.device, &rejected.reading),
        ])?;
        Ok(())
    }

    fn size(&self, of: &Rejected) -> u64 {
        size([&self.sink, &of.realm, &of.device, &of.reason], &of.reading)
    }
}

impl RejectedHandler for OfSink {
    fn keep(&self, rejected: &[Rejected]) -> io::Result<u64> {
        if rejected.is_empty() && !self.is_unsettled.load(Ordering::Acquire) {
            return Ok(0);
        }
        self.is_unsettled.store(true, Ordering::Release);
        let passed = self.quarantine.known(&self.sink).passed.unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kept_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let needed = rejected.iter().map(|of| self.size(of)).sum();
        let lacking = self.quarantine.change(|transaction| {
            retract(transaction, (&self.log, &self.sink), passed)?;
            of_device::retract(transaction, &self.sink, passed)?;
            of_device::fold(transaction, &self.sink, passed)?;
            let mut room = self.make_room(transaction, needed)?;
            if room < needed && self.quarantine.options.when_full == WhenFull::Hold {
                // Nothing of the batch is kept, and the retraction does not matter.
                return Ok(Err(needed - room));
            }
            // The newest stay.
            let mut first = rejected.len();
            for (at, of) in rejected.iter().enumerate().rev() {
                let size = self.size(of);
                if room < size {
                    break;
                }
                room -= size;
                first = at;
            }
            for of in &rejected[..first] {
                let identity = Identity::new(&of.realm, &of.device);
                let dropped = Dropped { quarantine_full: 1, ..Dropped::default() };
                let of_reading = GivenUp { identity, dropped };
                of_device::put(transaction, &self.sink, of.position, &of_reading)?;
            }
            for of in &rejected[first..] {
                self.put(transaction, of, kept_ns)?;
            }
            Ok(Ok(first as u64))
        });
        match lacking {
            Ok(Ok(dropped)) => Ok(dropped),
            Ok(Err(bytes)) => Err(io::Error::other(format!(
                "the quarantine is full, {bytes} bytes lack: replay or drop what is in it, or \
                 raise \"quarantine.max_bytes\""
            ))),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn give_up(&self, last: Position, given_up: &[GivenUp]) -> io::Result<()> {
        if given_up.is_empty() {
            return Ok(());
        }
        // What an attempt before has left was retracted when this one's refusals were kept.
        let is_settled = !self.is_unsettled.swap(true, Ordering::AcqRel);
        let passed = self.quarantine.known(&self.sink).passed.unwrap_or_default();
        let done = self.quarantine.change(|transaction| {
            if is_settled {
                of_device::retract(transaction, &self.sink, passed)?;
            }
            of_device::fold(transaction, &self.sink, passed)?;
            given_up.iter().try_for_each(|of| of_device::put(transaction, &self.sink, last, of))
        });
        done.map_err(io::Error::other)
    }

    fn passed(&self, position: Position) {
        self.quarantine.stands_at(&self.sink, position);
        self.is_unsettled.store(false, Ordering::Release);
    }

    fn moves(&self) -> Moves {
        self.quarantine.known(&self.sink).moves
    }

    fn rewound(&self, position: Position, ledger: &Ledger) -> io::Result<()> {
        self.settle(position, ledger, true).map_err(io::Error::other)
    }
}

fn size(texts: [&String; 4], reading: &[u8]) -> u64 {
    let texts = texts.iter().map(|text| text.len() as u64);
    ENTRY_BYTES + texts.sum::<u64>() + reading.len() as u64
}

/// Takes back what was kept of records that the cursor has not passed; no ledger has counted it.
fn retract(
    tx: &Transaction<'_>,
    (log, sink): (&str, &str),
    passed: Position,
) -> rusqlite::Result<()> {
    let sql = "DELETE FROM entry WHERE log = ?1 AND sink = ?2 AND position > ?3 AND counted = 1";
    tx.prepare_cached(sql)?.execute(params![log, sink, file::signed(passed.0)])?;
    Ok(())
}
