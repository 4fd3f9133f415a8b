//! `gateway log stat|verify|tail`, beside a running gateway and without one; and the scrub.

use super::support::{
    Home,
    device::{Device, now_ms, one_reading},
    eventually,
};
use proto::{BatchEncoder, RawValue};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Stdio,
};

const SMALL_SEGMENTS: &str =
    "[limits]\nmessage_bytes = \"16KiB\"\n[log]\nsegment_bytes = \"64KiB\"\n";

/// Runs `gateway log` with these arguments.
fn log(home: &Home, config: &str, arguments: &[&str]) -> (i32, String) {
    let command = home.command("log", config);
    // `log` wants its own command before the configuration.
    let given: Vec<_> = command.get_args().skip(1).map(std::ffi::OsStr::to_owned).collect();
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_gateway"));
    again.arg("log").args(arguments).args(given).env("GATEWAY__DATA_DIR", home.data());
    let output = again.output().unwrap();
    let said = [output.stdout, output.stderr].map(|o| String::from_utf8_lossy(&o).into_owned());
    (output.status.code().unwrap(), said.concat())
}

fn json(home: &Home, arguments: &[&str]) -> (i32, Value) {
    let (code, said) = log(home, SMALL_SEGMENTS, arguments);
    let line = said.lines().next().unwrap_or_default();
    (code, serde_json::from_str(line).unwrap_or_else(|_| panic!("{said}")))
}

/// The segments, ascending.
fn segments(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.data().join("log")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

fn large_batch(seq: u64) -> Vec<u8> {
    let text = "x".repeat(4000);
    let fields = ["a", "b", "c"].map(|name| (name, RawValue::Str(&text)));
    one_reading(seq, now_ms() + i64::try_from(seq).unwrap(), &fields)
}

/// Flips a bit in the payload of a segment's first record.
fn rot(segment: &PathBuf) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 64 + 28 + 300).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 64 + 28 + 300).unwrap();
}

