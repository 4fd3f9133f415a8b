//! A fleet by its profiles: one, or several with weights.

use crate::plan::{Kind, MAX_KINDS, MAX_WEIGHT};
use crate::profile::{Profile, custom};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// `"vehicle"`, or `{ environment = 3, "my.toml" = 1 }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a profile, or a table of profiles with weights")]
pub enum RawFleet {
    /// All devices are the same.
    One(String),
    /// Weights by profile.
    Mixed(BTreeMap<String, u32>),
}

/// Reads `vehicle` or `environment=3,my.toml=1`.
///
/// # Errors
/// A weight is no number.
pub fn fleet(text: &str) -> Result<RawFleet> {
    if !text.contains([',', '=']) {
        return Ok(RawFleet::One(text.trim().to_owned()));
    }
    let mut weights = BTreeMap::new();
    for part in text.split(',') {
        let (name, weight) = part.rsplit_once('=').unwrap_or((part, "1"));
        let weight = weight
            .trim()
            .parse()
            .with_context(|| format!("the weight {weight:?} is not a whole number"))?;
        let earlier = weights.insert(name.trim().to_owned(), weight);
        ensure!(earlier.is_none(), "the profile {name} is named twice");
    }
    Ok(RawFleet::Mixed(weights))
}

impl RawFleet {
    /// The kinds of devices; files are looked for in `folder`.
    pub(super) fn kinds(&self, folder: &Path) -> Result<Vec<Kind>> {
        let weights = match self {
            RawFleet::One(name) => vec![(name, 1)],
            RawFleet::Mixed(weights) => {
                weights.iter().map(|(name, weight)| (name, *weight)).collect()
            }
        };
        ensure!(
            (1..=MAX_KINDS).contains(&weights.len()),
            "profile: a fleet has 1 to {MAX_KINDS} profiles"
        );
        weights
            .into_iter()
            .map(|(name, weight)| {
                ensure!(
                    (1..=MAX_WEIGHT).contains(&weight),
                    "profile: the weight of {name} must be 1 to {MAX_WEIGHT}"
                );
                Ok(Kind { weight, ..kind(name, folder)? })
            })
            .collect()
    }
}

fn kind(name: &str, folder: &Path) -> Result<Kind> {
    if name.ends_with(".toml") {
        return custom::file::read(&folder.join(name));
    }
    match Profile::BUILT_IN.into_iter().find(|profile| profile.measurement() == name) {
        Some(profile) => Ok(Kind::of(profile)),
        None => bail!(
            "there is no profile {name:?}: it is one of {}, or a file that ends in .toml",
            Profile::BUILT_IN.map(|profile| profile.measurement()).join(", ")
        ),
    }
}
