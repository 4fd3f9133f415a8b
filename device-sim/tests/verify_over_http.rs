//! The oracle against InfluxDB and VictoriaMetrics that lie, each as far as it can: every lie is
//! found, counted and named; what a store cannot show is not said to be right.
#![allow(clippy::unwrap_used)]

mod common;

use common::http_store::{HttpStore, State};
use common::readings::{Reading, Value, journal, readings};
use device_sim::journal::{self, Journal, RefusedBatch};
use device_sim::plan::Plan;
use device_sim::verify::{
    Credential, Endpoint, InfluxDb, InfluxDb2, Report, VictoriaMetrics, verify,
};
use std::time::Duration;

const BATCHES: u64 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Influx,
    Influx2,
    Victoria,
}

const KINDS: [Kind; 3] = [Kind::Influx, Kind::Influx2, Kind::Victoria];

fn plan() -> Plan {
    Plan { base_ns: 1_800_000_000_123_456_789, ..common::plan(3, 2) }
}

/// Readings that are 200 µs apart.
fn dense() -> Plan {
    Plan { ramp_ns: 0, ..common::paced(plan(), 1_000_000, 5) }
}

fn endpoint(store: &HttpStore) -> Endpoint {
    Endpoint { url: store.url.clone(), ca: None, credential: Credential::None }
}

fn try_verify(
    kind: Kind,
    endpoint: &Endpoint,
    journal: &Journal,
    settle: Duration,
) -> anyhow::Result<Report> {
    match kind {
        Kind::Influx => {
            verify(&mut InfluxDb::open(endpoint, "fleet", None, &journal.plan)?, journal, settle)
        }
        Kind::Influx2 => {
            let mut store = InfluxDb2::open(endpoint, "fleet", "our org")?;
            verify(&mut store, journal, settle)
        }
        Kind::Victoria => {
            verify(&mut VictoriaMetrics::open(endpoint, &journal.plan)?, journal, settle)
        }
    }
}

fn check(kind: Kind, store: &HttpStore, journal: &Journal) -> Report {
    try_verify(kind, &endpoint(store), journal, Duration::ZERO).unwrap()
}

/// The verdict on a run whose store holds something else than was sent.
fn told(kind: Kind, plan: &Plan, lie: impl FnOnce(&mut Vec<Reading>)) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let mut held = readings(plan, BATCHES);
    lie(&mut held);
    check(kind, &HttpStore::start(held), &journal(folder.path(), plan, BATCHES))
}

fn count(plan: &Plan, of: impl Fn(&Value) -> bool) -> u64 {
    readings(plan, BATCHES).iter().flat_map(|r| r.fields.values()).filter(|v| of(v)).count() as u64
}

fn is_text(value: &Value) -> bool {
    matches!(value, Value::Text(_))
}

fn is_bool(value: &Value) -> bool {
    matches!(value, Value::Bool(_))
}

#[test]
fn the_truth_passes_at_the_fidelity_of_the_store() {
    let plan = plan();
    let acked = u64::from(plan.devices * plan.kinds[0].batch) * BATCHES;
    let (texts, bools) = (count(&plan, is_text), count(&plan, is_bool));
    assert!(texts > 0 && bools > 0, "the plan has none: {texts} {bools}");
    let reduced = [(Kind::Influx, 0, 0), (Kind::Influx2, 0, 0), (Kind::Victoria, bools, texts)];
    for (kind, reduced, not_held) in reduced {
        let report = told(kind, &plan, |_| {});
        assert!(report.passed, "{kind:?}: {}", report.table());
        assert_eq!((report.acked, report.stored, report.not_shown), (acked, acked, 0));
        assert_eq!((report.lost, report.altered, report.unexpected), (0, 0, 0));
        assert_eq!(report.duplicated, None, "not 0: {kind:?} cannot show it");
        assert_eq!((report.values_reduced, report.values_not_held), (reduced, not_held));
        let in_part = report.table().contains("as far as this store can hold");
        assert_eq!(in_part, kind == Kind::Victoria);
    }
}

