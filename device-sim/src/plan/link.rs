//! When a device has a link, and what happens to it.

use super::{Fault, Plan, Trouble};
use crate::profile::{fraction, mix};

/// Why a device has no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// It cannot reach the gateway.
    Offline,
    /// It has left in good order, and will have lost half of what it takes meanwhile.
    Gap,
}

impl Plan {
    /// Whether devices forget connections without closing them.
    pub(crate) fn forgets_links(&self) -> bool {
        self.faults.iter().any(|fault| fault.trouble == Trouble::HalfOpen)
    }

    /// Whether a device's link has a history: dead zones or faults.
    pub(crate) fn has_trouble(&self, device: u32) -> bool {
        self.kind_of(device).dead_zones.is_some()
            || (0..self.faults.len()).any(|index| self.fault(index, device).is_some())
    }

    /// The next fault that happens at a moment, after the one named: its moment and index.
    pub(crate) fn next_moment(
        &self,
        device: u32,
        after: Option<(u64, usize)>,
    ) -> Option<(u64, usize)> {
        let moment = |(index, fault): (usize, &Fault)| {
            let begin = fault.begin_ns(self.seed, index, device);
            // Several may have one moment: they come in the order of the plan.
            let after = match after {
                Some((at, last)) if last < index => at.checked_sub(1),
                Some((at, _)) => Some(at),
                None => None,
            };
            let at = fault.moment_after(begin, after)?;
            (at <= self.duration_ns).then_some((at, index))
        };
        self.momentary(device).filter_map(moment).min()
    }

    /// The end of a fault, in nanoseconds after the start.
    pub(crate) fn fault_end_ns(&self, index: usize) -> u64 {
        self.faults[index].end_ns().min(self.duration_ns)
    }

    fn momentary(&self, device: u32) -> impl Iterator<Item = (usize, &Fault)> {
        let faults =
            self.faults.iter().enumerate().filter(|(_, fault)| fault.trouble.is_momentary());
        faults.filter(move |(index, _)| self.fault(*index, device).is_some())
    }

    /// The faults that are in force for a device.
    pub(crate) fn in_force(
        &self,
        device: u32,
        at_ns: u64,
    ) -> impl Iterator<Item = (usize, Trouble)> {
        let lasting = self.faults.iter().enumerate();
        let lasting = lasting.filter(|(_, fault)| !fault.trouble.is_momentary());
        lasting
            .filter(move |(index, _)| self.is_in_force(*index, device, at_ns))
            .map(|(index, fault)| (index, fault.trouble))
    }

    /// Whether the plan keeps a device from the gateway, so that what is due waits for it and not
    /// for the gateway: without a link, between two visits, or with a credential that is not valid.
    pub(crate) fn is_kept_away(&self, device: u32, at_ns: u64) -> bool {
        let kept_out = |(_, trouble)| trouble == Trouble::BadCredential;
        self.kind_of(device).connect_every_ns.is_some()
            || self.absent(device, at_ns).is_some()
            || self.in_force(device, at_ns).any(kept_out)
    }

    /// Until when a device has no link, if it has none, and why; the end of the schedule ends it.
    pub(crate) fn absent(&self, device: u32, at_ns: u64) -> Option<(u64, Absence)> {
        let zone = self.dead_zone(device, at_ns).map(|until| (until, Absence::Offline));
        let faults = self.in_force(device, at_ns).filter_map(|(index, trouble)| {
            let why = match trouble {
                Trouble::Offline => Absence::Offline,
                Trouble::Gap => Absence::Gap,
                _ => return None,
            };
            Some((self.fault_end_ns(index), why))
        });
        let (until, why) = zone.into_iter().chain(faults).max_by_key(|&(until, _)| until)?;
        let until = until.min(self.duration_ns);
        (until > at_ns).then_some((until, why))
    }

    /// The end of the dead zone that a device is in.
    fn dead_zone(&self, device: u32, at_ns: u64) -> Option<u64> {
        self.zone_at(device, at_ns).filter(|zone| zone.contains(&at_ns)).map(|zone| zone.end)
    }

    /// The dead zone of a device within the period of a moment.
    fn zone_at(&self, device: u32, at_ns: u64) -> Option<std::ops::Range<u64>> {
        let zones = self.kind_of(device).dead_zones?;
        let own = mix(&[self.seed, u64::from(device), 61]) % zones.every_ns;
        let period = at_ns.saturating_add(own) / zones.every_ns;
        let hash = mix(&[self.seed, u64::from(device), 62, period]);
        #[expect(clippy::cast_precision_loss, reason = "at most a year")]
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "positive")]
        let lasts = (zones.lasts_ns as f64 * (0.5 + fraction(hash) / 2.0)) as u64;
        // It ends with its period. One that began before the run is none.
        let end = ((period + 1) * zones.every_ns).checked_sub(own)?;
        let start = end.checked_sub(lasts)?;
        Some(start..end)
    }

    /// The next moment at which something that lasts begins or ends, after a moment.
    pub(crate) fn next_turn(&self, device: u32, after_ns: u64) -> Option<u64> {
        let mut turns = Vec::with_capacity(4);
        for (index, fault) in self.faults.iter().enumerate() {
            if !fault.trouble.is_momentary() && self.fault(index, device).is_some() {
                turns.push(fault.begin_ns(self.seed, index, device));
                turns.push(self.fault_end_ns(index));
            }
        }
        if let Some(zones) = self.kind_of(device).dead_zones {
            for at in [after_ns, after_ns.saturating_add(zones.every_ns)] {
                let zone = self.zone_at(device, at);
                turns.extend(zone.into_iter().flat_map(|zone| [zone.start, zone.end]));
            }
        }
        turns.push(self.duration_ns);
        turns.into_iter().filter(|&turn| turn > after_ns && turn <= self.duration_ns).min()
    }

    /// The next visit of a device that connects, flushes and leaves, not before a moment.
    pub(crate) fn next_visit(&self, device: u32, from_ns: u64) -> Option<u64> {
        let every = self.kind_of(device).connect_every_ns?;
        let first = self.connect_ns(device) + mix(&[self.seed, u64::from(device), 63]) % every;
        let visits = from_ns.saturating_sub(first).div_ceil(every);
        Some(first.saturating_add(visits.saturating_mul(every)))
    }
}
