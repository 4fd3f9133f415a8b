//! `device-sim certify`: the highest load that meets a service level.

use super::store::{PLACES, StoreArgs};
use super::{CommandError, duration, judge, write_file, write_json};
use crate::certify::{Request, Vary, certify};
use crate::expect::Expectation;
use crate::plan::{Mode, Plan};
use crate::scenario::{Pace, Scenario, fleet};
use crate::units::Span;
use anyhow::Context;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Shortest and longest step.
const STEPS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3_600);
/// Loads, in readings a second.
const LOADS: std::ops::RangeInclusive<f64> = 1.0..=1e9;
/// Most tries of a load.
const MAX_TRIES: i64 = 10;

#[derive(Debug, Args)]
pub(super) struct CertifyArgs {
    /// The gateway.
    #[arg(long, default_value = "wss://localhost:8443/v1/telemetry")]
    url: String,
    /// Certificate of the CA that vouches for the gateway (PEM).
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The gateway's token key (ES256, PKCS#8 PEM): a token is minted for each device.
    #[arg(long, value_name = "FILE")]
    token_key: PathBuf,
    /// The service level, such as 'ack_p99_ms<100,lost==0': figures as for `run --expect`, and
    /// cpu_cores, kib_per_connection (with --gateway-pid), lost, … (with a store, such as --store).
    #[arg(long, required = true, value_delimiter = ',', value_name = "EXPECTATION")]
    slo: Vec<Expectation>,
    /// What makes the load higher: more devices, or shorter intervals of as many.
    #[arg(long, value_enum, default_value = "devices")]
    vary: Vary,
    /// Number of devices with --vary interval.
    #[arg(long, default_value_t = 200)]
    devices: u32,
    /// The first load, in readings a second.
    #[arg(long, default_value_t = 1_000.0)]
    from: f64,
    /// The highest load, in readings a second.
    #[arg(long, default_value_t = 200_000.0)]
    up_to: f64,
    /// The search ends when what fails is so little above what holds, as a share of it.
    #[arg(long, default_value_t = 0.1)]
    precision: f64,
    /// A load fails when it has failed so often. Lost data fails it at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=MAX_TRIES))]
    tries: u32,
    /// How long each load is played after the devices have connected.
    #[arg(long, default_value = "10s", value_parser = duration)]
    step: Duration,
    /// How many devices connect in a second before each load, at most.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connects_per_s: u32,
    /// Longest wait for acknowledgements after a step.
    #[arg(long, default_value = "10s", value_parser = duration)]
    drain_timeout: Duration,
    /// What the devices measure, as for `run`.
    #[arg(long, default_value = "environment")]
    profile: String,
    /// From one batch of a device to its next [default: as the profile has it].
    #[arg(long)]
    interval: Option<Span>,
    /// Readings in a batch [default: as the profile has it].
    #[arg(long)]
    batch: Option<u32>,
    /// How a batch is written [default: as the profile has it].
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Device ids begin with this.
    #[arg(long, default_value = "certify-")]
    prefix: String,
    /// The gateway's process, to measure its CPU and memory.
    #[arg(long, value_name = "PID")]
    gateway_pid: Option<u32>,
    #[command(flatten)]
    store: StoreArgs,
    /// Certificate of the CA that vouches for the store (PEM) [default: those of the system].
    #[arg(
        long,
        value_name = "FILE",
        requires = "place",
        conflicts_with_all = ["store", "subscription"]
    )]
    store_ca: Option<PathBuf>,
    /// Longest wait for the store to catch up after a step.
    #[arg(long, default_value = "30s", value_parser = duration)]
    settle: Duration,
    /// Where the result goes (JSON).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where the page goes that is printed (text).
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// What the result must show, such as 'readings_per_s>=20000'; may be repeated.
    #[arg(long, value_name = "EXPECTATION")]
    expect: Vec<Expectation>,
}

pub(super) fn execute(args: CertifyArgs) -> Result<bool, CommandError> {
    let (report, page, expect) = (args.report.clone(), args.page.clone(), args.expect.clone());
    let request = request(args).map_err(CommandError::Usage)?;
    let certificate = certify(&request, &|line| println!("{line}"))?;
    if let Some(path) = &report {
        write_json(path, &certificate)?;
    }
    let text = certificate.page();
    if let Some(path) = &page {
        write_file(path, &text)?;
    }
    print!("\n{text}");
    let figures = serde_json::to_value(&certificate).context("the result")?;
    Ok(judge(&figures, &expect, |said| println!("{said}")) && certificate.held)
}

/// Says what is wrong with the arguments.
fn request(args: CertifyArgs) -> Result<Request, String> {
    let of_the_store = args.slo.iter().find(|expected| expected.is_of_the_store());
    let store = args.store.at(args.store_ca.as_deref());
    if let Some(expected) = of_the_store.filter(|_| store.is_none()) {
        let places = PLACES.map(|place| format!("--{place}")).join(" or ");
        return Err(format!("--slo {expected} needs {places}: only a store shows it"));
    }
    if !STEPS.contains(&args.step) {
        return Err("--step must be 1s to 1h".to_owned());
    }
    if !LOADS.contains(&args.from) || !LOADS.contains(&args.up_to) || args.from > args.up_to {
        return Err("--from and --up-to must be 1 to 1e9 readings a second, in this order".into());
    }
    if !(0.001..=1.0).contains(&args.precision) {
        return Err("--precision must be 0.001 to 1".to_owned());
    }
    let scenario = || -> anyhow::Result<Plan> {
        let scenario = Scenario {
            devices: Some(args.devices),
            profile: Some(fleet(&args.profile)?),
            interval: args.interval,
            batch: args.batch,
            mode: args.mode,
            ..Scenario::default()
        };
        let plan = scenario.prepare(Pace::default(), Path::new(""))?.plan;
        let plan = Plan { prefix: args.prefix.clone(), ..plan };
        plan.check().map_err(anyhow::Error::msg)?;
        Ok(plan)
    };
    let plan = scenario().map_err(|error| format!("{error:#}"))?;
    let beside = args.report.as_ref().map(|report| report.with_extension("journal"));
    Ok(Request {
        url: args.url,
        ca: args.ca,
        token_key: args.token_key,
        slo: args.slo,
        plan,
        vary: args.vary,
        from: args.from,
        up_to: args.up_to,
        precision: args.precision,
        tries: args.tries,
        step: args.step,
        connects_per_s: args.connects_per_s,
        drain_timeout: args.drain_timeout,
        gateway_pid: args.gateway_pid.map(|pid| pid.to_string()),
        store,
        allow_duplicates: args.store.allow_duplicates,
        settle: args.settle,
        journal: beside.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("device-sim-certify-{}.journal", std::process::id()))
        }),
    })
}
