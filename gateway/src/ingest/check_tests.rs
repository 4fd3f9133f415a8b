//! Tables for `check`: what each kind of reading gets, and that it costs nobody else anything.

use super::*;
use crate::ingest::Guards;
use crate::record::{Points, Position};
use proto::{BatchEncoder, RawValue, encode::ColumnTimes};

const NOW: Now = Now { ns: 1_760_000_000_000_000_000, settled: true };
const NOW_MS: i64 = NOW.ns / 1_000_000;

fn context() -> ConnectionContext {
    ConnectionContext {
        identity: Identity::new("default", "d1"),
        stream: StreamId::Named(9),
        time_unit: TimeUnit::Ms,
        measurement: Some("env".into()),
    }
}

/// The body of a batch whose middle reading of three is `field = value` at `time`.
fn body(build: impl FnOnce(&mut BatchEncoder)) -> Bytes {
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 3);
    encoder.reading(None, Some(NOW_MS - 3), &[], &[("a", RawValue::Int(1))]);
    build(&mut encoder);
    encoder.reading(None, Some(NOW_MS - 1), &[], &[("a", RawValue::Float(1.5))]);
    body_of(encoder.finish())
}

fn body_of(message: &[u8]) -> Bytes {
    match proto::DeviceMessage::decode(message, &Limits::default()).unwrap() {
        proto::DeviceMessage::Batch(body) => Bytes::copy_from_slice(body),
        other => panic!("{other:?}"),
    }
}

/// Holds nothing against anybody.
fn guard() -> Guard {
    Guards::unguarded().of(&Identity::new("default", "d1"))
}

fn check_now(body: Bytes) -> Checked {
    check(body, &context(), &mut guard(), &Rules::default(), NOW).unwrap()
}

