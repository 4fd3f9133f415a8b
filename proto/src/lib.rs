//! The wire protocol between a device and the gateway, version 1.
//!
//! The normative text is `PROTOCOL.md` beside this crate. This crate owns the messages, their
//! encoding, the limits and the error codes. It promises that decoding is bounded in depth, size
//! and allocation whatever the bytes are, and that it never panics. It has no I/O and no clock.

pub mod batch;
pub mod code;
pub mod encode;
pub mod limits;
pub mod message;
mod msgpack;
pub mod token;

pub use batch::{Batch, BatchFault, RawReading, RawTime, RawValue, ReadingFault, Readings};
pub use code::ErrorCode;
pub use encode::BatchEncoder;
pub use limits::Limits;
pub use message::{Ack, DeviceMessage, GatewayMessage, Goodbye, Hello, Nack, TimeUnit, Welcome};

/// The WebSocket subprotocol that both sides name in the upgrade.
pub const SUBPROTOCOL: &str = "telemetry.v1.msgpack";

/// Prefix of the second offered subprotocol that carries a token for clients without headers.
pub const BEARER_SUBPROTOCOL_PREFIX: &str = "bearer.";

/// Path of the upgrade request.
pub const PATH: &str = "/v1/telemetry";

/// Largest sequence and stream number: 2⁵³ − 1, exact in every language's number type.
pub const MAX_SEQ: u64 = (1 << 53) - 1;
