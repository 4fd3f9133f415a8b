//! `device-sim replay`: a capture of real traffic, played again.

use super::CommandError;
use super::play::{PlayArgs, ScheduleArgs, play};
use crate::plan::{Kind, Plan, Replay};
use crate::profile::Profile;
use crate::scenario::{Pace, Playable, Scenario};
use crate::units::Span;
use anyhow::Result;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// What `gateway capture` wrote.
    #[arg(value_name = "CAPTURE")]
    capture: PathBuf,
    #[command(flatten)]
    play: PlayArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// So many devices in place of each: NAME-1, NAME-2, …
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
    /// So many times as fast: arrivals and the times of readings lie closer by that.
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// The last of --times begins so much later than the first, the others between, so that they do
    /// not march in step.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    phase: Span,
    /// Plays the capture again until so much time has passed [default: once].
    #[arg(long = "loop", value_name = "TIME")]
    repeat: Option<Span>,
    /// Sends the next batch of a device when one before it is acknowledged, so many at once, and not
    /// with the timing of the capture: to find how much a gateway takes of it. Once (for 10 minutes
    /// at most), or again until --loop is over. Its latencies are no measure of service. Times of
    /// readings are as if the capture had ended when the run begins.
    #[arg(
        long,
        value_name = "IN_FLIGHT",
        num_args = 0..=1,
        default_missing_value = "1",
        conflicts_with_all = ["speed", "phase", "fault", "outbox"]
    )]
    closed_loop: Option<u32>,
    /// Time over which the devices connect, one after the other, before it begins.
    #[arg(long, default_value = "5s")]
    ramp: Span,
    /// Device ids begin with this.
    #[arg(long, default_value = "replay-")]
    prefix: String,
    /// Batches that a device keeps while they are not acknowledged.
    #[arg(long, default_value_t = 256)]
    outbox: u32,
    /// Decides which devices a fault strikes, and when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn execute(args: ReplayArgs) -> Result<bool, CommandError> {
    let playable = playable(&args).map_err(|error| CommandError::Usage(format!("{error:#}")))?;
    play(args.play, playable)
}

fn playable(args: &ReplayArgs) -> Result<Playable> {
    let mut replay = Replay::open(&args.capture, args.times, args.speed, args.phase.0)?;
    replay.loop_ns = args.repeat.map(|span| span.0);
    let duration_ns = args.ramp.0.saturating_add(replay.duration_ns(args.closed_loop.is_some()));
    let mut scenario = Scenario {
        ramp: Some(args.ramp),
        duration: Some(Span(duration_ns)),
        ..Scenario::default()
    };
    args.schedule.change(&mut scenario);
    let mut playable = scenario.prepare(Pace::default(), Path::new(""))?;
    // Only what is said of the outbox: the capture has everything else.
    let outbox = args.closed_loop.unwrap_or(args.outbox);
    playable.plan = Plan {
        seed: args.seed,
        prefix: args.prefix.clone(),
        kinds: vec![Kind { outbox, ..Kind::of(Profile::default()) }],
        devices: replay.devices(),
        closed_loop: args.closed_loop,
        replay: Some(replay),
        ..args.schedule.name(playable.plan)?
    };
    playable.plan.check().map_err(anyhow::Error::msg)?;
    Ok(playable)
}
