//! What simulated devices measure.
//!
//! Owns the values: a reading is a pure function of seed, device, sequence number, index and the
//! time that the plan gives it. Only operations that IEEE 754 defines to the last bit are used
//! (`math.rs`), so that another machine recomputes the same values. The values of a profile are part
//! of the journal's meaning and never change.

pub mod custom;
mod environment;
mod math;
mod meter;
mod names;
mod vehicle;
mod vibration;

pub use custom::Custom;
pub use math::{fraction, mix};
pub use names::Word;

use proto::RawValue;
use serde::{Deserialize, Serialize};

/// Fields of one reading, in the order in which they are sent.
pub type Fields = Vec<(&'static str, RawValue<'static>)>;

/// A kind of device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Temperature, humidity, pressure, battery; now and then a door contact and a status text.
    #[default]
    Environment,
    /// Position, speed, fuel and ignition of a van on its trips.
    Vehicle,
    /// Three axes of acceleration at 1 kHz.
    Vibration,
    /// A counter of energy that only grows, power, voltage; now and then a fault.
    Meter,
    /// Made by the user.
    Custom(Box<Custom>),
}

/// Names a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadingId {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the device.
    pub device: u32,
    /// Sequence number of its batch.
    pub seq: u64,
    /// Index in the batch.
    pub index: u32,
}

impl Profile {
    /// Those that need no file.
    pub const BUILT_IN: [Profile; 4] =
        [Profile::Environment, Profile::Vehicle, Profile::Vibration, Profile::Meter];

    /// The measurement of every reading; for those that need no file also their name.
    pub fn measurement(&self) -> &'static str {
        match self {
            Profile::Environment => "environment",
            Profile::Vehicle => "vehicle",
            Profile::Vibration => "vibration",
            Profile::Meter => "meter",
            Profile::Custom(custom) => custom.measurement(),
        }
    }

    /// The tags of a device, the same for each of its readings.
    pub fn tags(&self, seed: u64, device: u32) -> Vec<(&'static str, String)> {
        match self {
            Profile::Environment => environment::tags(seed, device),
            Profile::Vehicle => vehicle::tags(seed, device),
            Profile::Vibration => vibration::tags(seed, device),
            Profile::Meter => meter::tags(seed, device),
            Profile::Custom(custom) => custom.tags(seed, device),
        }
    }

    /// Puts the fields of a reading into `fields`, whose memory is reused.
    pub fn fields(&self, id: ReadingId, time_ns: i64, fields: &mut Fields) {
        fields.clear();
        match self {
            Profile::Environment => environment::fields(id, time_ns, fields),
            Profile::Vehicle => vehicle::fields(id, time_ns, fields),
            Profile::Vibration => vibration::fields(id, time_ns, fields),
            Profile::Meter => meter::fields(id, time_ns, fields),
            Profile::Custom(custom) => custom.fields(id, time_ns, fields),
        }
    }
}

#[cfg(test)]
mod tests;
