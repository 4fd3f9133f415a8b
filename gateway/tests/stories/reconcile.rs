//! The gateway's ledger, the journal of a run and what the stores hold: three accounts that agree,
//! and a sentence where they do not.

use super::fleet::{start, verify};
use super::support::{
    Home, eventually, run_to_end,
    servers::{Influx, VictoriaMetrics},
    sibling,
};
use serde_json::Value;
use std::{ffi::OsStr, path::Path, process::Command};

/// The verdict on a store, with the ledger of the gateway at `admin`.
fn reconciled(home: &Home, admin: &str, arguments: &[&str]) -> (i32, Value) {
    let all = [&["--ledger", admin], arguments].concat();
    verify(home, &all.iter().map(OsStr::new).collect::<Vec<_>>())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every sentence about what does not agree.
fn problems(verdict: &Value) -> String {
    verdict["ledger"]["problems"].to_string()
}

#[test]
fn ledger_journal_and_stores_agree_to_the_reading() {
    let (influx, victoria) = (Influx::start(&["telemetry"]), VictoriaMetrics::start());
    let home = Home::new();
    // A third store is away: what waits for it is nobody else's fault.
    let gateway = home.start_with(&format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\n\
         [sinks.victoria]\ntype = \"influxdb\"\ndialect = \"victoriametrics\"\nurl = \"{}\"\n\
         [sinks.away]\ntype = \"influxdb\"\nurl = \"http://127.0.0.1:1\"\n",
        influx.url(),
        influx.ca().display(),
        victoria.url(),
    ));
    // Poison that is refused is in no account; batches that come twice are in each of them once.
    let faults = ["--fault", "poison ratio=0.02", "--fault", "drop at=1s share=0.5"];
    let arguments =
        ["--devices", "20", "--duration", "4s", "--ramp", "500ms", "--interval", "200ms"];
    let fleet = start(&home, &gateway, &[&arguments[..], &faults].concat());
    assert!(fleet.wait_with_output().unwrap().status.success());
    let store = home.store();
    for (sink, place) in [
        ("store", vec!["--store", text(&store)]),
        ("influx", vec!["--influx", &influx.direct_url(), "--bucket", "telemetry"]),
        ("victoria", vec!["--victoriametrics", &victoria.url()]),
    ] {
        let place = [&place[..], &["--ledger-sink", sink]].concat();
        let (code, verdict) = reconciled(&home, &gateway.admin, &place);
        let ledger = &verdict["ledger"];
        assert_eq!((code, problems(&verdict)), (0, "[]".to_owned()), "{verdict:#}");
        assert!(verdict["refused"].as_u64().unwrap() > 0, "{verdict:#}");
        for figure in ["accepted", "stored", "present", "acked"] {
            assert_eq!(ledger[figure], verdict["acked"], "{sink} {figure}: {verdict:#}");
        }
        assert_eq!((&ledger["pending"], &ledger["sink"]), (&0.into(), &sink.into()));
    }
    // Which of them it is has to be said.
    let mut command = Command::new(sibling("device-sim"));
    command.args(["verify", "--ledger", &gateway.admin, "--influx", &influx.direct_url()]);
    command.args(["--bucket", "telemetry", "--journal"]).arg(home.path().join("journal"));
    let (code, said) = run_to_end(command);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--ledger-sink with one of: away, influx, victoria"), "{said}");
}

#[test]
fn what_the_ledger_calls_stored_and_is_nowhere_is_said() {
    let home = Home::new();
    let gateway = home.start();
    let fleet = start(&home, &gateway, &["--devices", "5", "--duration", "2s", "--ramp", "500ms"]);
    assert!(fleet.wait_with_output().unwrap().status.success());
    let store = home.store();
    let (code, truth) = reconciled(&home, &gateway.admin, &["--store", text(&store)]);
    assert_eq!(code, 0, "{truth:#}");

    // A reading vanishes behind the gateway's back.
    let copy = home.path().join("copy.db");
    {
        let from = rusqlite::Connection::open(&store).unwrap();
        from.execute("VACUUM INTO ?1", [text(&copy)]).unwrap();
        let to = rusqlite::Connection::open(&copy).unwrap();
        let one = "SELECT p.bucket, p.at, s.device FROM point p JOIN series s ON s.id = p.series";
        let gone = to
            .execute(
                &format!(
                    "DELETE FROM point WHERE (bucket, at) = (SELECT bucket, at FROM ({one} LIMIT 1))
                     AND series IN (SELECT id FROM series WHERE device =
                     (SELECT device FROM ({one} LIMIT 1)))"
                ),
                [],
            )
            .unwrap();
        assert!(gone > 0);
    }
    let lost = ["--store", text(&copy), "--settle", "0s"];
    let (code, verdict) = reconciled(&home, &gateway.admin, &lost);
    assert_eq!((code, &verdict["lost"]), (1, &1.into()), "{verdict:#}");
    assert!(problems(&verdict).contains("1 are nowhere"), "{verdict:#}");
    // The gateway's account of the device says whose it was.
    let ledger = &verdict["ledger"];
    let example = &verdict["examples"]["lost"][0];
    assert_eq!((&ledger["devices_asked"], &ledger["devices_untold"]), (&1.into(), &Value::Null));
    let named = &ledger["devices"][0];
    assert_eq!(
        (ledger["devices"].as_array().unwrap().len(), &named["device"]),
        (1, &example["device"])
    );
    let figure = |name: &str| named[name].as_u64().unwrap();
    assert_eq!((figure("accepted"), figure("stored")), (figure("acked"), figure("present") + 1));

    // Another run on the same gateway: the ledger holds both until the first is taken off.
    let before = home.path().join("before.json");
    std::fs::write(&before, gateway.get("/api/v1/ledger").1).unwrap();
    let second = ["--devices", "5", "--duration", "1s", "--prefix", "other-", "--ramp", "100ms"];
    let fleet = start(&home, &gateway, &second);
    assert!(fleet.wait_with_output().unwrap().status.success());
    eventually("the store has it", || {
        let (_, ledger) = gateway.get("/api/v1/ledger");
        serde_json::from_str::<Value>(&ledger).unwrap()["sinks"][0]["pending"] == 0
    });
    let (code, verdict) = reconciled(&home, &gateway.admin, &["--store", text(&store)]);
    assert_eq!((code, &verdict["lost"], &verdict["passed"]), (1, &0.into(), &false.into()));
    assert!(problems(&verdict).contains("--ledger-before"), "{verdict:#}");
    let with_before = ["--store", text(&store), "--ledger-before", text(&before)];
    let (code, verdict) = reconciled(&home, &gateway.admin, &with_before);
    assert_eq!((code, &verdict["ledger"]["stored"]), (0, &verdict["acked"]), "{verdict:#}");
}
