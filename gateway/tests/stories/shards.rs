//! A fleet in several processes is the same fleet: their reports and journals are those of one run.

use super::support::{Home, PATIENCE, run_to_end, sibling};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

/// From the start of the processes to that of their schedule.
const AHEAD: Duration = Duration::from_secs(5);

fn simulator(command: &str) -> Command {
    let mut simulator = Command::new(sibling("device-sim"));
    simulator.arg(command).stdin(Stdio::null());
    simulator
}

/// A run of 31 devices; `name` is the prefix of their ids, too.
fn fleet(home: &Home, url: &str, name: &str, file: &str) -> (Command, PathBuf) {
    let report = home.path().join(format!("{file}.json"));
    let mut run = simulator("run");
    run.args(["--url", url, "--quiet", "--prefix", name]).arg("--ca").arg(home.ca());
    run.arg("--token-key").arg(home.token_key()).arg("--report").arg(&report);
    run.args(["--devices", "31", "--duration", "3s", "--ramp", "1s", "--interval", "200ms"]);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../device-sim/profiles/greenhouse.toml");
    let profiles = format!("environment=2,vibration=1,{}=1", own.display());
    run.args(["--profile", &profiles, "--batch", "7", "--seed", "5"]);
    (run, report)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ends_well(mut child: Child) {
    let begun = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE * 2 {
            child.kill().unwrap();
            panic!("a shard does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
}

fn verify(home: &Home, journals: &[PathBuf]) -> (i32, String) {
    let mut verify = simulator("verify");
    verify.arg("--store").arg(home.store()).arg("--journal").args(journals);
    verify.arg("--report").arg(home.path().join("verify.json"));
    run_to_end(verify)
}

fn merge(home: &Home, reports: &[PathBuf], expect: &str) -> (i32, String, PathBuf) {
    let merged = home.path().join("merged.json");
    let mut merge = simulator("merge");
    merge.args(reports).arg("--report").arg(&merged).args(["--expect", expect]);
    merge.arg("--html").arg(home.path().join("merged.html"));
    let (code, said) = run_to_end(merge);
    (code, said, merged)
}

#[test]
fn shards_merge_to_what_one_process_shows() {
    let home = Home::new();
    let gateway = home.start();
    let (mut one, one_report) = fleet(&home, &gateway.url, "one-", "one");
    ends_well(one.spawn().unwrap());

    let start = humantime::format_rfc3339_millis(SystemTime::now() + AHEAD).to_string();
    let (mut reports, mut journals, mut shards) = (vec![], vec![], vec![]);
    for shard in ["1/3", "2/3", "3/3"] {
        let (mut run, report) =
            fleet(&home, &gateway.url, "parts-", &format!("part{}", &shard[..1]));
        run.args(["--shard", shard, "--start", &start]);
        journals.push(report.with_extension("journal"));
        reports.push(report);
        shards.push(run.spawn().unwrap());
    }
    shards.into_iter().for_each(ends_well);

    let (code, said, merged) = merge(&home, &reports, "acked_ratio==1");
    assert_eq!(code, 0, "{said}");
    let (one, merged) = (json(&one_report), json(&merged));
    for name in ["scheduled", "sent", "acked", "refused", "not_sent", "connections"] {
        assert_eq!(merged[name], one[name], "{name}: {merged:#}");
    }
    assert!(one["acked"].as_u64().unwrap() > 2_000, "{one:#}");
    assert_eq!((&merged["shards"], &merged["settings"]["devices"]), (&3.into(), &31.into()));
    assert_distributions_add_up(&merged, &reports);
    let samples = merged["samples"].as_array().unwrap();
    assert!(samples.windows(2).all(|pair| pair[0]["t_s"].as_f64() < pair[1]["t_s"].as_f64()));
    assert_eq!(samples.last().unwrap()["acked"], merged["acked"]);
    let page = std::fs::read_to_string(home.path().join("merged.html")).unwrap();
    assert!(page.contains("31 devices") && !page.contains("do not add up"));

    let (code, said) = verify(&home, &journals);
    let verdict = json(&home.path().join("verify.json"));
    assert_eq!(code, 0, "{said}");
    assert_eq!((&verdict["acked"], &verdict["stored"]), (&merged["acked"], &merged["acked"]));
    // Each part by itself, too: what the others stored is not unexpected.
    assert_eq!(verify(&home, &journals[1..2]).0, 0);

    for (parts, sentence) in [
        (&reports[..2], "shard 3/3 is missing".to_owned()),
        (&[&reports[..], &reports[..1]].concat(), "are both shard 1/3".to_owned()),
        (&[&reports[..1], &[one_report]].concat(), "is of a whole run".to_owned()),
    ] {
        let (code, said, _) = merge(&home, parts, "acked_ratio==1");
        assert!(code == 1 && said.contains(&sentence), "{code} {said}");
    }
    let (code, said) = verify(&home, &journals[..2]);
    assert!(code == 1 && said.contains("shard 3/3 is missing"), "{said}");
    let (code, said, _) = merge(&home, &reports, "scheduled<5");
    assert!(code == 1 && said.contains("expected scheduled<5"), "{said}");
}

/// Every batch of every shard is in the merged distribution, and its percentiles are those of all.
fn assert_distributions_add_up(merged: &Value, reports: &[PathBuf]) {
    let counts = |report: &Value, name: &str| -> Vec<(u64, u64)> {
        let all = report[name].as_object().unwrap().iter();
        all.map(|(value, count)| (value.parse().unwrap(), count.as_u64().unwrap())).collect()
    };
    for (name, shown) in
        [("ack_latency_us", "ack_latency_ms"), ("schedule_lag_us", "schedule_lag_ms")]
    {
        let mut all = std::collections::BTreeMap::new();
        for report in reports {
            for (value, count) in counts(&json(report), name) {
                *all.entry(value).or_insert(0) += count;
            }
        }
        let mut found = counts(merged, name);
        found.sort_unstable();
        assert_eq!(found, all.clone().into_iter().collect::<Vec<_>>(), "{name}");
        let batches: u64 = all.values().sum();
        assert_eq!(merged[shown]["count"], batches);
        let (mut seen, half) = (0, batches.div_ceil(2));
        let median = all.iter().find(|&(_, count)| {
            seen += count;
            seen >= half
        });
        #[allow(clippy::cast_precision_loss)]
        let median_ms = *median.unwrap().0 as f64 / 1e3;
        assert_eq!(merged[shown]["p50"].as_f64(), Some(median_ms), "{name}");
    }
    let of_samples: u64 = (merged["samples"].as_array().unwrap().iter())
        .map(|sample| sample["ack_latency_ms"]["count"].as_u64().unwrap())
        .sum();
    assert_eq!(merged["ack_latency_ms"]["count"], of_samples, "no ack is in two samples");
}
