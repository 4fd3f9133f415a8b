//! What all devices of a run share.

use super::credentials::Credentials;
use super::link::Connector;
use super::tally::{Due, Tally, lock};
use crate::journal::Ledger;
use crate::plan::{Mode, Plan, Spoil};
use crate::profile::Fields;
use anyhow::Result;
use proto::BatchEncoder;
use proto::encode::ColumnTimes;
use serde_json::json;
use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The plan, the way to the gateway, and what is known so far.
pub(super) struct Fleet {
    /// What is sent.
    pub(super) plan: Plan,
    /// How devices connect.
    pub(super) connector: Connector,
    /// How they prove who they are.
    pub(super) credentials: Credentials,
    /// What is counted.
    pub(super) tally: Tally,
    /// What is known of each device that this process plays, in their order.
    pub(super) ledgers: Vec<Mutex<Ledger>>,
    /// Start of the schedule.
    pub(super) start: Instant,
    /// Ends the schedule early.
    pub(super) stop: CancellationToken,
    /// Ends the waiting for acks.
    pub(super) abort: CancellationToken,
}

impl Fleet {
    /// What is known of a device.
    pub(super) fn ledger(&self, device: u32) -> MutexGuard<'_, Ledger> {
        lock(&self.ledgers[self.plan.place_of(device)])
    }

    /// When a batch is due.
    pub(super) fn due(&self, device: u32, tick: u32) -> Instant {
        self.at(self.plan.due_ns(device, tick))
    }

    /// What the plan lets a device do at a moment.
    pub(super) fn due_at(&self, device: u32, moment: Instant) -> Due {
        let at_ns = self.elapsed_ns(moment);
        if at_ns < self.plan.ramp_ns {
            Due::InTheRamp
        } else if self.plan.is_kept_away(device, at_ns) {
            Due::Away
        } else {
            Due::Steadily
        }
    }

    /// So much time has passed since the start.
    pub(super) fn elapsed_ns(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The moment so long after the start.
    pub(super) fn at(&self, after_ns: u64) -> Instant {
        self.start + Duration::from_nanos(after_ns)
    }

    /// Writes a batch as a complete message.
    ///
    /// # Errors
    /// The capture that is played cannot be read any more.
    pub(super) fn encode(&self, device: &Sender, tick: u32, seq: u64) -> Result<bytes::Bytes> {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        if self.plan.spoils()
            && let Some(spoil) = self.plan.spoilt_batch(device.index, tick, seq)
        {
            return Ok(spoilt(spoil, seq));
        }
        if let Some(replay) = &self.plan.replay {
            return SCRATCH.with_borrow_mut(|Scratch { encoder, frame, .. }| {
                let which = (device.index, tick, seq);
                self.plan.encode_replayed(replay, (frame, encoder), which)?;
                Ok(bytes::Bytes::copy_from_slice(encoder.finish()))
            });
        }
        Ok(SCRATCH.with_borrow_mut(|scratch| match self.plan.kind_of(device.index).mode {
            Mode::Readings => self.encode_readings(scratch, device, tick, seq),
            Mode::Columns => self.encode_columns(scratch, device, tick, seq),
        }))
    }

    fn encode_readings(
        &self,
        Scratch { encoder, rows, .. }: &mut Scratch,
        device: &Sender,
        tick: u32,
        seq: u64,
    ) -> bytes::Bytes {
        let batch = self.plan.kind_of(device.index).batch;
        rows.resize_with(1, Vec::new);
        let fields = &mut rows[0];
        let tags = device.tags();
        encoder.readings(seq, batch);
        for index in 0..batch {
            let time = self.reading(device, tick, seq, index, fields);
            encoder.reading(None, Some(time), &tags, fields);
        }
        bytes::Bytes::copy_from_slice(encoder.finish())
    }

    /// The fields of a reading as they are sent, and its time.
    fn reading(
        &self,
        device: &Sender,
        tick: u32,
        seq: u64,
        index: u32,
        fields: &mut Fields,
    ) -> i64 {
        let plan = &self.plan;
        plan.fields(device.index, tick, seq, index, fields);
        let mut time = plan.time(device.index, tick, index);
        if plan.spoils() {
            plan.spoil_reading((device.index, tick, seq, index), &mut time, fields);
        }
        time
    }

    fn encode_columns(
        &self,
        Scratch { encoder, rows, times, .. }: &mut Scratch,
        device: &Sender,
        tick: u32,
        seq: u64,
    ) -> bytes::Bytes {
        rows.resize_with(self.plan.kind_of(device.index).batch as usize, Vec::new);
        times.clear();
        let mut names: Vec<&'static str> = Vec::new();
        for (index, fields) in (0..).zip(rows.iter_mut()) {
            times.push(self.reading(device, tick, seq, index, fields));
            for (name, _) in fields.iter() {
                if !names.contains(name) {
                    names.push(name);
                }
            }
        }
        let count = u32::try_from(names.len()).expect("a profile has few fields");
        encoder.columns(seq, None, &device.tags(), ColumnTimes::of(times), count);
        for name in names {
            let value = |fields: &Fields| {
                fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
            };
            encoder.column(name, rows.iter().map(value));
        }
        bytes::Bytes::copy_from_slice(encoder.finish())
    }
}

/// A batch that no gateway can take.
fn spoilt(spoil: Spoil, seq: u64) -> bytes::Bytes {
    let message = match spoil {
        Spoil::Empty => json!({ "batch": { "seq": seq, "readings": [] } }),
        Spoil::NoList => json!({ "batch": { "seq": seq, "readings": "none" } }),
        Spoil::Unequal => json!({ "batch": { "seq": seq, "columns": {
            "time": [1, 2], "fields": { "x": [0.5, 1.5], "y": [0.5] } } } }),
    };
    rmp_serde::to_vec(&message).expect("a message of texts and numbers").into()
}

/// Buffers of a thread, reused from batch to batch and from device to device.
#[derive(Default)]
struct Scratch {
    encoder: BatchEncoder,
    rows: Vec<Fields>,
    times: Vec<i64>,
    /// What is read from a capture.
    frame: Vec<u8>,
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
