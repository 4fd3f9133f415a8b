//! What a run sends: pure arithmetic from a few numbers to every reading and its time.
//!
//! Shared by `run`, which plays the plan, and `verify`, which recomputes it from the journal. The
//! schedule is open-loop: a batch is due at its time, however the gateway fares. A plan with a
//! `closed_loop` is for finding the ceiling: acks make batches due, and the schedule only their times.

mod check;
mod fault;
mod kind;
mod link;
mod load;
mod replay;
mod shard;
mod spoil;
mod tape;
mod version_1;

pub use fault::{Fault, MAX_FAULTS, Trouble};
pub use kind::{DeadZones, Kind, Mode};
pub use link::Absence;
pub use load::Phase;
pub use replay::{MAX_COPIES, Replay};
pub use shard::{MAX_SHARDS, Shard, whole_run};
pub use spoil::Spoil;
pub(crate) use tape::Played;
pub use tape::{MAX_TAPE_BATCHES, MAX_TAPE_BYTES, MAX_TAPE_MEASUREMENTS};
pub use tape::{Tape, TapeBatch, TapeDevice};
pub use version_1::PlanVersion1;

use crate::profile::{Fields, ReadingId, mix};
use proto::{MAX_SEQ, TimeUnit};
use serde::{Deserialize, Serialize};

/// Most devices in one run.
pub const MAX_DEVICES: u32 = 1_000_000;
/// Most readings in a batch: the default limit of the gateway.
pub const MAX_BATCH: u32 = 5_000;
/// Most batches that a device keeps.
pub const MAX_OUTBOX: u32 = 1_000_000;
/// Longest run, in nanoseconds: a year.
pub const MAX_DURATION_NS: u64 = 366 * 86_400 * 1_000_000_000;
/// Most batches of a device that are not acknowledged in a closed loop.
pub const MAX_IN_FLIGHT: u32 = 1_000;
/// From one reading to the next in a closed loop, in nanoseconds: its times shall not overtake the
/// clock, however fast a gateway is.
pub const CLOSED_LOOP_STEP_NS: u64 = 1_000;
/// Most profiles in a fleet.
pub const MAX_KINDS: usize = 32;
/// Highest weight of a profile.
pub const MAX_WEIGHT: u32 = 1_000_000;
/// The golden ratio as a fixed-point number: multiples of it are spread evenly.
const EVENLY: u64 = 0x9E37_79B9_7F4A_7C15;

/// A run, complete: two equal plans send equal readings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the run; makes its streams differ from those of any other.
    pub run: u64,
    /// Seed of all values.
    pub seed: u64,
    /// Device ids begin with this.
    pub prefix: String,
    /// What the devices measure, by weight.
    pub kinds: Vec<Kind>,
    /// Number of devices.
    pub devices: u32,
    /// The stream of every device; absent: one for each device, from run and index.
    pub stream: Option<u64>,
    /// Sequence number of the first batch.
    pub start_seq: u64,
    /// Start of the run, nanoseconds since the Unix epoch.
    pub base_ns: i64,
    /// Time over which the devices come, in nanoseconds.
    pub ramp_ns: u64,
    /// Length of the schedule, in nanoseconds.
    pub duration_ns: u64,
    /// Changes of the rate, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<Phase>,
    /// What goes wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// What the store must show, for `verify`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<String>,
    /// The part of the devices that one process plays; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Shard>,
    /// Batches of each device that are not acknowledged, if these make the next one due and not the
    /// schedule. The times of the readings go on by the interval all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_loop: Option<u32>,
    /// What takes the place of the profiles, the schedule and the values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// Which clock a batch was taken by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    /// 0 is right; every wrong one has a number of its own.
    number: usize,
    offset_ns: i64,
}

impl Plan {
    /// The id of a device.
    pub fn device_id(&self, device: u32) -> String {
        match &self.replay {
            Some(replay) => replay.id(&self.prefix, device),
            None => format!("{}{device:05}", self.prefix),
        }
    }

    /// Whether a device of that id is part of the run.
    pub fn has_device(&self, id: &str) -> bool {
        if let Some(replay) = &self.replay {
            return id.strip_prefix(&self.prefix).is_some_and(|rest| replay.has(rest));
        }
        let index = id.strip_prefix(&self.prefix).and_then(|digits| digits.parse().ok());
        index.is_some_and(|index| index < self.devices && self.device_id(index) == id)
    }

