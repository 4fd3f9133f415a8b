#![allow(clippy::unwrap_used)]

mod hours;
mod reading;

use super::{
    query::{Filter, Reader, Stored},
    *,
};
use crate::{
    metrics::Registry,
    record::{Codec, Envelope, GivenUp, Source},
    sink::Record,
};
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};

const NOW_MS: i64 = 1_800_000_000_000;

type Tags<'a> = &'a [(&'a str, &'a str)];
type Reading<'a> = (Option<i64>, Tags<'a>, &'a [(&'a str, RawValue<'a>)]);

fn record(position: u64, device: &str, unit: TimeUnit, readings: &[Reading<'_>]) -> Record {
    let mut encoder = BatchEncoder::new();
    let count = u32::try_from(readings.len()).unwrap();
    encoder.readings(1, count);
    for (time, tags, fields) in readings {
        encoder.reading(Some("m"), *time, tags, fields);
    }
    let Ok(DeviceMessage::Batch(body)) =
        DeviceMessage::decode(encoder.finish(), &Limits::unbounded())
    else {
        panic!("not a batch")
    };
    Record {
        position: Position(position),
        envelope: Envelope {
            kind: crate::record::Kind::Batch,
            source: Source::Device,
            codec: Codec::BatchV1,
            time_unit: unit,
            refused_whole: None,
            receive_ns: NOW_MS * 1_000_000,
            stream: 1,
            seq: position,
            accepted: count,
            accepted_total: 0,
            payload_hash: 0,
            identity: Identity::new("default", device),
            measurement: None,
            refused: Vec::new(),
            adjustments: Vec::new(),
        },
        payload: body.to_vec().into(),
    }
}

fn batch(first: u64, total_before: u64, records: Vec<Record>) -> Batch {
    let readings: u64 = records.iter().map(|record| u64::from(record.envelope.accepted)).sum();
    Batch {
        first: Position(first),
        last: records.last().unwrap().position,
        records: records.into(),
        readings,
        accepted_total: total_before + readings,
        dropped: Dropped::default(),
        given_up: std::sync::Arc::default(),
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    log: LogRange,
    keep_for: Option<Duration>,
}

impl Fixture {
    fn new() -> Self {
        let log = LogRange { uuid: Uuid::new_v4(), oldest: Position(1), end: Position(1000) };
        Self { dir: tempfile::tempdir().unwrap(), log, keep_for: None }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("telemetry.db")
    }

    fn open(&self) -> Result<Store, OpenError> {
        let options = Options { keep_for: self.keep_for, ..Options::new(self.path()) };
        Store::open(options, self.log, StoreMetrics::new(&Registry::new()))
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.path()).unwrap()
    }

    /// All points: field, kind, time, value.
    fn all(&self) -> Vec<(String, Kind, i64, Stored)> {
        let reader = self.reader();
        let mut all = Vec::new();
        for series in reader.series(Filter::default(), 0, 1000).unwrap() {
            for (time, value) in reader.points(series.id, i64::MIN..i64::MAX, 100_000).unwrap() {
                all.push((series.field.clone(), series.kind, time, value));
            }
        }
        all
    }
}

fn one(time: i64, fields: &[(&'static str, RawValue<'static>)]) -> Vec<Record> {
    vec![record(1, "d", TimeUnit::Ns, &[(Some(time), &[], fields)])]
}

#[tokio::test]
async fn every_value_and_time_comes_back_to_the_bit() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let numbers = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        5e-324,
        -2.2e-310,
        f64::MAX,
        f64::MIN,
        f64::EPSILON,
        140_737_488_355_328.0,
        -140_737_488_355_329.0,
        9_007_199_254_740_992.0,
        1e300,
        0.1 + 0.2,
    ];
    let time = |n: usize| 1_700_000_000_000_000_001 + i64::try_from(n).unwrap() * 999_999_999;
    let fields: Vec<_> = numbers.iter().map(|&x| [("x", RawValue::Float(x))]).collect();
    let readings: Vec<Reading<'_>> = fields
        .iter()
        .enumerate()
        .map(|(n, fields)| (Some(time(n)), [].as_slice(), fields.as_slice()))
        .collect();
    let other: &[(&str, RawValue<'_>)] = &[
        ("t", RawValue::Bool(true)),
        ("f", RawValue::Bool(false)),
        ("empty", RawValue::Str("")),
        ("text", RawValue::Str("a\u{0}b\"'ü\n")),
    ];
    let records = vec![
        record(1, "d", TimeUnit::Ns, &readings),
        record(2, "d", TimeUnit::Ns, &[(Some(time(0)), &[], other)]),
    ];
    store.write(batch(1, 0, records)).await.unwrap();

    let all = fixture.all();
    let floats: Vec<(i64, u64)> = all
        .iter()
        .filter_map(|(_, _, time, value)| match value {
            Stored::Float(x) => Some((*time, x.to_bits())),
            _ => None,
        })
        .collect();
    let expected: Vec<(i64, u64)> =
        numbers.iter().enumerate().map(|(n, x)| (time(n), x.to_bits())).collect();
    assert_eq!(floats, expected);
    let mut others: Vec<_> = all
        .into_iter()
        .filter(|(field, ..)| field != "x")
        .map(|(field, _, at, value)| {
            assert_eq!(at, time(0));
            (field, value)
        })
        .collect();
    others.sort_by(|a, b| a.0.cmp(&b.0));
    let text = |text: &str| Stored::String(text.to_owned());
    assert_eq!(
        others,
        [
            ("empty".to_owned(), text("")),
            ("f".to_owned(), Stored::Boolean(false)),
            ("t".to_owned(), Stored::Boolean(true)),
            ("text".to_owned(), text("a\u{0}b\"'ü\n")),
        ]
    );
}

