//! A store that is away for long under a steady fleet: what was acknowledged meanwhile waits on the
//! disk and not in memory, the other sink does not notice, and afterwards nothing is lost.

use super::{
    support::{Gateway, Home, servers::Influx, sibling},
    table::Outcome,
};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Readings in a batch of the fleet.
const BATCH: u64 = 100;
/// Between two looks at the gateway.
const LOOK: Duration = Duration::from_millis(500);
/// The longest that a fleet may take to be connected, and a store to catch up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// How long what lasts.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    /// A second of each device is a batch, so this is a multiple of [`BATCH`].
    pub readings_per_s: u64,
    /// With everything well, before and after.
    pub around: Duration,
    pub away: Duration,
}

/// The fleet, the gateway, and the store that goes away.
struct Scene {
    home: Home,
    gateway: Gateway,
    influx: Influx,
    fleet: Child,
}

/// What was seen of the gateway during a part of the trial.
#[derive(Debug)]
struct Seen {
    memory_kib: (u64, u64),
    /// Most readings that the embedded store had before it.
    behind: u64,
}

pub fn of_a_store(plan: Plan) -> Outcome {
    let mut scene = Scene::begin(plan);
    scene.until("the fleet is stored", |scene| scene.stored() > plan.readings_per_s);
    scene.watch(plan.around);
    let well = scene.watch(plan.around / 6);
    scene.influx.down();
    let away = scene.watch(plan.away);
    let (begun, stored) = (Instant::now(), scene.stored());
    let backlog = scene.pending();
    assert!(backlog > 0, "the store was not away");
    scene.influx.up();
    scene.until("the store has caught up", |scene| scene.pending() < plan.readings_per_s);
    let drained_per_s = (scene.stored() - stored) as f64 / begun.elapsed().as_secs_f64();
    let after = scene.watch(plan.around / 6);
    let said = format!(
        "{} readings/s, away for {} s: memory {:?} KiB before, {:?} meanwhile, {:?} after; \
         {backlog} readings waited and were drained at {drained_per_s:.0} a second ({:.1} times as \
         fast as they came); the embedded store was at most {} readings behind before, {} meanwhile",
        plan.readings_per_s,
        plan.away.as_secs(),
        well.memory_kib,
        away.memory_kib,
        after.memory_kib,
        drained_per_s / plan.readings_per_s as f64,
        well.behind,
        away.behind,
    );
    println!("{said}");
    scene.end(said)
}

impl Scene {
    fn begin(plan: Plan) -> Self {
        let home = Home::new();
        let influx = Influx::start(&["telemetry"]);
        let gateway = home.start_with(&format!(
            "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\nwhen_full = \"hold\"\n",
            influx.url(),
            influx.ca().display(),
        ));
        // It is stopped when everything was seen, so that its end does not depend on the machine.
        let lasts = plan.around * 2 + plan.away + PATIENCE;
        let fleet = Command::new(sibling("device-sim"))
            .args(["run", "--url", &gateway.url, "--quiet", "--interval", "1s"])
            .args(["--seed", &plan.seed.to_string(), "--batch", &BATCH.to_string()])
            .args(["--devices", &(plan.readings_per_s / BATCH).to_string()])
            .args(["--duration", &format!("{}s", lasts.as_secs())])
            .arg("--ca")
            .arg(home.ca())
            .arg("--token-key")
            .arg(home.token_key())
            .arg("--report")
            .arg(home.path().join("run.json"))
            .arg("--journal")
            .arg(home.path().join("journal"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { home, gateway, influx, fleet }
    }

    fn ledger(&self, sink: &str) -> Value {
        let (_, ledger) = self.gateway.get("/api/v1/ledger");
        let ledger: Value = serde_json::from_str(&ledger).unwrap();
        let sinks = ledger["sinks"].as_array().unwrap();
        sinks.iter().find(|of| of["name"] == sink).unwrap().clone()
    }

    fn stored(&self) -> u64 {
        self.ledger("influx")["stored"].as_u64().unwrap()
    }

    fn pending(&self) -> u64 {
        self.ledger("influx")["pending"].as_u64().unwrap()
    }

    fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "did not happen: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn watch(&self, lasts: Duration) -> Seen {
        let begun = Instant::now();
        let mut seen = Seen { memory_kib: (u64::MAX, 0), behind: 0 };
        while begun.elapsed() < lasts {
            let memory = self.gateway.memory_kib();
            seen.memory_kib = (seen.memory_kib.0.min(memory), seen.memory_kib.1.max(memory));
            seen.behind = seen.behind.max(self.ledger("store")["pending"].as_u64().unwrap());
            std::thread::sleep(LOOK);
        }
        seen
    }

    /// Stops the fleet in order, and compares both stores with what it remembers.
    fn end(mut self, said: String) -> Outcome {
        let pid = rustix::process::Pid::from_child(&self.fleet);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.fleet.wait().unwrap();
        let mut outcome = Outcome { tried: 1, said, ..Outcome::default() };
        let influx = self.influx.direct_url();
        let store = self.home.store().display().to_string();
        let stores: [&[&str]; 2] =
            [&["--store", &store], &["--influx", &influx, "--bucket", "telemetry"]];
        for (n, store) in stores.into_iter().enumerate() {
            let report: PathBuf = self.home.path().join(format!("verify-{n}.json"));
            let mut command = Command::new(sibling("device-sim"));
            command.arg("verify").args(store).arg("--report").arg(&report);
            command.arg("--journal").arg(self.home.path().join("journal"));
            // As long as it takes: InfluxDB needs minutes to give millions of readings back.
            let output = command.output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            let verdict: Value =
                serde_json::from_slice(&std::fs::read(&report).expect(&words)).unwrap();
            let count = |key: &str| verdict[key].as_u64().unwrap_or(0);
            let lost = count("lost") + count("altered");
            let doubled = count("duplicated") + count("unexpected");
            assert_eq!(verdict["passed"], lost + doubled == 0, "{words}");
            outcome.acked = count("acked");
            outcome.lost += lost;
            outcome.duplicates += doubled;
        }
        outcome
    }
}

#[test]
fn a_store_that_is_away_is_caught_up_with() {
    let second = Duration::from_secs(1);
    let seed = fastrand::u64(..1 << 32);
    of_a_store(Plan { seed, readings_per_s: 2_000, around: second, away: 4 * second })
        .assert_nothing_lost();
}
