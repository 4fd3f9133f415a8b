//! The devices' side over real TLS, with a committer that answers from memory.

#![allow(clippy::unwrap_used)]

mod committer;
mod frames;
mod harness;
mod sessions;
mod stopping;
mod takeover;
mod tls;
mod upgrade;
