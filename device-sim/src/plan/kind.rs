//! What a part of the fleet does: which profile, how often, how large, how it keeps contact.

use crate::profile::Profile;
use serde::{Deserialize, Serialize};

const S: u64 = 1_000_000_000;

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One map for each reading.
    #[default]
    Readings,
    /// One array for each field.
    Columns,
}

/// A part of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kind {
    /// What its devices measure.
    pub profile: Profile,
    /// Its share of the fleet, in parts of the sum of all weights.
    pub weight: u32,
    /// From one batch of a device to its next, in nanoseconds.
    pub interval_ns: u64,
    /// Readings in a batch.
    pub batch: u32,
    /// How batches are written.
    pub mode: Mode,
    /// Batches that a device keeps while they are not acknowledged.
    pub outbox: u32,
    /// A device that connects so often, flushes and leaves; absent: always connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_every_ns: Option<u64>,
    /// Stretches without a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_zones: Option<DeadZones>,
}

/// Stretches of time without a link, as on the road; each device has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadZones {
    /// From the beginning of one to that of the next, in nanoseconds.
    pub every_ns: u64,
    /// How long one lasts at most; each is between half as long and that, in nanoseconds.
    pub lasts_ns: u64,
}

impl Kind {
    /// A whole fleet of such devices, as the profile has them by default.
    pub fn of(profile: Profile) -> Self {
        let (interval_ns, batch) = match profile {
            Profile::Environment | Profile::Custom(_) => (S, 10),
            Profile::Vehicle => (5 * S, 5),
            Profile::Vibration => (S, 1_000),
            Profile::Meter => (60 * S, 4),
        };
        let columns = matches!(profile, Profile::Vibration);
        let dead_zones = matches!(profile, Profile::Vehicle)
            .then_some(DeadZones { every_ns: 180 * S, lasts_ns: 40 * S });
        Self {
            profile,
            weight: 1,
            interval_ns,
            batch,
            mode: if columns { Mode::Columns } else { Mode::Readings },
            outbox: 256,
            connect_every_ns: None,
            dead_zones,
        }
    }

    /// From one reading to the next, in nanoseconds.
    pub(super) fn step_ns(&self) -> u64 {
        self.interval_ns / u64::from(self.batch)
    }

    /// Says what is wrong, for a person.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { batch, interval_ns, .. } = *self;
        if !(1..=super::MAX_BATCH).contains(&batch) {
            return Err(format!("--batch must be 1 to {}", super::MAX_BATCH));
        }
        if self.step_ns() == 0 {
            return Err("--interval is too short for that many readings".to_owned());
        }
        if interval_ns > super::MAX_DURATION_NS {
            return Err("--interval must be at most a year".to_owned());
        }
        if !(1..=super::MAX_OUTBOX).contains(&self.outbox) {
            return Err(format!("--outbox must be 1 to {}", super::MAX_OUTBOX));
        }
        if self.connect_every_ns.is_some_and(|every| !(1..=super::MAX_DURATION_NS).contains(&every))
        {
            return Err("connect_every must be above 0 and at most a year".to_owned());
        }
        if self.dead_zones.is_some_and(|zones| {
            zones.lasts_ns == 0
                || zones.lasts_ns >= zones.every_ns
                || zones.every_ns > super::MAX_DURATION_NS
        }) {
            return Err("dead_zones: lasts must be above 0 and shorter than every".to_owned());
        }
        if self.weight == 0 || self.weight > super::MAX_WEIGHT {
            return Err(format!("the weight of a profile must be 1 to {}", super::MAX_WEIGHT));
        }
        Ok(())
    }
}