#[tokio::test]
async fn another_type_is_another_series_and_an_integer_is_a_float() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let records = vec![record(
        1,
        "d",
        TimeUnit::Ns,
        &[
            (Some(1), &[], &[("x", RawValue::Int(21))]),
            (Some(2), &[], &[("x", RawValue::Float(21.5))]),
            (Some(3), &[], &[("x", RawValue::Str("warm"))]),
            (Some(4), &[], &[("x", RawValue::Bool(true))]),
        ],
    )];
    store.write(batch(1, 0, records)).await.unwrap();
    let x = || "x".to_owned();
    assert_eq!(
        fixture.all(),
        [
            (x(), Kind::Float, 1, Stored::Float(21.0)),
            (x(), Kind::Float, 2, Stored::Float(21.5)),
            (x(), Kind::String, 3, Stored::String("warm".to_owned())),
            (x(), Kind::Boolean, 4, Stored::Boolean(true)),
        ]
    );
}

#[tokio::test]
async fn the_newer_of_two_values_wins_and_is_counted() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.write(batch(1, 0, one(5, &[("x", RawValue::Float(1.5))]))).await.unwrap();
    let twice = vec![
        record(2, "d", TimeUnit::Ns, &[(Some(5), &[], &[("x", RawValue::Float(2.5))])]),
        record(3, "d", TimeUnit::Ns, &[(Some(5), &[], &[("x", RawValue::Float(3.5))])]),
    ];
    store.write(batch(2, 1, twice)).await.unwrap();
    assert_eq!(fixture.all(), [("x".to_owned(), Kind::Float, 5, Stored::Float(3.5))]);
    assert_eq!(fixture.reader().counts().unwrap(), (1, 2));
    assert_eq!(store.ledger().unwrap().stored, 3);
}

#[tokio::test]
async fn a_batch_that_comes_again_changes_nothing_also_after_a_restart() {
    let fixture = Fixture::new();
    let batch = batch(1, 0, one(5, &[("x", RawValue::Float(1.0)), ("y", RawValue::Float(2.0))]));
    let store = fixture.open().unwrap();
    store.write(batch.clone()).await.unwrap();
    let ledger = store.ledger().unwrap();
    assert_eq!((ledger.base, ledger.accepted_total, ledger.stored), (Some(0), 1, 1));
    store.write(batch.clone()).await.unwrap();
    drop(store);
    let store = fixture.open().unwrap();
    assert_eq!(store.committed(), Some(Position(1)));
    assert_eq!(store.ledger().unwrap(), ledger);
    store.write(batch).await.unwrap();
    assert_eq!(store.ledger().unwrap(), ledger);
    assert_eq!(fixture.reader().counts().unwrap(), (2, 0));
}

#[tokio::test]
async fn what_the_batch_dropped_is_in_the_ledger() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let mut batch = batch(1, 40, one(5, &[("x", RawValue::Float(1.0))]));
    batch.dropped.damaged = 7;
    batch.dropped.skipped = 2;
    batch.accepted_total = 50;
    let identity = Identity::new("default", "d1");
    let dropped = Dropped { skipped: 2, ..Dropped::default() };
    batch.given_up = [GivenUp { identity: identity.clone(), dropped }].into();
    store.write(batch.clone()).await.unwrap();
    // Of the damaged ones nobody knows whose they were.
    let of_device = of_device(&fixture.path(), &identity).unwrap().unwrap();
    assert_eq!((of_device.2, of_device.3, of_device.1.dropped.total()), (dropped, 2, 9));
    let expected = Ledger {
        base: Some(40),
        accepted_total: 50,
        stored: 1,
        quarantined: 0,
        dropped: batch.dropped,
        epoch: 0,
    };
    assert_eq!(store.ledger(), Some(expected));
    drop(store);
    assert_eq!(fixture.open().unwrap().ledger(), Some(expected));
}

#[tokio::test]
async fn nothing_of_a_batch_with_an_undecodable_record_is_kept() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let mut bad = record(2, "d", TimeUnit::Ns, &[(Some(1), &[], &[("x", RawValue::Float(1.0))])]);
    bad.payload = bad.payload.slice(..bad.payload.len() - 1);
    let mut records = one(5, &[("x", RawValue::Float(1.0))]);
    records.push(bad);
    let error = store.write(batch(1, 0, records)).await.unwrap_err();
    assert!(matches!(error, SinkError::Undecodable(_)), "{error}");
    assert_eq!(store.committed(), Some(Position(0)));
    assert!(fixture.all().is_empty());
    // The numbers of the series that were rolled back are not used.
    store.write(batch(1, 0, one(5, &[("x", RawValue::Float(1.0))]))).await.unwrap();
    assert_eq!(fixture.all().len(), 1);
}

