#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    forward::{Rejected, RejectedHandler},
    record::Ledger,
};
use proto::{BatchEncoder, RawValue};
use std::sync::Arc;
use uuid::Uuid;

pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) log: Uuid,
    pub(super) options: Options,
}

impl Place {
    pub(super) fn new() -> Self {
        let options = Options { max_bytes: 1 << 20, when_full: WhenFull::Hold };
        Self { dir: tempfile::tempdir().unwrap(), log: Uuid::new_v4(), options }
    }

    pub(super) fn open(&self) -> Arc<Quarantine> {
        let path = self.dir.path().join("quarantine.db");
        Arc::new(Quarantine::open(&path, self.options, metrics()).unwrap())
    }

    /// As after a start: everything is opened again.
    pub(super) fn sink(&self, position: u64, ledger: &Ledger) -> (Arc<Quarantine>, OfSink) {
        let quarantine = self.open();
        let of = Arc::clone(&quarantine);
        let sink = OfSink::open(of, "influx", self.log, Position(position), ledger).unwrap();
        (quarantine, sink)
    }
}

pub(super) fn metrics() -> QuarantineMetrics {
    QuarantineMetrics::new(&crate::metrics::Registry::new())
}

pub(super) fn rejected(position: u64, index: u32) -> Rejected {
    let mut encoder = BatchEncoder::new();
    let fields = [("x", RawValue::Float(0.1 + 0.2)), ("s", RawValue::Str("a\n\u{202e}b"))];
    encoder.readings(1, 1).reading(Some("m"), Some(7), &[("t", "v")], &fields);
    Rejected {
        position: Position(position),
        index,
        reason: "field type conflict".to_owned(),
        realm: "default".to_owned(),
        device: "d".to_owned(),
        receive_ns: 5,
        reading: encoder.body().to_vec(),
    }
}

pub(super) fn ids(quarantine: &Quarantine) -> Vec<(u64, u32)> {
    let entries = quarantine.list(&Filter::default(), MAX_PAGE).unwrap();
    // What is counted in memory is what is there.
    let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM entry WHERE sink = 'influx'";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found: (i64, i64) = quarantine.connection().query_row(sql, [], row).unwrap();
    let Known { entries: count, bytes, .. } = quarantine.known("influx");
    assert_eq!((file::signed(count), file::signed(bytes)), found);
    entries.iter().map(|of| (of.position.0, of.index)).collect()
}

/// A ledger that has passed 10 readings, of which so many were refused.
pub(super) fn ledger(quarantined: u64) -> Ledger {
    Ledger {
        base: Some(0),
        accepted_total: 10,
        stored: 10 - quarantined,
        quarantined,
        ..Ledger::default()
    }
}

#[test]
fn a_reading_is_there_once_whenever_the_process_ended() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0), rejected(2, 3)]).unwrap();
    sink.keep(&[rejected(1, 0), rejected(2, 3)]).unwrap();
    assert_eq!(ids(&quarantine), [(1, 0), (2, 3)]);
    drop((quarantine, sink));
    // The cursor was not saved: the batch comes again, in other bounds.
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0)]).unwrap();
    sink.passed(Position(1));
    assert_eq!(ids(&quarantine).iter().filter(|id| **id == (1, 0)).count(), 1);
    drop((quarantine, sink));
    // Kept, and the process ended before the cursor passed record 2: it comes again.
    let (quarantine, sink) = place.sink(1, &ledger(1));
    sink.keep(&[rejected(2, 3)]).unwrap();
    drop((quarantine, sink));
    let (quarantine, _sink) = place.sink(1, &ledger(1));
    assert_eq!(ids(&quarantine), [(1, 0)]);
}

#[test]
fn what_leaves_is_counted_where_it_went_and_never_twice() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0), rejected(1, 1), rejected(1, 2)]).unwrap();
    sink.passed(Position(1));
    let entries = quarantine.list(&Filter::default(), 10).unwrap();
    let sent = Sent {
        stored: vec![entries[0].id],
        unsupported: Vec::new(),
        refused: vec![(entries[1].id, "again".to_owned())],
    };
    quarantine.sent(&sent).unwrap();
    quarantine.sent(&sent).unwrap();
    let only = Filter { id: Some(entries[2].id), ..Filter::default() };
    assert_eq!(quarantine.give_up(&only).unwrap(), 1);
    assert_eq!(quarantine.give_up(&only).unwrap(), 0);
    drop((quarantine, sink));
    let (quarantine, sink) = place.sink(1, &ledger(3));
    let shown = sink.moves().applied(ledger(3));
    assert_eq!((shown.stored, shown.quarantined, shown.dropped.operator), (8, 1, 1));
    assert_eq!(shown.imbalance(10), 0);
    assert_eq!(quarantine.list(&Filter::default(), 10).unwrap()[0].reason, "again");
    assert_eq!(quarantine.known("influx").entries, shown.quarantined);
}

#[test]
fn what_the_cursor_has_not_passed_is_left_alone() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0)]).unwrap();
    assert_eq!(quarantine.give_up(&Filter::default()).unwrap(), 0);
    assert!(quarantine.due(&Filter::default()).unwrap().0.is_empty());
    sink.passed(Position(1));
    assert_eq!(quarantine.due(&Filter::default()).unwrap().0.len(), 1);
    assert_eq!(quarantine.give_up(&Filter::default()).unwrap(), 1);
}

