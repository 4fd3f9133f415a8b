//! What a plan's devices take, as a store may have it, without a gateway between.

use device_sim::journal::{self, Journal, Ledger};
use device_sim::plan::Plan;
use device_sim::profile::Fields;
use proto::RawValue;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

/// One reading as a store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub device: String,
    pub measurement: String,
    pub tags: BTreeMap<String, String>,
    pub time_ns: i64,
    pub fields: BTreeMap<String, Value>,
}

/// The readings of the first `batches` batches of every device, each sorted by time.
pub fn readings(plan: &Plan, batches: u64) -> Vec<Reading> {
    let mut readings = Vec::new();
    for device in 0..plan.devices {
        for seq in plan.start_seq..plan.start_seq + batches {
            for index in 0..plan.kind_of(device).batch {
                let tick = u32::try_from(seq - plan.start_seq).unwrap();
                let mut fields = Fields::new();
                plan.fields(device, tick, seq, index, &mut fields);
                let profile = &plan.kind_of(device).profile;
                let tags = profile.tags(plan.seed, device);
                readings.push(Reading {
                    device: plan.device_id(device),
                    measurement: profile.measurement().to_owned(),
                    tags: tags.into_iter().map(|(tag, value)| (tag.to_owned(), value)).collect(),
                    time_ns: plan.time_ns(device, tick, index),
                    fields: fields
                        .iter()
                        .map(|(n, value)| ((*n).to_owned(), held(value)))
                        .collect(),
                });
            }
        }
    }
    readings
}

/// As the gateway keeps it.
fn held(value: &RawValue<'_>) -> Value {
    match *value {
        RawValue::Float(x) => Value::Float(x),
        RawValue::Int(n) => Value::Float(n as f64),
        RawValue::Bool(b) => Value::Bool(b),
        RawValue::Str(text) => Value::Text(text.to_owned()),
        RawValue::UInt(_) => panic!("no value is that large"),
    }
}

/// The journal of a run in which every device had `batches` batches acknowledged.
pub fn journal(folder: &Path, plan: &Plan, batches: u64) -> Journal {
    let path = folder.join("run.journal");
    let last = plan.start_seq - 1 + batches;
    let ledger = |device| Ledger { acked: last, sent: last, ..Ledger::new(plan, device) };
    journal::write(&path, plan, (0..plan.devices).map(ledger), true).unwrap();
    Journal::open(&path).unwrap()
}

impl Reading {
    /// In line protocol; the names and tags of these tests need no escaping but for spaces.
    pub fn line(&self, strings: bool) -> String {
        let mut line = format!("{},device={}", self.measurement, self.device);
        for (tag, value) in &self.tags {
            let _ = write!(line, ",{tag}={}", value.replace(' ', "\\ "));
        }
        let mut separator = ' ';
        for (field, value) in &self.fields {
            let value = match value {
                Value::Float(x) => format!("{x}"),
                Value::Int(n) => format!("{n}i"),
                Value::Bool(b) => format!("{b}"),
                Value::Text(_) if !strings => continue,
                Value::Text(text) => format!("\"{text}\""),
            };
            let _ = write!(line, "{separator}{field}={value}");
            separator = ',';
        }
        let _ = writeln!(line, " {}", self.time_ns);
        line
    }
}
