//! What one log record means: the envelope, and the points that it yields for ever.
//!
//! Owns the layout of the envelope (a promise on disk, held by golden files) and the one place
//! where a raw reading becomes a [`Point`]. `ingest` writes records, `forward` and `sink` read
//! them; the log itself sees opaque bytes.

mod envelope;
mod identity;
mod kind;
mod ledger;
mod point;
mod position;

pub use envelope::{
    Adjustment, AdjustmentKind, Codec, Envelope, EnvelopeError, HEADER_MIN_BYTES, Kind,
    MAX_HEADER_BYTES, REFUSAL_BYTES, Refusal, Source, patch_accepted_total, room_for_adjustments,
};
pub use identity::Identity;
pub use kind::{FieldKind, coerce};
pub use ledger::{Dropped, GivenUp, Ledger, Moves};
pub use point::{Point, PointId, Points, Value, time_ns, value};
pub use position::Position;
