//! What a search has found: the highest load that held, on one page and as JSON.

use super::search::Went;
use crate::run::Latency;
use serde::Serialize;
use std::fmt::Write;

/// Version of the layout.
pub(super) const SCHEMA: &str = "device-sim/certify/1";

/// The outcome of a search. The figures at the top are those of the highest load that held; null
/// where nothing did, or where it was not measured.
#[derive(Debug, Clone, Serialize)]
pub struct Certificate {
    /// `device-sim/certify/1`.
    pub schema: &'static str,
    /// Version of this tool.
    pub version: &'static str,
    /// When the search began, in UTC.
    pub began: String,
    /// Whether any load met the service level.
    pub held: bool,
    /// Highest load that met it, in readings a second.
    pub readings_per_s: Option<f64>,
    /// Devices that brought it.
    pub devices: Option<u32>,
    /// Cores that the gateway used.
    pub cpu_cores: Option<f64>,
    /// Memory that the gateway took for each connection, its buffers included.
    pub kib_per_connection: Option<f64>,
    /// Its ack latency.
    pub ack_latency_ms: Option<Latency>,
    /// The simulator's own lateness.
    pub schedule_lag_ms: Option<Latency>,
    /// Ack latency of the batches that were due after the ramp, by devices that were not kept
    /// away by the plan.
    pub steady_ack_latency_ms: Option<Latency>,
    /// The simulator's lateness with them.
    pub steady_schedule_lag_ms: Option<Latency>,
    /// Lowest load that failed, in readings a second, and why.
    pub failed_at: Option<Failure>,
    /// What was asked for.
    pub settings: Settings,
    /// The machine that the simulator ran on.
    pub machine: Machine,
    /// Every step, in the order in which they were played.
    pub steps: Vec<Step>,
}

/// A load that was too much.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// In readings a second.
    pub readings_per_s: f64,
    /// How often it was tried.
    pub tries: u32,
    /// What did not hold the last time.
    pub why: String,
    /// The store did not hold what was acknowledged: that is not tried again.
    pub data_lost: bool,
    /// The simulator itself was late each time: the limit may be its own.
    pub simulator_was_late: bool,
    /// Cores that other processes used at least, each time: the limit may be that of a busy machine.
    pub other_cores: Option<f64>,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// The gateway.
    pub url: String,
    /// The service level; besides it everything due must be sent and answered.
    pub slo: Vec<String>,
    /// What makes the load higher: `devices` or `interval`.
    pub vary: &'static str,
    /// Devices of every load, when intervals make it higher.
    pub devices: u32,
    /// The profiles with their pace.
    pub profiles: Vec<String>,
    /// The first load, in readings a second.
    pub from: f64,
    /// The highest load, in readings a second.
    pub up_to: f64,
    /// Length of a step after its ramp, in seconds.
    pub step_s: f64,
    /// Devices that connect in a second of the ramp, at most.
    pub connects_per_s: u32,
    /// Longest wait for acks after a step, in seconds.
    pub drain_timeout_s: f64,
    /// Largest gap between what holds and what fails, as a share.
    pub precision: f64,
    /// A load fails when it has failed so often.
    pub tries: u32,
    /// Whether each step was compared with a store.
    pub verified: bool,
    /// That store.
    pub store: Option<String>,
    /// Longest wait for it to catch up, in seconds.
    pub settle_s: Option<f64>,
    /// Whether what came there more than once is no fault.
    pub allow_duplicates: bool,
    /// Device ids begin with this.
    pub prefix: String,
}

/// Where the simulator ran; the gateway ran there, too, if its process was named.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// CPUs that may be used.
    pub cores: usize,
    /// Model of the CPU.
    pub cpu: Option<String>,
    /// Its memory.
    pub memory_mib: Option<u64>,
    /// Version of the kernel.
    pub kernel: Option<String>,
}

/// One load that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Due in a second, by the schedule.
    pub readings_per_s: f64,
    /// Number of devices.
    pub devices: u32,
    /// What each of them sent, and how often.
    pub profiles: Vec<String>,
    /// Which try of this load it was, from 1.
    pub nth_try: u32,
    /// Whether it met the service level.
    pub held: bool,
    /// What did not hold.
    pub why: Option<String>,
    /// The store did not hold what was acknowledged.
    pub data_lost: bool,
    /// Readings that were acknowledged.
    pub acked: u64,
    /// Acknowledged and not in the store; null if nobody looked.
    pub lost: Option<u64>,
    /// Cores that the gateway used after the ramp.
    pub cpu_cores: Option<f64>,
    /// Cores that the simulator used after the ramp.
    pub simulator_cores: Option<f64>,
    /// Cores that other processes of this machine used after the ramp, the store's among them; the
    /// gateway's, too, if its process was not named.
    pub other_cores: Option<f64>,
    /// What the gateway's memory has grown by since before the first step, for each of the most
    /// devices that have been connected.
    pub kib_per_connection: Option<f64>,
    /// From the moment at which a batch was due to its ack.
    pub ack_latency_ms: Latency,
    /// The simulator's own lateness.
    pub schedule_lag_ms: Latency,
    /// Ack latency of the batches that were due after the ramp, by devices that were not kept
    /// away by the plan.
    pub steady_ack_latency_ms: Latency,
    /// The simulator's lateness with them.
    pub steady_schedule_lag_ms: Latency,
}

