//! `state.db`: what the gateway has to know besides the log.
//!
//! Owns the kinds that fields were found to have ([`Types`]), the devices that were seen
//! ([`Devices`]) and those that were revoked ([`Revocations`]). All of it is in memory; one thread,
//! the [`Keeper`], writes changes to an SQLite file, many in one transaction, synced. It promises
//! that a change is durable once [`Changes::settled`] says so: whoever relies on one waits for it.
//! What is only counted is written now and then, and a crash may lose the last of it. It refuses a
//! file that is not its own, is damaged, or was written by a newer gateway.
//!
//! A file that is lost costs no reading: kinds are learned again, counts begin anew. Revocations
//! have to be made again.

mod changes;
mod devices;
mod keeper;
mod revocations;
mod schema;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod types;

pub use changes::{Changes, Unsettled};
pub use devices::{Device, DeviceFacts, Devices, MAX_DEVICES, Refused};
pub use keeper::Keeper;
pub use revocations::{Revocation, Revocations};
pub use schema::OpenError;
pub use types::{Conflict, KnownField, Origin, Types};

use crate::metrics::StateMetrics;
use std::{path::Path, sync::Arc};

/// What the gateway knows, in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    /// The kinds of fields.
    pub types: Arc<Types>,
    /// Who was seen.
    pub devices: Arc<Devices>,
    /// Who may not connect any more.
    pub revocations: Arc<Revocations>,
    /// Changes on their way to the file.
    pub changes: Arc<Changes>,
}

/// Opens the file, making it if it is not there, and reads it. Changes are kept once the
/// [`Keeper`] runs. `max_fields` of a realm are learned at most. Blocks.
///
/// # Errors
/// See [`OpenError`].
pub fn open(
    path: &Path,
    max_fields: usize,
    metrics: StateMetrics,
) -> Result<(State, Keeper), OpenError> {
    let connection = schema::open(path)?;
    let read = schema::read(path, &connection)?;
    let changes = Arc::new(Changes::new());
    let state = State {
        types: Arc::new(Types::new(read.fields, max_fields, changes.clone(), metrics.clone())),
        devices: Arc::new(Devices::new(read.devices)),
        revocations: Arc::new(Revocations::new(read.revoked, changes.clone())),
        changes: changes.clone(),
    };
    let keeper = Keeper::new(connection, changes, state.devices.clone(), metrics);
    Ok((state, keeper))
}
