//! The binary as a person or a script uses it: exit codes, signals, files.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, FakeGateway};
use device_sim::journal::Journal;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(gateway: &FakeGateway, duration: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_device-sim"));
    command.args(["run", "--url", &gateway.url, "--devices", "3", "--ramp", "100ms"]);
    command.args(["--interval", "100ms", "--batch", "5", "--duration", duration]);
    command.arg("--ca").arg(&gateway.ca).arg("--token-key").arg(&gateway.token_key);
    command.arg("--report").arg(gateway.folder.path().join("run.json"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_run_leaves_report_and_journal() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let out = output(command(&gateway, "2s")).await;
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("everything due was sent and answered"));
    let report = json(&gateway.folder.path().join("run.json"));
    let count = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}"));
    assert!(count("scheduled") > 0);
    for name in ["sent", "acked"] {
        assert_eq!(count(name), count("scheduled"), "{name}");
    }
    for name in ["refused", "reconnects", "not_sent", "unacknowledged"] {
        assert_eq!(count(name), 0, "{name}");
    }
    for name in ["p50", "p90", "p99", "p999", "max"] {
        assert!(report["ack_latency_ms"][name].is_f64(), "{name}");
        assert!(report["schedule_lag_ms"][name].is_f64(), "{name}");
    }
    assert_eq!(report["settings"]["devices"], 3);
    let journal = Journal::open(&gateway.folder.path().join("run.journal")).unwrap();
    assert!(journal.complete);
    let acked: u64 = journal.ledgers().unwrap().map(|ledger| ledger.unwrap().acked).sum();
    assert_eq!(acked * 5, count("acked"));
}

#[tokio::test]
async fn an_interrupt_ends_early_and_still_drains() {
    let gateway = FakeGateway::start(|_, seq, arrivals| match (seq, arrivals) {
        (12, 1) => Answer::Retry(500),
        _ => Answer::Ack,
    })
    .await;
    for signal in [Signal::INT, Signal::TERM] {
        let child = command(&gateway, "10m").spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let start = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let out = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let out = out.await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        let report = json(&gateway.folder.path().join("run.json"));
        assert_eq!(report["outcome"], "interrupted");
        assert!(report["acked"].as_u64().unwrap() >= 3 * 5);
        assert_eq!(report["acked"], report["scheduled"]);
        assert!(Journal::open(&gateway.folder.path().join("run.journal")).unwrap().complete);
    }
}

#[tokio::test]
async fn a_killed_run_leaves_a_journal() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let mut child = command(&gateway, "10m").spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let journal = Journal::open(&gateway.folder.path().join("run.journal")).unwrap();
    assert!(!journal.complete);
    let kept = gateway.kept();
    for ledger in journal.ledgers().unwrap() {
        let ledger = ledger.unwrap();
        let admitted = kept[&journal.plan.device_id(ledger.device)].admitted;
        assert!(0 < ledger.acked && ledger.acked <= admitted, "{ledger:?} {admitted}");
    }
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_failure_with_1() {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    for (arguments, code, word) in [
        (&["--devices", "0"][..], 2, "--devices must be 1 to"),
        (&["--interval", "1ns"], 2, "--interval is too short"),
        (&["--duration", "soon"], 2, "soon"),
        (&["--devise", "3"], 2, "--devices"),
        (&["--tokens", "x"], 2, "--token-key"),
        (&["--ca", "/nowhere"], 1, "cannot read the CA /nowhere"),
    ] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_device-sim"));
        run.args(["run", "--url", &gateway.url, "--quiet"]);
        run.arg("--token-key").arg(&gateway.token_key);
        if !arguments.contains(&"--ca") {
            run.arg("--ca").arg(&gateway.ca);
        }
        let out = output({
            run.args(arguments);
            run
        })
        .await;
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

/// A program reads samples and the report from standard output, a person opens the page.
#[tokio::test]
async fn a_run_is_followed_by_a_program_and_shown_as_a_page() {
    let gateway = FakeGateway::start(|_, seq, _| match seq {
        3 => Answer::RefuseReading(1),
        _ => Answer::Ack,
    })
    .await;
    let html = gateway.folder.path().join("run.html");
    let mut run = command(&gateway, "3s");
    run.arg("--json-lines").arg("--html").arg(&html);
    let out = output(run).await;
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let out = text(&out.stdout);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (report, samples) = lines.split_last().unwrap();
    // The one that falls on the end of the run may not come any more.
    assert!(samples.len() >= 2, "{out}");
    let count = |of: &Value, name: &str| of[name].as_u64().unwrap_or_else(|| panic!("{name}"));
    for pair in samples.windows(2) {
        assert!(pair[0]["t_s"].as_f64() < pair[1]["t_s"].as_f64());
        for name in ["scheduled", "sent", "acked", "refused"] {
            assert!(count(&pair[0], name) <= count(&pair[1], name), "{name}");
        }
    }
    assert_eq!(report["schema"], "device-sim/run/4");
    // The report has one more: the end.
    let (last, followed) = report["samples"].as_array().unwrap().split_last().unwrap();
    assert_eq!(followed, samples);
    for name in ["scheduled", "sent", "acked", "refused"] {
        assert_eq!(count(last, name), count(report, name), "{name}");
    }
    assert_eq!(count(report, "refused"), 3);
    let all = samples.iter().chain([last]);
    let measured: u64 = all.map(|sample| count(&sample["ack_latency_ms"], "count")).sum();
    assert_eq!(count(&report["ack_latency_ms"], "count"), measured, "no ack is in two samples");

    let page = std::fs::read_to_string(&html).unwrap();
    for shown in
        ["3 devices", "Ledger", "Ack latency over time", "Readings refused so far", "</html>"]
    {
        assert!(page.contains(shown), "{shown} is missing");
    }
    assert!(!page.contains("do not add up"));
    for outside in ["<script", "<link", "<img", "url(", "src="] {
        assert!(!page.contains(outside), "{outside}: nothing is loaded");
    }
}
