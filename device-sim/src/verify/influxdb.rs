//! InfluxDB, through InfluxQL, which versions 1 and 3 answer (and version 2, which is asked in
//! Flux where it can be).
//!
//! Holds floats, integers, booleans and strings as they are, and times to the nanosecond. A point
//! written again takes the place of the first, so it cannot show that. A number in an answer does
//! not say whether it is a float or an integer: the types come from the field keys, and each column
//! is asked for with its type, since a field may have different ones at different times. Of a field
//! that has been both float and integer, either passes.

use super::http::{Client, Endpoint};
use super::pace::Pace;
use super::realm::{self, OneRealm};
use super::slices::{MAX_VALUES, Slice, Slicer, Value};
use super::store::{Fidelity, Row, Store};
use crate::plan::Plan;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// Measurements of the gateway's own begin with this.
pub(super) const GATEWAYS_OWN: &str = "gateway_";
/// Tags that the gateway adds.
pub(super) const GATEWAYS_TAGS: [&str; 2] = ["device", "realm"];
/// Most points in an answer.
const MAX_POINTS: usize = 10_000;
/// Most devices in an answer.
const MAX_DEVICES: usize = 50_000;

/// An InfluxDB that is asked.
#[derive(Debug)]
pub struct InfluxDb {
    client: Client,
    bucket: String,
    org: Option<String>,
    /// Whose devices the run is of; absent: their only realm.
    realm: Option<String>,
    /// Device ids of the run begin with this, as a regular expression.
    prefix: String,
    measurements: Vec<Measurement>,
    slicer: Slicer,
    pace: Pace,
}

