//! The ledger of one device: each figure its own, and the sums over the devices are the sink's.

use super::support::{
    Gateway, Home,
    device::{Device, one_reading},
    eventually, run_to_end,
    scripted::{Answer, Scripted},
};
use proto::{GatewayMessage, RawValue};
use serde_json::Value;
use std::process::Command;

const TIME_MS: i64 = 1_760_000_000_000;
const SMALL_LOG: &str = "[limits]\nmessage_bytes = \"16KiB\"\n[log]\nsegment_bytes = \"64KiB\"\n\
                         max_bytes = \"1MiB\"\nkeep_bytes = \"64KiB\"\nkeep_for = \"0s\"\n";

fn influx(store: &Scripted, more: &str) -> String {
    let url = store.url();
    format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{url}\"\nbatch_delay = \"20ms\"\n{more}\n"
    )
}

fn of(gateway: &Gateway, query: &str) -> Value {
    let (status, text) = gateway.get(&format!("/api/v1/ledger/device?{query}"));
    assert_eq!(status, 200, "{text}");
    let ledger: Value = serde_json::from_str(&text).unwrap();
    for sink in ledger["sinks"].as_array().unwrap() {
        assert_eq!(sink["balanced"], true, "{ledger:#}");
    }
    ledger
}

/// One sink's part of an answer.
fn sink(ledger: &Value, name: &str) -> Value {
    ledger["sinks"].as_array().unwrap().iter().find(|of| of["name"] == name).unwrap().clone()
}

/// Accepted, stored, quarantined and pending of a device, as one sink has them; all are known.
fn figures(gateway: &Gateway, device: &str, name: &str) -> [u64; 4] {
    let of = sink(&of(gateway, &format!("id={device}")), name);
    assert_eq!((dropped(&of), &of["why_null"]), (0, &Value::Null), "{of:#}");
    ["accepted", "stored", "quarantined", "pending"].map(|key| of[key].as_u64().unwrap())
}

fn dropped(of: &Value) -> u64 {
    of["dropped"].as_object().unwrap().values().map(|of| of.as_u64().unwrap()).sum()
}

fn of_all(gateway: &Gateway, name: &str) -> Value {
    let (_, text) = gateway.get("/api/v1/ledger");
    let ledger: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ledger["balanced"], true, "{ledger:#}");
    sink(&ledger, name)
}

/// The devices' figures sum up to the sink's, each of its own and each reason.
fn sums_up(gateway: &Gateway, devices: &[&str], name: &str) {
    let one = |device: &&str| sink(&of(gateway, &format!("id={device}")), name);
    let (mut all, mut each) = (of_all(gateway, name), Vec::new());
    // The answers are to be of one moment: the sink has not moved between them.
    eventually("the sink stands still", || {
        each = devices.iter().map(one).collect();
        let before = std::mem::replace(&mut all, of_all(gateway, name));
        before == all
    });
    for key in ["/accepted", "/stored", "/quarantined", "/pending", "/dropped/skipped"]
        .into_iter()
        .chain(["/dropped/unsupported", "/dropped/operator", "/dropped/quarantine_full"])
    {
        let count = |of: &Value| of.pointer(key).and_then(Value::as_u64);
        let sum: Option<u64> = each.iter().map(count).sum();
        assert_eq!(count(&all), sum, "{key} of {name}: {each:#?}, {all:#}");
    }
}

