//! The oracle: every reading of a run against what a store holds.
//!
//! Recomputes each reading from the journal's plan and walks the store device by device in the
//! order of time, so that its memory does not grow with the run. It asks the store again until all
//! that was acknowledged is there as it was sent, or the time to settle is over.

mod accounts;
mod check;
mod counts;
mod http;
mod influxdb;
mod influxdb_2;
mod late;
mod ledger;
mod pace;
mod place;
mod realm;
mod replayed;
mod report;
mod rows;
mod shared;
mod slices;
mod sqlite;
mod store;
mod subscription;
mod upcoming;
mod victoria_metrics;

pub use accounts::DeviceAccount;
pub use http::{Credential, Endpoint};
pub use influxdb::InfluxDb;
pub use influxdb_2::{InfluxDb2, influx};
pub use ledger::{LedgerSource, Reconciled};
pub use place::{Place, StoreAt};
pub use report::{Example, Report};
pub use sqlite::SqliteStore;
pub use store::{Fidelity, Row, Store, Stored};
pub use subscription::Subscription;
pub use victoria_metrics::VictoriaMetrics;

use crate::journal::Journal;
use anyhow::Result;
use check::DeviceCheck;
use counts::Counts;
use late::FirstLook;
use replayed::ReplayedCheck;
use std::time::{Duration, Instant};

/// From one look whether the store has moved to the next.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Compares a run with a store; waits at most `settle` for the store to catch up.
///
/// # Errors
/// Journal or store cannot be read.
pub fn verify(store: &mut dyn Store, journal: &Journal, settle: Duration) -> Result<Report> {
    verify_with(store, journal, settle, None)
}

/// …and with the gateway's ledger, if there is one: then the wait ends when that stands still, too.
///
/// # Errors
/// Journal, store or ledger cannot be read.
pub fn verify_with(
    store: &mut dyn Store,
    journal: &Journal,
    settle: Duration,
    mut ledger: Option<&mut LedgerSource>,
) -> Result<Report> {
    let start = Instant::now();
    let mut first: Option<FirstLook> = None;
    loop {
        // A look that began while the store may have been behind is not the last, however long it took.
        let begun = start.elapsed();
        let seen = store.progress()?;
        let before = snapshot(&mut ledger)?;
        let mut counts = pass(store, journal)?;
        let after = snapshot(&mut ledger)?;
        let waited = start.elapsed();
        // Some stores show a reading field by field.
        let is_whole = counts.lost == 0 && counts.altered == 0;
        let is_done = match (&mut ledger, &after) {
            (Some(ledger), Some(now)) => before == after && ledger.is_done(now, store.kind())?,
            _ => true,
        };
        if (is_whole && is_done) || begun >= settle {
            let doubled = store.doubled(counts.present(), counts.rows)?;
            let reconciled = match (&mut ledger, &after) {
                (Some(ledger), Some(now)) => {
                    let mut found = ledger.reconcile(now, &counts, store.kind())?;
                    ledger.name_devices(&counts.accounts, &mut found);
                    Some(found)
                }
                _ => None,
            };
            let late = first.map_or(0, |first| first.late(&mut counts, waited));
            let report = Report::new(store.kind(), journal, counts, doubled, waited);
            return Ok(report.with(late, reconciled));
        }
        first.get_or_insert_with(|| FirstLook::new(&counts));
        // What has not moved holds what it held.
        while store.progress()? == seen
            && snapshot(&mut ledger)? == after
            && start.elapsed() < settle
        {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn snapshot(ledger: &mut Option<&mut LedgerSource>) -> Result<Option<ledger::Snapshot>> {
    ledger.as_mut().map(|ledger| ledger.snapshot()).transpose()
}

fn pass(store: &mut dyn Store, journal: &Journal) -> Result<Counts> {
    let plan = &journal.plan;
    let (from_ns, to_ns) = plan.time_range_ns();
    let fidelity = store.fidelity();
    store.begin(from_ns, to_ns)?;
    let mut counts = Counts::default();
    for ledger in journal.ledgers()? {
        let ledger = ledger?;
        let id = plan.device_id(ledger.device);
        let before = counts.begin_account();
        if let Some(replay) = &plan.replay {
            let (complete, of) = (journal.complete, (plan, replay));
            let mut check = ReplayedCheck::new(of, &ledger, complete, fidelity, &id, &mut counts);
            let mut unreadable = Ok(());
            store.rows(&id, &mut |row| {
                if unreadable.is_ok() {
                    unreadable = check.row(row);
                }
            })?;
            unreadable.and_then(|()| check.finish())?;
            counts.end_account(&id, &before);
            continue;
        }
        let mut check =
            DeviceCheck::new(plan, &ledger, journal.complete, fidelity, &id, &mut counts);
        store.rows(&id, &mut |row| check.row(row))?;
        check.finish();
        counts.end_account(&id, &before);
    }
    for id in store.devices(&plan.prefix)? {
        if !plan.has_device(&id) {
            counts.begin_stranger();
            store.rows(&id, &mut |row| counts.stranger(&id, row))?;
        }
    }
    let (unreadable, sentences) = store.unreadable()?;
    counts.unreadable(unreadable, sentences);
    Ok(counts)
}