#[test]
fn a_ledger_that_begins_anew_does_not_count_what_was_there() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0), rejected(1, 1)]).unwrap();
    sink.passed(Position(1));
    let first = Filter { after: None, ..Filter::default() };
    let id = quarantine.list(&first, 1).unwrap()[0].id;
    quarantine.give_up(&Filter { id: Some(id), ..first }).unwrap();
    drop((quarantine, sink));
    let anew = Ledger { epoch: 1, ..Ledger::default() };
    let (quarantine, sink) = place.sink(0, &anew);
    assert_eq!(sink.moves(), Moves::default());
    // Refused again: once, and counted in the new epoch.
    sink.keep(&[rejected(1, 0), rejected(1, 1)]).unwrap();
    sink.passed(Position(1));
    assert_eq!(ids(&quarantine).len(), 2);
    assert!(
        quarantine
            .list(&Filter::default(), 10)
            .unwrap()
            .iter()
            .all(|of| of.counted && of.epoch == 1)
    );
}

#[test]
fn a_rewind_lets_readings_be_refused_again_and_be_there_once() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0), rejected(2, 1)]).unwrap();
    sink.passed(Position(2));
    let id = quarantine.list(&Filter::default(), 1).unwrap()[0].id;
    quarantine.give_up(&Filter { id: Some(id), ..Filter::default() }).unwrap();
    assert_eq!(sink.moves().dropped.operator, 1);

    let anew = Ledger { epoch: 1, ..Ledger::default() };
    sink.rewound(Position(0), &anew).unwrap();
    assert_eq!(sink.moves(), Moves::default(), "of the ledger that is over");
    assert_eq!(ids(&quarantine), [(2, 1)]);
    sink.keep(&[rejected(1, 0), rejected(2, 1)]).unwrap();
    sink.passed(Position(2));
    let mut now = ids(&quarantine);
    now.sort_unstable();
    assert_eq!(now, [(1, 0), (2, 1)]);
    drop((quarantine, sink));
    let (quarantine, sink) = place.sink(2, &Ledger { epoch: 1, ..ledger(2) });
    assert_eq!(quarantine.give_up(&Filter::default()).unwrap(), 2);
    let shown = sink.moves().applied(Ledger { epoch: 1, ..ledger(2) });
    assert_eq!((shown.quarantined, shown.dropped.operator, shown.imbalance(10)), (0, 2, 0));

    // Rewound while no gateway ran: what left before is not of the new epoch.
    drop((quarantine, sink));
    let (_quarantine, sink) = place.sink(0, &Ledger { epoch: 2, ..Ledger::default() });
    assert_eq!(sink.moves(), Moves::default());
}

#[test]
fn an_attempt_that_came_to_no_end_leaves_nothing_behind() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 0)]).unwrap();
    sink.passed(Position(1));
    sink.keep(&[rejected(2, 0), rejected(2, 1)]).unwrap();
    // The cursor could not be kept; the next time the destination takes them.
    sink.keep(&[]).unwrap();
    sink.passed(Position(2));
    assert_eq!(ids(&quarantine), [(1, 0)]);
}

#[test]
fn a_full_quarantine_holds_or_drops_the_oldest_and_counts_them() {
    let mut place = Place::new();
    place.options.max_bytes = 1_000;
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    let batch: Vec<_> = (0..3).map(|index| rejected(1, index)).collect();
    assert_eq!(sink.keep(&batch).unwrap(), 0);
    sink.passed(Position(1));
    let more: Vec<_> = (0..2).map(|index| rejected(2, index)).collect();
    let error = sink.keep(&more).unwrap_err().to_string();
    assert!(error.contains("quarantine.max_bytes"), "{error}");
    assert_eq!(ids(&quarantine), [(1, 0), (1, 1), (1, 2)]);
    drop((quarantine, sink));

    place.options.when_full = WhenFull::DropOldest;
    let (quarantine, sink) = place.sink(1, &ledger(3));
    assert_eq!(sink.keep(&more).unwrap(), 0);
    assert_eq!(sink.keep(&more).unwrap(), 0, "the same again");
    sink.passed(Position(2));
    let left = ids(&quarantine);
    assert!(left.ends_with(&[(2, 1)]) || left.ends_with(&[(2, 0)]), "{left:?}");
    let shown = sink.moves().applied(ledger(5));
    assert_eq!(
        (shown.quarantined, shown.dropped.quarantine_full),
        (left.len() as u64, 5 - left.len() as u64)
    );
    assert!(quarantine.known("influx").bytes <= 1_000);
    // A batch that is larger than all of it: the rest of it is the cursor's to count.
    let large: Vec<_> = (0..20).map(|index| rejected(3, index)).collect();
    let dropped = sink.keep(&large).unwrap();
    assert_eq!(ids(&quarantine).len() as u64 + dropped, 20);
}

#[test]
fn a_reading_comes_out_as_it_went_in_with_nothing_that_acts() {
    let place = Place::new();
    let (quarantine, sink) = place.sink(0, &Ledger::default());
    sink.keep(&[rejected(1, 4)]).unwrap();
    let json = quarantine.list(&Filter::default(), 1).unwrap()[0].to_json();
    assert_eq!(json["fields"], serde_json::json!({ "x": 0.1 + 0.2, "s": "a\n\u{202e}b" }));
    assert_eq!((json["time_ns"].as_i64(), json["received_ns"].as_i64()), (Some(7), Some(5)));
    assert_eq!((&json["measurement"], &json["tags"]["t"]), (&"m".into(), &"v".into()));
}

#[test]
fn a_newer_file_is_refused_by_name() {
    let place = Place::new();
    drop(place.open());
    let path = place.dir.path().join("quarantine.db");
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    let error = Quarantine::open(&path, place.options, metrics()).unwrap_err();
    assert!(matches!(error, QuarantineError::Newer { found: 9, .. }), "{error}");
}
