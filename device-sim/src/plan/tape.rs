//! A capture that is played: which device sent which batch when.
//!
//! The file stays where it is. In memory is a place of 32 bytes for each batch, so that a capture may be
//! much larger than memory; a batch is read when its turn comes, and its checksum is looked at again.

use anyhow::{Context, Result, ensure};
use capture_file::{BatchHead, Reader, Record, batch_in};
use proto::{Batch, Limits, RawReading, RawTime};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Most batches of a capture that is played: their places take 512 MiB.
pub const MAX_TAPE_BATCHES: usize = 16 << 20;
/// Most measurements in it.
pub const MAX_TAPE_MEASUREMENTS: usize = 100_000;
/// Largest capture that is played, in bytes: a place says no more.
pub const MAX_TAPE_BYTES: u64 = 1 << (u64::BITS - LENGTH_BITS);

/// So many bits of a place are the length of the frame, the others where it begins.
const LENGTH_BITS: u32 = 27;
/// How much of the file is read at once, in bytes.
const READ_BYTES: usize = 1024 * 1024;
/// A second, in nanoseconds.
const SECOND_NS: u64 = 1_000_000_000;

/// A device of a capture.
#[derive(Debug)]
pub struct TapeDevice {
    /// Its name there.
    pub name: String,
    /// The measurement of the readings that name none; empty if there is none.
    pub measurement: String,
    /// Readings in its largest batch.
    pub largest: u32,
    batches: Range<usize>,
}

/// A batch of a capture.
#[derive(Debug, Clone, Copy)]
pub struct TapeBatch {
    /// When it came, nanoseconds after the first batch.
    pub offset_ns: u64,
    /// The earliest time of its readings, nanoseconds after the first batch.
    pub first_ns: i64,
    /// Its readings.
    pub readings: u32,
    device: u32,
    place: u64,
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
    pub measurements: BTreeSet<String>,
    /// XXH3-64 of the file.
    pub fingerprint: u64,
    names: HashMap<String, u32>,
    /// By device, then as they came.
    batches: Vec<TapeBatch>,
    begin_ns: u64,
    file: File,
}

/// What is read is hashed.
struct Hashed<R> {
    input: R,
    hash: Xxh3,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

impl Tape {
    /// Reads a capture through, and keeps where its batches are.
    ///
    /// # Errors
    /// It cannot be read, is no capture, a newer one, cut off, damaged, empty or too large.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("the capture {}", path.display());
        let file = File::open(path).with_context(what)?;
        let size = file.metadata().with_context(what)?.len();
        ensure!(size <= MAX_TAPE_BYTES, "{} is larger than {MAX_TAPE_BYTES} bytes", what());
        let mut tape = Self {
            devices: vec![],
            length_ns: 0,
            times_ns: (i64::MAX, i64::MIN),
            measurements: BTreeSet::new(),
            fingerprint: 0,
            names: HashMap::new(),
            batches: vec![],
            begin_ns: 0,
            file,
        };
        tape.scan().with_context(what)?;
        Ok(tape)
    }

    fn scan(&mut self) -> Result<()> {
        let input = BufReader::with_capacity(READ_BYTES, self.file.try_clone()?);
        let mut input = Hashed { input, hash: Xxh3::new() };
        let mut reader = Reader::open(&mut input)?;
        loop {
            let at = reader.offset();
            match reader.next()? {
                Record::Device(device) => {
                    ensure!(
                        self.devices.len() < super::MAX_DEVICES as usize,
                        "it has more than {} devices",
                        super::MAX_DEVICES
                    );
                    self.names.insert(device.name.clone(), device.number);
                    let (name, measurement) = (device.name, String::new());
                    self.devices.push(TapeDevice { name, measurement, largest: 0, batches: 0..0 });
                }
                Record::Batch(head, body) => {
                    let first_ns = self.look(&head, body)?;
                    self.note(&head, at, first_ns)?;
                    let batch = self.batches.len() - 1;
                    // Its frame ends where the next begins.
                    self.batches[batch].place |= reader.offset() - at;
                }
                Record::End(_) => break,
            }
        }
        self.fingerprint = input.hash.digest();
        self.sort()
    }

    /// Takes note of a batch; the length of its frame is still to come.
    fn note(&mut self, head: &BatchHead<'_>, at: u64, first_ns: i64) -> Result<()> {
        ensure!(
            self.batches.len() < MAX_TAPE_BATCHES,
            "it has more than {MAX_TAPE_BATCHES} batches: capture a smaller --share or time"
        );
        let offset_ns = self.offset_ns(head);
        let device = &mut self.devices[head.device as usize];
        if device.largest == 0 {
            head.measurement.clone_into(&mut device.measurement);
        }
        device.largest = device.largest.max(head.readings);
        let (readings, device) = (head.readings, head.device);
        let place = at << LENGTH_BITS;
        self.batches.push(TapeBatch { offset_ns, first_ns, readings, device, place });
        // To the end of the second of the last batch.
        let end_ns = (offset_ns / SECOND_NS + 1).saturating_mul(SECOND_NS);
        self.length_ns = self.length_ns.max(end_ns);
        Ok(())
    }

