//! Which store it is, and how it is opened.

use super::http::Endpoint;
use super::influxdb_2::influx;
use super::sqlite::SqliteStore;
use super::store::Store;
use super::subscription::Subscription;
use super::victoria_metrics::VictoriaMetrics;
use crate::plan::Plan;
use anyhow::Result;
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// A store that is at hand, and whose devices are looked at in it.
#[derive(Debug, Clone)]
pub struct StoreAt {
    /// Where it is.
    pub place: Place,
    /// The realm of the devices; absent: their only one.
    pub realm: Option<String>,
}

/// Where a store is.
#[derive(Debug, Clone)]
pub enum Place {
    /// The gateway's embedded store.
    Sqlite(PathBuf),
    /// An InfluxDB.
    Influx {
        /// How to reach it.
        endpoint: Endpoint,
        /// The bucket; in version 1 the database.
        bucket: String,
        /// The organisation, which version 2 wants.
        org: Option<String>,
    },
    /// A VictoriaMetrics.
    VictoriaMetrics(Endpoint),
    /// What `device-sim subscribe` recorded.
    Subscription(PathBuf),
}

impl StoreAt {
    /// Opens it to look for a run.
    ///
    /// # Errors
    /// It is not there, does not answer, or is not what it should be.
    pub fn open(&self, plan: &Plan) -> Result<Box<dyn Store>> {
        let realm = self.realm.clone();
        Ok(match &self.place {
            Place::Sqlite(path) => Box::new(SqliteStore::open(path)?.of_realm(realm)),
            Place::Influx { endpoint, bucket, org } => {
                influx(endpoint, bucket, org.as_deref(), plan, realm.as_deref())?
            }
            Place::VictoriaMetrics(endpoint) => {
                Box::new(VictoriaMetrics::open(endpoint, plan)?.of_realm(realm))
            }
            Place::Subscription(path) => Box::new(Subscription::open(path)?.of_realm(realm)),
        })
    }
}

impl Display for StoreAt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Sqlite(path) => write!(f, "the embedded store {}", path.display())?,
            Place::Influx { endpoint, bucket, .. } => {
                write!(f, "InfluxDB {}, bucket {bucket}", endpoint.url)?;
            }
            Place::VictoriaMetrics(endpoint) => write!(f, "VictoriaMetrics {}", endpoint.url)?,
            Place::Subscription(path) => write!(f, "the recording {}", path.display())?,
        }
        self.realm.as_ref().map_or(Ok(()), |realm| write!(f, ", realm {realm}"))
    }
}
