//! The oracle against the real InfluxDB and the real VictoriaMetrics, filled with what a run sends:
//! the truth passes, and what is done to a single point afterwards is found.
#![allow(clippy::unwrap_used)]

mod common;

use common::readings::{Reading, Value, journal, readings};
use common::servers::Server;
use device_sim::journal::Journal;
use device_sim::plan::Plan;
use device_sim::verify::{Credential, Endpoint, InfluxDb, Report, Store, VictoriaMetrics, verify};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BATCHES: u64 = 60;
/// VictoriaMetrics shows what was written after a second or so, a new series after some more.
const SETTLE: Duration = Duration::from_secs(30);

/// An hour ago, at an odd nanosecond.
fn plan() -> Plan {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ns = i64::try_from(now.as_nanos()).unwrap();
    Plan { base_ns: now_ns / 1_000 * 1_000 - 3_600_000_000_000 + 789, ..common::plan(20, 8) }
}

fn dense() -> Plan {
    Plan { ramp_ns: 0, ..common::paced(plan(), 1_000_000, 5) }
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint { url: server.url.clone(), ca: None, credential: Credential::None }
}

fn influx(server: &Server, journal: &Journal, settle: Duration) -> Report {
    let mut store = InfluxDb::open(&endpoint(server), "fleet", None, &journal.plan).unwrap();
    verify(&mut store, journal, settle).unwrap()
}

