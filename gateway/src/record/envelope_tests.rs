//! The golden envelope: these bytes are on users' disks.

use super::{super::Points, *};

/// Written by version 1. Never changes: a newer version gets a file of its own.
const GOLDEN: &str = include_str!("../../tests/golden/envelope-v1.hex");

/// Of a batch whose values were converted.
const COERCED: &str = include_str!("../../tests/golden/envelope-v1-coerced.hex");

fn golden_bytes() -> Vec<u8> {
    bytes_of(GOLDEN)
}

fn bytes_of(golden: &str) -> Vec<u8> {
    let digits: Vec<u8> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::bytes)
        .filter(u8::is_ascii_hexdigit)
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn golden_envelope() -> Envelope {
    Envelope {
        kind: Kind::Batch,
        source: Source::Device,
        codec: Codec::BatchV1,
        time_unit: TimeUnit::Us,
        refused_whole: None,
        receive_ns: 0x0102_0304_0506_0708,
        stream: 0x1112_1314_1516,
        seq: 0x2122_2324,
        accepted: 3,
        accepted_total: 0x3132_3334,
        payload_hash: 0x4142_4344_4546_4748,
        identity: Identity::new("plant", "press-7"),
        measurement: Some("hydraulics".into()),
        refused: vec![
            Refusal { index: 1, code: ErrorCode::NotFinite },
            Refusal { index: 260, code: ErrorCode::TimeInFuture },
        ],
        adjustments: vec![Adjustment { index: 2, kind: AdjustmentKind::FieldDropped, field: 5 }],
    }
}

#[test]
fn the_golden_record_is_read_and_written_to_the_byte() {
    let bytes = golden_bytes();
    let (envelope, payload) = Envelope::decode(Position(1), &bytes).unwrap();
    assert_eq!(envelope, golden_envelope());
    assert_eq!(payload, b"payload");
    let mut written = Vec::new();
    golden_envelope().encode(&mut written);
    written.extend_from_slice(b"payload");
    assert_eq!(written, bytes);
}

#[test]
fn converted_values_are_read_as_they_were_taken() {
    let bytes = bytes_of(COERCED);
    let (envelope, payload) = Envelope::decode(Position(1), &bytes).unwrap();
    let mut written = Vec::new();
    envelope.encode(&mut written);
    written.extend_from_slice(payload);
    assert_eq!(written, bytes);
    let mut points = Vec::new();
    let mut walk = Points::default();
    walk.for_each(Position(1), &envelope, payload, |point| {
        points.push(format!("{} {:?}", point.time_ns, point.fields));
    })
    .unwrap();
    let expected = [
        "1760000000000000000 [(\"a\", Str(\"21.5\")), (\"b\", Float(1.0)), (\"c\", Float(-1.5)), \
         (\"d\", Bool(false)), (\"e\", Float(1.0))]",
        "1760000000001000000 [(\"a\", Str(\"21\"))]",
    ];
    assert_eq!(points, expected);
}

#[test]
fn a_conversion_that_the_value_does_not_allow_is_damage() {
    let bytes = bytes_of(COERCED);
    let (mut envelope, payload) = Envelope::decode(Position(1), &bytes).unwrap();
    envelope.adjustments[0].kind = AdjustmentKind::CoercedToBool;
    let walked = Points::default().for_each(Position(1), &envelope, payload, |_| {});
    assert!(walked.is_err());
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let bytes = golden_bytes();
    for end in 0..bytes.len() - b"payload".len() {
        assert!(Envelope::decode(Position(1), &bytes[..end]).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let _ = Envelope::decode(Position(1), &bad);
        }
    }
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut bytes = golden_bytes();
    bytes[0] = 2;
    let error = Envelope::decode(Position(9), &bytes).unwrap_err();
    assert_eq!(error, EnvelopeError::Newer { position: Position(9), version: 2 });
    assert!(error.to_string().contains("record 9"));
}

#[test]
fn the_cumulative_count_is_patched_in_place() {
    let mut bytes = golden_bytes();
    patch_accepted_total(&mut bytes, 77);
    let (envelope, _) = Envelope::decode(Position(1), &bytes).unwrap();
    assert_eq!(envelope, Envelope { accepted_total: 77, ..golden_envelope() });
}
