//! The trials of the promise on the real system: kills, power cuts, full and failing disks, each in
//! a short form here and in a long one in `make chaos`, which keeps count in a table.
//!
//! They need root (mounts, limits), strace, mkfs.ext4 and python3, and fail where these are missing.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod away;
mod calls;
mod disk;
mod disk_full;
mod fleet;
mod power_cut;
#[allow(dead_code)]
#[path = "../stories/support/mod.rs"]
mod support;
mod table;
mod trouble;
mod writer;
