#![allow(clippy::unwrap_used)]

use super::*;
use crate::profile::{Fields, ReadingId};
use proto::RawValue;

const GREENHOUSE: &str = r#"
measurement = "greenhouse"
interval = "10s"
batch = 6
mode = "columns"
outbox = 500
connect_every = "5m"
dead_zones = { every = "1h", lasts = "2m" }

[tags]
site = "north"
bed = ["a", "b", "c"]
rack = { prefix = "rack-", count = 12 }

[fields.temperature]
generator = "daily"
mean = 21.5
amplitude = 4
noise = 0.3
spread = 2
drift_per_day = 0.01
decimals = 1

[fields.moisture]
generator = "walk"
mean = 40
amplitude = 15
period = "3h"

[fields.water]
generator = "counter"
per_hour = 12.5
decimals = 3

[fields.pump]
generator = "bool"
probability = 0.25
hold = "10m"

[fields.state]
generator = "choice"
of = ["ok", "check"]
present = 0.5

[fields.note]
generator = "text"
length = 40

[fields.firmware]
generator = "constant"
value = "2.1"
"#;

const NOON_NS: i64 = 1_800_014_400_000_000_000;

fn reading(kind: &Kind, seq: u64, time_ns: i64) -> Fields {
    let mut fields = Fields::new();
    kind.profile.fields(ReadingId { seed: 1, device: 2, seq, index: 3 }, time_ns, &mut fields);
    fields
}

fn value(fields: &Fields, name: &str) -> Option<RawValue<'static>> {
    fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
}

#[test]
fn a_file_becomes_a_kind_of_device() {
    let kind = parse(GREENHOUSE, "file").unwrap();
    assert_eq!((kind.interval_ns, kind.batch, kind.outbox), (10_000_000_000, 6, 500));
    assert_eq!((kind.mode, kind.connect_every_ns), (Mode::Columns, Some(300_000_000_000)));
    let zones = kind.dead_zones.unwrap();
    assert_eq!((zones.every_ns, zones.lasts_ns), (3_600_000_000_000, 120_000_000_000));
    assert_eq!(kind.profile.measurement(), "greenhouse");
    let tags = kind.profile.tags(1, 2);
    assert_eq!(tags.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["bed", "rack", "site"]);
    assert_eq!(tags[2].1, "north");
    assert!(tags[1].1.starts_with("rack-"), "{tags:?}");

    let json = serde_json::to_string(&kind).unwrap();
    let read: Kind = serde_json::from_str(&json).unwrap();
    assert_eq!(read, kind, "the journal carries it whole");
    for seq in 1..50 {
        assert_eq!(reading(&read, seq, NOON_NS), reading(&kind, seq, NOON_NS));
    }
    assert_eq!(
        parse("[fields.x]\ngenerator = 'bool'", "boxes").unwrap().profile.measurement(),
        "boxes"
    );
}

#[test]
fn generators_do_what_they_say() {
    let kind = parse(GREENHOUSE, "file").unwrap();
    let (mut states, mut before) = (0, f64::MIN);
    for n in 0..1_000 {
        let time_ns = NOON_NS + n * 60_000_000_000;
        let fields = reading(&kind, 1 + n.unsigned_abs(), time_ns);
        let number = |name| match value(&fields, name).unwrap() {
            RawValue::Float(x) => x,
            RawValue::Int(n) => n as f64,
            other => panic!("{name} is {other:?}"),
        };
        assert!((14.0..30.0).contains(&number("temperature")));
        assert!((24.9..55.1).contains(&number("moisture")));
        let water = number("water");
        assert!(water >= before, "{before} {water}");
        before = water;
        states += u32::from(value(&fields, "state").is_some());
        let Some(RawValue::Str(note)) = value(&fields, "note") else { panic!("no note") };
        assert_eq!(note.len(), 40);
        assert_eq!(value(&fields, "firmware"), Some(RawValue::Str("2.1")));
        let same = reading(&kind, 9_999, time_ns / 600_000_000_000 * 600_000_000_000);
        assert_eq!(value(&same, "pump"), value(&fields, "pump"), "held for ten minutes");
    }
    assert!((350..650).contains(&states), "{states} of 1000 have a state");
}

#[test]
fn every_mistake_is_named_by_its_key() {
    let field = |rest: &str| format!("[fields.t]\n{rest}");
    for (text, words) in [
        ("fields = {}".to_owned(), &["fields: at least one"][..]),
        ("intervall = '1s'\n[fields.t]\ngenerator = 'bool'".to_owned(), &["intervall", "interval"]),
        ("interval = 'soon'\n[fields.t]\ngenerator = 'bool'".to_owned(), &["interval", "soon"]),
        ("measurement = 'gateway_x'\n[fields.t]\ngenerator = 'bool'".to_owned(), &["measurement"]),
        (field("generator = 'cosine'"), &["cosine", "sine"]),
        (field("generator = 'sine'\nmean = 1"), &["fields.t", "period: is missing"]),
        (field("generator = 'daily'"), &["fields.t", "mean: is missing"]),
        (field("generator = 'daily'\nmean = 1\nperiod = '1s'"), &["fields.t", "period", "Daily"]),
        (field("generator = 'daily'\nmean = 1e300"), &["fields.t", "mean: must be"]),
        (field("generator = 'daily'\nmean = 1\ndecimals = 9"), &["fields.t", "decimals"]),
        (field("generator = 'choice'\nof = []"), &["fields.t", "of: the list is empty"]),
        (field("generator = 'choice'\nof = [1, 'a']"), &["fields.t", "of: all of one type"]),
        (field("generator = 'bool'\nprobability = 2"), &["fields.t", "probability"]),
        (field("generator = 'bool'\npresent = 0.5"), &["fields: one at least"]),
        (field("generator = 'bool'\npresent = 0"), &["fields.t", "present"]),
        (field("generator = 'text'\nlength = 5000"), &["fields.t", "length"]),
        (field("generator = 'counter'\nper_hour = -1"), &["fields.t", "per_hour"]),
        ("[fields.time]\ngenerator = 'bool'".to_owned(), &["fields.time", "reserved"]),
        ("[fields._t]\ngenerator = 'bool'".to_owned(), &["fields.\"_t\"", "begin"]),
        (field("generator = 'bool'\n[tags]\nrealm = 'x'"), &["tags.realm", "reserved"]),
        (field("generator = 'bool'\n[tags]\nx = ''"), &["tags.x", "bytes"]),
        (field("generator = 'bool'\n[tags]\nx = 5"), &["x = 5", "expected a text"]),
    ] {
        let message = format!("{:#}", parse(&text, "name").unwrap_err());
        for word in words {
            assert!(message.contains(word), "{text:?}: {word:?} is not in {message:?}");
        }
    }
}
