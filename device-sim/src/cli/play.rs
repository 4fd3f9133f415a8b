//! What `run` and `replay` share: where the gateway is, what goes wrong and who takes part, and what
//! becomes of what they see.

use super::run::judged;
use super::{CommandError, write_file, write_json};
use crate::plan::{Plan, Shard};
use crate::profile::mix;
use crate::run::{self, Credentials, Show};
use crate::scenario::{Playable, RawFault, Scenario};
use crate::units::Span;
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest wait for `--start`.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

#[derive(Debug, Args)]
pub(super) struct PlayArgs {
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
    /// Where the report goes as a page with plots (HTML).
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Shows nothing while the run goes on.
    #[arg(long, short, conflicts_with = "json_lines")]
    quiet: bool,
    /// Writes lines of JSON to standard output instead of a live view and a table: a sample every
    /// second (a long run: every few seconds), the report at the end.
    #[arg(long)]
    json_lines: bool,
}

/// What a plan has whatever it sends.
#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    /// Something that goes wrong, such as 'drop at=10s share=0.5'; may be repeated.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<RawFault>,
    /// The part of the fleet that this process plays, such as 2/8: several processes or hosts share
    /// a run, all with the same arguments but for this one. `merge` makes one report of theirs.
    #[arg(long, value_name = "NUMBER/OF", requires = "start")]
    shard: Option<Shard>,
    /// When the schedule begins, such as 2030-01-02T03:04:05Z, at most a day ahead [default: now].
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// Longest wait for acknowledgements after the last batch was due [default: 30s].
    #[arg(long)]
    drain_timeout: Option<Span>,
    /// What the report must show, such as 'acked_ratio>=0.99' or 'ack_p99_ms<250'; may be
    /// repeated. Decides the exit code instead of "everything due was sent and answered".
    /// What only the store shows, such as 'lost==0', goes into the journal for `verify`.
    #[arg(long, value_name = "EXPECTATION")]
    expect: Vec<String>,
}

impl ScheduleArgs {
    /// A scenario with what these say; they are stronger.
    pub(super) fn change(&self, scenario: &mut Scenario) {
        scenario.fault.extend(self.fault.iter().cloned());
        scenario.drain_timeout = self.drain_timeout.or(scenario.drain_timeout);
        if !self.expect.is_empty() {
            scenario.expect.clone_from(&self.expect);
        }
    }

    /// A plan with a name and a beginning, and the part of it that is played here.
    pub(super) fn name(&self, plan: Plan) -> Result<Plan> {
        let base_ns = self.start.as_deref().map(start_ns).transpose()?;
        Ok(Plan {
            // Shards know of each other by nothing but their arguments.
            run: base_ns.map_or_else(|| fastrand::u64(..), |ns| mix(&[ns.unsigned_abs(), 9])),
            base_ns: base_ns.unwrap_or(0),
            shard: self.shard,
            ..plan
        })
    }
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

/// Plays a plan, writes and shows its report; false if it was not as it should be.
pub(super) fn play(args: PlayArgs, playable: Playable) -> Result<bool, CommandError> {
    let Playable { plan, drain_timeout, of_the_run } = playable;
    let run_s = plan.duration_ns / 1_000_000_000 + drain_timeout.as_secs();
    let credentials = match (&args.token_key, &args.tokens) {
        (Some(key), _) => Credentials::from_key(key, run_s)?,
        (None, Some(tokens)) => Credentials::from_tokens(tokens)?,
        (None, None) => return Err(CommandError::Usage("give --token-key or --tokens".to_owned())),
    };
    let beside = || args.report.as_ref().map(|report| report.with_extension("journal"));
    let options = run::Options {
        journal: args.journal.or_else(beside),
        url: args.url,
        ca: args.ca,
        credentials,
        plan,
        drain_timeout,
        source_addresses: args.source_addresses,
        show: match (args.quiet, args.json_lines) {
            (true, _) => Show::Nothing,
            (_, true) => Show::JsonLines,
            _ => Show::Progress,
        },
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        runtime.worker_threads(usize::from(threads));
    }
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    let report = runtime.block_on(run::play(options))?;
    if let Some(path) = &args.report {
        write_json(path, &report)?;
    }
    if let Some(path) = &args.html {
        write_file(path, &run::page(&report))?;
    }
    if args.json_lines {
        println!("{}", serde_json::to_string(&report).context("the report")?);
    } else {
        print!("{}", report.table());
    }
    Ok(judged(&report, &of_the_run, args.json_lines)?)
}
