//! What the oracle asks of a store. One file per kind of store.

use anyhow::Result;

/// A value as a store gives it back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stored<'a> {
    /// 64-bit float.
    Float(f64),
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
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

/// A store that can be read back.
pub trait Store {
    /// What it is, for reports.
    fn kind(&self) -> &'static str;

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
}
