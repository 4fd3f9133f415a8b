//! Arguments, and what each command does with them.
//!
//! Exit codes: 0 all as promised, 1 not, 2 wrong usage.

use crate::expect::Expectation;
use crate::journal::Journal;
use crate::plan::Plan;
use crate::profile::Profile;
use crate::run::{self, Credentials, Mode, Outcome, Report};
use crate::verify::{self, Credential, Endpoint, SqliteStore, VictoriaMetrics};
use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A simulated fleet for the telemetry gateway, and the oracle that checks what was stored.
#[derive(Debug, Parser)]
#[command(name = "device-sim", version = crate::VERSION, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connects devices, streams their readings, reports what was acknowledged.
    Run(Box<RunArgs>),
    /// Recomputes every reading of a run and compares it with what the store holds.
    Verify(Box<VerifyArgs>),
}

#[derive(Debug, Args)]
struct RunArgs {
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
    /// Number of devices.
    #[arg(long, default_value_t = 200)]
    devices: u32,
    /// How long batches are due.
    #[arg(long, default_value = "20s", value_parser = duration)]
    duration: Duration,
    /// From one batch of a device to its next.
    #[arg(long, default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// Readings in a batch.
    #[arg(long, default_value_t = 10)]
    batch: u32,
    /// Time over which the devices connect, one after the other.
    #[arg(long, default_value = "5s", value_parser = duration)]
    ramp: Duration,
    /// What the devices measure.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// How a batch is written.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
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
    /// Batches that a device keeps while they are not acknowledged.
    #[arg(long, default_value_t = 256, value_parser = outbox)]
    outbox: u32,
    /// Longest wait for acknowledgements after the last batch was due.
    #[arg(long, default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,
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
    /// What the report must show, such as 'acked_ratio>=0.99' or 'ack_p99_ms<250'; may be
    /// repeated. Decides the exit code instead of "everything due was sent and answered".
    #[arg(long, value_name = "EXPECTATION")]
    expect: Vec<Expectation>,
    /// Shows nothing while the run goes on.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The bucket of --influx; in version 1 the database.
    #[arg(long, alias = "database", requires = "influx")]
    bucket: Option<String>,
    /// The organisation of --influx; version 2 needs it.
    #[arg(long, requires = "influx")]
    org: Option<String>,
    /// A file with a token that may read.
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    token_file: Option<PathBuf>,
    /// A user that may read.
    #[arg(
        long,
        value_name = "NAME",
        requires = "password_file",
        conflicts_with_all = ["store", "token_file"]
    )]
    user: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Certificate of the CA that vouches for the store (PEM) [default: those of the system].
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    ca: Option<PathBuf>,
    /// The journal that `run` wrote.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    /// Where the report goes (JSON).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Longest wait for the store to catch up.
    #[arg(long, default_value = "30s", value_parser = duration)]
    settle: Duration,
}

/// Where to look.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PlaceArgs {
    /// The gateway's embedded store, such as data/telemetry.db.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// An InfluxDB, such as http://localhost:8086; with --bucket. Its /health page tells the
    /// version: 2 is asked in Flux with --org, 1 and 3 in InfluxQL. So is every one below a path
    /// or with --user.
    #[arg(long, value_name = "URL", requires = "bucket")]
    influx: Option<String>,
    /// A VictoriaMetrics, such as http://localhost:8428.
    #[arg(long, value_name = "URL")]
    victoriametrics: Option<String>,
}

fn outbox(text: &str) -> Result<u32, String> {
    let batches = text.parse().ok().filter(|batches| (1..=1_000_000).contains(batches));
    batches.ok_or_else(|| "must be 1 to 1000000".to_owned())
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

/// Why a command did nothing.
#[derive(Debug)]
pub enum CommandError {
    /// The arguments do not fit together.
    Usage(String),
    /// Something outside stood in the way.
    Failed(anyhow::Error),
}

impl CommandError {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Usage(_) => 2,
            CommandError::Failed(_) => 1,
        }
    }
}

