//! Which store is looked at: arguments that `verify` and `certify` share.

use crate::verify::{Credential, Endpoint, Place, StoreAt};
use clap::Args;
use std::path::{Path, PathBuf};

/// The options that name a store; one of them at most.
pub(super) const PLACES: [&str; 4] = ["store", "influx", "victoriametrics", "subscription"];

#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The realm of the devices, where a store has their names in several.
    #[arg(long, value_name = "NAME", requires = "place")]
    pub(super) realm: Option<String>,
    /// The bucket of --influx; in version 1 the database.
    #[arg(long, alias = "database", requires = "influx")]
    bucket: Option<String>,
    /// The organisation of --influx; version 2 needs it.
    #[arg(long, requires = "influx")]
    org: Option<String>,
    /// A file with a token that may read the store.
    #[arg(
        long,
        value_name = "FILE",
        requires = "place",
        conflicts_with_all = ["store", "subscription"]
    )]
    token_file: Option<PathBuf>,
    /// A user that may read the store.
    #[arg(
        long,
        value_name = "NAME",
        requires = "password_file",
        conflicts_with_all = ["store", "subscription", "token_file"]
    )]
    user: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires_all = ["user", "place"])]
    password_file: Option<PathBuf>,
    /// Readings that came twice are counted, and are no fault: MQTT delivers at least once.
    #[arg(long, requires = "place")]
    pub(super) allow_duplicates: bool,
}

/// Where to look.
#[derive(Debug, Args)]
#[group(id = "place", multiple = false)]
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

impl StoreArgs {
    /// The store that is named, if there is one; `ca` vouches for it.
    pub(super) fn at(&self, ca: Option<&Path>) -> Option<StoreAt> {
        let endpoint = |url: &str| Endpoint {
            url: url.to_owned(),
            ca: ca.map(Path::to_owned),
            credential: match (&self.token_file, &self.user, &self.password_file) {
                (Some(token), ..) => Credential::TokenFile(token.clone()),
                (None, Some(user), Some(password)) => {
                    Credential::User(user.clone(), password.clone())
                }
                _ => Credential::None,
            },
        };
        let PlaceArgs { store, influx, victoriametrics, subscription } = &self.place;
        let place = match (store, influx, victoriametrics, subscription) {
            (Some(path), ..) => Place::Sqlite(path.clone()),
            (_, Some(url), ..) => Place::Influx {
                endpoint: endpoint(url),
                bucket: self.bucket.clone().unwrap_or_default(),
                org: self.org.clone(),
            },
            (_, _, Some(url), _) => Place::VictoriaMetrics(endpoint(url)),
            (.., Some(path)) => Place::Subscription(path.clone()),
            (None, None, None, None) => return None,
        };
        Some(StoreAt { place, realm: self.realm.clone() })
    }
}
