//! The messages that are not hot: everything but the inside of a batch.

mod decode;
mod encode;

use crate::{ErrorCode, Limits};
use serde::{Deserialize, Serialize};

/// Unit of the integers in `time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum TimeUnit {
    /// Seconds.
    S = 0,
    /// Milliseconds.
    #[default]
    Ms = 1,
    /// Microseconds.
    Us = 2,
    /// Nanoseconds.
    Ns = 3,
}

impl TimeUnit {
    /// Nanoseconds in one unit.
    pub const fn nanos(self) -> i64 {
        match self {
            TimeUnit::S => 1_000_000_000,
            TimeUnit::Ms => 1_000_000,
            TimeUnit::Us => 1_000,
            TimeUnit::Ns => 1,
        }
    }

    /// The unit of a number in a log record.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(TimeUnit::S),
            1 => Some(TimeUnit::Ms),
            2 => Some(TimeUnit::Us),
            3 => Some(TimeUnit::Ns),
            _ => None,
        }
    }
}

/// First message of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hello {
    /// The device's stream, 1 to 2⁵³−1; absent: private to this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<u64>,
    /// Unit of `time` in the readings.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// Measurement of the readings that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurement: Option<String>,
    /// Largest message that the device can take, in bytes; default 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rx: Option<u32>,
    /// Firmware version, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Hardware model, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// How much a device may have under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Batches sent and not yet acknowledged.
    pub batches: u32,
    /// Bytes of those batches.
    pub bytes: u32,
}

/// What an ack of this gateway means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// The record was synced to the gateway's disk.
    #[default]
    Durable,
    /// Besides, every required store has it.
    Stored,
}

/// Answer to `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Names this connection in the gateway's logs.
    pub session: String,
    /// The device id that the credential proved.
    pub device: String,
    /// The realm that the credential belongs to.
    pub realm: String,
    /// The gateway's clock, milliseconds since the Unix epoch.
    pub time: i64,
    /// Everything up to here is acknowledged; nil for a new stream.
    pub acked_seq: Option<u64>,
    /// Everything up to here need not be sent again; nil for a new stream.
    pub logged_seq: Option<u64>,
    /// How much may be under way.
    pub window: Window,
    /// The limits in force.
    pub limits: Limits,
    /// Seconds of silence after which the gateway pings.
    pub ping_s: u32,
    /// What an ack means.
    pub ack: AckMode,
}

/// Everything up to `seq` is as safe as the mode says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Cumulative sequence number.
    pub seq: u64,
    /// The gateway's clock, milliseconds since the Unix epoch.
    pub time: i64,
}

/// A reading that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedReading {
    /// Index in `readings`, or row in `columns`, from 0.
    pub index: u32,
    /// Why.
    pub code: ErrorCode,
    /// The field or tag that was at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// For a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A batch, or part of it, was not taken. Exactly one of `readings`, `refused`,
/// `retry_after_ms` and `expected` says what that means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The batch.
    pub seq: u64,
    /// Why; for refused readings the code of the first.
    pub code: ErrorCode,
    /// These readings are refused for good; the others are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<RefusedReading>,
    /// How many refused readings are not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u32>,
    /// The whole batch is refused for good and its sequence number consumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<bool>,
    /// Nothing was kept: send this sequence number again after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
    /// Nothing was kept: this sequence number comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// For a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Before the gateway closes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Why.
    pub code: ErrorCode,
    /// For a person.
    pub reason: String,
    /// The device's own slot to come back, in milliseconds from now.
    pub reconnect_after_ms: u32,
}

/// A message from a device. The body of a batch is left as it came: see [`crate::Batch`].
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceMessage<'a> {
    /// `hello`.
    Hello(Hello),
    /// `batch`: the bytes of the body.
    Batch(&'a [u8]),
    /// `result`, `auth`: reserved in this version, ignored.
    Reserved(&'static str),
}

/// A message from the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayMessage {
    /// Answer to `hello`.
    Welcome(Welcome),
    /// Cumulative acknowledgement.
    Ack(Ack),
    /// Refusal.
    Nack(Nack),
    /// The gateway closes.
    Goodbye(Goodbye),
}

/// A message that is refused as a whole, with what the connection answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct MessageError {
    /// The code.
    pub code: ErrorCode,
    /// What is wrong and at which byte, for a person.
    pub detail: String,
}
