//! The log on a model file system, against a plain vector: append, commit, roll, read, delete,
//! fill the disk, fail a sync, close, kill, cut the power, also while it is being opened.
//!
//! `LOG_MODEL_STATES` says how many steps to take, `LOG_MODEL_SEED` repeats a run that failed.

use crate::{
    model_disk::{Call, Fault},
    model_files::ModelFiles,
};
use fastrand::Rng;
use gateway::{
    log::{
        self, Check, CommitError, LogError, Options, ReadError, Reader, Recovery, Shared, Writer,
    },
    record::Position,
};
use std::{sync::Arc, time::Instant};

const DEFAULT_STATES: u64 = 30_000;
/// A fresh log is begun after so many steps.
const STATES_PER_LOG: u64 = 500;

struct Open {
    writer: Writer,
    shared: Shared,
    readers: Vec<Reader>,
}

struct Trial {
    files: ModelFiles,
    rng: Rng,
    /// Record `n` is at index `n - 1`; all of them were durable.
    durable: Vec<Vec<u8>>,
    /// The group that was being committed when the process ended.
    in_flight: Vec<Vec<u8>>,
    /// The highest position below which deletion was asked for.
    low: u64,
    segment_bytes: u64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    commits: u64,
    power_cuts: u64,
    kills: u64,
    full: u64,
    poisoned: u64,
    torn: u64,
    survived: u64,
    read: u64,
    deleted: u64,
    died_opening: u64,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn nothing_that_was_committed_is_lost() {
    let seed = number("LOG_MODEL_SEED").unwrap_or_else(|| fastrand::u64(..));
    let states = number("LOG_MODEL_STATES").unwrap_or(DEFAULT_STATES);
    println!("LOG_MODEL_SEED={seed} LOG_MODEL_STATES={states}");
    let started = Instant::now();
    let mut seeds = Rng::with_seed(seed);
    let mut total = Counts::default();
    for _ in 0..states.div_ceil(STATES_PER_LOG) {
        let seed = seeds.u64(..);
        total = Trial::new(seed, total).run(STATES_PER_LOG);
    }
    println!("{states} states in {:?}: {total:?}", started.elapsed());
    println!("tried {states}");
    // The run was of use only if it came to what it is about.
    assert!(total.torn > 0 && total.survived > 0 && total.full > 0 && total.poisoned > 0);
}

impl Trial {
    fn new(seed: u64, counts: Counts) -> Self {
        let mut rng = Rng::with_seed(seed);
        let files = ModelFiles::new(rng.u64(..));
        let segment_bytes = rng.u64(200..8000);
        let (durable, in_flight) = (Vec::new(), Vec::new());
        Self { files, rng, durable, in_flight, low: 1, segment_bytes, counts }
    }

    fn run(mut self, states: u64) -> Counts {
        let mut open = self.open();
        for _ in 0..states {
            open = self.step(open);
        }
        self.end(open);
        self.counts
    }

    fn step(&mut self, mut open: Open) -> Open {
        match self.rng.u8(..100) {
            0..50 => return self.append(open),
            50..70 => self.read(&mut open),
            70..76 => {
                if let Err(error) = open.writer.roll() {
                    assert!(!matches!(error, CommitError::Roll { .. }), "{error}");
                }
            }
            76..84 => self.delete(&mut open),
            84..87 => {
                let first = self.rng.u64(open.shared.oldest().0..=self.durable.len() as u64 + 3);
                open.readers.push(open.shared.reader_at(Position(first)));
            }
            87..90 => {
                let free = self.rng.bool().then(|| self.rng.u64(..4000));
                self.files.set_free(free);
            }
            90..92 => {
                let short = self.rng.bool();
                self.files.set_short(short);
            }
            92..94 => {
                let after = self.rng.u64(..3);
                let call = Some(Call::Sync);
                self.files.set_fault(Some(Fault { call, after, errno: 5, for_good: false }));
                return open;
            }
            _ => {
                self.end(open);
                return self.open();
            }
        }
        if open.shared.poisoned().is_some() { self.restart_after_poison(open) } else { open }
    }

    /// A group of records, committed or forgotten or cut off by the death of the process.
    fn append(&mut self, mut open: Open) -> Open {
        let group: Vec<Vec<u8>> = (0..self.rng.usize(1..8)).map(|_| self.payload()).collect();
        for (index, payload) in group.iter().enumerate() {
            let at = self.rng.usize(..=payload.len());
            let expected = self.durable.len() + index + 1;
            match open.writer.append(&[&payload[..at], &payload[at..]]) {
                Ok(position) => assert_eq!(position.0, expected as u64),
                Err(LogError::Poisoned { .. }) => return self.restart_after_poison(open),
                Err(error) => panic!("{error}"),
            }
        }
        if self.rng.u8(..10) == 0 {
            open.writer.discard();
            return open;
        }
        let dies = self.rng.u8(..12) == 0;
        if dies {
            // Dies at one of the calls of the commit, or right after them.
            let after = self.rng.u64(..4);
            self.files.set_fault(Some(Fault { call: None, after, errno: 5, for_good: true }));
        }
        match open.writer.commit() {
            Ok(durable) => {
                self.counts.commits += 1;
                self.durable.extend(group);
                assert_eq!(durable.0, self.durable.len() as u64);
                assert_eq!(open.shared.durable(), durable);
                if open.writer.needs_roll() && self.rng.u8(..4) > 0 {
                    let _ = open.writer.roll();
                }
            }
            Err(CommitError::Full { .. }) => self.counts.full += 1,
            Err(CommitError::Poisoned { .. }) => {
                self.in_flight = group;
                assert!(open.writer.commit().is_err(), "a failed sync is final");
            }
            Err(error @ CommitError::Roll { .. }) => panic!("{error}"),
        }
        if dies {
            self.end_badly(open);
            return self.open();
        }
        if open.shared.poisoned().is_some() { self.restart_after_poison(open) } else { open }
    }

