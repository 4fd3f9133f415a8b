//! The golden vectors, both ways, and what PROTOCOL.md says beside them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{bytes, device_meaning, file, vectors};
use proto::{
    BatchEncoder, ErrorCode, GatewayMessage, Hello, Limits, RawValue,
    encode::{ColumnTimes, encode_hello},
};
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

#[test]
fn every_vector_means_what_it_says() {
    let vectors = vectors();
    assert!(vectors.len() >= 150, "{}", vectors.len());
    let names: BTreeSet<_> =
        vectors.iter().map(|vector| vector["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), vectors.len(), "names are unique");
    for vector in &vectors {
        let bytes = bytes(vector);
        let result = match vector["from"].as_str().unwrap() {
            "device" => device_meaning(&bytes),
            "gateway" => GatewayMessage::decode(&bytes).map(|message| json!(message)),
            other => panic!("from {other}"),
        };
        match (result, vector.get("meaning"), vector.get("error")) {
            (Ok(got), Some(meaning), None) => assert_eq!(&got, meaning, "{}", vector["name"]),
            (Err(error), None, Some(code)) => {
                assert_eq!(error.code.as_str(), code.as_str().unwrap(), "{vector}: {error}");
            }
            (got, ..) => panic!("{}: {got:?}", vector["name"]),
        }
    }
}

#[test]
fn canonical_vectors_are_what_is_sent() {
    let mut checked = 0;
    for vector in vectors().iter().filter(|vector| vector["canonical"] == json!(true)) {
        let meaning = &vector["meaning"];
        let mut sent = Vec::new();
        if vector["from"] == "gateway" {
            let message: GatewayMessage = serde_json::from_value(meaning.clone()).unwrap();
            message.encode(&mut sent);
        } else if let Some(hello) = meaning.get("hello") {
            let hello: Hello = serde_json::from_value(hello.clone()).unwrap();
            encode_hello(&hello, &mut sent);
        } else {
            sent = encode_batch(&meaning["batch"], vector.get("columns"));
        }
        assert_eq!(sent, bytes(vector), "{}", vector["name"]);
        checked += 1;
    }
    assert!(checked >= 25, "{checked}");
}

fn encode_batch(batch: &Json, columns: Option<&Json>) -> Vec<u8> {
    let seq = batch["seq"].as_u64().unwrap();
    let readings = batch["readings"].as_array().unwrap();
    let mut encoder = BatchEncoder::new();
    if let Some(columns) = columns {
        encode_columns(&mut encoder, seq, readings, columns);
        return encoder.finish().to_vec();
    }
    encoder.readings(seq, readings.len() as u32);
    for reading in readings {
        let fields = reading["fields"].as_array().unwrap();
        let fields: Vec<_> =
            fields.iter().map(|field| (field[0].as_str().unwrap(), value(&field[1]))).collect();
        encoder.reading(reading["measurement"].as_str(), units(reading), &tags(reading), &fields);
    }
    encoder.finish().to_vec()
}

fn encode_columns(encoder: &mut BatchEncoder, seq: u64, readings: &[Json], columns: &Json) {
    let first = &readings[0];
    let each: Vec<i64> = readings.iter().filter_map(units).collect();
    let times = match columns["time"].as_str().unwrap() {
        "absent" => ColumnTimes::Absent,
        "each" => ColumnTimes::Each(&each),
        "steps" => ColumnTimes::Steps { start: each[0], step: each[1] - each[0] },
        other => panic!("{other}"),
    };
    let mut names: Vec<&str> = Vec::new();
    for field in readings.iter().flat_map(|reading| reading["fields"].as_array().unwrap()) {
        let name = field[0].as_str().unwrap();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    assert_eq!(names.len() as u64, columns["fields"].as_u64().unwrap());
    let measurement = first["measurement"].as_str();
    encoder.columns(seq, measurement, &tags(first), times, names.len() as u32);
    for name in names {
        let column: Vec<_> = readings
            .iter()
            .map(|reading| {
                let fields = reading["fields"].as_array().unwrap();
                fields.iter().find(|field| field[0] == name).map(|field| value(&field[1]))
            })
            .collect();
        encoder.column(name, column);
    }
}

fn units(reading: &Json) -> Option<i64> {
    reading.get("time").map(|time| time["units"].as_i64().unwrap())
}

fn tags(reading: &Json) -> Vec<(&str, &str)> {
    let tags = reading.get("tags").and_then(Json::as_array);
    tags.into_iter()
        .flatten()
        .map(|tag| (tag[0].as_str().unwrap(), tag[1].as_str().unwrap()))
        .collect()
}

fn value(json: &Json) -> RawValue<'_> {
    let (kind, value) = json.as_object().unwrap().iter().next().unwrap();
    match (kind.as_str(), value) {
        ("float", Json::String(text)) => RawValue::Float(text.parse().unwrap()),
        ("float", number) => RawValue::Float(number.as_f64().unwrap()),
        ("int", number) => RawValue::Int(number.as_i64().unwrap()),
        ("uint", text) => RawValue::UInt(text.as_str().unwrap().parse().unwrap()),
        ("bool", bool) => RawValue::Bool(bool.as_bool().unwrap()),
        ("str", text) => RawValue::Str(text.as_str().unwrap()),
        _ => panic!("{json}"),
    }
}

#[test]
fn protocol_page_names_every_error_code_and_no_other() {
    let page = file("PROTOCOL.md");
    let table = page.split("## Error codes").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut named = Vec::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "code, meaning, what the device does: {line}");
        named.push(cells[0].trim_matches('`').to_owned());
    }
    let codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(named, codes, "the table has every code once, in the order of the numbers");
}

#[test]
fn protocol_page_states_the_limits_in_force() {
    let page = file("PROTOCOL.md");
    let Limits { message_bytes, readings, fields, tags, depth } = Limits::default();
    for (what, limit) in [
        ("message_bytes", message_bytes),
        ("readings", readings),
        ("fields", fields),
        ("tags", tags),
        ("depth", depth),
    ] {
        let row = format!("| `{what}` | {limit} |");
        assert!(page.contains(&row), "no row {row}");
    }
}

#[test]
fn worked_example_of_the_protocol_page_is_a_vector() {
    let page = file("PROTOCOL.md");
    let example = page.split("## A worked example").nth(1).unwrap();
    let mut blocks = example.split("```").skip(1).step_by(2);
    for name in ["a hello that names a measurement", "the worked example of PROTOCOL.md", "ack"] {
        let block = blocks.next().unwrap();
        // Each line: the bytes, two spaces at least, what they are.
        let hex: String = block
            .lines()
            .skip(1)
            .flat_map(|line| line.split("  ").next().unwrap().split(' '))
            .collect();
        let vectors = vectors();
        let vector = vectors.iter().find(|vector| vector["name"] == name).unwrap();
        assert_eq!(hex, vector["hex"].as_str().unwrap(), "{name}");
    }
}