impl Failure {
    /// The lowest load that failed as often as it was tried.
    pub(super) fn lowest(steps: &[Step]) -> Option<Self> {
        let rate = |step: &Step| step.readings_per_s;
        let held = steps.iter().filter(|step| step.held).map(rate).fold(0.0, f64::max);
        let above = steps.iter().filter(|step| rate(step) > held);
        let lowest = above.map(rate).min_by(f64::total_cmp)?;
        let tries: Vec<&Step> =
            steps.iter().filter(|step| rate(step).total_cmp(&lowest).is_eq()).collect();
        let last = tries.last()?;
        let others = tries.iter().filter_map(|step| step.other_cores).min_by(f64::total_cmp);
        Some(Self {
            readings_per_s: lowest,
            tries: last.nth_try,
            why: last.why.clone().unwrap_or_default(),
            data_lost: last.data_lost,
            // One try that was not disturbed is enough to show the limit.
            simulator_was_late: tries.iter().all(|step| step.simulator_was_late()),
            other_cores: others,
        })
    }
}

impl Step {
    pub(super) fn went(&self) -> Went {
        match (self.held, self.data_lost) {
            (true, _) => Went::Held,
            (false, true) => Went::LostData,
            (false, false) => Went::Missed,
        }
    }

    /// The simulator's lateness is a large part of what was measured.
    pub(super) fn simulator_was_late(&self) -> bool {
        let late = |lag: &Latency, ack: &Latency| match (lag.p99, ack.p99) {
            (Some(lag), Some(ack)) => lag * 2.0 > ack,
            _ => false,
        };
        late(&self.schedule_lag_ms, &self.ack_latency_ms)
            || late(&self.steady_schedule_lag_ms, &self.steady_ack_latency_ms)
    }

    /// One line.
    pub(super) fn line(&self) -> String {
        let mut line = format!(
            "{:>9.0} readings/s  {:>6} devices  {}",
            self.readings_per_s,
            self.devices,
            if self.held { "held  " } else { "failed" },
        );
        if self.nth_try > 1 {
            let _ = write!(line, "  try {}", self.nth_try);
        }
        for (name, all, steady) in [
            ("ack p99", &self.ack_latency_ms, &self.steady_ack_latency_ms),
            ("lag p99", &self.schedule_lag_ms, &self.steady_schedule_lag_ms),
        ] {
            if let Some(all) = all.p99 {
                let _ = write!(line, "  {name} {all:.1} ms");
            }
            if let Some(steady) = steady.p99 {
                let _ = write!(line, " ({steady:.1} steady)");
            }
        }
        let cores = [
            ("gateway", self.cpu_cores),
            ("simulator", self.simulator_cores),
            ("others", self.other_cores),
        ];
        for (name, cores) in cores {
            if let Some(cores) = cores {
                let _ = write!(line, "  {name} {cores:.2} cores");
            }
        }
        if let Some(why) = &self.why {
            let _ = write!(line, "  {why}");
        }
        line
    }
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let model = |text: String| {
            let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = |text: String| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? >> 10)
        };
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: read("/proc/meminfo").and_then(memory),
            cpu: read("/proc/cpuinfo").and_then(model),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn step(readings_per_s: f64, nth_try: u32, went: Went) -> Step {
        Step {
            readings_per_s,
            devices: 10,
            profiles: Vec::new(),
            nth_try,
            held: went == Went::Held,
            why: (went != Went::Held).then(|| format!("reason {nth_try}")),
            data_lost: went == Went::LostData,
            acked: 100,
            lost: None,
            cpu_cores: None,
            simulator_cores: None,
            other_cores: None,
            kib_per_connection: None,
            ack_latency_ms: Latency { p99: Some(10.0), ..Latency::default() },
            schedule_lag_ms: Latency { p99: Some(1.0), ..Latency::default() },
            steady_ack_latency_ms: Latency::default(),
            steady_schedule_lag_ms: Latency::default(),
        }
    }

    fn late(step: Step) -> Step {
        let schedule_lag_ms = Latency { p99: Some(9.0), ..Latency::default() };
        Step { schedule_lag_ms, ..step }
    }

    #[test]
    fn a_load_that_held_at_another_try_is_no_limit() {
        use Went::{Held, Missed};
        let held = [step(100.0, 1, Held), step(200.0, 1, Missed), step(200.0, 2, Held)];
        assert!(Failure::lowest(&held).is_none());
        let more = [step(400.0, 1, Missed), step(400.0, 2, Missed), step(300.0, 1, Missed)];
        let all = [&held[..], &more, &[step(300.0, 2, Missed)]].concat();
        let failure = Failure::lowest(&all).unwrap();
        assert_eq!((failure.readings_per_s, failure.tries, &*failure.why), (300.0, 2, "reason 2"));
        assert!(!failure.data_lost && !failure.simulator_was_late);
        assert!(Failure::lowest(&[]).is_none());
    }

    #[test]
    fn one_try_that_was_not_disturbed_shows_the_limit() {
        let busy = |step, other_cores| Step { other_cores: Some(other_cores), ..step };
        let missed = |nth_try| step(100.0, nth_try, Went::Missed);
        let both = [busy(late(missed(1)), 1.5), busy(late(missed(2)), 0.7)];
        let failure = Failure::lowest(&both).unwrap();
        assert_eq!((failure.simulator_was_late, failure.other_cores), (true, Some(0.7)));
        let one = [busy(late(missed(1)), 1.5), busy(missed(2), 0.1)];
        let failure = Failure::lowest(&one).unwrap();
        assert_eq!((failure.simulator_was_late, failure.other_cores), (false, Some(0.1)));
    }

    #[test]
    fn lost_data_is_the_last_word_on_a_load() {
        let tries = [late(step(100.0, 1, Went::Missed)), late(step(100.0, 2, Went::LostData))];
        assert_eq!(tries[1].went(), Went::LostData);
        let failure = Failure::lowest(&tries).unwrap();
        assert!(failure.data_lost, "{failure:?}");
        assert!(tries[1].line().contains("failed  try 2  ack p99 10.0 ms"), "{}", tries[1].line());
    }
}
