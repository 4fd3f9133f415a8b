//! Sinks that are added, removed and rewound, and the ledger through all of it.

use super::support::{
    Gateway, Home,
    device::Device,
    eventually, run_to_end,
    scripted::{Answer, Scripted},
};
use std::process::Command;

/// Values of a device `d` with one stream.
fn line(seq: u64) -> String {
    format!("test,device=d value={seq}.0 {}", (1_760_000_000_000 + seq) * 1_000_000)
}

fn influx(name: &str, store: &Scripted, more: &str) -> String {
    format!(
        "[sinks.{name}]\ntype = \"influxdb\"\nurl = \"{}\"\nbatch_delay = \"20ms\"\n{more}\n",
        store.url()
    )
}

/// `gateway sink …`: exit code and what it says.
fn sink(home: &Home, config: &str, arguments: &[&str]) -> (i32, String) {
    let file = home.path().join("gateway.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command.arg("sink").args(arguments).arg("--config").arg(file);
    command.env("GATEWAY__DATA_DIR", home.data()).env_remove("RUST_LOG");
    run_to_end(command)
}

fn done(home: &Home, config: &str, arguments: &[&str]) -> String {
    let (code, said) = sink(home, config, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

fn refused(home: &Home, config: &str, arguments: &[&str], words: &str) {
    let (code, said) = sink(home, config, arguments);
    assert_eq!(code, 1, "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?}: {said}");
}

async fn send(home: &Home, gateway: &Gateway, range: std::ops::RangeInclusive<u64>) -> Device {
    let mut device = Device::connect(home, gateway, "d").await;
    device.hello_stream(1).await;
    let last = *range.end();
    for seq in range {
        device.send_value(seq).await;
    }
    device.acked(last).await;
    device
}

fn ledger(gateway: &Gateway, name: &str) -> serde_json::Value {
    let (status, text) = gateway.get("/api/v1/ledger");
    assert_eq!(status, 200);
    let ledger: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ledger["balanced"], true, "{ledger:#}");
    let sinks = ledger["sinks"].as_array().unwrap();
    sinks.iter().find(|of| of["name"] == name).unwrap().clone()
}

/// Epoch, accepted and stored, once nothing is pending.
fn settled(gateway: &Gateway, name: &str) -> (u64, u64, u64) {
    eventually("nothing is pending", || ledger(gateway, name)["pending"] == 0);
    let of = ledger(gateway, name);
    assert_eq!(gateway.metric("gateway_ledger_imbalance_readings", name), 0.0, "{of:#}");
    let count = |key: &str| of[key].as_u64().unwrap();
    (count("epoch"), count("accepted"), count("stored"))
}

#[tokio::test]
async fn a_sink_that_is_added_later_begins_in_the_past_or_now() {
    let home = Home::new();
    let gateway = home.start();
    drop(send(&home, &gateway, 1..=20).await);
    gateway.stop();
    let (past, now) = (Scripted::start(), Scripted::start());
    let config = influx("past", &past, "") + &influx("now", &now, "from = \"now\"");
    assert!(done(&home, &config, &["list"]).contains("past   influxdb  -"));
    let gateway = home.start_with(&config);
    eventually("what came before it is there", || past.stored().len() == 20);
    assert_eq!(settled(&gateway, "now"), (0, 0, 0));
    drop(send(&home, &gateway, 21..=25).await);
    eventually("the new ones, too", || past.stored().len() == 25 && now.stored().len() == 5);
    assert_eq!(now.stored().first(), Some(&line(21)));
    assert_eq!(settled(&gateway, "past"), (0, 25, 25));
    assert_eq!(settled(&gateway, "now"), (0, 5, 5));
    // What it says is for the first time only.
    gateway.stop();
    let gateway = home.start_with(&config);
    drop(send(&home, &gateway, 26..=27).await);
    eventually("it goes on where it was", || now.stored().len() == 7);
    assert_eq!(settled(&gateway, "now"), (0, 7, 7));
}

#[tokio::test]
async fn a_sink_that_is_removed_is_forgotten_and_the_log_waits_for_it_no_longer() {
    const SMALL: &str = "[limits]\nmessage_bytes = \"16KiB\"\n[log]\nsegment_bytes = \"64KiB\"\n\
                         max_bytes = \"8MiB\"\nkeep_bytes = \"0\"\nkeep_for = \"0s\"\n";
    let home = Home::new();
    let store = Scripted::start();
    let with = format!("{SMALL}{}", influx("old", &store, "when_full = \"hold\""));
    let gateway = home.start_with(&with);
    let mut device = send(&home, &gateway, 1..=1).await;
    eventually("the first is there", || settled(&gateway, "old") == (0, 1, 1));
    store.rule(|_| Answer::Refuse(503, "", "away".to_owned()));
    let text = "x".repeat(4_000);
    for seq in 2..=120 {
        let time = Some(1_760_000_000_000 + i64::try_from(seq).unwrap());
        let mut encoder = proto::BatchEncoder::new();
        let fields = [("a", proto::RawValue::Str(&text)), ("b", proto::RawValue::Str(&text))];
        encoder.readings(seq, 1).reading(None, time, &[], &fields);
        device.send(encoder.finish()).await;
        device.acked(seq).await;
    }
    let segments = |gateway: &Gateway| gateway.metric("gateway_log_segments", "");
    eventually("the other sink has everything", || home.count("d") == 1 + 119 * 2);
    assert!(segments(&gateway) > 10.0, "the log waits for the sink");
    refused(&home, &with, &["remove", "old"], "is configured: take [sinks.old] out");
    refused(&home, SMALL, &["remove", "old"], "a gateway runs on");
    let said = done(&home, &with, &["rewind", "old"]);
    assert!(said.contains("stood at 1, gets record 1 next, epoch 1"), "{said}");
    assert_eq!(ledger(&gateway, "old")["epoch"], 1);
    refused(&home, &with, &["rewind", "old", "--to", "0"], "the log has the records 1 to");
    refused(&home, &with, &["rewind", "none"], "there is no sink \"none\"");
    gateway.stop();
    assert!(!home.data().join("control.sock").exists());

    assert!(done(&home, SMALL, &["list"]).contains("old    (not configured)"));
    refused(
        &home,
        SMALL,
        &["rewind", "old"],
        "there is no sink \"old\": the enabled ones are store",
    );
    refused(&home, SMALL, &["remove", "older"], "nothing is left of a sink \"older\"");
    let cursor = home.data().join("sinks").join("old.cursor");
    assert!(cursor.exists());
    done(&home, SMALL, &["remove", "old"]);
    assert!(!cursor.exists());
    assert!(!done(&home, SMALL, &["list"]).contains("old"));
    let gateway = home.start_with(SMALL);
    eventually("the log is freed", || segments(&gateway) <= 3.0);
    gateway.stop();
    // Added again, it is a new one.
    let again = Scripted::start();
    let with = format!("{SMALL}{}", influx("old", &again, ""));
    let gateway = home.start_with(&with);
    drop(send(&home, &gateway, 121..=121).await);
    eventually("it gets what comes", || again.stored().contains(&line(121)));
    let (epoch, accepted, stored) = settled(&gateway, "old");
    assert!(epoch == 0 && accepted == stored && stored < 121, "{accepted} {stored}");
}

/// While devices send, and killed in the middle.
#[tokio::test]
async fn sinks_that_are_rewound_under_load_lose_and_double_nothing() {
    let home = Home::new();
    let store = Scripted::start();
    let config = influx("influx", &store, "");
    let mut epochs = 0;
    for round in 0..3 {
        let gateway = home.start_with(&config);
        let mut device = Device::connect(&home, &gateway, "d").await;
        let mut next = device.hello_stream(1).await.logged_seq.map_or(1, |logged| logged + 1);
        let mut rewinds = Vec::new();
        for name in ["store", "influx"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
            command.args(["sink", "rewind", name, "--data-dir"]).arg(home.data());
            command.arg("--config").arg(home.path().join("gateway.toml"));
            rewinds.push(std::thread::spawn(|| run_to_end(command)));
        }
        while rewinds.iter().any(|of| !of.is_finished()) {
            for _ in 0..20 {
                device.send_value(next).await;
                next += 1;
            }
            device.acked(next - 1).await;
        }
        epochs += 1;
        for of in rewinds {
            let (code, said) = of.join().unwrap();
            assert!(code == 0 && said.contains(&format!("epoch {epochs}")), "{said}");
        }
        if round < 2 {
            std::thread::sleep(std::time::Duration::from_millis(fastrand::u64(..40)));
            gateway.kill();
            continue;
        }
        let logged = next - 1;
        assert!(logged >= 60, "{logged}");
        for name in ["store", "influx"] {
            assert_eq!(settled(&gateway, name), (epochs, logged, logged), "{name}");
        }
        assert_eq!(home.count("d"), logged);
        let stored = store.stored();
        assert_eq!(stored.len(), usize::try_from(logged).unwrap());
        assert!((1..=logged).all(|seq| stored.contains(&line(seq))));
        let overwritten = gateway.metric("gateway_store_overwritten_total", "");
        assert!(overwritten > 0.0, "it had some of them before");
    }
}

/// A gateway that is killed again and again under load, with the sinks taken back in between.
#[tokio::test]
async fn sinks_that_are_rewound_between_crashes_lose_and_double_nothing() {
    let home = Home::new();
    let store = Scripted::start();
    let config = influx("influx", &store, "");
    let mut seq = 0;
    let mut epochs = 0;
    for round in 0..6_u64 {
        let gateway = home.start_with(&config);
        let mut device = Device::connect(&home, &gateway, "d").await;
        let welcome = device.hello_stream(1).await;
        let mut next = welcome.logged_seq.map_or(1, |logged| logged + 1);
        assert!(next > seq, "{seq} was acknowledged, {next} is next");
        let until = next + 40 + fastrand::u64(..80);
        while next < until {
            device.send_value(next).await;
            if fastrand::u8(..8) == 0 {
                device.acked(next).await;
                seq = next;
            }
            next += 1;
        }
        if round % 2 == 1 {
            // In the middle of whatever it does.
            std::thread::sleep(std::time::Duration::from_millis(fastrand::u64(..60)));
        }
        gateway.kill();
        epochs += 1;
        for name in ["store", "influx"] {
            let said = done(&home, &config, &["rewind", name]);
            assert!(said.contains(&format!("gets record 1 next, epoch {epochs}")), "{said}");
        }
    }
    refused(
        &home,
        &config,
        &["rewind", "influx", "--to", "1000000"],
        "the log has the records 1 to",
    );
    let gateway = home.start_with(&config);
    let mut device = Device::connect(&home, &gateway, "d").await;
    let logged = device.hello_stream(1).await.logged_seq.unwrap();
    assert!(logged >= seq);
    for name in ["store", "influx"] {
        assert_eq!(settled(&gateway, name), (epochs, logged, logged), "{name}");
    }
    assert_eq!(home.count("d"), logged, "nothing is lost or doubled");
    let expected: Vec<String> = (1..=logged).map(line).collect();
    let stored = store.stored();
    assert_eq!(stored.len(), expected.len());
    assert!(expected.iter().all(|line| stored.contains(line)));
    gateway.stop();

    // From the middle: the ledger counts from there.
    let said = done(&home, &config, &["rewind", "influx", "--to", "10"]);
    assert!(said.contains("gets record 10 next"), "{said}");
    let gateway = home.start_with(&config);
    let (epoch, accepted, stored) = settled(&gateway, "influx");
    assert_eq!((epoch, accepted), (epochs + 1, stored));
    assert!(stored < logged && stored > 0, "{stored} of {logged}");
    assert_eq!(settled(&gateway, "store"), (epochs, logged, logged));
}