/// Looks until the report is as the test wants it, since the server shows news late.
fn victoria(server: &Server, journal: &Journal, as_wanted: impl Fn(&Report) -> bool) -> Report {
    let mut store = VictoriaMetrics::open(&endpoint(server), &journal.plan).unwrap();
    let begin = std::time::Instant::now();
    loop {
        let report = verify(&mut store, journal, Duration::ZERO).unwrap();
        if as_wanted(&report) || begin.elapsed() > SETTLE {
            return report;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn influxdb_shows_the_truth_and_what_was_done_to_it() {
    let (server, folder) = (Server::influxdb(), tempfile::tempdir().unwrap());
    for plan in [plan(), Plan { prefix: "dense-".to_owned(), ..dense() }] {
        let journal = journal(folder.path(), &plan, BATCHES);
        let sent = readings(&plan, BATCHES);
        let acked = sent.len() as u64;
        let report = influx(&server, &journal, Duration::ZERO);
        assert_eq!((report.passed, report.lost), (false, acked), "nothing is there yet");

        server.write(&sent, true);
        let report = influx(&server, &journal, SETTLE);
        assert!(report.passed, "{}", report.table());
        assert_eq!((report.acked, report.stored), (acked, acked));
        assert_eq!((report.duplicated, report.values_reduced), (None, 0));

        let gone = &sent[1_234];
        let what = format!("\"device\" = '{}' AND time = {}", gone.device, gone.time_ns);
        server.influxql(&format!("DELETE FROM \"environment\" WHERE {what}"));
        let report = influx(&server, &journal, Duration::ZERO);
        assert_eq!((report.lost, report.stored, report.altered), (1, acked - 1, 0));
        let example = &report.examples["lost"][0];
        assert_eq!((&example.device, example.time_ns), (&gone.device, gone.time_ns));

        // Written again, with another value in one of its fields.
        let mut other = gone.clone();
        let Some(Value::Float(x)) = other.fields.get_mut("pressure") else { panic!() };
        *x = f64::from_bits(x.to_bits() + 1);
        server.write(&[other], true);
        let report = influx(&server, &journal, Duration::ZERO);
        assert_eq!((report.lost, report.altered), (0, 1), "{}", report.table());
        assert!(report.examples["altered"][0].detail.contains("pressure"));

        server.write(std::slice::from_ref(gone), true);
        assert!(influx(&server, &journal, Duration::ZERO).passed);
        let mut strangers = vec![gone.clone(), gone.clone(), gone.clone()];
        strangers[0].time_ns += 1;
        strangers[1].device = format!("{}99999", plan.prefix);
        strangers[2].measurement = "weather".to_owned();
        server.write(&strangers, true);
        let report = influx(&server, &journal, Duration::ZERO);
        assert_eq!((report.unexpected, report.altered), (2, 1), "{}", report.table());
    }
}

#[test]
fn victoria_metrics_shows_the_truth_and_what_was_done_to_it() {
    let (server, folder) = (Server::victoria_metrics(&[]), tempfile::tempdir().unwrap());
    for plan in [plan(), Plan { prefix: "dense-".to_owned(), ..dense() }] {
        let journal = journal(folder.path(), &plan, BATCHES);
        let sent = readings(&plan, BATCHES);
        let acked = sent.len() as u64;
        // All but one.
        let (before, rest) = sent.split_at(1_234);
        server.write(before, false);
        server.write(&rest[1..], false);
        let report = victoria(&server, &journal, |report| report.lost == 1);
        assert_eq!(
            (report.passed, report.lost, report.altered),
            (false, 1, 0),
            "{}",
            report.table()
        );
        assert_eq!(report.stored, acked - 1);

        server.write(&rest[..1], false);
        let mut store = VictoriaMetrics::open(&endpoint(&server), &plan).unwrap();
        let report = verify(&mut store, &journal, SETTLE).unwrap();
        assert!(report.passed, "{}", report.table());
        assert_eq!((report.acked, report.stored, report.not_shown), (acked, acked, 0));
        assert!(report.duplicated.is_none() && report.values_not_held > 0);
        assert!(report.values_reduced > 0);

        // Another value beside the one that was sent, and a reading that was not.
        let mut other = rest[0].clone();
        let Some(Value::Float(x)) = other.fields.get_mut("pressure") else { panic!() };
        // Finer than what is measured, so that no neighbour of the same millisecond has it.
        *x += 0.003;
        other.fields.retain(|field, _| field == "pressure");
        let mut strange = rest[0].clone();
        strange.time_ns = plan.base_ns + 7_500_000_000;
        server.write(&[other, strange], false);
        let found = |report: &Report| (report.altered, report.unexpected) == (1, 1);
        let report = victoria(&server, &journal, found);
        assert!(found(&report), "{}", report.table());
        assert!(report.examples["altered"][0].detail.contains("pressure"));

        // A whole device is gone.
        let device = plan.device_id(3);
        let series = format!("/api/v1/admin/tsdb/delete_series?match[]={{device=\"{device}\"}}");
        server.send("POST", &series.replace('"', "%22"), "");
        let all = u64::from(plan.kinds[0].batch) * BATCHES;
        let report = victoria(&server, &journal, |report| report.lost == all);
        assert_eq!((report.lost, &report.examples["lost"][0].device), (all, &device));
    }
}

/// Told to keep one sample of each millisecond, it can show no more than that.
#[test]
fn victoria_metrics_that_deduplicates_is_not_said_to_have_lost_readings() {
    let server = Server::victoria_metrics(&["-dedup.minScrapeInterval=1ms"]);
    let folder = tempfile::tempdir().unwrap();
    let plan = dense();
    let journal = journal(folder.path(), &plan, BATCHES);
    let sent = readings(&plan, BATCHES);
    server.write(&sent, false);
    let all = |report: &Report| report.stored + report.not_shown == sent.len() as u64;
    let report = victoria(&server, &journal, all);
    assert!(report.passed, "{}", report.table());
    assert!(all(&report) && report.stored > 0 && report.not_shown > report.stored);
    let mut store = VictoriaMetrics::open(&endpoint(&server), &plan).unwrap();
    assert_eq!(store.devices(&plan.prefix).unwrap().len(), 20);
}

/// The points of every realm but the first have it as a tag.
#[test]
fn devices_of_two_realms_are_told_apart() {
    let (influx, victoria) = (Server::influxdb(), Server::victoria_metrics(&[]));
    let folder = tempfile::tempdir().unwrap();
    let plan = plan();
    let journal = journal(folder.path(), &plan, BATCHES);
    let sent = readings(&plan, BATCHES);
    let acked = sent.len() as u64;
    let mut tagged = sent.clone();
    tagged.iter_mut().for_each(|of| drop(of.tags.insert("realm".into(), "plant".into())));
    // The same names and times without the tag, other values, and a device that the run has not.
    let mut others = sent;
    for other in &mut others {
        other.fields = [("pressure".to_owned(), Value::Float(-1.5))].into();
    }
    let stranger = format!("{}99999", plan.prefix);
    others.push(Reading { device: stranger, ..others[0].clone() });
    let both = |readings: &[Reading]| {
        influx.write(readings, true);
        victoria.write(readings, false);
    };
    let verdicts = |realm: Option<&str>, settle: Duration| {
        let realm = realm.map(str::to_owned);
        let [of_influx, of_victoria] = [&influx, &victoria].map(endpoint);
        let of_influx = InfluxDb::open(&of_influx, "fleet", None, &plan).unwrap();
        let of_victoria = VictoriaMetrics::open(&of_victoria, &plan).unwrap();
        let mut influx = of_influx.of_realm(realm.clone());
        let mut victoria = of_victoria.of_realm(realm);
        let stores: [&mut dyn Store; 2] = [&mut influx, &mut victoria];
        stores.map(|store| verify(store, &journal, settle))
    };
    both(&tagged);
    for verdict in verdicts(None, SETTLE) {
        let verdict = verdict.unwrap();
        assert!(verdict.passed, "one realm needs no name: {}", verdict.table());
    }
    both(&others);
    // The news have come when the last of them has.
    let default = || verdicts(Some("default"), Duration::ZERO).map(Result::unwrap);
    let begin = std::time::Instant::now();
    while default().iter().any(|verdict| (verdict.altered, verdict.unexpected) != (acked, 1)) {
        assert!(
            begin.elapsed() < SETTLE,
            "{}",
            default().map(|verdict| verdict.table()).join("\n")
        );
        std::thread::sleep(Duration::from_millis(300));
    }
    for verdict in verdicts(Some("plant"), Duration::ZERO) {
        let verdict = verdict.unwrap();
        assert!(verdict.passed, "{}", verdict.table());
    }
    for verdict in verdicts(Some("nowhere"), Duration::ZERO) {
        let verdict = verdict.unwrap();
        assert_eq!((verdict.lost, verdict.unexpected), (acked, 0), "{}", verdict.table());
    }
    for verdict in verdicts(None, Duration::ZERO) {
        let message = format!("{:#}", verdict.unwrap_err());
        assert!(message.contains("plant") && message.contains("--realm"), "{message}");
        assert!(!message.contains("does not answer"), "{message}");
    }
}

/// As a person types it.
#[test]
fn the_command_takes_either() {
    let (server, folder) = (Server::influxdb(), tempfile::tempdir().unwrap());
    let plan = plan();
    drop(journal(folder.path(), &plan, BATCHES));
    server.write(&readings(&plan, BATCHES), true);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_device-sim"));
        command.args(["verify", "--settle", "0s", "--report"]);
        command.arg(folder.path().join("verify.json")).args(arguments);
        command.arg("--journal").arg(folder.path().join("run.journal")).output().unwrap()
    };
    let out = run(&["--influx", &server.url, "--database", "fleet"]);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("passed"), "{out:?}");
    let text = std::fs::read_to_string(folder.path().join("verify.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["store"], &report["lost"]), (&"influxdb".into(), &0.into()));
    assert!(report["duplicated"].is_null());

    let out = run(&["--influx", &server.url, "--bucket", "other"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("database not found"), "{out:?}");
    for (wrong, word) in [
        (&[][..], "--victoriametrics <URL>"),
        (&["--influx", &server.url], "--bucket"),
        (&["--store", "x", "--victoriametrics", "http://x"], "cannot be used with"),
        (&["--store", "x", "--token-file", "x"], "cannot be used with"),
        (&["--victoriametrics", "http://x", "--user", "me"], "--password-file"),
    ] {
        let out = run(wrong);
        assert_eq!(out.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(word), "{wrong:?} {out:?}");
    }
}
