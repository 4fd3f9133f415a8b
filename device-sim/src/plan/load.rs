//! How the rate changes in the course of a run.
//!
//! The rate stretches and compresses time: a batch is due when so much *work* has passed, and work
//! grows with the rate. Work is counted in nanoseconds at the normal rate, times 1000, so that all
//! of this is exact integer arithmetic.

use serde::{Deserialize, Serialize};

/// The normal rate, in thousandths.
pub(super) const NORMAL: u32 = 1_000;
/// Highest rate, in thousandths: a thousand times the normal one.
pub(super) const MAX_RATE: u32 = 1_000_000;
/// Most changes of the rate.
pub(super) const MAX_PHASES: usize = 64;

/// From this moment on the rate is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Nanoseconds after the start.
    pub from_ns: u64,
    /// The rate, in thousandths of the normal one; 0 is a pause.
    pub rate_milli: u32,
}

/// Start, work at the start, and rate of each stretch; the first begins before the run.
fn stretches(load: &[Phase]) -> impl Iterator<Item = (i128, i128, i128)> + '_ {
    let mut work = 0_i128;
    let mut last = (0_i128, i128::from(NORMAL));
    std::iter::once((0, 0, i128::from(NORMAL))).chain(load.iter().map(move |phase| {
        let from = i128::from(phase.from_ns);
        work += (from - last.0) * last.1;
        last = (from, i128::from(phase.rate_milli));
        (from, work, last.1)
    }))
}

/// The work that has passed at a moment.
pub(super) fn work_at(load: &[Phase], at_ns: i128) -> i128 {
    let mut found = at_ns * i128::from(NORMAL);
    for (from, work, rate) in stretches(load).skip(1) {
        if at_ns >= from {
            found = work + (at_ns - from) * rate;
        }
    }
    found
}

/// The first moment at which so much work has passed.
pub(super) fn moment_of(load: &[Phase], work: i128) -> i128 {
    let mut found = (0, 0, i128::from(NORMAL));
    for stretch in stretches(load) {
        // A pause brings no work: what is due at its very beginning is due before it.
        if stretch.1 < work {
            found = stretch;
        }
    }
    let (from, before, rate) = found;
    match rate {
        // Nothing more will ever be due.
        0 => i128::from(u64::MAX),
        _ => from + ceil(work - before, rate),
    }
}

fn ceil(a: i128, b: i128) -> i128 {
    -(-a).div_euclid(b)
}

/// The highest rate, in thousandths.
pub(super) fn highest(load: &[Phase]) -> u32 {
    load.iter().map(|phase| phase.rate_milli).fold(NORMAL, u32::max)
}

/// Says what is wrong, for a person.
pub(super) fn check(load: &[Phase]) -> Result<(), String> {
    if load.len() > MAX_PHASES {
        return Err(format!("load: at most {MAX_PHASES} changes of the rate"));
    }
    if !load.is_sorted_by(|a, b| a.from_ns < b.from_ns) {
        return Err("load: each change of the rate must come after the one before".to_owned());
    }
    if load.iter().any(|phase| phase.rate_milli > MAX_RATE) {
        return Err(format!("load: the rate must be 0 to {}", MAX_RATE / NORMAL));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn spike() -> [Phase; 4] {
        let phase = |from_s, rate_milli| Phase { from_ns: from_s * S, rate_milli };
        [phase(10, 5_000), phase(20, 1_000), phase(30, 0), phase(40, 333)]
    }

    #[test]
    fn work_grows_with_the_rate() {
        let s = i128::from(S);
        for (at_s, work_s) in [(-5, -5), (0, 0), (10, 10), (15, 35), (20, 60), (30, 70), (35, 70)] {
            assert_eq!(work_at(&spike(), at_s * s), work_s * s * 1_000, "{at_s}");
        }
        assert_eq!(work_at(&spike(), 50 * s), 73_330 * s);
        assert_eq!(work_at(&[], 7), 7_000);
    }

    #[test]
    fn a_moment_is_the_first_with_so_much_work() {
        for work in (-3_000_000_000_000..80_000_000_000_000_i128).step_by(777_777_777) {
            let at = moment_of(&spike(), work);
            assert!(work_at(&spike(), at) >= work && work_at(&spike(), at - 1) < work, "{work}");
        }
        assert_eq!(moment_of(&spike(), 70_000 * i128::from(S)), 30 * i128::from(S));
        assert_eq!(moment_of(&[], 7_000), 7);
        let dead = [Phase { from_ns: 10, rate_milli: 0 }];
        assert_eq!(moment_of(&dead, 10_001), i128::from(u64::MAX));
    }
}