#[test]
fn each_lie_is_named() {
    type Lie = fn(&mut Vec<Reading>);
    fn set(reading: &mut Reading, field: &str, value: Value) {
        reading.fields.insert(field.to_owned(), value);
    }
    // (word, lie, lost, altered, unexpected)
    let lies: &[(&str, Lie, [u64; 3])] = &[
        ("not in the store", |held| drop(held.remove(17)), [1, 0, 0]),
        (
            "pressure",
            |held| {
                let Some(Value::Float(x)) = held[20].fields.get_mut("pressure") else { panic!() };
                *x = f64::from_bits(x.to_bits() + 1);
            },
            [0, 1, 0],
        ),
        (
            "site",
            |held| {
                held[9].tags.insert("site".to_owned(), "elsewhere".to_owned());
            },
            [0, 1, 0],
        ),
        ("room", |held| drop(held[9].tags.remove("room")), [0, 1, 0]),
        ("weather", |held| held[9].measurement = "weather".to_owned(), [0, 1, 0]),
        ("battery is missing", |held| drop(held[9].fields.remove("battery")), [0, 1, 0]),
        ("wind", |held| set(&mut held[9], "wind", Value::Float(1.0)), [0, 1, 0]),
        (
            "status",
            |held| {
                let with_text = held.iter_mut().find(|r| r.fields.contains_key("status")).unwrap();
                set(with_text, "status", Value::Float(0.0));
            },
            [0, 1, 0],
        ),
        (
            "door",
            |held| {
                let with_door = held.iter_mut().find(|r| r.fields.contains_key("door")).unwrap();
                let Value::Bool(open) = with_door.fields["door"] else { panic!() };
                set(with_door, "door", Value::Bool(!open));
            },
            [0, 1, 0],
        ),
        (
            "no reading was sent",
            |held| {
                let other = Reading { time_ns: held[30].time_ns + 1_000_000, ..held[30].clone() };
                held.push(other);
            },
            [0, 0, 1],
        ),
        (
            "no such device",
            |held| {
                let other = Reading { device: "sim-00003".to_owned(), ..held[30].clone() };
                held.push(other);
            },
            [0, 0, 1],
        ),
    ];
    for kind in KINDS {
        for (word, lie, found) in lies {
            let report = told(kind, &plan(), *lie);
            let all = [report.lost, report.altered, report.unexpected];
            assert_eq!(all, *found, "{kind:?} {word}: {}", report.table());
            assert!(!report.passed);
            let details = report.examples.values().flatten().map(|example| &example.detail);
            assert!(details.clone().any(|detail| detail.contains(word)), "{kind:?} {word}");
        }
    }
}

#[test]
fn what_only_one_of_them_can_show() {
    let plan = plan();
    // A nanosecond, an integer in place of a float, a number in place of a text.
    let shifted = |held: &mut Vec<Reading>| held[4].time_ns += 1;
    for kind in [Kind::Influx, Kind::Influx2] {
        let report = told(kind, &plan, shifted);
        assert_eq!((report.lost, report.unexpected), (1, 1), "{}", report.table());
    }
    assert!(told(Kind::Victoria, &plan, shifted).passed);

    let integer = |held: &mut Vec<Reading>| {
        let Value::Float(x) = held[4].fields["battery"] else { panic!() };
        held.iter_mut().for_each(|r| {
            r.fields.insert("battery".to_owned(), Value::Int(x as i64));
        });
    };
    for kind in [Kind::Influx, Kind::Influx2] {
        let report = told(kind, &plan, integer);
        assert!(report.altered > 0, "another device has another battery");
    }

    // Twice: one takes the place of the other, or both show.
    let twice = |held: &mut Vec<Reading>| held.push(held[4].clone());
    for kind in [Kind::Influx, Kind::Influx2] {
        let report = told(kind, &plan, twice);
        assert_eq!((report.passed, report.duplicated), (true, None));
    }
    let report = told(Kind::Victoria, &plan, twice);
    assert_eq!((report.passed, report.duplicated), (false, Some(1)));
}

