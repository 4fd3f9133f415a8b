//! `device-sim verify`: a run against what a store holds.

use super::{duration, judge, write_json};
use crate::expect::Expectation;
use crate::journal::Journal;
use crate::plan::Plan;
use crate::verify::{
    self, Credential, Endpoint, LedgerSource, SqliteStore, Subscription, VictoriaMetrics,
};
use anyhow::{Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The realm of the devices, where --store has their names in several.
    #[arg(long, value_name = "NAME", requires = "store")]
    realm: Option<String>,
    /// The bucket of --influx; in version 1 the database.
    #[arg(long, alias = "database", requires = "influx")]
    bucket: Option<String>,
    /// The organisation of --influx; version 2 needs it.
    #[arg(long, requires = "influx")]
    org: Option<String>,
    /// A file with a token that may read.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store", "subscription"])]
    token_file: Option<PathBuf>,
    /// A user that may read.
    #[arg(
        long,
        value_name = "NAME",
        requires = "password_file",
        conflicts_with_all = ["store", "subscription", "token_file"]
    )]
    user: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
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
    /// Readings that came twice are counted, and are no fault: MQTT delivers at least once.
    #[arg(long)]
    allow_duplicates: bool,
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
    /// What `device-sim subscribe` recorded of an MQTT broker.
    #[arg(long, value_name = "FILE")]
    subscription: Option<PathBuf>,
}

pub(super) fn execute(args: &VerifyArgs) -> Result<bool> {
    let journal = Journal::open_all(&args.journal)?;
    let mut store = open_store(args, &journal.plan)?;
    let mut ledger = args.ledger.open()?;
    let mut report = verify::verify_with(&mut *store, &journal, args.settle, ledger.as_mut())?;
    if args.allow_duplicates {
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
    let PlaceArgs { store, influx, victoriametrics, subscription } = &args.place;
    Ok(match (store, influx, victoriametrics, subscription) {
        (Some(path), ..) => Box::new(SqliteStore::open(path)?.of_realm(args.realm.clone())),
        (_, Some(url), ..) => {
            let (bucket, org) = (args.bucket.as_deref().unwrap_or_default(), args.org.as_deref());
            verify::influx(&endpoint(url), bucket, org, plan)?
        }
        (_, _, Some(url), _) => Box::new(VictoriaMetrics::open(&endpoint(url), plan)?),
        (.., Some(path)) => Box::new(Subscription::open(path)?),
        (None, None, None, None) => {
            bail!("give --store, --influx, --victoriametrics or --subscription")
        }
    })
}
