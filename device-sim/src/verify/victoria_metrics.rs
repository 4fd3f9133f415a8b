//! VictoriaMetrics, through its export.
//!
//! Holds numbers of about 12 significant digits and times in milliseconds: a boolean is a 1 or a 0,
//! a string cannot be held. What profiles measure has fewer digits, and is compared to the last bit.
//! Measurement and field are joined into the name of a metric, tags are labels.
//!
//! It keeps the samples of one millisecond apart, or as one, as it is told at its start
//! (`-dedup.minScrapeInterval`). So doubles count where they show, and where none show nothing is
//! said.

use super::http::{Client, Endpoint};
use super::influxdb::regular;
use super::pace::Pace;
use super::realm::{self, OneRealm};
use super::slices::{MAX_VALUES, Slice, Slicer, Value};
use super::store::{Fidelity, Row, Store};
use crate::plan::Plan;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Nanoseconds in what its times count.
const MS: i64 = 1_000_000;
/// Metrics of the gateway's own begin with this.
const GATEWAYS_OWN: &str = "gateway_";
/// Labels that are no tags of a device: those that the gateway adds, and the database of the
/// request, which VictoriaMetrics adds.
const OTHER_LABELS: [&str; 4] = ["__name__", "device", "realm", "db"];
/// Samples in a line of an answer.
const LINE_SAMPLES: usize = 10_000;
/// With more devices than this they are asked for in parts: the server limits the number of series
/// that a question may touch.
const MANY_DEVICES: u32 = 10_000;

/// A VictoriaMetrics that is asked.
#[derive(Debug)]
pub struct VictoriaMetrics {
    client: Client,
    /// Whose devices the run is of; absent: their only realm.
    realm: Option<String>,
    /// Measurements of the run, longest first: one may begin like another.
    measurements: Vec<String>,
    many: bool,
    slicer: Slicer,
    pace: Pace,
}

#[derive(Debug, Deserialize)]
struct Line {
    metric: BTreeMap<String, String>,
    values: Vec<Json>,
    timestamps: Vec<i64>,
}

#[derive(Debug, Deserialize)]
struct Names {
    data: Vec<String>,
}

impl VictoriaMetrics {
    /// A store that holds a run.
    ///
    /// # Errors
    /// The endpoint is none, or a file that it names cannot be read.
    pub fn open(endpoint: &Endpoint, plan: &Plan) -> Result<Self> {
        let mut measurements: Vec<_> = plan.measurements().into_iter().map(str::to_owned).collect();
        measurements.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        measurements.dedup();
        Ok(Self {
            client: Client::new(endpoint, "Bearer")?,
            realm: None,
            measurements,
            many: plan.devices > MANY_DEVICES,
            slicer: Slicer::new(MS),
            pace: Pace::default(),
        })
    }

    /// Only devices of this realm are looked at.
    #[must_use]
    pub fn of_realm(self, realm: Option<String>) -> Self {
        Self { realm, ..self }
    }
}

