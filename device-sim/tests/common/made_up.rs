//! A store that makes up its rows while it is walked, and what that takes.

use device_sim::verify::{Fidelity, Row, Store};

/// Holds what a function says of each device, and nothing in memory.
pub struct MadeUp<F> {
    /// Names of its devices.
    pub devices: Vec<String>,
    /// Hands on the rows of a device, in the order of time.
    pub rows: F,
}

impl<F: FnMut(&str, &mut dyn FnMut(Row<'_>))> Store for MadeUp<F> {
    fn kind(&self) -> &'static str {
        "made up"
    }

    fn fidelity(&self) -> Fidelity {
        Fidelity::FULL
    }

    fn progress(&mut self) -> anyhow::Result<u64> {
        Ok(0)
    }

    fn begin(&mut self, _from_ns: i64, _to_ns: i64) -> anyhow::Result<()> {
        Ok(())
    }

    fn rows(&mut self, id: &str, each: &mut dyn FnMut(Row<'_>)) -> anyhow::Result<()> {
        (self.rows)(id, each);
        Ok(())
    }

    fn devices(&mut self, _prefix: &str) -> anyhow::Result<Vec<String>> {
        Ok(self.devices.clone())
    }

    fn doubled(&mut self, _readings: u64, _rows: u64) -> anyhow::Result<Option<u64>> {
        Ok(Some(0))
    }
}

/// The most memory that this process ever held, in KiB.
pub fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
