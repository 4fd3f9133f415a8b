//! Where the gateway's speed stands.
//!
//! ```text
//! bench run ──starts──► a server: the gateway, the bare loop, Node.js, Mosquitto
//!     │     ──starts──► bench sink: takes everything, counts what it confirmed
//!     └─────starts──► bench load: many TLS connections, checks every answer
//! ```
//!
//! Every part is a process of its own, so that the CPU time of the server is the server's alone.
//! A measurement counts only if what was sent, what was acknowledged and what the sink has
//! confirmed are the same number. `PERFORMANCE.md` says how to read the results.

pub mod bare;
pub mod cases;
pub mod dialect;
pub mod frame;
mod input;
pub mod load;
pub mod machine;
pub mod payload;
pub mod process;
pub mod run;
pub mod sample;
pub mod servers;
pub mod settings;
pub mod sink;
pub mod stats;
pub mod table;
