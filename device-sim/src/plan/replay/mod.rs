//! A capture in place of profiles: what was sampled, with its timing, times N.

use super::{MAX_DEVICES, Plan, Played, Tape, TapeBatch, TapeDevice, tape};
use anyhow::{Context, Result, ensure};
use capture_file::transcode;
use proto::{BatchEncoder, RawReading, RawTime};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most copies of each device.
pub const MAX_COPIES: u32 = 10_000;
/// The usual speed, in thousandths.
const SPEED: u64 = 1_000;
/// A closed loop that plays a capture once has so much time, in nanoseconds.
const ONCE_NS: u64 = 600_000_000_000;
/// The shortest time in which a device is taken to be answered in a closed loop, in nanoseconds:
/// bounds what a run that was killed may have sent.
const ROUND_TRIP_NS: u64 = 10_000;

/// Which capture is played, and how. Equal ones play the same, wherever the file is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replay {
    /// The file.
    pub capture: PathBuf,
    /// XXH3-64 of it, in hexadecimal: `verify` has to see the same one.
    pub fingerprint: String,
    /// Copies of each device, each a device of its own.
    pub copies: u32,
    /// So many thousandths of the speed at which it came.
    pub speed_milli: u64,
    /// The last copy begins so much later than the first, in nanoseconds; the others between.
    pub phase_ns: u64,
    /// The capture is played again until so much time has passed, in nanoseconds; absent: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loop_ns: Option<u64>,
    #[serde(skip)]
    tape: Option<Arc<Tape>>,
}

impl PartialEq for Replay {
    fn eq(&self, other: &Self) -> bool {
        let how = |of: &Self| (of.copies, of.speed_milli, of.phase_ns, of.loop_ns);
        self.fingerprint == other.fingerprint && how(self) == how(other)
    }
}

impl Replay {
    /// Reads the capture.
    ///
    /// # Errors
    /// It cannot be read, or there are too many devices.
    pub fn open(path: &Path, copies: u32, speed: f64, phase_ns: u64) -> Result<Self> {
        ensure!((1..=MAX_COPIES).contains(&copies), "--times must be 1 to {MAX_COPIES}");
        ensure!((0.001..=1_000.0).contains(&speed), "--speed must be 0.001 to 1000");
        let tape = Tape::read(path)?;
        let capture = std::fs::canonicalize(path).with_context(|| path.display().to_string())?;
        let fingerprint = format!("{:016x}", tape.fingerprint);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        let speed_milli = (speed * 1_000.0).round() as u64;
        let replay = Self {
            capture,
            fingerprint,
            copies,
            speed_milli,
            phase_ns: if copies > 1 { phase_ns } else { 0 },
            loop_ns: None,
            tape: Some(Arc::new(tape)),
        };
        ensure!(replay.devices() <= MAX_DEVICES, "more than {MAX_DEVICES} devices: lower --times");
        Ok(replay)
    }

    /// Reads the capture again that a journal names, or the one of that name beside `journal`;
    /// unless `known` is the same one, opened.
    ///
    /// # Errors
    /// It cannot be read, or is another one.
    pub fn reopen(&mut self, journal: &Path, known: Option<&Self>) -> Result<()> {
        if let Some(known) = known.filter(|known| known.fingerprint == self.fingerprint) {
            self.tape.clone_from(&known.tape);
            return Ok(());
        }
        let beside = self.capture.file_name().map(|name| journal.with_file_name(name));
        let path = match beside {
            Some(beside) if !self.capture.exists() => beside,
            _ => self.capture.clone(),
        };
        let tape = Tape::read(&path)?;
        ensure!(
            format!("{:016x}", tape.fingerprint) == self.fingerprint,
            "{} is not the capture that was played",
            path.display()
        );
        self.tape = Some(Arc::new(tape));
        Ok(())
    }

    /// What is played.
    pub fn tape(&self) -> &Tape {
        self.tape.as_ref().expect("opened or reopened before it is used")
    }

    /// How many devices play it.
    pub fn devices(&self) -> u32 {
        let captured = u32::try_from(self.tape().devices.len()).unwrap_or(u32::MAX);
        captured.saturating_mul(self.copies)
    }

