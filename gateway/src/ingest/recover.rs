//! The table of streams after a start: the newest whole checkpoint, and all records after it.

use super::{admit::Admission, checkpoint};
use crate::{
    log,
    record::{Envelope, EnvelopeError, Kind, Position},
};

/// Why the state cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] log::ReadError),
    /// A record was written by a newer gateway.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A checkpoint was written by a newer gateway.
    #[error("record {position}: {error}")]
    Checkpoint {
        /// Where.
        position: Position,
        /// Why.
        error: checkpoint::PartError,
    },
}

/// What the log says of the streams.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The table.
    pub admission: Admission,
    /// Accepted readings in the log.
    pub accepted_total: u64,
    /// First record of the newest whole checkpoint; zero if there is none.
    pub newest_checkpoint: Position,
}

/// Rebuilds the table of streams. Segments are tried from the newest back until one holds a whole
/// checkpoint; without one, the whole log is replayed.
///
/// # Errors
/// The log cannot be read, or a newer gateway wrote it. Damaged ranges are passed over: what they
/// held of the window is lost, and such a batch would be taken again.
pub fn recover(log: &log::Shared) -> Result<Recovered, RecoverError> {
    let segments = log.segments();
    for (i, segment) in segments.iter().enumerate().rev() {
        // A checkpoint does not span segments, so each is read by itself while one is looked for.
        let is_last = i + 1 == segments.len();
        let recovered = replay(log, segment.base, segment.last)?;
        if i > 0 && recovered.newest_checkpoint == Position::ZERO {
            continue;
        }
        return if is_last { Ok(recovered) } else { replay(log, segment.base, log.durable()) };
    }
    Ok(Recovered::default())
}

fn replay(log: &log::Shared, from: Position, to: Position) -> Result<Recovered, RecoverError> {
    let mut reader = log.reader_at(from);
    let mut recovered = Recovered::default();
    let mut parts: Vec<(Position, Vec<u8>)> = Vec::new();
    while reader.position() <= to {
        let (position, bytes) = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(log::ReadError::Damaged { from, to }) => {
                tracing::error!(%from, %to, "damaged records of the log were passed over");
                parts.clear();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let (envelope, payload) = Envelope::decode(position, &bytes)?;
        recovered.accepted_total = envelope.accepted_total;
        if envelope.kind == Kind::Batch {
            parts.clear();
            recovered.admission.counts_mut().replay(&envelope);
            recovered.admission.replay(position, &envelope);
            continue;
        }
        let (number, of) = match checkpoint::part_of(payload) {
            Ok(part) => part,
            Err(error @ checkpoint::PartError::Newer(_)) => {
                return Err(RecoverError::Checkpoint { position, error });
            }
            Err(checkpoint::PartError::Invalid) => {
                parts.clear();
                continue;
            }
        };
        if number == 0 {
            parts.clear();
        }
        if number != parts.len() as u64 {
            continue;
        }
        parts.push((position, payload.to_vec()));
        if number + 1 == of {
            let mut admission = Admission::default();
            let whole =
                parts.iter().all(|(_, part)| checkpoint::restore(part, &mut admission).is_ok());
            if whole {
                admission.contents_mut().restored();
                admission.counts_mut().hold_against(envelope.accepted_total);
                recovered.newest_checkpoint = parts[0].0;
                recovered.admission = admission;
            }
            parts.clear();
        }
    }
    Ok(recovered)
}
