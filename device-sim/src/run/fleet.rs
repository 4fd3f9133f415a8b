//! What all devices of a run share.

use super::credentials::Credentials;
use super::link::Connector;
use super::tally::Tally;
use crate::journal::Ledger;
use crate::plan::Plan;
use proto::BatchEncoder;
use proto::RawValue;
use proto::encode::ColumnTimes;
use serde::Serialize;
use std::cell::RefCell;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How a batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One map for each reading.
    #[default]
    Readings,
    /// One array for each field.
    Columns,
}

/// The plan, the way to the gateway, and what is known so far.
pub(super) struct Fleet {
    /// What is sent.
    pub(super) plan: Plan,
    /// How it is written.
    pub(super) mode: Mode,
    /// Most batches that a device keeps.
    pub(super) outbox: usize,
    /// How devices connect.
    pub(super) connector: Connector,
    /// How they prove who they are.
    pub(super) credentials: Credentials,
    /// What is counted.
    pub(super) tally: Tally,
    /// What is known of each device, by index.
    pub(super) ledgers: Vec<Mutex<Ledger>>,
    /// Start of the schedule.
    pub(super) start: Instant,
    /// Ends the schedule early.
    pub(super) stop: CancellationToken,
    /// Ends the waiting for acks.
    pub(super) abort: CancellationToken,
}

impl Fleet {
    /// When a batch is due.
    pub(super) fn due(&self, device: u32, tick: u32) -> Instant {
        self.start + Duration::from_nanos(self.plan.due_ns(device, tick))
    }

    /// Writes a batch as a complete message.
    pub(super) fn encode(&self, device: &Sender, tick: u32, seq: u64) -> bytes::Bytes {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        SCRATCH.with_borrow_mut(|scratch| match self.mode {
            Mode::Readings => self.encode_readings(scratch, device, tick, seq),
            Mode::Columns => self.encode_columns(scratch, device, tick, seq),
        })
    }

    fn encode_readings(
        &self,
        Scratch { encoder, rows }: &mut Scratch,
        device: &Sender,
        tick: u32,
        seq: u64,
    ) -> bytes::Bytes {
        let plan = &self.plan;
        rows.resize_with(1, Vec::new);
        let fields = &mut rows[0];
        let tags = device.tags();
        encoder.readings(seq, plan.batch);
        for index in 0..plan.batch {
            plan.fields(device.index, tick, seq, index, fields);
            let time = plan.time(device.index, tick, index);
            encoder.reading(None, Some(time), &tags, fields);
        }
        bytes::Bytes::copy_from_slice(encoder.finish())
    }

    fn encode_columns(
        &self,
        Scratch { encoder, rows }: &mut Scratch,
        device: &Sender,
        tick: u32,
        seq: u64,
    ) -> bytes::Bytes {
        let plan = &self.plan;
        rows.resize_with(plan.batch as usize, Vec::new);
        let mut names: Vec<&'static str> = Vec::new();
        let mut times = Vec::with_capacity(rows.len());
        for (index, fields) in (0..).zip(rows.iter_mut()) {
            plan.fields(device.index, tick, seq, index, fields);
            times.push(plan.time(device.index, tick, index));
            for (name, _) in fields.iter() {
                if !names.contains(name) {
                    names.push(name);
                }
            }
        }
        let count = u32::try_from(names.len()).expect("a profile has few fields");
        let times = ColumnTimes::Each(&times);
        encoder.columns(seq, None, &device.tags(), times, count);
        for name in names {
            let value = |fields: &Vec<(&'static str, RawValue<'static>)>| {
                fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
            };
            encoder.column(name, rows.iter().map(value));
        }
        bytes::Bytes::copy_from_slice(encoder.finish())
    }
}

/// Buffers of a thread, reused from batch to batch and from device to device.
#[derive(Default)]
struct Scratch {
    encoder: BatchEncoder,
    rows: Vec<crate::profile::Fields>,
}

/// Who a batch comes from.
#[derive(Debug)]
pub(super) struct Sender {
    /// Index of the device.
    pub(super) index: u32,
    /// Its tags.
    pub(super) tags: Vec<(&'static str, String)>,
}

impl Sender {
    fn tags(&self) -> Vec<(&str, &str)> {
        self.tags.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }
}
