//! What the committer does between groups: new segments, checkpoints, retention.

use super::{Committer, CommitterError, Entry, GROUP_BYTES, Verdict};
use crate::{
    ingest::{Counted, checkpoint},
    log,
    record::{Codec, Envelope, Identity, Kind, Position, Source},
};
use proto::TimeUnit;
use std::time::SystemTime;

/// A checkpoint is written with a new segment only after so many times its own size was logged.
const CHECKPOINT_SHARE: u64 = 16;

impl Committer {
    /// Deletes what nobody needs any more.
    pub(super) fn retain(&mut self, from: Position) -> Result<(), CommitterError> {
        if self.room.is_full() && self.newest_checkpoint < from && self.bytes_since_checkpoint > 0 {
            // Only the last checkpoint holds the old segments, and while nothing can be appended
            // no new one comes by itself.
            self.roll(true)?;
        }
        if let Err(error) = self.log.delete_below(from.min(self.newest_checkpoint)) {
            tracing::warn!(%error, "old segments of the log were not deleted");
        }
        // Not left to the next batch: none may come as long as the gateway is not ready.
        self.has_room(0);
        Ok(())
    }

    /// Enters the group, which is durable, into the counts of its devices.
    pub(super) fn count(&mut self) {
        let counts = self.admission.counts_mut();
        for Entry { stream, verdict, .. } in &self.group {
            if let Verdict::Logged { accepted, refused, .. } = *verdict {
                counts.enter(&stream.identity, accepted, refused);
            }
        }
    }

    /// What the log has of one device, or of all.
    pub(crate) fn counted(&self, of: Option<&Identity>) -> Counted {
        let counts = self.admission.counts();
        let devices = match of {
            None => counts.iter().map(|(identity, count)| (identity.clone(), count)).collect(),
            Some(of) => counts.get(of).map(|count| (of.clone(), count)).into_iter().collect(),
        };
        Counted {
            upto: self.log.durable(),
            devices,
            others: counts.others(),
            is_full: counts.is_full(),
        }
    }

    /// Lets the log vouch for its newest records.
    pub(super) fn vouch(&mut self) -> Result<(), CommitterError> {
        match self.log.vouch() {
            Err(error @ log::CommitError::Poisoned { .. }) => Err(error.into()),
            // No space; it is no harm, and the next batch says so.
            _ => Ok(()),
        }
    }

    /// Starts a new segment, with a checkpoint at its head unless the last one is still cheap to
    /// replay from and none is demanded.
    pub(super) fn roll(&mut self, checkpoint: bool) -> Result<(), CommitterError> {
        match self.log.roll() {
            Ok(()) => {}
            Err(error @ log::CommitError::Poisoned { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the log goes on in the old segment");
                return Ok(());
            }
        }
        let due = self.checkpoint_bytes.saturating_mul(CHECKPOINT_SHARE);
        if checkpoint || self.bytes_since_checkpoint >= due {
            self.write_checkpoint()?;
        }
        Ok(())
    }

    pub(super) fn write_checkpoint(&mut self) -> Result<(), CommitterError> {
        let receive_ns = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let mut header = Vec::new();
        let envelope = Envelope {
            kind: Kind::Checkpoint,
            source: Source::Gateway,
            codec: Codec::Checkpoint,
            time_unit: TimeUnit::Ns,
            refused_whole: None,
            receive_ns,
            stream: 0,
            seq: 0,
            accepted: 0,
            accepted_total: self.accepted_total,
            payload_hash: 0,
            identity: Identity::new("", ""),
            measurement: None,
            refused: Vec::new(),
            adjustments: Vec::new(),
        };
        envelope.encode(&mut header);
        let mut first = None;
        let mut bytes = 0;
        let mut parts = checkpoint::encode(&self.admission).into_iter().peekable();
        while let Some(part) = parts.next() {
            bytes += (header.len() + part.len()) as u64;
            match self.log.append(&[&header, &part]) {
                Ok(position) => first = first.or(Some(position)),
                Err(error) => {
                    tracing::warn!(%error, "no checkpoint: the last one stays in force");
                    self.log.discard();
                    return Ok(());
                }
            }
            // A checkpoint of many streams is larger than a group may be.
            if parts.peek().is_some() && self.log.group_bytes() < GROUP_BYTES {
                continue;
            }
            match self.log.commit() {
                Ok(_) => {}
                Err(error @ log::CommitError::Poisoned { .. }) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, "no checkpoint: the last one stays in force");
                    return Ok(());
                }
            }
        }
        self.newest_checkpoint = first.unwrap_or(self.newest_checkpoint);
        self.checkpoint_bytes = bytes;
        self.bytes_since_checkpoint = 0;
        Ok(())
    }
}
