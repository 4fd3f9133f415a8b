//! The ledger of one device, when it is asked for.
//!
//! What the log has accepted of a device is counted by the committer. What of that a sink still has
//! to get is in the records behind its cursor, which are walked; what it refused and what it dropped
//! is in the quarantine's file, or in the embedded store's. The rest is stored. Where what is known
//! of all devices is less than the sink has dropped (of damaged records nobody knows whose they
//! were), the rest is stored or dropped. A figure that is not known is null in the answer, with the
//! reason beside it.

use super::Sinks;
use crate::{
    admin::DeviceLedgerSource,
    forward::Handle,
    ingest::{Counted, Request},
    log::{self, ReadError},
    quarantine::Quarantine,
    record::{Dropped, Envelope, Identity, Ledger, Position},
    sink::store,
};
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task,
};

/// Most bytes of the log that are walked to find where the ledger of a sink begins, in whole
/// segments; the newest one always is.
const MAX_BYTES: u64 = 256 << 20;
/// Walks at once; further ones wait.
const MAX_WALKS: usize = 1;
/// How often it is begun again because a sink was rewound, or records were deleted, meanwhile.
const ATTEMPTS: usize = 5;
/// How often a sink is looked at until its cursor stands still meanwhile.
const LOOKS: usize = 50;

impl Sinks {
    /// What operators ask about a device. Does not keep the committer from ending.
    pub(crate) fn device_ledger(
        &self,
        log: &log::Shared,
        committer: mpsc::WeakSender<Request>,
    ) -> DeviceLedgerSource {
        let sinks = self.opened.iter();
        let sinks = sinks.map(|sink| (sink.handle.clone(), sink.store.clone())).collect();
        let quarantine = Arc::clone(&self.quarantine);
        let books = Arc::new(Books { sinks, quarantine, log: log.clone(), committer });
        let walks = Arc::new(Semaphore::new(MAX_WALKS));
        Arc::new(move |realm, device| {
            let (books, walks) = (Arc::clone(&books), Arc::clone(&walks));
            let identity = Identity::new(&realm, &device);
            Box::pin(async move {
                let _permit = walks.acquire().await.map_err(|error| error.to_string())?;
                for _ in 0..ATTEMPTS {
                    if let Some(ledger) = look(&books, &identity).await? {
                        return Ok(ledger);
                    }
                }
                Err("the log or a sink changed while it was counted: ask again".to_owned())
            })
        })
    }
}

/// Where to look.
struct Books {
    /// Each with the file of an embedded store.
    sinks: Vec<(Handle, Option<PathBuf>)>,
    quarantine: Arc<Quarantine>,
    log: log::Shared,
    committer: mpsc::WeakSender<Request>,
}

/// One sink, before the walk.
struct Mark {
    position: Position,
    ledger: Ledger,
    quarantined: u64,
    dropped: Dropped,
    /// Whose everything was that it has dropped is known.
    is_sure: bool,
    /// The walk begins before its ledger does.
    is_covered: bool,
}

/// What a walk found of the device.
#[derive(Default)]
struct Walked {
    /// By sink: accepted readings that its cursor has not passed.
    pending: Vec<u64>,
    /// By sink: those since its ledger began, if the walk covers that.
    since: Vec<u64>,
    unreadable: u64,
}

/// `None` if it has to be begun again.
async fn look(books: &Arc<Books>, identity: &Identity) -> Result<Option<Value>, String> {
    // Before the log is counted: what comes meanwhile is pending, not gone.
    let (of, device) = (Arc::clone(books), identity.clone());
    let marks = task::spawn_blocking(move || {
        let marks = of.sinks.iter().map(|sink| mark(&of, sink, &device));
        marks.collect::<Result<Vec<_>, String>>()
    });
    let marks = marks.await.map_err(|error| error.to_string())??;
    let Some(marks) = marks.into_iter().collect() else { return Ok(None) };
    let counted = count(books, identity).await?;
    let (books, identity) = (Arc::clone(books), identity.clone());
    let looked = task::spawn_blocking(move || walk_and_sum(&books, &identity, marks, &counted));
    looked.await.map_err(|error| error.to_string())?
}

/// What a sink has of a device where it stands; `None` if that did not stand still.
fn mark(
    books: &Books,
    (handle, store): &(Handle, Option<PathBuf>),
    identity: &Identity,
) -> Result<Option<Mark>, String> {
    let is_covered = false;
    if let Some(store) = store {
        let of = store::of_device(store, identity).map_err(|error| error.to_string())?;
        return Ok(of.map(|(position, ledger, dropped, of_all)| {
            let is_sure = of_all == ledger.dropped.total();
            Mark { position, ledger, quarantined: 0, dropped, is_sure, is_covered }
        }));
    }
    for _ in 0..LOOKS {
        let stands = || (*handle.committed.borrow(), *handle.ledger.borrow());
        let (position, ledger) = stands();
        let at = (&*handle.name, ledger.epoch, position);
        let of = books.quarantine.of_device(identity, books.log.uuid(), at);
        let of = of.map_err(|error| error.to_string())?;
        if stands() == (position, ledger) {
            let ledger = of.moves.applied(ledger);
            let is_sure = of.dropped_of_all == ledger.dropped.total();
            let (quarantined, dropped) = (of.quarantined, of.dropped);
            return Ok(Some(Mark { position, ledger, quarantined, dropped, is_sure, is_covered }));
        }
    }
    Ok(None)
}

