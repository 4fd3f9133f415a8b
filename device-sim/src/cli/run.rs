//! `device-sim run`: a fleet from flags, from a scenario, or from both.

use super::play::{PlayArgs, play};
use super::{CommandError, judge};
use crate::expect::Expectation;
use crate::plan::{CLOSED_LOOP_STEP_NS, Mode, Plan, Shard};
use crate::profile::mix;
use crate::run::{Outcome, Report};
use crate::scenario::{Pace, Playable, RawFault, RawPhase, Scenario, fleet};
use crate::units::Span;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest wait for `--start`.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    play: PlayArgs,
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
    /// Something that goes wrong, such as 'drop at=10s share=0.5'; may be repeated.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<RawFault>,
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
    /// The part of the fleet that this process plays, such as 2/8: several processes or hosts share
    /// a run, all with the same arguments but for this one. `merge` makes one report of theirs.
    #[arg(long, value_name = "NUMBER/OF", requires = "start")]
    shard: Option<Shard>,
    /// When the schedule begins, such as 2030-01-02T03:04:05Z, at most a day ahead [default: now].
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
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
    /// Longest wait for acknowledgements after the last batch was due [default: 30s].
    #[arg(long)]
    drain_timeout: Option<Span>,
    /// What the report must show, such as 'acked_ratio>=0.99' or 'ack_p99_ms<250'; may be
    /// repeated. Decides the exit code instead of "everything due was sent and answered".
    /// What only the store shows, such as 'lost==0', goes into the journal for `verify`.
    #[arg(long, value_name = "EXPECTATION")]
    expect: Vec<String>,
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

/// The moment at which a run begins, in nanoseconds since the Unix epoch.
fn start_ns(text: &str) -> Result<i64> {
    let start = humantime::parse_rfc3339(text)
        .with_context(|| format!("--start {text:?} is not a time such as 2030-01-02T03:04:05Z"))?;
    let left = start.duration_since(SystemTime::now());
    ensure!(
        left.is_ok_and(|left| left <= MAX_WAIT),
        "--start {text} must lie ahead, so that every shard can begin with it, and by a day at most"
    );
    Ok(i64::try_from(start.duration_since(UNIX_EPOCH)?.as_nanos())?)
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
    scenario.drain_timeout = args.drain_timeout.or(scenario.drain_timeout);
    if let Some(profile) = &args.profile {
        scenario.profile = Some(fleet(profile)?);
        folder = Path::new("");
    }
    if !args.load.is_empty() {
        scenario.load.clone_from(&args.load);
    }
    scenario.fault.extend(args.fault.iter().cloned());
    if !args.expect.is_empty() {
        scenario.expect.clone_from(&args.expect);
    }
    let pace = match scenario.short.filter(|_| args.short) {
        Some(short) => short,
        None => Pace { scale: args.scale.unwrap_or(1.0), speed: args.speed.unwrap_or(1.0) },
    };
    let mut playable = scenario.prepare(pace, folder)?;
    let base_ns = args.start.as_deref().map(start_ns).transpose()?;
    playable.plan = Plan {
        // Shards know of each other by nothing but their arguments.
        run: base_ns.map_or_else(|| fastrand::u64(..), |ns| mix(&[ns.unsigned_abs(), 9])),
        base_ns: base_ns.unwrap_or(0),
        shard: args.shard,
        closed_loop: args.closed_loop,
        seed: args.seed,
        prefix: args.prefix.clone(),
        stream: args.stream,
        start_seq: args.start_seq,
        ..playable.plan
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
