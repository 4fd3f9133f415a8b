//! The file on disk: what is promised of it, and what becomes of it in trouble.

use super::{
    tests::{Place, ids, ledger, metrics, rejected},
    *,
};
use crate::{
    forward::RejectedHandler,
    record::{GivenUp, Identity, Ledger},
};
use rusqlite::types::Value;
use std::fs;

/// A file of version 1 as SQL: these rows are on users' disks.
const GOLDEN: &str = include_str!("../../tests/golden/quarantine-v1.sql");
/// The same, by a gateway that counts by device; with what is dropped with record 9.
const WITH_DEVICES: &str = include_str!("../../tests/golden/quarantine-v1-devices.sql");

/// Schema and rows as SQL.
fn dump(path: &Path) -> String {
    let db = Connection::open(path).unwrap();
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let texts = |sql: &str| -> Vec<String> {
        let mut statement = db.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let mut out = format!("PRAGMA user_version = {version};\n");
    let own = "WHERE name NOT LIKE 'sqlite%'";
    for sql in texts(&format!("SELECT sql FROM sqlite_schema {own} ORDER BY name")) {
        out += &format!("{sql};\n");
    }
    let tables = texts(&format!("SELECT name FROM sqlite_schema {own} AND type = 'table'"));
    for table in tables {
        let mut statement = db.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values = (0..columns).map(|column| match row.get(column).unwrap() {
                Value::Blob(bytes) => {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    format!("x'{hex}'")
                }
                Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
                Value::Integer(n) => n.to_string(),
                other => panic!("{other:?}"),
            });
            let values: Vec<String> = values.collect();
            out += &format!("INSERT INTO {table} VALUES ({});\n", values.join(", "));
        }
    }
    out
}

/// The place whose file the golden one is.
fn golden_place() -> (Place, PathBuf) {
    let mut place = Place::new();
    place.log = "018f4d5e-7a1b-7c3d-8e9f-0123456789ab".parse().unwrap();
    let path = place.dir.path().join("quarantine.db");
    (place, path)
}

#[test]
fn the_file_is_written_as_the_golden_one() {
    let (place, path) = golden_place();
    let (quarantine, sink) = place.sink(0, &Ledger { epoch: 2, ..Ledger::default() });
    sink.keep(&[rejected(1, 0), rejected(1, 1), rejected(7, 4_999)]).unwrap();
    sink.passed(Position(7));
    quarantine.give_up(&Filter { id: Some(2), ..Filter::default() }).unwrap();
    for (position, skipped) in [(8, 3), (9, 4)] {
        sink.give_up(Position(position), &[given_up("d", skipped)]).unwrap();
        sink.passed(Position(8));
    }
    drop((quarantine, sink));
    // The only thing that no test can know.
    let db = Connection::open(&path).unwrap();
    db.execute("UPDATE entry SET kept_ns = 1760000000000000000", []).unwrap();
    drop(db);
    assert_eq!(dump(&path), WITH_DEVICES);
}

#[test]
fn the_golden_file_is_read_and_its_readings_can_be_sent_again() {
    let (place, path) = golden_place();
    Connection::open(&path).unwrap().execute_batch(GOLDEN).unwrap();
    let (quarantine, sink) = place.sink(7, &Ledger { epoch: 2, ..ledger(3) });
    assert_eq!(ids(&quarantine), [(1, 0), (7, 4_999)]);
    assert_eq!((sink.moves().stored, sink.moves().dropped.operator), (0, 1));
    for entry in quarantine.list(&Filter::default(), 10).unwrap() {
        assert!(entry.is_readable() && entry.counted && entry.epoch == 2);
        assert_eq!((&*entry.sink, &*entry.device, &*entry.realm), ("influx", "d", "default"));
        assert_eq!((&*entry.reason, entry.received_ns), ("field type conflict", 5));
        let json = entry.to_json();
        assert_eq!(json["fields"], serde_json::json!({ "x": 0.1 + 0.2, "s": "a\n\u{202e}b" }));
        assert_eq!((&json["measurement"], &json["tags"]["t"]), (&"m".into(), &"v".into()));
    }
}

