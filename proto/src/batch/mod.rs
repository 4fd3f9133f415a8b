//! One-pass borrowed decoder of a batch body.
//!
//! It owns the step from bytes to raw readings and no rule about their meaning. Two levels of
//! refusal: bytes that are not sound MessagePack, or not a batch, refuse the whole message; a
//! value of the wrong type refuses its reading, and the walk goes on behind it. Nothing is
//! allocated per reading, nothing recurses, and no length is believed that the bytes cannot hold.
//!
//! A name that stands twice in `fields` or `tags` is passed on twice.

mod columns;
mod open;
mod rows;

use crate::{ErrorCode, Limits, message::MessageError, msgpack::Reader};
use columns::Columns;
use rows::Rows;

/// A value as it stands in the message, before any rule is applied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RawValue<'a> {
    /// float 32 or float 64 (a float 32 is widened exactly).
    Float(f64),
    /// Any integer that fits a signed 64-bit number.
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    /// A boolean.
    Bool(bool),
    /// A UTF-8 string.
    Str(&'a str),
}

/// A time as it stands in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawTime {
    /// An integer in the connection's `time_unit`.
    Units(i64),
    /// A MessagePack timestamp: seconds and nanoseconds (< 10⁹).
    Timestamp {
        /// Seconds since the Unix epoch.
        seconds: i64,
        /// Nanoseconds, below 10⁹.
        nanos: u32,
    },
}

/// One reading, or one row of columns. Kept by the caller and reused, so that decoding allocates
/// nothing per reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawReading<'a> {
    /// The reading's own measurement.
    pub measurement: Option<&'a str>,
    /// The reading's own time.
    pub time: Option<RawTime>,
    /// Tags in the order of the message.
    pub tags: Vec<(&'a str, &'a str)>,
    /// Fields in the order of the message. A nil in a column is absent here.
    pub fields: Vec<(&'a str, RawValue<'a>)>,
}

/// Why one reading is refused although the message around it is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadingFault<'a> {
    /// The code.
    pub code: ErrorCode,
    /// The field, tag or key at fault.
    pub field: Option<&'a str>,
}

/// Why a whole batch is refused for good although the message around it is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFault {
    /// The code.
    pub code: ErrorCode,
    /// For a person.
    pub detail: String,
}

/// A batch body whose outer structure has been read.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    seq: u64,
    len: u32,
    fault: Option<BatchFault>,
    source: Source<'a>,
}

#[derive(Debug, Clone)]
enum Source<'a> {
    /// The batch is refused as a whole.
    Nothing,
    Rows(Rows<'a>),
    Columns(Columns<'a>),
}

impl<'a> Batch<'a> {
    /// Reads the body's keys. Where `readings` is the last key, as devices are told to write it,
    /// the readings themselves are left to [`Readings::next`].
    ///
    /// # Errors
    /// The message is not sound MessagePack, is deeper than `limits` allow, or has no valid `seq`.
    pub fn open(body: &'a [u8], limits: &Limits) -> Result<Self, MessageError> {
        let mut reader = Reader::new(body, limits);
        open::open(&mut reader, limits).map_err(|unsound| reader.refuse(unsound))
    }

    /// The sequence number, 1 to 2⁵³−1.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Why the whole batch is refused, if it is; then `readings` yields nothing.
    pub fn fault(&self) -> Option<&BatchFault> {
        self.fault.as_ref()
    }

    /// Number of readings, or of rows; 0 if the whole batch is refused.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// True if the batch has no readings.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if the readings are rows of columns.
    pub fn has_columns(&self) -> bool {
        matches!(self.source, Source::Columns(_))
    }

    /// Walks the readings.
    pub fn readings(&self) -> Readings<'a> {
        Readings { source: self.source.clone() }
    }
}

/// Walks the readings of a batch, in order.
#[derive(Debug, Clone)]
pub struct Readings<'a> {
    source: Source<'a>,
}

impl<'a> Readings<'a> {
    /// Decodes the next reading into `reading`, whose buffers are reused; `None` at the end. An
    /// inner error refuses this reading only, the walk goes on behind it; `reading` then holds
    /// what was read of it. The message is known to be sound only when the end was reached.
    ///
    /// # Errors
    /// The bytes are not sound MessagePack: the whole message is refused.
    #[inline]
    pub fn next(
        &mut self,
        reading: &mut RawReading<'a>,
    ) -> Result<Option<Result<(), ReadingFault<'a>>>, MessageError> {
        match &mut self.source {
            Source::Rows(rows) => rows.next(reading),
            Source::Columns(columns) => columns.next(reading),
            Source::Nothing => Ok(None),
        }
    }
}

impl<'a> RawReading<'a> {
    fn clear(&mut self) {
        self.measurement = None;
        self.time = None;
        self.tags.clear();
        self.fields.clear();
    }
}

impl<'a> ReadingFault<'a> {
    fn new(code: ErrorCode, field: &'a str) -> Self {
        Self { code, field: Some(field) }
    }
}
