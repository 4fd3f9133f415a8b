//! `device-sim verify`: a run against what a store holds.

use super::store::{PLACES, StoreArgs};
use super::{duration, judge, write_json};
use crate::expect::Expectation;
use crate::journal::Journal;
use crate::verify::{self, Credential, Endpoint, LedgerSource};
use anyhow::{Context, Result};
use clap::{ArgGroup, Args};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("looked at").args(PLACES).required(true))]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Certificate of the CA that vouches for the store (PEM) [default: those of the system].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store", "subscription"])]
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
    #[command(flatten)]
    ledger: LedgerArgs,
}

/// Whose ledger is held against the run.
#[derive(Debug, Args)]
struct LedgerArgs {
    /// The gateway's listener for operators, such as http://localhost:8080: its ledger has to agree
    /// with the journal and the store.
    #[arg(long, value_name = "URL")]
    ledger: Option<String>,
    /// A file with the token of that listener.
    #[arg(long, value_name = "FILE", requires = "ledger")]
    ledger_token_file: Option<PathBuf>,
    /// Certificate of the CA that vouches for that listener (PEM) [default: those of the system].
    #[arg(long, value_name = "FILE", requires = "ledger")]
    ledger_ca: Option<PathBuf>,
    /// The sink that writes to the store [default: the one of the kind of the store].
    #[arg(long, value_name = "NAME", requires = "ledger")]
    ledger_sink: Option<String>,
    /// What the gateway answered to /api/v1/ledger before the run, if it had served others.
    #[arg(long, value_name = "FILE", requires = "ledger")]
    ledger_before: Option<PathBuf>,
}

impl LedgerArgs {
    fn open(&self) -> Result<Option<LedgerSource>> {
        let Some(url) = &self.ledger else { return Ok(None) };
        let token = self.ledger_token_file.clone();
        let credential = token.map_or(Credential::None, Credential::TokenFile);
        let endpoint = Endpoint { url: url.clone(), ca: self.ledger_ca.clone(), credential };
        let (sink, before) = (self.ledger_sink.as_deref(), self.ledger_before.as_deref());
        LedgerSource::open(&endpoint, sink, before).map(Some)
    }
}

pub(super) fn execute(args: &VerifyArgs) -> Result<bool> {
    let journal = Journal::open_all(&args.journal)?;
    let store = args.store.at(args.ca.as_deref());
    let mut store = store.context("no store is named")?.open(&journal.plan)?;
    let realm = args.store.realm.clone();
    let mut ledger = args.ledger.open()?.map(|ledger| ledger.of_realm(realm));
    let mut report = verify::verify_with(&mut *store, &journal, args.settle, ledger.as_mut())?;
    if args.store.allow_duplicates {
        report.allow_duplicates();
    }
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
