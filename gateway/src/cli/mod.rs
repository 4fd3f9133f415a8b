//! The subcommands that have files of their own.

pub(crate) mod capture;
pub(crate) mod known;
pub(crate) mod quarantine;
