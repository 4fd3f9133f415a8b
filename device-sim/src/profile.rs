//! What simulated devices measure.
//!
//! Owns the values: a reading is a pure function of seed, device, sequence number, index and the
//! time that the plan gives it. Only additions, multiplications, divisions and rounding are used,
//! which IEEE 754 defines to the last bit, so that another machine recomputes the same values.

use proto::RawValue;
use serde::{Deserialize, Serialize};

/// Fields of one reading, in the order in which they are sent.
pub type Fields = Vec<(&'static str, RawValue<'static>)>;

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Temperature, humidity, pressure, battery; now and then a door contact and a status text.
    #[default]
    Environment,
}

/// Names a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadingId {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the device.
    pub device: u32,
    /// Sequence number of its batch.
    pub seq: u64,
    /// Index in the batch.
    pub index: u32,
}

const DAY_NS: i64 = 86_400_000_000_000;
const SITES: u64 = 16;
const ROOMS: [&str; 6] = ["lab", "office", "store", "hall", "roof", "cellar"];
const STATUS: [&str; 4] = ["ok", "calibrating", "fan on", "filter due – 30 d"];

impl Profile {
    /// The measurement of every reading.
    pub fn measurement(self) -> &'static str {
        match self {
            Profile::Environment => "environment",
        }
    }

    /// The tags of a device, the same for each of its readings.
    pub fn tags(self, seed: u64, device: u32) -> Vec<(&'static str, String)> {
        match self {
            Profile::Environment => {
                let own = mix(&[seed, u64::from(device), 1]);
                let room = ROOMS[(own / SITES % ROOMS.len() as u64) as usize];
                vec![("site", format!("site-{:02}", own % SITES)), ("room", room.to_owned())]
            }
        }
    }

    /// Puts the fields of a reading into `fields`, whose memory is reused.
    pub fn fields(self, id: ReadingId, time_ns: i64, fields: &mut Fields) {
        fields.clear();
        match self {
            Profile::Environment => environment(id, time_ns, fields),
        }
    }
}

fn environment(id: ReadingId, time_ns: i64, fields: &mut Fields) {
    let device = u64::from(id.device);
    let own = |salt: u64| fraction(mix(&[id.seed, device, 2, salt]));
    let hash = mix(&[id.seed, device, id.seq, u64::from(id.index)]);
    // Between −1 and 1, another one for every salt.
    let noise = |salt: u64| 2.0 * fraction(mix(&[hash, salt])) - 1.0;
    let day = day_fraction(time_ns) + own(1);
    let sun = wave(day);

    let temperature = 17.0 + 8.0 * own(2) + 4.0 * sun + 0.3 * noise(1);
    let humidity = (55.0 + 10.0 * own(3) - 12.0 * sun + 1.5 * noise(2)).clamp(5.0, 99.0);
    let pressure = 1013.25 + 8.0 * wave(day / 5.0 + own(4)) + 0.2 * noise(3);
    let battery = 30.0 + 70.0 * own(5);
    fields.push(("temperature", number(temperature, 10.0)));
    fields.push(("humidity", number(humidity, 10.0)));
    fields.push(("pressure", number(pressure, 100.0)));
    fields.push(("battery", number(battery, 1.0)));
    if hash.is_multiple_of(10) {
        fields.push(("door", RawValue::Bool(hash & 1024 != 0)));
    }
    if hash.is_multiple_of(23) {
        fields.push(("status", RawValue::Str(STATUS[(hash >> 20) as usize % STATUS.len()])));
    }
}

/// A value rounded to 1/`scale`, as devices print it. A whole number becomes an integer, which is
/// what a JavaScript or Lua client sends for it.
fn number(x: f64, scale: f64) -> RawValue<'static> {
    let rounded = (x * scale).round() / scale;
    if rounded == rounded.trunc() {
        #[expect(clippy::cast_possible_truncation, reason = "a small whole number")]
        RawValue::Int(rounded as i64)
    } else {
        RawValue::Float(rounded)
    }
}

/// Position within the day (UTC), 0 to 1.
fn day_fraction(time_ns: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "below 2⁵³")]
    {
        time_ns.rem_euclid(DAY_NS) as f64 / DAY_NS as f64
    }
}

/// A parabola in place of a sine: period 1, between −1 and 1, and the same on every machine.
fn wave(x: f64) -> f64 {
    let x = 2.0 * (x - x.floor()) - 1.0;
    4.0 * x * (1.0 - x.abs())
}

/// The upper 53 bits as a number from 0 to below 1.
fn fraction(hash: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    {
        (hash >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Mixes numbers into one with the finaliser of SplitMix64 (Steele, Lea, Flood 2014). Part of the
/// journal's meaning: a change makes older journals unverifiable, so it never changes.
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_NS: i64 = 1_800_014_400_000_000_000;

    fn reading(seed: u64, device: u32, seq: u64, index: u32) -> Fields {
        let mut fields = Fields::new();
        Profile::Environment.fields(ReadingId { seed, device, seq, index }, NOON_NS, &mut fields);
        fields
    }

    #[test]
    fn a_reading_depends_on_each_of_its_names_and_on_nothing_else() {
        let one = reading(1, 2, 3, 4);
        assert_eq!(one, reading(1, 2, 3, 4));
        for other in [reading(9, 2, 3, 4), reading(1, 9, 3, 4), reading(1, 2, 9, 4)] {
            assert_ne!(one, other);
        }
        assert_ne!(one, reading(1, 2, 3, 9));
    }

    /// Recomputed years later, or by another build, a journal must give the same values.
    #[test]
    fn values_are_fixed_for_ever() {
        assert_eq!(mix(&[1, 2, 3]), 0xD306_214C_1FE5_9365);
        assert_eq!(
            reading(1, 2, 3, 4),
            [
                ("temperature", RawValue::Float(21.9)),
                ("humidity", RawValue::Float(47.6)),
                ("pressure", RawValue::Float(1006.86)),
                ("battery", RawValue::Int(66)),
            ]
        );
        assert_eq!(
            Profile::Environment.tags(1, 2),
            [("site", "site-11".to_owned()), ("room", "cellar".to_owned())]
        );
    }

    #[test]
    fn values_look_like_a_room() {
        let (mut whole, mut doors, mut texts) = (0, 0, 0);
        for seq in 0..2_000 {
            for (name, value) in reading(5, 6, seq, 0) {
                let number = match value {
                    RawValue::Float(x) => x,
                    RawValue::Int(n) => n as f64,
                    RawValue::Bool(_) => {
                        doors += 1;
                        continue;
                    }
                    RawValue::Str(_) => {
                        texts += 1;
                        continue;
                    }
                    RawValue::UInt(_) => unreachable!("no value is that large"),
                };
                let range = match name {
                    "temperature" => 10.0..32.0,
                    "humidity" => 5.0..99.0,
                    "pressure" => 1000.0..1030.0,
                    "battery" => 0.0..101.0,
                    other => panic!("unknown field {other}"),
                };
                assert!(range.contains(&number), "{name} = {number}");
                whole += u32::from(name == "temperature" && matches!(value, RawValue::Int(_)));
            }
        }
        assert!((50..500).contains(&whole), "{whole} whole temperatures");
        assert!((100..400).contains(&doors), "{doors} door contacts");
        assert!((40..200).contains(&texts), "{texts} status texts");
    }
}
