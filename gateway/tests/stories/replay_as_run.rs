//! A replay takes what a run takes: several processes, what goes wrong in the field, a closed loop.

use super::{
    replay::{captured, counts, json, simulator},
    support::{Gateway, Home, PATIENCE, run_to_end},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

/// From the start of the processes to that of their schedule.
const AHEAD: Duration = Duration::from_secs(5);

/// A replay of three copies of each device, and its report.
fn replay(home: &Home, gateway: &Gateway, capture: &Path, name: &str) -> (Command, PathBuf) {
    part(home, gateway, capture, (name, name))
}

/// …whose report has another name than its devices.
fn part(
    home: &Home,
    gateway: &Gateway,
    capture: &Path,
    (name, file): (&str, &str),
) -> (Command, PathBuf) {
    let report = home.path().join(format!("{file}.json"));
    let mut replay = simulator("replay");
    replay.arg(capture).args(["--url", &gateway.url, "--quiet", "--times", "3"]);
    replay.arg("--ca").arg(home.ca()).arg("--token-key").arg(home.token_key());
    replay.args(["--prefix", &format!("{name}-"), "--report"]).arg(&report);
    (replay, report)
}

fn verify(home: &Home, journals: &[PathBuf]) -> (i32, String, Value) {
    let report = home.path().join("verify.json");
    let mut verify = simulator("verify");
    verify.arg("--store").arg(home.store()).arg("--journal").args(journals);
    verify.arg("--report").arg(&report);
    let (code, said) = run_to_end(verify);
    let proved = if code == 0 { json(&report) } else { Value::Null };
    (code, said, proved)
}

fn journal(report: &Path) -> Vec<PathBuf> {
    vec![report.with_extension("journal")]
}

fn ends_well(mut child: Child) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE * 2 {
            child.kill().unwrap();
            panic!("a shard does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn shards_of_a_replay_merge_to_the_whole() {
    let (_first, capture) = captured();
    let (_, batches, readings) = counts(&capture);
    let home = Home::new();
    let gateway = home.start();
    // As on hosts of their own: the file is somewhere else on each.
    let other = home.path().join("other.capture");
    std::fs::copy(&capture, &other).unwrap();
    let start = humantime::format_rfc3339_millis(SystemTime::now() + AHEAD).to_string();
    let (mut reports, mut journals, mut shards) = (vec![], vec![], vec![]);
    for (shard, capture) in [("1/2", &capture), ("2/2", &other)] {
        let file = format!("part{}", &shard[..1]);
        let (mut part, report) = part(&home, &gateway, capture, ("parts", &file));
        part.args(["--shard", shard, "--start", &start, "--phase", "1s", "--ramp", "1s"]);
        journals.push(report.with_extension("journal"));
        reports.push(report);
        shards.push(part.stdin(Stdio::null()).spawn().unwrap());
    }
    shards.into_iter().for_each(ends_well);

    let merged = home.path().join("merged.json");
    let mut merge = simulator("merge");
    merge.args(&reports).arg("--report").arg(&merged).args(["--expect", "acked_ratio==1"]);
    merge.arg("--html").arg(home.path().join("merged.html"));
    let (code, said) = run_to_end(merge);
    assert_eq!(code, 0, "{said}");
    let merged = json(&merged);
    assert_eq!((&merged["shards"], &merged["acked"]), (&2.into(), &(3 * readings).into()));
    assert_eq!(merged["ack_latency_ms"]["count"], 3 * batches, "{merged:#}");
    let parts: Vec<u64> =
        reports.iter().map(|report| json(report)["acked"].as_u64().unwrap()).collect();
    assert!(parts.iter().all(|&acked| acked > 0), "{parts:?}");

    let (code, said, proved) = verify(&home, &journals);
    assert_eq!(code, 0, "{said}");
    assert_eq!((&proved["stored"], &proved["lost"]), (&merged["acked"], &0.into()));
    // Each part by itself, too: what the other stored is not unexpected.
    let (code, said, proved) = verify(&home, &journals[1..]);
    assert_eq!((code, &proved["stored"]), (0, &parts[1].into()), "{said}");
}

#[test]
fn faults_strike_a_replay_and_nothing_is_lost() {
    let (_first, capture) = captured();
    let home = Home::new();
    let gateway = home.start();
    let (mut broken, report) = replay(&home, &gateway, &capture, "broken");
    broken.args(["--loop", "8s", "--phase", "1s", "--ramp", "500ms"]);
    for fault in [
        "drop at=1s every=2s share=0.5",
        "half_open at=2s share=0.3",
        "repeat at=1s every=500ms",
        "reuse at=1s every=500ms",
        "skip at=1s every=700ms share=0.5",
        "malformed at=2s every=2s share=0.2",
        "offline at=3s lasts=1s share=0.3",
        "slow at=1s lasts=2s share=0.2 bytes_per_s=20000",
        "deaf at=4s lasts=1s share=0.2",
        "bad_credential at=5s lasts=1s share=0.2",
    ] {
        broken.args(["--fault", fault]);
    }
    let (code, said) = run_to_end(broken);
    assert_eq!(code, 0, "{said}");
    let played = json(&report);
    let faults = played["faults"].as_object().unwrap();
    assert_eq!(faults.len(), 10, "all of them have struck: {faults:?}");
    assert!(played["reconnects"].as_u64().unwrap() > 3, "{played:#}");
    let (code, said, proved) = verify(&home, &journal(&report));
    assert_eq!(code, 0, "{said}");
    assert_eq!((&proved["stored"], &proved["lost"]), (&played["acked"], &0.into()), "{said}");
}

#[test]
fn what_a_device_of_a_replay_loses_is_known() {
    let (_first, capture) = captured();
    let home = Home::new();
    let gateway = home.start();
    let (mut gapped, report) = replay(&home, &gateway, &capture, "gapped");
    gapped.args(["--loop", "8s", "--phase", "1s", "--ramp", "500ms"]);
    gapped.args(["--fault", "gap at=2s lasts=3s", "--expect", "dropped>100"]);
    let (code, said) = run_to_end(gapped);
    assert_eq!(code, 0, "{said}");
    let played = json(&report);
    let figure = |name: &str| played[name].as_u64().unwrap();
    assert_eq!(figure("scheduled"), figure("acked") + figure("dropped"), "{played:#}");
    let (code, said, proved) = verify(&home, &journal(&report));
    assert_eq!(code, 0, "{said}");
    assert_eq!((&proved["stored"], &proved["acked"]), (&played["acked"], &played["acked"]));
}

#[test]
fn a_closed_loop_plays_a_capture_as_fast_as_it_goes() {
    let (_first, capture) = captured();
    let (_, _, readings) = counts(&capture);
    let home = Home::new();
    let gateway = home.start();
    let (mut once, report) = replay(&home, &gateway, &capture, "once");
    once.args(["--closed-loop", "--ramp", "100ms"]);
    let (code, said) = run_to_end(once);
    assert_eq!(code, 0, "{said}");
    let played = json(&report);
    assert_eq!(
        (&played["mode"], &played["acked"]),
        (&"closed_loop".into(), &(3 * readings).into())
    );
    let (code, said, proved) = verify(&home, &journal(&report));
    assert_eq!((code, &proved["stored"]), (0, &(3 * readings).into()), "{said}");

    let (mut again, report) = replay(&home, &gateway, &capture, "again");
    again.args(["--closed-loop", "4", "--loop", "2s", "--ramp", "100ms"]);
    let (code, said) = run_to_end(again);
    assert_eq!(code, 0, "{said}");
    let played = json(&report);
    assert!(played["acked"].as_u64().unwrap() > 3 * readings, "it began again: {played:#}");
    let (code, said, proved) = verify(&home, &journal(&report));
    assert_eq!(code, 0, "{said}");
    assert_eq!((&proved["stored"], &proved["not_shown"]), (&played["acked"], &0.into()), "{said}");

    for (flags, sentence) in [
        (&["--fault", "poison ratio=0.1"][..], "fault poison alters what is sent"),
        (&["--fault", "clock_skew offset=1m"], "fault clock_skew alters"),
        (&["--fault", "bad_batch ratio=0.1"], "fault bad_batch alters"),
        (&["--closed-loop", "1001"], "--closed-loop must be 1 to 1000"),
        (&["--closed-loop", "--speed", "2"], "cannot be used with"),
        (&["--closed-loop", "--fault", "drop"], "cannot be used with"),
        (&["--shard", "1/2"], "--start"),
    ] {
        let (mut refused, _) = replay(&home, &gateway, &capture, "refused");
        refused.args(flags);
        let (code, said) = run_to_end(refused);
        assert!(code == 2 && said.contains(sentence), "{flags:?}: {code} {said}");
    }
}
