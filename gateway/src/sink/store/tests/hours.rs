//! Roll-ups by the hour, and retention.

use super::{
    super::hourly::{HOUR_NS, next_stale_hour},
    *,
};

/// Waits for what the store's thread does between batches.
async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not happen within 5 seconds");
}

#[tokio::test]
async fn hours_are_the_same_from_points_and_from_roll_ups() {
    let fixture = Fixture::new();
    let hour = 480_000;
    let at = |hour: i64, second: i64| Some(hour * HOUR_NS + second * 1_000_000_000);
    let x = |x| [("x", RawValue::Float(x))];
    let fields = [x(1.0), x(3.5), x(-2.0), x(7.0)];
    let records = vec![record(
        1,
        "d",
        TimeUnit::Ns,
        &[
            (at(hour, 10), &[], &fields[0]),
            (at(hour, 3599), &[], &fields[1]),
            (at(hour, 1800), &[], &fields[2]),
            (at(hour + 30, 0), &[], &fields[3]),
        ],
    )];
    let store = fixture.open().unwrap();
    store.write(batch(1, 0, records)).await.unwrap();
    let hours = || fixture.reader().hourly(1, hour - 5..hour + 100).unwrap();
    let expect = |hour, count, min, max, sum, last| Hour {
        hour,
        count,
        min: Some(min),
        max: Some(max),
        sum: Some(sum),
        last,
    };
    use rusqlite::types::Value::{Integer, Real};
    let second = expect(hour + 30, 1, 7.0, 7.0, 7.0, Integer(7));
    let expected = vec![expect(hour, 3, -2.0, 3.5, 2.5, Real(3.5)), second.clone()];
    assert_eq!(hours(), expected);

    // A restart forgets when the hours were written to, so they are quiet.
    let stale = || {
        let connection = rusqlite::Connection::open(fixture.path()).unwrap();
        next_stale_hour(&connection, i64::MIN).unwrap()
    };
    assert_eq!(stale(), Some(hour));
    drop(store);
    let store = fixture.open().unwrap();
    until(|| stale().is_none()).await;
    assert_eq!(hours(), expected);

    let late = vec![record(2, "d", TimeUnit::Ns, &[(at(hour, 3599), &[], &x(100.0))])];
    store.write(batch(2, 4, late)).await.unwrap();
    let expected = vec![expect(hour, 3, -2.0, 100.0, 99.0, Integer(100)), second];
    assert_eq!(hours(), expected, "the hour is read from its points again");
    drop(store);
    let _store = fixture.open().unwrap();
    until(|| stale().is_none()).await;
    assert_eq!(hours(), expected);
}

#[tokio::test]
async fn old_points_go_their_hours_stay_and_what_comes_later_is_expired() {
    let mut fixture = Fixture::new();
    let now = write::now_ns();
    let old = now - 30 * 24 * HOUR_NS;
    let x: &[(&str, RawValue<'_>)] = &[("x", RawValue::Float(1.5))];
    let first =
        vec![record(1, "d", TimeUnit::Ns, &[(Some(old), &[], x), (Some(now - HOUR_NS), &[], x)])];
    let store = fixture.open().unwrap();
    store.write(batch(1, 0, first)).await.unwrap();
    drop(store);
    fixture.keep_for = Some(Duration::from_secs(24 * 3600));
    let store = fixture.open().unwrap();
    until(|| fixture.reader().counts().unwrap().0 == 1).await;
    assert_eq!(fixture.all().len(), 1);
    let hours = fixture.reader().hourly(1, 0..now / HOUR_NS + 1).unwrap();
    assert_eq!(hours.iter().map(|hour| hour.count).collect::<Vec<_>>(), [1, 1]);

    let late = vec![record(2, "d", TimeUnit::Ns, &[(Some(old + 1), &[], x)])];
    store.write(batch(2, 2, late)).await.unwrap();
    let ledger = store.ledger().unwrap();
    assert_eq!((ledger.stored, ledger.dropped.expired), (2, 1));
    let of_device = of_device(&fixture.path(), &Identity::new("default", "d")).unwrap().unwrap();
    assert_eq!((of_device.2, of_device.3), (ledger.dropped, 1));
    store.rewind(Position(1), Ledger { epoch: 1, ..Ledger::beginning(Some(2)) }).await.unwrap();
    let (_, _, dropped, of_all) =
        super::of_device(&fixture.path(), &Identity::new("default", "d")).unwrap().unwrap();
    assert_eq!((dropped.total(), of_all), (0, 0), "a new epoch");
    assert_eq!(ledger.accepted_total, ledger.stored + ledger.dropped.total());
    assert_eq!(fixture.all().len(), 1);
}
