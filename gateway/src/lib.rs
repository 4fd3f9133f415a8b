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
pub mod config;
pub mod forward;
pub mod ingest;
pub mod log;
pub mod metrics;
pub mod record;
pub mod server;
pub mod session;
pub mod sink;
