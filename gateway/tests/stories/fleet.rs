//! The simulator against the gateway: every reading is accounted for.

use super::support::{
    Gateway, Home, PATIENCE, run_to_end,
    servers::{Influx, VictoriaMetrics},
    sibling,
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn files(home: &Home) -> [PathBuf; 3] {
    ["run.json", "journal", "verify.json"].map(|name| home.path().join(name))
}

/// Starts a fleet.
pub fn start(home: &Home, gateway: &Gateway, arguments: &[&str]) -> Child {
    let [report, journal, _] = files(home);
    Command::new(sibling("device-sim"))
        .args(["run", "--url", &gateway.url, "--quiet"])
        .arg("--ca")
        .arg(home.ca())
        .arg("--token-key")
        .arg(home.token_key())
        .arg("--report")
        .arg(report)
        .arg("--journal")
        .arg(journal)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Verifies what the fleet left in a store.
pub fn verify<S: AsRef<OsStr>>(home: &Home, store: &[S]) -> (i32, Value) {
    let [_, journal, report] = files(home);
    let mut command = Command::new(sibling("device-sim"));
    command.arg("verify").args(store);
    command.arg("--journal").arg(journal).arg("--report").arg(&report);
    // One of an earlier verification says nothing about this one.
    let _ = std::fs::remove_file(&report);
    let (code, said) = run_to_end(command);
    let verdict = std::fs::read(&report).unwrap_or_else(|_| panic!("no report: {said}"));
    (code, serde_json::from_slice(&verdict).unwrap())
}

pub fn report(home: &Home) -> Value {
    serde_json::from_slice(&std::fs::read(&files(home)[0]).unwrap()).unwrap()
}

pub fn assert_nothing_wrong(home: &Home) -> Value {
    assert_nothing_wrong_in(home, &[OsStr::new("--store"), home.store().as_os_str()])
}

pub fn assert_nothing_wrong_in<S: AsRef<OsStr>>(home: &Home, store: &[S]) -> Value {
    let (code, verdict) = verify(home, store);
    for class in ["lost", "altered", "unexpected"] {
        assert_eq!(verdict[class], 0, "{verdict:#}");
    }
    assert_eq!(verdict["duplicated"].as_u64().unwrap_or(0), 0, "{verdict:#}");
    assert!(verdict["acked"].as_u64().unwrap() > 0);
    assert_eq!(code, 0);
    verdict
}

#[test]
fn a_fleet_is_stored_to_the_reading() {
    let home = Home::new();
    let gateway = home.start();
    let mut fleet =
        start(&home, &gateway, &["--devices", "50", "--duration", "4s", "--ramp", "1s"]);
    assert!(fleet.wait().unwrap().success());
    let run = report(&home);
    let count = |name: &str| run[name].as_u64().unwrap();
    assert!(count("scheduled") > 500, "{run:#}");
    assert_eq!((count("sent"), count("acked")), (count("scheduled"), count("scheduled")));
    assert_eq!(count("reconnects"), 0);
    let verdict = assert_nothing_wrong(&home);
    assert_eq!(verdict["acked"], run["acked"]);
    assert_eq!(verdict["stored"], run["acked"]);
}

/// One log, three readers: the embedded store, InfluxDB 1 and VictoriaMetrics get the same fleet.
#[test]
fn a_fleet_reaches_every_store() {
    let (influx, victoria) = (Influx::start(&["telemetry"]), VictoriaMetrics::start());
    let home = Home::new();
    let config = format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\n\
         [sinks.victoria]\ntype = \"influxdb\"\ndialect = \"victoriametrics\"\nurl = \"{}\"\n",
        influx.url(),
        influx.ca().display(),
        victoria.url(),
    );
    let gateway = home.start_with(&config);
    let mut fleet =
        start(&home, &gateway, &["--devices", "30", "--duration", "3s", "--ramp", "1s"]);
    assert!(fleet.wait().unwrap().success());
    let embedded = assert_nothing_wrong(&home);
    let of_influx = assert_nothing_wrong_in(
        &home,
        &["--influx", &influx.direct_url(), "--bucket", "telemetry"],
    );
    let of_victoria = assert_nothing_wrong_in(&home, &["--victoriametrics", &victoria.url()]);
    for verdict in [&of_influx, &of_victoria] {
        assert_eq!(verdict["acked"], embedded["acked"]);
        assert_eq!(verdict["stored"], embedded["stored"], "{verdict:#}");
    }
    super::support::eventually("every ledger balances", || {
        let (_, ledger) = gateway.get("/api/v1/ledger");
        let ledger: Value = serde_json::from_str(&ledger).unwrap();
        let sinks = ledger["sinks"].as_array().unwrap();
        assert_eq!((sinks.len(), &ledger["balanced"]), (3, &Value::Bool(true)), "{ledger:#}");
        sinks.iter().all(|sink| sink["pending"] == 0)
    });
}

/// The gateway is killed three times in the middle of the run; the fleet comes back by itself,
/// sends again what was not acknowledged, and in the end every reading is there once.
#[test]
fn a_fleet_comes_back_after_each_kill_and_nothing_is_lost_or_doubled() {
    let home = Home::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut gateway = home.start_on(port);
    let arguments =
        ["--devices", "30", "--duration", "8s", "--interval", "100ms", "--ramp", "300ms"];
    let mut fleet = start(&home, &gateway, &arguments);
    for _ in 0..3 {
        let before = gateway.metric("gateway_accepted_readings_total", "");
        super::support::eventually("the fleet is sending", || {
            gateway.metric("gateway_accepted_readings_total", "") > before + 2000.0
        });
        gateway.kill();
        gateway = home.start_on(port);
    }
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = fleet.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE * 2, "the fleet does not end");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success());
    let run = report(&home);
    assert!(run["reconnects"].as_u64().unwrap() >= 60, "{run:#}");
    assert_eq!(run["acked"], run["sent"], "{run:#}");
    assert_nothing_wrong(&home);
}
