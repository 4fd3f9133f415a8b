//! The oracle against a store that lies: each lie is found, counted and named; the truth passes.
#![allow(clippy::unwrap_used)]

mod common;

use common::store::{HandMade, Point, points};
use common::{Answer, FakeGateway, plan};
use device_sim::journal::{self, Journal, Ledger};
use device_sim::plan::Mode;
use device_sim::run::play;
use device_sim::verify::{Report, SqliteStore, verify};
use rusqlite::types::Value;
use std::time::{Duration, Instant};

/// A run of three devices in which batch 2 loses a reading and batch 5 its connection.
async fn played(mode: Mode) -> (FakeGateway, Vec<Point>, Journal) {
    let gateway = FakeGateway::start(|_, seq, arrivals| match (seq, arrivals) {
        (2, _) => Answer::RefuseReading(1),
        (5, 1) => Answer::KeepAndBreak,
        _ => Answer::Ack,
    })
    .await;
    let mut options = gateway.options(plan(3, 2));
    options.plan.kinds[0].mode = mode;
    let path = options.journal.clone().unwrap();
    let report = play(options).await.unwrap();
    assert_eq!((report.problem, report.refused), (None, 3));
    let points = points(&gateway);
    assert_eq!(points.len() as u64, report.acked);
    (gateway, points, Journal::open(&path).unwrap())
}

fn check(folder: &tempfile::TempDir, journal: &Journal) -> Report {
    let path = folder.path().join("telemetry.db");
    verify(&mut SqliteStore::open(&path).unwrap(), journal, Duration::ZERO).unwrap()
}

fn told(journal: &Journal, points: &[Point], lie: impl FnOnce(&HandMade)) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let store = HandMade::create(folder.path());
    points.iter().for_each(|point| store.put(point));
    lie(&store);
    check(&folder, journal)
}

#[tokio::test]
async fn the_truth_passes_and_each_lie_is_named() {
    let (_gateway, points, journal) = played(Mode::Readings).await;
    let acked = points.len() as u64;

    let truth = told(&journal, &points, |_| {});
    assert!(truth.passed, "{}", truth.table());
    assert_eq!((truth.acked, truth.stored), (acked, acked));
    assert_eq!((truth.lost, truth.altered, truth.unexpected), (0, 0, 0));
    assert_eq!((truth.duplicated, truth.unacknowledged_present), (Some(0), 0));
    assert_eq!(truth.refused, 3);
    assert!(truth.examples.is_empty());

    // One lost.
    let mut fewer = points.clone();
    let gone = fewer.remove(17);
    let report = told(&journal, &fewer, |_| {});
    assert_eq!((report.passed, report.lost, report.stored), (false, 1, acked - 1));
    let example = &report.examples["lost"][0];
    assert_eq!((&example.device, example.time_ns), (&gone.device, gone.time_ns));

    // One value altered, by the smallest step that a float can make.
    let mut other = points.clone();
    let Value::Real(x) = &mut other[20].fields[2].2 else { panic!("pressure is no integer") };
    *x = f64::from_bits(x.to_bits() + 1);
    let report = told(&journal, &other, |_| {});
    assert_eq!((report.passed, report.altered, report.lost), (false, 1, 0));
    let example = &report.examples["altered"][0];
    assert_eq!(example.time_ns, other[20].time_ns);
    assert!(example.detail.contains("pressure"), "{}", example.detail);

    // One written twice: the rows do not show it, the store's own counts do.
    let report = told(&journal, &points, |store| store.put(&points[9]));
    assert_eq!((report.passed, report.duplicated, report.lost), (false, Some(1), 0));

    // One that nobody sent.
    let mut strange = points[30].clone();
    strange.time_ns += 1;
    let report = told(&journal, &points, |store| store.put(&strange));
    assert_eq!((report.passed, report.unexpected), (false, 1));
    assert_eq!(report.examples["unexpected"][0].time_ns, strange.time_ns);
}