#[test]
fn readings_within_a_millisecond_are_compared_as_one_store_or_the_other_keeps_them() {
    let (plan, folder) = (dense(), tempfile::tempdir().unwrap());
    let acked = u64::from(plan.devices * plan.kinds[0].batch) * BATCHES;
    let journal = journal(folder.path(), &plan, BATCHES);
    assert!(told(Kind::Influx, &plan, |_| {}).passed);
    assert!(told(Kind::Influx2, &plan, |_| {}).passed);

    let held = readings(&plan, BATCHES);
    let times: std::collections::BTreeSet<_> =
        held.iter().map(|r| (&r.device, r.time_ns / 1_000_000)).collect();
    let shown = times.len() as u64;
    assert!(shown * 4 < acked, "several readings share a millisecond");
    let store = HttpStore::start(held.clone());
    let report = check(Kind::Victoria, &store, &journal);
    assert!(report.passed, "{}", report.table());
    assert_eq!((report.stored, report.not_shown, report.lost), (acked, 0, 0));
    assert!(report.values_reduced > acked);

    // It keeps them apart: one that is missing is lost.
    store.set(|state| drop(state.readings.remove(7)));
    let report = check(Kind::Victoria, &store, &journal);
    assert_eq!((report.passed, report.lost, report.stored), (false, 1, acked - 1));

    // It keeps one of each millisecond: of the others nothing is said.
    store.set(|state| *state = State { readings: held, deduplicates: true, ..State::default() });
    let report = check(Kind::Victoria, &store, &journal);
    assert_eq!((report.lost, report.altered, report.unexpected), (0, 0, 0), "{}", report.table());
    assert_eq!((report.stored + report.not_shown, report.passed), (acked, true));
    assert!(report.not_shown >= acked - shown && report.stored > 0);
    store.set(|state| {
        let value = state.readings.last_mut().unwrap().fields.get_mut("temperature").unwrap();
        *value = Value::Float(99.0);
    });
    let report = check(Kind::Victoria, &store, &journal);
    assert_eq!((report.passed, report.altered), (false, 1), "{}", report.table());
}

#[test]
fn what_was_refused_must_not_be_there() {
    for (plan, kinds) in [(plan(), &KINDS[..]), (dense(), &[Kind::Victoria])] {
        let folder = tempfile::tempdir().unwrap();
        let all = journal(folder.path(), &plan, BATCHES);
        let path = folder.path().join("refused.journal");
        let refused = |device| {
            let readings = vec![(1, proto::ErrorCode::NotFinite)];
            let unnamed = u32::from(device == 0);
            RefusedBatch { seq: 2, whole: None, readings, unnamed }
        };
        let ledgers = all.ledgers().unwrap().map(|ledger| {
            let mut ledger = ledger.unwrap();
            ledger.refuse(refused(ledger.device));
            ledger
        });
        journal::write(&path, &plan, ledgers, true).unwrap();
        let journal = Journal::open(&path).unwrap();
        let mut held = readings(&plan, BATCHES);
        let batch = plan.kinds[0].batch as usize;
        let place = |device: usize, index: usize| device * batch * BATCHES as usize + batch + index;
        // From the last device to the first; of the first device one more, not named.
        let kept = held[place(2, 1)].clone();
        for (device, index) in [(2, 1), (1, 1), (0, 3), (0, 1)] {
            held.remove(place(device, index));
        }
        for &kind in kinds {
            let report = check(kind, &HttpStore::start(held.clone()), &journal);
            assert!(report.passed, "{kind:?} {}", report.table());
            assert_eq!((report.refused, report.stored), (4, report.acked));
            let mut wrong = held.clone();
            wrong.push(kept.clone());
            let report = check(kind, &HttpStore::start(wrong), &journal);
            assert_eq!((report.passed, report.unexpected), (false, 1), "{}", report.table());
            let mut fewer = held.clone();
            fewer.remove(place(0, 0));
            let report = check(kind, &HttpStore::start(fewer), &journal);
            assert_eq!((report.passed, report.lost), (false, 1), "{}", report.table());
        }
    }
}

#[test]
fn a_long_run_comes_in_pieces() {
    let plan = Plan { devices: 1, duration_ns: 1_000_000_000_000, ..plan() };
    let plan = common::paced(plan, 60_000_000_000, 4_000);
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path(), &plan, 7);
    for kind in [Kind::Influx, Kind::Victoria] {
        let store = HttpStore::start(readings(&plan, 7));
        let report = check(kind, &store, &journal);
        assert!(report.passed, "{kind:?} {}", report.table());
        assert_eq!(report.stored, 28_000);
        let pieces = store.state.lock().unwrap().questions.len();
        assert!((4..64).contains(&pieces), "{kind:?} {pieces}");
        store.set(|state| drop(state.readings.remove(13_999)));
        assert_eq!(check(kind, &store, &journal).lost, 1);
    }
    // A server that cuts answers off says so.
    let store = HttpStore::start(readings(&plan, 7));
    store.set(|state| state.max_row_limit = Some(1_000));
    assert!(check(Kind::Influx, &store, &journal).passed);
}

