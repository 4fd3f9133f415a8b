#![allow(clippy::unwrap_used)]

use super::*;
use crate::record::{Identity, PointId, Position};
use influxdb_line_protocol::{FieldValue, parse_lines};
use proptest::prelude::*;

fn encode_as(
    dialect: Dialect,
    realm: &str,
    measurement: &str,
    tags: &[(&str, &str)],
    fields: &[(&str, Value<'_>)],
) -> Option<String> {
    let identity = Identity::new(realm, "d");
    let id = PointId { position: Position(1), index: 0 };
    let point = Point { id, identity: &identity, measurement, tags, fields, time_ns: -7 };
    let mut out = b"before\n".to_vec();
    let encoded = LineEncoder::new(dialect).encode(&point, &mut out);
    let line = String::from_utf8(out.split_off(7)).unwrap();
    assert_eq!(encoded == Encoded::Unsupported, line.is_empty());
    (!line.is_empty()).then_some(line)
}

fn influx(
    measurement: &str,
    tags: &[(&str, &str)],
    fields: &[(&str, Value<'_>)],
) -> Option<String> {
    encode_as(Dialect::InfluxDb, "default", measurement, tags, fields)
}

const ONE: &[(&str, Value<'static>)] = &[("x", Value::Float(1.0))];

#[test]
fn lines_are_written_as_the_syntax_wants() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, Value<'a>)], &'a str);
    let table: &[Case<'_>] = &[
        ("m", &[], ONE, "m,device=d x=1.0 -7\n"),
        ("m", &[("z", "1"), ("a", "2")], ONE, "m,a=2,device=d,z=1 x=1.0 -7\n"),
        ("a, b=", &[("t, =", "v, =")], ONE, "a\\,\\ b=,device=d,t\\,\\ \\==v\\,\\ \\= x=1.0 -7\n"),
        ("m", &[("t", "")], ONE, "m,device=d x=1.0 -7\n"),
        ("m", &[("t", "a\\b\"c")], ONE, "m,device=d,t=a\\b\"c x=1.0 -7\n"),
        ("m", &[], &[("a b,c=d", Value::Int(-5))], "m,device=d a\\ b\\,c\\=d=-5i -7\n"),
        (
            "m",
            &[],
            &[("b", Value::Bool(true)), ("c", Value::Bool(false))],
            "m,device=d b=true,c=false -7\n",
        ),
        (
            "m",
            &[],
            &[("s", Value::Str("a \"b\" \\ \n, ="))],
            "m,device=d s=\"a \\\"b\\\" \\\\ \n, =\" -7\n",
        ),
        (
            "m",
            &[],
            &[("s", Value::Float(-0.0)), ("t", Value::Float(1e300))],
            "m,device=d s=-0.0,t=1e+300 -7\n",
        ),
    ];
    for (measurement, tags, fields, expected) in table {
        assert_eq!(influx(measurement, tags, fields).as_deref(), Some(*expected));
    }
    let other = encode_as(Dialect::InfluxDb, "plant", "m", &[("q", "1"), ("z", "2")], ONE);
    assert_eq!(other.as_deref(), Some("m,device=d,q=1,realm=plant,z=2 x=1.0 -7\n"));
}

#[test]
fn what_the_syntax_cannot_carry_is_not_written() {
    for text in ["a\\", "a\\ b", "a\\,b", "a\\=b", "a\\\\b", "\\"] {
        assert_eq!(influx(text, &[], ONE), None);
        assert_eq!(influx("m", &[(text, "v")], ONE), None);
        assert_eq!(influx("m", &[("t", text)], ONE), None);
        assert_eq!(influx("m", &[], &[(text, Value::Float(1.0))]), None);
        let some = influx("m", &[], &[(text, Value::Float(1.0)), ("x", Value::Float(1.0))]);
        assert_eq!(some.as_deref(), Some("m,device=d x=1.0 -7\n"));
    }
    assert_eq!(influx("#m", &[], ONE), None);
    assert_eq!(influx("m", &[], &[("time", Value::Float(1.0))]), None);
}

#[test]
fn victoriametrics_holds_numbers_and_any_backslash() {
    let vm = |measurement: &str, fields: &[(&str, Value<'_>)]| {
        encode_as(Dialect::VictoriaMetrics, "default", measurement, &[("t", "a\\")], fields)
    };
    let fields = [("s", Value::Str("x")), ("q\"", Value::Float(1.0)), ("b", Value::Bool(true))];
    assert_eq!(vm("m\\", &fields).as_deref(), Some("m\\\\,device=d,t=a\\\\ b=true -7\n"));
    assert_eq!(vm("m", &fields[..2]), None);
}

#[test]
fn series_are_forgotten_before_they_take_too_much_memory() {
    let identity = Identity::new("default", "d");
    let mut encoder = LineEncoder::new(Dialect::InfluxDb);
    let long = "v".repeat(256);
    let mut out = Vec::new();
    for n in 0..60_000 {
        let name = format!("m{n}");
        let tags = [("t", long.as_str())];
        let id = PointId { position: Position(1), index: n };
        let point = Point {
            id,
            identity: &identity,
            measurement: &name,
            tags: &tags,
            fields: ONE,
            time_ns: 1,
        };
        out.clear();
        encoder.encode(&point, &mut out);
        assert!(out.starts_with(name.as_bytes()));
    }
    assert!(encoder.series_bytes <= SERIES_CACHE_BYTES && encoder.series.len() < 60_000);
}

/// Any text a device may choose: UTF-8 without control characters, rich in what means something.
fn name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-z]",
        1 => prop::sample::select(vec!["\\", " ", ",", "=", "\"", "#", "é", "\u{2028}", "i", "0"])
            .prop_map(str::to_owned),
        1 => "[^\\p{Cc}]",
    ];
    let name = prop::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat());
    name.prop_filter("reserved", |name| {
        !name.starts_with('_') && !["time", "device", "realm"].contains(&name.as_str())
    })
}

#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Float(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

impl Owned {
    fn as_value(&self) -> Value<'_> {
        match self {
            Self::Float(x) => Value::Float(*x),
            Self::Int(n) => Value::Int(*n),
            Self::Bool(b) => Value::Bool(*b),
            Self::Text(text) => Value::Str(text),
        }
    }

    /// Bit by bit: a zero keeps its sign.
    fn is(&self, parsed: &FieldValue<'_>) -> bool {
        match (self, parsed) {
            (Self::Float(a), FieldValue::F64(b)) => a.to_bits() == b.to_bits(),
            (Self::Int(a), FieldValue::I64(b)) => a == b,
            (Self::Bool(a), FieldValue::Boolean(b)) => a == b,
            (Self::Text(a), FieldValue::String(b)) => a == b.as_str(),
            _ => false,
        }
    }
}

