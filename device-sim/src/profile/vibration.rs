//! An accelerometer on a machine: three axes at 1 kHz, sent as columns.
//!
//! A shaft turns with a speed of its own; each axis has its harmonics and noise. Some machines have
//! a worn bearing: short knocks, several in a turn, in those hours when it is bad.

use super::math::{fraction, mix, noise, number, periods, phase, wave};
use super::{Fields, ReadingId};

const HOUR_NS: u64 = 3_600_000_000_000;
const LINES: u64 = 8;
/// Knocks in a turn of the shaft.
const KNOCKS: f64 = 3.6;

pub(super) fn tags(seed: u64, device: u32) -> Vec<(&'static str, String)> {
    let own = mix(&[seed, u64::from(device), 21]);
    vec![
        ("machine", format!("press-{:02}", own / LINES % 40)),
        ("line", format!("L{}", own % LINES)),
    ]
}

pub(super) fn fields(id: ReadingId, time_ns: i64, fields: &mut Fields) {
    let device = u64::from(id.device);
    let own = mix(&[id.seed, device, 22]);
    // From 24 to 50 turns a second.
    let turn_ns = 20_000_000 + own % 21_000_000;
    let turn = phase(time_ns, turn_ns);
    let hash = mix(&[id.seed, device, id.seq, u64::from(id.index), 23]);
    let hour = mix(&[id.seed, device, 24, periods(time_ns, HOUR_NS)]);
    let worn = own.is_multiple_of(7) && !hour.is_multiple_of(3);
    let knock = KNOCKS * turn - (KNOCKS * turn).floor();
    let knock = if worn && knock < 0.12 { 2.5 * (1.0 - knock / 0.12) } else { 0.0 };
    for (name, axis) in [("x", 1_u64), ("y", 2), ("z", 3)] {
        let salt = mix(&[own, axis]);
        let (strong, weak) = (0.4 + 0.8 * fraction(salt), 0.2 * fraction(mix(&[salt, 1])));
        let rest = if axis == 3 { 9.81 } else { 0.0 };
        let value = rest
            + strong * wave(turn + fraction(mix(&[salt, 2])))
            + weak * wave(2.0 * turn + fraction(mix(&[salt, 3])))
            + knock * (0.5 + fraction(mix(&[salt, 4])))
            + 0.05 * noise(mix(&[hash, axis]));
        fields.push((name, number(value, 1_000.0)));
    }
}
