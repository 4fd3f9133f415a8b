//! What a gateway captured is played into another one, three times, and proved to be there.

use super::support::{Home, run_to_end, sibling};
use capture_file::{Reader, Record};
use serde_json::Value;
use std::{path::Path, process::Command};

pub(super) fn simulator(command: &str) -> Command {
    let mut simulator = Command::new(sibling("device-sim"));
    simulator.arg(command);
    simulator
}

pub(super) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Devices, batches and readings of a capture.
pub(super) fn counts(path: &Path) -> (u64, u64, u64) {
    let mut reader = Reader::open(std::fs::File::open(path).unwrap()).unwrap();
    loop {
        if let Record::End(end) = reader.next().unwrap() {
            return (end.devices.into(), end.batches, end.readings);
        }
    }
}

/// A capture of half of a mixed fleet, in a home of its own.
pub(super) fn captured() -> (Home, std::path::PathBuf) {
    let home = Home::new();
    let gateway = home.start();
    let mut run = simulator("run");
    run.args(["--url", &gateway.url, "--quiet", "--devices", "12", "--duration", "4s"]);
    run.args(["--ramp", "1s", "--profile", "environment=2,vibration=1,meter=1"]);
    run.args(["--interval", "500ms", "--batch", "20", "--ca"]).arg(home.ca());
    run.arg("--token-key").arg(home.token_key());
    let (code, said) = run_to_end(run);
    assert_eq!(code, 0, "{said}");
    let path = home.path().join("half.capture");
    let file = path.to_str().unwrap();
    let half = ["--device", "sim-*", "--share", "1/2", "--since", "1h", "--out", file];
    let (code, said) = home.gateway("capture", &half);
    assert_eq!(code, 0, "{said}");
    (home, path)
}

#[test]
fn a_capture_is_played_three_times_and_proved() {
    let (_first, capture) = captured();
    let (devices, _, readings) = counts(&capture);
    assert_eq!(devices, 6);

    let home = Home::new();
    let gateway = home.start();
    let report = home.path().join("replay.json");
    let mut replay = simulator("replay");
    replay.arg(&capture).args(["--url", &gateway.url, "--quiet", "--times", "3"]);
    replay.args(["--speed", "2", "--phase", "1s", "--ramp", "1s", "--loop", "5s"]);
    replay.arg("--ca").arg(home.ca()).arg("--token-key").arg(home.token_key());
    replay.arg("--report").arg(&report).args(["--expect", "acked_ratio==1"]);
    let (code, said) = run_to_end(replay);
    assert_eq!(code, 0, "{said}");
    let played = json(&report);
    let plan = &played["settings"];
    assert_eq!((&plan["devices"], &plan["replay"]["copies"]), (&18.into(), &3.into()));
    assert_eq!(played["refused"], 0, "{played:#}");
    assert!(played["acked"].as_u64().unwrap() > 3 * readings, "it began again: {played:#}");

    let verdict = home.path().join("verify.json");
    let verify = || {
        let mut verify = simulator("verify");
        verify.arg("--store").arg(home.store()).arg("--report").arg(&verdict);
        verify.arg("--journal").arg(report.with_extension("journal"));
        verify.args(["--ledger", &gateway.admin]);
        run_to_end(verify)
    };
    let (code, said) = verify();
    assert_eq!(code, 0, "{said}");
    let proved = json(&verdict);
    assert_eq!((&proved["stored"], &proved["lost"]), (&played["acked"], &0.into()), "{proved:#}");
    assert_eq!((&proved["not_shown"], &proved["acked"]), (&0.into(), &played["acked"]));

    // Another capture is not taken for it.
    let mut bytes = std::fs::read(&capture).unwrap();
    bytes.pop();
    std::fs::write(&capture, bytes).unwrap();
    let (code, said) = verify();
    assert!(code == 1 && said.contains("cut off"), "{code} {said}");
}

#[test]
fn once_is_three_times_the_readings_and_a_lie_is_found() {
    let (_first, capture) = captured();
    let (_, batches, readings) = counts(&capture);
    let home = Home::new();
    let gateway = home.start();
    let report = home.path().join("replay.json");
    let mut replay = simulator("replay");
    replay.arg(&capture).args(["--url", &gateway.url, "--quiet", "--times", "3"]);
    replay.args(["--phase", "1s", "--ramp", "1s", "--ca"]).arg(home.ca());
    replay.arg("--token-key").arg(home.token_key()).arg("--report").arg(&report);
    let (code, said) = run_to_end(replay);
    assert_eq!(code, 0, "{said}");
    let played = json(&report);
    assert_eq!(played["acked"], 3 * readings, "{played:#}");
    assert_eq!(played["ack_latency_ms"]["count"], 3 * batches, "{played:#}");
    let _ = gateway.stop();

    let verdict = home.path().join("verify.json");
    let verify = || {
        let mut verify = simulator("verify");
        verify.arg("--store").arg(home.store()).arg("--report").arg(&verdict);
        verify.arg("--journal").arg(report.with_extension("journal")).args(["--settle", "0s"]);
        let (code, said) = run_to_end(verify);
        (code, said, json(&verdict))
    };
    let (code, said, proved) = verify();
    assert_eq!((code, &proved["stored"]), (0, &(3 * readings).into()), "{said}");
    let store = rusqlite::Connection::open(home.store()).unwrap();
    let one = "(SELECT bucket, series, at FROM point LIMIT 1)";
    for (lie, class) in [
        (format!("UPDATE point SET value = 12345.5 WHERE (bucket, series, at) = {one}"), "altered"),
        (
            "DELETE FROM point WHERE (bucket, at) = (SELECT bucket, at FROM point LIMIT 1)".into(),
            "lost",
        ),
    ] {
        assert!(store.execute(&lie, []).unwrap() > 0);
        let (code, said, proved) = verify();
        assert_eq!(code, 1, "{said}");
        assert!(proved[class].as_u64().unwrap() > 0, "{said}");
    }
}

#[test]
fn what_is_no_capture_is_said() {
    let home = Home::new();
    let path = home.path().join("no.capture");
    let magic = b"\x89GWCAP\r\n";
    for (bytes, word) in [
        (&b"GWLOGSEG"[..], "no capture"),
        (&[&magic[..], &[9, 0, 0, 0]].concat(), "format 9"),
        (&[&magic[..], &[1, 0, 0, 0, 7]].concat(), "cut off after 0 batches"),
        (&[&magic[..], &[1, 0, 0, 0], &[0; 9]].concat(), "damaged at byte 12"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let mut replay = simulator("replay");
        replay.arg(&path).args(["--ca", "none", "--token-key", "none"]);
        let (code, said) = run_to_end(replay);
        assert!(code == 2 && said.contains(word) && said.contains("no.capture"), "{code} {said}");
    }
}
