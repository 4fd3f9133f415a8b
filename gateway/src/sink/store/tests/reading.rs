//! What is read from the file while the gateway writes.

use super::*;
use std::process::Command;

#[tokio::test]
async fn a_person_can_query_while_the_gateway_writes() {
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let time = 1_700_000_000_123_456_789;
    let fields: &[(&str, RawValue<'_>)] = &[("t", RawValue::Int(21)), ("s", RawValue::Str("ok"))];
    let records =
        vec![record(1, "dev-1", TimeUnit::Ns, &[(Some(time), &[("b", "2"), ("a", "1")], fields)])];
    store.write(batch(1, 0, records)).await.unwrap();
    let sql = "SELECT time, time_ns, realm, device, measurement, field, tags, value FROM readings
               WHERE device = 'dev-1' ORDER BY field";
    let output = Command::new("sqlite3")
        .arg(fixture.path())
        .arg(sql)
        .output()
        .expect("the command sqlite3: apt-get install sqlite3");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "2023-11-14T22:13:20.123456789Z|1700000000123456789|default|dev-1|m|s|{\"a\":\"1\",\"b\":\"2\"}|ok\n\
         2023-11-14T22:13:20.123456789Z|1700000000123456789|default|dev-1|m|t|{\"a\":\"1\",\"b\":\"2\"}|21.0\n"
    );
}

#[test]
fn the_view_finds_a_device_and_the_last_hour_by_key() {
    let fixture = Fixture::new();
    let _store = fixture.open().unwrap();
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    let plan = |sql: &str| -> String {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(3)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    };
    let device = plan("SELECT * FROM readings WHERE device = 'd'");
    assert!(!device.contains("SCAN p"), "{device}");
    let hour = plan("SELECT * FROM readings_last_hour");
    assert!(hour.contains("SEARCH p USING PRIMARY KEY (bucket>?)"), "{hour}");
}

#[tokio::test]
async fn points_of_all_times_are_found_by_range() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let fixture = Fixture::new();
    let store = fixture.open().unwrap();
    let mut model = std::collections::BTreeMap::new();
    let mut total = 0;
    for position in 1..40 {
        let times: Vec<i64> = (0..random.usize(1..60))
            .map(|_| match random.u8(0..4) {
                0 => random.i64(..),
                1 => random.i64(-5_000_000_000..5_000_000_000),
                _ => 1_700_000_000_000_000_000 + random.i64(0..100_000) * 100_000_000,
            })
            .collect();
        let values: Vec<_> = times.iter().map(|_| [("x", RawValue::Float(random.f64()))]).collect();
        let readings: Vec<Reading<'_>> = times
            .iter()
            .zip(&values)
            .map(|(&time, value)| (Some(time), [].as_slice(), value.as_slice()))
            .collect();
        for (time, value) in times.iter().zip(&values) {
            let [(_, RawValue::Float(x))] = value else { unreachable!() };
            model.insert(*time, Stored::Float(*x));
        }
        let records = vec![record(position, "d", TimeUnit::Ns, &readings)];
        store.write(batch(position, total, records)).await.unwrap();
        total += times.len() as u64;
    }
    let reader = fixture.reader();
    for _ in 0..200 {
        let edge = |random: &mut fastrand::Rng| match random.u8(0..3) {
            0 => random.i64(..),
            1 => random.i64(-6_000_000_000..6_000_000_000),
            _ => 1_700_000_000_000_000_000 + random.i64(0..100_000) * 100_000_000,
        };
        let (a, b) = (edge(&mut random), edge(&mut random));
        let times = a.min(b)..a.max(b);
        let expected: Vec<_> =
            model.range(times.clone()).map(|(time, value)| (*time, value.clone())).collect();
        assert_eq!(reader.points(1, times, u32::MAX).unwrap(), expected);
    }
}
