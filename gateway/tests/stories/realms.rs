//! Devices of two trust roots may have the same names. Each store keeps them apart, and a run is
//! verified in it as the one that it was.

use super::fleet::start;
use super::mqtt_subscriber::{Recorder, recording};
use super::support::{
    Home,
    mosquitto::Mosquitto,
    run_to_end,
    servers::{Influx, VictoriaMetrics},
    sibling,
};
use serde_json::Value;
use std::process::Command;

const FLEET: [&str; 10] = [
    "--devices",
    "5",
    "--interval",
    "200ms",
    "--batch",
    "3",
    "--ramp",
    "200ms",
    "--duration",
    "3s",
];

#[test]
fn a_run_is_verified_by_its_realm_in_every_store() {
    let (influx, victoria) = (Influx::start(&["telemetry"]), VictoriaMetrics::start());
    let broker = Mosquitto::start(&[]);
    let home = Home::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let file = |name: &str| home.path().join(name);
    std::fs::write(file("plant.pem"), key.serialize_pem()).unwrap();
    std::fs::write(file("plant.pub.pem"), key.public_key_pem()).unwrap();
    let recorder = Recorder::start(&home, &broker, &[]);
    let gateway = home.start_with(&format!(
        "[[auth.jwt]]\nrealm = \"plant\"\nkey_file = {:?}\n\
         [sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\n\
         [sinks.victoria]\ntype = \"influxdb\"\ndialect = \"victoriametrics\"\nurl = \"{}\"\n\
         [sinks.broker]\ntype = \"mqtt\"\nbatch_delay = \"20ms\"\n{}",
        file("plant.pub.pem"),
        influx.url(),
        influx.ca().display(),
        victoria.url(),
        broker.keys(),
    ));
    let here = start(&home, &gateway, &FLEET);
    let mut plant = Command::new(sibling("device-sim"));
    plant.args(["run", "--quiet", "--url", &gateway.url]).args(FLEET);
    plant.arg("--ca").arg(home.ca()).arg("--token-key").arg(file("plant.pem"));
    // Other values: both runs may begin within a millisecond, and have the same times then.
    plant.args(["--seed", "99"]).arg("--journal").arg(file("plant.journal"));
    let (code, said) = run_to_end(plant);
    assert_eq!(code, 0, "{said}");
    assert!(here.wait_with_output().unwrap().status.success());

    let text = |path: std::path::PathBuf| path.display().to_string();
    let (store, record) = (text(home.store()), text(recording(&home)));
    for place in [
        vec!["--store", &store],
        vec!["--influx", &influx.direct_url(), "--bucket", "telemetry"],
        vec!["--victoriametrics", &victoria.url()],
        vec!["--subscription", &record, "--allow-duplicates"],
    ] {
        let verify = |journal: &str, settle: &str, realm: &[&str]| {
            let report = file("verdict.json");
            let _ = std::fs::remove_file(&report);
            let mut verify = Command::new(sibling("device-sim"));
            verify.args(["verify", "--settle", settle]).args(&place).args(realm);
            verify.arg("--journal").arg(file(journal)).arg("--report").arg(&report);
            let (code, said) = run_to_end(verify);
            let verdict = std::fs::read(&report).unwrap_or_else(|_| b"null".to_vec());
            (code, said, serde_json::from_slice::<Value>(&verdict).unwrap())
        };
        for (journal, realm) in [("journal", "default"), ("plant.journal", "plant")] {
            let (code, said, verdict) = verify(journal, "60s", &["--realm", realm]);
            assert_eq!((code, &verdict["lost"]), (0, &0.into()), "{place:?} {realm}: {said}");
            assert_eq!(verdict["stored"], verdict["acked"], "{place:?} {realm}: {said}");
        }
        let (code, said, _) = verify("journal", "60s", &[]);
        assert!(code == 1 && said.contains("name one with --realm"), "{place:?}: {said}");
        for wrong in ["plant", "nowhere"] {
            let (code, said, verdict) = verify("journal", "0s", &["--realm", wrong]);
            assert_eq!((code, &verdict["stored"]), (1, &0.into()), "{place:?} {wrong}: {said}");
        }
    }
    drop(recorder);
}
