//! Arguments, and what each command does with them.
//!
//! Exit codes: 0 all as promised, 1 not, 2 wrong usage.

mod certify;
mod merge;
mod play;
mod replay;
mod run;
mod store;
mod subscribe;
mod verify;

use crate::expect::Expectation;
use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::fmt::{self, Display, Formatter};
use std::path::Path;
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
    /// Plays a capture of real traffic with its timing, each device so many times.
    Replay(Box<replay::ReplayArgs>),
    /// Searches the highest load that meets a service level.
    Certify(Box<certify::CertifyArgs>),
    /// Makes one report of those of all shards of a run.
    Merge(merge::MergeArgs),
    /// Recomputes every reading of a run and compares it with what the store holds.
    Verify(Box<verify::VerifyArgs>),
    /// Records what the gateway publishes to an MQTT broker, for `verify --subscription`.
    Subscribe(subscribe::SubscribeArgs),
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
        Command::Replay(args) => replay::execute(*args),
        Command::Certify(args) => certify::execute(*args),
        Command::Merge(args) => merge::execute(&args),
        Command::Verify(args) => Ok(verify::execute(&args)?),
        Command::Subscribe(args) => Ok(subscribe::execute(args)?),
    }
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

fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    write_file(path, &text)
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)
        .with_context(|| format!("cannot write the report {}", path.display()))
}
