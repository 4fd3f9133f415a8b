//! The gateway is killed in the middle of `gateway quarantine replay`, with a real store.

use super::support::{
    Gateway, Home,
    device::{Device, one_reading},
    eventually,
    servers::Influx,
};
use proto::{BatchEncoder, RawValue};
use serde_json::Value;
use std::{
    process::{Command, Stdio},
    time::Duration,
};

const TIME_MS: i64 = 1_760_000_000_000;
/// Refused readings: several pages of a replay.
const POISONED: u64 = 6_000;
/// Readings of a batch.
const BATCH: u64 = 1_000;

fn config(influx: &Influx) -> String {
    format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\n\
         batch_delay = \"50ms\"\n[types]\nguard = false\n",
        influx.url(),
        influx.ca().display(),
    )
}

/// Stored and quarantined by the ledger of the sink, which balances, and so does that of the
/// device, which is the only one.
fn ledger(gateway: &Gateway) -> (u64, u64) {
    let of = |path: &str| -> Value {
        let (status, text) = gateway.get(path);
        assert_eq!(status, 200, "{text}");
        let ledger: Value = serde_json::from_str(&text).unwrap();
        ledger["sinks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|of| of["name"] == "influx")
            .unwrap()
            .clone()
    };
    let (all, device) = (of("/api/v1/ledger"), of("/api/v1/ledger/device?id=d"));
    for of in [&all, &device] {
        assert_eq!(of["balanced"], true, "{of:#}");
    }
    let figures = |of: &Value| ["accepted", "stored", "quarantined"].map(|key| of[key].as_u64());
    assert_eq!(figures(&all), figures(&device), "{all:#} {device:#}");
    (all["stored"].as_u64().unwrap(), all["quarantined"].as_u64().unwrap())
}

/// Readings in the quarantine now, by its file.
fn kept(home: &Home) -> i64 {
    let file = home.data().join("quarantine.db");
    let file = rusqlite::Connection::open(file).unwrap();
    file.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn kill_9_in_the_middle_of_a_replay_leaves_each_reading_stored_or_in_the_quarantine() {
    let influx = Influx::start(&["telemetry"]);
    let home = Home::new();
    let config = config(&influx);
    let mut gateway = home.start_with(&config);
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    // The type of the field is a number from now on.
    device.send(&one_reading(1, TIME_MS, &[("value", RawValue::Float(0.5))])).await;
    eventually("the first is stored", || influx.count("telemetry", "value", "test") == 1);
    for batch in 0..POISONED / BATCH {
        let mut encoder = BatchEncoder::new();
        let mut readings = encoder.readings(batch + 2, u32::try_from(BATCH).unwrap());
        for n in 0..BATCH {
            let time = TIME_MS + 1 + i64::try_from(batch * BATCH + n).unwrap();
            readings = readings.reading(None, Some(time), &[], &[("value", RawValue::Str("x"))]);
        }
        device.send(encoder.finish()).await;
    }
    device.acked(1 + POISONED / BATCH).await;
    eventually("all of them are refused", || ledger(&gateway) == (1, POISONED));
    influx.query("telemetry", "DROP MEASUREMENT test");

    let mut middles = 0;
    for round in 0..20 {
        if ledger(&gateway).1 == 0 {
            break;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.args(["quarantine", "replay", "--config"]).arg(home.path().join("gateway.toml"));
        command.env("GATEWAY__DATA_DIR", home.data()).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        std::fs::write(home.path().join("gateway.toml"), &config).unwrap();
        let mut replay = command.spawn().unwrap();
        // Killed when a page is at the store, or when one has left the quarantine, and a bit later.
        let stored = influx.count("telemetry", "value", "test");
        let is_over = |replay: &mut std::process::Child| replay.try_wait().unwrap().is_some();
        if round % 2 == 0 {
            eventually("it sends", || {
                influx.count("telemetry", "value", "test") > stored || is_over(&mut replay)
            });
            std::thread::sleep(Duration::from_millis(round * 2));
        } else {
            let before = kept(&home);
            while kept(&home) >= before && !is_over(&mut replay) {}
        }
        gateway.kill();
        replay.wait().unwrap();
        gateway = home.start_with(&config);
        let (is_stored, is_kept) = ledger(&gateway);
        assert_eq!(is_stored + is_kept, 1 + POISONED, "round {round}");
        assert_eq!(home.refused("influx").len() as u64, is_kept, "round {round}");
        // What left is there; what is there and has not left yet is sent once more.
        let stored = influx.count("telemetry", "value", "test");
        assert!(stored >= is_stored - 1 && stored <= POISONED, "{stored} of {is_stored} are there");
        middles += u64::from(is_kept > 0 && is_kept < POISONED);
    }
    let (code, said) = home.quarantine(&["replay"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(ledger(&gateway), (1 + POISONED, 0));
    assert_eq!(influx.count("telemetry", "value", "test"), POISONED, "each is there once");
    assert!(middles > 0, "it was never killed in the middle");
    println!("killed {middles} times with some stored and some kept");
}
