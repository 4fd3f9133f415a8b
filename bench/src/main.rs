//! The command line of the benchmark.

use clap::Parser;
use std::process::ExitCode;

/// Measures the gateway beside its comparators; `make bench` runs it.
#[derive(Debug, Parser)]
#[command(version)]
enum Cli {
    /// All of it: cases, report, table
    Run(bench::run::Options),
    /// Many devices, driven over standard input
    Load(bench::load::Options),
    /// A store that takes everything and counts
    Sink(bench::sink::Options),
    /// The bare loop
    Bare(bench::bare::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli::Run(options) => bench::run::run(options),
        Cli::Load(options) => bench::load::run(options),
        Cli::Sink(options) => bench::sink::run(&options),
        Cli::Bare(options) => bench::bare::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