fn given_up(device: &str, skipped: u64) -> GivenUp {
    let dropped = Dropped { skipped, ..Dropped::default() };
    GivenUp { identity: Identity::new("default", device), dropped }
}

#[test]
fn the_golden_file_with_devices_is_read() {
    let (place, path) = golden_place();
    Connection::open(&path).unwrap().execute_batch(WITH_DEVICES).unwrap();
    let dropped = Dropped { skipped: 3, ..Dropped::default() };
    let ledger = Ledger { epoch: 2, dropped, ..ledger(3) };
    let (quarantine, _sink) = place.sink(8, &ledger);
    let at = ("influx", 2, Position(8));
    let of = quarantine.of_device(&Identity::new("default", "d"), place.log, at).unwrap();
    let expected = Dropped { skipped: 3, operator: 1, ..Dropped::default() };
    assert_eq!((of.quarantined, of.dropped, of.dropped_of_all), (2, expected, 4));
}

/// Whenever the process ends, what is counted by device is what the cursor has passed.
#[test]
fn what_is_dropped_of_a_device_is_counted_once_whenever_the_process_ended() {
    let place = Place::new();
    let of = |quarantine: &Quarantine, device: &str, passed: u64| {
        let device = Identity::new("default", device);
        let of = quarantine.of_device(&device, place.log, ("influx", 0, Position(passed)));
        let of = of.unwrap();
        (of.dropped.skipped, of.dropped_of_all)
    };
    let after =
        |skipped: u64| Ledger { dropped: Dropped { skipped, ..Dropped::default() }, ..ledger(0) };
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    for (position, skipped) in [(10, 5), (20, 7)] {
        sink.keep(&[]).unwrap();
        sink.give_up(Position(position), &[given_up("d", skipped), given_up("e", 1)]).unwrap();
        assert_eq!(of(&quarantine, "d", position - 1).0, if position == 10 { 0 } else { 5 });
        sink.passed(Position(position));
    }
    assert_eq!((of(&quarantine, "d", 20), of(&quarantine, "e", 20)), ((12, 14), (2, 14)));
    // Three attempts, of which none moves the cursor, and the end.
    for _ in 0..3 {
        sink.keep(&[]).unwrap();
        sink.give_up(Position(30), &[given_up("d", 100)]).unwrap();
    }
    drop((quarantine, sink));
    let (quarantine, sink) = place.sink(20, &after(14));
    assert_eq!((of(&quarantine, "d", 40), of(&quarantine, "e", 40)), ((12, 14), (2, 14)));
    sink.give_up(Position(25), &[given_up("d", 50)]).unwrap();
    sink.passed(Position(25));
    assert_eq!(of(&quarantine, "d", 25), (62, 64));
    // Attempts of which the last one moves the cursor.
    for _ in 0..3 {
        sink.keep(&[]).unwrap();
        sink.give_up(Position(35), &[given_up("d", 10)]).unwrap();
    }
    sink.passed(Position(35));
    assert_eq!(of(&quarantine, "d", 35), (72, 74));
    // A ledger that has begun anew counts none of it.
    sink.rewound(Position(5), &Ledger { epoch: 1, ..Ledger::default() }).unwrap();
    assert_eq!(of(&quarantine, "d", 25), (0, 0));
}

