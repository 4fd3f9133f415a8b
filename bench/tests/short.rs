//! A short form of the benchmark against the real gateway: what was sent, what was acknowledged and
//! what the sink confirmed is the same number, and the report says it in its shape. No test here
//! looks at a time or a rate.

#![allow(clippy::unwrap_used, missing_docs)]

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// The gateway's program, which `cargo test --workspace` builds beside this crate's.
fn gateway() -> PathBuf {
    let gateway = Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("gateway");
    assert!(gateway.is_file(), "{} is missing: cargo build -p gateway", gateway.display());
    gateway
}

fn bench(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["run", "--rounds", "1", "--seconds", "0.2", "--no-peers", "--gateway"])
        .arg(gateway())
        .arg("--dir")
        .arg(dir)
        .arg("--memory-dir")
        .arg(dir.join("memory"))
        .args(arguments)
        .output()
        .unwrap()
}

fn report(dir: &Path, arguments: &[&str]) -> Value {
    let output = bench(dir, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap()
}

#[track_caller]
fn positive(report: &Value, pointers: &[&str]) {
    for pointer in pointers {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{pointer} is {value:?} in {report:#}");
    }
}

#[test]
fn everything_that_was_sent_is_acknowledged_and_confirmed_once() {
    let dir = tempfile::tempdir().unwrap();
    let report = report(dir.path(), &["--cases", "batch100,single,pipelined"]);
    for (case, readings) in [("batch100", 100), ("single", 1), ("pipelined", 1)] {
        let round = &report[case]["rounds"][0];
        let messages = round["messages"].as_u64().unwrap();
        assert!(messages > 0, "{case}");
        assert_eq!(round["readings"].as_u64().unwrap(), messages * readings, "{case}");
        // Cumulative acks cover at least one message each.
        assert!(round["answers"].as_u64().unwrap() <= messages, "{case}");
        assert_eq!(report[case]["bare_loop"]["rounds"].as_array().unwrap().len(), 1);
    }
    positive(
        &report,
        &[
            "/batch100/cpu_us_per_reading",
            "/batch100/readings_per_s",
            "/single/cpu_us_per_message",
            "/single/messages_per_s",
            "/single/vs_bare_loop",
            "/pipelined/cpu_us_per_message",
            "/pipelined/messages_per_s",
            "/pipelined/vs_bare_loop",
            "/pipelined/vs_bare_loop_gathering",
            "/machine/cores",
            "/payload/bytes_per_reading_of_100",
        ],
    );
    for server in ["gateway", "bare_loop", "node", "mosquitto"] {
        for what in ["settings", "promise"] {
            assert!(report["settings"][server][what].is_string(), "{server} {what}");
        }
    }
}

#[test]
fn idle_memory_and_latency_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let report = report(dir.path(), &["--cases", "idle,latency", "--idle", "20,40"]);
    assert_eq!(report["idle"]["connections"], 40);
    let pointers =
        ["/idle/kib_per_connection", "/latency/messages_per_s", "/latency/gateway/p99_us"];
    positive(&report, &pointers);
    positive(&report, &["/latency/fdatasync/p99_us", "/latency/bare_loop/p999_us"]);
}

#[test]
fn the_generator_ends_with_a_message_where_the_server_is_another() {
    // The bare loop does not speak the telemetry protocol.
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let program = env!("CARGO_BIN_EXE_bench");
    let mut bare = Command::new(program)
        .arg("bare")
        .arg("--cert")
        .arg(&cert)
        .arg("--key")
        .arg(&key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(bare.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = serde_json::from_str::<Value>(&line).unwrap()["port"].to_string();

    let run = |dialect: &str| {
        let mut load = Command::new(program)
            .args(["load", "--connections", "2", "--messages", "3", "--port", &port, "--ca"])
            .arg(&cert)
            .args(["--dialect", dialect])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = load.stdin.take().unwrap();
        let mut lines = BufReader::new(load.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let counts = first.contains("ready").then(|| {
            input.write_all(b"go stop\n").unwrap();
            lines.next().unwrap().unwrap()
        });
        drop(input);
        (load.wait().unwrap().success(), first, counts)
    };
    let (success, said, _) = run("telemetry");
    assert!(!success && said.contains("an upgrade to something else"), "{said}");
    let (success, _, counts) = run("plain");
    let counts: Value = serde_json::from_str(&counts.unwrap()).unwrap();
    assert!(success);
    assert_eq!((&counts["sent"], &counts["acked"]), (&6.into(), &6.into()));
    drop(bare.stdin.take());
    assert!(bare.wait().unwrap().success());
}
