//! Who is connected. A device has one connection: a newer one takes over.
//!
//! Promises that the older connection has stopped submitting before the newer one asks where its
//! stream stands, however many take over from each other in the meantime.

use crate::record::Identity;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Takeovers of one device within [`TAKEOVER_WINDOW`], after which newer connections have to wait.
pub const MAX_TAKEOVERS: u32 = 5;
/// The window in which takeovers are counted.
pub const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);

/// Why a connection is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Eviction {
    /// A newer connection of the same device.
    TakenOver = 1,
    /// The identity was revoked.
    Revoked = 2,
    /// The gateway ends.
    Shutdown = 3,
}

/// All connected devices.
#[derive(Debug, Default)]
pub struct Registry {
    devices: Mutex<HashMap<Identity, Device>>,
    next_number: AtomicU64,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Device {
    slot: Arc<Slot>,
    takeovers: u32,
    takeovers_since: Instant,
}

/// One connection, as others see it.
#[derive(Debug, Default)]
struct Slot {
    number: u64,
    eviction: AtomicU8,
    evicted: Notify,
    stopped: AtomicBool,
    stopping: Notify,
    /// The connection that this one took over from, as long as that may still submit.
    predecessor: Mutex<Option<Arc<Slot>>>,
}

/// A connection's place in the registry; given back when dropped.
#[derive(Debug)]
pub(super) struct Membership {
    registry: Arc<Registry>,
    identity: Identity,
    slot: Arc<Slot>,
    took_over: bool,
}

impl Registry {
    /// Connected devices.
    pub fn len(&self) -> usize {
        self.devices().len()
    }

    /// True if no device is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the connections of identities that are revoked.
    pub fn close_revoked(&self, is_revoked: impl Fn(&Identity) -> bool) {
        for (identity, device) in self.devices().iter() {
            if is_revoked(identity) {
                device.slot.evict(Eviction::Revoked);
            }
        }
    }

    /// Ends all connections, now and from now on.
    pub(super) fn close_all(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for device in self.devices().values() {
            device.slot.evict(Eviction::Shutdown);
        }
    }

    /// How long a device must wait because its connections take over from each other too often.
    pub(super) fn backs_off(&self, identity: &Identity, now: Instant) -> Option<Duration> {
        let devices = self.devices();
        let device = devices.get(identity)?;
        let left = TAKEOVER_WINDOW.saturating_sub(now.duration_since(device.takeovers_since));
        (device.takeovers >= MAX_TAKEOVERS && !left.is_zero()).then_some(left)
    }

    /// Takes a place. An older connection of the same identity is asked to end.
    pub(super) fn enter(self: &Arc<Self>, identity: Identity, now: Instant) -> Membership {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed) + 1;
        let mut slot = Slot { number, ..Slot::default() };
        let mut took_over = false;
        let mut devices = self.devices();
        let slot = match devices.entry(identity.clone()) {
            Entry::Vacant(vacant) => {
                let slot = Arc::new(slot);
                vacant.insert(Device { slot: slot.clone(), takeovers: 0, takeovers_since: now });
                slot
            }
            Entry::Occupied(mut occupied) => {
                let device = occupied.get_mut();
                device.slot.evict(Eviction::TakenOver);
                took_over = true;
                slot.predecessor = Mutex::new(Some(device.slot.clone()));
                if now.duration_since(device.takeovers_since) >= TAKEOVER_WINDOW {
                    device.takeovers = 0;
                    device.takeovers_since = now;
                }
                device.takeovers += 1;
                if device.takeovers == MAX_TAKEOVERS {
                    tracing::warn!(
                        device = %identity,
                        "its connections take over from each other, further ones have to wait: \
                         is the credential in two places?"
                    );
                }
                device.slot = Arc::new(slot);
                device.slot.clone()
            }
        };
        drop(devices);
        if self.closed.load(Ordering::SeqCst) {
            slot.evict(Eviction::Shutdown);
        }
        Membership { registry: self.clone(), identity, slot, took_over }
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<Identity, Device>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn evict(&self, why: Eviction) {
        // The first reason stands.
        let _ = self.eviction.compare_exchange(0, why as u8, Ordering::SeqCst, Ordering::SeqCst);
        self.evicted.notify_one();
    }

    async fn stopped(&self) {
        let mut notified = std::pin::pin!(self.stopping.notified());
        notified.as_mut().enable();
        if !self.stopped.load(Ordering::SeqCst) {
            notified.await;
        }
    }

