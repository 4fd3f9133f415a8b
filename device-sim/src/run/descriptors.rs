//! The limit of open files, one for each connection.

use anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a run opens besides its connections: store of time zones, key, journal, runtime.
const SPARE: u64 = 64;

/// Raises the limit so that a connection of each device fits; of two, if they forget some.
///
/// # Errors
/// The system does not allow as many.
pub(super) fn allow(devices: u32, two: bool) -> Result<()> {
    let needed = u64::from(devices) * if two { 2 } else { 1 } + SPARE;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let wider = maximum.map(|maximum| maximum.max(needed));
    let within = Rlimit { current: Some(needed), maximum };
    let beyond = Rlimit { current: Some(needed), maximum: wider };
    let raised = match maximum {
        Some(maximum) if maximum < needed => setrlimit(Resource::Nofile, beyond),
        _ => setrlimit(Resource::Nofile, within),
    };
    if raised.is_err() {
        let allowed = maximum.or(current).unwrap_or(0);
        bail!(
            "{devices} devices need {needed} open files and {allowed} are allowed: raise the \
             limit (ulimit -n {needed}, beyond {allowed} by whoever starts this machine or container), \
             use fewer --devices, or share them among processes (--shard 1/2, --shard 2/2)"
        );
    }
    Ok(())
}