    /// How long it takes after the ramp, in nanoseconds; in a closed loop at most.
    pub fn duration_ns(&self, closed_loop: bool) -> u64 {
        if closed_loop {
            return self.loop_ns.unwrap_or(ONCE_NS).max(1);
        }
        let once = self.scaled(i128::from(self.tape().length_ns));
        let played = self.loop_ns.unwrap_or_else(|| u64::try_from(once).unwrap_or(u64::MAX));
        self.phase_ns.saturating_add(played).max(1)
    }

    fn scaled(&self, ns: i128) -> i128 {
        (ns * i128::from(SPEED)).div_euclid(i128::from(self.speed_milli))
    }

    /// The captured device, and which copy of it.
    fn of(&self, device: u32) -> (&TapeDevice, u32) {
        let captured = u32::try_from(self.tape().devices.len()).unwrap_or(u32::MAX);
        (&self.tape().devices[(device % captured) as usize], device / captured)
    }

    /// The measurement that a device names once for all.
    pub fn measurement(&self, device: u32) -> Option<&str> {
        Some(self.of(device).0.measurement.as_str()).filter(|name| !name.is_empty())
    }

    pub(super) fn id(&self, prefix: &str, device: u32) -> String {
        let (captured, copy) = self.of(device);
        format!("{prefix}{}-{}", captured.name, copy + 1)
    }

    pub(super) fn has(&self, rest: &str) -> bool {
        rest.rsplit_once('-').is_some_and(|(name, copy)| {
            let number = copy.parse::<u32>().ok().filter(|number| number.to_string() == copy);
            self.tape().device(name).is_some()
                && number.is_some_and(|number| (1..=self.copies).contains(&number))
        })
    }

    /// What a device plays in a lap.
    pub(crate) fn batches(&self, device: u32) -> &[TapeBatch] {
        self.tape().batches(self.of(device).0)
    }

    fn batch(&self, device: u32, tick: u32) -> (&TapeBatch, u64) {
        let batches = self.batches(device);
        let count = batches.len();
        (&batches[tick as usize % count], (tick as usize / count) as u64)
    }

    pub(super) fn readings(&self, device: u32, tick: u32) -> u32 {
        self.batch(device, tick).0.readings
    }

    pub(super) fn largest(&self, device: u32) -> u32 {
        self.of(device).0.largest
    }

    /// So much later than the first copy a device begins, in nanoseconds.
    fn phase(&self, device: u32) -> i128 {
        let copy = i128::from(self.of(device).1) * i128::from(self.phase_ns);
        copy / i128::from(self.copies.max(2) - 1)
    }

    /// When what came so long after the beginning is due, in nanoseconds after the ramp.
    fn moment(&self, device: u32, lap: u64, after_ns: i64) -> i128 {
        let lap = i128::from(lap) * i128::from(self.tape().length_ns);
        self.phase(device) + self.scaled(lap + i128::from(after_ns))
    }

    pub(super) fn due_ns(&self, device: u32, tick: u32) -> u64 {
        let (batch, lap) = self.batch(device, tick);
        let after_ns = i64::try_from(batch.offset_ns).unwrap_or(i64::MAX);
        u64::try_from(self.moment(device, lap, after_ns)).unwrap_or(u64::MAX)
    }

