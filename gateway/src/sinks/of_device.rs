//! The ledger of one device, when it is asked for.
//!
//! What the log has accepted of a device is counted by the committer. What of that a sink still has
//! to get is in the records behind its cursor, which are walked; what it refused is in the
//! quarantine. The rest is stored, unless the sink has dropped something in this epoch: whose that
//! was is not kept, so that the rest is then stored or dropped. A figure that is not known is null
//! in the answer, with the reason beside it.

use super::Sinks;
use crate::{
    admin::DeviceLedgerSource,
    forward::Handle,
    ingest::{Counted, Request},
    log::{self, ReadError},
    quarantine::Quarantine,
    record::{Envelope, Identity, Ledger, Position},
};
use serde_json::{Value, json};
use std::sync::Arc;
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

impl Sinks {
    /// What operators ask about a device. Does not keep the committer from ending.
    pub(crate) fn device_ledger(
        &self,
        log: &log::Shared,
        committer: mpsc::WeakSender<Request>,
    ) -> DeviceLedgerSource {
        let handles = self.opened.iter().map(|sink| sink.handle.clone()).collect();
        let quarantine = Arc::clone(&self.quarantine);
        let books = Arc::new(Books { handles, quarantine, log: log.clone(), committer });
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
    handles: Vec<Handle>,
    quarantine: Arc<Quarantine>,
    log: log::Shared,
    committer: mpsc::WeakSender<Request>,
}

/// One sink, before the walk.
struct Mark {
    position: Position,
    ledger: Ledger,
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
    let mark = |handle: &Handle| {
        let (position, ledger) = (*handle.committed.borrow(), *handle.ledger.borrow());
        Mark { position, ledger, is_covered: false }
    };
    // Before the log is counted: what comes meanwhile is pending, not gone.
    let marks: Vec<Mark> = books.handles.iter().map(mark).collect();
    let counted = count(books, identity).await?;
    let (books, identity) = (Arc::clone(books), identity.clone());
    let looked = task::spawn_blocking(move || walk_and_sum(&books, &identity, marks, &counted));
    looked.await.map_err(|error| error.to_string())?
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
    for (at, (handle, mark)) in books.handles.iter().zip(&marks).enumerate() {
        let at_cursor = (handle.name.as_ref(), mark.position);
        let quarantined = books.quarantine.of_device(identity, books.log.uuid(), at_cursor);
        let quarantined = quarantined.map_err(|error| error.to_string())?;
        // Last: what was dropped until now is at least what was dropped until its mark.
        let moves = books.quarantine.known(&handle.name).moves;
        let now = moves.applied(*handle.ledger.borrow());
        if now.epoch != mark.ledger.epoch || *handle.committed.borrow() < mark.position {
            return Ok(None);
        }
        let accepted = match mark.ledger.base {
            None => Some(walked.pending[at]),
            Some(0) if is_whole => Some(count.accepted),
            Some(_) => mark.is_covered.then_some(walked.since[at]),
        };
        let known = (quarantined, walked.pending[at]);
        let is_sure = now.dropped.total() == 0 && walked.unreadable == 0;
        sinks.push(of_sink(handle, now.epoch, accepted, known, is_sure));
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
    epoch: u64,
    accepted: Option<u64>,
    (quarantined, pending): (u64, u64),
    is_sure: bool,
) -> Value {
    let rest = accepted.map(|of| i128::from(of) - i128::from(quarantined) - i128::from(pending));
    let why = match (rest, is_sure) {
        (None, _) => Some("what it was given in this epoch is not known by device"),
        (_, false) => Some("the sink has dropped readings, whose they were is not kept"),
        _ => None,
    };
    json!({
        "name": &*handle.name, "epoch": epoch, "accepted": accepted, "pending": pending,
        "quarantined": quarantined, "stored_or_dropped": rest,
        "stored": rest.filter(|_| is_sure), "dropped": is_sure.then_some(0),
        "why_null": why, "balanced": rest.is_none_or(|rest| rest >= 0),
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
