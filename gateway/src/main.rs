//! Arguments → configuration → [`gateway::run`]; exit codes.
//!
//! 0: done, or stopped in order. 1: something failed while running. 2: the command line or the
//! configuration is wrong; nothing was touched.

mod cli;

use clap::{Args, Parser, Subcommand};
use gateway::{
    config::{self, Config, ConfigError, Overrides},
    data_dir::{DataDir, TokenKey, is_host},
    forward::Cursor,
    inspect,
    record::Position,
    sinks::{self, Rewound, Standing},
};
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const EXIT_FAILED: u8 = 1;
const EXIT_CONFIGURATION: u8 = 2;

/// Takes telemetry from devices over wss, keeps it in a durable log, and forwards it to
/// time-series stores.
#[derive(Parser)]
#[command(name = "gateway", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway; without a configuration it makes what it needs below ./data
    Run {
        #[command(flatten)]
        place: Place,
        /// Name or address that the gateway's own certificate covers, too; may be repeated
        #[arg(long = "host", value_name = "NAME", value_parser = host)]
        hosts: Vec<String>,
    },
    /// Validates a configuration and prints what is in force, defaults included
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints a token for a device, signed with the data directory's key
    Token {
        /// The device id
        #[arg(long, value_name = "ID", value_parser = device)]
        device: String,
        /// How long the token is good
        #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = ttl)]
        ttl: Duration,
        #[command(flatten)]
        place: Place,
    },
    /// Looks into the log, beside a running gateway or without one; changes nothing
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Shows where the sinks stand, takes one back, or forgets one
    #[command(subcommand)]
    Sink(SinkCommand),
    /// Readings that a store refused: shown, sent again, given up
    #[command(subcommand)]
    Quarantine(cli::quarantine::QuarantineCommand),
    /// Devices that were seen; revokes one, or lets it connect again
    #[command(subcommand)]
    Device(cli::known::DeviceCommand),
    /// Writes a sample of real traffic into a file, with identities and texts replaced, for
    /// `device-sim replay`; reads the log beside a running gateway, or without one
    Capture(Box<cli::capture::CaptureArgs>),
    /// The kinds of fields that were learned; sets one, or forgets it
    #[command(subcommand)]
    Types(cli::known::TypesCommand),
}

#[derive(Subcommand)]
enum LogCommand {
    /// Records, readings, sizes, times, and who has it open
    Stat {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Reads all of it; exit code 1 if an acknowledged record is damaged, with what to do
    Verify {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Shows the newest records with their readings; the very last may not be acknowledged yet
    Tail {
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        records: usize,
        /// Only of this device: its id, or realm/id
        #[arg(long, value_name = "ID")]
        device: Option<String>,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// One JSON object a line instead of text
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Subcommand)]
enum SinkCommand {
    /// Shows how far each sink has come, and its ledger there
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Lets a sink get everything again, in a new epoch of its ledger; a gateway may run
    Rewind {
        /// The sink
        name: String,
        /// The first record that it gets [default: the oldest that the log has]
        #[arg(long, value_name = "RECORD")]
        to: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// Forgets where a sink stood that is not configured any more; the gateway must not run
    Remove {
        /// The sink
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
struct Place {
    /// The configuration file [default: none, everything has a default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where keys, log and state live [default: ./data, or what the configuration says]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn load(self, hosts: Vec<String>) -> Result<Config, ConfigError> {
        let overrides = Overrides { data_dir: self.data_dir, hosts };
        config::load(self.config.as_deref(), environment(), overrides)
    }
}

fn host(text: &str) -> Result<String, String> {
    let what = || "a host name or an address without a port is needed".to_owned();
    is_host(text).then(|| text.to_owned()).ok_or_else(what)
}

fn device(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.:@%/=+-".contains(&b);
    let max = proto::limits::MAX_DEVICE_ID_BYTES;
    if (1..=max).contains(&text.len()) && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("a device id has 1 to {max} of A-Z a-z 0-9 _ . : @ % / = + -"))
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = config::parse_duration(text)?;
    if ttl < Duration::from_secs(1) { Err("must be at least 1s".to_owned()) } else { Ok(ttl) }
}

/// Variables that are no Unicode cannot be ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn main() -> ExitCode {
    let (code, message) = match execute(Cli::parse().command) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => (EXIT_CONFIGURATION, error.to_string()),
        Err(Failure::Running(error)) => (EXIT_FAILED, chain(&error)),
    };
    // Standard error may be closed; the code still tells.
    let _ = writeln!(io::stderr(), "gateway: {message}");
    ExitCode::from(code)
}

/// An error with its causes, without those that it has quoted already.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut said, cause| {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&cause);
        }
        said
    })
}

