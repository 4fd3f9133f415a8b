//! A replay is proved in every store that a gateway writes to.

use super::{
    mqtt_subscriber::{Recorder, recording},
    replay::{captured, counts, json, simulator},
    support::{
        Gateway, Home,
        mosquitto::Mosquitto,
        run_to_end,
        servers::{Influx, VictoriaMetrics},
    },
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// Plays a capture twice as fast or faster, two copies of each device; its report and its journal.
fn play(home: &Home, gateway: &Gateway, capture: &Path, speed: &str) -> (Value, PathBuf) {
    let report = home.path().join(format!("played-{speed}.json"));
    let mut replay = simulator("replay");
    replay.arg(capture).args(["--url", &gateway.url, "--quiet", "--times", "2"]);
    replay.args(["--speed", speed, "--phase", "1s", "--ramp", "500ms"]);
    replay.args(["--prefix", &format!("x{speed}-"), "--ca"]).arg(home.ca());
    replay.arg("--token-key").arg(home.token_key()).arg("--report").arg(&report);
    let (code, said) = run_to_end(replay);
    assert_eq!(code, 0, "{said}");
    (json(&report), report.with_extension("journal"))
}

fn verdict(home: &Home, journal: &Path, store: &[&OsStr]) -> (i32, Value) {
    let report = home.path().join("verify.json");
    let _ = std::fs::remove_file(&report);
    let mut verify = simulator("verify");
    verify.args(store).arg("--journal").arg(journal).arg("--report").arg(&report);
    let (code, said) = run_to_end(verify);
    assert!(report.exists(), "{said}");
    (code, json(&report))
}

#[test]
fn a_replay_reaches_every_store() {
    let (_first, capture) = captured();
    let (_, _, readings) = counts(&capture);
    let (influx, victoria) = (Influx::start(&["telemetry"]), VictoriaMetrics::start());
    let broker = Mosquitto::start(&[]);
    let home = Home::new();
    let _recorder = Recorder::start(&home, &broker, &[]);
    let gateway = home.start_with(&format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\n\
         [sinks.victoria]\ntype = \"influxdb\"\ndialect = \"victoriametrics\"\nurl = \"{}\"\n\
         [sinks.broker]\ntype = \"mqtt\"\nbatch_delay = \"20ms\"\n{}",
        influx.url(),
        influx.ca().display(),
        victoria.url(),
        broker.keys(),
    ));
    let (played, journal) = play(&home, &gateway, &capture, "2");
    assert_eq!(played["acked"], 2 * readings, "{played:#}");

    let (direct, of_victoria, recording) = (influx.direct_url(), victoria.url(), recording(&home));
    let (direct, of_victoria) = (OsStr::new(&direct), OsStr::new(&of_victoria));
    let of_influx = [OsStr::new("--influx"), direct, OsStr::new("--bucket"), "telemetry".as_ref()];
    for store in [
        &of_influx[..],
        &[OsStr::new("--victoriametrics"), of_victoria],
        &[OsStr::new("--subscription"), recording.as_os_str()],
    ] {
        let (code, proved) = verdict(&home, &journal, store);
        assert_eq!((code, &proved["lost"]), (0, &0.into()), "{store:?}: {proved:#}");
        assert_eq!(proved["stored"], 2 * readings, "{store:?}: {proved:#}");
        assert_eq!((&proved["altered"], &proved["unexpected"]), (&0.into(), &0.into()));
    }

    // So fast that a store of milliseconds has several readings at one of its times.
    let (played, fast) = play(&home, &gateway, &capture, "100");
    let store = [OsStr::new("--victoriametrics"), of_victoria];
    let (code, proved) = verdict(&home, &fast, &store);
    assert_eq!(
        (code, &proved["lost"], &proved["altered"]),
        (0, &0.into(), &0.into()),
        "{proved:#}"
    );
    let figure = |name: &str| proved[name].as_u64().unwrap();
    assert!(figure("not_shown") > 0, "{proved:#}");
    assert_eq!(figure("stored") + figure("not_shown"), played["acked"].as_u64().unwrap());

    // What a store has lost is found.
    // Half of the fleet need not have each profile.
    let first_of = |measurement: &str| {
        let query = format!("SELECT * FROM {measurement} ORDER BY time LIMIT 1");
        influx.query("telemetry", &query).first().and_then(|row| row[0].as_i64())
    };
    let profiles = ["vibration", "meter", "environment"];
    let (measurement, first) =
        profiles.into_iter().find_map(|of| Some((of, first_of(of)?))).unwrap();
    influx.query("telemetry", &format!("DELETE FROM {measurement} WHERE time <= {first}"));
    let (code, proved) = verdict(&home, &journal, &[&of_influx[..], &settle()].concat());
    assert_eq!((code, &proved["lost"]), (1, &1.into()), "{proved:#}");
    assert_eq!(proved["examples"]["lost"][0]["time_ns"], first, "{proved:#}");
}

fn settle() -> [&'static OsStr; 2] {
    [OsStr::new("--settle"), OsStr::new("0s")]
}
