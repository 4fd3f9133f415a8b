//! `device-sim replay`: a capture of real traffic, played again.

use super::CommandError;
use super::run::{Output, play};
use crate::plan::{Kind, Plan, Replay};
use crate::profile::Profile;
use crate::run::{self, Credentials, Show};
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
    /// The gateway.
    #[arg(long, default_value = "wss://localhost:8443/v1/telemetry")]
    url: String,
    /// Certificate of the CA that vouches for the gateway (PEM).
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The gateway's token key (ES256, PKCS#8 PEM): a token is minted for each device.
    #[arg(long, value_name = "FILE", required_unless_present = "tokens")]
    token_key: Option<PathBuf>,
    /// Tokens that exist already, in lines of `device token`.
    #[arg(long, value_name = "FILE", conflicts_with = "token_key")]
    tokens: Option<PathBuf>,
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
    /// Addresses 127.0.0.1, 127.0.0.2, … to connect from [default: one for 20,000 devices].
    #[arg(long)]
    source_addresses: Option<u32>,
    /// Threads that share the devices [default: one for each core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Where the report goes (JSON).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where the journal for `verify` goes [default: beside the report].
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// What the report must show, as for `run`; may be repeated.
    #[arg(long, value_name = "EXPECTATION")]
    expect: Vec<String>,
    /// Where the report goes as a page with plots (HTML).
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Shows nothing while the run goes on.
    #[arg(long, short, conflicts_with = "json_lines")]
    quiet: bool,
    /// Writes lines of JSON to standard output instead of a live view and a table.
    #[arg(long)]
    json_lines: bool,
}

pub(super) fn execute(args: ReplayArgs) -> Result<bool, CommandError> {
    let Playable { plan, drain_timeout, of_the_run } =
        playable(&args).map_err(|error| CommandError::Usage(format!("{error:#}")))?;
    let run_s = plan.duration_ns / 1_000_000_000 + drain_timeout.as_secs();
    let credentials = match (&args.token_key, &args.tokens) {
        (Some(key), _) => Credentials::from_key(key, run_s)?,
        (None, Some(tokens)) => Credentials::from_tokens(tokens)?,
        (None, None) => return Err(CommandError::Usage("give --token-key or --tokens".to_owned())),
    };
    let beside = || args.report.as_ref().map(|report| report.with_extension("journal"));
    let options = run::Options {
        url: args.url,
        ca: args.ca,
        credentials,
        plan,
        drain_timeout,
        source_addresses: args.source_addresses,
        journal: args.journal.clone().or_else(beside),
        show: match (args.quiet, args.json_lines) {
            (true, _) => Show::Nothing,
            (_, true) => Show::JsonLines,
            _ => Show::Progress,
        },
    };
    let (threads, report, html) = (args.threads, args.report, args.html);
    let output = Output { threads, report, html, json_lines: args.json_lines };
    play(options, &output, &of_the_run)
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
