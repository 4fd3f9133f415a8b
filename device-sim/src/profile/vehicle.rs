//! A van on trips between places around its depot: position, speed, fuel, ignition.
//!
//! Time is cut into slots of [`SLOT_NS`], offset for each vehicle. In every slot it drives in a
//! straight line from the place of the slot before to the next one, with a soft start and a soft
//! end, and stands for the rest. It fills up when [`TRIPS_PER_TANK`] trips have emptied the tank.

use super::math::{fraction, mix, noise, number, periods, phase, smooth};
use super::{Fields, ReadingId};
use proto::RawValue;

/// A trip and the stop after it.
const SLOT_NS: u64 = 45 * 60 * 1_000_000_000;
const SLOT_H: f64 = 0.75;
const TRIPS_PER_TANK: u64 = 12;
/// Percent of the tank that a trip takes, however long: no sum over earlier trips is needed.
const FUEL_PER_TRIP: f64 = 6.5;
/// Kilometres in a degree of latitude.
const KM_PER_DEGREE: f64 = 111.2;
/// A degree of longitude is shorter by this at the latitudes where the depots are.
const NARROWING: f64 = 0.63;
/// Largest distance of a place from the depot, in degrees.
const REACH: f64 = 0.07;
const DEPOTS: [(&str, f64, f64); 5] = [
    ("north", 53.55, 9.99),
    ("west", 50.94, 6.96),
    ("centre", 50.11, 8.68),
    ("south", 48.14, 11.58),
    ("east", 52.52, 13.4),
];

pub(super) fn tags(seed: u64, device: u32) -> Vec<(&'static str, String)> {
    let own = mix(&[seed, u64::from(device), 11]);
    vec![("depot", depot(seed, device).0.to_owned()), ("line", format!("line-{}", own % 20 + 1))]
}

pub(super) fn fields(id: ReadingId, time_ns: i64, fields: &mut Fields) {
    let device = u64::from(id.device);
    let own = mix(&[id.seed, device, 12]);
    let time_ns = time_ns.saturating_add(i64::try_from(own % SLOT_NS).unwrap_or(0));
    let slot = periods(time_ns, SLOT_NS);
    let (_, latitude, longitude) = depot(id.seed, id.device);
    let place = |slot: u64| {
        let at = |salt| REACH * noise(mix(&[id.seed, device, 13, slot, salt]));
        (latitude + at(1), longitude + at(2) / NARROWING)
    };
    let (from, to) = (place(slot), place(slot + 1));
    let (north, east) = (to.0 - from.0, (to.1 - from.1) * NARROWING);
    let distance_km = KM_PER_DEGREE * (north * north + east * east).sqrt();
    let average_kmh = 35.0 + 30.0 * fraction(mix(&[id.seed, device, 14, slot]));
    // Share of the slot in which it drives; the longest way takes 38 of the 45 minutes.
    let driving = (distance_km / average_kmh / SLOT_H).clamp(0.05, 0.95);
    let share = phase(time_ns, SLOT_NS) / driving;
    let moving = share < 1.0;
    let way = if moving { smooth(share) } else { 1.0 };
    let hash = mix(&[id.seed, device, id.seq, u64::from(id.index), 15]);
    let speed = if moving {
        let at_rest_again = 6.0 * share * (1.0 - share);
        (distance_km / (driving * SLOT_H) * at_rest_again + 1.5 * noise(hash)).max(0.0)
    } else {
        0.0
    };
    fields.push(("latitude", number(from.0 + (to.0 - from.0) * way, 1e5)));
    fields.push(("longitude", number(from.1 + (to.1 - from.1) * way, 1e5)));
    fields.push(("speed", number(speed, 10.0)));
    fields.push(("fuel", number(fuel(id, own, slot, way), 10.0)));
    fields.push(("ignition", RawValue::Bool(moving)));
}

/// Percent in the tank after a share of the way of a slot.
fn fuel(id: ReadingId, own: u64, slot: u64, way: f64) -> f64 {
    let trip = (slot + own % TRIPS_PER_TANK) % TRIPS_PER_TANK;
    let full = 92.0 + 6.0 * fraction(mix(&[id.seed, u64::from(id.device), 16]));
    #[expect(clippy::cast_precision_loss, reason = "at most a dozen")]
    let driven = trip as f64 + way;
    full - FUEL_PER_TRIP * driven
}

fn depot(seed: u64, device: u32) -> (&'static str, f64, f64) {
    DEPOTS[(mix(&[seed, u64::from(device), 10]) % DEPOTS.len() as u64) as usize]
}