#[tokio::test]
async fn a_gap_stops_the_sink() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let records = vec![record(3, "d", TimeUnit::Ns, &[(None, &[], &[("x", RawValue::Int(1))])])];
    let error = store.write(batch(3, 0, records)).await.unwrap_err();
    assert!(matches!(error, SinkError::Fatal(_)), "{error}");
}

#[test]
fn a_store_that_does_not_fit_the_log_says_what_to_do() {
    let mut fixture = Fixture::new();
    drop(fixture.open().unwrap());
    let range = fixture.log;
    fixture.log.uuid = Uuid::new_v4();
    let error = fixture.open().unwrap_err();
    assert!(matches!(error, OpenError::OtherLog { .. }), "{error}");
    assert!(error.to_string().contains("move the store away"), "{error}");

    fixture.log = LogRange { oldest: Position(2), ..range };
    assert!(matches!(fixture.open().unwrap_err(), OpenError::BelowLog { .. }));

    fixture.log = range;
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    connection.execute("UPDATE cursor SET position = 2000", []).unwrap();
    assert!(matches!(fixture.open().unwrap_err(), OpenError::BeyondLog { .. }));
    assert_eq!(stored_cursor(&fixture.path()).unwrap().unwrap().position, Position(2000));

    connection.pragma_update(None, "user_version", 99).unwrap();
    let error = fixture.open().unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, known: 1, .. }), "{error}");

    connection.pragma_update(None, "application_id", 1).unwrap();
    assert!(matches!(fixture.open().unwrap_err(), OpenError::NotAStore { .. }));
    drop(connection);
    std::fs::write(fixture.path(), "no database, but long enough to be looked at").unwrap();
    assert!(matches!(fixture.open().unwrap_err(), OpenError::Corrupt { .. }));
}

#[test]
fn a_new_store_begins_where_the_log_does() {
    let mut fixture = Fixture::new();
    assert_eq!(stored_cursor(&fixture.path()).unwrap(), None);
    fixture.log.oldest = Position(501);
    assert_eq!(fixture.open().unwrap().committed(), Some(Position(500)));
    let cursor = StoredCursor { log: fixture.log.uuid, position: Position(500) };
    assert_eq!(stored_cursor(&fixture.path()).unwrap(), Some(cursor));
}

#[tokio::test]
async fn only_the_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.write(batch(1, 0, one(5, &[("x", RawValue::Float(1.0))]))).await.unwrap();
    let mut files = 0;
    for file in std::fs::read_dir(fixture.dir.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        files += 1;
    }
    assert_eq!(files, 3, "the file, its write-ahead log and its index");
}

#[tokio::test]
async fn the_cursor_of_a_store_that_was_not_closed_can_be_read() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    store.write(batch(1, 0, one(5, &[("x", RawValue::Float(1.0))]))).await.unwrap();
    // What is on the disk when the power goes now: the index of the write-ahead log is not synced.
    let copy = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("telemetry.db{suffix}");
        std::fs::copy(fixture.dir.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let path = copy.path().join("telemetry.db");
    assert_eq!(stored_cursor(&path).unwrap().unwrap().position, Position(1));
    let options = Options::new(&path);
    let copy = Store::open(options, fixture.log, StoreMetrics::new(&Registry::new())).unwrap();
    assert_eq!(copy.committed(), Some(Position(1)));
    assert_eq!(copy.ledger(), store.ledger());
}

#[tokio::test]
async fn a_locked_file_is_tried_again() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let batch = batch(1, 0, one(5, &[("x", RawValue::Float(1.0))]));
    let error = store.write(batch.clone()).await.unwrap_err();
    assert!(matches!(error, SinkError::Retry { .. }), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    store.write(batch).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_rewound_takes_everything_again_and_doubles_nothing() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let write = async |store: &Store, value: f64| {
        store.write(batch(1, 0, one(5, &[("x", RawValue::Float(value))]))).await.unwrap();
    };
    write(&store, 1.0).await;
    drop(store);
    let before = fixture.all();
    for epoch in 1..=3 {
        let ledger = Ledger { epoch, ..Ledger::beginning(Some(0)) };
        place(&fixture.path(), fixture.log, Position(0), ledger).unwrap();
        assert_eq!(standing(&fixture.path()).unwrap().unwrap().1, ledger);
        let store = fixture.open().unwrap();
        assert_eq!((store.committed(), store.ledger()), (Some(Position(0)), Some(ledger)));
        write(&store, 1.0).await;
        let expected = Ledger { stored: 1, accepted_total: 1, ..ledger };
        assert_eq!(store.ledger(), Some(expected));
        drop(store);
        assert_eq!(fixture.all(), before);
    }
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    let one = |sql: &str| -> i64 { connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(one("SELECT overwritten FROM cursor"), 3);
    assert_eq!(one("SELECT points FROM cursor"), 1);
    assert_eq!(one("SELECT count(*) FROM epoch"), 3);
}
