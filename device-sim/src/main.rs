//! The command line of the simulator.

use clap::Parser;
use device_sim::cli::{Cli, execute};
use std::process::ExitCode;

fn main() -> ExitCode {
    match execute(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("device-sim: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