    fn predecessor(&self) -> Option<Arc<Slot>> {
        self.predecessor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Membership {
    /// The connection's number, unique in this process.
    pub(super) fn number(&self) -> u64 {
        self.slot.number
    }

    /// Asks the connection to end, as its credential was revoked.
    pub(super) fn revoke(&self) {
        self.slot.evict(Eviction::Revoked);
    }

    /// True if an older connection had to end for this one.
    pub(super) fn took_over(&self) -> bool {
        self.took_over
    }

    /// Waits until the connection is asked to end. Cancel safe.
    pub(super) async fn evicted(&self) -> Eviction {
        loop {
            match self.slot.eviction.load(Ordering::SeqCst) {
                1 => return Eviction::TakenOver,
                2 => return Eviction::Revoked,
                3 => return Eviction::Shutdown,
                _ => self.slot.evicted.notified().await,
            }
        }
    }

    /// Waits until no older connection of the device submits any more. Cancel safe.
    pub(super) async fn predecessors_stopped(&self) {
        let mut next = self.slot.predecessor();
        while let Some(slot) = next {
            slot.stopped().await;
            next = slot.predecessor();
        }
        // From here on nobody has to look behind this connection.
        *self.slot.predecessor.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The connection submits nothing any more.
    fn stop(&self) {
        self.slot.stopped.store(true, Ordering::SeqCst);
        self.slot.stopping.notify_waiters();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Membership {
    /// Gives the place back: nothing is submitted any more, and a device that comes again takes
    /// over from nobody.
    pub(super) fn leave(&self) {
        self.stop();
        let mut devices = self.registry.devices();
        if devices.get(&self.identity).is_some_and(|device| device.slot.number == self.slot.number)
        {
            devices.remove(&self.identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_millis(20);

    fn identity() -> Identity {
        Identity::new("default", "d1")
    }

    #[tokio::test]
    async fn a_newer_connection_waits_for_all_older_ones() {
        let registry = Arc::new(Registry::default());
        let now = Instant::now();
        let first = registry.enter(identity(), now);
        assert!(!first.took_over());
        let second = registry.enter(identity(), now);
        assert_eq!(first.evicted().await, Eviction::TakenOver);
        let third = registry.enter(identity(), now);
        assert_eq!(second.evicted().await, Eviction::TakenOver);
        // The second goes without ever having waited for the first.
        drop(second);
        {
            let mut waiting = pin!(third.predecessors_stopped());
            assert!(timeout(SOON, waiting.as_mut()).await.is_err());
            first.stop();
            assert!(timeout(SOON, waiting).await.is_ok());
        }
        assert_eq!(registry.len(), 1);
        drop(first);
        assert_eq!(registry.len(), 1);
        drop(third);
        assert!(registry.is_empty());
    }

    #[tokio::test]
    async fn connections_that_fight_are_told_to_wait() {
        let registry = Arc::new(Registry::default());
        let now = Instant::now();
        let mut last = registry.enter(identity(), now);
        for n in 1..=MAX_TAKEOVERS {
            assert_eq!(registry.backs_off(&identity(), now), None, "{n}");
            last = registry.enter(identity(), now);
        }
        assert_eq!(registry.backs_off(&identity(), now), Some(TAKEOVER_WINDOW));
        assert_eq!(registry.backs_off(&identity(), now + TAKEOVER_WINDOW), None);
        assert_eq!(registry.backs_off(&Identity::new("other", "d1"), now), None);
        drop(last);
    }

    #[tokio::test]
    async fn shutdown_reaches_everyone_and_later_ones() {
        let registry = Arc::new(Registry::default());
        let one = registry.enter(identity(), Instant::now());
        registry.close_all();
        assert_eq!(one.evicted().await, Eviction::Shutdown);
        let late = registry.enter(Identity::new("default", "d2"), Instant::now());
        assert_eq!(late.evicted().await, Eviction::Shutdown);
    }

    #[tokio::test]
    async fn only_the_revoked_are_closed() {
        let registry = Arc::new(Registry::default());
        let one = registry.enter(identity(), Instant::now());
        let other = registry.enter(Identity::new("default", "d2"), Instant::now());
        registry.close_revoked(|identity| &*identity.device == "d2");
        assert_eq!(other.evicted().await, Eviction::Revoked);
        assert!(timeout(SOON, one.evicted()).await.is_err());
    }
}
