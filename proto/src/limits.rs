//! The named limits of the protocol and their defaults.

use serde::{Deserialize, Serialize};

/// Longest device id, in bytes.
pub const MAX_DEVICE_ID_BYTES: usize = 128;
/// Longest measurement, field or tag name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest tag value, in bytes.
pub const MAX_TAG_VALUE_BYTES: usize = 256;
/// Longest string field, in bytes.
pub const MAX_STRING_FIELD_BYTES: usize = 4096;
/// Longest `firmware` and `model` in `hello`, in bytes.
pub const MAX_ABOUT_BYTES: usize = 128;
/// Largest message to a device that does not say `max_rx`, in bytes.
pub const DEFAULT_MAX_RX: u32 = 4096;
/// Smallest `max_rx` that is taken, in bytes: every `welcome` and `goodbye` fits.
pub const MIN_MAX_RX: u32 = 1024;
/// Most refused readings that one `nack` lists; more are counted in `more`.
pub const MAX_NACK_READINGS: usize = 16;
/// Largest integer magnitude that a float holds exactly: 2⁵³.
pub const MAX_EXACT_INTEGER: i64 = 1 << 53;

/// Limits that the gateway announces in `welcome` and enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Largest WebSocket message from a device, in bytes.
    pub message_bytes: u32,
    /// Most readings (or column rows) in a batch.
    pub readings: u32,
    /// Most fields in a reading.
    pub fields: u32,
    /// Most tags in a reading.
    pub tags: u32,
    /// Deepest nesting of maps and arrays in a message.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 256 * 1024, readings: 5_000, fields: 64, tags: 16, depth: 8 }
    }
}

impl Limits {
    /// Limits for bytes that were accepted under other limits before: only the depth is bounded.
    pub const fn unbounded() -> Self {
        Self {
            message_bytes: u32::MAX,
            readings: u32::MAX,
            fields: u32::MAX,
            tags: u32::MAX,
            depth: 32,
        }
    }
}
