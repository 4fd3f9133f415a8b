//! `device-sim replay`: a capture of real traffic, played again.

use super::CommandError;
use super::play::{PlayArgs, play};
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
    /// Time over which the devices connect, one after the other, before it begins.
    #[arg(long, default_value = "5s")]
    ramp: Span,
    /// Device ids begin with this.
    #[arg(long, default_value = "replay-")]
    prefix: String,
    /// Batches that a device keeps while they are not acknowledged.
    #[arg(long, default_value_t = 256)]
    outbox: u32,
    /// Longest wait for acknowledgements after the last batch was due [default: 30s].
    #[arg(long)]
    drain_timeout: Option<Span>,
    /// What the report must show, as for `run`; may be repeated.
    #[arg(long, value_name = "EXPECTATION")]
    expect: Vec<String>,
}

pub(super) fn execute(args: ReplayArgs) -> Result<bool, CommandError> {
    let playable = playable(&args).map_err(|error| CommandError::Usage(format!("{error:#}")))?;
    play(args.play, playable)
}

fn playable(args: &ReplayArgs) -> Result<Playable> {
    let mut replay = Replay::open(&args.capture, args.times, args.speed, args.phase.0)?;
    replay.loop_ns = args.repeat.map(|span| span.0);
    let scenario = Scenario {
        ramp: Some(args.ramp),
        drain_timeout: args.drain_timeout,
        expect: args.expect.clone(),
        ..Scenario::default()
    };
    let mut playable = scenario.prepare(Pace::default(), Path::new(""))?;
    playable.plan = Plan {
        run: fastrand::u64(..),
        prefix: args.prefix.clone(),
        // Only what is said of the outbox: the capture has everything else.
        kinds: vec![Kind { outbox: args.outbox, ..Kind::of(Profile::default()) }],
        devices: replay.devices(),
        duration_ns: playable.plan.ramp_ns.saturating_add(replay.duration_ns()),
        replay: Some(replay),
        ..playable.plan
    };
    playable.plan.check().map_err(anyhow::Error::msg)?;
    Ok(playable)
}