#[test]
fn a_bad_reading_costs_itself_only() {
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    let text = "x".repeat(MAX_STRING_FIELD_BYTES + 1);
    let value = "x".repeat(MAX_TAG_VALUE_BYTES + 1);
    type Fields<'a> = &'a [(&'a str, RawValue<'a>)];
    let one: Fields<'_> = &[("a", RawValue::Int(1))];
    let t = NOW_MS - 2;
    type Case<'a> =
        (ErrorCode, Option<&'a str>, Option<&'a str>, i64, &'a [(&'a str, &'a str)], Fields<'a>);
    let cases: &[Case<'_>] = &[
        (ErrorCode::NotFinite, Some("b"), None, t, &[], &[("b", RawValue::Float(f64::NAN))]),
        (ErrorCode::NotFinite, Some("b"), None, t, &[], &[("b", RawValue::Float(f64::INFINITY))]),
        (
            ErrorCode::IntegerInexact,
            Some("b"),
            None,
            t,
            &[],
            &[("b", RawValue::Int((1 << 53) + 1))],
        ),
        (ErrorCode::IntegerInexact, Some("b"), None, t, &[], &[("b", RawValue::UInt(u64::MAX))]),
        (ErrorCode::StringTooLong, Some("b"), None, t, &[], &[("b", RawValue::Str(&text))]),
        (ErrorCode::NoFields, None, None, t, &[], &[]),
        (ErrorCode::BadName, Some(""), None, t, &[], &[("", RawValue::Int(1))]),
        (ErrorCode::BadName, Some("_x"), None, t, &[], &[("_x", RawValue::Int(1))]),
        (ErrorCode::BadName, Some("a\nb"), None, t, &[], &[("a\nb", RawValue::Int(1))]),
        (ErrorCode::BadName, Some("a\u{85}"), None, t, &[], &[("a\u{85}", RawValue::Int(1))]),
        (ErrorCode::NameTooLong, None, None, t, &[], &[(&long, RawValue::Int(1))]),
        (ErrorCode::ReservedName, Some("time"), None, t, &[], &[("time", RawValue::Int(1))]),
        (ErrorCode::ReservedName, Some("device"), None, t, &[("device", "x")], one),
        (ErrorCode::ReservedName, Some("realm"), None, t, &[("realm", "x")], one),
        (ErrorCode::ReservedName, Some("time"), None, t, &[("time", "x")], one),
        (ErrorCode::ReservedName, Some("gateway_x"), Some("gateway_x"), t, &[], one),
        (ErrorCode::BadName, Some(""), Some(""), t, &[], one),
        (ErrorCode::BadTagValue, Some("k"), None, t, &[("k", "")], one),
        (ErrorCode::BadTagValue, Some("k"), None, t, &[("k", "a\r")], one),
        (ErrorCode::BadTagValue, Some("k"), None, t, &[("k", &value)], one),
        (ErrorCode::DuplicateKey, Some("k"), None, t, &[("k", "a"), ("k", "a")], one),
        (
            ErrorCode::DuplicateKey,
            Some("a"),
            None,
            t,
            &[],
            &[("a", RawValue::Int(1)), ("a", RawValue::Int(2))],
        ),
        (ErrorCode::TimeImplausible, Some("time"), None, 0, &[], one),
        (ErrorCode::TimeImplausible, Some("time"), None, i64::MIN, &[], one),
        (ErrorCode::TimeImplausible, Some("time"), None, i64::MAX, &[], one),
        (ErrorCode::TimeImplausible, Some("time"), None, NOW_MS / 1000, &[], one),
        (ErrorCode::TimeInFuture, Some("time"), None, NOW_MS + 600_001, &[], one),
        (ErrorCode::DuplicatePoint, Some("time"), None, NOW_MS - 3, &[], one),
    ];
    for &(code, field, measurement, time, tags, fields) in cases {
        let checked = check_now(body(|encoder| {
            encoder.reading(measurement, Some(time), tags, fields);
        }));
        assert_eq!(checked.accepted, 2, "{code} {field:?}");
        assert_eq!(&*checked.refused, [Refusal { index: 1, code }], "{field:?}");
        let detail = &checked.details[0];
        assert_eq!((detail.index, detail.code), (1, code));
        if code != ErrorCode::NameTooLong {
            assert_eq!(detail.field.as_deref(), field, "{code}");
        }
        // What was accepted yields the same points when the record is read back.
        let (envelope, _) = Envelope::decode(Position(1), &checked.header).unwrap();
        let mut times = Vec::new();
        Points::default()
            .for_each(Position(1), &envelope, &checked.payload, |point| {
                times.push((point.id.index, point.time_ns));
            })
            .unwrap();
        assert_eq!(times, [(0, (NOW_MS - 3) * 1_000_000), (2, (NOW_MS - 1) * 1_000_000)]);
    }
}

#[test]
fn what_is_odd_but_right_is_accepted() {
    let t = NOW_MS - 2;
    type Case<'a> = (Option<&'a str>, i64, &'a [(&'a str, &'a str)], RawValue<'a>);
    let cases: &[Case<'_>] = &[
        (None, t, &[], RawValue::Int(1 << 53)),
        (None, t, &[], RawValue::Int(-(1 << 53))),
        (None, t, &[], RawValue::Float(-0.0)),
        (None, t, &[], RawValue::Float(5e-324)),
        (None, t, &[], RawValue::Str("")),
        (None, t, &[], RawValue::Str("line\nbreak, \"quote\" \\ = #")),
        (Some("a,b =\\"), t, &[("k, =\\", "v, =\\")], RawValue::Bool(true)),
        (Some("\u{1F600}"), t, &[], RawValue::Int(1)),
        (None, NOW_MS + 599_999, &[], RawValue::Int(1)),
        (None, 946_684_800_000, &[], RawValue::Int(1)),
        // The same time in another series is another point.
        (Some("other"), NOW_MS - 3, &[], RawValue::Int(1)),
        (None, NOW_MS - 3, &[("k", "v")], RawValue::Int(1)),
    ];
    for &(measurement, time, tags, value) in cases {
        let checked = check_now(body(|encoder| {
            encoder.reading(measurement, Some(time), tags, &[("a", value)]);
        }));
        assert_eq!((checked.accepted, checked.details.len()), (3, 0), "{value:?} {tags:?}");
    }
}

