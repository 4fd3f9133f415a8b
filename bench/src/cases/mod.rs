//! What is measured, case by case. Each makes one part of the report.

mod durability;
mod idle;
mod latency;
mod store;
mod throughput;

use crate::{servers::Place, table::Table};
use anyhow::Result;
use serde_json::{Map, Value};

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Case {
    /// 100 readings a message
    Batch100,
    /// One reading a message, one under way on each connection
    Single,
    /// One reading a message, a window under way
    Pipelined,
    /// Memory of devices that are connected and silent
    Idle,
    /// Acknowledgements at half of the load of `single`
    Latency,
    /// With and without a disk under the log
    DurabilityTax,
    /// The embedded store
    Store,
}

/// What all cases share.
#[derive(Debug)]
pub struct Bench {
    /// Where servers live.
    pub place: Place,
    /// Rounds of each case.
    pub rounds: u32,
    /// Measured in each round, in seconds.
    pub seconds: f64,
    /// Measures Node.js and Mosquitto too.
    pub peers: bool,
    /// Other numbers of idle connections.
    pub idle: Option<[u32; 2]>,
    /// The report, as far as it is.
    pub report: Map<String, Value>,
    /// What is shown at the end.
    pub table: Table,
}

impl Bench {
    /// Measures a case and adds it to the report.
    ///
    /// # Errors
    /// Something did not start, or counted short.
    pub fn run(&mut self, case: Case) -> Result<()> {
        match case {
            Case::Batch100 => throughput::run(self, &throughput::BATCH100),
            Case::Single => throughput::run(self, &throughput::SINGLE),
            Case::Pipelined => throughput::run(self, &throughput::PIPELINED),
            Case::Idle => idle::run(self),
            Case::Latency => latency::run(self),
            Case::DurabilityTax => durability::run(self),
            Case::Store => store::run(self),
        }
    }

    /// Warm-up of each measurement, in seconds.
    pub(crate) fn warm_s(&self) -> f64 {
        (self.seconds / 3.0).min(1.0)
    }
}