fn value() -> impl Strategy<Value = Owned> {
    let float = any::<f64>().prop_filter("finite", |x| x.is_finite());
    prop_oneof![
        float.prop_map(Owned::Float),
        any::<i64>().prop_map(Owned::Int),
        any::<bool>().prop_map(Owned::Bool),
        "[a\\\\\" ,=\n\r\té#]{0,12}".prop_map(Owned::Text),
    ]
}

prop_compose! {
    fn reading()(
        measurement in name(),
        tags in prop::collection::btree_map(name(), prop_oneof![name(), Just(String::new())], 0..5),
        fields in prop::collection::btree_map(name(), value(), 1..5),
        time_ns in any::<i64>(),
    ) -> (String, Vec<(String, String)>, Vec<(String, Owned)>, i64) {
        (measurement, tags.into_iter().collect(), fields.into_iter().collect(), time_ns)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Another parser reads from the lines of several points exactly those points.
    #[test]
    fn what_is_encoded_is_parsed_as_the_same_points(
        readings in prop::collection::vec(reading(), 1..6)
    ) {
        let identity = Identity::new("plant", "a/b=c");
        let mut encoder = LineEncoder::new(Dialect::InfluxDb);
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for (measurement, tags, fields, time_ns) in &readings {
            let borrowed: Vec<_> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let values: Vec<_> = fields.iter().map(|(k, v)| (k.as_str(), v.as_value())).collect();
            let id = PointId { position: Position(1), index: 0 };
            let point = Point {
                id, identity: &identity, measurement, tags: &borrowed, fields: &values,
                time_ns: *time_ns,
            };
            if let Encoded::Line { left_out } = encoder.encode(&point, &mut out) {
                let held = |name: &str| Dialect::InfluxDb.holds_name(name);
                let fields: Vec<_> = fields.iter().filter(|(name, _)| held(name)).collect();
                prop_assert_eq!(fields.len() + left_out, values.len());
                expected.push((measurement, tags, fields, *time_ns));
            }
        }
        let text = String::from_utf8(out).unwrap();
        let parsed: Vec<_> = parse_lines(&text).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(parsed.len(), expected.len());
        for (line, (measurement, tags, fields, time_ns)) in parsed.iter().zip(expected) {
            prop_assert_eq!(line.series.measurement.as_str(), measurement);
            prop_assert_eq!(line.timestamp, Some(time_ns));
            let mut all: Vec<(&str, &str)> = vec![("device", "a/b=c"), ("realm", "plant")];
            let tags = tags.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            all.extend(tags.filter(|tag| !tag.1.is_empty()));
            all.sort_unstable();
            let found: Vec<(&str, &str)> = line.series.tag_set.iter().flatten()
                .map(|(k, v)| (k.as_str(), v.as_str())).collect();
            prop_assert_eq!(found, all);
            prop_assert_eq!(line.field_set.len(), fields.len());
            for ((found, value), (name, expected)) in line.field_set.iter().zip(fields) {
                prop_assert_eq!(found.as_str(), name);
                prop_assert!(expected.is(value), "{:?} {:?}", expected, value);
            }
        }
    }
}