fn rewind(home: &Home, config: &str, arguments: &[&str]) {
    let file = home.path().join("gateway.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command.args(["sink", "rewind"]).args(arguments).arg("--config").arg(file);
    command.env("GATEWAY__DATA_DIR", home.data()).env_remove("RUST_LOG");
    let (code, said) = run_to_end(command);
    assert_eq!(code, 0, "{said}");
}

async fn send(home: &Home, gateway: &Gateway, device: &str, last: u64) -> Device {
    let mut device = Device::connect(home, gateway, device).await;
    let first = device.hello_stream(1).await.logged_seq.unwrap_or(0) + 1;
    for seq in first..=last {
        device.send_value(seq).await;
    }
    device.acked(last).await;
    device
}

#[tokio::test]
async fn the_ledger_of_a_device_survives_kills_and_rewinds() {
    let home = Home::new();
    let store = Scripted::start();
    store.rule(|_| Answer::Refuse(503, "", "away".to_owned()));
    let config = influx(&store, "");
    let gateway = home.start_with(&config);
    drop(send(&home, &gateway, "d", 30).await);
    let mut other = send(&home, &gateway, "site/7", 5).await;
    // Refused and accepted in one batch.
    let mut encoder = proto::BatchEncoder::new();
    let (bad, good) = (RawValue::Float(f64::NAN), RawValue::Float(1.0));
    let readings = encoder.readings(6, 2).reading(None, Some(TIME_MS), &[], &[("value", bad)]);
    readings.reading(None, Some(TIME_MS), &[], &[("value", good)]);
    other.send(encoder.finish()).await;
    other.nack().await;
    other.acked(6).await;
    let devices = ["d", "site%2F7"];
    eventually("one sink has everything", || of_all(&gateway, "store")["pending"] == 0);
    assert_eq!(figures(&gateway, "d", "store"), [30, 30, 0, 0]);
    assert_eq!(figures(&gateway, "d", "influx"), [30, 0, 0, 30]);
    assert_eq!(figures(&gateway, "site%2F7", "influx"), [6, 0, 0, 6]);
    assert_eq!(figures(&gateway, "nobody", "influx"), [0; 4]);
    assert_eq!(figures(&gateway, "d&realm=other", "store"), [0; 4]);
    let ledger = of(&gateway, "id=site%2F7");
    assert_eq!((&ledger["accepted"], &ledger["refused"]), (&6.into(), &1.into()));
    for name in ["store", "influx"] {
        sums_up(&gateway, &devices, name);
    }
    gateway.kill();
    store.rule(|_| Answer::Store);
    let gateway = home.start_with(&config);
    eventually("the other sink has everything, too", || {
        figures(&gateway, "d", "influx") == [30, 30, 0, 0]
            && figures(&gateway, "site%2F7", "influx") == [6, 6, 0, 0]
    });
    let again = of(&gateway, "id=site%2F7");
    assert_eq!((&again["accepted"], &again["refused"]), (&6.into(), &1.into()));

    // In the middle of what `d` sent: both ledgers begin there.
    rewind(&home, &config, &["influx", "--to", "11"]);
    eventually("it has them again", || of_all(&gateway, "influx")["pending"] == 0);
    assert_eq!(figures(&gateway, "d", "influx"), [20, 20, 0, 0]);
    sums_up(&gateway, &devices, "influx");
    assert_eq!(of(&gateway, "id=d")["accepted"], 30);
    gateway.kill();
    let gateway = home.start_with(&config);
    drop(send(&home, &gateway, "d", 34).await);
    eventually("all of it", || of_all(&gateway, "influx")["pending"] == 0);
    assert_eq!(figures(&gateway, "d", "influx"), [24, 24, 0, 0]);
    sums_up(&gateway, &devices, "influx");
    sums_up(&gateway, &devices, "store");
}

#[tokio::test]
async fn what_a_sink_gives_up_is_counted_by_device_also_when_it_is_killed_meanwhile() {
    let home = Home::new();
    let store = Scripted::start();
    store.rule(|_| Answer::Refuse(503, "", "away".to_owned()));
    let config = SMALL_LOG.to_owned() + &influx(&store, "");
    let mut gateway = home.start_with(&config);
    let text = "x".repeat(4_000);
    let (mut sent, mut skipped) = (0, 0);
    for round in 0..3 {
        let mut devices = Vec::new();
        for name in ["d", "e"] {
            let mut device = Device::connect(&home, &gateway, name).await;
            device.hello_stream(1).await;
            devices.push(device);
        }
        while of_all(&gateway, "influx")["dropped"]["skipped"] == skipped {
            sent += 1;
            assert!(sent < 2_000, "never full");
            let fields = [("a", RawValue::Str(&text)), ("b", RawValue::Str(&text))];
            let time = TIME_MS + i64::try_from(sent).unwrap();
            for device in &mut devices {
                let message = one_reading(sent, time, &fields);
                let is_put_off = |answer| matches!(answer, GatewayMessage::Nack(_));
                // The log is full until the sink has given way.
                while {
                    device.send(&message).await;
                    is_put_off(device.next().await.unwrap())
                } {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        }
        if round < 2 {
            gateway.kill();
            gateway = home.start_with(&config);
        }
        sums_up(&gateway, &["d", "e"], "influx");
        skipped = of_all(&gateway, "influx")["dropped"]["skipped"].as_u64().unwrap();
        assert!(skipped > 0);
    }
    for device in ["d", "e"] {
        let of = sink(&of(&gateway, &format!("id={device}")), "influx");
        assert_eq!((&of["accepted"], &of["stored"]), (&sent.into(), &0.into()), "{of:#}");
        assert!(dropped(&of) > 0, "{of:#}");
    }
    store.rule(|_| Answer::Store);
    eventually("nothing is pending", || of_all(&gateway, "influx")["pending"] == 0);
    sums_up(&gateway, &["d", "e"], "influx");
    eventually("the other sink has dropped nothing", || {
        figures(&gateway, "d", "store") == [sent, sent, 0, 0]
    });
    let stored = store.stored();
    for device in ["d", "e"] {
        let of = sink(&of(&gateway, &format!("id={device}")), "influx");
        let there = stored.iter().filter(|of| of.contains(&format!("device={device} "))).count();
        assert_eq!(of["stored"], there, "{of:#}");
    }
}

/// Refused, replayed, dropped by hand: of the device that it was.
#[tokio::test]
async fn what_leaves_the_quarantine_is_counted_by_device() {
    let home = Home::new();
    let store = Scripted::start();
    let bad = "invalid field format";
    store.rule(move |lines| {
        let is_bad = |line: &&str| line.contains("value=13");
        let (bad_ones, good): (Vec<_>, Vec<_>) = lines.lines().partition(is_bad);
        if bad_ones.is_empty() {
            return Answer::Store;
        }
        let named: Vec<_> = (1..)
            .zip(lines.lines())
            .filter(|(_, line)| is_bad(line))
            .map(|(number, line)| {
                serde_json::json!({
                    "original_line": line, "line_number": number, "error_message": bad,
                })
            })
            .collect();
        let body = serde_json::json!({
            "error": "partial write of line protocol occurred", "data": named,
        });
        let good = good.into_iter().map(str::to_owned).collect();
        Answer::Partial(good, 400, body.to_string())
    });
    let config = influx(&store, "");
    let mut gateway = home.start_with(&config);
    for (device, last) in [("d", 20), ("e", 14), ("f", 5)] {
        drop(send(&home, &gateway, device, last).await);
    }
    let devices = ["d", "e", "f"];
    eventually("nothing is pending", || of_all(&gateway, "influx")["pending"] == 0);
    assert_eq!(figures(&gateway, "d", "influx"), [20, 19, 1, 0]);
    assert_eq!(figures(&gateway, "f", "influx"), [5, 5, 0, 0]);
    sums_up(&gateway, &devices, "influx");
    let (code, said) = home.quarantine(&["drop", "--device", "d"]);
    assert_eq!(code, 0, "{said}");
    let operator = |gateway: &Gateway, device: &str| {
        sink(&of(gateway, &format!("id={device}")), "influx")["dropped"]["operator"].clone()
    };
    assert_eq!((operator(&gateway, "d"), operator(&gateway, "e")), (1.into(), 0.into()));
    sums_up(&gateway, &devices, "influx");
    gateway.kill();
    gateway = home.start_with(&config);
    assert_eq!((operator(&gateway, "d"), operator(&gateway, "e")), (1.into(), 0.into()));
    store.rule(|_| Answer::Store);
    let (code, said) = home.quarantine(&["replay"]);
    assert_eq!((code, said.as_str()), (0, "1 readings stored, 0 refused again\n"));
    assert_eq!(figures(&gateway, "e", "influx"), [14, 14, 0, 0]);
    sums_up(&gateway, &devices, "influx");

    // A new epoch begins with nothing dropped.
    rewind(&home, &config, &["influx"]);
    eventually("it has them again", || of_all(&gateway, "influx")["pending"] == 0);
    assert_eq!(figures(&gateway, "d", "influx"), [20, 20, 0, 0]);
    sums_up(&gateway, &devices, "influx");
    gateway.stop();
    rewind(&home, &config, &["influx", "--to", "6"]);
    gateway = home.start_with(&config);
    eventually("it has them again", || of_all(&gateway, "influx")["pending"] == 0);
    sums_up(&gateway, &devices, "influx");
}
