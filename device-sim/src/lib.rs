//! A simulated fleet for the telemetry gateway, and the oracle that checks what was stored.
//!
//! ```text
//! plan ──► run: schedule → outbox → link (TLS, WebSocket) → gateway
//!   │        │
//!   │        └─► journal: what was sent, acknowledged, refused
//!   ├─ replay: a capture of real traffic in place of profiles
//!   │        ├─► certify: runs of rising load, until a service level is not met
//!   │        └─► report; merge: those of several processes as one
//!   └──► verify: plan + journal → every reading that must be there ⇄ the store
//!                          subscribe: MQTT broker → a file that is such a store ─┘
//! ```
//!
//! The [`plan`] makes both halves agree: it says, as a pure function of a few numbers, which
//! reading every device takes, when it is due and what it holds. `run` plays the plan and writes
//! the [`journal`]; `verify` recomputes the plan and compares it with a store, reading by reading.

pub mod certify;
pub mod cli;
mod dial;
pub mod expect;
pub mod journal;
pub mod plan;
pub mod profile;
pub mod run;
pub mod scenario;
pub mod subscribe;
pub mod units;
pub mod verify;

/// Version of this tool, in reports and journals.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
