//! What a process costs, as the kernel counts it.

use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Ticks of `utime` and `stime` in a second; Linux has no other number for user space.
const TICKS_PER_S: f64 = 100.0;

/// What was seen of a process at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    at: Instant,
    /// CPU time since the process began, in seconds.
    cpu_s: f64,
    /// Memory that is resident, in KiB.
    pub(super) resident_kib: u64,
}

/// Looks at a process, by its number or as `self`.
///
/// # Errors
/// There is no such process.
pub(super) fn look(pid: &str) -> Result<Look> {
    let gone = || format!("there is no process {pid}");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(gone)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(gone)?;
    let cpu_s = cpu_s(&stat).with_context(|| format!("/proc/{pid}/stat is not as it should be"))?;
    // A process that has ended and was not waited for has no memory.
    let resident_kib = resident_kib(&status).with_context(gone)?;
    Ok(Look { at: Instant::now(), cpu_s, resident_kib })
}

fn cpu_s(stat: &str) -> Option<f64> {
    // The name may hold blanks and brackets; what follows the last bracket does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: f64 = fields.nth(11)?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Looks at what all processes of the machine use.
///
/// # Errors
/// The kernel does not say.
pub(super) fn look_at_all() -> Result<Look> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let cpu_s = busy_s(&stat).context("/proc/stat is not as it should be")?;
    Ok(Look { at: Instant::now(), cpu_s, resident_kib: 0 })
}

/// CPU time that was spent on anything, or taken by the host.
fn busy_s(stat: &str) -> Option<f64> {
    let mut fields = stat.lines().next()?.split_whitespace().skip(1).map(str::parse::<f64>);
    let mut next = || fields.next()?.ok();
    let (user, nice, system) = (next()?, next()?, next()?);
    let (_idle, _io) = (next()?, next()?);
    let (irq, soft_irq, stolen) = (next()?, next()?, next()?);
    Some((user + nice + system + irq + soft_irq + stolen) / TICKS_PER_S)
}

/// What is seen while a step goes on.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Of the gateway, if its process was named.
    pub(super) gateway: Vec<Look>,
    /// Of the simulator.
    pub(super) simulator: Vec<Look>,
    /// Of all processes of the machine.
    pub(super) all: Vec<Look>,
}

impl Looks {
    /// Looks again and again until it is dropped. Cancel safe.
    pub(super) async fn watch(&mut self, gateway: Option<&str>) {
        loop {
            // A gateway that has gone is noticed by its connections.
            self.gateway.extend(gateway.into_iter().flat_map(look));
            self.simulator.extend(look("self"));
            self.all.extend(look_at_all());
            sleep(LOOK_EVERY).await;
        }
    }

    /// Cores that neither simulator nor gateway used; a gateway that was not named is among the
    /// others.
    pub(super) fn others(&self, from: Instant, to: Instant) -> Option<f64> {
        let known =
            cores(&self.simulator, from, to)? + cores(&self.gateway, from, to).unwrap_or(0.0);
        Some((cores(&self.all, from, to)? - known).max(0.0))
    }
}

/// Cores that were busy, on average, between two moments; `None` if they were not both seen.
pub(super) fn cores(looks: &[Look], from: Instant, to: Instant) -> Option<f64> {
    let mut within = looks.iter().filter(|look| (from..=to).contains(&look.at));
    let first = within.next()?;
    let last = within.next_back()?;
    Some((last.cpu_s - first.cpu_s) / (last.at - first.at).as_secs_f64())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read_right() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 99 1 2";
        assert_eq!(cpu_s(stat), Some(3.0));
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t   1234 kB\n"), Some(1_234));
        assert_eq!(resident_kib("Name:\tx\nState:\tZ (zombie)\n"), None);
        let own = look("self").unwrap();
        assert!(own.resident_kib > 100, "{own:?}");
        let all = "cpu  100 50 250 9999 77 30 20 50 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_s(all), Some(5.0));
        assert!(look_at_all().unwrap().cpu_s > 0.0);
        assert!(look("0").unwrap_err().to_string().contains("no process 0"));
    }

    #[test]
    fn cores_are_counted_between_two_moments() {
        let start = Instant::now();
        let looks: Vec<Look> = (0..10)
            .map(|n| Look {
                at: start + Duration::from_secs(n),
                cpu_s: if n < 5 { 0.0 } else { (n - 5) as f64 * 1.5 },
                resident_kib: 0,
            })
            .collect();
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(cores(&looks, at(5), at(9)), Some(1.5));
        assert_eq!(cores(&looks, at(0), at(4)), Some(0.0));
        assert_eq!(cores(&looks, at(9), at(20)), None);
    }
}
