//! Readings as a person reads them.

use proto::{Batch, Limits, RawReading, RawTime, RawValue};
use std::fmt::Write;

/// Longest text of a reading, in bytes.
const MAX_BYTES: usize = 600;
/// Longest name or value in it, in characters.
const MAX_PART_CHARS: usize = 60;

/// The readings of these indices, ascending, of a batch body, as far as they were decoded: text of
/// one line, shortened, and without control characters.
pub fn show_readings(payload: &[u8], indices: &[u32]) -> Vec<Option<String>> {
    let mut shown = vec![None; indices.len()];
    let Ok(batch) = Batch::open(payload, &Limits::unbounded()) else { return shown };
    let mut readings = batch.readings();
    let mut reading = RawReading::default();
    let mut index = 0;
    let mut wanted = indices.iter().zip(&mut shown).peekable();
    while wanted.peek().is_some() {
        let Ok(Some(_)) = readings.next(&mut reading) else { break };
        if let Some((_, shown)) = wanted.next_if(|(of, _)| **of == index) {
            *shown = Some(show(&reading));
        }
        index += 1;
    }
    shown
}

fn show(reading: &RawReading<'_>) -> String {
    let mut text = String::new();
    if let Some(measurement) = reading.measurement {
        put(&mut text, format_args!("{}", part(measurement)));
    }
    for (name, value) in &reading.tags {
        put(&mut text, format_args!(",{}={}", part(name), part(value)));
    }
    for (at, (name, value)) in reading.fields.iter().enumerate() {
        put(&mut text, format_args!("{}{}=", if at == 0 { " " } else { "," }, part(name)));
        match value {
            RawValue::Float(x) => put(&mut text, format_args!("{x:?}")),
            RawValue::Int(n) => put(&mut text, format_args!("{n}")),
            RawValue::UInt(n) => put(&mut text, format_args!("{n}")),
            RawValue::Bool(b) => put(&mut text, format_args!("{b}")),
            RawValue::Str(value) => put(&mut text, format_args!("\"{}\"", part(value))),
        }
    }
    match reading.time {
        None => {}
        Some(RawTime::Units(n)) => put(&mut text, format_args!(" {n}")),
        Some(RawTime::Timestamp { seconds, nanos }) => {
            put(&mut text, format_args!(" {seconds}.{nanos:09}"));
        }
    }
    text
}

/// Parts that do not fit are left out.
fn put(text: &mut String, more: std::fmt::Arguments<'_>) {
    let length = text.len();
    // Writing to a String does not fail.
    let _ = text.write_fmt(more);
    if text.len() > MAX_BYTES {
        text.truncate(length);
        if !text.ends_with('…') {
            text.push('…');
        }
    }
}

fn part(text: &str) -> String {
    let mut part: String = text
        .chars()
        .take(MAX_PART_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MAX_PART_CHARS).is_some() {
        part.push('…');
    }
    part
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proto::{BatchEncoder, DeviceMessage};

    #[test]
    fn readings_are_one_bounded_line() {
        let long = "x".repeat(4_000);
        let names: Vec<String> = (0..60).map(|n| format!("field-{n}-{}", "y".repeat(50))).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), RawValue::Bool(true))).collect();
        let mut encoder = BatchEncoder::new();
        encoder
            .readings(1, 3)
            .reading(Some("m"), Some(5), &[("t", "v\n")], &[("a", RawValue::Float(f64::NAN))])
            .reading(None, None, &[], &[("b", RawValue::Str(&long)), ("c", RawValue::Int(-1))])
            .reading(Some("m"), Some(7), &[], &many);
        let message = encoder.finish();
        let DeviceMessage::Batch(body) =
            DeviceMessage::decode(message, &Limits::unbounded()).unwrap()
        else {
            panic!("a batch")
        };
        let shown = show_readings(body, &[0, 1, 2, 9]);
        assert_eq!(shown[0].as_deref(), Some("m,t=v\u{fffd} a=NaN 5"));
        let expected = format!(" b=\"{}…\",c=-1", "x".repeat(60));
        assert_eq!(shown[1].as_deref(), Some(expected.as_str()));
        let cut = shown[2].as_deref().unwrap();
        assert!(cut.len() <= MAX_BYTES + 3 && cut.contains('…'), "{cut}");
        assert_eq!(shown[3], None);
        assert_eq!(show_readings(b"\xc1", &[0]), [None]);
    }
}