#[test]
fn tags_in_another_order_are_the_same_series() {
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 2);
    let one = [("f", RawValue::Int(1))];
    encoder.reading(None, Some(NOW_MS), &[("a", "1"), ("b", "2")], &one);
    encoder.reading(None, Some(NOW_MS), &[("b", "2"), ("a", "1")], &one);
    let checked = check_now(body_of(encoder.finish()));
    assert_eq!(&*checked.refused, [Refusal { index: 1, code: ErrorCode::DuplicatePoint }]);
}

#[test]
fn readings_without_a_time_stay_apart() {
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 3);
    for _ in 0..3 {
        encoder.reading(None, None, &[], &[("f", RawValue::Int(1))]);
    }
    let checked = check_now(body_of(encoder.finish()));
    assert_eq!(checked.accepted, 3);
    let (envelope, _) = Envelope::decode(Position(1), &checked.header).unwrap();
    let mut times = Vec::new();
    let mut points = Points::default();
    points
        .for_each(Position(1), &envelope, &checked.payload, |point| times.push(point.time_ns))
        .unwrap();
    assert_eq!(times, [NOW.ns, NOW.ns + 1, NOW.ns + 2]);
}

#[test]
fn after_a_jump_of_our_own_clock_the_future_is_not_held_against_the_device() {
    let future = || {
        body(|encoder| {
            encoder.reading(None, Some(NOW_MS + 3_600_000), &[], &[("a", RawValue::Int(1))]);
        })
    };
    let unsettled = Now { settled: false, ..NOW };
    let checked = check(future(), &context(), &mut guard(), &Rules::default(), unsettled).unwrap();
    assert_eq!(checked.retry.map(|(code, _)| code), Some(ErrorCode::ClockJump));
    assert_eq!(check_now(future()).retry, None);

    let past = || {
        body(|encoder| {
            encoder.reading(None, Some(NOW_MS - 7_200_000), &[], &[("a", RawValue::Int(1))]);
        })
    };
    let rules = Rules { max_age: Some(Duration::from_secs(3600)), ..Rules::default() };
    let checked = check(past(), &context(), &mut guard(), &rules, unsettled).unwrap();
    assert_eq!(checked.retry.map(|(code, _)| code), Some(ErrorCode::ClockJump), "too old, perhaps");
}

#[test]
fn a_measurement_of_hello_and_its_name_in_a_reading_are_the_same() {
    let twice = body(|encoder| {
        encoder.reading(Some("env"), Some(NOW_MS - 1), &[], &[("a", RawValue::Int(1))]);
    });
    let checked = check_now(twice);
    assert_eq!(&*checked.refused, [Refusal { index: 2, code: ErrorCode::DuplicatePoint }]);
}

#[test]
fn old_readings_are_refused_only_where_an_age_is_set() {
    let old = || {
        body(|encoder| {
            encoder.reading(None, Some(NOW_MS - 7_200_000), &[], &[("a", RawValue::Int(1))]);
        })
    };
    assert_eq!(check_now(old()).accepted, 3);
    let rules = Rules { max_age: Some(Duration::from_secs(3600)), ..Rules::default() };
    let checked = check(old(), &context(), &mut guard(), &rules, NOW).unwrap();
    assert_eq!(&*checked.refused, [Refusal { index: 1, code: ErrorCode::TimeTooOld }]);
}

#[test]
fn the_nack_lists_sixteen_and_the_record_all() {
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 40);
    for i in 0..40 {
        encoder.reading(None, Some(NOW_MS + i), &[], &[("f", RawValue::Float(f64::NAN))]);
    }
    let checked = check_now(body_of(encoder.finish()));
    assert_eq!((checked.accepted, checked.refused.len(), checked.details.len()), (0, 40, 16));
}