impl Display for CommandError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::Usage(sentence) => f.write_str(sentence),
            CommandError::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        CommandError::Failed(error)
    }
}

/// Does what the arguments say; false if the outcome is not as it should be.
///
/// # Errors
/// The command could not be carried out.
pub fn execute(cli: Cli) -> Result<bool, CommandError> {
    match cli.command {
        Command::Run(args) => execute_run(*args),
        Command::Verify(args) => Ok(execute_verify(&args)?),
    }
}

fn execute_run(args: RunArgs) -> Result<bool, CommandError> {
    let plan = Plan {
        run: fastrand::u64(..),
        seed: args.seed,
        prefix: args.prefix,
        profile: args.profile,
        devices: args.devices,
        stream: args.stream,
        start_seq: args.start_seq,
        base_ns: 0,
        interval_ns: nanos(args.interval),
        batch: args.batch,
        ramp_ns: nanos(args.ramp),
        duration_ns: nanos(args.duration),
    };
    plan.check().map_err(CommandError::Usage)?;
    let run_s = args.duration.as_secs() + args.drain_timeout.as_secs();
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
        mode: args.mode,
        outbox: args.outbox as usize,
        drain_timeout: args.drain_timeout,
        source_addresses: args.source_addresses,
        journal: args.journal.clone().or_else(beside),
        quiet: args.quiet,
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
    print!("{}", report.table());
    if report.outcome != Outcome::Failed && !args.expect.is_empty() {
        return Ok(judge(&report, &args.expect)?);
    }
    match (report.outcome, &report.problem) {
        (Outcome::Completed, None) => println!("everything due was sent and answered"),
        (Outcome::Interrupted, None) => println!("ended early; everything due was answered"),
        (_, problem) => eprintln!("device-sim: {}", problem.as_deref().unwrap_or("failed")),
    }
    Ok(report.problem.is_none())
}

fn judge(report: &Report, expectations: &[Expectation]) -> Result<bool> {
    let report = serde_json::to_value(report)?;
    let mut held = true;
    for expectation in expectations {
        match expectation.check(&report) {
            Ok(()) => println!("as expected: {expectation}"),
            Err(sentence) => {
                eprintln!("device-sim: {sentence}");
                held = false;
            }
        }
    }
    Ok(held)
}

fn execute_verify(args: &VerifyArgs) -> Result<bool> {
    let journal = Journal::open(&args.journal)?;
    let mut store = open_store(args, &journal.plan)?;
    let report = verify::verify(&mut *store, &journal, args.settle)?;
    if let Some(path) = &args.report {
        write_json(path, &report)?;
    }
    print!("{}", report.table());
    Ok(report.passed)
}

fn open_store(args: &VerifyArgs, plan: &Plan) -> Result<Box<dyn verify::Store>> {
    let endpoint = |url: &str| Endpoint {
        url: url.to_owned(),
        ca: args.ca.clone(),
        credential: match (&args.token_file, &args.user, &args.password_file) {
            (Some(token), ..) => Credential::TokenFile(token.clone()),
            (None, Some(user), Some(password)) => Credential::User(user.clone(), password.clone()),
            _ => Credential::None,
        },
    };
    let PlaceArgs { store, influx, victoriametrics } = &args.place;
    Ok(match (store, influx, victoriametrics) {
        (Some(path), ..) => Box::new(SqliteStore::open(path)?),
        (_, Some(url), _) => {
            let (bucket, org) = (args.bucket.as_deref().unwrap_or_default(), args.org.as_deref());
            verify::influx(&endpoint(url), bucket, org, plan)?
        }
        (.., Some(url)) => Box::new(VictoriaMetrics::open(&endpoint(url), plan)?),
        (None, None, None) => bail!("give --store, --influx or --victoriametrics"),
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    std::fs::write(path, text)
        .with_context(|| format!("cannot write the report {}", path.display()))
}
