//! The page that people pass on: what was found, what was asked for, and every try.

use super::report::{Certificate, Failure, Machine, Settings, Step};
use crate::run::Latency;
use std::fmt::{Display, Write};

/// So many cores that others use may be what limits a load.
const BUSY_CORES: f64 = 0.25;

impl Certificate {
    /// The page for a person.
    pub fn page(&self) -> String {
        let mut out = format!("device-sim {} certify, {}\n", self.version, self.began);
        let _ = writeln!(out, "gateway: {}", self.settings.url);
        let _ = writeln!(out, "service level: {}", self.settings.slo.join(", "));
        let _ = writeln!(out, "{}", self.verdict());
        self.found(&mut out);
        self.asked_for(&mut out);
        out.push_str(
            "\nEvery try (latency and lag in ms; gateway, simulator and others in cores)\n",
        );
        table(&mut out, &self.steps);
        out
    }

    fn verdict(&self) -> String {
        let mut verdict = match (self.held, &self.failed_at) {
            (true, None) => "met at the highest load that was asked for".to_owned(),
            (held, Some(Failure { readings_per_s, tries, why, .. })) => {
                let met = if held { "met up to the load below" } else { "not met at all" };
                let tried = if *tries > 1 { format!(", {}", times(*tries)) } else { String::new() };
                format!("{met}; at {readings_per_s:.0} readings/s{tried}: {why}")
            }
            (false, None) => "not met: nothing was tried".to_owned(),
        };
        if let Some(Failure { data_lost, simulator_was_late, other_cores, .. }) = &self.failed_at {
            // Whoever was late, what was acknowledged has to be in the store.
            if *simulator_was_late && !*data_lost {
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

    /// The figures of the highest load that held.
    fn found(&self, out: &mut String) {
        let best = self.steps.iter().filter(|step| step.held);
        let best = best.max_by(|a, b| a.readings_per_s.total_cmp(&b.readings_per_s));
        let Some(step) = best else { return };
        let cores = |cores: Option<f64>| cores.map(|cores| format!("{cores:.2}"));
        let without_pid = "not measured: give --gateway-pid";
        out.push_str("\nThe highest load that held\n");
        row(out, "readings a second", format!("{:.0}", step.readings_per_s));
        row(out, "devices", step.devices);
        for profile in &step.profiles {
            row(out, "  profile", profile);
        }
        row(out, "ack latency, ms", &step.ack_latency_ms);
        row(out, "  steady", &step.steady_ack_latency_ms);
        row(out, "schedule lag, ms", &step.schedule_lag_ms);
        row(out, "  steady", &step.steady_schedule_lag_ms);
        row(out, "gateway, cores", cores(step.cpu_cores).as_deref().unwrap_or(without_pid));
        row(out, "simulator, cores", cores(step.simulator_cores).as_deref().unwrap_or("unknown"));
        row(out, "others, cores", cores(step.other_cores).as_deref().unwrap_or("unknown"));
        let kib = step.kib_per_connection.map(|kib| format!("{kib:.1}"));
        row(out, "KiB a connection", kib.as_deref().unwrap_or(without_pid));
        row(out, "readings acknowledged", step.acked);
        match step.lost {
            Some(lost) => row(out, "  lost", lost),
            None => row(out, "  lost", "unknown: no store was looked at"),
        }
    }

    fn asked_for(&self, out: &mut String) {
        let Settings { vary, from, up_to, precision, tries, .. } = &self.settings;
        out.push_str("\nWhat was asked for\n");
        for profile in &self.settings.profiles {
            row(out, "profile", profile);
        }
        let how = match *vary {
            "interval" => format!("shorter intervals of {} devices", self.settings.devices),
            _ => "more devices".to_owned(),
        };
        row(out, "loads", format!("{from} to {up_to} readings/s, by {how}, to {precision} of it"));
        let Settings { connects_per_s, step_s, drain_timeout_s, .. } = &self.settings;
        row(
            out,
            "each",
            format!("{step_s} s after the ramp, {drain_timeout_s} s more for acks at most"),
        );
        row(out, "ramp", format!("{connects_per_s} devices a second at most"));
        row(out, "tries", format!("a load fails when it fails {}", times(*tries)));
        row(out, "device ids", format!("begin with {:?}", self.settings.prefix));
        match (&self.settings.store, self.settings.settle_s) {
            (Some(store), Some(settle_s)) => {
                let twice = match self.settings.allow_duplicates {
                    true => "; readings that came twice are no fault",
                    false => "",
                };
                row(out, "every step verified in", format!("{store}, within {settle_s} s{twice}"));
            }
            _ => row(out, "every step verified in", "no store"),
        }
        let Machine { cores, cpu, memory_mib, kernel } = &self.machine;
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let memory = memory_mib.map_or("unknown".to_owned(), |mib| format!("{mib} MiB"));
        let (cpu, kernel) = (text(cpu), text(kernel));
        row(out, "machine", format!("{cores} cores, {cpu}, memory {memory}, Linux {kernel}"));
    }
}

fn row(out: &mut String, name: &str, value: impl Display) {
    let _ = writeln!(out, "{}", format!("  {name:<22} {value}").trim_end());
}

/// A line for each try, and below it what did not hold.
fn table(out: &mut String, steps: &[Step]) {
    let heads = [
        "ack p99",
        "p99.9",
        "steady p99",
        "lag p99",
        "gateway",
        "simulator",
        "others",
        "KiB/conn",
        "lost",
    ];
    let _ = write!(out, "  {:>10} {:>7} {:>3} {:<6}", "readings/s", "devices", "try", "");
    for head in heads {
        let _ = write!(out, " {head:>10}");
    }
    out.push('\n');
    for step in steps {
        let held = if step.held { "held" } else { "failed" };
        let Step { readings_per_s: rate, devices, nth_try, .. } = step;
        let _ = write!(out, "  {rate:>10.0} {devices:>7} {nth_try:>3} {held:<6}");
        let Latency { p99, p999, .. } = step.ack_latency_ms;
        let figures = [
            (p99, 1),
            (p999, 1),
            (step.steady_ack_latency_ms.p99, 1),
            (step.schedule_lag_ms.p99, 1),
            (step.cpu_cores, 2),
            (step.simulator_cores, 2),
            (step.other_cores, 2),
            (step.kib_per_connection, 1),
        ];
        for (figure, digits) in figures {
            let text = figure.map_or("–".to_owned(), |figure| format!("{figure:.digits$}"));
            let _ = write!(out, " {text:>10}");
        }
        let lost = step.lost.map_or("–".to_owned(), |lost| lost.to_string());
        let _ = writeln!(out, " {lost:>10}");
        if let Some(why) = &step.why {
            let _ = writeln!(out, "  {:>29} {why}", "");
        }
    }
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        _ => format!("{count} times"),
    }
}
