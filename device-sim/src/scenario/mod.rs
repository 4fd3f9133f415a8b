//! Scenarios: a fleet, its schedule, what goes wrong and what is expected, in a TOML file.
//!
//! The command line reads into the same [`Scenario`] and is stronger than the file. `scale` makes
//! the fleet smaller, `speed` plays everything faster: every duration is divided by it.

mod fault;
mod fleet;

pub use fault::RawFault;
pub use fleet::{RawFleet, fleet};

use crate::expect::Expectation;
use crate::plan::{Fault, Kind, Mode, Phase, Plan};
use crate::units::Span;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// Slowest and fastest that a scenario is played.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.001..=100_000.0;
const S: u64 = 1_000_000_000;

/// What a file says; every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One sentence on what it shows.
    pub shows: Option<String>,
    /// Number of devices.
    pub devices: Option<u32>,
    /// What they measure.
    pub profile: Option<RawFleet>,
    /// How long batches are due.
    pub duration: Option<Span>,
    /// Time over which the devices connect.
    pub ramp: Option<Span>,
    /// From one batch of a device to its next, for all profiles.
    pub interval: Option<Span>,
    /// Readings in a batch, for all profiles.
    pub batch: Option<u32>,
    /// How batches are written, for all profiles.
    pub mode: Option<Mode>,
    /// Batches that a device keeps, for all profiles.
    pub outbox: Option<u32>,
    /// Devices that connect so often, flush and leave; for all profiles.
    pub connect_every: Option<Span>,
    /// Longest wait for acknowledgements after the last batch was due.
    pub drain_timeout: Option<Span>,
    /// Changes of the rate.
    #[serde(default)]
    pub load: Vec<RawPhase>,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<RawFault>,
    /// What the report and the store must show.
    #[serde(default)]
    pub expect: Vec<String>,
    /// How it is played in seconds: by `--short`, and by the tests.
    pub short: Option<Pace>,
}

/// How large and how fast a scenario is played.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Share of the devices.
    #[serde(default = "whole")]
    pub scale: f64,
    /// So many times as fast.
    #[serde(default = "whole")]
    pub speed: f64,
}

fn whole() -> f64 {
    1.0
}

/// From this moment on the rate is another.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPhase {
    at: Span,
    rate: f64,
}

impl std::str::FromStr for RawPhase {
    type Err = String;

    /// `30s=2.5`
    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("{text:?} is not TIME=RATE such as 30s=2.5");
        let (at, rate) = text.split_once('=').ok_or_else(usage)?;
        Ok(Self { at: at.trim().parse()?, rate: rate.trim().parse().map_err(|_| usage())? })
    }
}

/// A scenario that can be played.
#[derive(Debug)]
pub struct Playable {
    /// All but what names the run: `run`, `seed`, `prefix`, `stream`, `start_seq`, `base_ns`.
    pub plan: Plan,
    /// Longest wait for acknowledgements after the schedule.
    pub drain_timeout: Duration,
    /// What the report of the run must show.
    pub of_the_run: Vec<Expectation>,
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or a key is unknown or has a value that cannot be; the message names both
    /// file and key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("the scenario {}", path.display()))
    }

    /// What is to be played. Files of profiles are looked for beside `folder`.
    ///
    /// # Errors
    /// A value is outside its limits, or a file of a profile cannot be read.
    pub fn prepare(&self, pace: Pace, folder: &Path) -> Result<Playable> {
        ensure!(pace.scale > 0.0 && pace.scale <= 1_000.0, "--scale must be above 0, at most 1000");
        ensure!(SPEEDS.contains(&pace.speed), "--speed must be 0.001 to 100000");
        let time =
            |span: Option<Span>, default_ns: u64| pace.time(span.map_or(default_ns, |s| s.0));
        let devices = self.devices.unwrap_or(200);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        let devices = ((f64::from(devices) * pace.scale).round() as u32).max(devices.min(1));
        let (of_the_run, of_the_store) = self.expectations()?;
        let duration_ns = time(self.duration, 20 * S);
        let faults = self.fault.iter().map(|fault| fault.prepare(pace, duration_ns));
        let plan = Plan {
            run: 0,
            seed: 1,
            prefix: "sim-".to_owned(),
            kinds: self.kinds(pace, folder)?,
            devices,
            stream: None,
            start_seq: 1,
            base_ns: 0,
            ramp_ns: time(self.ramp, 5 * S),
            duration_ns,
            load: self.load.iter().map(|phase| phase.prepare(pace)).collect::<Result<_>>()?,
            faults: faults.collect::<Result<Vec<Fault>>>()?,
            expect: of_the_store,
            shard: None,
            closed_loop: None,
            replay: None,
        };
        let drain_timeout = Duration::from_nanos(self.drain_timeout.map_or(30 * S, |span| span.0));
        Ok(Playable { plan, drain_timeout, of_the_run })
    }

    fn kinds(&self, pace: Pace, folder: &Path) -> Result<Vec<Kind>> {
        let mut kinds = match &self.profile {
            Some(raw) => raw.kinds(folder)?,
            None => fleet("environment")?.kinds(folder)?,
        };
        for kind in &mut kinds {
            kind.interval_ns = self.interval.map_or(kind.interval_ns, |span| span.0);
            kind.batch = self.batch.unwrap_or(kind.batch);
            kind.mode = self.mode.unwrap_or(kind.mode);
            kind.outbox = self.outbox.unwrap_or(kind.outbox);
            kind.connect_every_ns = self.connect_every.map(|span| span.0).or(kind.connect_every_ns);
            kind.interval_ns = pace.time(kind.interval_ns);
            kind.connect_every_ns = kind.connect_every_ns.map(|every| pace.time(every));
            if let Some(zones) = &mut kind.dead_zones {
                zones.every_ns = pace.time(zones.every_ns);
                zones.lasts_ns = pace.time(zones.lasts_ns);
            }
        }
        Ok(kinds)
    }

    /// What is expected: of the run, and of the store, which only `verify` can judge.
    fn expectations(&self) -> Result<(Vec<Expectation>, Vec<String>)> {
        let (mut of_the_run, mut of_the_store) = (Vec::new(), Vec::new());
        for text in &self.expect {
            let read: Expectation = text
                .parse()
                .map_err(anyhow::Error::msg)
                .with_context(|| format!("expect: {text:?}"))?;
            if read.is_of_the_store() {
                of_the_store.push(text.clone());
            } else {
                of_the_run.push(read);
            }
        }
        Ok((of_the_run, of_the_store))
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { scale: 1.0, speed: 1.0 }
    }
}

impl Pace {
    /// A duration as it is played.
    pub(crate) fn time(self, ns: u64) -> u64 {
        if self.speed == 1.0 {
            return ns;
        }
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second do not count")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        {
            (ns as f64 / self.speed).round() as u64
        }
    }
}

impl RawPhase {
    fn prepare(self, pace: Pace) -> Result<Phase> {
        ensure!((0.0..=1_000.0).contains(&self.rate), "load: the rate must be 0 to 1000");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        let rate_milli = (self.rate * 1_000.0).round() as u32;
        Ok(Phase { from_ns: pace.time(self.at.0), rate_milli })
    }
}

#[cfg(test)]
mod tests;
