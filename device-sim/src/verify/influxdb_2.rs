//! InfluxDB 2, in Flux, through `influxdb2`.
//!
//! Holds floats, integers, booleans and strings as they are, and times to the nanosecond; each
//! answer says what type its values have, so nothing has to be asked about fields before. A point
//! written again takes the place of the first, so it cannot show that.
//!
//! `influxdb2` takes an answer as a whole and gives up by a panic over a value that is not of its
//! type: answers are bounded by what is asked for, and such a panic is an error about the answer.

use super::http::{Client, Endpoint};
use super::influxdb::{GATEWAYS_OWN, GATEWAYS_TAGS, InfluxDb, regular};
use super::pace::Pace;
use super::realm::{self, OneRealm};
use super::slices::{MAX_VALUES, Slice, Slicer, Value};
use super::store::{Fidelity, Row, Store};
use crate::plan::Plan;
use anyhow::{Context, Result, anyhow, bail};
use fallible_iterator::FallibleIterator;
use influxdb2::api::query::FluxRecord;
use influxdb2::{RequestError, models::Query};
use influxdb2_structmap::value::Value as Cell;
use std::collections::{BTreeMap, HashMap, hash_map::Entry};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most points of a series in an answer.
const MAX_POINTS: usize = 2_000;
/// Columns of an answer that are no tags.
const NO_TAGS: [&str; 6] = ["result", "table", "_time", "_value", "_field", "_measurement"];

/// An InfluxDB of the version that it says it is: 2 is asked in Flux, 1 and 3 in InfluxQL. One
/// that does not say it, stands below a path or wants a user is asked in InfluxQL.
///
/// # Errors
/// It does not answer, or something that it needs is not given.
pub fn influx(
    endpoint: &Endpoint,
    bucket: &str,
    org: Option<&str>,
    plan: &Plan,
    realm: Option<&str>,
) -> Result<Box<dyn Store>> {
    let realm = realm.map(str::to_owned);
    let in_influxql = || -> Result<Box<dyn Store>> {
        let store = InfluxDb::open(endpoint, bucket, org, plan)?;
        Ok(Box::new(store.of_realm(realm.clone())))
    };
    let mut client = Client::new(endpoint, "Token")?;
    if client.is_below_a_path() || endpoint.credential.is_user() {
        return in_influxql();
    }
    let health = client.influxdb_2("", async |api| match api.health().await {
        Ok(health) => Ok(health.version),
        // Version 1.6 has no such page, version 3 writes "OK" on it.
        Err(RequestError::Http { .. }) => Ok(None),
        Err(RequestError::ReqwestProcessing { source }) if source.is_decode() => Ok(None),
        Err(error) => Err(error.into()),
    });
    match health?.as_deref().map(|version| version.trim_start_matches('v')) {
        Some(version) if version.starts_with("2.") => match org {
            Some(org) => Ok(Box::new(InfluxDb2::open(endpoint, bucket, org)?.of_realm(realm))),
            None => bail!("this is InfluxDB {version}: name the organisation with --org"),
        },
        _ => in_influxql(),
    }
}

/// An InfluxDB 2 that is asked.
#[derive(Debug)]
pub struct InfluxDb2 {
    client: Client,
    /// As a string of Flux.
    bucket: String,
    org: String,
    /// Whose devices the run is of; absent: their only realm.
    realm: Option<String>,
    slicer: Slicer,
    pace: Pace,
}

impl InfluxDb2 {
    /// A store that holds a run.
    ///
    /// # Errors
    /// The endpoint is none, or a file that it names cannot be read.
    pub fn open(endpoint: &Endpoint, bucket: &str, org: &str) -> Result<Self> {
        Ok(Self {
            client: Client::new(endpoint, "Token")?,
            bucket: string(bucket),
            org: org.to_owned(),
            realm: None,
            slicer: Slicer::new(1),
            pace: Pace::default(),
        })
    }

    /// Only devices of this realm are looked at.
    #[must_use]
    pub fn of_realm(self, realm: Option<String>) -> Self {
        Self { realm, ..self }
    }
}

