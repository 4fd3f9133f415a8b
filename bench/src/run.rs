//! The whole benchmark: cases in turn, a report in JSON, a table on the terminal.

use crate::{
    cases::{Bench, Case},
    machine, payload,
    servers::Place,
    settings,
    table::Table,
};
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Map, json};
use std::{
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// What is measured.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Cases, with commas between them; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    pub cases: Vec<Case>,
    /// Rounds of each case
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Measured in each round of a server, in seconds
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Leaves Node.js and Mosquitto out
    #[arg(long)]
    pub no_peers: bool,
    /// Numbers of idle connections instead of 5,000 and 20,000
    #[arg(long, value_delimiter = ',')]
    pub idle: Vec<u32>,
    /// The gateway's program [default: `gateway` beside this one]
    #[arg(long)]
    pub gateway: Option<PathBuf>,
    /// Directory of the gateway in Node.js, with its modules
    #[arg(long, default_value = "bench/node")]
    pub node: PathBuf,
    /// Where the servers' files and the report go
    #[arg(long, default_value = "target/bench")]
    pub dir: PathBuf,
    /// The same without a disk under it
    #[arg(long, default_value = "/dev/shm/gateway-bench")]
    pub memory_dir: PathBuf,
}

/// Measures, reports, shows.
///
/// # Errors
/// A case failed: the report has those before it.
pub fn run(options: Options) -> Result<()> {
    let is_pair = matches!(options.idle[..], [] | [_, _]);
    ensure!(is_pair, "--idle needs two numbers with a comma between them");
    ensure!(options.rounds > 0 && options.seconds > 0.0, "at least one round of some time");
    let bench = std::env::current_exe().context("this program has no path")?;
    let beside = bench.with_file_name("gateway");
    let gateway = options.gateway.unwrap_or(beside);
    ensure!(gateway.is_file(), "{} is missing: build the gateway first", gateway.display());
    let dir = std::path::absolute(&options.dir)?;
    let place = Place {
        bench,
        gateway,
        node: options.node,
        dir: dir.join("servers"),
        memory_dir: options.memory_dir,
    };
    let mut bench = Bench {
        place: place.prepare()?,
        rounds: options.rounds,
        seconds: options.seconds,
        peers: !options.no_peers,
        idle: <[u32; 2]>::try_from(options.idle).ok(),
        report: Map::new(),
        table: Table::default(),
    };
    let begun = Instant::now();
    begin(&mut bench)?;
    let cases = match options.cases.is_empty() {
        true => Case::value_variants().to_vec(),
        false => options.cases,
    };
    let file = dir.join("report.json");
    let mut result = Ok(());
    for case in cases {
        let name = case.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        eprintln!("{name}, load average {}", machine::load_average().unwrap_or_default());
        result = bench.run(case).with_context(|| format!("the case {name} has failed"));
        if result.is_err() {
            break;
        }
        write(&bench, &file)?;
    }
    bench.report.insert("seconds_in_all".to_owned(), json!(begun.elapsed().as_secs()));
    write(&bench, &file)?;
    println!("\n{}report  {}", bench.table, options.dir.join("report.json").display());
    result
}

fn begin(bench: &mut Bench) -> Result<()> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let payload = json!({
        "what": payload::DESCRIPTION,
        "bytes_per_reading_of_100": payload::bytes_per_reading(100),
        "bytes_of_a_message_of_1": payload::bytes_per_reading(1),
    });
    for (key, value) in [
        ("format", json!(1)),
        ("started_unix_s", json!(started)),
        ("rounds", json!(bench.rounds)),
        ("seconds", json!(bench.seconds)),
        ("machine", machine::describe()),
        ("versions", machine::versions()),
        ("payload", payload),
        ("settings", settings::all()),
    ] {
        bench.report.insert(key.to_owned(), value);
    }
    Ok(())
}

fn write(bench: &Bench, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&bench.report)?;
    std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}
