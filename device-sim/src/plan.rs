//! What a run sends: pure arithmetic from a few numbers to every reading and its time.
//!
//! Shared by `run`, which plays the plan, and `verify`, which recomputes it from the journal. The
//! schedule is open-loop: a batch is due at its time, however the gateway fares.

use crate::profile::{Fields, Profile, ReadingId, mix};
use proto::{MAX_SEQ, TimeUnit};
use serde::{Deserialize, Serialize};

/// Most devices in one run.
pub const MAX_DEVICES: u32 = 1_000_000;
/// Most readings in a batch: the default limit of the gateway.
pub const MAX_BATCH: u32 = 5_000;
/// Longest run, in nanoseconds: a year.
pub const MAX_DURATION_NS: u64 = 366 * 86_400 * 1_000_000_000;

/// A run, complete: two equal plans send equal readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the run; makes its streams differ from those of any other.
    pub run: u64,
    /// Seed of all values.
    pub seed: u64,
    /// Device ids begin with this.
    pub prefix: String,
    /// What the devices measure.
    pub profile: Profile,
    /// Number of devices.
    pub devices: u32,
    /// The stream of every device; absent: one for each device, from run and index.
    pub stream: Option<u64>,
    /// Sequence number of the first batch.
    pub start_seq: u64,
    /// Start of the run, nanoseconds since the Unix epoch.
    pub base_ns: i64,
    /// From one batch of a device to its next, in nanoseconds.
    pub interval_ns: u64,
    /// Readings in a batch.
    pub batch: u32,
    /// Time over which the devices come, in nanoseconds.
    pub ramp_ns: u64,
    /// Length of the schedule, in nanoseconds.
    pub duration_ns: u64,
}