impl Store for InfluxDb2 {
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
        Ok(())
    }

    fn rows(&mut self, device: &str, each: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        let Self { client, bucket, org, realm, slicer, .. } = self;
        let mut one = OneRealm::new(device, realm.as_deref());
        let of_realm = match realm.as_deref().map(realm::tag) {
            None => String::new(),
            Some("") => " and not exists r[\"realm\"]".to_owned(),
            Some(tag) => format!(" and r[\"realm\"] == {}", string(tag)),
        };
        let device = string(device);
        slicer.walk(
            |from_ns, to_ns, slice| {
                let question = format!(
                    "{} |> filter(fn: (r) => r[\"device\"] == {device}{of_realm} and \
                     r[\"_measurement\"] !~ /^{GATEWAYS_OWN}/) |> limit(n: {}) \
                     |> drop(columns: [\"_start\", \"_stop\"])",
                    points(bucket, from_ns, to_ns),
                    MAX_POINTS + 1
                );
                let mut tables = Tables::new();
                ask(client, org, question, &mut |record| {
                    one.sees(tag_of(&record, "realm"))?;
                    take(&record, &mut tables, slice)
                })?;
                let fits = tables.values().all(|&(_, points)| points <= MAX_POINTS);
                Ok(fits && slice.len() <= MAX_VALUES)
            },
            each,
        )
    }

    fn devices(&mut self, prefix: &str) -> Result<Vec<String>> {
        let (from_ns, to_ns) = self.slicer.times();
        let question = format!(
            "{} |> filter(fn: (r) => r[\"device\"] =~ /^{}/ and \
             r[\"_measurement\"] !~ /^{GATEWAYS_OWN}/) |> keep(columns: [\"device\"]) |> group() \
             |> distinct(column: \"device\")",
            points(&self.bucket, from_ns, to_ns),
            regular(prefix)
        );
        let mut devices = Vec::new();
        ask(&mut self.client, &self.org, question, &mut |record| {
            devices.push(text(&record, "_value")?.to_owned());
            Ok(())
        })?;
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

/// The points of these times, both inclusive.
fn points(bucket: &str, from_ns: i64, to_ns: i64) -> String {
    let after_ns = to_ns.saturating_add(1);
    format!("from(bucket: {bucket}) |> range(start: time(v: {from_ns}), stop: time(v: {after_ns}))")
}

fn ask(
    client: &mut Client,
    org: &str,
    question: String,
    each: &mut dyn FnMut(FluxRecord) -> Result<()>,
) -> Result<()> {
    let told = format!("the answer of {client:?} to {question:?}");
    let read = client.influxdb_2(org, async |api| {
        let answer = api.query_raw_iter(Some(Query::new(question))).await?;
        let records = || -> Result<()> {
            let mut records = answer.result();
            while let Some(record) = records.next()? {
                each(record)?;
            }
            Ok(())
        };
        catch_unwind(AssertUnwindSafe(records))
            .unwrap_or_else(|_| Err(anyhow!("a value is not of the type that it says")))
    });
    read.with_context(|| told)
}

/// By the number of a table in an answer, which holds one series of one field: the number of that
/// in the slice, and how many points it has.
type Tables = HashMap<i64, (usize, usize)>;

fn take(record: &FluxRecord, tables: &mut Tables, slice: &mut Slice) -> Result<()> {
    let Some(Cell::TimeRFC(time)) = record.values.get("_time") else {
        bail!("a point has no time")
    };
    let time_ns = time.timestamp_nanos_opt().context("a time is out of range")?;
    let value = match record.values.get("_value").context("a point has no value")? {
        Cell::Double(x) => Value::Float(x.0),
        Cell::Long(n) => Value::Int(*n),
        Cell::Bool(b) => Value::Bool(*b),
        Cell::String(text) => Value::Text(text.as_str().into()),
        // Nothing of ours: shown as what it certainly is not.
        other => Value::Text(format!("{other:?}").into()),
    };
    let Some(Cell::Long(table)) = record.values.get("table") else { bail!("a row has no table") };
    let known = match tables.entry(*table) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert((name(record, slice)?, 0)),
    };
    known.1 += 1;
    slice.push(time_ns, known.0, value);
    Ok(())
}

/// Enters the series and field of a record.
fn name(record: &FluxRecord, slice: &mut Slice) -> Result<usize> {
    let mut tags = BTreeMap::new();
    for (name, of) in &record.values {
        let is_ours = [&NO_TAGS[..], &GATEWAYS_TAGS[..]].concat().contains(&name.as_str());
        match of {
            Cell::String(of) if !is_ours && !of.is_empty() => {
                tags.insert(name, of);
            }
            _ => {}
        }
    }
    let tags = serde_json::to_string(&tags)?;
    Ok(slice.name(text(record, "_measurement")?, &tags, text(record, "_field")?))
}

/// A tag, empty if it is missing.
fn tag_of<'a>(record: &'a FluxRecord, name: &str) -> &'a str {
    match record.values.get(name) {
        Some(Cell::String(text)) => text,
        _ => "",
    }
}

fn text<'a>(record: &'a FluxRecord, column: &str) -> Result<&'a str> {
    match record.values.get(column) {
        Some(Cell::String(text)) => Ok(text),
        other => bail!("the column {column} is {other:?}"),
    }
}

/// A string in Flux.
fn string(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "\\${");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    #[test]
    fn texts_cannot_leave_their_quotes() {
        assert_eq!(super::string(r#"a"b\${c}$"#), r#""a\"b\\\${c}$""#);
    }
}
