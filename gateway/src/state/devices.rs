//! The devices that were seen, and what an operator wants to know of one.
//!
//! Counting costs a few relaxed additions a batch and no lock. The table is in memory; what has
//! changed is written now and then, and after a crash the last minute of it is missing.

use crate::record::Identity;
use proto::ErrorCode;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

/// Devices that are remembered; beyond it those are forgotten that were not seen for longest. About
/// 400 bytes each. Connected ones are never forgotten.
pub const MAX_DEVICES: usize = 100_000;
/// How many are forgotten at once, so that it is not looked for the oldest with every device.
const FORGET_AT_ONCE: usize = MAX_DEVICES / 20;
/// The last refusals of a device that are kept to be shown.
const MAX_REFUSALS: usize = 8;
/// Devices whose refusals are kept, those that were refused something last: 8 MiB at most.
const MAX_EXPLAINED: usize = 2_000;
/// No offset of the clock is known.
const UNKNOWN: i64 = i64::MIN;

/// Something of a device that was refused, in memory only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The batch.
    pub seq: u64,
    /// The reading in it; `None` if the whole batch was refused.
    pub index: Option<u32>,
    /// Why.
    pub code: ErrorCode,
    /// The field, tag or key at fault.
    pub field: Option<String>,
    /// For a person.
    pub detail: Option<String>,
    /// The reading as it was decoded, shortened.
    pub reading: Option<String>,
}

/// A device. Shared with its connection.
#[derive(Debug)]
pub struct Device {
    identity: Identity,
    first_seen_ms: i64,
    last_seen_ms: AtomicI64,
    connected_ms: AtomicI64,
    connected: AtomicU32,
    connections: AtomicU64,
    batches: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    gaps: AtomicU64,
    last_seq: AtomicU64,
    clock_offset_ms: AtomicI64,
    ack_us: AtomicU64,
    ack_max_us: AtomicU64,
    changed: AtomicBool,
    refusals: Mutex<VecDeque<Refused>>,
}

/// A device at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Who.
    pub identity: Identity,
    /// When it was seen first; all times are milliseconds since the Unix epoch.
    pub first_seen_ms: i64,
    /// When something came of it, or its connection ended, last.
    pub last_seen_ms: i64,
    /// When it was let in last; 0 if never.
    pub connected_ms: i64,
    /// It is connected now.
    pub connected: bool,
    /// How often it was let in.
    pub connections: u64,
    /// Batches that it sent.
    pub batches: u64,
    /// Readings of them that passed the checks, repeated ones too.
    pub accepted: u64,
    /// Readings of them that were refused.
    pub refused: u64,
    /// Sequence numbers that it left out.
    pub gaps: u64,
    /// The last sequence number that was logged since the gateway started; 0 if none.
    pub last_seq: u64,
    /// The time of its newest reading minus the time of receipt, of the last batch with times.
    pub clock_offset_ms: Option<i64>,
    /// From the receipt of a batch to its ack, the last one, in microseconds; 0 if none.
    pub ack_us: u64,
    /// The longest since the gateway started.
    pub ack_max_us: u64,
}

impl Device {
    fn new(identity: Identity, first_seen_ms: i64) -> Self {
        Self {
            identity,
            first_seen_ms,
            last_seen_ms: AtomicI64::new(first_seen_ms),
            connected_ms: AtomicI64::new(0),
            connected: AtomicU32::new(0),
            connections: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            last_seq: AtomicU64::new(0),
            clock_offset_ms: AtomicI64::new(UNKNOWN),
            ack_us: AtomicU64::new(0),
            ack_max_us: AtomicU64::new(0),
            changed: AtomicBool::new(true),
            refusals: Mutex::default(),
        }
    }

    /// A batch of it was checked. `newest_ms` is the time of its last reading that has one.
    pub fn sent(&self, now_ms: i64, accepted: u32, refused: usize, newest_ms: Option<i64>) {
        self.seen(now_ms);
        self.batches.fetch_add(1, Relaxed);
        self.accepted.fetch_add(accepted.into(), Relaxed);
        if refused > 0 {
            self.refused.fetch_add(refused as u64, Relaxed);
        }
        if let Some(newest_ms) = newest_ms {
            self.clock_offset_ms.store(newest_ms.saturating_sub(now_ms), Relaxed);
        }
    }

    /// A batch of it was logged; `gap` sequence numbers were left out before it.
    pub fn logged(&self, seq: u64, gap: u64) {
        self.last_seq.store(seq, Relaxed);
        if gap > 0 {
            self.gaps.fetch_add(gap, Relaxed);
        }
    }

    /// A batch of it was acknowledged after so many microseconds.
    pub fn acked(&self, waited_us: u64) {
        self.ack_us.store(waited_us, Relaxed);
        self.ack_max_us.fetch_max(waited_us, Relaxed);
    }

    /// Its connection has ended.
    pub fn left(&self, now_ms: i64) {
        self.seen(now_ms);
        self.connected.fetch_sub(1, Relaxed);
    }

    /// The time of the last refusal that is kept.
    pub fn last_refusal_ms(&self) -> Option<i64> {
        self.refusals().back().map(|refused| refused.at_ms)
    }

    /// What it was refused last, oldest first.
    pub fn last_refusals(&self) -> Vec<Refused> {
        self.refusals().iter().cloned().collect()
    }