#[test]
fn a_store_that_lags_is_waited_for_and_what_it_closes_is_opened_again() {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    let journal = journal(folder.path(), &plan, BATCHES);
    for kind in KINDS {
        let all = readings(&plan, BATCHES);
        let store = HttpStore::start(all[1..].to_vec());
        store.set(|state| state.closes = true);
        let (state, late) = (std::sync::Arc::clone(&store.state), all[0].clone());
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            state.lock().unwrap().readings.push(late);
        });
        let report =
            try_verify(kind, &endpoint(&store), &journal, Duration::from_secs(20)).unwrap();
        writer.join().unwrap();
        assert!(report.passed && report.waited_s < 10.0, "{kind:?} {}", report.table());
        assert_eq!((report.late, report.examples["late"].len()), (1, 1), "{kind:?}");
    }
}

#[test]
fn credentials_are_shown_to_the_store_and_its_refusals_to_the_person() {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    let journal = journal(folder.path(), &plan, BATCHES);
    let store = HttpStore::start(readings(&plan, BATCHES));
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "open sesame\n").unwrap();
    let token = Credential::TokenFile(secret.clone());
    let user = Credential::User("ali".to_owned(), secret);
    for (kind, credential, header) in [
        (Kind::Influx, &token, "Token open sesame"),
        (Kind::Influx2, &token, "Token open sesame"),
        (Kind::Victoria, &token, "Bearer open sesame"),
        (Kind::Influx, &user, "Basic YWxpOm9wZW4gc2VzYW1l"),
        (Kind::Victoria, &user, "Basic YWxpOm9wZW4gc2VzYW1l"),
    ] {
        store.set(|state| state.authorization = Some(header));
        let own = Endpoint { credential: credential.clone(), ..endpoint(&store) };
        assert!(!format!("{own:?}").contains("sesame"));
        assert!(try_verify(kind, &own, &journal, Duration::ZERO).unwrap().passed);
        let error = try_verify(kind, &endpoint(&store), &journal, Duration::ZERO).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("401") && error.contains("unauthorized access"), "{error}");
    }
    store.set(|state| state.authorization = None);
    for (kind, refuses, word) in [
        (Kind::Influx, (404, "{\"error\":\"database not found\"}"), "database not found"),
        (Kind::Influx, (200, "{\"results\":[{\"error\":\"timeout\"}]}"), "timeout"),
        (Kind::Influx, (200, "{\"error\":\"no such thing\"}"), "no such thing"),
        (Kind::Influx, (200, "<html>"), "the answer of"),
        (Kind::Influx2, (404, "could not find bucket"), "could not find bucket"),
        (Kind::Influx2, (200, "<html>,"), "annotations not found"),
        (Kind::Victoria, (503, "too many series"), "too many series"),
        (Kind::Victoria, (200, "<html>"), "<html>"),
    ] {
        store.set(|state| state.refuses = Some(refuses));
        let error = try_verify(kind, &endpoint(&store), &journal, Duration::ZERO).unwrap_err();
        assert!(format!("{error:#}").contains(word), "{error:#}");
    }
    for url in ["localhost:8086", "ftp://x", "http://user:pass@x", "http://x/?db=1"] {
        let none = Endpoint { url: url.to_owned(), ca: None, credential: Credential::None };
        for kind in KINDS {
            let error = try_verify(kind, &none, &journal, Duration::ZERO).unwrap_err();
            assert!(error.to_string().contains("is not http://"), "{error}");
        }
    }
    let nobody = Endpoint { url: "http://127.0.0.1:1".to_owned(), ..endpoint(&store) };
    let error = try_verify(Kind::Influx, &nobody, &journal, Duration::ZERO).unwrap_err();
    assert!(format!("{error:#}").contains("127.0.0.1:1"), "{error:#}");
}

#[test]
fn a_store_behind_tls_is_known_by_its_ca() {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    let journal = journal(folder.path(), &plan, BATCHES);
    let (store, certificate) = HttpStore::start_tls(readings(&plan, BATCHES));
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate).unwrap();
    for kind in KINDS {
        let known = Endpoint { ca: Some(ca.clone()), ..endpoint(&store) };
        assert!(try_verify(kind, &known, &journal, Duration::ZERO).unwrap().passed);
        // Not one of the system's.
        let error = try_verify(kind, &endpoint(&store), &journal, Duration::ZERO).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("certificate") || error.contains("--ca"), "{error}");
    }
    std::fs::write(&ca, "no certificate").unwrap();
    let none = Endpoint { ca: Some(ca), ..endpoint(&store) };
    let error = try_verify(Kind::Influx, &none, &journal, Duration::ZERO).unwrap_err();
    assert!(format!("{error:#}").contains("holds no certificate"), "{error:#}");
}
