//! The table of `make chaos`: what was tried so far, over all runs, and what came of it.
//!
//! `CHAOS_TRIALS=power_cut,kill_9` picks rows, `CHAOS_SEED=7` begins with that seed. A row that has
//! reached its figure is not run again; `target/chaos/report.json` remembers, and each chunk of a
//! row has a seed of its own, which is printed before it begins.

use super::{away, calls, disk_full, fleet, power_cut, trouble};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What one chunk of a trial came to.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub tried: u64,
    pub acked: u64,
    pub lost: u64,
    pub false_acks: u64,
    pub duplicates: u64,
    /// Figures that no column has.
    pub said: String,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.tried += other.tried;
        self.acked += other.acked;
        self.lost += other.lost;
        self.false_acks += other.false_acks;
        self.duplicates += other.duplicates;
        self.said.push_str(&other.said);
    }

    /// What every short form asserts.
    pub fn assert_nothing_lost(&self) {
        println!("{self:?}");
        assert_eq!((self.lost, self.false_acks, self.duplicates), (0, 0, 0), "{self:?}");
        assert!(self.tried > 0);
    }
}

struct Row {
    name: &'static str,
    /// Of `tried`, or of `acked` where that is larger than 0.
    target: u64,
    acked: u64,
    /// Runs one chunk.
    run: fn(u64) -> Outcome,
}

const fn row(name: &'static str, target: u64, run: fn(u64) -> Outcome) -> Row {
    Row { name, target, acked: 0, run }
}

const ROWS: &[Row] = &[
    row("model_file_system_states", 1_000_000, |seed| {
        suite("log_trials", "model::", &[("LOG_MODEL_STATES", 100_000), ("LOG_MODEL_SEED", seed)])
    }),
    row("sigkill_at_each_call", 1, |seed| calls::killed_at_each(seed, 40)),
    Row {
        name: "kill_9_of_a_fleet",
        target: 500,
        acked: 10_000_000,
        run: |seed| fleet::killed(seed, 20, 500, 20_000),
    },
    row("power_cut_of_the_log", 200, |seed| power_cut::of_the_log(seed, 20)),
    row("power_cut_of_the_gateway", 50, |seed| power_cut::of_the_gateway(seed, 10, 100)),
    row("errors_at_each_call_of_the_model", 1, |_| suite("log_trials", "faults::", &[])),
    row("errors_at_each_call", 1, |seed| calls::failing_at_each(seed, 25)),
    row("disk_full", 15, |_| disk_full::each_way()),
    row("each_bit_and_length", 1, |_| suite("log_trials", "corruption::", &[])),
    row("sink_away_for_10_minutes", 1, |seed| {
        // Until the embedded store has the pages in memory that it may have.
        let (around, away) = (Duration::from_secs(180), Duration::from_secs(600));
        away::of_a_store(away::Plan { seed, readings_per_s: 20_000, around, away })
    }),
    row("sinks_in_trouble", 1, |_| {
        let mut all = Outcome::default();
        for of in ["influx", "mqtt_sink", "sinks_in_trouble", "slow_store", "quarantine"] {
            all.add(&suite("stories", of, &[]));
        }
        all
    }),
    row("clock_jumps", 20, |seed| trouble::clock_jumps(seed, 5)),
    row("stopped_for_60_s", 20, |seed| trouble::stopped(seed, 20, 60)),
    row("descriptors_exhausted", 20, |seed| trouble::descriptors(seed, 5)),
    row("memory_limit", 20, |seed| trouble::memory(seed, 5)),
    row("negative_control_has_to_lose", 5, |seed| power_cut::without_sync(seed, 5)),
];

/// Runs tests of another suite of this package, built as this one is; what they print as `tried N`
/// is counted.
fn suite(test: &str, filter: &str, environment: &[(&str, u64)]) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "-p", "gateway", "--locked", "--test", test]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command.args(["--", filter, "--nocapture"]);
    command.envs(environment.iter().map(|(name, value)| (name, value.to_string())));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = said.lines().filter_map(|line| line.split("tried ").nth(1)?.parse::<u64>().ok());
    let tried: u64 = numbers.sum();
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count() as u64;
    if !output.status.success() {
        println!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let lost = u64::from(!output.status.success());
    // A test that does not say what it tried is one.
    let tried = if tried > 0 { tried } else { passed };
    Outcome { tried, lost, ..Outcome::default() }
}