    /// It at this moment.
    pub fn facts(&self) -> DeviceFacts {
        let offset = self.clock_offset_ms.load(Relaxed);
        DeviceFacts {
            identity: self.identity.clone(),
            first_seen_ms: self.first_seen_ms,
            last_seen_ms: self.last_seen_ms.load(Relaxed),
            connected_ms: self.connected_ms.load(Relaxed),
            connected: self.connected.load(Relaxed) > 0,
            connections: self.connections.load(Relaxed),
            batches: self.batches.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            last_seq: self.last_seq.load(Relaxed),
            clock_offset_ms: (offset != UNKNOWN).then_some(offset),
            ack_us: self.ack_us.load(Relaxed),
            ack_max_us: self.ack_max_us.load(Relaxed),
        }
    }

    fn seen(&self, now_ms: i64) {
        self.last_seen_ms.store(now_ms, Relaxed);
        self.changed.store(true, Relaxed);
    }

    fn refusals(&self) -> MutexGuard<'_, VecDeque<Refused>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Devices {
    known: Mutex<HashMap<Identity, Arc<Device>>>,
    /// Those whose refusals are kept, the oldest first.
    explained: Mutex<VecDeque<Arc<Device>>>,
    /// Forgotten, and still in the file.
    forgotten: Mutex<Vec<Identity>>,
}

impl Devices {
    pub(super) fn new(read: Vec<DeviceFacts>) -> Self {
        let device = |facts: DeviceFacts| {
            let device = Device::new(facts.identity.clone(), facts.first_seen_ms);
            device.last_seen_ms.store(facts.last_seen_ms, Relaxed);
            device.connected_ms.store(facts.connected_ms, Relaxed);
            device.connections.store(facts.connections, Relaxed);
            device.batches.store(facts.batches, Relaxed);
            device.accepted.store(facts.accepted, Relaxed);
            device.refused.store(facts.refused, Relaxed);
            device.gaps.store(facts.gaps, Relaxed);
            device.changed.store(false, Relaxed);
            (facts.identity, Arc::new(device))
        };
        let known = read.into_iter().map(device).collect();
        Self { known: Mutex::new(known), ..Self::default() }
    }

    /// A device was let in. [`Device::left`] is called when its connection has ended.
    pub fn enter(&self, identity: &Identity, now_ms: i64) -> Arc<Device> {
        let mut known = self.known();
        if known.len() >= MAX_DEVICES && !known.contains_key(identity) {
            self.forget_oldest(&mut known);
        }
        let device = known
            .entry(identity.clone())
            .or_insert_with(|| Arc::new(Device::new(identity.clone(), now_ms)))
            .clone();
        drop(known);
        device.seen(now_ms);
        device.connected_ms.store(now_ms, Relaxed);
        device.connected.fetch_add(1, Relaxed);
        device.connections.fetch_add(1, Relaxed);
        device
    }

    /// A device, if it is remembered.
    pub fn get(&self, identity: &Identity) -> Option<Arc<Device>> {
        self.known().get(identity).cloned()
    }

    /// In the order of realm and device, the first `limit` after `after`, of one realm or all.
    pub fn list(
        &self,
        realm: Option<&str>,
        after: Option<&Identity>,
        limit: usize,
    ) -> Vec<DeviceFacts> {
        let known = self.known();
        let mut wanted: Vec<&Arc<Device>> = known
            .iter()
            .filter(|(identity, _)| realm.is_none_or(|realm| realm == &*identity.realm))
            .filter(|(identity, _)| after.is_none_or(|after| *identity > after))
            .map(|(_, device)| device)
            .collect();
        if wanted.len() > limit && limit > 0 {
            wanted.select_nth_unstable_by(limit - 1, |a, b| a.identity.cmp(&b.identity));
            wanted.truncate(limit);
        }
        wanted.sort_unstable_by(|a, b| a.identity.cmp(&b.identity));
        wanted.into_iter().take(limit).map(|device| device.facts()).collect()
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.known().len()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps what a device was refused, the last few.
    pub fn keep_refusals(&self, device: &Arc<Device>, refused: Vec<Refused>) {
        let was_empty = {
            let mut kept = device.refusals();
            let was_empty = kept.is_empty();
            kept.extend(refused);
            let excess = kept.len().saturating_sub(MAX_REFUSALS);
            kept.drain(..excess);
            was_empty && !kept.is_empty()
        };
        if was_empty {
            let mut explained = self.explained.lock().unwrap_or_else(PoisonError::into_inner);
            explained.push_back(device.clone());
            if explained.len() > MAX_EXPLAINED
                && let Some(oldest) = explained.pop_front()
            {
                *oldest.refusals() = VecDeque::new();
            }
        }
    }

    /// Those that have changed since the last call.
    pub(super) fn take_changed(&self) -> Vec<DeviceFacts> {
        let known = self.known();
        let changed = known.values().filter(|device| device.changed.swap(false, Relaxed));
        changed.map(|device| device.facts()).collect()
    }

    /// Those that were forgotten since the last call.
    pub(super) fn take_forgotten(&self) -> Vec<Identity> {
        std::mem::take(&mut self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget_oldest(&self, known: &mut HashMap<Identity, Arc<Device>>) {
        let mut idle: Vec<(i64, Identity)> = known
            .values()
            .filter(|device| device.connected.load(Relaxed) == 0)
            .map(|device| (device.last_seen_ms.load(Relaxed), device.identity.clone()))
            .collect();
        idle.sort_unstable();
        idle.truncate(FORGET_AT_ONCE);
        for (_, identity) in &idle {
            known.remove(identity);
        }
        let idle = idle.into_iter().map(|(_, identity)| identity);
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).extend(idle);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Identity, Arc<Device>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
