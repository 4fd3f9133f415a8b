//! `device-sim merge`: the reports of all shards of a run as one.

use super::{CommandError, run, write_file, write_json};
use crate::expect::Expectation;
use crate::run::{merge, page};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// The reports that `run --shard` wrote, one of each shard.
    #[arg(required = true, value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// Where the report of the whole run goes (JSON).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where it goes as a page with plots (HTML).
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// What the whole run must show, as for `run`; may be repeated.
    #[arg(long, value_name = "EXPECTATION")]
    expect: Vec<Expectation>,
}

pub(super) fn execute(args: &MergeArgs) -> Result<bool, CommandError> {
    if let Some(of_the_store) = args.expect.iter().find(|expected| expected.is_of_the_store()) {
        return Err(CommandError::Usage(format!(
            "--expect '{of_the_store}' is for `run`: the \
             journals take it to `verify`, reports know nothing of a store"
        )));
    }
    let report = merge(&args.reports)?;
    if let Some(path) = &args.report {
        write_json(path, &report)?;
    }
    if let Some(path) = &args.html {
        write_file(path, &page(&report)).context("the page")?;
    }
    print!("{}", report.table());
    Ok(run::judged(&report, &args.expect, false)?)
}