async fn count(books: &Books, identity: &Identity) -> Result<Counted, String> {
    let (reply, answer) = oneshot::channel();
    let gone = "the gateway stops: ask again when it runs";
    let committer = books.committer.upgrade().ok_or(gone)?;
    let request = Request::Count { of: Some(identity.clone()), reply };
    committer.send(request).await.map_err(|_| gone)?;
    drop(committer);
    answer.await.map_err(|_| gone.to_owned())
}

fn walk_and_sum(
    books: &Books,
    identity: &Identity,
    mut marks: Vec<Mark>,
    counted: &Counted,
) -> Result<Option<Value>, String> {
    let first = begin(&books.log, &mut marks, counted);
    let Some(walked) = walk(&books.log, first, identity, &marks, counted.upto)? else {
        return Ok(None);
    };
    let count = counted.devices.get(identity).copied();
    let is_known = count.is_some() || !counted.is_full;
    let is_whole = is_known && counted.others == 0;
    let count = count.unwrap_or_default();
    let mut sinks = Vec::new();
    for (at, ((handle, _), mark)) in books.sinks.iter().zip(&marks).enumerate() {
        let is_rewound = handle.ledger.borrow().epoch > mark.ledger.epoch;
        if is_rewound {
            return Ok(None);
        }
        let accepted = match mark.ledger.base {
            None => Some(walked.pending[at]),
            Some(0) if is_whole => Some(count.accepted),
            Some(_) => mark.is_covered.then_some(walked.since[at]),
        };
        let is_sure = mark.is_sure && walked.unreadable == 0;
        sinks.push(of_sink(handle, mark, accepted, walked.pending[at], is_sure));
    }
    Ok(Some(json!({
        "realm": &*identity.realm, "device": &*identity.device, "to_record": counted.upto.0,
        "accepted": is_known.then_some(count.accepted),
        "refused": is_known.then_some(count.refused),
        "accepted_of_others_unknown": counted.others,
        "unreadable_records": walked.unreadable,
        "sinks": sinks,
    })))
}

fn of_sink(
    handle: &Handle,
    mark: &Mark,
    accepted: Option<u64>,
    pending: u64,
    is_sure: bool,
) -> Value {
    let (quarantined, dropped) = (mark.quarantined, mark.dropped);
    let rest = accepted.map(|of| i128::from(of) - i128::from(quarantined) - i128::from(pending));
    let stored = rest.map(|rest| rest - i128::from(dropped.total()));
    let why = match (rest, is_sure) {
        (None, _) => Some("what it was given in this epoch is not known by device"),
        (_, false) => Some("the sink has dropped readings of which nobody knows whose they were"),
        _ => None,
    };
    json!({
        "name": &*handle.name, "epoch": mark.ledger.epoch, "accepted": accepted,
        "pending": pending, "quarantined": quarantined, "stored_or_dropped": rest,
        "stored": stored.filter(|_| is_sure), "dropped": is_sure.then_some(dropped),
        "why_null": why, "balanced": stored.is_none_or(|stored| stored >= 0),
    })
}

/// The first record of the walk: behind all cursors, and where the ledgers begin that cannot be
/// told from the count of the device.
fn begin(log: &log::Shared, marks: &mut [Mark], counted: &Counted) -> Position {
    let behind = marks.iter().map(|mark| mark.position.next());
    let mut first = behind.min().unwrap_or(counted.upto.next());
    for mark in marks {
        let Some(base) = mark.ledger.base else { continue };
        if base == 0 && counted.others == 0 {
            continue;
        }
        if let Some(begins) = segment_of(log, base) {
            mark.is_covered = true;
            first = first.min(begins);
        }
    }
    first
}

/// The first record of the segment before whose end so many readings were accepted; `None` if it
/// is gone or too far back.
fn segment_of(log: &log::Shared, accepted: u64) -> Option<Position> {
    let mut bytes = 0;
    for segment in log.segments().iter().rev() {
        bytes += segment.bytes;
        let (position, record) = match log.reader_at(segment.base).next() {
            Ok(Some(record)) => record,
            // Nothing is in the newest one yet.
            Ok(None) => continue,
            Err(_) => return None,
        };
        let (envelope, _) = Envelope::decode(position, &record).ok()?;
        let before = envelope.accepted_total.saturating_sub(u64::from(envelope.accepted));
        if before <= accepted {
            return Some(segment.base);
        }
        if bytes > MAX_BYTES {
            return None;
        }
    }
    None
}

/// Counts the device's readings from `first` to `last`; `None` if some are deleted by now.
fn walk(
    log: &log::Shared,
    first: Position,
    identity: &Identity,
    marks: &[Mark],
    last: Position,
) -> Result<Option<Walked>, String> {
    let zeros = vec![0; marks.len()];
    let mut found = Walked { pending: zeros.clone(), since: zeros, unreadable: 0 };
    let mut reader = log.reader_at(first);
    while reader.position() <= last {
        let (position, bytes) = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(ReadError::Damaged { from, to }) => {
                found.unreadable += to.0.saturating_sub(from.0) + 1;
                continue;
            }
            Err(ReadError::Deleted { .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let Ok((envelope, _)) = Envelope::decode(position, &bytes) else {
            found.unreadable += 1;
            continue;
        };
        if envelope.identity != *identity {
            continue;
        }
        let accepted = u64::from(envelope.accepted);
        for (at, mark) in marks.iter().enumerate() {
            if position > mark.position {
                found.pending[at] += accepted;
            }
            if mark.ledger.base.is_some_and(|base| envelope.accepted_total > base) {
                found.since[at] += accepted;
            }
        }
    }
    Ok(Some(found))
}
