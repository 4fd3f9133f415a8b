//! The plan as journals of format 1 have it: one profile for the whole fleet, no faults.

use super::{Kind, Plan};
use crate::profile::Profile;
use serde::Deserialize;

/// A plan of format 1; read, never written.
#[derive(Debug, Deserialize)]
pub struct PlanVersion1 {
    run: u64,
    seed: u64,
    prefix: String,
    profile: Profile,
    devices: u32,
    stream: Option<u64>,
    start_seq: u64,
    base_ns: i64,
    interval_ns: u64,
    batch: u32,
    ramp_ns: u64,
    duration_ns: u64,
}

impl From<PlanVersion1> for Plan {
    fn from(old: PlanVersion1) -> Self {
        let kind = Kind { interval_ns: old.interval_ns, batch: old.batch, ..Kind::of(old.profile) };
        Self {
            run: old.run,
            seed: old.seed,
            prefix: old.prefix,
            kinds: vec![kind],
            devices: old.devices,
            stream: old.stream,
            start_seq: old.start_seq,
            base_ns: old.base_ns,
            ramp_ns: old.ramp_ns,
            duration_ns: old.duration_ns,
            load: vec![],
            faults: vec![],
            expect: vec![],
            shard: None,
            closed_loop: None,
            replay: None,
        }
    }
}
