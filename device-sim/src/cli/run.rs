//! `device-sim run`: a fleet from flags, from a scenario, or from both.

use super::play::{PlayArgs, ScheduleArgs, play};
use super::{CommandError, judge};
use crate::expect::Expectation;
use crate::plan::{CLOSED_LOOP_STEP_NS, Mode, Plan};
use crate::run::{Outcome, Report};
use crate::scenario::{Pace, Playable, RawPhase, Scenario, fleet};
use crate::units::Span;
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    play: PlayArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// What the fleet does, such as device-sim/scenarios/storm.toml; flags are stronger.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Plays the scenario as small and fast as its file says, to see it work.
    #[arg(long, requires = "scenario", conflicts_with_all = ["scale", "speed"])]
    short: bool,
    /// Share of the devices [default: 1].
    #[arg(long)]
    scale: Option<f64>,
    /// So many times as fast: every duration is divided by it [default: 1].
    #[arg(long)]
    speed: Option<f64>,
    /// Number of devices [default: 200].
    #[arg(long)]
    devices: Option<u32>,
    /// How long batches are due [default: 20s].
    #[arg(long)]
    duration: Option<Span>,
    /// From one batch of a device to its next [default: as the profile has it].
    #[arg(long)]
    interval: Option<Span>,
    /// Readings in a batch [default: as the profile has it].
    #[arg(long)]
    batch: Option<u32>,
    /// Time over which the devices connect, one after the other [default: 5s].
    #[arg(long)]
    ramp: Option<Span>,
    /// What the devices measure: environment, vehicle, vibration, meter, or a file that ends in
    /// .toml; several with weights as in environment=3,vehicle=1 [default: environment].
    #[arg(long)]
    profile: Option<String>,
    /// How a batch is written [default: as the profile has it].
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// The rate from a moment on, such as 30s=2.5; may be repeated.
    #[arg(long, value_name = "TIME=RATE")]
    load: Vec<RawPhase>,
    /// Devices that connect so often, send what they have and leave.
    #[arg(long)]
    connect_every: Option<Span>,
    /// Sends the next batch of a device when one before it is acknowledged, so many at once, and not
    /// on a schedule: to find how much a gateway takes. Its latencies are no measure of service.
    #[arg(
        long,
        value_name = "IN_FLIGHT",
        num_args = 0..=1,
        default_missing_value = "1",
        conflicts_with_all = ["scenario", "interval", "load", "fault", "connect_every", "outbox"]
    )]
    closed_loop: Option<u32>,
    /// Seed of all values; the same seed gives the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Device ids begin with this.
    #[arg(long, default_value = "sim-")]
    prefix: String,
    /// The stream of every device, to go on with one of an earlier run [default: a new one].
    #[arg(long)]
    stream: Option<u64>,
    /// Sequence number of the first batch: with --stream, one more than the last of before.
    #[arg(long, default_value_t = 1)]
    start_seq: u64,
    /// Batches that a device keeps while they are not acknowledged [default: 256].
    #[arg(long)]
    outbox: Option<u32>,
}

pub(super) fn execute(args: RunArgs) -> Result<bool, CommandError> {
    let playable = playable(&args)
        .map_err(|error| CommandError::Usage(format!("{error:#}").trim_end().to_owned()))?;
    play(args.play, playable)
}

/// Whether the run was as it should be, with sentences for a person: on standard error where
/// standard output belongs to a program.
pub(super) fn judged(
    report: &Report,
    of_the_run: &[Expectation],
    to_program: bool,
) -> Result<bool> {
    let say = |sentence: &str| {
        if to_program {
            eprintln!("{sentence}");
        } else {
            println!("{sentence}");
        }
    };
    let for_verify = &report.settings.plan.expect;
    if !for_verify.is_empty() {
        say(&format!("for verify: {}", for_verify.join(", ")));
    }
    if report.outcome != Outcome::Failed && !of_the_run.is_empty() {
        let figures = serde_json::to_value(report).context("the report")?;
        return Ok(judge(&figures, of_the_run, say));
    }
    match (report.outcome, &report.problem) {
        (Outcome::Completed, None) => say("everything due was sent and answered"),
        (Outcome::Interrupted, None) => say("ended early; everything due was answered"),
        (_, problem) => eprintln!("device-sim: {}", problem.as_deref().unwrap_or("failed")),
    }
    Ok(report.problem.is_none())
}

/// The scenario with what the flags change in it.
fn playable(args: &RunArgs) -> Result<Playable> {
    let mut scenario = match &args.scenario {
        Some(path) => Scenario::read(path)?,
        None => Scenario::default(),
    };
    let mut folder = args.scenario.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    scenario.devices = args.devices.or(scenario.devices);
    scenario.duration = args.duration.or(scenario.duration);
    scenario.ramp = args.ramp.or(scenario.ramp);
    scenario.interval = args.interval.or(scenario.interval);
    scenario.batch = args.batch.or(scenario.batch);
    scenario.mode = args.mode.or(scenario.mode);
    scenario.outbox = args.outbox.or(scenario.outbox);
    scenario.connect_every = args.connect_every.or(scenario.connect_every);
    if let Some(profile) = &args.profile {
        scenario.profile = Some(fleet(profile)?);
        folder = Path::new("");
    }
    if !args.load.is_empty() {
        scenario.load.clone_from(&args.load);
    }
    args.schedule.change(&mut scenario);
    let pace = match scenario.short.filter(|_| args.short) {
        Some(short) => short,
        None => Pace { scale: args.scale.unwrap_or(1.0), speed: args.speed.unwrap_or(1.0) },
    };
    let mut playable = scenario.prepare(pace, folder)?;
    playable.plan = Plan {
        closed_loop: args.closed_loop,
        seed: args.seed,
        prefix: args.prefix.clone(),
        stream: args.stream,
        start_seq: args.start_seq,
        ..args.schedule.name(playable.plan)?
    };
    if let Some(in_flight) = args.closed_loop {
        for kind in &mut playable.plan.kinds {
            kind.interval_ns = u64::from(kind.batch) * CLOSED_LOOP_STEP_NS;
            kind.outbox = in_flight;
        }
    }
    playable.plan.check().map_err(anyhow::Error::msg)?;
    Ok(playable)
}
