//! What the plan makes the gateway refuse.

use super::{Plan, Trouble, fault};
use crate::profile::{Fields, fraction, mix};
use proto::RawValue;
use std::sync::LazyLock;

/// A text longer than a gateway takes.
static TOO_LONG: LazyLock<String> =
    LazyLock::new(|| "x".repeat(proto::limits::MAX_STRING_FIELD_BYTES + 1));
/// Readings of a batch that may have such a text.
const LONG_TEXTS: u32 = 16;
/// Two years before the earliest time that a gateway takes, in nanoseconds.
const LONG_AGO_NS: i64 = 883_612_800_000_000_000;
/// Fifty years, in nanoseconds.
const FIFTY_YEARS_NS: i64 = 50 * 365 * 86_400_000_000_000;

/// What is wrong with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// It has no readings.
    Empty,
    /// Its readings are no list.
    NoList,
    /// Its columns are of different length.
    Unequal,
}

impl Plan {
    /// Whether the plan makes the gateway refuse anything.
    pub fn spoils(&self) -> bool {
        fault::touch_the_data(&self.faults)
    }

    /// What is wrong with a whole batch.
    pub fn spoilt_batch(&self, device: u32, tick: u32, seq: u64) -> Option<Spoil> {
        self.spoiling(device, tick).find_map(|(index, trouble)| {
            let Trouble::BadBatch { ratio } = trouble else { return None };
            let hash = mix(&[self.seed, 71, index as u64, u64::from(device), seq]);
            (fraction(hash) < ratio).then(|| match mix(&[hash, 1]) % 3 {
                0 => Spoil::Empty,
                1 => Spoil::NoList,
                _ => Spoil::Unequal,
            })
        })
    }

    /// How many readings of a batch the plan makes the gateway refuse.
    pub fn refused_count(&self, device: u32, tick: u32, seq: u64) -> u32 {
        if !self.spoils() {
            return 0;
        }
        let batch = self.kind_of(device).batch;
        let refused = (0..batch).filter(|&index| self.refuses(device, tick, seq, index));
        u32::try_from(refused.count()).unwrap_or(u32::MAX)
    }

    /// Whether the plan makes the gateway refuse a reading.
    pub fn refuses(&self, device: u32, tick: u32, seq: u64, index: u32) -> bool {
        self.spoils()
            && (self.spoilt_batch(device, tick, seq).is_some()
                || self.is_beyond_the_future(device, tick)
                || self.poison(device, tick, seq, index).is_some())
    }

    fn is_beyond_the_future(&self, device: u32, tick: u32) -> bool {
        // The first wrong clock that is in force is the one that counts.
        let wrong = self
            .spoiling(device, tick)
            .find(|(_, trouble)| matches!(trouble, Trouble::ClockSkew { .. }));
        wrong.is_some_and(|(index, _)| self.faults[index].is_beyond_the_future())
    }

    /// A random number if a reading is poison.
    fn poison(&self, device: u32, tick: u32, seq: u64, index: u32) -> Option<u64> {
        self.spoiling(device, tick).find_map(|(fault, trouble)| {
            let Trouble::Poison { ratio } = trouble else { return None };
            let device = u64::from(device);
            let hash = mix(&[self.seed, 72, fault as u64, device, seq, u64::from(index)]);
            (fraction(hash) < ratio).then(|| mix(&[hash, 1]))
        })
    }

    fn spoiling(&self, device: u32, tick: u32) -> impl Iterator<Item = (usize, Trouble)> {
        let due_ns = if self.spoils() { self.due_ns(device, tick) } else { 0 };
        let faults = self.spoils().then(|| self.in_force(device, due_ns));
        faults.into_iter().flatten()
    }

    /// Makes poison of a reading that is to be: something that every gateway refuses in it.
    pub(crate) fn spoil_reading(
        &self,
        place: (u32, u32, u64, u32),
        time: &mut i64,
        fields: &mut Fields,
    ) {
        let (device, tick, seq, index) = place;
        let Some(hash) = self.poison(device, tick, seq, index) else { return };
        let unit = self.time_unit(device).nanos();
        let value = &mut fields[0].1;
        match hash % 6 {
            0 => *value = RawValue::Float(f64::NAN),
            1 => *value = RawValue::Float(f64::INFINITY),
            2 => *value = RawValue::Int((1 << 53) + 1),
            // Not in every row of a long batch: the message as a whole must pass.
            3 if index < LONG_TEXTS => *value = RawValue::Str(&TOO_LONG),
            3 => *value = RawValue::Float(f64::NEG_INFINITY),
            4 => *time = LONG_AGO_NS / unit + i64::from(index),
            _ => *time = time.saturating_add(FIFTY_YEARS_NS / unit),
        }
    }
}
