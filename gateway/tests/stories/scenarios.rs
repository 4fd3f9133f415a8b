//! Every scenario that comes with the simulator, in its short form, against a gateway of its own:
//! the run shows what the scenario expects, and the store holds it to the reading.

use super::fleet::{assert_nothing_wrong_in, report, start};
use super::support::{Home, PATIENCE, eventually};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../device-sim/scenarios")
}

fn play(name: &str) {
    let home = Home::new();
    let gateway = home.start();
    let file = folder().join(format!("{name}.toml"));
    let mut fleet = start(&home, &gateway, &["--short", "--scenario", file.to_str().unwrap()]);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = fleet.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE * 4 {
            fleet.kill().unwrap();
            panic!("{name} does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let run = report(&home);
    assert!(status.success(), "{name}: {run:#}");
    assert!(!run["settings"]["expect"].as_array().unwrap().is_empty(), "nothing for verify");
    // Whatever the faults make of it, the gateway's own ledger says the same.
    let store = home.store();
    let place = ["--ledger", &gateway.admin, "--store", store.to_str().unwrap()];
    let verdict = assert_nothing_wrong_in(&home, &place);
    assert_eq!(verdict["acked"], run["acked"], "{run:#}\n{verdict:#}");
    assert_eq!(verdict["refused"], run["refused"], "{run:#}\n{verdict:#}");
    eventually("the ledger balances", || {
        let (_, ledger) = gateway.get("/api/v1/ledger");
        let ledger: Value = serde_json::from_str(&ledger).unwrap();
        assert_eq!(ledger["balanced"], true, "{ledger:#}");
        ledger["sinks"].as_array().unwrap().iter().all(|sink| sink["pending"] == 0)
    });
    let (status, _) = gateway.get("/readyz");
    assert_eq!(status, 200, "{name}: the gateway is well");
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            play(stringify!($name));
        })*

        #[test]
        fn every_file_is_played() {
            let files: BTreeSet<String> = std::fs::read_dir(folder())
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            let played = [$(stringify!($name)),*].map(str::to_owned);
            assert_eq!(files, BTreeSet::from(played));
        }
    };
}

scenarios! {
    backfill bad_credentials broken_links clock_skew dead_zones deaf duty_cycle malformed poison
    ramp sequences soak spike steady step storm
}
