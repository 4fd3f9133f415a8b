//! A fault as a file or the command line has it.

use super::Pace;
use crate::plan::{Fault, Trouble};
use crate::units::Span;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// `[[fault]]`, or `--fault 'drop at=10s share=0.5'`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFault {
    kind: RawKind,
    at: Option<Span>,
    lasts: Option<Span>,
    share: Option<f64>,
    spread: Option<Span>,
    every: Option<Span>,
    bytes_per_s: Option<u32>,
    offset: Option<String>,
    ratio: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawKind {
    Drop,
    HalfOpen,
    Repeat,
    Reuse,
    Skip,
    Malformed,
    Gap,
    Offline,
    Slow,
    Deaf,
    ClockSkew,
    Poison,
    BadBatch,
    BadCredential,
}

impl std::str::FromStr for RawFault {
    type Err = String;

    /// The kind, then `key=value` in any order.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let kind = words.next().ok_or("a fault begins with its kind")?;
        let mut table = toml::Table::new();
        table.insert("kind".to_owned(), kind.into());
        for word in words {
            let (key, value) =
                word.split_once('=').ok_or_else(|| format!("{word:?} is not KEY=VALUE"))?;
            let number = value.parse::<i64>().map(toml::Value::from);
            let number = number.or_else(|_| value.parse::<f64>().map(toml::Value::from));
            table.insert(key.to_owned(), number.unwrap_or_else(|_| value.into()));
        }
        table.try_into().map_err(|error| format!("{error}").trim().to_owned())
    }
}

impl RawFault {
    pub(super) fn prepare(&self, pace: Pace, duration_ns: u64) -> Result<Fault> {
        let trouble = self.trouble(pace).with_context(|| format!("fault {:?}", self.kind))?;
        let from_ns = self.at.map_or(0, |at| pace.time(at.0));
        let rest = duration_ns.saturating_sub(from_ns);
        let lasts_ns = self.lasts.map_or(rest, |lasts| pace.time(lasts.0));
        let every_ns = self.every.map(|every| pace.time(every.0));
        // Moments are spread as far as they can be, stretches begin for all at once.
        let spread_ns = match (self.spread, every_ns) {
            (Some(spread), _) => pace.time(spread.0),
            (None, _) if !trouble.is_momentary() => 0,
            (None, every) => every.map_or(lasts_ns, |every| every.min(lasts_ns)),
        };
        let share = self.share.unwrap_or(1.0);
        Ok(Fault { trouble, from_ns, lasts_ns, share, spread_ns, every_ns })
    }

    fn trouble(&self, pace: Pace) -> Result<Trouble> {
        let Self { kind, bytes_per_s, ratio, .. } = *self;
        for (key, is_set, of) in [
            ("bytes_per_s", bytes_per_s.is_some(), &[RawKind::Slow][..]),
            ("offset", self.offset.is_some(), &[RawKind::ClockSkew]),
            ("ratio", ratio.is_some(), &[RawKind::Poison, RawKind::BadBatch]),
        ] {
            ensure!(!is_set || of.contains(&kind), "{key}: this fault has no such key");
            ensure!(is_set || !of.contains(&kind), "{key}: is missing");
        }
        let ratio = ratio.unwrap_or(0.0);
        Ok(match kind {
            RawKind::Drop => Trouble::Drop,
            RawKind::HalfOpen => Trouble::HalfOpen,
            RawKind::Repeat => Trouble::Repeat,
            RawKind::Reuse => Trouble::Reuse,
            RawKind::Skip => Trouble::Skip,
            RawKind::Malformed => Trouble::Malformed,
            RawKind::Gap => Trouble::Gap,
            RawKind::Offline => Trouble::Offline,
            RawKind::Deaf => Trouble::Deaf,
            RawKind::Poison => Trouble::Poison { ratio },
            RawKind::BadBatch => Trouble::BadBatch { ratio },
            RawKind::BadCredential => Trouble::BadCredential,
            RawKind::Slow => {
                let bytes = f64::from(bytes_per_s.unwrap_or(0)) * pace.speed;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "caps")]
                Trouble::Slow { bytes_per_s: bytes.round() as u32 }
            }
            RawKind::ClockSkew => {
                Trouble::ClockSkew { offset_ns: offset(self.offset.as_deref().unwrap_or(""))? }
            }
        })
    }
}

/// A duration with a sign: `-3h`, `2h`.
fn offset(text: &str) -> Result<i64> {
    let (sign, length) = match text.strip_prefix('-') {
        Some(length) => (-1, length),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let Span(ns) = length.parse().map_err(anyhow::Error::msg).context("offset")?;
    match i64::try_from(ns) {
        Ok(ns) if ns > 0 => Ok(sign * ns),
        _ => bail!("offset: must not be 0"),
    }
}