#[tokio::test]
async fn smaller_lies_are_found_too() {
    let (_gateway, points, journal) = played(Mode::Columns).await;
    assert!(told(&journal, &points, |_| {}).passed);
    type Lie = fn(&mut Point);
    let lies: [(&str, Lie); 6] = [
        ("site", |point| {
            point.tags.insert("site".to_owned(), "elsewhere".to_owned());
        }),
        ("measurement", |point| point.measurement = "weather".to_owned()),
        ("missing", |point| {
            point.fields.remove(1);
        }),
        ("not sent", |point| {
            point.fields.push(("wind".to_owned(), "float", Value::Real(1.0)));
        }),
        ("temperature", |point| {
            point.fields[0].1 = "string";
            point.fields[0].2 = Value::Text("21.5".to_owned());
        }),
        ("humidity", |point| point.fields[1].2 = Value::Real(-0.0)),
    ];
    for (word, lie) in lies {
        let mut points = points.clone();
        lie(&mut points[11]);
        let report = told(&journal, &points, |_| {});
        assert_eq!((report.passed, report.altered, report.lost), (false, 1, 0), "{word}");
        let detail = &report.examples["altered"][0].detail;
        assert!(detail.contains(word), "{word}: {detail}");
    }
}

#[tokio::test]
async fn what_belongs_to_others_does_not_count_and_what_claims_to_be_ours_does() {
    let (_gateway, points, journal) = played(Mode::Readings).await;
    let as_device = |device: &str| Point { device: device.to_owned(), ..points[0].clone() };
    let earlier = Point { time_ns: points[0].time_ns - 3_600_000_000_000, ..points[0].clone() };
    let own = Point { measurement: "gateway_device".to_owned(), ..points[0].clone() };
    for (point, unexpected) in [
        (as_device("meter-1"), 0),
        (as_device("sim"), 0),
        (earlier, 0),
        (own, 0),
        (as_device("sim-00003"), 1),
        (as_device("sim-0"), 1),
    ] {
        let report = told(&journal, &points, |store| store.put(&point));
        assert_eq!(report.unexpected, unexpected, "{point:?}");
        assert_eq!(report.passed, unexpected == 0);
    }
    // Beside the points of others nobody can say whose it was that was written twice.
    let report = told(&journal, &points, |store| {
        store.put(&as_device("meter-1"));
        store.put(&as_device("meter-1"));
    });
    assert_eq!((report.passed, report.duplicated), (true, None));
}

#[tokio::test]
async fn a_refused_reading_must_not_be_there() {
    let (gateway, points, journal) = played(Mode::Readings).await;
    let mut gateway_kept_it = points.clone();
    for body in gateway.kept()["sim-00001"].bodies.iter().filter(|body| body.2.is_some()) {
        let batch = proto::Batch::open(&body.1, &proto::Limits::default()).unwrap();
        assert_eq!((batch.seq(), batch.len()), (2, 5));
    }
    let after = points.iter().position(|point| point.device == "sim-00001").unwrap() + 5;
    let (before, next) = (&points[after], &points[after + 1]);
    let middle = before.time_ns + (next.time_ns - before.time_ns) / 2;
    gateway_kept_it.push(Point { time_ns: middle, ..before.clone() });
    let report = told(&journal, &gateway_kept_it, |_| {});
    assert_eq!((report.passed, report.unexpected), (false, 1));
    assert!(report.examples["unexpected"][0].detail.contains("refused"), "{}", report.table());
}

/// The journal of a run that was killed is behind: what it does not know may be there, once.
#[tokio::test]
async fn a_killed_run_can_be_verified() {
    let (gateway, points, journal) = played(Mode::Readings).await;
    let path = gateway.folder.path().join("killed.journal");
    let behind = |ledger: Ledger| Ledger { acked: 4, sent: 6, ..ledger };
    let ledgers = || journal.ledgers().unwrap().map(|ledger| behind(ledger.unwrap()));
    journal::write(&path, &journal.plan, ledgers(), false).unwrap();
    let killed = Journal::open(&path).unwrap();
    let report = told(&killed, &points, |_| {});
    assert!(report.passed, "{}", report.table());
    assert_eq!(report.acked, 3 * (4 * 5 - 1));
    assert_eq!(report.unacknowledged_present, points.len() as u64 - report.acked);
    assert!(!report.journal_complete);

    // The same journal as the last word of a run: what it did not send is unexpected.
    journal::write(&path, &journal.plan, ledgers(), true).unwrap();
    let report = told(&Journal::open(&path).unwrap(), &points, |_| {});
    assert_eq!(report.unacknowledged_present, 3 * 2 * 5);
    assert_eq!(report.unexpected, points.len() as u64 - report.acked - 3 * 2 * 5);

    // Sent and not acknowledged: may as well be missing, but not altered.
    let mut other = points.clone();
    let last = other.len() - 1;
    other[last].tags.clear();
    assert_eq!(told(&killed, &other, |_| {}).altered, 1);
    other.pop();
    assert!(told(&killed, &other, |_| {}).passed);
}

