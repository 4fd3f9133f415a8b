//! The oracle against stores that lie about one reading in 10,000: each lie is found, counted, and
//! named with its device and time; what a store cannot show is not said to be right.

use super::fleet::{start, verify};
use super::support::{
    Gateway, Home, PATIENCE, http,
    liar::{CHANGE, LINES_PER_LIE, Liar, Readings},
    servers::{Influx, VictoriaMetrics},
};
use serde_json::Value;
use std::{ffi::OsStr, path::PathBuf, time::Instant};

/// At least so many readings reach each store.
const READINGS: u64 = 100_000;
/// Examples of each kind of lie that a report names at most.
const EXAMPLES: usize = 10;

/// A fleet of that many readings, all in every store.
fn stream(home: &Home, gateway: &Gateway) {
    let arguments = ["--devices", "100", "--interval", "200ms", "--batch", "50", "--ramp", "200ms"];
    let mut fleet = start(home, gateway, &[&arguments[..], &["--duration", "4400ms"]].concat());
    assert!(fleet.wait().unwrap().success());
    let begun = Instant::now();
    loop {
        let (_, ledger) = gateway.get("/api/v1/ledger");
        let ledger: Value = serde_json::from_str(&ledger).unwrap();
        if ledger["sinks"].as_array().unwrap().iter().all(|sink| sink["pending"] == 0) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE * 4, "the stores do not get it: {ledger:#}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The verdict of a command that must find fault.
fn found<S: AsRef<OsStr>>(home: &Home, store: &[S]) -> Value {
    let store = store.iter().map(AsRef::as_ref);
    let arguments: Vec<&OsStr> = ["--settle", "0s"].iter().map(OsStr::new).chain(store).collect();
    let (code, verdict) = verify(home, &arguments);
    assert_eq!((code, &verdict["passed"]), (1, &Value::Bool(false)), "{verdict:#}");
    verdict
}

/// Holds the examples of a kind of lie against what was done.
fn assert_named(verdict: &Value, class: &str, lies: &Readings, word: &str) {
    assert_eq!(verdict[class], lies.len(), "{class}: {verdict:#}");
    let examples = verdict["examples"][class].as_array().unwrap();
    assert_eq!(examples.len(), lies.len().min(EXAMPLES), "{class}: {verdict:#}");
    for example in examples {
        let device = example["device"].as_str().unwrap().to_owned();
        assert!(lies.contains(&(device, example["time_ns"].as_i64().unwrap())), "{example:#}");
        assert!(example["seq"].is_u64() && example["index"].is_u64(), "{example:#}");
        assert!(example["detail"].as_str().unwrap().contains(word), "{example:#}");
    }
}

#[test]
fn one_lie_in_10_000_is_found_and_named_in_influxdb_and_victoria_metrics() {
    let (influx, victoria) = (Influx::start(&["telemetry"]), VictoriaMetrics::start());
    let port = |url: &str| url.rsplit(':').next().unwrap().parse().unwrap();
    let to_influx =
        Liar::before(port(&influx.direct_url()), |_| "/write?db=telemetry&precision=n".to_owned());
    let to_victoria = Liar::before(port(&victoria.url()), str::to_owned);
    let home = Home::new();
    // A request that is not repeated is one that is lied about once.
    let gateway = home.start_with(&format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\ntimeout = \"10min\"\n\
         [sinks.victoria]\ntype = \"influxdb\"\ndialect = \"victoriametrics\"\nurl = \"{}\"\n\
         timeout = \"10min\"\n",
        to_influx.url(),
        to_victoria.url()
    ));
    stream(&home, &gateway);
    http(port(&victoria.url()), "GET", "/internal/force_flush", "").unwrap();
    let of_influx =
        found(&home, &["--influx", &influx.direct_url(), "--bucket", "telemetry"].map(OsStr::new));
    let of_victoria = found(&home, &["--victoriametrics", &victoria.url()].map(OsStr::new));
    for (verdict, told) in [(&of_influx, to_influx.told()), (&of_victoria, to_victoria.told())] {
        assert!(told.lines >= READINGS, "{}", told.lines);
        assert_eq!(verdict["acked"], told.lines, "every reading came once: {verdict:#}");
        let changed = told.changed.len() as u64;
        assert!(changed >= READINGS / LINES_PER_LIE, "{changed}");
        assert_named(verdict, "lost", &told.dropped, "not in the store");
        assert_named(verdict, "altered", &told.changed, "pressure");
        let stored = told.lines - told.dropped.len() as u64 - changed;
        assert_eq!(verdict["stored"], stored, "{verdict:#}");
        assert_eq!(verdict["unexpected"], 0, "{verdict:#}");
    }
    // A point that is written to InfluxDB again takes the place of the first, whoever wrote it.
    assert_eq!(of_influx["duplicated"], Value::Null);
    assert_named(&of_victoria, "duplicated", &to_victoria.told().doubled, "2 times");
}

/// The embedded store of a gateway that has stopped, copied.
fn copy(home: &Home, name: &str) -> (PathBuf, rusqlite::Connection) {
    let path = home.path().join(name);
    std::fs::copy(home.store(), &path).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    (path, connection)
}

#[test]
fn one_lie_in_10_000_is_found_and_named_in_the_embedded_store() {
    let home = Home::new();
    let gateway = home.start();
    stream(&home, &gateway);
    let (status, _) = gateway.stop();
    assert!(status.success());

    let (path, store) = copy(&home, "lies.db");
    // Every reading of the fleet has a pressure.
    let mut statement = store
        .prepare(
            "SELECT s.device, p.bucket, p.at FROM point p JOIN series s ON s.id = p.series
             WHERE s.field = 'pressure' ORDER BY s.device, p.bucket, p.at",
        )
        .unwrap();
    let places = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let places: Vec<(String, i64, i64)> = places.unwrap().map(Result::unwrap).collect();
    drop(statement);
    assert!(places.len() as u64 >= READINGS, "{}", places.len());
    let (mut dropped, mut changed, mut added) = <(Readings, Readings, Readings)>::default();
    let run = |sql: &str, place: &(String, i64, i64)| {
        let (device, bucket, at) = place;
        assert!(store.execute(sql, rusqlite::params![device, bucket, at]).unwrap() > 0);
        (device.clone(), bucket * 1_000_000_000 + at)
    };
    let here = "bucket = ?2 AND at = ?3 AND series IN (SELECT id FROM series WHERE device = ?1";
    for places in places.chunks_exact(10_000) {
        dropped.insert(run(&format!("DELETE FROM point WHERE {here})"), &places[2_500]));
        let more = format!("UPDATE point SET value = value + {CHANGE} WHERE {here}");
        changed.insert(run(&format!("{more} AND field = 'pressure')"), &places[5_000]));
        let again = "INSERT INTO point SELECT bucket, series, at + 1, value FROM point";
        let (device, time_ns) = run(&format!("{again} WHERE {here})"), &places[7_500]);
        added.insert((device, time_ns + 1));
    }
    drop(store);
    let verdict = found(&home, &[OsStr::new("--store"), path.as_os_str()]);
    assert_eq!(verdict["acked"], places.len());
    assert_named(&verdict, "lost", &dropped, "not in the store");
    assert_named(&verdict, "altered", &changed, "pressure");
    assert_eq!(verdict["unexpected"], added.len(), "{verdict:#}");
    for example in verdict["examples"]["unexpected"].as_array().unwrap() {
        let device = example["device"].as_str().unwrap().to_owned();
        assert!(added.contains(&(device, example["time_ns"].as_i64().unwrap())), "{example:#}");
    }
    assert_eq!(verdict["duplicated"], 0);

    // Written twice, each of five fields: no row shows it, the store's own counts do.
    let (path, store) = copy(&home, "doubles.db");
    let doubles = i64::try_from(places.len()).unwrap() / 10_000;
    let twice = "UPDATE cursor SET stored = stored + ?1, overwritten = overwritten + 5 * ?1";
    assert_eq!(store.execute(twice, [doubles]).unwrap(), 1);
    drop(store);
    let verdict = found(&home, &[OsStr::new("--store"), path.as_os_str()]);
    assert_eq!((&verdict["duplicated"], &verdict["lost"]), (&doubles.into(), &0.into()));
}