enum Failure {
    Configuration(ConfigError),
    Running(anyhow::Error),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Configuration(error)
    }
}

fn running(error: impl Into<anyhow::Error>) -> Failure {
    Failure::Running(error.into())
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run { place, hosts } => {
            let config = place.load(hosts)?;
            gateway::logging::start(&config.logging);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(running)?;
            let result = runtime.block_on(gateway::run(config));
            // A thread that did not stop before the deadline must not hold the process.
            runtime.shutdown_background();
            result.map_err(Failure::Running)
        }
        Command::Check { config } => {
            let text = config::effective(Some(&config), environment(), Overrides::default())?;
            print(&text)
        }
        Command::Sink(command) => sink(command),
        Command::Token { device, ttl, place } => {
            let config = place.load(Vec::new())?;
            if !config.auth.own_key {
                return Err(running(anyhow::anyhow!(
                    "this gateway takes no tokens of its own key (\"auth.own_key\" is false): mint \
                     the token where the keys of [[auth.jwt]] are, or set it to true"
                )));
            }
            let file = DataDir::new(&config.data_dir).token_key_file();
            let key = TokenKey::load(&file).map_err(running)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(running)?;
            print(&(key.mint(&device, now.as_secs(), ttl).map_err(running)? + "\n"))
        }
        Command::Log { command } => look(command),
        Command::Quarantine(command) => cli::quarantine::execute(command),
        Command::Device(command) => cli::known::device(command),
        Command::Capture(args) => cli::capture::execute(*args),
        Command::Types(command) => cli::known::types(command),
    }
}

fn look(command: LogCommand) -> Result<(), Failure> {
    let log = |place: Place| Ok::<_, Failure>(place.load(Vec::new())?.data_dir.join("log"));
    let out = &mut io::BufWriter::new(io::stdout().lock());
    let looked = match command {
        LogCommand::Stat { json, place } => inspect::stat(&log(place)?, json, out),
        LogCommand::Verify { json, place } => match inspect::verify(&log(place)?, json, out) {
            Ok(false) => {
                out.flush().map_err(running)?;
                return Err(running(anyhow::anyhow!(
                    "acknowledged records of the log are damaged"
                )));
            }
            checked => checked.map(|_| ()),
        },
        LogCommand::Tail { records, device, follow, json, place } => {
            let options = inspect::Options { records, device, follow, json };
            inspect::tail(&log(place)?, &options, out)
        }
    };
    match looked.and_then(|()| Ok(out.flush()?)) {
        Err(error) if !error.is_closed_pipe() => Err(running(error)),
        _ => Ok(()),
    }
}

fn sink(command: SinkCommand) -> Result<(), Failure> {
    match command {
        SinkCommand::List { place } => {
            print(&table(&sinks::list(&place.load(Vec::new())?).map_err(running)?))
        }
        SinkCommand::Rewind { name, to, place } => {
            let config = place.load(Vec::new())?;
            let done = sinks::rewind(&config, &name, to.map(Position)).map_err(running)?;
            let Rewound { from, next, epoch } = done;
            let from = from.map_or_else(String::new, |from| format!(" stood at {from},"));
            print(&format!("{name}:{from} gets record {next} next, epoch {epoch}\n"))
        }
        SinkCommand::Remove { name, place } => {
            let config = place.load(Vec::new())?;
            let path = sinks::remove(&config, &name).map_err(running)?;
            print(&format!("{name}: removed {}\n", path.display()))
        }
    }
}

fn table(sinks: &[Standing]) -> String {
    let head = ["NAME", "TYPE", "RECORD", "EPOCH", "STORED", "QUARANTINED", "DROPPED"];
    let mut rows = vec![head.map(str::to_owned)];
    for sink in sinks {
        let count = |of: fn(&Cursor) -> u64| match &sink.cursor {
            Some(cursor) => of(cursor).to_string(),
            None => "-".to_owned(),
        };
        rows.push([
            sink.name.clone(),
            sink.kind.unwrap_or("(not configured)").to_owned(),
            count(|of| of.position.0),
            count(|of| of.ledger.epoch),
            count(|of| of.ledger.stored),
            count(|of| of.ledger.quarantined),
            count(|of| of.ledger.dropped.total()),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(running(error)),
        _ => Ok(()),
    }
}
