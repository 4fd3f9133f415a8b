//! The reports of all shards of a run as one.
//!
//! Counts and distributions add up without loss: the percentiles are those of all batches of the
//! run, not averages. Samples are put together by the interval in which they were taken. Refused is
//! what does not belong together; see [`whole_run`].

use super::latency::{Distribution, Latency};
use super::report::{Outcome, Report, SCHEMA, Settings, Steady};
use super::series::{self, Sample, per_second};
use super::tally::{Errors, histogram, recent};
use crate::plan::{Plan, whole_run};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Reads the reports of the shards of a run and makes one of them.
///
/// # Errors
/// One cannot be read, or they are not all the shards of one run, each once.
pub fn merge(paths: &[PathBuf]) -> Result<Report> {
    let mut reports = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let plans: Vec<(&Path, &Plan)> = (paths.iter().map(PathBuf::as_path))
        .zip(reports.iter().map(|report| &report.settings.plan))
        .collect();
    let plan = whole_run(&plans).map_err(anyhow::Error::msg)?;
    let samples = samples(&reports);
    // In the order of the shards, whatever order the files were given in.
    reports.sort_by_key(|report| report.settings.plan.shard.map_or(0, |shard| shard.number));
    let mut rest = reports.into_iter();
    let mut merged = rest.next().context("no shards")?;
    rest.for_each(|report| add(&mut merged, report));
    merged.settings.plan = plan;
    merged.shards = u32::try_from(paths.len()).ok();
    merged.acked_per_s = per_second(merged.acked, 0, merged.duration_s);
    merged.ack_latency_ms = merged.ack_latency_us.latency(histogram());
    merged.schedule_lag_ms = merged.schedule_lag_us.latency(histogram());
    let steady = &mut merged.steady;
    steady.ack_latency_ms = steady.ack_latency_us.latency(histogram());
    steady.schedule_lag_ms = steady.schedule_lag_us.latency(histogram());
    merged.samples = samples;
    merged.problem = merged.find_problem();
    Ok(merged)
}

fn read(path: &Path) -> Result<Report> {
    #[derive(Deserialize)]
    struct Layout {
        schema: String,
    }
    let name = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the report {name}"))?;
    let not_one = || format!("{name} is not a report of `device-sim run`");
    let Layout { schema } = serde_json::from_str(&text).with_context(not_one)?;
    if schema != SCHEMA {
        ensure!(schema.starts_with("device-sim/run/"), "{}: it is {schema:?}", not_one());
        bail!("{name} has the layout {schema}, this device-sim merges {SCHEMA}");
    }
    serde_json::from_str(&text).with_context(not_one)
}

/// Adds a report. Every field is named, so that none that comes new is forgotten here.
fn add(sum: &mut Report, other: Report) {
    let Report {
        schema: _,
        version: _,
        outcome,
        problem: _,
        mode: _,
        shards: _,
        settings: Settings { url, plan: _, drain_timeout_s },
        duration_s,
        scheduled,
        sent,
        resent,
        acked,
        acked_per_s: _,
        refused,
        refused_planned,
        refused_unplanned,
        refused_by_code,
        unacknowledged,
        not_sent,
        outbox_full,
        dropped,
        faults,
        connections,
        reconnects,
        retries,
        errors,
        ack_latency_ms: _,
        schedule_lag_ms: _,
        ack_latency_us,
        schedule_lag_us,
        steady:
            Steady {
                ack_latency_ms: _,
                schedule_lag_ms: _,
                ack_latency_us: steady_acks,
                schedule_lag_us: steady_lags,
            },
        samples: _,
    } = other;
    if !sum.settings.url.split(", ").any(|known| known == url) {
        sum.settings.url = format!("{}, {url}", sum.settings.url);
    }
    sum.settings.drain_timeout_s = sum.settings.drain_timeout_s.max(drain_timeout_s);
    sum.duration_s = sum.duration_s.max(duration_s);
    sum.outcome = worse(sum.outcome, outcome);
    for (count, more) in [
        (&mut sum.scheduled, scheduled),
        (&mut sum.sent, sent),
        (&mut sum.resent, resent),
        (&mut sum.acked, acked),
        (&mut sum.refused, refused),
        (&mut sum.refused_planned, refused_planned),
        (&mut sum.refused_unplanned, refused_unplanned),
        (&mut sum.unacknowledged, unacknowledged),
        (&mut sum.not_sent, not_sent),
        (&mut sum.outbox_full, outbox_full),
        (&mut sum.dropped, dropped),
        (&mut sum.connections, connections),
        (&mut sum.reconnects, reconnects),
        (&mut sum.retries, retries),
    ] {
        *count += more;
    }
    add_counts(&mut sum.refused_by_code, &refused_by_code);
    add_counts(&mut sum.faults, &faults);
    for (kind, Errors { count, first }) in errors {
        sum.errors.entry(kind).or_insert(Errors { count: 0, first }).count += count;
    }
    sum.ack_latency_us.add(&ack_latency_us);
    sum.schedule_lag_us.add(&schedule_lag_us);
    sum.steady.ack_latency_us.add(&steady_acks);
    sum.steady.schedule_lag_us.add(&steady_lags);
}

