//! How many series a device may have, and all of them together.
//!
//! A series is what a store indexes: measurement, tags and field of a device. A device that makes
//! more than it may is refused readings of new ones; those that it has go on. Only hashes are kept,
//! about 40 bytes a series, and each device's are forgotten a day after they began to be counted:
//! a device that has changed its tags has room again, and one that is gone takes none. Nothing
//! survives a restart: the count begins anew.
//!
//! When all devices together have as many as they may, each still gets its first [`FIRST`]: a
//! device that makes series without end, or many of them, cannot keep a new honest one out.

use crate::{metrics::GuardMetrics, record::Identity};
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

/// Series that a device gets although all devices together have as many as they may.
pub(super) const FIRST: usize = 16;
/// How long a series counts after it was first seen, in nanoseconds: a day.
pub(super) const WINDOW_NS: i64 = 24 * 3600 * 1_000_000_000;
/// How often those of devices that are gone are looked for, in nanoseconds.
const SWEEP_EVERY_NS: i64 = 60 * 1_000_000_000;

/// How many there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxSeries {
    /// Of one device.
    pub per_device: usize,
    /// Of all devices together, besides the first few of each.
    pub total: usize,
}

/// The series of all devices.
#[derive(Debug)]
pub(super) struct Series {
    max: MaxSeries,
    count: AtomicUsize,
    devices: Mutex<HashMap<Identity, Arc<DeviceSeries>>>,
    swept_ns: AtomicI64,
    metrics: GuardMetrics,
}

/// The series of one device, shared by its connections.
#[derive(Debug)]
pub(super) struct DeviceSeries(Mutex<Seen>);

type Hashes = HashSet<u64, BuildHasherDefault<AlreadyHashed>>;

#[derive(Debug)]
struct Seen {
    since_ns: i64,
    /// Measurement, tags and names of all fields of readings that passed: one look for each.
    shapes: Hashes,
    series: Hashes,
    told: bool,
}

impl Series {
    pub(super) fn new(max: MaxSeries, metrics: GuardMetrics) -> Self {
        let (count, swept_ns) = (AtomicUsize::new(0), AtomicI64::new(0));
        Self { max, count, devices: Mutex::default(), swept_ns, metrics }
    }

    /// The series of a device.
    pub(super) fn of(&self, identity: &Identity) -> Arc<DeviceSeries> {
        let new = || {
            let (shapes, series) = (Hashes::default(), Hashes::default());
            Arc::new(DeviceSeries(Mutex::new(Seen { since_ns: 0, shapes, series, told: false })))
        };
        self.devices().entry(identity.clone()).or_insert_with(new).clone()
    }

    /// Whether readings of this shape have passed before.
    pub(super) fn knows(&self, device: &DeviceSeries, shape: u64, now_ns: i64) -> bool {
        let mut seen = device.seen();
        self.begin_anew(&mut seen, now_ns);
        seen.shapes.contains(&shape)
    }

    /// Takes a reading of this shape, whose fields are these series; false if they are too many.
    pub(super) fn admit(
        &self,
        identity: &Identity,
        device: &DeviceSeries,
        shape: u64,
        fields: impl Iterator<Item = u64> + Clone,
        now_ns: i64,
    ) -> bool {
        if self.count.load(Ordering::Relaxed) >= self.max.total {
            self.sweep(now_ns);
        }
        let mut seen = device.seen();
        let new = fields.clone().filter(|series| !seen.series.contains(series)).count();
        let of_device = seen.series.len() + new;
        if new > 0 {
            let all = self.count.fetch_add(new, Ordering::Relaxed) + new;
            let is_too_many = of_device > self.max.per_device
                || (all > self.max.total && of_device > FIRST.min(self.max.per_device));
            if is_too_many {
                self.count.fetch_sub(new, Ordering::Relaxed);
                if !std::mem::replace(&mut seen.told, true) {
                    tracing::warn!(
                        device = %identity, series = seen.series.len(), all = all - new,
                        "the device makes more series than it may (limits.series_per_device, \
                         limits.series): readings of new ones are refused (series_limit)"
                    );
                }
                return false;
            }
            let before = seen.series.len();
            seen.series.extend(fields);
            // Two fields with one hash count as one.
            self.count.fetch_sub(new - (seen.series.len() - before), Ordering::Relaxed);
            self.report();
        }
        // Fields can be left out in many ways without a new series.
        if seen.shapes.len() >= self.max.per_device {
            seen.shapes.clear();
        }
        seen.shapes.insert(shape);
        true
    }

