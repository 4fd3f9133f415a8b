//! What the guard holds against readings, through `check`.

use super::*;
use crate::{
    ingest::{Checked, ConnectionContext, Now, Rules, StreamId, check},
    metrics::StateMetrics,
    record::{Envelope, Points, Position, Value},
    state::{self, State},
};
use bytes::Bytes;
use proto::{BatchEncoder, DeviceMessage, Limits, TimeUnit};

const NOW: Now = Now { ns: 1_760_000_000_000_000_000, settled: true };

struct Home {
    state: State,
    guards: Arc<Guards>,
    _keeper: state::Keeper,
    _dir: tempfile::TempDir,
}

/// A guard over an empty table.
fn home(on_conflict: OnConflict, max_fields: usize, per_device: usize) -> Home {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.db");
    let (state, keeper) = state::open(&file, max_fields, StateMetrics::default()).unwrap();
    let max = MaxSeries { per_device, total: 10_000 };
    let guards = Guards::new(Some(state.types.clone()), on_conflict, max, GuardMetrics::default());
    Home { state, guards, _keeper: keeper, _dir: dir }
}

struct Device {
    context: ConnectionContext,
    guard: Guard,
}

impl Home {
    fn device(&self, name: &str) -> Device {
        let identity = Identity::new("default", name);
        let guard = self.guards.of(&identity);
        let context = ConnectionContext {
            identity,
            stream: StreamId::Named(1),
            time_unit: TimeUnit::Ms,
            measurement: Some("m".into()),
        };
        Device { context, guard }
    }
}

type Fields<'a> = &'a [(&'a str, RawValue<'a>)];