/// What a measurement with devices of the run consists of.
#[derive(Debug)]
struct Measurement {
    name: String,
    fields: Vec<(String, Kind)>,
    tags: Vec<String>,
    /// Whether points of it have the tag of a realm.
    has_realm: bool,
    /// From SELECT to FROM.
    select: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Float,
    Integer,
    Unsigned,
    Boolean,
    String,
    /// Float at some times, integer at others: answers do not show which.
    Number,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Outcome>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Outcome {
    #[serde(default)]
    series: Vec<Series>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Series {
    columns: Vec<String>,
    #[serde(default)]
    values: Vec<Vec<Json>>,
    /// The server has cut it off.
    #[serde(default)]
    partial: bool,
}

impl InfluxDb {
    /// A store that holds a run; `bucket` is a database in version 1.
    ///
    /// # Errors
    /// The endpoint is none, or a file that it names cannot be read.
    pub fn open(endpoint: &Endpoint, bucket: &str, org: Option<&str>, plan: &Plan) -> Result<Self> {
        Ok(Self {
            client: Client::new(endpoint, "Token")?,
            bucket: bucket.to_owned(),
            org: org.map(str::to_owned),
            realm: None,
            prefix: regular(&plan.prefix),
            measurements: Vec::new(),
            slicer: Slicer::new(1),
            pace: Pace::default(),
        })
    }

    /// Only devices of this realm are looked at.
    #[must_use]
    pub fn of_realm(self, realm: Option<String>) -> Self {
        Self { realm, ..self }
    }

    fn ask(&mut self, question: &str) -> Result<Vec<Series>> {
        ask(&mut self.client, &self.bucket, self.org.as_deref(), question)
    }

    /// The keys of a measurement, each with what stands beside it.
    fn shown(&mut self, what: &str, measurement: &str) -> Result<Vec<Vec<String>>> {
        let mut rows = Vec::new();
        for series in self.ask(&format!("SHOW {what} KEYS FROM {}", name(measurement)))? {
            for row in series.values {
                rows.push(row.iter().map(text).collect::<Result<_>>()?);
            }
        }
        Ok(rows)
    }

    fn measurement(&mut self, measurement: String) -> Result<Measurement> {
        let mut kinds: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
        for row in self.shown("FIELD", &measurement)? {
            let [field, kind, ..] = row.as_slice() else { bail!("a field key without type") };
            kinds.entry(field.clone()).or_default().push(kind_of(kind)?);
        }
        let mut fields = Vec::new();
        for (field, mut kinds) in kinds {
            kinds.sort_unstable();
            if kinds.starts_with(&[Kind::Float, Kind::Integer]) {
                kinds.splice(..2, [Kind::Number]);
            }
            fields.extend(kinds.into_iter().map(|kind| (field.clone(), kind)));
        }
        let keys = self.shown("TAG", &measurement)?.into_iter();
        let mut tags: Vec<String> = keys.filter_map(|row| row.into_iter().next()).collect();
        let has_realm = tags.iter().any(|key| key == "realm");
        tags.retain(|key| !GATEWAYS_TAGS.contains(&key.as_str()));
        let mut select = "SELECT ".to_owned();
        for (field, kind) in &fields {
            let _ = write!(select, "{}::{},", name(field), kind.cast());
        }
        for tag in &tags {
            let _ = write!(select, "{}::tag,", name(tag));
        }
        if has_realm {
            select.push_str("\"realm\"::tag,");
        }
        select.pop();
        let _ = write!(select, " FROM {}", name(&measurement));
        Ok(Measurement { name: measurement, fields, tags, has_realm, select })
    }
}

impl Store for InfluxDb {
    fn kind(&self) -> &'static str {
        "influxdb"
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::FULL
    }

    fn progress(&mut self) -> Result<u64> {
        Ok(self.pace.progress())
    }

    fn begin(&mut self, from_ns: i64, to_ns: i64) -> Result<()> {
        self.pace.begin();
        self.slicer.begin(from_ns, to_ns);
        let question = format!("SHOW MEASUREMENTS WHERE \"device\" =~ /^{}/", self.prefix);
        let mut names = Vec::new();
        for series in self.ask(&question)? {
            for row in &series.values {
                names.push(text(row.last().context("a measurement without name")?)?);
            }
        }
        if names.is_empty() {
            // Of a database that does not exist, version 1 says it to this question only.
            self.ask("SHOW FIELD KEYS LIMIT 1")?;
        }
        self.measurements.clear();
        for name in names.into_iter().filter(|name| !name.starts_with(GATEWAYS_OWN)) {
            let measurement = self.measurement(name)?;
            self.measurements.push(measurement);
        }
        Ok(())
    }

    fn rows(&mut self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        let Self { client, bucket, org, realm, measurements, slicer, .. } = self;
        let mut one = OneRealm::new(device, realm.as_deref());
        let tag = realm.as_deref().map(realm::tag);
        let device = string(device);
        slicer.walk(
            |from_ns, to_ns, slice| {
                for measurement in measurements.iter().filter(|m| !m.fields.is_empty()) {
                    let Some(of_realm) = measurement.of_realm(tag) else { continue };
                    let question = format!(
                        "{} WHERE \"device\" = {device}{of_realm} AND time >= {from_ns} AND time <= {to_ns} \
                         LIMIT {}",
                        measurement.select,
                        MAX_POINTS + 1
                    );
                    for series in ask(client, bucket, org.as_deref(), &question)? {
                        if series.partial || series.values.len() > MAX_POINTS {
                            return Ok(false);
                        }
                        measurement.take(&series, slice, &mut one)?;
                    }
                    if slice.len() > MAX_VALUES {
                        return Ok(false);
                    }
                }
                Ok(true)
            },
            each,
        )
    }

    fn devices(&mut self, prefix: &str) -> Result<Vec<String>> {
        let (from_ns, to_ns) = self.slicer.times();
        let mut devices = Vec::new();
        for at in 0..self.measurements.len() {
            let from = name(&self.measurements[at].name);
            for page in 0.. {
                let question = format!(
                    "SHOW TAG VALUES FROM {from} WITH KEY = \"device\" \
                     WHERE \"device\" =~ /^{}/ AND time >= {from_ns} AND time <= {to_ns} \
                     LIMIT {MAX_DEVICES} OFFSET {}",
                    regular(prefix),
                    page * MAX_DEVICES
                );
                let before = devices.len();
                for series in self.ask(&question)? {
                    for row in &series.values {
                        devices.push(text(row.last().context("a tag without value")?)?);
                    }
                }
                if devices.len() - before < MAX_DEVICES {
                    break;
                }
            }
        }
        devices.retain(|device| device.starts_with(prefix));
        devices.sort_unstable();
        devices.dedup();
        Ok(devices)
    }

    /// The second writing of a point takes the place of the first.
    fn doubled(&mut self, _readings: u64, _rows: u64) -> Result<Option<u64>> {
        Ok(None)
    }
}

impl Measurement {
    /// The condition for points with this tag of a realm; `None` if it has none.
    fn of_realm(&self, tag: Option<&str>) -> Option<String> {
        match (tag, self.has_realm) {
            (None, _) | (Some(""), false) => Some(String::new()),
            (Some(tag), true) => Some(format!(" AND \"realm\" = {}", string(tag))),
            (Some(_), false) => None,
        }
    }

