//! A user's profile as a TOML file. Every mistake is named by its key.

use super::{Curve, Custom, Field, Generator, Literal, MAX_TEXT, Tag};
use crate::plan::{DeadZones, Kind, Mode};
use crate::profile::{Profile, Word};
use crate::units::Span;
use anyhow::{Context, Result, bail, ensure};
use proto::limits::{Limits, MAX_NAME_BYTES, MAX_STRING_FIELD_BYTES, MAX_TAG_VALUE_BYTES};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Most decimals of a number.
const MAX_DECIMALS: u32 = 6;
/// Largest magnitude of a number: with all decimals it stays within what a float holds exactly.
const MAX_NUMBER: f64 = 1e9;
/// Fastest counter: in a human life it stays within what a float holds exactly.
const MAX_PER_HOUR: f64 = 1e5;
/// Longest period of a curve, in nanoseconds: 100 days.
const MAX_PERIOD_NS: u64 = 100 * super::DAY_NS;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    measurement: Option<String>,
    interval: Option<Span>,
    batch: Option<u32>,
    mode: Option<Mode>,
    outbox: Option<u32>,
    connect_every: Option<Span>,
    dead_zones: Option<RawDeadZones>,
    #[serde(default)]
    tags: BTreeMap<String, RawTag>,
    fields: BTreeMap<String, RawField>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeadZones {
    every: Span,
    lasts: Span,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text, a list of texts, or { prefix = …, count = … }")]
enum RawTag {
    Fixed(String),
    OneOf(Vec<String>),
    Numbered { prefix: String, count: u32 },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawGenerator {
    Constant,
    Daily,
    Sine,
    Walk,
    Counter,
    Choice,
    Bool,
    Text,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawField {
    generator: RawGenerator,
    present: Option<f64>,
    value: Option<RawLiteral>,
    mean: Option<f64>,
    amplitude: Option<f64>,
    period: Option<Span>,
    noise: Option<f64>,
    spread: Option<f64>,
    drift_per_day: Option<f64>,
    decimals: Option<u32>,
    start: Option<f64>,
    per_hour: Option<f64>,
    of: Option<Vec<RawLiteral>>,
    hold: Option<Span>,
    probability: Option<f64>,
    length: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a number, true, false or a text")]
enum RawLiteral {
    Bool(bool),
    Integer(i32),
    Number(f64),
    Text(String),
}

/// Reads a profile.
///
/// # Errors
/// The file cannot be read, a key is unknown, missing or has a value that cannot be; the message
/// names file and key.
pub fn read(path: &Path) -> Result<Kind> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the profile {}", path.display()))?;
    let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
    parse(&text, &stem).with_context(|| format!("the profile {}", path.display()))
}

/// Reads a profile from its text; `name` is its measurement if it names none.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, name: &str) -> Result<Kind> {
    let file: File = toml::from_str(text)?;
    let measurement = file.measurement.unwrap_or_else(|| name.to_owned());
    check_name("measurement", &measurement)?;
    ensure!(!measurement.starts_with("gateway_"), "measurement: gateway_ is reserved");
    let limits = Limits::default();
    ensure!(!file.fields.is_empty(), "fields: at least one is needed");
    ensure!(file.fields.len() <= limits.fields as usize, "fields: at most {}", limits.fields);
    ensure!(file.tags.len() <= limits.tags as usize, "tags: at most {}", limits.tags);
    let mut fields = Vec::new();
    for (name, field) in file.fields {
        check_key("fields", &name)?;
        let read = field.read().with_context(|| format!("fields.{name}"))?;
        fields.push((Word::from(name), read));
    }
    ensure!(
        fields.iter().any(|(_, field)| field.present >= 1.0),
        "fields: one at least must be in every reading (leave out its key present)"
    );
    let mut tags = Vec::new();
    for (name, tag) in file.tags {
        check_key("tags", &name)?;
        let read = tag.read().with_context(|| format!("tags.{name}"))?;
        tags.push((Word::from(name), read));
    }
    let custom = Custom { measurement: measurement.into(), tags, fields };
    let plain = Kind::of(Profile::Custom(Box::new(custom)));
    Ok(Kind {
        interval_ns: file.interval.map_or(plain.interval_ns, |span| span.0),
        batch: file.batch.unwrap_or(plain.batch),
        mode: file.mode.unwrap_or(plain.mode),
        outbox: file.outbox.unwrap_or(plain.outbox),
        connect_every_ns: file.connect_every.map(|span| span.0),
        dead_zones: file
            .dead_zones
            .map(|zones| DeadZones { every_ns: zones.every.0, lasts_ns: zones.lasts.0 }),
        ..plain
    })
}

impl RawTag {
    fn read(self) -> Result<Tag> {
        let word = |text: String| {
            ensure!(
                !text.is_empty()
                    && text.len() <= MAX_TAG_VALUE_BYTES
                    && !text.contains(char::is_control),
                "{text:?} must have 1 to {MAX_TAG_VALUE_BYTES} bytes, no control characters"
            );
            Ok(Word::from(text))
        };
        Ok(match self {
            RawTag::Fixed(text) => Tag::Fixed(word(text)?),
            RawTag::OneOf(texts) => {
                ensure!(!texts.is_empty(), "the list is empty");
                Tag::OneOf(texts.into_iter().map(word).collect::<Result<_>>()?)
            }
            RawTag::Numbered { prefix, count } => {
                ensure!(count > 0, "count: must be at least 1");
                Tag::Numbered { prefix: word(prefix)?, count }
            }
        })
    }
}

impl RawField {
    fn read(mut self) -> Result<Field> {
        let present = self.present.take().unwrap_or(1.0);
        ensure!(0.0 < present && present <= 1.0, "present: must be above 0 and at most 1");
        let generator = match self.generator {
            RawGenerator::Constant => Generator::Constant(literal("value", self.value.take())?),
            RawGenerator::Daily => Generator::Sine(self.curve(Some(super::DAY_NS))?),
            RawGenerator::Sine => Generator::Sine(self.curve(None)?),
            RawGenerator::Walk => Generator::Walk(self.curve(None)?),
            RawGenerator::Counter => {
                let per_hour = number("per_hour", needed("per_hour", self.per_hour.take())?)?;
                let allowed = 0.0..=MAX_PER_HOUR;
                ensure!(allowed.contains(&per_hour), "per_hour: must be 0 to {MAX_PER_HOUR:e}");
                let start = number("start", self.start.take().unwrap_or(0.0))?;
                Generator::Counter { start, per_hour, scale: self.scale()? }
            }
            RawGenerator::Choice => {
                let of = needed("of", self.of.take())?;
                ensure!(!of.is_empty(), "of: the list is empty");
                let of: Vec<Literal> =
                    of.into_iter().map(|one| literal("of", Some(one))).collect::<Result<_>>()?;
                let kind = std::mem::discriminant(&of[0]);
                ensure!(
                    of.iter().all(|one| std::mem::discriminant(one) == kind),
                    "of: all of one type, or stores will refuse some"
                );
                Generator::Choice { of, hold_ns: self.hold_ns() }
            }
            RawGenerator::Bool => {
                let probability = self.probability.take().unwrap_or(0.5);
                ensure!((0.0..=1.0).contains(&probability), "probability: must be 0 to 1");
                Generator::Bool { probability, hold_ns: self.hold_ns() }
            }
            RawGenerator::Text => {
                let length = needed("length", self.length.take())?;
                ensure!((1..=MAX_TEXT).contains(&length), "length: must be 1 to {MAX_TEXT}");
                Generator::Text { length }
            }
        };
        self.nothing_left()?;
        Ok(Field { present, generator })
    }

    fn curve(&mut self, period_ns: Option<u64>) -> Result<Curve> {
        let period_ns = match period_ns {
            Some(fixed) => fixed,
            None => needed("period", self.period.take())?.0,
        };
        ensure!((1..=MAX_PERIOD_NS).contains(&period_ns), "period: must be 1ns to 100 days");
        let or_zero = |key, value: &mut Option<f64>| number(key, value.take().unwrap_or(0.0));
        Ok(Curve {
            mean: number("mean", needed("mean", self.mean.take())?)?,
            amplitude: or_zero("amplitude", &mut self.amplitude)?,
            period_ns,
            noise: or_zero("noise", &mut self.noise)?,
            spread: or_zero("spread", &mut self.spread)?,
            drift_per_day: or_zero("drift_per_day", &mut self.drift_per_day)?,
            scale: self.scale()?,
        })
    }

    fn scale(&mut self) -> Result<f64> {
        let decimals = self.decimals.take().unwrap_or(2);
        ensure!(decimals <= MAX_DECIMALS, "decimals: must be 0 to {MAX_DECIMALS}");
        Ok(f64::from(10_u32.pow(decimals)))
    }

    fn hold_ns(&mut self) -> u64 {
        self.hold.take().map_or(0, |span| span.0)
    }

    /// A key that its generator does not use would be a silent mistake.
    fn nothing_left(&self) -> Result<()> {
        let left = [
            ("value", self.value.is_some()),
            ("mean", self.mean.is_some()),
            ("amplitude", self.amplitude.is_some()),
            ("period", self.period.is_some()),
            ("noise", self.noise.is_some()),
            ("spread", self.spread.is_some()),
            ("drift_per_day", self.drift_per_day.is_some()),
            ("decimals", self.decimals.is_some()),
            ("start", self.start.is_some()),
            ("per_hour", self.per_hour.is_some()),
            ("of", self.of.is_some()),
            ("hold", self.hold.is_some()),
            ("probability", self.probability.is_some()),
            ("length", self.length.is_some()),
        ];
        match left.iter().find(|(_, is_left)| *is_left) {
            Some((key, _)) => bail!("{key}: the generator {:?} has no such key", self.generator),
            None => Ok(()),
        }
    }
}

fn needed<T>(key: &str, value: Option<T>) -> Result<T> {
    value.with_context(|| format!("{key}: is missing"))
}

fn number(key: &str, x: f64) -> Result<f64> {
    ensure!(x.abs() <= MAX_NUMBER, "{key}: must be a number up to {MAX_NUMBER:e}");
    Ok(x)
}

fn literal(key: &str, raw: Option<RawLiteral>) -> Result<Literal> {
    Ok(match needed(key, raw)? {
        RawLiteral::Bool(b) => Literal::Bool(b),
        RawLiteral::Integer(n) => Literal::Number(number(key, n.into())?),
        RawLiteral::Number(x) => Literal::Number(number(key, x)?),
        RawLiteral::Text(text) => {
            let longest = MAX_STRING_FIELD_BYTES;
            ensure!(text.len() <= longest, "{key}: a text has at most {longest} bytes");
            Literal::Text(text.into())
        }
    })
}

fn check_key(table: &str, name: &str) -> Result<()> {
    check_name(&format!("{table}.{name:?}"), name)?;
    let reserved: &[&str] = if table == "tags" { &["time", "device", "realm"] } else { &["time"] };
    ensure!(!reserved.contains(&name), "{table}.{name}: is reserved");
    Ok(())
}

fn check_name(key: &str, name: &str) -> Result<()> {
    ensure!(
        (1..=MAX_NAME_BYTES).contains(&name.len())
            && !name.starts_with('_')
            && !name.contains(char::is_control),
        "{key}: a name has 1 to {MAX_NAME_BYTES} bytes, no control characters, and does not begin \
         with _"
    );
    Ok(())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
