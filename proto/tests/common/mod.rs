//! What a message means, as the JSON of the golden vectors.
#![allow(dead_code)]

use proto::{
    Batch, DeviceMessage, ErrorCode, Limits, RawReading, RawTime, RawValue, message::MessageError,
};
use serde_json::{Value as Json, json};
use std::path::Path;

/// The file of the crate with this path.
pub(crate) fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All golden vectors.
pub(crate) fn vectors() -> Vec<Json> {
    ["device", "gateway", "refused"]
        .iter()
        .flat_map(|name| {
            let text = file(&format!("vectors/{name}.json"));
            serde_json::from_str::<Vec<Json>>(&text).unwrap()
        })
        .collect()
}

/// The bytes of a vector.
pub(crate) fn bytes(vector: &Json) -> Vec<u8> {
    let hex = vector["hex"].as_str().unwrap();
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// Decodes a device's message to its end.
pub(crate) fn device_meaning(bytes: &[u8]) -> Result<Json, MessageError> {
    let limits = Limits::default();
    Ok(match DeviceMessage::decode(bytes, &limits)? {
        DeviceMessage::Hello(hello) => json!({"hello": hello}),
        DeviceMessage::Reserved(kind) => json!({"reserved": kind}),
        DeviceMessage::Batch(body) => json!({"batch": batch(body, &limits)?}),
    })
}

/// Decodes a batch body to its end.
pub(crate) fn batch(body: &[u8], limits: &Limits) -> Result<Json, MessageError> {
    let batch = Batch::open(body, limits)?;
    let seq = batch.seq();
    let mut walk = batch.readings();
    let mut reading = RawReading::default();
    let mut readings = Vec::new();
    while let Some(outcome) = walk.next(&mut reading)? {
        assert!(reading.fields.capacity() <= 2 * limits.fields as usize);
        assert!(reading.tags.capacity() <= 2 * limits.tags as usize);
        readings.push(match outcome {
            Ok(()) => sound(&reading),
            Err(fault) => refused(fault.code, fault.field),
        });
    }
    assert_eq!(batch.len() as usize, readings.len());
    assert_eq!(walk.next(&mut reading)?, None, "the end stays the end");
    if let Some(fault) = batch.fault() {
        assert!(readings.is_empty() && !fault.detail.is_empty());
        return Ok(json!({"seq": seq, "refused": fault.code}));
    }
    Ok(json!({"seq": seq, "readings": readings}))
}

/// A reading that was refused.
pub(crate) fn refused(code: ErrorCode, field: Option<&str>) -> Json {
    match field {
        Some(field) => json!({"refused": code, "field": field}),
        None => json!({"refused": code}),
    }
}

fn sound(reading: &RawReading<'_>) -> Json {
    let mut out = json!({});
    if let Some(measurement) = reading.measurement {
        out["measurement"] = json!(measurement);
    }
    if let Some(time) = reading.time {
        out["time"] = match time {
            RawTime::Units(units) => json!({"units": units}),
            RawTime::Timestamp { seconds, nanos } => json!({"seconds": seconds, "nanos": nanos}),
        };
    }
    if !reading.tags.is_empty() {
        out["tags"] = json!(reading.tags);
    }
    let fields = reading.fields.iter().map(|&(name, raw)| json!([name, value(raw)]));
    out["fields"] = fields.collect();
    out
}

/// A value with its type; a float that JSON or arithmetic would not keep is text.
pub(crate) fn value(raw: RawValue<'_>) -> Json {
    match raw {
        RawValue::Float(x) if !x.is_finite() || (x == 0.0 && x.is_sign_negative()) => {
            json!({"float": format!("{x}")})
        }
        RawValue::Float(x) => json!({"float": x}),
        RawValue::Int(n) => json!({"int": n}),
        RawValue::UInt(n) => json!({"uint": n.to_string()}),
        RawValue::Bool(b) => json!({"bool": b}),
        RawValue::Str(text) => json!({"str": text}),
    }
}