#[tokio::test]
async fn a_store_that_lags_is_waited_for() {
    let (_gateway, points, journal) = played(Mode::Readings).await;
    let folder = tempfile::tempdir().unwrap();
    let store = HandMade::create(folder.path());
    points[1..].iter().for_each(|point| store.put(point));
    let (late, time_ns) = (points[0].clone(), points[0].time_ns);
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        store.put(&late);
    });
    let start = Instant::now();
    let path = folder.path().join("telemetry.db");
    let mut open = SqliteStore::open(&path).unwrap();
    let report = verify(&mut open, &journal, Duration::from_secs(20)).unwrap();
    writer.join().unwrap();
    assert!(report.passed, "{}", report.table());
    assert!(start.elapsed() < Duration::from_secs(10));
    // It is counted and named; what never comes is lost and not late.
    assert_eq!((report.late, report.examples["late"].len()), (1, 1), "{}", report.table());
    assert_eq!(report.examples["late"][0].time_ns, time_ns);
    let behind_its_back = rusqlite::Connection::open(&path).unwrap();
    behind_its_back.execute("DELETE FROM point WHERE at % 2 = 0", []).unwrap();
    let report = verify(&mut open, &journal, Duration::from_millis(10)).unwrap();
    assert_eq!((report.late, report.examples.contains_key("late")), (0, false));
    assert!(report.lost > 0);
}

#[tokio::test]
async fn nothing_acknowledged_is_no_success() {
    let (gateway, _, journal) = played(Mode::Readings).await;
    let path = gateway.folder.path().join("empty.journal");
    let nothing = (0..3).map(|device| Ledger::new(&journal.plan, device));
    journal::write(&path, &journal.plan, nothing, true).unwrap();
    let report = told(&Journal::open(&path).unwrap(), &[], |_| {});
    assert!(!report.passed && report.table().contains("nothing was acknowledged"));
}

#[test]
fn what_is_no_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.db");
    let message = |path| format!("{:#}", SqliteStore::open(path).unwrap_err());
    assert!(message(&path).contains("there is no such file"));
    std::fs::write(&path, "hello, I am no database, whatever my name says").unwrap();
    assert!(message(&path).contains("cannot read the store"), "{}", message(&path));
    rusqlite::Connection::open(folder.path().join("y.db"))
        .and_then(|db| db.execute_batch("CREATE TABLE t (x)"))
        .unwrap();
    let other = message(&folder.path().join("y.db"));
    assert!(other.contains("not a store of the gateway"), "{other}");
}

/// Devices of another trust root may have the same names: they are others.
#[tokio::test]
async fn a_device_of_another_realm_is_another_device() {
    let (_gateway, points, journal) = played(Mode::Readings).await;
    let folder = tempfile::tempdir().unwrap();
    let store = HandMade::create(folder.path());
    points.iter().for_each(|point| store.put(point));
    store.connection.execute("UPDATE series SET realm = 'plant'", []).unwrap();
    let told = |realm: Option<&str>| {
        let open = SqliteStore::open(&store.path).unwrap().of_realm(realm.map(str::to_owned));
        verify(&mut { open }, &journal, Duration::ZERO)
    };
    assert!(told(None).unwrap().passed, "one realm needs no name");

    // The same names and times, other values, and a device that the run has not.
    for point in &points {
        let fields = vec![("temperature".to_owned(), "float", Value::Real(-1.5))];
        store.put(&Point { fields, ..point.clone() });
        let device = format!("{}x", point.device);
        store.put(&Point { device, ..point.clone() });
    }
    let message = format!("{:#}", told(None).unwrap_err());
    assert!(message.contains("plant") && message.contains("--realm"), "{message}");
    let plant = told(Some("plant")).unwrap();
    assert!(plant.passed, "{}", plant.table());
    let other = told(Some("default")).unwrap();
    assert_eq!((other.stored, other.altered), (0, points.len() as u64), "{}", other.table());
    let none = told(Some("nowhere")).unwrap();
    assert_eq!((none.passed, none.lost), (false, points.len() as u64), "{}", none.table());
}
