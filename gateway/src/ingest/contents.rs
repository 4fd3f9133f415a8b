//! Dedupe of batches that have no order: each is recognised by its content.
//!
//! Over MQTT what comes again comes for one of two reasons. A device that did not hear its broker
//! sends again what it had under way: so the last [`PER_DEVICE`] batches of every device are
//! remembered, however long ago they came. A broker that was restarted sends again what it did not
//! know to be acknowledged, whosever it was: so the last [`RECENT`] batches of all devices
//! together are. What comes later is taken again. No I/O and no clock.

use super::admit::{Refusals, WINDOW};
use crate::record::{Identity, Position};
use std::collections::{HashMap, VecDeque};

/// Batches of each device that are remembered in any case.
pub const PER_DEVICE: usize = WINDOW;
/// Batches of all devices together that are remembered: the last in the order of the log. Each is
/// compared with those of its own device only, which takes 8 KiB of memory a thousand.
pub const RECENT: usize = 16_384;
/// Devices that are remembered; beyond it the quarter is forgotten that was not heard for longest.
pub const MAX_DEVICES: usize = 100_000;

/// A batch that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// XXH3-64 of the batch body.
    pub hash: u64,
    /// Its record.
    pub position: Position,
    /// What was refused of it, to be said again when it comes again; mostly nothing.
    pub refusals: Option<Box<Refusals>>,
}

/// What is remembered of all devices.
#[derive(Debug, Default)]
pub struct Contents {
    devices: HashMap<Identity, Device>,
    /// Whose the recent batches are, in the order of the log.
    recent: VecDeque<Identity>,
    /// Whose batches were admitted since the last [`Contents::confirm`], in order.
    unconfirmed: Vec<Identity>,
    tick: u64,
}

#[derive(Debug, Default)]
struct Device {
    /// Hashes of the batches in `rest`, apart from them: they are all that is looked through.
    hashes: VecDeque<u64>,
    rest: VecDeque<(Position, Option<Box<Refusals>>)>,
    /// How many of them are recent: these are the last.
    recent: usize,
    /// When it was last heard, in ticks of the table.
    used: u64,
}

impl Contents {
    /// The batch of this device with this content, if it is remembered.
    pub fn find(&self, identity: &Identity, hash: u64) -> Option<Known> {
        let device = self.devices.get(identity)?;
        let at = device.hashes.iter().rposition(|&known| known == hash)?;
        let (position, refusals) = device.rest.get(at)?;
        Some(Known { hash, position: *position, refusals: refusals.clone() })
    }

    /// Takes note of a batch that goes into the log; [`Contents::roll_back`] takes it back.
    pub fn admit(&mut self, identity: &Identity, known: Known) {
        self.tick += 1;
        let device = self.devices.entry(identity.clone()).or_default();
        device.used = self.tick;
        device.recent += 1;
        device.push(known);
        self.recent.push_back(identity.clone());
        self.unconfirmed.push(identity.clone());
    }

    /// What was admitted since the last call is durable. Forgets what is too long ago.
    pub fn confirm(&mut self) {
        for identity in std::mem::take(&mut self.unconfirmed) {
            if let Some(device) = self.devices.get_mut(&identity) {
                device.trim();
            }
        }
        self.forget_old();
        if self.devices.len() > MAX_DEVICES {
            self.forget_devices();
        }
    }

    /// What was admitted since the last [`Contents::confirm`] was not logged. Nothing has been
    /// forgotten for it yet.
    pub fn roll_back(&mut self) {
        for identity in std::mem::take(&mut self.unconfirmed).into_iter().rev() {
            self.recent.pop_back();
            let Some(device) = self.devices.get_mut(&identity) else { continue };
            device.hashes.pop_back();
            device.rest.pop_back();
            device.recent = device.recent.saturating_sub(1);
            if device.hashes.is_empty() {
                self.devices.remove(&identity);
            }
        }
    }

    /// What is remembered of each device, for a checkpoint: those that were not heard for longest
    /// first, batches in the order of the log.
    pub fn iter(&self) -> impl Iterator<Item = (&Identity, impl ExactSizeIterator<Item = Known>)> {
        let mut devices: Vec<_> = self.devices.iter().collect();
        devices.sort_unstable_by_key(|(_, device)| device.used);
        devices.into_iter().map(|(identity, device)| (identity, device.known()))
    }

    /// Puts back batches of a device from a checkpoint, behind those that are there.
    pub fn restore(&mut self, identity: &Identity, batches: impl IntoIterator<Item = Known>) {
        self.tick += 1;
        let device = self.devices.entry(identity.clone()).or_default();
        device.used = self.tick;
        batches.into_iter().for_each(|known| device.push(known));
    }

    /// A whole checkpoint was put back: finds which batches are recent.
    pub fn restored(&mut self) {
        let mut all: Vec<(Position, Identity)> = Vec::new();
        for (identity, device) in &mut self.devices {
            device.recent = 0;
            all.extend(device.rest.iter().map(|(position, _)| (*position, identity.clone())));
        }
        all.sort_unstable_by_key(|(position, _)| *position);
        let recent = all.split_off(all.len().saturating_sub(RECENT));
        self.recent = recent.into_iter().map(|(_, identity)| identity).collect();
        for identity in &self.recent {
            if let Some(device) = self.devices.get_mut(identity) {
                device.recent += 1;
            }
        }
        self.devices.values_mut().for_each(Device::trim);
    }