impl Plan {
    /// Says what is wrong with the numbers, for a person.
    ///
    /// # Errors
    /// A number is outside its limits, or readings would not have distinct times.
    pub fn check(&self) -> Result<(), String> {
        let longest = proto::limits::MAX_DEVICE_ID_BYTES;
        if !(1..=MAX_DEVICES).contains(&self.devices) {
            return Err(format!("--devices must be 1 to {MAX_DEVICES}"));
        }
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return Err(format!("--batch must be 1 to {MAX_BATCH}"));
        }
        if self.interval_ns / u64::from(self.batch) == 0 {
            return Err("--interval is too short for that many readings".to_owned());
        }
        if !(1..=MAX_DURATION_NS).contains(&self.duration_ns)
            || self.interval_ns > MAX_DURATION_NS
            || self.ramp_ns > MAX_DURATION_NS
        {
            return Err("--duration, --interval and --ramp must be at most a year".to_owned());
        }
        if u32::try_from(self.duration_ns / self.interval_ns + 1).is_err() {
            return Err("--interval is too short for that --duration".to_owned());
        }
        if !(1..=MAX_SEQ / 2).contains(&self.start_seq)
            || self.stream.is_some_and(|stream| !(1..=MAX_SEQ).contains(&stream))
        {
            return Err("--start-seq and --stream must be 1 to 2^53-1".to_owned());
        }
        if self.prefix.is_empty() || self.device_id(self.devices - 1).len() > longest {
            return Err(format!("--prefix must not be empty, a device id at most {longest} bytes"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:@%/=+-".contains(c);
        if !self.prefix.chars().all(allowed) {
            return Err("--prefix may hold A-Z a-z 0-9 _ . : @ % / = + - only".to_owned());
        }
        Ok(())
    }

    /// The id of a device.
    pub fn device_id(&self, device: u32) -> String {
        format!("{}{device:05}", self.prefix)
    }

    /// Whether a device of that id is part of the run.
    pub fn has_device(&self, id: &str) -> bool {
        let index = id.strip_prefix(&self.prefix).and_then(|digits| digits.parse().ok());
        index.is_some_and(|index| index < self.devices && self.device_id(index) == id)
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

    /// When a device's batch number `tick` (from 0) is due, in nanoseconds after the start. The
    /// devices are spread over the interval, so that they do not all send at the same moment.
    pub fn due_ns(&self, device: u32, tick: u32) -> u64 {
        let spread = 1 + mix(&[self.seed, u64::from(device), 3]) % self.interval_ns;
        self.connect_ns(device) + spread + u64::from(tick) * self.interval_ns
    }

    /// How many batches of a device are due within the duration.
    pub fn ticks(&self, device: u32) -> u32 {
        let left = self.duration_ns.checked_sub(self.due_ns(device, 0));
        left.map_or(0, |left| u32::try_from(left / self.interval_ns + 1).unwrap_or(u32::MAX))
    }

    /// The coarsest unit in which the readings of a device have distinct times.
    pub fn time_unit(&self) -> TimeUnit {
        match self.interval_ns / u64::from(self.batch) {
            step if step >= 1_000_000 => TimeUnit::Ms,
            step if step >= 1_000 => TimeUnit::Us,
            _ => TimeUnit::Ns,
        }
    }

    /// The time of a reading, in [`time_unit`](Self::time_unit)s since the Unix epoch. The
    /// readings of a batch are spread over the interval that ends when the batch is due.
    pub fn time(&self, device: u32, tick: u32, index: u32) -> i64 {
        let step = self.interval_ns / u64::from(self.batch);
        let after_start = i128::from(self.due_ns(device, tick)) - i128::from(self.interval_ns)
            + i128::from(u64::from(index + 1) * step);
        let unit = i128::from(self.time_unit().nanos());
        let time = (i128::from(self.base_ns) + after_start).div_euclid(unit);
        i64::try_from(time).unwrap_or(i64::MAX)
    }

    /// The time of a reading in nanoseconds, as a store has it.
    pub fn time_ns(&self, device: u32, tick: u32, index: u32) -> i64 {
        self.time(device, tick, index) * self.time_unit().nanos()
    }

    /// First and last time that any reading can have, in nanoseconds.
    pub fn time_range_ns(&self) -> (i64, i64) {
        let span = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let unit = self.time_unit().nanos();
        (
            self.base_ns.saturating_sub(span(self.interval_ns)).saturating_sub(unit),
            self.base_ns.saturating_add(span(self.duration_ns)),
        )
    }

    /// The fields of a reading. `tick` gives its time, `seq` and `index` its name.
    pub fn fields(&self, device: u32, tick: u32, seq: u64, index: u32, fields: &mut Fields) {
        let id = ReadingId { seed: self.seed, device, seq, index };
        self.profile.fields(id, self.time_ns(device, tick, index), fields);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan() -> Plan {
        Plan {
            run: 7,
            seed: 1,
            prefix: "sim-".to_owned(),
            profile: Profile::Environment,
            devices: 4,
            stream: None,
            start_seq: 1,
            base_ns: 1_800_000_000_123_456_789,
            interval_ns: 1_000_000_000,
            batch: 10,
            ramp_ns: 2_000_000_000,
            duration_ns: 10_000_000_000,
        }
    }

    #[test]
    fn batches_are_due_at_fixed_times() {
        let plan = plan();
        assert_eq!(
            (0..4).map(|device| plan.connect_ns(device)).collect::<Vec<_>>(),
            [0, 500_000_000, 1_000_000_000, 1_500_000_000]
        );
        for device in 0..4 {
            let first = plan.due_ns(device, 0);
            assert!(first > plan.connect_ns(device));
            assert!(first <= plan.connect_ns(device) + plan.interval_ns);
            assert_eq!(plan.due_ns(device, 5), first + 5 * plan.interval_ns);
            let ticks = plan.ticks(device);
            assert!(plan.due_ns(device, ticks - 1) <= plan.duration_ns);
            assert!(plan.due_ns(device, ticks) > plan.duration_ns);
        }
    }

    #[test]
    fn every_reading_of_a_device_has_a_time_of_its_own() {
        for (interval_ns, batch, unit) in [
            (1_000_000_000, 10, TimeUnit::Ms),
            (10_000_000, 10, TimeUnit::Ms),
            (10_000_000, 11, TimeUnit::Us),
            (333_333_333, 7, TimeUnit::Ms),
            (3_000_000, 5_000, TimeUnit::Ns),
        ] {
            let plan = Plan { interval_ns, batch, ..plan() };
            assert_eq!(plan.time_unit(), unit);
            let times: Vec<i64> = (0..20)
                .flat_map(|tick| (0..batch).map(move |index| (tick, index)))
                .map(|(tick, index)| plan.time_ns(3, tick, index))
                .collect();
            assert!(times.is_sorted_by(|a, b| a < b), "{interval_ns} {batch}");
            let due = plan.base_ns + i64::try_from(plan.due_ns(3, 19)).expect("small");
            assert!(*times.last().expect("some") <= due, "never ahead of its own sending");
            let (first, last) = plan.time_range_ns();
            assert!(first <= times[0] && *times.last().expect("some") <= last + due);
        }
    }

    #[test]
    fn streams_differ_between_devices_and_runs() {
        let (one, other) = (plan(), Plan { run: 8, ..plan() });
        assert_ne!(one.stream_of(0), one.stream_of(1));
        assert_ne!(one.stream_of(0), other.stream_of(0));
        assert_eq!(Plan { stream: Some(5), ..plan() }.stream_of(3), 5);
        assert!((0..100).all(|device| (1..=MAX_SEQ).contains(&one.stream_of(device))));
    }

    #[test]
    fn impossible_plans_are_named() {
        assert_eq!(plan().check(), Ok(()));
        for (bad, word) in [
            (Plan { devices: 0, ..plan() }, "--devices"),
            (Plan { batch: 0, ..plan() }, "--batch"),
            (Plan { batch: 5_001, ..plan() }, "--batch"),
            (Plan { interval_ns: 5, ..plan() }, "--interval"),
            (Plan { duration_ns: 0, ..plan() }, "--duration"),
            (Plan { start_seq: 0, ..plan() }, "--start-seq"),
            (Plan { stream: Some(0), ..plan() }, "--stream"),
            (Plan { prefix: String::new(), ..plan() }, "--prefix"),
            (Plan { prefix: "a b".to_owned(), ..plan() }, "--prefix"),
            (Plan { prefix: "x".repeat(124), ..plan() }, "--prefix"),
        ] {
            let message = bad.check().expect_err(word);
            assert!(message.contains(word), "{message}");
        }
    }
}
