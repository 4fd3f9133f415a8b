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

/// placeholder
///
/// # Errors
/// placeholder
pub async fn run(_config: config::Config) -> Result<(), anyhow::Error> {
    Ok(())
}
