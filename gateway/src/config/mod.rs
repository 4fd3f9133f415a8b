//! Configuration: text and environment in, one complete and valid [`Config`] out.
//!
//! The way: TOML and `GATEWAY__…` variables → `tree` (values that know where they came from)
//! → `raw` (serde, unknown keys refused) → [`valid`] (meaning checked, defaults filled). Nothing
//! behind this room ever sees a value that was not checked. Every key is documented in
//! `deploy/gateway.toml`; a test holds that page to the code.
//!
//! It refuses: unknown keys (naming the nearest right one), wrong types and units, values out of
//! range, combinations that break a promise, files that are missing.

mod check;
mod de;
mod raw;
mod tree;
mod units;
pub mod valid;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use units::{format_duration, parse_duration, parse_size};
pub use valid::Config;

/// Prefix of environment variables that override keys: `GATEWAY__SERVER__LISTEN`.
pub const ENVIRONMENT_PREFIX: &str = "GATEWAY__";

/// `deploy/gateway.toml`: every key with its meaning, default and unit.
const DOCUMENTED: &str = include_str!("../../../deploy/gateway.toml");

/// Where a configured value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A default, or a flag of the command line.
    Unknown,
}

/// Why a configuration was refused: one sentence, with the place if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file and line, or the variable.
    pub origin: Origin,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File { path, line } => write!(f, "{}:{line}: ", path.display())?,
            Origin::Environment(name) => write!(f, "environment variable {name}: ")?,
            Origin::Unknown => {}
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// What the command line says on top of the file; stronger than file and environment.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--host`: added to `tls.hosts`.
    pub hosts: Vec<String>,
}

/// Reads the file (or takes the defaults), applies the environment and the command line, and
/// checks everything.
///
/// # Errors
/// The first thing that is wrong, as a sentence.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: Overrides,
) -> Result<Config, ConfigError> {
    let text = file.map(read).transpose()?.unwrap_or_default();
    parse(&text, file.unwrap_or(Path::new("")), environment, overrides).map(|(_, config)| config)
}

/// As [`load`], and gives the configuration in force as TOML, defaults filled in. Secrets appear
/// as the names of their files only.
///
/// # Errors
/// The first thing that is wrong, as a sentence.
pub fn effective(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: Overrides,
) -> Result<String, ConfigError> {
    let text = file.map(read).transpose()?.unwrap_or_default();
    let path = file.unwrap_or(Path::new(""));
    let (raw, _) = parse(&text, path, environment, overrides)?;
    toml::to_string(&raw).map_err(|error| ConfigError {
        origin: Origin::Unknown,
        message: format!("cannot print the configuration: {error}"),
    })
}

fn parse(
    text: &str,
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: Overrides,
) -> Result<(raw::Raw, Config), ConfigError> {
    let mut tree = tree::from_toml(text, path)?;
    tree::overlay(&mut tree, environment);
    let mut raw: raw::Raw = de::from_tree(&tree)?;
    if let Some(data_dir) = overrides.data_dir {
        raw.data_dir = data_dir;
    }
    raw.tls.hosts.extend(overrides.hosts);
    raw.fill();
    let config = valid::Config::try_from(&raw).map_err(|invalid| invalid.locate(&tree))?;
    Ok((raw, config))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError {
        origin: Origin::Unknown,
        message: format!(
            "cannot read the configuration file {}: {error}; name the right one with --config, or \
             leave --config away to run on the defaults",
            path.display()
        ),
    })
}

/// Every key of the configuration with its full path; sinks are named as in the page.
pub(crate) fn known_keys() -> std::collections::BTreeSet<String> {
    // The page is the widest document there is once its commented examples count, too; a test
    // holds it to the raw structs.
    match tree::from_toml(&with_examples(DOCUMENTED), Path::new("deploy/gateway.toml")) {
        // One struct has the keys of all types of sinks: those stand only where they mean something.
        Ok(tree) => {
            let mut keys = de::keys_seen::<raw::Raw>(&tree);
            keys.retain(|key| !key.starts_with("sinks.") || tree.has(key));
            keys
        }
        Err(_) => std::collections::BTreeSet::new(),
    }
}

/// The page with its commented-out examples taken in: lines of the form `#key = …` and `#[table]`
/// (no space after the mark; prose has one).
fn with_examples(page: &str) -> String {
    page.lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests;