fn add_counts(sum: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (name, count) in more {
        *sum.entry(name.clone()).or_default() += count;
    }
}

fn worse(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::Failed, _) | (_, Outcome::Failed) => Outcome::Failed,
        (Outcome::Interrupted, _) | (_, Outcome::Interrupted) => Outcome::Interrupted,
        _ => Outcome::Completed,
    }
}

/// One sample for each interval: what every shard knew last, and all acks within it.
fn samples(reports: &[Report]) -> Vec<Sample> {
    let mut slots: BTreeMap<u64, Vec<(usize, &Sample)>> = BTreeMap::new();
    for (shard, report) in reports.iter().enumerate() {
        let every = series::interval(&report.settings.plan).as_secs_f64();
        for sample in &report.samples {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time")]
            let slot = (sample.t_s / every).round() as u64;
            slots.entry(slot).or_default().push((shard, sample));
        }
    }
    let nothing = Sample::default();
    let mut newest = vec![&nothing; reports.len()];
    slots
        .into_values()
        .map(|slot| {
            let (mut acks, mut lags) = (Distribution::default(), Distribution::default());
            for (shard, sample) in slot {
                newest[shard] = sample;
                sample.ack_latency_us.iter().for_each(|more| acks.add(more));
                sample.schedule_lag_us.iter().for_each(|more| lags.add(more));
            }
            sum(&newest, acks.latency(recent()), lags.latency(recent()))
        })
        .collect()
}

