//! The ledger of one device, from the records that the log still has.
//!
//! Nobody counts by device: a fleet has many, and each would cost memory in every sink. So it is
//! counted when it is asked for, by walking the newest part of the log once.

use super::Sinks;
use crate::{
    admin::DeviceLedgerSource,
    log::{self, ReadError},
    record::{Envelope, Position},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::Semaphore;

/// Most bytes of the log that are walked, in whole segments; the newest one always is.
const MAX_BYTES: u64 = 256 << 20;
/// Walks at once; further ones wait.
const MAX_WALKS: usize = 1;

impl Sinks {
    /// What operators ask about a device.
    pub(crate) fn device_ledger(&self, log: &log::Shared) -> DeviceLedgerSource {
        let handles: Vec<_> = self.opened.iter().map(|sink| sink.handle.clone()).collect();
        let (log, walks) = (log.clone(), Arc::new(Semaphore::new(MAX_WALKS)));
        let quarantine = Arc::clone(&self.quarantine);
        Arc::new(move |realm, device| {
            let (log, walks, handles) = (log.clone(), Arc::clone(&walks), handles.clone());
            let quarantine = Arc::clone(&quarantine);
            Box::pin(async move {
                let permit = walks.acquire_owned().await.map_err(|error| error.to_string())?;
                let walked = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    // Before the walk: what comes meanwhile is pending, not gone.
                    let cursors = handles.iter().map(|of| (&*of.name, *of.committed.borrow()));
                    let cursors = cursors.collect::<Vec<_>>();
                    let first = first(&log);
                    let here = quarantine.of_device((&realm, &device), log.uuid(), first);
                    let here = here.map_err(|error| error.to_string())?;
                    walk(&log, first, (&realm, &device), &cursors, &here)
                });
                walked.await.map_err(|error| error.to_string())?
            })
        })
    }
}

fn walk(
    log: &log::Shared,
    first: Position,
    (realm, device): (&str, &str),
    cursors: &[(&str, Position)],
    quarantined: &BTreeMap<String, u64>,
) -> Result<Value, String> {
    let (mut last, mut accepted, mut refused) = (first, 0, 0);
    let mut pending = vec![0; cursors.len()];
    let mut unreadable = 0;
    let mut reader = log.reader_at(first);
    loop {
        let (position, bytes) = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(ReadError::Damaged { from, to }) => {
                unreadable += to.0.saturating_sub(from.0) + 1;
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        last = position;
        let Ok((envelope, _)) = Envelope::decode(position, &bytes) else {
            unreadable += 1;
            continue;
        };
        if &*envelope.identity.device != device || &*envelope.identity.realm != realm {
            continue;
        }
        accepted += u64::from(envelope.accepted);
        refused += envelope.refused.len() as u64;
        for ((_, cursor), pending) in cursors.iter().zip(&mut pending) {
            if position > *cursor {
                *pending += u64::from(envelope.accepted);
            }
        }
    }
    let sinks: Vec<Value> = cursors
        .iter()
        .zip(&pending)
        .map(|((name, _), pending)| {
            json!({
                "name": name, "passed": accepted - pending, "pending": pending,
                "quarantined": quarantined.get(*name).copied().unwrap_or(0),
            })
        })
        .collect();
    Ok(json!({
        "realm": realm, "device": device, "from_record": first.0, "to_record": last.0,
        "unreadable_records": unreadable, "accepted": accepted, "refused": refused,
        "sinks": sinks,
    }))
}

/// The first record of the newest segments that are not too many.
fn first(log: &log::Shared) -> Position {
    let mut bytes = 0;
    let segments = log.segments();
    let newest = segments.iter().rev().take_while(|segment| {
        bytes += segment.bytes;
        bytes <= MAX_BYTES
    });
    let first = newest.last().or(segments.last()).map(|segment| segment.base);
    first.unwrap_or_default().max(log.oldest())
}
