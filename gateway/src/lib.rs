//! The telemetry ingestion gateway.
//!
//! ```text
//! accept → TLS → upgrade → session → decode + validate → log (group commit, fsync) → ack
//!                                                         │
//!                           one log, many readers:        ├─ forwarder → sink: embedded store
//!                           each with its own cursor      └─ forwarder → …
//! ```

pub mod admin;
pub mod auth;
pub mod banner;
pub mod config;
pub mod data_dir;
pub mod forward;
pub mod ingest;
pub mod log;
pub mod logging;
pub mod metrics;
pub mod record;
pub mod server;
pub mod session;
pub mod shutdown;
pub mod sink;

use admin::{Admin, LedgerSnapshot, NotReady, Readiness, Sources};
use config::{Config, valid::Tls};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the gateway until a signal stops it.
///
/// # Errors
/// It cannot start, a part of it ended early, or it did not stop within the deadline.
pub async fn run(config: Config) -> Result<(), anyhow::Error> {
    let stop = shutdown::on_signal()?;
    let hosts = match &config.tls {
        Tls::Own { hosts } => Some(hosts.as_slice()),
        Tls::Files { .. } => None,
    };
    let dir = data_dir::prepare(&config.data_dir, hosts)?;
    let operators = Admin::bind(&config.admin).await?;
    let console = operators.address();
    let readiness = Readiness::new();
    let sources = Sources {
        registry: metrics::Registry::new(),
        readiness: readiness.clone(),
        ledger: Arc::new(LedgerSnapshot::default),
    };

    let stop_admin = CancellationToken::new();
    let mut tasks = shutdown::Tasks::new();
    let admin_stop = stop_admin.clone();
    tasks.spawn("admin listener", async move {
        operators.serve(sources, admin_stop).await;
        Ok(())
    });
    print!("{}", banner::startup_banner(&config, &dir, config.server.listen, console));
    readiness.clear(NotReady::Starting);

    let early = tokio::select! {
        () = stop.cancelled() => None,
        ended = tasks.next() => ended,
    };
    readiness.set(NotReady::ShuttingDown);
    let mut sequence = shutdown::Sequence::begin(config.shutdown.deadline);
    stop_admin.cancel();
    sequence.tasks(&mut tasks).await;
    sequence.finish()?;
    early.map_or(Ok(()), |ended| Err(anyhow::anyhow!("{ended}, which stopped the gateway")))
}
