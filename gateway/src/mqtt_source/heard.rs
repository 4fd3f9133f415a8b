//! The devices that were heard: what is kept of each from one message to the next.

use super::{Context, Options};
use crate::{
    ingest::{ConnectionContext, Guard, Notes, StreamId, clock::WallClock},
    record::Identity,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Devices that are kept at once, for about 2 KiB of memory each; beyond it those are given up
/// that were not heard for longest. They are known again with their next message.
const MAX_HEARD: usize = 10_000;

/// A device. Operators see it as connected for as long as it is kept.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) context: ConnectionContext,
    pub(super) notes: Notes,
    guard: Mutex<Guard>,
    clock: WallClock,
}

impl Device {
    fn new(context: &Context, options: &Options, device: &str) -> Self {
        let identity = Identity::new(&options.realm, device);
        let now_ms = context.clock.unix_ms();
        Self {
            notes: Notes::new(context.state.devices.enter(&identity, now_ms)),
            guard: Mutex::new(context.guards.of(&identity)),
            clock: context.clock.clone(),
            context: ConnectionContext {
                identity,
                stream: StreamId::Content,
                time_unit: options.time_unit,
                measurement: options.measurement.clone(),
            },
        }
    }

    /// Held for one check, never while something is waited for.
    pub(super) fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.notes.left(self.clock.unix_ms());
    }
}

/// Those of one connection to the broker.
#[derive(Debug, Default)]
pub(super) struct Heard {
    devices: HashMap<Box<str>, (u64, Arc<Device>)>,
    tick: u64,
}

impl Heard {
    /// The device of this id.
    pub(super) fn device(
        &mut self,
        context: &Context,
        options: &Options,
        device: &str,
    ) -> Arc<Device> {
        self.tick += 1;
        if let Some((used, known)) = self.devices.get_mut(device) {
            *used = self.tick;
            return Arc::clone(known);
        }
        if self.devices.len() >= MAX_HEARD {
            let mut used: Vec<u64> = self.devices.values().map(|(used, _)| *used).collect();
            let quarter = used.len() / 4;
            let (_, &mut from, _) = used.select_nth_unstable(quarter);
            self.devices.retain(|_, (used, _)| *used >= from);
        }
        let new = Arc::new(Device::new(context, options, device));
        self.devices.insert(device.into(), (self.tick, Arc::clone(&new)));
        new
    }
}
