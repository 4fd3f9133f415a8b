//! `gateway log stat|verify|tail`: what is in the log, for people and for scripts.
//!
//! Reads the files, takes no lock and changes nothing, so it works beside a running gateway and
//! without one. What devices wrote is shown escaped: no text of theirs reaches the terminal as a
//! control sequence.

mod stat;
mod tail;
pub mod text;
mod verify;

pub use stat::stat;
pub use tail::{MAX_RECORDS, Options, tail};
pub use verify::verify;

use crate::{log::LogError, record::EnvelopeError};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no log.
    #[error("there is no log in {}: name the gateway's --config or --data-dir", dir.display())]
    NoLog {
        /// The directory.
        dir: PathBuf,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] EnvelopeError),
    /// The output cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

impl InspectError {
    /// Whoever read the output has gone (`| head`): no failure.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn no_log(dir: &Path) -> InspectError {
    InspectError::NoLog { dir: dir.to_owned() }
}