impl Store for VictoriaMetrics {
    fn kind(&self) -> &'static str {
        "victoriametrics"
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity { time_ns: MS, types: false, strings: false }
    }

    fn progress(&mut self) -> Result<u64> {
        Ok(self.pace.progress())
    }

    fn begin(&mut self, from_ns: i64, to_ns: i64) -> Result<()> {
        self.pace.begin();
        self.slicer.begin(from_ns, to_ns);
        Ok(())
    }

    fn rows(&mut self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        let Self { client, realm, measurements, slicer, .. } = self;
        let mut one = OneRealm::new(device, realm.as_deref());
        // A label that is asked to be empty is one that is not there.
        let of_realm =
            realm.as_deref().map(|realm| format!(",realm={}", quoted(realm::tag(realm))));
        let device = format!("{{device={}{}}}", quoted(device), of_realm.unwrap_or_default());
        let line_samples = LINE_SAMPLES.to_string();
        slicer.walk(
            |from_ns, to_ns, slice| {
                let (start, end) = (seconds(from_ns), seconds(to_ns));
                let query = [
                    ("match[]", device.as_str()),
                    ("start", &start),
                    ("end", &end),
                    ("max_rows_per_line", &line_samples),
                ];
                // What is wrong with an answer is no failure to answer.
                let mut taken = Ok(());
                client.lines("/api/v1/export", &query, |line| {
                    taken = take(line, measurements, slice, &mut one);
                    let enough = taken.is_err() || slice.len() > MAX_VALUES;
                    Ok(if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                })?;
                taken?;
                Ok(slice.len() <= MAX_VALUES)
            },
            each,
        )
    }

    fn devices(&mut self, prefix: &str) -> Result<Vec<String>> {
        let (from_ns, to_ns) = self.slicer.times();
        let (start, end) = (seconds(from_ns), seconds(to_ns));
        let prefix_pattern = regular(prefix);
        let label = |sign: &str, tail: &str| {
            format!("device{sign}{}", quoted(&format!("{prefix_pattern}{tail}")))
        };
        let mut questions = Vec::new();
        if self.many {
            questions.push(format!("{{{},{}}}", label("=~", ".*"), label("!~", ".*[0-9][0-9]")));
            questions
                .extend((0..100).map(|n| format!("{{{}}}", label("=~", &format!(".*{n:02}")))));
        } else {
            questions.push(format!("{{{}}}", label("=~", ".*")));
        }
        let mut devices = BTreeSet::new();
        for question in &questions {
            let query = [("match[]", question.as_str()), ("start", &start), ("end", &end)];
            let answer = self.client.get("/api/v1/label/device/values", &query)?;
            let answer: Names = serde_json::from_slice(&answer)
                .with_context(|| format!("the answer of {:?} to {question:?}", self.client))?;
            devices.extend(answer.data);
        }
        Ok(devices.into_iter().filter(|device| device.starts_with(prefix)).collect())
    }

    /// Rows show it or nothing does.
    fn doubled(&mut self, _readings: u64, _rows: u64) -> Result<Option<u64>> {
        Ok(None)
    }
}

fn take(
    line: &[u8],
    measurements: &[String],
    slice: &mut Slice,
    one: &mut OneRealm<'_>,
) -> Result<()> {
    let unreadable = || {
        let begin = String::from_utf8_lossy(&line[..line.len().min(200)]);
        format!("cannot read the line {begin:?}")
    };
    let mut line: Line = serde_json::from_slice(line).with_context(unreadable)?;
    ensure!(
        line.values.len() == line.timestamps.len(),
        "as many values as times: {}",
        unreadable()
    );
    let metric = line.metric.remove("__name__").unwrap_or_default();
    if metric.starts_with(GATEWAYS_OWN) {
        return Ok(());
    }
    one.sees(line.metric.get("realm").map_or("", String::as_str))?;
    line.metric.retain(|label, _| !OTHER_LABELS.contains(&label.as_str()));
    let tags = serde_json::to_string(&line.metric)?;
    let apart = measurements.iter().find_map(|measurement| {
        Some((measurement, metric.strip_prefix(measurement.as_str())?.strip_prefix('_')?))
    });
    let name = match apart {
        Some((measurement, field)) => slice.name(measurement, &tags, field),
        // Of no measurement of the run: where it ends and the field begins nobody can tell.
        None => slice.name(&metric, &tags, ""),
    };
    for (time_ms, value) in line.timestamps.into_iter().zip(line.values) {
        let value = match value {
            Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
            // Not a number, or infinite.
            other => Value::Text(other.to_string().into()),
        };
        slice.push(time_ms.saturating_mul(MS), name, value);
    }
    Ok(())
}

/// A time in seconds, to the millisecond.
fn seconds(time_ns: i64) -> String {
    let ms = time_ns.div_euclid(MS);
    format!("{}.{:03}", ms.div_euclid(1_000), ms.rem_euclid(1_000))
}

/// A string in MetricsQL.
fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}
