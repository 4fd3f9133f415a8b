//! What goes wrong in a run: kinds of faults, when, and for which share of the fleet.
//!
//! All of it is a pure function of the plan, so that `verify` knows what a fault made the gateway
//! refuse. Some faults happen at *moments* (a connection breaks), others are in force for a
//! *stretch* of time (a slow link).

use crate::profile::{fraction, mix};
use serde::{Deserialize, Serialize};

/// Most faults in a plan.
pub const MAX_FAULTS: usize = 32;
/// A reading with a time further ahead than this is refused by the gateway, in nanoseconds.
const FUTURE_NS: i64 = 600_000_000_000;
/// Room for a machine that is slow, on either side of that, in nanoseconds.
const MARGIN_NS: i64 = 60_000_000_000;
/// Largest wrong clock, in nanoseconds: ten years.
const MAX_OFFSET_NS: i64 = 3_650 * 86_400_000_000_000;
/// The fractional part of √2 as a fixed-point number: multiples of it are spread evenly.
const EVENLY: u64 = 0x6A09_E667_F3BC_C908;

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What.
    #[serde(flatten)]
    pub trouble: Trouble,
    /// Nanoseconds after the start.
    pub from_ns: u64,
    /// How long, in nanoseconds.
    pub lasts_ns: u64,
    /// Share of the devices, 0 to 1.
    pub share: f64,
    /// The devices begin one after another within this time, in nanoseconds.
    pub spread_ns: u64,
    /// It happens again after so long; absent: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ns: Option<u64>,
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trouble {
    /// The connection breaks without a word.
    Drop,
    /// The device forgets a connection without closing it and opens another.
    HalfOpen,
    /// A batch that was acknowledged is sent again.
    Repeat,
    /// Other content under a number that was used.
    Reuse,
    /// A number out of turn.
    Skip,
    /// Bytes that are no message.
    Malformed,
    /// The device is away and then has lost half of what it took meanwhile.
    Gap,
    /// No link.
    Offline,
    /// Few bytes a second pass the link, in either direction.
    Slow {
        /// How many.
        bytes_per_s: u32,
    },
    /// The device does not read what it is sent.
    Deaf,
    /// The device's clock is wrong by so much.
    ClockSkew {
        /// Nanoseconds; negative: it is behind.
        offset_ns: i64,
    },
    /// Readings that no gateway can take.
    Poison {
        /// Share of the readings.
        ratio: f64,
    },
    /// Batches that no gateway can take.
    BadBatch {
        /// Share of the batches.
        ratio: f64,
    },
    /// The credential is not valid.
    BadCredential,
}

impl Trouble {
    /// As it stands in scenarios and reports.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Drop => "drop",
            Trouble::HalfOpen => "half_open",
            Trouble::Repeat => "repeat",
            Trouble::Reuse => "reuse",
            Trouble::Skip => "skip",
            Trouble::Malformed => "malformed",
            Trouble::Gap => "gap",
            Trouble::Offline => "offline",
            Trouble::Slow { .. } => "slow",
            Trouble::Deaf => "deaf",
            Trouble::ClockSkew { .. } => "clock_skew",
            Trouble::Poison { .. } => "poison",
            Trouble::BadBatch { .. } => "bad_batch",
            Trouble::BadCredential => "bad_credential",
        }
    }

    /// True if it happens at moments, false if it is in force for a stretch.
    pub fn is_momentary(self) -> bool {
        use Trouble::{Drop, HalfOpen, Malformed, Repeat, Reuse, Skip};
        matches!(self, Drop | HalfOpen | Repeat | Reuse | Skip | Malformed)
    }

    /// True if it decides what is in the batches.
    pub(super) fn is_in_the_data(self) -> bool {
        use Trouble::{BadBatch, ClockSkew, Poison};
        matches!(self, ClockSkew { .. } | Poison { .. } | BadBatch { .. })
    }
}

impl Fault {
    /// Whether a device has it; `index` is its place in the plan. The devices that have it are
    /// spread evenly over the fleet, so that a small fleet has its share, too.
    pub(super) fn strikes(&self, seed: u64, index: usize, device: u32) -> bool {
        let offset = mix(&[seed, index as u64, 51]);
        fraction(u64::from(device).wrapping_mul(EVENLY).wrapping_add(offset)) < self.share
    }

    /// When it begins for a device, in nanoseconds after the start.
    pub(super) fn begin_ns(&self, seed: u64, index: usize, device: u32) -> u64 {
        let own = mix(&[seed, index as u64, u64::from(device), 52]);
        self.from_ns + own % self.spread_ns.max(1)
    }

    /// The end of it, in nanoseconds after the start.
    pub(super) fn end_ns(&self) -> u64 {
        self.from_ns.saturating_add(self.lasts_ns)
    }

    /// The first moment after `after_ns`, of those that a device that has it goes through.
    pub(super) fn moment_after(&self, begin_ns: u64, after_ns: Option<u64>) -> Option<u64> {
        let moment = match (after_ns, self.every_ns) {
            (None, _) => begin_ns,
            (Some(after), _) if after < begin_ns => begin_ns,
            (Some(_), None) => return None,
            (Some(after), Some(every)) => begin_ns + ((after - begin_ns) / every + 1) * every,
        };
        (moment <= self.end_ns()).then_some(moment)
    }

    /// Whether the gateway refuses readings because of the clock.
    pub(super) fn is_beyond_the_future(&self) -> bool {
        matches!(self.trouble, Trouble::ClockSkew { offset_ns } if offset_ns > FUTURE_NS)
    }

    /// Says what is wrong, for a person.
    pub(super) fn check(&self, duration_ns: u64) -> Result<(), String> {
        let name = self.trouble.name();
        if !(0.0..=1.0).contains(&self.share) {
            return Err(format!("fault {name}: share must be 0 to 1"));
        }
        if self.from_ns >= duration_ns {
            return Err(format!("fault {name}: at must be before the end of the run"));
        }
        if self.spread_ns > self.lasts_ns || self.lasts_ns > super::MAX_DURATION_NS {
            return Err(format!("fault {name}: spread must be at most as long as it lasts"));
        }
        if self.every_ns.is_some() && !self.trouble.is_momentary() {
            return Err(format!("fault {name}: every is for faults that happen at moments"));
        }
        if self.every_ns == Some(0) {
            return Err(format!("fault {name}: every must be above 0"));
        }
        match self.trouble {
            Trouble::Slow { bytes_per_s: 0 } => {
                Err("fault slow: bytes_per_s must be above 0".to_owned())
            }
            Trouble::Poison { ratio } | Trouble::BadBatch { ratio }
                if !(0.0..=1.0).contains(&ratio) =>
            {
                Err(format!("fault {name}: ratio must be 0 to 1"))
            }
            // Between these two it would depend on the speed of the machine who is refused.
            Trouble::ClockSkew { offset_ns } => {
                let run = i64::try_from(duration_ns).unwrap_or(i64::MAX);
                let ahead = FUTURE_NS.saturating_add(run.saturating_mul(2)).max(6 * FUTURE_NS);
                let unclear = FUTURE_NS - MARGIN_NS..ahead;
                if unclear.contains(&offset_ns) || offset_ns.abs() > MAX_OFFSET_NS {
                    return Err(format!(
                        "fault clock_skew: offset must be below {}s or at least {}s, and at most \
                         ten years",
                        unclear.start / 1_000_000_000,
                        unclear.end.div_euclid(1_000_000_000) + 1
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether any fault decides what is in the batches.
pub(super) fn touch_the_data(faults: &[Fault]) -> bool {
    faults.iter().any(|fault| fault.trouble.is_in_the_data())
}