    pub(super) fn ticks(&self, device: u32, closed_loop: bool) -> u32 {
        let count = u32::try_from(self.batches(device).len()).unwrap_or(u32::MAX);
        let Some(loop_ns) = self.loop_ns else { return count };
        if closed_loop {
            return u32::try_from(loop_ns / ROUND_TRIP_NS).unwrap_or(u32::MAX).max(1);
        }
        let end = self.phase(device) + i128::from(loop_ns);
        // The first that is not due any more.
        let (mut from, mut to) = (0, u32::MAX);
        while from < to {
            let middle = from + (to - from) / 2;
            match i128::from(self.due_ns(device, middle)) <= end {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        from
    }

    /// The time of a reading, in nanoseconds after the ramp. Those of a lap are a nanosecond later
    /// than what it repeats, so that readings from before the capture began do not meet others.
    pub(crate) fn time_ns(
        &self,
        device: u32,
        tick: u32,
        index: u32,
        reading: &RawReading<'_>,
    ) -> i64 {
        let (_, lap) = self.batch(device, tick);
        let within = match reading.time {
            Some(_) => self.moment(device, lap, tape::time_ns(reading, 0, 0)),
            None => i128::from(self.due_ns(device, tick)) + i128::from(index),
        };
        i64::try_from(within + i128::from(lap)).unwrap_or(i64::MAX)
    }

    /// …in a closed loop, in nanoseconds after the start: the capture ends when the run begins, so
    /// that no reading overtakes the clock however fast a gateway is. Laps lie over each other, each
    /// beside what it repeats: a nanosecond later, or so many as there are readings in the batch
    /// where these are a nanosecond apart.
    fn time_before_ns(&self, device: u32, tick: u32, index: u32, reading: &RawReading<'_>) -> i64 {
        let (batch, lap) = self.batch(device, tick);
        let step = if reading.time.is_some() { 1 } else { u64::from(batch.readings) };
        tape::time_ns(reading, batch.offset_ns, index)
            .saturating_sub_unsigned(self.tape().length_ns)
            .saturating_add_unsigned(lap.saturating_mul(step))
    }

    /// First and last time of any reading in a closed loop, in nanoseconds after the start.
    pub(super) fn times_before_ns(&self) -> (i64, i64) {
        let (first, last) = self.tape().times_ns;
        let of = |ns: i64| ns.saturating_sub_unsigned(self.tape().length_ns);
        let laps = self.duration_ns(true) / ROUND_TRIP_NS;
        (of(first), of(last).saturating_add_unsigned(laps.saturating_mul(self.largest_of_all())))
    }

    fn largest_of_all(&self) -> u64 {
        self.tape().devices.iter().map(|device| u64::from(device.largest)).max().unwrap_or(0)
    }

    pub(super) fn times_ns(&self) -> (i64, i64) {
        let (first, last) = self.tape().times_ns;
        let narrow = |ns: i128| i64::try_from(ns).unwrap_or(i64::MAX);
        let laps = i128::from(self.duration_ns(false)) + i128::from(u32::MAX);
        (
            narrow(self.scaled(i128::from(first.min(0)))),
            narrow(self.scaled(i128::from(last.max(0))) + laps),
        )
    }

    /// Reads a batch into `frame`.
    ///
    /// # Errors
    /// The file has changed, or cannot be read.
    pub(crate) fn played<'f>(
        &self,
        (device, tick): (u32, u32),
        frame: &'f mut Vec<u8>,
    ) -> Result<Played<'f>> {
        self.tape().open(self.batch(device, tick).0, frame)
    }
}

impl Plan {
    /// Reads a batch of a capture into `frame`, and writes it into `encoder`.
    ///
    /// # Errors
    /// The file has changed, or cannot be read.
    pub(crate) fn encode_replayed(
        &self,
        replay: &Replay,
        (frame, encoder): (&mut Vec<u8>, &mut BatchEncoder),
        (device, tick, seq): (u32, u32, u64),
    ) -> Result<()> {
        let played = replay.played((device, tick), frame)?;
        transcode(played.body, seq, encoder, |index, reading| {
            played.change(reading);
            let time_ns = self.replayed_ns(replay, device, tick, index, reading);
            reading.time = Some(RawTime::Units(time_ns));
            true
        })?;
        Ok(())
    }

    /// The earliest time of a batch of a lap, nanoseconds since the Unix epoch.
    pub(crate) fn first_replayed_ns(&self, replay: &Replay, device: u32, tick: u32) -> i64 {
        let first_ns = replay.batch(device, tick).0.first_ns;
        // As if all of them were a reading with that time.
        let time = Some(RawTime::Units(first_ns));
        self.replayed_ns(replay, device, tick, 0, &RawReading { time, ..RawReading::default() })
    }

    /// The time of a replayed reading, nanoseconds since the Unix epoch.
    pub(crate) fn replayed_ns(
        &self,
        replay: &Replay,
        device: u32,
        tick: u32,
        index: u32,
        reading: &RawReading<'_>,
    ) -> i64 {
        if self.closed_loop.is_some() {
            let before = replay.time_before_ns(device, tick, index, reading);
            return self.base_ns.saturating_add(before);
        }
        let ramp = i64::try_from(self.ramp_ns).unwrap_or(i64::MAX);
        let after = replay.time_ns(device, tick, index, reading);
        self.base_ns.saturating_add(ramp).saturating_add(after)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