    fn forget_old(&mut self) {
        while self.recent.len() > RECENT {
            let Some(identity) = self.recent.pop_front() else { return };
            if let Some(device) = self.devices.get_mut(&identity) {
                device.recent = device.recent.saturating_sub(1);
                device.trim();
            }
        }
    }

    fn forget_devices(&mut self) {
        let mut by_use: Vec<(u64, Identity)> =
            self.devices.iter().map(|(identity, device)| (device.used, identity.clone())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        by_use.truncate(by_use.len() / 4);
        for (_, identity) in by_use {
            self.devices.remove(&identity);
        }
        self.recent.retain(|identity| self.devices.contains_key(identity));
    }
}

impl Device {
    fn push(&mut self, known: Known) {
        self.hashes.push_back(known.hash);
        self.rest.push_back((known.position, known.refusals));
    }

    /// Forgets what is neither recent nor among the last of the device.
    fn trim(&mut self) {
        let keep = self.recent.max(PER_DEVICE);
        let forget = self.hashes.len().saturating_sub(keep);
        self.hashes.drain(..forget);
        self.rest.drain(..forget);
        // A device that has become quiet gives the memory of its busy time back.
        if self.hashes.capacity() > 4 * keep {
            self.hashes.shrink_to(keep);
            self.rest.shrink_to(keep);
        }
    }

    fn known(&self) -> impl ExactSizeIterator<Item = Known> {
        self.hashes.iter().zip(&self.rest).map(|(&hash, (position, refusals))| Known {
            hash,
            position: *position,
            refusals: refusals.clone(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn identity(device: &str) -> Identity {
        Identity::new("mqtt", device)
    }

    fn known(n: usize) -> Known {
        Known { hash: n as u64 * 7, position: Position(n as u64), refusals: None }
    }

    /// The table after these batches: `device` of each by its number.
    fn after(batches: std::ops::Range<usize>, device: impl Fn(usize) -> &'static str) -> Contents {
        let mut contents = Contents::default();
        for n in batches {
            contents.admit(&identity(device(n)), known(n));
            if n % 100 == 0 {
                contents.confirm();
            }
        }
        contents.confirm();
        contents
    }

    fn is_known(contents: &Contents, device: &str, n: usize) -> bool {
        contents.find(&identity(device), known(n).hash).is_some()
    }

    fn all(contents: &Contents) -> Vec<(Identity, Vec<Known>)> {
        contents.iter().map(|(identity, known)| (identity.clone(), known.collect())).collect()
    }

    #[test]
    fn a_batch_is_known_by_device_and_content() {
        let mut contents = Contents::default();
        let refusals = Refusals::of(Some(proto::ErrorCode::EmptyBatch), &[]);
        let batch = Known { hash: 5, position: Position(9), refusals };
        contents.admit(&identity("a"), batch.clone());
        assert_eq!(contents.find(&identity("a"), 5), Some(batch));
        assert_eq!(contents.find(&identity("a"), 6), None);
        assert_eq!(contents.find(&identity("b"), 5), None);
    }

    #[test]
    fn one_device_alone_is_known_as_far_back_as_all_together() {
        let end = RECENT + 500;
        let contents = after(0..end, |_| "a");
        assert!(is_known(&contents, "a", end - RECENT));
        assert!(!is_known(&contents, "a", end - RECENT - 1));
    }

    #[test]
    fn the_last_of_a_quiet_device_are_known_however_much_others_send() {
        // 100 of "quiet", then far more than the recent ones of another.
        let contents = after(0..RECENT * 2, |n| if n < 100 { "quiet" } else { "busy" });
        for n in 0..100 {
            assert_eq!(is_known(&contents, "quiet", n), n >= 100 - PER_DEVICE, "{n}");
        }
        let device = &contents.devices[&identity("busy")];
        assert_eq!((device.hashes.len(), contents.recent.len()), (RECENT, RECENT));
    }

    #[test]
    fn what_was_not_logged_is_not_known_and_nothing_was_forgotten_for_it() {
        let mut contents = after(0..RECENT + 100, |n| if n % 2 == 0 { "a" } else { "b" });
        let before = all(&contents);
        for n in 50_000..53_000 {
            contents.admit(&identity(["a", "new"][n % 2]), known(n));
        }
        assert!(is_known(&contents, "new", 50_001));
        contents.roll_back();
        let mut rolled_back = all(&contents);
        rolled_back.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(rolled_back, before);
        assert_eq!(contents.recent.len(), RECENT);
    }

    #[test]
    fn a_checkpoint_puts_back_what_is_known_and_what_of_it_is_recent() {
        let of = |n: usize| ["a", "b", "c"][n % 3];
        let before = after(0..RECENT + 1000, |n| if n < 200 { "quiet" } else { of(n) });
        let mut restored = Contents::default();
        for (identity, batches) in before.iter() {
            restored.restore(identity, batches);
        }
        restored.restored();
        assert_eq!(all(&restored), all(&before));
        assert_eq!(restored.recent, before.recent);
        for (identity, device) in &before.devices {
            assert_eq!(restored.devices[identity].recent, device.recent);
        }
    }

    #[test]
    fn the_devices_that_were_heard_last_are_kept() {
        let mut contents = Contents::default();
        for n in 0..=MAX_DEVICES {
            contents.admit(&identity(&n.to_string()), known(n));
            contents.confirm();
        }
        assert!(contents.devices.len() <= MAX_DEVICES * 3 / 4 + 1);
        assert!(is_known(&contents, &MAX_DEVICES.to_string(), MAX_DEVICES));
        assert!(!is_known(&contents, "0", 0));
        assert_eq!(contents.recent.len(), RECENT);
    }
}
