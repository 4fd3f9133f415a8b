//! What a search has found: the highest load that held, on one page and as JSON.

use crate::run::Latency;
use serde::Serialize;
use std::fmt::Write;

/// Version of the layout.
pub(super) const SCHEMA: &str = "device-sim/certify/1";

/// So many cores that others use may be what limits a load.
const BUSY_CORES: f64 = 0.25;

/// The outcome of a search. The figures at the top are those of the highest load that held; null
/// where nothing did, or where it was not measured.
#[derive(Debug, Clone, Serialize)]
pub struct Certificate {
    /// `device-sim/certify/1`.
    pub schema: &'static str,
    /// Version of this tool.
    pub version: &'static str,
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
    /// What did not hold.
    pub why: String,
    /// The simulator itself was late: the limit may be its own.
    pub simulator_was_late: bool,
    /// Cores that other processes used meanwhile: the limit may be that of a busy machine.
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
    /// The profiles with their pace.
    pub profiles: Vec<String>,
    /// Length of a step after its ramp, in seconds.
    pub step_s: f64,
    /// Largest gap between what holds and what fails, as a share.
    pub precision: f64,
    /// Whether each step was compared with the gateway's store.
    pub verified: bool,
}

/// Where the simulator ran; the gateway ran there, too, if its process was named.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// CPUs that may be used.
    pub cores: usize,
    /// Model of the CPU.
    pub cpu: Option<String>,
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
    /// Whether it met the service level.
    pub held: bool,
    /// What did not hold.
    pub why: Option<String>,
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
}

impl Step {
    /// The simulator's lateness is a large part of what was measured.
    pub(super) fn simulator_was_late(&self) -> bool {
        match (self.schedule_lag_ms.p99, self.ack_latency_ms.p99) {
            (Some(lag), Some(ack)) => lag * 2.0 > ack,
            _ => false,
        }
    }

    /// One line.
    pub(super) fn line(&self) -> String {
        let mut line = format!(
            "{:>9.0} readings/s  {:>6} devices  {}",
            self.readings_per_s,
            self.devices,
            if self.held { "held  " } else { "failed" },
        );
        let figures = [
            ("ack p99", self.ack_latency_ms.p99, "ms"),
            ("lag p99", self.schedule_lag_ms.p99, "ms"),
            ("gateway", self.cpu_cores, "cores"),
            ("simulator", self.simulator_cores, "cores"),
            ("others", self.other_cores, "cores"),
        ];
        for (name, value, unit) in figures {
            if let Some(value) = value {
                let _ = write!(line, "  {name} {value:.2} {unit}");
            }
        }
        if let Some(why) = &self.why {
            let _ = write!(line, "  {why}");
        }
        line
    }
}

impl Certificate {
    /// The page for a person.
    pub fn page(&self) -> String {
        let mut out = format!("device-sim {}: {}\n", self.version, self.settings.url);
        let _ = writeln!(out, "service level: {}", self.settings.slo.join(", "));
        let _ = writeln!(out, "{}\n", self.verdict());
        let mut row = |name: &str, value: Option<String>| {
            let value = value.unwrap_or_else(|| "not measured".to_owned());
            let _ = writeln!(out, "  {name:<22} {value}");
        };
        if self.held {
            row("readings a second", self.readings_per_s.map(|rate| format!("{rate:.0}")));
            row("devices", self.devices.map(|devices| devices.to_string()));
            row("ack latency, ms", self.ack_latency_ms.as_ref().map(ToString::to_string));
            row("schedule lag, ms", self.schedule_lag_ms.as_ref().map(ToString::to_string));
            row("gateway, cores", self.cpu_cores.map(|cores| format!("{cores:.2}")));
            row("KiB a connection", self.kib_per_connection.map(|kib| format!("{kib:.1}")));
        }
        for profile in &self.settings.profiles {
            row("profile", Some(profile.clone()));
        }
        let Settings { vary, step_s, precision, verified, .. } = &self.settings;
        row("steps", Some(format!("{step_s} s after the ramp, by {vary}, to {precision} of it")));
        let store = if *verified { "every step compared with it" } else { "not looked at" };
        row("store", Some(store.to_owned()));
        let Machine { cores, cpu, kernel } = &self.machine;
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        row("machine", Some(format!("{cores} cores, {}, Linux {}", text(cpu), text(kernel))));
        out.push('\n');
        for step in &self.steps {
            let _ = writeln!(out, "{}", step.line());
        }
        out
    }

    fn verdict(&self) -> String {
        let mut verdict = match (self.held, &self.failed_at) {
            (true, None) => "met at the highest load that was asked for".to_owned(),
            (true, Some(Failure { readings_per_s, why, .. })) => {
                format!("met up to the load below; at {readings_per_s:.0} readings/s: {why}")
            }
            (false, Some(Failure { readings_per_s, why, .. })) => {
                format!("not met at all; at {readings_per_s:.0} readings/s: {why}")
            }
            (false, None) => "not met: nothing was tried".to_owned(),
        };
        if let Some(Failure { simulator_was_late, other_cores, .. }) = &self.failed_at {
            if *simulator_was_late {
                verdict.push_str("\nthe simulator itself was late: the limit may be its own");
            }
            if let Some(others) = other_cores.filter(|others| *others >= BUSY_CORES) {
                let all = self.machine.cores;
                let _ = write!(
                    verdict,
                    "\nothers used {others:.1} of {all} cores: an idle machine may take more"
                );
            }
        }
        verdict
    }
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let model = |text: String| {
            let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: read("/proc/cpuinfo").and_then(model),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        }
    }
}