#[test]
fn a_damaged_entry_is_reported_and_the_rest_is_readable() {
    let place = Place::new();
    let path = place.dir.path().join("quarantine.db");
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&(0..5).map(|index| rejected(1, index)).collect::<Vec<_>>()).unwrap();
    sink.passed(Position(1));
    drop((quarantine, sink));
    let db = Connection::open(&path).unwrap();
    let damages = [
        "UPDATE entry SET body = CAST(substr(body, 1, 60) || x'00' AS BLOB) WHERE id = 1",
        "UPDATE entry SET device = 'another' WHERE id = 2",
        "UPDATE entry SET reason = CAST(x'66ff67' AS TEXT) WHERE id = 3",
        "UPDATE entry SET realm = CAST(x'ff' AS TEXT) WHERE id = 4",
    ];
    for damage in damages {
        assert_eq!(db.execute(damage, []).unwrap(), 1);
    }
    drop(db);
    let (quarantine, sink) = place.sink(1, &ledger(5));
    let entries = quarantine.list(&Filter::default(), 10).unwrap();
    let readable: Vec<bool> = entries.iter().map(Entry::is_readable).collect();
    assert_eq!(readable, [false, false, true, false, true]);
    assert_eq!(entries[2].reason, "f\u{fffd}g");
    let json = entries[0].to_json();
    assert_eq!((&json["damaged"], &json["device"]), (&true.into(), &"d".into()));
    assert!(json["reading_hex"].as_str().unwrap().len() > 20, "{json}");
    assert!(json["fields"].is_null(), "{json}");
    // It can be given up like any other.
    assert_eq!(quarantine.give_up(&Filter::default()).unwrap(), 5);
    assert_eq!(sink.moves().applied(ledger(5)).imbalance(10), 0);
}

#[test]
fn a_file_of_before_a_rewind_that_is_put_back_counts_nothing() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0), rejected(1, 1)]).unwrap();
    sink.passed(Position(1));
    quarantine.give_up(&Filter { id: Some(1), ..Filter::default() }).unwrap();
    drop((quarantine, sink));
    let now = Ledger { epoch: 1, ..ledger(3) };
    let (quarantine, sink) = place.sink(5, &now);
    assert_eq!(sink.moves(), Moves::default());
    assert!(!quarantine.list(&Filter::default(), 1).unwrap()[0].counted);
    quarantine.give_up(&Filter::default()).unwrap();
    assert_eq!(sink.moves().applied(now), now, "it is of another epoch");
}

#[test]
fn a_file_that_is_none_is_refused_with_what_to_do() {
    let place = Place::new();
    let path = place.dir.path().join("quarantine.db");
    fs::write(&path, "not a database, and long enough to be looked at".repeat(100)).unwrap();
    let error = Quarantine::open(&path, place.options, metrics()).unwrap_err();
    assert!(matches!(error, QuarantineError::Damaged { .. }), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("quarantine.db") && said.contains("move it and its -wal aside"),
        "{said}"
    );
}

/// A crash leaves some of what was written last: whole transactions are there, in their order, and
/// no half of one; whatever was synced is not cut.
#[test]
fn a_torn_tail_of_the_file_is_repaired_at_every_length() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    for position in 1..=4 {
        sink.keep(&[rejected(position, 0), rejected(position, 1)]).unwrap();
        sink.passed(Position(position));
    }
    let wal = fs::read(place.dir.path().join("quarantine.db-wal")).unwrap();
    let database = fs::read(place.dir.path().join("quarantine.db")).unwrap();
    drop((quarantine, sink));
    let mut seen = Vec::new();
    for kept in (0..=wal.len()).rev().step_by(1_009).chain([0, wal.len()]) {
        let torn = Place { dir: tempfile::tempdir().unwrap(), ..Place::new() };
        fs::write(torn.dir.path().join("quarantine.db"), &database).unwrap();
        fs::write(torn.dir.path().join("quarantine.db-wal"), &wal[..kept]).unwrap();
        let quarantine = torn.open();
        let found = ids(&quarantine);
        let whole = u64::try_from(found.len()).unwrap() / 2;
        let expected: Vec<_> = (1..=whole).flat_map(|at| [(at, 0), (at, 1)]).collect();
        assert_eq!(found, expected, "cut at {kept} of {}", wal.len());
        seen.push(whole);
        // It goes on from there.
        drop(quarantine);
        let (quarantine, sink) = torn.sink(10, &ledger(0));
        sink.keep(&[rejected(11, 0)]).unwrap();
        assert_eq!(ids(&quarantine).last(), Some(&(11, 0)));
    }
    assert_eq!((seen.first(), seen.iter().min()), (Some(&4), Some(&0)));
    assert!(seen.contains(&1) && seen.contains(&2) && seen.contains(&3), "{seen:?}");
}