    fn begin_anew(&self, seen: &mut Seen, now_ns: i64) {
        if now_ns.saturating_sub(seen.since_ns) < WINDOW_NS {
            return;
        }
        if !seen.series.is_empty() {
            self.count.fetch_sub(seen.series.len(), Ordering::Relaxed);
            self.report();
        }
        let (shapes, series) = (Hashes::default(), Hashes::default());
        *seen = Seen { since_ns: now_ns, shapes, series, told: false };
    }

    /// Forgets devices that have no connection and whose day is over.
    fn sweep(&self, now_ns: i64) {
        let swept_ns = self.swept_ns.load(Ordering::Relaxed);
        let is_due = now_ns.saturating_sub(swept_ns) >= SWEEP_EVERY_NS;
        let order = Ordering::Relaxed;
        if !is_due || self.swept_ns.compare_exchange(swept_ns, now_ns, order, order).is_err() {
            return;
        }
        self.devices().retain(|_, device| {
            let mut seen = device.seen();
            self.begin_anew(&mut seen, now_ns);
            !seen.series.is_empty() || Arc::strong_count(device) > 1
        });
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    fn report(&self) {
        self.metrics.series.set(self.count.load(Ordering::Relaxed) as f64);
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<Identity, Arc<DeviceSeries>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceSeries {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For keys that are hashes.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = WINDOW_NS;

    fn series(per_device: usize, total: usize) -> Series {
        Series::new(MaxSeries { per_device, total }, GuardMetrics::default())
    }

    struct One<'a>(&'a Series, Identity, Arc<DeviceSeries>);

    impl<'a> One<'a> {
        fn new(series: &'a Series, device: &str) -> Self {
            let identity = Identity::new("default", device);
            let of = series.of(&identity);
            Self(series, identity, of)
        }

        /// How many of these are taken, one series a reading.
        fn takes(&self, names: std::ops::Range<u64>, now_ns: i64) -> usize {
            let takes = |name: &u64| {
                let hash = name.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                self.0.knows(&self.2, hash, now_ns)
                    || self.0.admit(&self.1, &self.2, hash, std::iter::once(hash), now_ns)
            };
            names.filter(takes).count()
        }
    }

    #[test]
    fn a_device_over_its_limit_keeps_what_it_has() {
        let series = series(100, 1_000);
        let one = One::new(&series, "one");
        assert_eq!(one.takes(0..80_000, DAY), 100);
        assert_eq!(one.takes(0..100, DAY), 100, "what it has goes on");
        assert_eq!(one.takes(0..200, DAY), 100);
        let again = One::new(&series, "one");
        assert_eq!(again.takes(0..200, DAY), 100, "a reconnect gives nothing new");
        assert_eq!(One::new(&series, "other").takes(0..100, DAY), 100, "nobody else is hit");
    }

    #[test]
    fn a_day_later_there_is_room_again() {
        let series = series(100, 1_000);
        let one = One::new(&series, "one");
        assert_eq!(one.takes(0..150, DAY), 100);
        assert_eq!(one.takes(100..150, 2 * DAY - 1), 0);
        assert_eq!(one.takes(100..150, 2 * DAY), 50);
        assert_eq!(series.count.load(Ordering::Relaxed), 50);
    }

    #[test]
    fn when_all_have_enough_each_still_gets_its_first() {
        let series = series(1_000, 2_000);
        let greedy: Vec<_> = ["a", "b", "c"].map(|name| One::new(&series, name)).into();
        let taken: usize = greedy.iter().map(|one| one.takes(0..5_000, DAY)).sum();
        assert_eq!(taken, 2_000 + FIRST);
        let honest = One::new(&series, "honest");
        assert_eq!(honest.takes(0..40, DAY), FIRST);
        // Those that made them are gone; a day later nothing is left of them.
        drop(greedy);
        assert_eq!(honest.takes(0..40, 2 * DAY), 40);
        assert_eq!(series.devices().len(), 1, "a device that is gone takes no memory");
    }

    #[test]
    fn the_memory_of_shapes_is_bounded_too() {
        let series = series(100, 1_000);
        let identity = Identity::new("default", "one");
        let of = series.of(&identity);
        for shape in 0..10_000 {
            assert!(series.admit(&identity, &of, shape, [1, 2, 3].into_iter(), DAY));
        }
        assert!(of.seen().shapes.len() <= 100);
        assert_eq!(series.count.load(Ordering::Relaxed), 3);
    }
}