fn report_file() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    workspace.join("target/chaos/report.json")
}

fn earlier() -> Vec<Value> {
    let text = std::fs::read_to_string(report_file()).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn remember(rows: &[Value]) {
    let file = report_file();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let temporary = file.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec_pretty(rows).unwrap()).unwrap();
    std::fs::rename(temporary, file).unwrap();
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or(0)
}

/// The earlier totals of a row and what came now.
fn total(before: &Value, row: &Row, seed: u64, seconds: u64, outcome: &Outcome) -> Value {
    json!({
        "trial": row.name,
        "tried": number(before, "tried") + outcome.tried,
        "acked": number(before, "acked") + outcome.acked,
        "lost": number(before, "lost") + outcome.lost,
        "false_acks": number(before, "false_acks") + outcome.false_acks,
        "duplicates": number(before, "duplicates") + outcome.duplicates,
        "target": row.target,
        "target_acked": row.acked,
        "seed": seed,
        "seconds": number(before, "seconds") + seconds,
        "said": outcome.said,
    })
}

fn is_reached(row: &Row, so_far: &Value) -> bool {
    number(so_far, "tried") >= row.target && number(so_far, "acked") >= row.acked
}

#[test]
#[ignore = "hours: make chaos"]
fn every_row() {
    let chosen = std::env::var("CHAOS_TRIALS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|name| !name.is_empty()).collect();
    for name in &chosen {
        assert!(ROWS.iter().any(|row| row.name == *name), "there is no trial {name}");
    }
    let first = std::env::var("CHAOS_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let mut rows = earlier();
    for row in ROWS.iter().filter(|row| chosen.is_empty() || chosen.contains(&row.name)) {
        let at = rows.iter().position(|known| known["trial"] == row.name).unwrap_or(rows.len());
        if at == rows.len() {
            rows.push(total(&Value::Null, row, 0, 0, &Outcome::default()));
        }
        // Each chunk has the seed after the last one that was used.
        let mut seed = first.unwrap_or(number(&rows[at], "seed") + 1);
        while !is_reached(row, &rows[at]) {
            println!("{} CHAOS_SEED={seed} …", row.name);
            let begun = Instant::now();
            let outcome = std::panic::catch_unwind(|| (row.run)(seed)).unwrap_or_else(|_| {
                println!("{} failed with CHAOS_SEED={seed}", row.name);
                Outcome { tried: 1, lost: 1, ..Outcome::default() }
            });
            rows[at] = total(&rows[at], row, seed, begun.elapsed().as_secs(), &outcome);
            println!("{}", rows[at]);
            remember(&rows);
            seed += 1;
            if outcome.lost > 0 && row.name != "negative_control_has_to_lose" {
                break;
            }
        }
    }
    print(&rows);
    let bad = |row: &&Value| {
        let is_control = row["trial"] == "negative_control_has_to_lose";
        (number(row, "lost") > 0) != is_control
            || number(row, "false_acks") + number(row, "duplicates") > 0
    };
    let bad: Vec<&Value> = rows.iter().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

fn print(rows: &[Value]) {
    println!(
        "\n{:<34}{:>10}{:>12}{:>6}{:>7}{:>7}{:>11}{:>8}",
        "trial", "tried", "acked", "lost", "false", "twice", "target", "s"
    );
    for row in rows {
        let n = |key| number(row, key);
        println!(
            "{:<34}{:>10}{:>12}{:>6}{:>7}{:>7}{:>11}{:>8}",
            row["trial"].as_str().unwrap_or_default(),
            n("tried"),
            n("acked"),
            n("lost"),
            n("false_acks"),
            n("duplicates"),
            n("target"),
            n("seconds")
        );
    }
}
