//! What the run was asked for, as people say it; the JSON report has it as the simulator keeps it.

use super::{escape, grouped};
use crate::plan::{Fault, Kind, Mode, Trouble};
use crate::run::report::{LoadMode, Report};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn section(report: &Report) -> String {
    let mut out = "<h2>Settings</h2>\n<table>\n".to_owned();
    for (name, value) in rows(report) {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"wide\">{}</td></tr>",
            escape(name),
            escape(&value)
        );
    }
    out.push_str("</table>\n");
    out
}

fn rows(report: &Report) -> Vec<(&'static str, String)> {
    let plan = &report.settings.plan;
    let mut rows = vec![("began", moment(plan.base_ns))];
    let mut devices = grouped(plan.devices.into());
    if let Some(shard) = plan.shard {
        let _ = write!(devices, ", of which this is shard {shard}");
    }
    if let Some(shards) = report.shards {
        let _ = write!(devices, ", played by {shards} processes");
    }
    rows.push(("devices", devices));
    rows.push(("names begin with", plan.prefix.clone()));
    rows.push(("ramp", span(plan.ramp_ns)));
    rows.push(("schedule", span(plan.duration_ns)));
    rows.push(("longest wait for acks after it", format!("{} s", report.settings.drain_timeout_s)));
    if report.mode == LoadMode::ClosedLoop {
        let in_flight = plan.closed_loop.unwrap_or(1);
        rows.push(("closed loop", format!("each device with {in_flight} in flight")));
    }
    match &plan.replay {
        Some(_) => rows.push(("what is sent", "a capture, played again".to_owned())),
        None => rows.extend(plan.kinds.iter().map(|kind| ("what is sent", kind_of(kind)))),
    }
    for phase in &plan.load {
        let times = f64::from(phase.rate_milli) / 1e3;
        rows.push(("load", format!("from {} on {times} times as much", span(phase.from_ns))));
    }
    rows.extend(plan.faults.iter().map(|fault| ("fault", fault_of(fault))));
    rows.extend(plan.expect.iter().map(|expected| ("the store must show", expected.clone())));
    rows.push(("run, seed", format!("{}, {}", plan.run, plan.seed)));
    rows
}

fn kind_of(kind: &Kind) -> String {
    let shape = match kind.mode {
        Mode::Readings => "readings",
        Mode::Columns => "rows of columns",
    };
    let name = kind.profile.measurement();
    let mut text = format!(
        "{name} × {}: {} {shape} each {}, {} batches kept",
        kind.weight,
        kind.batch,
        span(kind.interval_ns),
        kind.outbox
    );
    if let Some(every) = kind.connect_every_ns {
        let _ = write!(text, ", connects every {}", span(every));
    }
    if let Some(zones) = kind.dead_zones {
        let (lasts, every) = (span(zones.lasts_ns), span(zones.every_ns));
        let _ = write!(text, ", without a link for up to {lasts} every {every}");
    }
    text
}

fn fault_of(fault: &Fault) -> String {
    let mut text = format!(
        "{} of {} of the devices, from {} for {}",
        fault.trouble.name(),
        percent(fault.share),
        span(fault.from_ns),
        span(fault.lasts_ns)
    );
    if fault.spread_ns > 0 {
        let _ = write!(text, ", spread over {}", span(fault.spread_ns));
    }
    if let Some(every) = fault.every_ns {
        let _ = write!(text, ", again every {}", span(every));
    }
    let _ = match fault.trouble {
        Trouble::Slow { bytes_per_s } => write!(text, ", {bytes_per_s} bytes/s"),
        Trouble::Poison { ratio } => write!(text, ", {} of the readings", percent(ratio)),
        Trouble::BadBatch { ratio } => write!(text, ", {} of the batches", percent(ratio)),
        Trouble::ClockSkew { offset_ns } => {
            let sign = if offset_ns < 0 { "behind" } else { "ahead" };
            write!(text, ", {} {sign}", span(offset_ns.unsigned_abs()))
        }
        _ => Ok(()),
    };
    text
}

/// 0.07 → `7 %`.
fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn span(nanos: u64) -> String {
    humantime::format_duration(Duration::from_nanos(nanos)).to_string()
}

/// A moment in UTC.
fn moment(plan_ns: i64) -> String {
    let since = Duration::from_nanos(plan_ns.unsigned_abs());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::DeadZones;
    use crate::profile::Profile;

    #[test]
    fn kinds_and_faults_read_as_people_say_them() {
        let mut kind = Kind::of(Profile::Vehicle);
        kind.dead_zones = Some(DeadZones { every_ns: 180_000_000_000, lasts_ns: 40_000_000_000 });
        assert_eq!(
            kind_of(&kind),
            "vehicle × 1: 5 readings each 5s, 256 batches kept, without a link for up to 40s \
             every 3m"
        );
        let fault = Fault {
            trouble: Trouble::ClockSkew { offset_ns: -3_600_000_000_000 },
            from_ns: 5_000_000_000,
            lasts_ns: 10_000_000_000,
            share: 0.07,
            spread_ns: 0,
            every_ns: None,
        };
        assert_eq!(
            fault_of(&fault),
            "clock_skew of 7 % of the devices, from 5s for 10s, 1h behind"
        );
        assert_eq!(moment(1_795_618_901_000_000_000), "2026-11-25T15:01:41Z");
    }
}
