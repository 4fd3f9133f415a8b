//! The arithmetic of values: hashes in place of random numbers, and curves that another machine
//! recomputes to the last bit. Only operations that IEEE 754 defines exactly: `+ − × ÷`, square
//! root, comparisons and rounding. Part of the journal's meaning: what is here never changes.

use proto::RawValue;

/// A day, in nanoseconds.
pub(super) const DAY_NS: u64 = 86_400_000_000_000;

/// Octaves of [`walk`]: each twice as fast and half as high as the one before.
const OCTAVES: u64 = 4;

/// Mixes numbers into one with the finaliser of SplitMix64 (Steele, Lea, Flood 2014). A change
/// would make older journals unverifiable, so it never changes.
pub fn mix(parts: &[u64]) -> u64 {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for &part in parts {
        state = state.wrapping_add(part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        state ^= state >> 31;
    }
    state
}

/// The upper 53 bits as a number from 0 to below 1.
pub fn fraction(hash: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    {
        (hash >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The upper 53 bits as a number from −1 to below 1.
pub(super) fn noise(hash: u64) -> f64 {
    2.0 * fraction(hash) - 1.0
}

/// Position within a period, 0 to 1.
pub(super) fn phase(time_ns: i64, period_ns: u64) -> f64 {
    let within = i128::from(time_ns).rem_euclid(i128::from(period_ns));
    #[expect(clippy::cast_precision_loss, reason = "periods of up to 104 days are below 2⁵³")]
    {
        within as f64 / period_ns as f64
    }
}

/// Number of whole periods since the Unix epoch.
pub(super) fn periods(time_ns: i64, period_ns: u64) -> u64 {
    let periods = i128::from(time_ns).div_euclid(i128::from(period_ns));
    u64::try_from(periods).unwrap_or(0)
}

/// A parabola in place of a sine: period 1, between −1 and 1, and the same on every machine.
pub(super) fn wave(x: f64) -> f64 {
    let x = 2.0 * (x - x.floor()) - 1.0;
    4.0 * x * (1.0 - x.abs())
}

/// The integral of [`wave`] from the last whole number to `x`.
pub(super) fn wave_sum(x: f64) -> f64 {
    let x = 2.0 * (x - x.floor()) - 1.0;
    let square = x * x;
    square - square * x.abs() * 2.0 / 3.0 - 1.0 / 3.0
}

/// From 0 to 1 with a soft start and a soft end.
pub(super) fn smooth(x: f64) -> f64 {
    x * x * (3.0 - 2.0 * x)
}

/// What looks like a random walk, as a pure function of time: a sum of [`OCTAVES`] lines through
/// random points, between −1 and 1. It wanders about once in a period.
pub(super) fn walk(seed: u64, time_ns: i64, period_ns: u64) -> f64 {
    let (mut sum, mut height, mut all) = (0.0, 1.0, 0.0);
    for octave in 0..OCTAVES {
        let period_ns = (period_ns >> octave).max(1);
        let step = periods(time_ns, period_ns);
        let at = |step: u64| noise(mix(&[seed, octave, step]));
        let share = smooth(phase(time_ns, period_ns));
        sum += height * (at(step) * (1.0 - share) + at(step + 1) * share);
        all += height;
        height *= 0.5;
    }
    sum / all
}

/// A value rounded to 1/`scale`, as devices print it. A whole number becomes an integer, which is
/// what a JavaScript or Lua client sends for it.
pub(super) fn number(x: f64, scale: f64) -> RawValue<'static> {
    let rounded = (x * scale).round() / scale;
    if rounded == rounded.trunc() {
        #[expect(clippy::cast_possible_truncation, reason = "a small whole number")]
        RawValue::Int(rounded as i64)
    } else {
        RawValue::Float(rounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_NS: i64 = 1_800_014_400_000_000_000;

    /// Recomputed years later, or by another build, a journal must give the same values.
    #[test]
    fn arithmetic_is_fixed_for_ever() {
        assert_eq!(mix(&[1, 2, 3]), 0xD306_214C_1FE5_9365);
        assert_eq!(wave(0.125), -0.75);
        assert_eq!(wave_sum(0.5), -1.0 / 3.0);
        assert_eq!(smooth(0.25), 0.15625);
        assert_eq!(walk(7, NOON_NS, DAY_NS).to_bits(), 0xBFD3_825E_ED56_9473);
    }

    #[test]
    fn curves_stay_in_their_bounds_and_have_no_steps() {
        let mut before = walk(3, NOON_NS, 1_000_000);
        for n in 1..20_000 {
            let x = walk(3, NOON_NS + n * 100, 1_000_000);
            assert!(x.abs() <= 1.0 && (x - before).abs() < 0.01, "{n}: {before} {x}");
            before = x;
        }
        for n in 0..1_000 {
            let x = f64::from(n) / 1_000.0;
            assert!(wave(x).abs() <= 1.0 && (0.0..=1.0).contains(&smooth(x)));
            let slope = (wave_sum(x + 1e-6) - wave_sum(x)) * 1e6;
            assert!((slope - wave(x)).abs() < 1e-4, "{x}: {slope}");
        }
    }
}
