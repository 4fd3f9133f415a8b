//! What the oracle asks of a store. One file per kind of store.

use anyhow::Result;
use proto::RawValue;

/// A value as a store gives it back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stored<'a> {
    /// 64-bit float.
    Float(f64),
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// A number of a store, or at a place, that does not show the type: a boolean is 1 or 0.
    Number(f64),
    /// Text.
    Str(&'a str),
}

/// One field of one stored reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Nanoseconds since the Unix epoch.
    pub time_ns: i64,
    /// The measurement.
    pub measurement: &'a str,
    /// The tags as a JSON object.
    pub tags: &'a str,
    /// The field.
    pub field: &'a str,
    /// Its value.
    pub value: Stored<'a>,
}

/// What a store can hold of a reading. What it cannot is not compared, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fidelity {
    /// Times are multiples of so many nanoseconds; what is finer is cut off.
    pub time_ns: i64,
    /// Whether it tells a boolean from a number.
    pub types: bool,
    /// Whether it holds strings.
    pub strings: bool,
}

impl Fidelity {
    /// Every value as it is, to the nanosecond.
    pub const FULL: Self = Self { time_ns: 1, types: true, strings: true };

    /// A time as the store has it.
    pub(super) fn time(self, time_ns: i64) -> i64 {
        time_ns.div_euclid(self.time_ns) * self.time_ns
    }

    /// Whether the store can hold a value.
    pub(super) fn holds(self, value: RawValue<'_>) -> bool {
        self.strings || !matches!(value, RawValue::Str(_))
    }
}

/// A store that can be read back.
pub trait Store {
    /// What it is, for reports.
    fn kind(&self) -> &'static str;

    /// What it can hold.
    fn fidelity(&self) -> Fidelity;

    /// A number that changes when the store does. Cheap.
    ///
    /// # Errors
    /// The store cannot be read.
    fn progress(&mut self) -> Result<u64>;

    /// A walk over the readings of these times (inclusive) begins.
    ///
    /// # Errors
    /// The store cannot be read.
    fn begin(&mut self, from_ns: i64, to_ns: i64) -> Result<()>;

    /// Calls `each` for every row of a device within the times of the walk, ascending by time.
    ///
    /// # Errors
    /// The store cannot be read.
    fn rows(&mut self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()>;

    /// The devices whose ids begin with `prefix`.
    ///
    /// # Errors
    /// The store cannot be read.
    fn devices(&mut self, prefix: &str) -> Result<Vec<String>>;

    /// How many readings were written more than once, where rows do not show it: `readings` is the
    /// number of different ones that the walk found, `rows` the number of their rows. `None` if
    /// this store cannot tell.
    ///
    /// # Errors
    /// The store cannot be read.
    fn doubled(&mut self, readings: u64, rows: u64) -> Result<Option<u64>>;

    /// What has come there and is no reading at all: how much, and a sentence for each of the
    /// first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn unreadable(&mut self) -> Result<(u64, Vec<String>)> {
        Ok((0, Vec::new()))
    }
}
