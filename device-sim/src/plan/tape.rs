//! A capture in memory: which device sent which batch when.

use anyhow::{Context, Result, ensure};
use capture_file::{Reader, Record, transcode};
use proto::{Batch, BatchEncoder, Limits, RawReading, RawTime};
use std::collections::HashMap;
use std::path::Path;

/// Largest capture that is played, in bytes: it is held in memory.
pub const MAX_TAPE_BYTES: u64 = 1024 * 1024 * 1024;

/// A second, in nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;

/// A device of a capture.
#[derive(Debug)]
pub struct TapeDevice {
    /// Its name there.
    pub name: String,
    /// The measurement of the readings that name none; empty if there is none.
    pub measurement: String,
    /// Its batches, in order.
    pub batches: Vec<TapeBatch>,
}

/// A batch of a capture.
#[derive(Debug, Clone, Copy)]
pub struct TapeBatch {
    /// When it came, nanoseconds after the first batch.
    pub offset_ns: u64,
    /// Its readings.
    pub readings: u32,
    at: usize,
    length: usize,
}

/// A whole capture.
#[derive(Debug)]
pub struct Tape {
    /// Its devices.
    pub devices: Vec<TapeDevice>,
    /// From the first batch to the end of the second of the last, in nanoseconds.
    pub length_ns: u64,
    /// Times of the earliest and the latest reading, nanoseconds after the first batch.
    pub times_ns: (i64, i64),
    /// All measurements.
    pub measurements: Vec<String>,
    /// XXH3-64 of the file.
    pub fingerprint: u64,
    names: HashMap<String, u32>,
    bodies: Vec<u8>,
}

impl PartialEq for Tape {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Tape {
    /// Reads a capture.
    ///
    /// # Errors
    /// It cannot be read, is no capture, a newer one, cut off, damaged or empty.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("the capture {}", path.display());
        let size = std::fs::metadata(path).with_context(what)?.len();
        ensure!(size <= MAX_TAPE_BYTES, "{} is larger than {MAX_TAPE_BYTES} bytes", what());
        let file = std::fs::read(path).with_context(what)?;
        Self::of(&file).with_context(what)
    }

    fn of(file: &[u8]) -> Result<Self> {
        let mut reader = Reader::open(file)?;
        // What is played begins with the first batch.
        let mut begin_ns: Option<u64> = None;
        let mut tape = Self {
            devices: vec![],
            length_ns: 0,
            times_ns: (i64::MAX, i64::MIN),
            measurements: vec![],
            fingerprint: xxhash_rust::xxh3::xxh3_64(file),
            names: HashMap::new(),
            bodies: Vec::with_capacity(file.len()),
        };
        let mut encoder = BatchEncoder::new();
        loop {
            match reader.next()? {
                Record::Device(device) => {
                    tape.names.insert(device.name.clone(), device.number);
                    let (name, measurement) = (device.name, String::new());
                    tape.devices.push(TapeDevice { name, measurement, batches: vec![] });
                }
                Record::Batch(head, body) => {
                    let arrival_ns = head.arrival_us.saturating_mul(1_000);
                    let begin_ns = *begin_ns.get_or_insert(arrival_ns);
                    let device = &mut tape.devices[head.device as usize];
                    if device.batches.is_empty() {
                        head.measurement.clone_into(&mut device.measurement);
                    }
                    let other = device.measurement != head.measurement;
                    let default = other.then_some(head.measurement).filter(|name| !name.is_empty());
                    // What the connection said then, each reading says now.
                    let at = tape.bodies.len();
                    let readings = transcode(body, 1, &mut encoder, |_, reading| {
                        reading.measurement = reading.measurement.or(default);
                        if let Some(RawTime::Units(time)) = &mut reading.time {
                            *time = time.saturating_sub_unsigned(begin_ns);
                        }
                        true
                    })?;
                    ensure!(readings == head.readings, "it counts other readings than there are");
                    tape.bodies.extend(encoder.body());
                    let before = device.batches.last().map_or(0, |last| last.offset_ns);
                    let offset_ns = arrival_ns.saturating_sub(begin_ns).max(before);
                    let length = tape.bodies.len() - at;
                    device.batches.push(TapeBatch { offset_ns, readings, at, length });
                    // To the end of the second of the last batch.
                    let end_ns = (offset_ns / SECOND_NS + 1).saturating_mul(SECOND_NS);
                    tape.length_ns = tape.length_ns.max(end_ns);
                    tape.look(head.device, at, offset_ns)?;
                }
                Record::End(_) => {
                    let silent = tape.devices.iter().any(|device| device.batches.is_empty());
                    ensure!(!tape.devices.is_empty() && !silent, "a device in it has no batch");
                    return Ok(tape);
                }
            }
        }
    }

    /// Takes note of the times and measurements of a batch.
    fn look(&mut self, device: u32, at: usize, offset_ns: u64) -> Result<()> {
        let default = &self.devices[device as usize].measurement;
        let batch = Batch::open(&self.bodies[at..], &Limits::unbounded())?;
        let (mut readings, mut reading, mut index) = (batch.readings(), RawReading::default(), 0);
        while let Some(read) = readings.next(&mut reading)? {
            ensure!(read.is_ok(), "a reading in it is none");
            let time_ns = time_ns(&reading, offset_ns, index);
            let (first, last) = self.times_ns;
            self.times_ns = (first.min(time_ns), last.max(time_ns));
            let measurement = reading.measurement.unwrap_or(default);
            if !self.measurements.iter().any(|known| known == measurement) {
                self.measurements.push(measurement.to_owned());
            }
            index += 1;
        }
        Ok(())
    }

    /// The body of a batch, as a capture has it.
    pub fn body(&self, batch: &TapeBatch) -> &[u8] {
        &self.bodies[batch.at..batch.at + batch.length]
    }

    /// The number of a device.
    pub fn device(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }
}

/// The time of a reading, nanoseconds after the first batch; without one that of its arrival, those
/// of a batch a nanosecond apart.
pub(crate) fn time_ns(reading: &RawReading<'_>, offset_ns: u64, index: u32) -> i64 {
    match reading.time {
        Some(RawTime::Units(time)) => time,
        // A capture has none of the other kind.
        _ => i64::try_from(offset_ns).unwrap_or(i64::MAX).saturating_add(index.into()),
    }
}