    /// What is played begins with the first batch.
    fn offset_ns(&mut self, head: &BatchHead<'_>) -> u64 {
        let arrival_ns = head.arrival_us.saturating_mul(1_000);
        if self.batches.is_empty() {
            self.begin_ns = arrival_ns;
        }
        arrival_ns.saturating_sub(self.begin_ns)
    }

    /// The earliest time of the readings of a batch, each of which can be read; takes note of all
    /// their times and measurements.
    fn look(&mut self, head: &BatchHead<'_>, body: &[u8]) -> Result<i64> {
        let offset_ns = self.offset_ns(head);
        let played = Played { body, default: None, begin_ns: self.begin_ns };
        let batch = Batch::open(body, &Limits::unbounded())?;
        let (mut readings, mut reading, mut index) = (batch.readings(), RawReading::default(), 0);
        let mut first_ns = i64::MAX;
        while let Some(read) = readings.next(&mut reading)? {
            ensure!(read.is_ok(), "a reading in it is none");
            played.change(&mut reading);
            let time_ns = time_ns(&reading, offset_ns, index);
            first_ns = first_ns.min(time_ns);
            let (first, last) = self.times_ns;
            self.times_ns = (first.min(time_ns), last.max(time_ns));
            let measurement = reading.measurement.unwrap_or(head.measurement);
            if !self.measurements.contains(measurement) {
                ensure!(
                    self.measurements.len() < MAX_TAPE_MEASUREMENTS,
                    "it has more than {MAX_TAPE_MEASUREMENTS} measurements"
                );
                self.measurements.insert(measurement.to_owned());
            }
            index += 1;
        }
        ensure!(index > 0 && index == head.readings, "it counts other readings than there are");
        Ok(first_ns)
    }

    /// Puts the batches of each device together.
    fn sort(&mut self) -> Result<()> {
        self.batches.shrink_to_fit();
        self.batches.sort_unstable_by_key(|batch| (batch.device, batch.place));
        let mut from = 0;
        for (number, device) in (0..).zip(&mut self.devices) {
            let batches = &mut self.batches[from..];
            let count = batches.partition_point(|batch| batch.device == number);
            ensure!(count > 0, "a device in it has no batch");
            let mut before = 0;
            for batch in &mut batches[..count] {
                before = batch.offset_ns.max(before);
                batch.offset_ns = before;
            }
            device.batches = from..from + count;
            from += count;
        }
        ensure!(!self.devices.is_empty(), "there is no device in it");
        Ok(())
    }

    /// The batches of a device, as they came.
    pub fn batches(&self, device: &TapeDevice) -> &[TapeBatch] {
        &self.batches[device.batches.clone()]
    }

    /// Reads a batch from the file into `frame`.
    ///
    /// # Errors
    /// The file has changed, or cannot be read.
    pub(crate) fn open<'f>(&self, batch: &TapeBatch, frame: &'f mut Vec<u8>) -> Result<Played<'f>> {
        let length = usize::try_from(batch.place % (1 << LENGTH_BITS))?;
        frame.resize(length, 0);
        self.file
            .read_exact_at(frame, batch.place >> LENGTH_BITS)
            .context("cannot read the capture any more")?;
        let (head, body) =
            batch_in(frame).context("the capture has changed since it was opened")?;
        let device = &self.devices[batch.device as usize];
        // What the connection said then, each reading says now.
        let other = device.measurement != head.measurement;
        let default = other.then_some(head.measurement).filter(|name| !name.is_empty());
        Ok(Played { body, default, begin_ns: self.begin_ns })
    }

    /// The number of a device.
    pub fn device(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }
}

/// A batch of a capture as it is played.
pub(crate) struct Played<'f> {
    /// The body of a batch as a capture has it: to be changed, each reading.
    pub(crate) body: &'f [u8],
    default: Option<&'f str>,
    begin_ns: u64,
}

impl<'f> Played<'f> {
    /// Makes of a reading of the capture one that is played: its time counts from the first batch on,
    /// and it names its measurement where that is not the one of its device.
    pub(crate) fn change(&self, reading: &mut RawReading<'f>) {
        reading.measurement = reading.measurement.or(self.default);
        if let Some(RawTime::Units(time)) = &mut reading.time {
            *time = time.saturating_sub_unsigned(self.begin_ns);
        }
    }

    /// Gives each reading with its index.
    pub(crate) fn for_each(&self, mut each: impl FnMut(u32, &RawReading<'f>)) -> Result<()> {
        let batch = Batch::open(self.body, &Limits::unbounded())?;
        let (mut readings, mut reading, mut index) = (batch.readings(), RawReading::default(), 0);
        while readings.next(&mut reading)?.is_some() {
            self.change(&mut reading);
            each(index, &reading);
            index += 1;
        }
        Ok(())
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