fn sum(newest: &[&Sample], ack_latency_ms: Latency, schedule_lag_ms: Latency) -> Sample {
    let of = |count: fn(&Sample) -> u64| newest.iter().map(|sample| count(sample)).sum();
    let mut refused_by_code = BTreeMap::new();
    newest.iter().for_each(|sample| add_counts(&mut refused_by_code, &sample.refused_by_code));
    Sample {
        t_s: newest.iter().map(|sample| sample.t_s).fold(0.0, f64::max),
        connected: of(|sample| sample.connected),
        scheduled: of(|sample| sample.scheduled),
        sent: of(|sample| sample.sent),
        acked: of(|sample| sample.acked),
        refused: of(|sample| sample.refused),
        refused_by_code,
        given_up: of(|sample| sample.given_up),
        reconnects: of(|sample| sample.reconnects),
        ack_latency_ms,
        ack_latency_us: None,
        schedule_lag_ms,
        schedule_lag_us: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tally::{Due, Tally};
    use super::*;
    use crate::plan::{Shard, tests::plan};
    use proto::ErrorCode;
    use std::time::Duration;

    fn sample(t_s: f64, acked: u64, connected: u64, ack_us: u64) -> Sample {
        let acks = Some(Distribution(BTreeMap::from([(ack_us, 1)])));
        let schedule_lag_us = acks.clone();
        Sample { t_s, acked, connected, ack_latency_us: acks, schedule_lag_us, ..Sample::default() }
    }

    /// The report of one of two shards, in a file.
    fn shard(folder: &Path, number: u32, samples: Vec<Sample>, outcome: Outcome) -> PathBuf {
        let tally = Tally::default();
        for _ in 0..number {
            tally.scheduled.add(10);
            tally.sent.add(10);
            tally.acked.add(9);
            tally.refused_unplanned.add(1);
            tally.refused(ErrorCode::NotFinite, 1);
            tally.fault("drop");
            tally.error("closed", || format!("of shard {number}"));
            tally.ack_latency(number, Due::Steadily, Duration::from_millis(number.into()));
            tally.ack_latency(number, Due::InTheRamp, Duration::from_secs(1));
        }
        let plan = Plan { shard: Some(Shard { number, of: 2 }), ..plan() };
        let url = format!("wss://gateway-{number}");
        let settings = Settings { url, plan, drain_timeout_s: 1.0 };
        let took = Duration::from_secs(number.into());
        let report = Report::new(&tally, samples, settings, outcome, took);
        let path = folder.join(format!("{number}.json"));
        std::fs::write(&path, serde_json::to_string(&report).unwrap()).unwrap();
        path
    }

    #[test]
    fn everything_adds_up_whatever_the_order() {
        let folder = tempfile::tempdir().unwrap();
        let first = vec![sample(1.0, 4, 2, 100), sample(1.4, 9, 0, 200)];
        let second = vec![sample(1.1, 3, 1, 300), sample(1.9, 8, 1, 400), sample(3.2, 18, 0, 500)];
        let one = shard(folder.path(), 1, first, Outcome::Completed);
        let other = shard(folder.path(), 2, second, Outcome::Interrupted);
        let merged = merge(&[other.clone(), one.clone()]).unwrap();
        assert_eq!(merged, merge(&[one, other]).unwrap());
        assert_eq!((merged.scheduled, merged.sent, merged.acked, merged.refused), (30, 30, 27, 3));
        assert_eq!(merged.refused_by_code["not_finite"], 3);
        assert_eq!(merged.faults["drop"], 3);
        assert_eq!(merged.errors["closed"], Errors { count: 3, first: "of shard 1".to_owned() });
        assert_eq!((merged.outcome, merged.shards), (Outcome::Interrupted, Some(2)));
        assert_eq!(merged.settings.url, "wss://gateway-1, wss://gateway-2");
        assert_eq!(merged.settings.plan, plan());
        assert_eq!((merged.ack_latency_ms.count, merged.steady.ack_latency_ms.count), (6, 3));
        let steady = &merged.steady.ack_latency_ms;
        assert!(steady.p50.unwrap() >= 2.0 && steady.p50 < Some(2.1), "{steady:?}");
        assert!(merged.ack_latency_ms.max >= Some(1_000.0), "{:?}", merged.ack_latency_ms);
        let over_time: Vec<_> = (merged.samples.iter())
            .map(|s| (s.t_s, s.acked, s.connected, s.ack_latency_ms.count, s.schedule_lag_ms.count))
            .collect();
        // The first shard has ended before the second: what it knew last counts on.
        assert_eq!(over_time, [(1.4, 12, 1, 3, 3), (1.9, 17, 1, 1, 1), (3.2, 27, 0, 1, 1)]);
    }

    #[test]
    fn a_shard_that_never_connected_is_not_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let one = shard(folder.path(), 1, vec![], Outcome::Completed);
        let other = shard(folder.path(), 2, vec![], Outcome::Failed);
        let merged = merge(&[one, other]).unwrap();
        assert_eq!(merged.outcome, Outcome::Failed);
        assert!(merged.problem.unwrap().contains("no device of a shard ever connected"));
    }

    #[test]
    fn what_is_no_report_of_this_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (text, sentence) in [
            ("", "a.json is not a report of `device-sim run`"),
            ("{}", "is not a report"),
            (r#"{"schema":"device-sim/verify/1"}"#, r#"it is "device-sim/verify/1""#),
            (r#"{"schema":"device-sim/run/3"}"#, "has the layout device-sim/run/3"),
            (r#"{"schema":"device-sim/run/4"}"#, "is not a report"),
        ] {
            std::fs::write(&path, text).unwrap();
            let said = format!("{:#}", merge(std::slice::from_ref(&path)).unwrap_err());
            assert!(said.contains(sentence), "{said}");
        }
        let said = format!("{:#}", merge(&[folder.path().join("b.json")]).unwrap_err());
        assert!(said.contains("cannot read the report"), "{said}");
    }
}
