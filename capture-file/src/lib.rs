//! The file in which a gateway captures a sample of its traffic, for replay.
//!
//! Owns the format, which is a promise: `FORMAT.md` beside this crate, held by a golden file. The
//! writer keeps what it is given; whose identities and texts are replaced is decided before. The
//! reader promises that damage, truncation, a foreign file and a newer version are each said, and
//! that no length is believed that exceeds [`MAX_FRAME_BYTES`].

mod read;
mod transcode;
mod write;

pub use read::{CaptureError, Reader, Record, batch_in};
pub use transcode::{TranscodeError, transcode};
pub use write::{Mark, Writer};

use serde::{Deserialize, Serialize};

/// First bytes of a capture.
pub const MAGIC: [u8; 8] = *b"\x89GWCAP\r\n";
/// Version of the format.
pub const VERSION: u16 = 1;
/// Largest body of a frame, in bytes.
pub const MAX_FRAME_BYTES: u32 = 64 * 1024 * 1024;

/// Length of a frame before its body, in bytes.
const FRAME_HEAD_BYTES: usize = 9;
const HEADER: u8 = 1;
const DEVICE: u8 = 2;
const BATCH: u8 = 3;
const END: u8 = 4;

/// What was sampled, and what was done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Which tool wrote it, with its version.
    pub tool: String,
    /// Beginning of the sample, nanoseconds since the Unix epoch: a whole second.
    pub from_ns: i64,
    /// So many of so many devices were taken.
    pub share: [u32; 2],
    /// Tags whose values are as they were.
    pub kept_tags: Vec<String>,
    /// Fields whose texts are as they were.
    pub kept_fields: Vec<String>,
    /// Fields whose values were blanked.
    pub blanked_fields: Vec<String>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// 0, 1, … in the order of the file.
    pub number: u32,
    /// A keyed hash of what it was called.
    pub name: String,
    /// A keyed hash of its realm.
    pub realm: String,
}

/// A batch as it came, without its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHead<'a> {
    /// Number of its device.
    pub device: u32,
    /// When it came, microseconds after [`Header::from_ns`].
    pub arrival_us: u64,
    /// Number of the stream within the device.
    pub stream: u16,
    /// Sequence numbers of the stream that were skipped before it.
    pub skipped: u32,
    /// Readings in it.
    pub readings: u32,
    /// Readings that were refused and left out.
    pub left_out: u32,
    /// Measurement of the readings that name none; empty if there is none.
    pub measurement: &'a str,
}

/// What ended a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// All that was there was read.
    CaughtUp,
    /// The time was over.
    Duration,
    /// The file was as large as it may be.
    Limit,
    /// The disk had too little room left.
    Disk,
    /// A person.
    Interrupted,
}

/// What is in the file, said at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// End of the sample, nanoseconds since the Unix epoch.
    pub to_ns: i64,
    /// Devices.
    pub devices: u32,
    /// Batches.
    pub batches: u64,
    /// Readings.
    pub readings: u64,
    /// Readings that were refused and left out.
    pub left_out: u64,
    /// Sequence numbers that were skipped.
    pub skipped: u64,
    /// Records of the log that could not be read, whatever was wrong with them.
    pub missing_records: u64,
    /// Why there is no more.
    pub ended_by: EndedBy,
}