#[test]
fn a_whole_refusal_keeps_no_payload_and_still_has_a_record() {
    let mut encoder = BatchEncoder::new();
    encoder.readings(5, 0);
    let checked = check_now(body_of(encoder.finish()));
    assert_eq!(checked.refused_whole.map(|(code, _)| code), Some(ErrorCode::EmptyBatch));
    assert!(checked.payload.is_empty());
    let (envelope, _) = Envelope::decode(Position(1), &checked.header).unwrap();
    assert_eq!((envelope.seq, envelope.accepted), (5, 0));
    assert_eq!(envelope.refused_whole, Some(ErrorCode::EmptyBatch));
}

/// What a record yields, as sinks walk it.
fn yielded(checked: &Checked) -> Result<u32, String> {
    let record = [&checked.header[..], &checked.payload].concat();
    let (envelope, payload) = Envelope::decode(Position(1), &record).unwrap();
    let mut count = 0;
    let walked = Points::default().for_each(Position(1), &envelope, payload, |_| count += 1);
    walked.map(|()| count).map_err(|error| error.to_string())
}

#[test]
fn an_oversized_map_with_bad_keys_does_not_take_its_neighbours_along() {
    // Three pairs where two are allowed, and one of the keys is an integer.
    const BAD: &[u8] = b"\x83\xa1a\xa1x\xa1b\xa1x\x07\xa1x";
    let good: &[u8] = b"\x81\xa6fields\x81\xa1a\x01";
    for (what, bad) in [
        ("fields", [b"\x81\xa6fields", BAD].concat()),
        ("tags", [b"\x82\xa6fields\x81\xa1a\x01\xa4tags", BAD].concat()),
    ] {
        let body = [b"\x82\xa3seq\x01\xa8readings\x92", good, &bad].concat();
        let limits = Limits { fields: 2, tags: 2, ..Limits::default() };
        let rules = Rules { limits, ..Rules::default() };
        // A message that is refused as a whole harms nobody; one that is taken must be readable.
        if let Ok(checked) = check(body.into(), &context(), &mut guard(), &rules, NOW) {
            assert_eq!(yielded(&checked), Ok(checked.accepted), "{what}");
        }
    }
}

#[test]
fn what_was_taken_is_read_again_however_odd_the_bytes_are() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 3);
    for i in 0..3 {
        let fields = [("a", RawValue::Int(i)), ("b", RawValue::Str("x")), ("c", RawValue::Int(1))];
        encoder.reading(None, Some(NOW_MS + i), &[("k", "v")], &fields[..2 + (i as usize % 2)]);
    }
    let rows = body_of(encoder.finish()).to_vec();
    let mut encoder = BatchEncoder::new();
    let times = ColumnTimes::Each(&[NOW_MS, NOW_MS + 1]);
    encoder.columns(1, Some("m"), &[("k", "v")], times, 2);
    encoder.column("a", [Some(RawValue::Int(1)), None]);
    encoder.column("b", [Some(RawValue::Bool(true)), Some(RawValue::Float(1.5))]);
    let columns = body_of(encoder.finish()).to_vec();
    let limits = Limits { fields: 2, tags: 1, depth: 6, ..Limits::default() };
    let rules = Rules { limits, ..Rules::default() };
    const HEADS: [u8; 16] = [
        0x80, 0x81, 0x82, 0x83, 0x90, 0x91, 0x92, 0xa0, 0xa1, 0xc0, 0xc2, 0xca, 0xcb, 0xd6, 0xd9, 7,
    ];
    let mut taken = 0;
    for round in 0..200_000 {
        let mut body = if random.bool() { rows.clone() } else { columns.clone() };
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..body.len());
            match random.u8(..3) {
                0 => body[at] = HEADS[random.usize(..HEADS.len())],
                1 => body.insert(at, HEADS[random.usize(..HEADS.len())]),
                _ => drop(body.remove(at)),
            }
        }
        if let Ok(checked) = check(body.clone().into(), &context(), &mut guard(), &rules, NOW) {
            taken += u32::from(checked.accepted > 0);
            assert_eq!(yielded(&checked), Ok(checked.accepted), "seed {seed}, {round}: {body:x?}");
        }
    }
    assert!(taken > 1000, "only {taken} were taken at all");
}
