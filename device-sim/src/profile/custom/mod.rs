//! Profiles made by users: fields with generators, tags.
//!
//! `file.rs` reads them from TOML; the journal carries them whole, so that `verify` needs no file.

pub mod file;

use super::math::{DAY_NS, fraction, mix, noise, number, periods, phase, walk, wave};
use super::{Fields, ReadingId, Word};
use proto::RawValue;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Longest text of random letters, in bytes: what a gateway takes.
const MAX_TEXT: u32 = proto::limits::MAX_STRING_FIELD_BYTES as u32;

/// Texts of random letters are cut from this one.
static LETTERS: LazyLock<String> = LazyLock::new(|| {
    let letter = |n| char::from(b'a' + (mix(&[n]) % 26) as u8);
    (0..2 * u64::from(MAX_TEXT)).map(letter).collect()
});

/// A profile of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Custom {
    measurement: Word,
    tags: Vec<(Word, Tag)>,
    fields: Vec<(Word, Field)>,
}

/// What a tag of a device says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tag {
    /// The same for all devices.
    Fixed(Word),
    /// One of these.
    OneOf(Vec<Word>),
    /// A text and one of so many numbers.
    Numbered { prefix: Word, count: u32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Field {
    /// Share of the readings that have it.
    present: f64,
    generator: Generator,
}

/// How a value comes about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Generator {
    Constant(Literal),
    /// Swings around its mean.
    Sine(Curve),
    /// Wanders around its mean.
    Walk(Curve),
    /// Only grows.
    Counter {
        start: f64,
        per_hour: f64,
        scale: f64,
    },
    /// One of these, for so long.
    Choice {
        of: Vec<Literal>,
        hold_ns: u64,
    },
    /// True with this probability, for so long.
    Bool {
        probability: f64,
        hold_ns: u64,
    },
    /// Letters, so many.
    Text {
        length: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Curve {
    mean: f64,
    amplitude: f64,
    period_ns: u64,
    /// Largest distance of a single reading from the curve.
    noise: f64,
    /// Largest distance of a device's own mean from `mean`.
    spread: f64,
    /// What is added within a day; it starts anew every 32 days, when the device is calibrated.
    drift_per_day: f64,
    /// Values are rounded to 1/`scale`.
    scale: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Literal {
    Bool(bool),
    Number(f64),
    Text(Word),
}

impl Literal {
    fn value(self) -> RawValue<'static> {
        match self {
            Literal::Bool(b) => RawValue::Bool(b),
            Literal::Number(x) => RawValue::Float(x),
            Literal::Text(text) => RawValue::Str(text.as_str()),
        }
    }
}

impl Custom {
    pub(super) fn measurement(&self) -> &'static str {
        self.measurement.as_str()
    }

    pub(super) fn tags(&self, seed: u64, device: u32) -> Vec<(&'static str, String)> {
        let value = |(salt, (name, tag)): (u64, &(Word, Tag))| {
            let own = mix(&[seed, u64::from(device), 41, salt]);
            let value = match tag {
                Tag::Fixed(word) => word.as_str().to_owned(),
                Tag::OneOf(words) => words[(own % words.len() as u64) as usize].as_str().to_owned(),
                Tag::Numbered { prefix, count } => {
                    format!("{}{}", prefix.as_str(), own % u64::from(*count) + 1)
                }
            };
            (name.as_str(), value)
        };
        (0..).zip(&self.tags).map(value).collect()
    }

    pub(super) fn fields(&self, id: ReadingId, time_ns: i64, fields: &mut Fields) {
        let device = u64::from(id.device);
        for (salt, (name, field)) in (0..).zip(&self.fields) {
            let own = mix(&[id.seed, device, 42, salt]);
            let hash = mix(&[id.seed, device, id.seq, u64::from(id.index), 43, salt]);
            if fraction(mix(&[hash, 1])) < field.present {
                fields.push((name.as_str(), field.generator.value(own, hash, time_ns)));
            }
        }
    }
}

impl Generator {
    /// `own` is the same for all readings of the device, `hash` is another one for each.
    fn value(&self, own: u64, hash: u64, time_ns: i64) -> RawValue<'static> {
        // The same for all readings within a stretch of time; without one, another for each.
        let held = |hold_ns: u64| match hold_ns {
            0 => hash,
            _ => mix(&[own, periods(time_ns, hold_ns)]),
        };
        match self {
            Generator::Constant(literal) => literal.value(),
            Generator::Sine(curve) => {
                let at = phase(time_ns, curve.period_ns) + fraction(mix(&[own, 2]));
                curve.value(wave(at), own, hash, time_ns)
            }
            Generator::Walk(curve) => {
                curve.value(walk(own, time_ns, curve.period_ns), own, hash, time_ns)
            }
            Generator::Counter { start, per_hour, scale } => {
                let days = periods(time_ns, DAY_NS) as f64 + phase(time_ns, DAY_NS);
                let pace = per_hour * (0.5 + fraction(own));
                number(start + (days - FIRST_DAY) * 24.0 * pace, *scale)
            }
            Generator::Choice { of, hold_ns } => {
                of[(held(*hold_ns) % of.len() as u64) as usize].value()
            }
            Generator::Bool { probability, hold_ns } => {
                RawValue::Bool(fraction(held(*hold_ns)) < *probability)
            }
            Generator::Text { length } => {
                let length = *length as usize;
                let from = (hash % (LETTERS.len() - length) as u64) as usize;
                RawValue::Str(&LETTERS[from..from + length])
            }
        }
    }
}

/// Counters began at their start then, in days since the Unix epoch: 2020-01-01.
const FIRST_DAY: f64 = 18_262.0;
/// Drift starts anew after so many days.
const CALIBRATED_EVERY: u64 = 32;

impl Curve {
    fn value(&self, shape: f64, own: u64, hash: u64, time_ns: i64) -> RawValue<'static> {
        let drift = self.drift_per_day
            * CALIBRATED_EVERY as f64
            * phase(time_ns, DAY_NS * CALIBRATED_EVERY);
        let mean = self.mean + self.spread * noise(mix(&[own, 3]));
        let value = mean + self.amplitude * shape + drift + self.noise * noise(mix(&[hash, 2]));
        number(value, self.scale)
    }
}