    /// What a device is. Kinds are spread evenly over the indices.
    pub fn kind_of(&self, device: u32) -> &Kind {
        let all: u64 = self.kinds.iter().map(|kind| u64::from(kind.weight)).sum();
        let place = u128::from(u64::from(device).wrapping_mul(EVENLY));
        let mut place = u64::try_from((place * u128::from(all)) >> 64).unwrap_or(0);
        for kind in &self.kinds {
            match place.checked_sub(u64::from(kind.weight)) {
                Some(beyond) => place = beyond,
                None => return kind,
            }
        }
        &self.kinds[0]
    }

    /// Readings in a batch.
    pub fn batch_of(&self, device: u32, tick: u32) -> u32 {
        match &self.replay {
            Some(replay) => replay.readings(device, tick),
            None => self.kind_of(device).batch,
        }
    }

    /// Readings in the largest batch of a device.
    pub fn largest_batch(&self, device: u32) -> u32 {
        match &self.replay {
            Some(replay) => replay.largest(device),
            None => self.kind_of(device).batch,
        }
    }

    /// The measurement that a device names once for all.
    pub fn measurement(&self, device: u32) -> Option<&str> {
        match &self.replay {
            Some(replay) => replay.measurement(device),
            None => Some(self.kind_of(device).profile.measurement()),
        }
    }

    /// All measurements of the run.
    pub fn measurements(&self) -> Vec<&str> {
        match &self.replay {
            Some(replay) => replay.tape().measurements.iter().map(String::as_str).collect(),
            None => self.kinds.iter().map(|kind| kind.profile.measurement()).collect(),
        }
    }

    /// The stream of a device.
    pub fn stream_of(&self, device: u32) -> u64 {
        let own = || 1 + mix(&[self.seed, self.run, u64::from(device), 4]) % MAX_SEQ;
        self.stream.unwrap_or_else(own)
    }