    fn take(&self, series: &Series, slice: &mut Slice, one: &mut OneRealm<'_>) -> Result<()> {
        let columns = 1 + self.fields.len() + self.tags.len() + usize::from(self.has_realm);
        ensure!(
            series.columns.len() == columns && series.columns[0] == "time",
            "{columns} columns were asked for, the answer has {:?}",
            series.columns
        );
        // Series number of the first field by tags; the other fields follow.
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut last: Option<(&[Json], usize)> = None;
        for row in &series.values {
            ensure!(row.len() == columns, "a row has {} columns", row.len());
            let time_ns = row[0].as_i64().context("a time is not in nanoseconds")?;
            let (fields, tags) = row[1..].split_at(self.fields.len());
            let (tags, realm) = tags.split_at(self.tags.len());
            one.sees(realm.first().and_then(Json::as_str).unwrap_or_default())?;
            let first = match last {
                Some((known, first)) if known == tags => first,
                _ => {
                    let text = self.tags_json(tags)?;
                    *seen.entry(text).or_insert_with_key(|tags| {
                        let first = slice.names();
                        for (field, _) in &self.fields {
                            slice.name(&self.name, tags, field);
                        }
                        first
                    })
                }
            };
            last = Some((tags, first));
            for (at, (value, (_, kind))) in fields.iter().zip(&self.fields).enumerate() {
                if let Some(value) = kind.read(value)? {
                    slice.push(time_ns, first + at, value);
                }
            }
        }
        Ok(())
    }

    fn tags_json(&self, values: &[Json]) -> Result<String> {
        let mut tags = BTreeMap::new();
        for (tag, value) in self.tags.iter().zip(values) {
            match value {
                Json::Null => {}
                Json::String(value) if value.is_empty() => {}
                Json::String(value) => {
                    tags.insert(tag, value);
                }
                other => bail!("the tag {tag} is {other}"),
            }
        }
        Ok(serde_json::to_string(&tags)?)
    }
}

impl Kind {
    fn cast(self) -> &'static str {
        match self {
            Kind::Float | Kind::Number => "float",
            Kind::Integer => "integer",
            Kind::Unsigned => "unsigned",
            Kind::Boolean => "boolean",
            Kind::String => "string",
        }
    }

    fn read(self, json: &Json) -> Result<Option<Value>> {
        let value = match (self, json) {
            (_, Json::Null) => None,
            (Kind::Boolean, Json::Bool(b)) => Some(Value::Bool(*b)),
            (Kind::String, Json::String(text)) => Some(Value::Text(text.as_str().into())),
            (Kind::Float, Json::Number(number)) => number.as_f64().map(Value::Float),
            (Kind::Number, Json::Number(number)) => number.as_f64().map(Value::Number),
            (Kind::Integer, Json::Number(number)) => number.as_i64().map(Value::Int),
            // Nothing of ours: shown as what it certainly is not.
            (_, other) => Some(Value::Text(format!("{self:?} {other}").into())),
        };
        ensure!(value.is_some() || json.is_null(), "cannot read {json} as {self:?}");
        Ok(value)
    }
}

fn kind_of(text: &str) -> Result<Kind> {
    Ok(match text {
        "float" => Kind::Float,
        "integer" => Kind::Integer,
        "unsigned" => Kind::Unsigned,
        "boolean" => Kind::Boolean,
        "string" => Kind::String,
        other => bail!("the store has a field type {other:?}, which this device-sim does not know"),
    })
}

fn ask(
    client: &mut Client,
    bucket: &str,
    org: Option<&str>,
    question: &str,
) -> Result<Vec<Series>> {
    let mut query = vec![("db", bucket), ("epoch", "ns"), ("q", question)];
    query.extend(org.map(|org| ("org", org)));
    let answer = client.get("/query", &query)?;
    let unreadable = || format!("the answer of {client:?} to {question:?}");
    let answer: Answer = serde_json::from_slice(&answer).with_context(unreadable)?;
    let Some(outcome) = answer.results.into_iter().next() else {
        bail!("{}: {}", unreadable(), answer.error.as_deref().unwrap_or("it is empty"));
    };
    if let Some(error) = outcome.error.or(answer.error) {
        bail!("{}: {error}", unreadable());
    }
    Ok(outcome.series)
}

fn text(json: &Json) -> Result<String> {
    json.as_str().map(str::to_owned).with_context(|| format!("{json} is no text"))
}

/// A name in InfluxQL.
fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A string in InfluxQL.
fn string(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A regular expression that matches a text.
pub(super) fn regular(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if !c.is_alphanumeric() && !"_:@%=".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Most readers of JSON are off by a bit now and then.
    #[test]
    fn numbers_are_read_to_the_last_bit() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let x = f64::from_bits(random.u64(..));
            if !x.is_finite() {
                continue;
            }
            let json: Json = serde_json::from_str(&format!("{x:?}")).unwrap();
            let Some(Value::Float(read)) = Kind::Float.read(&json).unwrap() else { panic!("{x}") };
            assert_eq!(read.to_bits(), x.to_bits(), "{x:?}");
        }
    }

    #[test]
    fn texts_cannot_leave_their_quotes() {
        assert_eq!(string("it's \\"), "'it\\'s \\\\'");
        assert_eq!(name("a\"b\\"), "\"a\\\"b\\\\\"");
        assert_eq!(regular("sim-1.5/a_b"), "sim\\-1\\.5\\/a_b");
    }
}