    fn payload(&mut self) -> Vec<u8> {
        let most = if self.rng.u8(..10) == 0 { 5000 } else { 300 };
        let mut bytes = vec![0; self.rng.usize(..most)];
        // Few values: zeros and the first byte of a frame are among them.
        let values = [0, 0xF8, b'R', b'E', b'C', 1, 0xFF, self.rng.u8(..)];
        bytes.fill_with(|| values[self.rng.usize(..values.len())]);
        bytes
    }

    fn read(&mut self, open: &mut Open) {
        if open.readers.is_empty() {
            return;
        }
        let index = self.rng.usize(..open.readers.len());
        for _ in 0..self.rng.usize(1..40) {
            let reader = &mut open.readers[index];
            let wanted = reader.position();
            match reader.next() {
                Ok(Some((position, payload))) => {
                    self.counts.read += 1;
                    assert_eq!(position, wanted);
                    assert_eq!(self.durable.get(position.0 as usize - 1), Some(&payload.to_vec()));
                }
                Ok(None) => {
                    assert!(wanted.0 > self.durable.len() as u64, "{wanted} was not given");
                    break;
                }
                Err(ReadError::Deleted { wanted, oldest }) => {
                    assert!(wanted < oldest && wanted.0 < self.low);
                    open.readers.remove(index);
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn delete(&mut self, open: &mut Open) {
        let low = self.rng.u64(1..=self.durable.len() as u64 + 1);
        self.low = self.low.max(low);
        match open.writer.delete_below(Position(low)) {
            Ok(deleted) => self.counts.deleted += deleted.segments,
            // A sync that failed, or no space although there was a spare.
            Err(LogError::Io { .. } | LogError::Poisoned { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn restart_after_poison(&mut self, open: Open) -> Open {
        self.counts.poisoned += 1;
        self.end_badly(open);
        self.open()
    }

    fn end(&mut self, open: Open) {
        if self.rng.u8(..3) == 0 {
            let Open { writer, .. } = open;
            let _ = writer.close();
            if self.rng.bool() {
                self.files.cut_power();
            } else {
                self.files.kill();
            }
        } else {
            self.end_badly(open);
        }
    }

    fn end_badly(&mut self, open: Open) {
        drop(open);
        if self.rng.u8(..3) == 0 {
            self.counts.kills += 1;
            self.files.kill();
        } else {
            self.counts.power_cuts += 1;
            self.files.cut_power();
        }
    }

    /// Opens the log, at times dying meanwhile, and compares all of it.
    fn open(&mut self) -> Open {
        self.files.set_free(None);
        while self.rng.u8(..4) == 0 {
            let after = self.rng.u64(..60);
            self.files.set_fault(Some(Fault { call: None, after, errno: 5, for_good: true }));
            let survived = self.try_open();
            if survived.is_err() {
                self.counts.died_opening += 1;
            }
            drop(survived);
            if self.rng.bool() { self.files.cut_power() } else { self.files.kill() }
        }
        let (writer, shared, recovery) = self.try_open().unwrap();
        self.compare(&shared, &recovery);
        Open { writer, shared, readers: Vec::new() }
    }

    fn try_open(&mut self) -> Result<(Writer, Shared, Recovery), LogError> {
        let check = if self.rng.bool() { Check::Tail } else { Check::All };
        let options = Options {
            dir: "/data/gateway/log".into(),
            segment_bytes: self.segment_bytes,
            check,
            ..Options::default()
        };
        let known = self.rng.u64(..=self.durable.len() as u64);
        log::open(options, Arc::new(self.files.clone()), Position(known))
    }

    fn compare(&mut self, shared: &Shared, recovery: &Recovery) {
        let committed = self.durable.len();
        assert_eq!(recovery.damaged, [], "a crash damages nothing that was committed");
        self.counts.torn += recovery.torn.len() as u64;
        let durable = usize::try_from(shared.durable().0).unwrap();
        assert_eq!(recovery.last, shared.durable());
        assert!(durable >= committed, "{durable} of {committed} are left");
        // Of the last group, if it was not committed, a part may have survived.
        let survived = durable - committed;
        assert!(survived <= self.in_flight.len(), "{survived} records were never written");
        self.counts.survived += survived as u64;
        let in_flight = std::mem::take(&mut self.in_flight);
        self.durable.extend(in_flight.into_iter().take(survived));
        let oldest = shared.oldest();
        assert!(oldest.0 <= self.low, "{oldest} is the oldest, {} was to be kept", self.low);
        let mut reader = shared.reader_at(oldest);
        let first = usize::try_from(oldest.0).unwrap() - 1;
        for (index, expected) in self.durable.iter().enumerate().skip(first) {
            let (position, payload) = reader.next().unwrap().unwrap();
            assert_eq!(position.0, index as u64 + 1);
            assert_eq!(payload, *expected, "record {position}");
        }
        assert!(reader.next().unwrap().is_none());
    }
}