    /// When a device connects, in nanoseconds after the start.
    pub fn connect_ns(&self, device: u32) -> u64 {
        let share = u128::from(self.ramp_ns) * u128::from(device) / u128::from(self.devices);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// The first batch of a device is due so long after it connects, at the normal rate. The
    /// devices are spread over the interval, so that they do not all send at the same moment.
    fn spread_ns(&self, device: u32, kind: &Kind) -> u64 {
        1 + mix(&[self.seed, u64::from(device), 3]) % kind.interval_ns
    }

    /// The moment that lies so long after the connecting of a device at the normal rate.
    fn moment(&self, device: u32, after_ns: i128) -> i128 {
        let connect = i128::from(self.connect_ns(device));
        if self.load.is_empty() {
            return connect + after_ns;
        }
        let work = load::work_at(&self.load, connect) + after_ns * i128::from(load::NORMAL);
        load::moment_of(&self.load, work)
    }

    /// When a device's batch number `tick` (from 0) is due, in nanoseconds after the start.
    pub fn due_ns(&self, device: u32, tick: u32) -> u64 {
        if let Some(replay) = &self.replay {
            return self.ramp_ns.saturating_add(replay.due_ns(device, tick));
        }
        let kind = self.kind_of(device);
        let after = self.spread_ns(device, kind) + u64::from(tick) * kind.interval_ns;
        u64::try_from(self.moment(device, after.into())).unwrap_or(u64::MAX)
    }

    /// How many batches of a device are due within the duration.
    pub fn ticks(&self, device: u32) -> u32 {
        if let Some(replay) = &self.replay {
            return replay.ticks(device, self.closed_loop.is_some());
        }
        let work = |at_ns: u64| load::work_at(&self.load, at_ns.into());
        let kind = self.kind_of(device);
        let first = i128::from(self.spread_ns(device, kind)) * i128::from(load::NORMAL);
        let left = work(self.duration_ns) - work(self.connect_ns(device)) - first;
        if left < 0 {
            return 0;
        }
        let interval = i128::from(kind.interval_ns) * i128::from(load::NORMAL);
        u32::try_from(left / interval + 1).unwrap_or(u32::MAX)
    }

    /// The coarsest unit in which the readings of a device have distinct times.
    pub fn time_unit(&self, device: u32) -> TimeUnit {
        if self.replay.is_some() {
            return TimeUnit::Ns;
        }
        let rate = u64::from(load::highest(&self.load));
        let step = u128::from(self.kind_of(device).step_ns()) * u128::from(load::NORMAL);
        match step / u128::from(rate) / self.clocks() as u128 {
            step if step >= 1_000_000 => TimeUnit::Ms,
            step if step >= 1_000 => TimeUnit::Us,
            _ => TimeUnit::Ns,
        }
    }

    /// How many different clocks the devices may have.
    fn clocks(&self) -> usize {
        let is_wrong = |fault: &&Fault| matches!(fault.trouble, Trouble::ClockSkew { .. });
        1 + self.faults.iter().filter(is_wrong).count()
    }

    /// The clock by which a batch is taken.
    fn clock(&self, device: u32, tick: u32) -> Clock {
        let mut number = 0;
        for (index, fault) in self.faults.iter().enumerate() {
            let Trouble::ClockSkew { offset_ns } = fault.trouble else { continue };
            number += 1;
            if self.is_in_force(index, device, self.due_ns(device, tick)) {
                return Clock { number, offset_ns };
            }
        }
        Clock { number: 0, offset_ns: 0 }
    }

    /// The number of the clock by which a batch is taken: within one the times only grow.
    pub fn clock_of(&self, device: u32, tick: u32) -> usize {
        if self.clocks() == 1 { 0 } else { self.clock(device, tick).number }
    }

    /// The numbers that [`clock_of`](Self::clock_of) gives.
    pub fn clock_numbers(&self) -> std::ops::Range<usize> {
        0..self.clocks()
    }

    /// The time of a reading, in [`time_unit`](Self::time_unit)s since the Unix epoch. The
    /// readings of a batch are spread over the interval that ends when the batch is due.
    pub fn time(&self, device: u32, tick: u32, index: u32) -> i64 {
        let kind = self.kind_of(device);
        let after = i128::from(self.spread_ns(device, kind))
            + (i128::from(tick) - 1) * i128::from(kind.interval_ns)
            + i128::from(u64::from(index + 1) * kind.step_ns());
        let unit = i128::from(self.time_unit(device).nanos());
        let time_ns = i128::from(self.base_ns) + self.moment(device, after);
        let time = match self.clocks() {
            1 => time_ns.div_euclid(unit),
            // Each clock shows numbers that no other one shows: no two readings have one time.
            clocks => {
                let Clock { number, offset_ns } = self.clock(device, tick);
                let clocks = i128::try_from(clocks).unwrap_or(1);
                let grain = unit * clocks;
                let steps = time_ns.div_euclid(grain) + i128::from(offset_ns).div_euclid(grain);
                steps * clocks + i128::try_from(number).unwrap_or(0)
            }
        };
        i64::try_from(time).unwrap_or(i64::MAX)
    }

    /// The time of a reading in nanoseconds, as a store has it.
    pub fn time_ns(&self, device: u32, tick: u32, index: u32) -> i64 {
        self.time(device, tick, index).saturating_mul(self.time_unit(device).nanos())
    }

    /// First and last time that any reading can have, in nanoseconds.
    pub fn time_range_ns(&self) -> (i64, i64) {
        if let Some(replay) = &self.replay {
            let (begin, (first, last)) = match self.closed_loop {
                Some(_) => (self.base_ns, replay.times_before_ns()),
                None => (self.base_ns.saturating_add_unsigned(self.ramp_ns), replay.times_ns()),
            };
            return (begin.saturating_add(first), begin.saturating_add(last));
        }
        let span = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let interval = self.kinds.iter().map(|kind| kind.interval_ns).max().unwrap_or(0);
        let unit = (0..self.devices.min(64)).map(|device| self.time_unit(device).nanos()).max();
        let grain = unit.unwrap_or(1).saturating_mul(span(self.clocks() as u64));
        let mut range = (
            self.base_ns.saturating_sub(span(interval)).saturating_sub(grain),
            self.base_ns.saturating_add(span(self.duration_ns)),
        );
        for fault in &self.faults {
            if let Trouble::ClockSkew { offset_ns } = fault.trouble {
                let (first, last) = range;
                range.0 = first.min(first.saturating_add(offset_ns)).saturating_sub(grain);
                range.1 = last.max(last.saturating_add(offset_ns)).saturating_add(grain);
            }
        }
        range
    }

    /// The fields of a reading, whatever faults there are. `tick` gives its time, `seq` and `index`
    /// its name.
    pub fn fields(&self, device: u32, tick: u32, seq: u64, index: u32, fields: &mut Fields) {
        let id = ReadingId { seed: self.seed, device, seq, index };
        let time_ns = self.time_ns(device, tick, index);
        self.kind_of(device).profile.fields(id, time_ns, fields);
    }

    /// The fault of an index, if a device has it.
    fn fault(&self, index: usize, device: u32) -> Option<&Fault> {
        self.faults.get(index).filter(|fault| fault.strikes(self.seed, index, device))
    }

    /// Whether a fault that lasts is in force for a device.
    fn is_in_force(&self, index: usize, device: u32, at_ns: u64) -> bool {
        self.fault(index, device).is_some_and(|fault| {
            (fault.begin_ns(self.seed, index, device)..self.fault_end_ns(index)).contains(&at_ns)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
