//! The log is tried: on the real file system, on a model of one that loses what was not synced,
//! with every bit flipped, with every call failing.

#![allow(clippy::unwrap_used)]

mod corruption;
mod disk;
mod faults;
mod golden;
mod model;
mod model_disk;
mod model_files;
mod rules;
mod script;