impl Device {
    /// Checks a batch of readings of these fields.
    fn sends(&mut self, readings: &[Fields<'_>]) -> Checked {
        let mut encoder = BatchEncoder::new();
        encoder.readings(1, u32::try_from(readings.len()).unwrap());
        for (at, fields) in readings.iter().enumerate() {
            let time = NOW.ns / 1_000_000 - 100_000 + i64::try_from(at).unwrap();
            encoder.reading(None, Some(time), &[], fields);
        }
        self.sends_encoded(&mut encoder)
    }

    fn sends_encoded(&mut self, encoder: &mut BatchEncoder) -> Checked {
        let DeviceMessage::Batch(body) =
            DeviceMessage::decode(encoder.finish(), &Limits::default()).unwrap()
        else {
            panic!("a batch")
        };
        let body = Bytes::copy_from_slice(body);
        check(body, &self.context, &mut self.guard, &Rules::default(), NOW).unwrap()
    }
}

fn refusals(checked: &Checked) -> Vec<(u32, ErrorCode)> {
    checked.refused.iter().map(|refusal| (refusal.index, refusal.code)).collect()
}

/// The fields of the points that a record yields.
fn points(checked: &Checked) -> Vec<String> {
    let record = [&checked.header[..], &checked.payload].concat();
    let (envelope, payload) = Envelope::decode(Position(1), &record).unwrap();
    let mut points = Vec::new();
    let each = |point: &record::Point<'_>| {
        let field = |(name, value): &(&str, Value<'_>)| format!("{name}={value:?}");
        points.push(point.fields.iter().map(field).collect::<Vec<_>>().join(" "));
    };
    Points::default().for_each(Position(1), &envelope, payload, each).unwrap();
    points
}

const FLOAT: RawValue<'static> = RawValue::Float(21.5);
const TEXT: RawValue<'static> = RawValue::Str("x");

#[test]
fn a_conflicting_reading_is_refused_and_the_others_are_kept() {
    let home = home(OnConflict::Refuse, 100, 100);
    let mut device = home.device("d");
    let checked = device.sends(&[
        &[("a", RawValue::Int(21)), ("b", TEXT)],
        &[("a", FLOAT), ("b", TEXT)],
        &[("a", TEXT), ("b", TEXT)],
        &[("a", RawValue::Bool(true)), ("b", TEXT)],
        &[("a", RawValue::Int(-3)), ("b", TEXT)],
    ]);
    let conflict = ErrorCode::TypeConflict;
    assert_eq!(refusals(&checked), [(2, conflict), (3, conflict)]);
    assert_eq!((checked.accepted, checked.details[0].field.as_deref()), (3, Some("a")));
    let detail = checked.details[0].detail.as_deref();
    assert_eq!(detail, Some("the field is a number, this is a text"));
    assert_eq!(points(&checked).len(), 3);
    // The same in another connection and on another device; another measurement is free.
    let mut other = home.device("e");
    assert_eq!(refusals(&other.sends(&[&[("a", TEXT)]])), [(0, conflict)]);
    other.context.measurement = Some("n".into());
    assert_eq!(refusals(&other.sends(&[&[("a", TEXT)]])), []);
}

#[test]
fn a_refused_reading_teaches_nothing() {
    let home = home(OnConflict::Refuse, 100, 100);
    let mut device = home.device("d");
    device.sends(&[&[("a", FLOAT)]]);
    let nan = RawValue::Float(f64::NAN);
    let long = "x".repeat(5_000);
    let checked = device.sends(&[
        &[("new", TEXT), ("a", TEXT)],
        &[("new", nan)],
        &[("new", RawValue::Str(&long))],
        &[("new", FLOAT)],
    ]);
    let codes: Vec<_> = refusals(&checked).into_iter().map(|(_, code)| code).collect();
    let expected = [ErrorCode::TypeConflict, ErrorCode::NotFinite, ErrorCode::StringTooLong];
    assert_eq!(codes, expected);
    assert_eq!(checked.accepted, 1);
}

#[test]
fn what_is_new_has_to_be_kept_before_the_batch_goes_on() {
    let home = home(OnConflict::Refuse, 100, 100);
    let mut one = home.device("d");
    let first = one.sends(&[&[("a", FLOAT)]]);
    assert!(first.settle > 0);
    // Nothing is kept: there is no keeper at work. So whoever relies on it has to wait, too.
    assert_eq!(home.device("e").sends(&[&[("a", FLOAT)]]).settle, first.settle);
    assert_eq!(one.sends(&[&[("a", FLOAT)]]).settle, first.settle);
}

#[test]
fn of_two_devices_that_bring_a_field_at_once_one_is_first() {
    for round in 0..50 {
        let home = home(OnConflict::Refuse, 100, 100);
        let start = std::sync::Barrier::new(2);
        let (numbers, texts) = std::thread::scope(|scope| {
            let send = |name: &'static str, value: RawValue<'static>| {
                let (mut device, start) = (home.device(name), &start);
                scope.spawn(move || {
                    start.wait();
                    device.sends(&[&[("a", value)], &[("a", value)]]).accepted
                })
            };
            let (one, other) = (send("d", FLOAT), send("e", TEXT));
            (one.join().unwrap(), other.join().unwrap())
        });
        assert!(matches!((numbers, texts), (2, 0) | (0, 2)), "round {round}: {numbers} {texts}");
        let known = home.state.types.list(None, None, None, 9);
        let is_number = known[0].kind == FieldKind::Number;
        assert_eq!((known.len(), is_number), (1, numbers == 2));
    }
}

#[test]
fn a_correction_reaches_connections_that_are_open() {
    let home = home(OnConflict::Refuse, 100, 100);
    let mut device = home.device("d");
    assert_eq!(device.sends(&[&[("a", TEXT)]]).accepted, 1);
    assert!(home.state.types.teach(("default", "m", "a"), FieldKind::Number, "influx", 0));
    let checked = device.sends(&[&[("a", TEXT)], &[("a", FLOAT)]]);
    assert_eq!(refusals(&checked), [(0, ErrorCode::TypeConflict)]);
    home.state.types.forget("default", "m", None);
    let checked = device.sends(&[&[("a", TEXT)], &[("a", FLOAT)]]);
    assert_eq!(refusals(&checked), [(1, ErrorCode::TypeConflict)], "the next reading decides");
}

#[test]
fn what_can_be_converted_is_and_the_record_says_so() {
    let home = home(OnConflict::Coerce, 100, 100);
    let mut device = home.device("d");
    device.sends(&[&[("n", FLOAT), ("b", RawValue::Bool(true)), ("t", TEXT)]]);
    let checked = device.sends(&[
        &[("n", RawValue::Str("21.50")), ("b", RawValue::Str("false")), ("t", RawValue::Int(7))],
        &[("n", RawValue::Bool(true)), ("t", FLOAT), ("new", FLOAT)],
        &[("n", RawValue::Str("21,5"))],
        &[("b", RawValue::Int(1))],
        &[("t", RawValue::Bool(true))],
        &[("n", FLOAT), ("new", RawValue::Str("-1"))],
    ]);
    let conflict = ErrorCode::TypeConflict;
    assert_eq!(refusals(&checked), [(2, conflict), (3, conflict), (4, conflict)]);
    let expected = [
        "n=Float(21.5) b=Bool(false) t=Str(\"7\")",
        "n=Float(1.0) t=Str(\"21.5\") new=Float(21.5)",
        "n=Float(21.5) new=Float(-1.0)",
    ];
    assert_eq!(points(&checked), expected);
}

#[test]
fn conversions_never_outgrow_the_envelope() {
    let home = home(OnConflict::Coerce, 100, 100);
    let mut device = home.device("d");
    let names: Vec<String> = (0..64).map(|n| format!("f{n}")).collect();
    let of = |value| -> Vec<(&str, RawValue<'_>)> {
        names.iter().map(|name| (name.as_str(), value)).collect()
    };
    device.sends(&[&of(FLOAT)]);
    let one = of(RawValue::Str("1"));
    let readings: Vec<Fields<'_>> = std::iter::repeat_n(&one[..], 300).collect();
    let checked = device.sends(&readings);
    let room = record::room_for_adjustments(300);
    assert_eq!(checked.accepted as usize, room / 64, "as many whole readings as there is room");
    assert_eq!(points(&checked).len(), room / 64);
    assert_eq!(checked.refused.len(), 300 - room / 64);
}

#[test]
fn new_fields_are_refused_when_the_realm_is_full() {
    let home = home(OnConflict::Refuse, 2, 100);
    let mut device = home.device("d");
    let readings: [Fields<'_>; 3] =
        [&[("a", FLOAT), ("b", FLOAT)], &[("c", FLOAT)], &[("a", FLOAT)]];
    let checked = device.sends(&readings);
    assert_eq!(refusals(&checked), [(1, ErrorCode::FieldLimit)]);
    assert_eq!(checked.details[0].field.as_deref(), Some("c"));
    assert_eq!(refusals(&device.sends(&readings)), [(1, ErrorCode::FieldLimit)]);
}

#[test]
fn a_device_over_its_series_is_refused_new_ones_only() {
    let home = home(OnConflict::Refuse, 100, 10);
    let mut device = home.device("d");
    let send = |device: &mut Device, tags: std::ops::Range<u32>| {
        let mut encoder = BatchEncoder::new();
        encoder.readings(1, tags.len().try_into().unwrap());
        for tag in tags {
            let fields = [("a", FLOAT), ("b", FLOAT)];
            encoder.reading(None, None, &[("t", &tag.to_string())], &fields);
        }
        let checked = device.sends_encoded(&mut encoder);
        assert!(checked.refused.iter().all(|refusal| refusal.code == ErrorCode::SeriesLimit));
        checked.accepted
    };
    // Two fields: five readings of new tags are ten series.
    assert_eq!(send(&mut device, 0..1_000), 5);
    assert_eq!(send(&mut device, 0..5), 5);
    assert_eq!(send(&mut home.device("d"), 0..1_000), 5, "a reconnect gives nothing new");
    assert_eq!(send(&mut home.device("e"), 0..1_000), 5, "nobody else is hit");
}

#[test]
fn switched_off_it_lets_everything_pass() {
    let guards = Guards::unguarded();
    let home = home(OnConflict::Refuse, 1, 1);
    let mut device = home.device("d");
    device.guard = guards.of(&device.context.identity);
    let checked = device.sends(&[&[("a", FLOAT)], &[("a", TEXT)], &[("b", TEXT), ("c", TEXT)]]);
    assert_eq!((checked.accepted, checked.settle), (3, 0));
}

#[test]
fn many_shapes_are_judged_as_one_is() {
    let home = home(OnConflict::Refuse, 1_000, 1_000);
    let mut device = home.device("d");
    let names: Vec<String> = (0..40).map(|n| format!("field-{n}-{}", "x".repeat(100))).collect();
    let good: Vec<[(&str, RawValue<'_>); 1]> =
        names.iter().map(|name| [(&**name, FLOAT)]).collect();
    let bad: Vec<[(&str, RawValue<'_>); 1]> = names.iter().map(|name| [(&**name, TEXT)]).collect();
    for _ in 0..3 {
        let all: Vec<Fields<'_>> =
            good.iter().zip(&bad).flat_map(|(a, b)| [&a[..], &b[..]]).collect();
        let checked = device.sends(&all);
        assert_eq!(checked.accepted, 40);
        assert!(checked.refused.iter().all(|of| of.index % 2 == 1));
        assert!(device.guard.shapes.len() <= MAX_SHAPES);
        let bytes: usize = device.guard.shapes.iter().map(|shape| shape.bytes).sum();
        assert!(bytes <= MAX_REMEMBERED_BYTES, "{bytes}");
    }
}
