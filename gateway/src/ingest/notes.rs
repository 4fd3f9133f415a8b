//! What is noted of a device for operators, while it is heard.

use super::{Checked, Outcome, show_readings};
use crate::state::{Device, Devices, Refused};
use std::sync::Arc;

/// Refused readings of a batch that are kept to be shown.
const MAX_SHOWN: usize = 4;
/// Refusals of a device are looked at again after so many milliseconds: a device whose readings
/// are all bad must not cost more than another.
const SHOW_AGAIN_MS: i64 = 1_000;

/// The notes of one connection, or of one subscription.
#[derive(Debug)]
pub struct Notes {
    device: Arc<Device>,
    /// The last sequence number of the stream that is known to be logged.
    logged_seq: Option<u64>,
}

impl Notes {
    /// Of this device, which was let in.
    pub fn new(device: Arc<Device>) -> Self {
        Self { device, logged_seq: None }
    }

    /// A batch was checked.
    pub fn sent(&self, devices: &Devices, now_ms: i64, checked: &Checked) {
        let newest_ms = checked.newest_ns.map(|ns| ns / 1_000_000);
        self.device.sent(now_ms, checked.accepted, checked.refused.len(), newest_ms);
        let is_good = checked.refused.is_empty() && checked.refused_whole.is_none();
        if is_good || self.device.last_refusal_ms().is_some_and(|at| now_ms - at < SHOW_AGAIN_MS) {
            return;
        }
        devices.keep_refusals(&self.device, refusals(now_ms, checked));
    }

    /// The committer has answered.
    pub fn outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Opened { logged_seq, .. } => self.logged_seq = *logged_seq,
            Outcome::Logged { seq, .. } => {
                // A stream that nobody has seen begins where the device says.
                let gap = self.logged_seq.map_or(0, |last| seq.saturating_sub(last + 1));
                self.device.logged(*seq, gap);
                self.logged_seq = Some(*seq);
            }
            _ => {}
        }
    }

    /// A batch without an order was logged.
    pub fn logged(&self, seq: u64) {
        self.device.logged(seq, 0);
    }

    /// A batch was acknowledged after so many microseconds.
    pub fn acked(&self, waited_us: u64) {
        self.device.acked(waited_us);
    }

    /// The connection has ended, or the device is not kept any more.
    pub fn left(&self, now_ms: i64) {
        self.device.left(now_ms);
    }
}

fn refusals(now_ms: i64, checked: &Checked) -> Vec<Refused> {
    if let Some((code, detail)) = &checked.refused_whole {
        return vec![Refused {
            at_ms: now_ms,
            seq: checked.seq,
            index: None,
            code: *code,
            field: None,
            detail: Some(detail.clone()),
            reading: None,
        }];
    }
    let shown = &checked.details[..checked.details.len().min(MAX_SHOWN)];
    let indices: Vec<u32> = shown.iter().map(|refused| refused.index).collect();
    let readings = show_readings(&checked.payload, &indices);
    let refused = shown.iter().zip(readings).map(|(refused, reading)| Refused {
        at_ms: now_ms,
        seq: checked.seq,
        index: Some(refused.index),
        code: refused.code,
        field: refused.field.clone(),
        detail: refused.detail.clone(),
        reading,
    });
    refused.collect()
}
