//! An electricity meter: a counter that only grows, the power of the moment, the voltage; now and
//! then a fault.
//!
//! The counter is the integral of the power without its noise, in closed form, so that it is
//! monotonic and still a pure function of time.

use super::math::{DAY_NS, fraction, mix, noise, number, phase, wave, wave_sum};
use super::{Fields, ReadingId};
use proto::RawValue;

/// The counters began at zero then, in nanoseconds since the Unix epoch: 2020-01-01.
const EPOCH_NS: i64 = 1_577_836_800_000_000_000;
const HOUR_NS: f64 = 3.6e12;
/// How far the power swings around its mean in a day.
const SWING: f64 = 0.6;
const FAULTS: [&str; 3] = ["cover opened", "phase missing", "battery low"];

pub(super) fn tags(seed: u64, device: u32) -> Vec<(&'static str, String)> {
    let own = mix(&[seed, u64::from(device), 31]);
    let tariff = if own.is_multiple_of(5) { "business" } else { "home" };
    vec![("district", format!("d{:03}", own / 5 % 200)), ("tariff", tariff.to_owned())]
}

pub(super) fn fields(id: ReadingId, time_ns: i64, fields: &mut Fields) {
    let device = u64::from(id.device);
    let own = |salt: u64| fraction(mix(&[id.seed, device, 32, salt]));
    let hash = mix(&[id.seed, device, id.seq, u64::from(id.index), 33]);
    let noise = |salt: u64| noise(mix(&[hash, salt]));
    let mean_kw = 0.2 + 1.8 * own(1);
    let day = phase(time_ns, DAY_NS) + own(2);
    #[expect(clippy::cast_precision_loss, reason = "rounded in the same way everywhere")]
    let hours = time_ns.saturating_sub(EPOCH_NS) as f64 / HOUR_NS;
    // The integral starts at the phase that the meter has at midnight.
    let swing_hours = 24.0 * (wave_sum(day) - wave_sum(own(2)));
    let energy_kwh = 40.0 * own(3) + mean_kw * (hours + SWING * swing_hours);
    let power_kw = mean_kw * (1.0 + SWING * wave(day) + 0.1 * noise(1));
    fields.push(("energy_kwh", number(energy_kwh, 1_000.0)));
    fields.push(("power_w", number(1_000.0 * power_kw, 1.0)));
    fields.push(("voltage", number(230.0 + 4.0 * wave(day * 3.0) + 1.5 * noise(2), 10.0)));
    if hash.is_multiple_of(500) {
        fields.push(("fault", RawValue::Str(FAULTS[(hash >> 20) as usize % FAULTS.len()])));
    }
}