#[tokio::test]
async fn the_log_is_shown_beside_a_gateway_and_without_one() {
    let home = Home::new();
    let (code, said) = log(&home, "", &["stat"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no log in") && said.contains("--data-dir"), "{said}");

    let gateway = home.start_with(SMALL_SEGMENTS);
    let mut device = Device::connect(&home, &gateway, "pump-1").await;
    device.hello_stream(7).await;
    for seq in 1..=20 {
        device.send(&large_batch(seq)).await;
        device.acked(seq).await;
    }
    let mut other = Device::connect(&home, &gateway, "pump-2").await;
    other.hello_stream(8).await;
    let mut encoder = BatchEncoder::new();
    let hostile = "red \u{1b}[31m\u{202e}";
    encoder
        .readings(1, 2)
        .reading(
            Some("room one"),
            Some(now_ms()),
            &[("site", "a b")],
            &[("t", RawValue::Str(hostile))],
        )
        .reading(Some("bad"), Some(1), &[], &[("x", RawValue::Float(1.0))]);
    let batch = encoder.finish().to_vec();
    other.send(&batch).await;
    other.nack().await;
    other.acked(1).await;

    let (_, stat) = json(&home, &["stat", "--json"]);
    assert_eq!(stat["accepted_readings"], 21, "{stat}");
    assert!(stat["open_by_process"].is_u64() && stat["segments"].as_array().unwrap().len() > 2);
    let (code, said) = log(&home, SMALL_SEGMENTS, &["tail", "-n", "1"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("default/pump-2  stream 8  seq 1  1 readings  #1 time_implausible"),
        "{said}"
    );
    assert!(said.contains("\"room one\",site=\"a b\" t=\"red \\u{1b}[31m\\u{202e}\""), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\u{202e}'), "{said}");
    let (_, newest) = json(&home, &["tail", "-n", "1", "--json", "--device", "pump-2"]);
    assert_eq!(newest["readings"][0]["fields"]["t"], hostile);
    assert_eq!(newest["refused"][0]["code"], "time_implausible", "{newest}");
    let (_, of_one) =
        log(&home, SMALL_SEGMENTS, &["tail", "-n", "15", "--json", "--device", "pump-1"]);
    let seqs: Vec<u64> = of_one
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, (6..=20).collect::<Vec<u64>>(), "over several segments, oldest first");
    let (code, verified) = json(&home, &["verify", "--json"]);
    assert_eq!((code, &verified["lost"]), (0, &Value::from(0)), "{verified}");

    gateway.stop();
    let (code, said) = log(&home, SMALL_SEGMENTS, &["verify"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the log is whole"), "{said}");
    let (_, stopped) = json(&home, &["stat", "--json"]);
    assert_eq!(
        (&stopped["open_by_process"], &stopped["accepted_readings"]),
        (&Value::Null, &21.into())
    );
}

#[tokio::test]
async fn damage_is_named_with_what_to_do_and_code_1() {
    let home = Home::new();
    let gateway = home.start_with(SMALL_SEGMENTS);
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(7).await;
    for seq in 1..=12 {
        device.send(&large_batch(seq)).await;
        device.acked(seq).await;
    }
    gateway.stop();
    let before: Vec<_> = segments(&home).iter().map(|path| std::fs::read(path).unwrap()).collect();
    let segment = &segments(&home)[0];
    rot(segment);
    let (code, said) = log(&home, SMALL_SEGMENTS, &["verify"]);
    assert_eq!(code, 1, "{said}");
    let named = format!("bytes of {} from byte 64 on", segment.display());
    assert!(said.contains("DAMAGED: record 1: ") && said.contains(&named), "{said}");
    assert!(
        said.contains("1 acknowledged records are lost") && said.contains("What to do"),
        "{said}"
    );
    let (code, report) = json(&home, &["verify", "--json"]);
    assert_eq!((code, &report["lost"]), (1, &Value::from(1)));
    assert_eq!(report["damaged"][0]["from"], 1, "{report}");
    let (_, shown) = log(&home, SMALL_SEGMENTS, &["tail", "-n", "100"]);
    assert!(shown.contains("-- records 1 to 1 are damaged or deleted --"), "{shown}");
    rot(segment);
    let after: Vec<_> = segments(&home).iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert_eq!(before, after, "looking changes nothing");
}

#[tokio::test]
async fn tail_follows_a_running_gateway_over_segments() {
    let home = Home::new();
    let gateway = home.start_with(SMALL_SEGMENTS);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["log", "tail", "-n", "0", "--follow", "--json", "--device", "d", "--data-dir"])
        .arg(home.data())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(7).await;
    for seq in 1..=15 {
        device.send(&large_batch(seq)).await;
        device.acked(seq).await;
    }
    let mut last = 0;
    while last < 15 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let seq = line["seq"].as_u64().unwrap();
        // It may have begun after the first batches.
        assert!(last == 0 || seq == last + 1, "{last}, then {seq}");
        last = seq;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn rule_14_the_scrub_alerts_and_counts_while_the_gateway_runs() {
    let home = Home::new();
    let gateway = home.start_with(&format!("{SMALL_SEGMENTS}scrub_every = \"1s\"\n"));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(7).await;
    for seq in 1..=15 {
        device.send(&large_batch(seq)).await;
        device.acked(seq).await;
    }
    eventually("all is checked once", || {
        gateway.metric("gateway_log_scrub_completed_timestamp_seconds", "") > 0.0
    });
    assert_eq!(gateway.metric("gateway_log_scrub_damaged_records", ""), 0.0);
    rot(&segments(&home)[1]);
    eventually("the damage is found", || {
        gateway.metric("gateway_log_scrub_damaged_records", "") == 1.0
    });
    gateway.says(&["ALERT", "gateway log verify"]);
    assert_eq!(gateway.get("/readyz").0, 200, "everything else in the log is of use");
    assert!(gateway.metric("gateway_log_scrubbed_bytes_total", "") > 0.0);
    // Found again in each pass, it is counted once.
    let passes = gateway.metric("gateway_log_scrubbed_segments_total", "");
    eventually("it is checked again", || {
        gateway.metric("gateway_log_scrubbed_segments_total", "") > passes + 3.0
    });
    assert_eq!(gateway.metric("gateway_log_damaged_records_total", ""), 1.0);
}
