//! The machine, the versions, and what else the machine does.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{fs, process::Command};

/// Cores, CPU, kernel, memory.
pub fn describe() -> Value {
    let model = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib = text.lines().next()?.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        Some(kib / 1024)
    });
    json!({
        "cores": cores(),
        "cpu": model,
        "kernel": read("/proc/sys/kernel/osrelease"),
        "memory_mib": memory,
        "load_average": load_average(),
    })
}

/// Versions of everything that takes part.
pub fn versions() -> Value {
    json!({
        "gateway": env!("CARGO_PKG_VERSION"),
        "commit": first_line("git", &["describe", "--always", "--dirty"]),
        "rustc": first_line("rustc", &["--version"]),
        "node": first_line("node", &["--version"]),
        "mosquitto": first_line("mosquitto", &["-h"]),
        "openssl": first_line("openssl", &["version"]),
    })
}

/// Processes that want to run, averaged over one, five and fifteen minutes.
pub fn load_average() -> Option<String> {
    read("/proc/loadavg").map(|text| text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Number of CPUs that can be used.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// CPU time that the machine has spent on anything, in seconds; what a hypervisor has taken away
/// counts too.
///
/// # Errors
/// `/proc/stat` is not as it should be.
pub fn busy_s() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&at| ticks.get(at)).sum::<f64>();
    Ok(busy / 100.0)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let output = Command::new(program).args(arguments).env("PATH", path).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
