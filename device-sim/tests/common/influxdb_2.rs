//! What InfluxDB 2 answers to the questions in Flux that the oracle asks: annotated CSV.

use super::readings::{Reading, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

/// The answer to a question.
pub fn answer(readings: &[Reading], question: &str) -> String {
    assert!(question.starts_with("from(bucket: \"fleet\") |> range("), "{question}");
    let number = |after: &str| -> i64 {
        let rest = question.split(after).nth(1).unwrap_or_else(|| panic!("{after}: {question}"));
        rest.split(')').next().unwrap().parse().unwrap()
    };
    let times = number("start: time(v: ")..number("stop: time(v: ");
    let within = readings.iter().filter(|r| times.contains(&r.time_ns));
    let within = within.filter(|r| !r.measurement.starts_with("gateway_"));
    if question.contains("distinct(column: \"device\")") {
        let devices: BTreeSet<&str> = within.map(|r| r.device.as_str()).collect();
        let mut out = head("_value", &["string"], &["_value"]);
        devices.iter().for_each(|device| out += &format!(",,0,{}\r\n", quoted(device)));
        return out + "\r\n";
    }
    let device = question.split("r[\"device\"] == \"").nth(1).unwrap().split('"').next().unwrap();
    let limit = usize::try_from(number("limit(n: ")).unwrap();
    // A table for each series and field; one point for each time, the newer in place of the older.
    type Key<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a str);
    let mut tables: BTreeMap<Key<'_>, BTreeMap<i64, &Value>> = BTreeMap::new();
    let asked = question.split("r[\"realm\"] == \"").nth(1).and_then(|rest| rest.split('"').next());
    let without = question.contains("not exists r[\"realm\"]");
    let of_realm = |r: &&Reading| match (r.tags.get("realm"), asked) {
        (Some(of), Some(asked)) => of == asked,
        (None, Some(_)) => false,
        (of, None) => of.is_none() || !without,
    };
    for reading in within.filter(|r| r.device == device).filter(of_realm) {
        let mut tags: Vec<_> =
            reading.tags.iter().map(|(name, of)| (name.as_str(), of.as_str())).collect();
        tags.push(("device", device));
        tags.sort_unstable();
        for (field, value) in &reading.fields {
            let kind = match value {
                Value::Float(_) => "double",
                Value::Int(_) => "long",
                Value::Bool(_) => "boolean",
                Value::Text(_) => "string",
            };
            let key = (kind, reading.measurement.as_str(), tags.clone(), field.as_str());
            tables.entry(key).or_default().insert(reading.time_ns, value);
        }
    }
    let mut out = String::new();
    let mut before = None;
    for (number, ((kind, measurement, tags, field), points)) in tables.into_iter().enumerate() {
        let names: Vec<&str> = tags.iter().map(|tag| tag.0).collect();
        // Tables of the same columns follow each other under one head.
        if before.as_ref() != Some(&(kind, names.clone())) {
            let mut columns = vec!["_time", "_value", "_field", "_measurement"];
            columns.extend(&names);
            let mut kinds = vec!["dateTime:RFC3339", kind];
            kinds.resize(columns.len(), "string");
            if before.is_some() {
                out += "\r\n";
            }
            out += &head("_result", &kinds, &columns);
            before = Some((kind, names));
        }
        for (time_ns, value) in points.into_iter().take(limit) {
            let value = match value {
                Value::Float(x) => x.to_string(),
                Value::Int(n) => n.to_string(),
                Value::Bool(b) => b.to_string(),
                Value::Text(text) => quoted(text),
            };
            let since = Duration::from_nanos(u64::try_from(time_ns).unwrap());
            let time = humantime::format_rfc3339_nanos(UNIX_EPOCH + since);
            out += &format!(",,{number},{time},{value},{},{}", quoted(field), quoted(measurement));
            tags.iter().for_each(|(_, of)| out += &format!(",{}", quoted(of)));
            out += "\r\n";
        }
    }
    out + "\r\n"
}

fn head(result: &str, kinds: &[&str], columns: &[&str]) -> String {
    let group = vec!["true"; columns.len()].join(",");
    let commas = ",".repeat(columns.len());
    format!(
        "#datatype,string,long,{}\r\n#group,false,false,{group}\r\n#default,{result},{commas}\r\n\
         ,result,table,{}\r\n",
        kinds.join(","),
        columns.join(",")
    )
}

fn quoted(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
