//! Arguments, and what each command does with them.
//!
//! Exit codes: 0 all as promised, 1 not, 2 wrong usage.

mod merge;
mod run;

use crate::expect::Expectation;
use crate::journal::Journal;
use crate::plan::Plan;
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
    Run(Box<run::RunArgs>),
    /// Makes one report of those of all shards of a run.
    Merge(merge::MergeArgs),
    /// Recomputes every reading of a run and compares it with what the store holds.
    Verify(Box<VerifyArgs>),
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
    /// The journal that `run` wrote; of a run in shards the journals of all of them, or of one.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    journal: Vec<PathBuf>,
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
        Command::Run(args) => run::execute(*args),
        Command::Merge(args) => merge::execute(&args),
        Command::Verify(args) => Ok(execute_verify(&args)?),
    }
}

fn execute_verify(args: &VerifyArgs) -> Result<bool> {
    let journal = Journal::open_all(&args.journal)?;
    let mut store = open_store(args, &journal.plan)?;
    let report = verify::verify(&mut *store, &journal, args.settle)?;
    if let Some(path) = &args.report {
        write_json(path, &report)?;
    }
    print!("{}", report.table());
    let expected: Vec<Expectation> = (journal.plan.expect.iter())
        .map(|text| text.parse().map_err(anyhow::Error::msg))
        .collect::<Result<_>>()?;
    Ok(judge(&serde_json::to_value(&report)?, &expected, |said| println!("{said}"))
        && report.passed)
}

/// Holds a report against what is expected of it, and says so.
fn judge(report: &serde_json::Value, expectations: &[Expectation], say: impl Fn(&str)) -> bool {
    let mut held = true;
    for expectation in expectations {
        match expectation.check(report) {
            Ok(()) => say(&format!("as expected: {expectation}")),
            Err(sentence) => {
                eprintln!("device-sim: {sentence}");
                held = false;
            }
        }
    }
    held
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

fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_file(path, &text)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .with_context(|| format!("cannot write the report {}", path.display()))
}
