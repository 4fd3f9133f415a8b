//! What goes in and out of a session.

use super::Patience;
use crate::record::{Identity, Refusal};
use proto::{
    Ack, ErrorCode, GatewayMessage, Limits,
    message::{AckMode, RefusedReading, Window},
};
use std::sync::Arc;

/// The moment of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Microseconds of a clock that never goes back.
    pub us: u64,
    /// Wall clock, milliseconds since the Unix epoch.
    pub unix_ms: i64,
}

/// What is the same for every connection.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How much a device may have under way.
    pub window: Window,
    /// The limits in force.
    pub limits: Limits,
    /// What an ack means.
    pub ack: AckMode,
    /// How long to wait for the device.
    pub patience: Patience,
}

/// Who is connected.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Names this connection in the gateway's logs.
    pub session: Box<str>,
    /// What the credential proved.
    pub identity: Identity,
    /// When the credential expires, on the clock of [`Now::us`].
    pub expires_us: Option<u64>,
}

/// What the session needs to know about a batch that was decoded and validated.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Its sequence number.
    pub seq: u64,
    /// Size of the message, in bytes.
    pub bytes: u32,
    /// Refused readings, ascending by index.
    pub refused: Arc<[Refusal]>,
    /// The first of them with field and detail.
    pub details: Vec<RefusedReading>,
    /// The whole batch is refused for good.
    pub refused_whole: Option<(ErrorCode, String)>,
    /// The batch cannot be taken now: why, and when it may come again, in milliseconds.
    pub retry: Option<(ErrorCode, u32)>,
}

/// WebSocket close codes that the gateway sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// 1001: the gateway shuts down.
    GoingAway = 1001,
    /// 1002: against RFC 6455.
    Protocol = 1002,
    /// 1003: text.
    Unsupported = 1003,
    /// 1007: not MessagePack, or not a message.
    Invalid = 1007,
    /// 1008: policy.
    Policy = 1008,
    /// 1009: too large.
    TooLarge = 1009,
    /// 1011: our fault.
    Internal = 1011,
    /// 1012: restart.
    Restart = 1012,
    /// 1013: overloaded or log full.
    TryAgain = 1013,
    /// 4001: taken over by a newer connection.
    TakenOver = 4001,
}

impl CloseCode {
    /// Every code.
    pub const ALL: [Self; 10] = [
        Self::GoingAway,
        Self::Protocol,
        Self::Unsupported,
        Self::Invalid,
        Self::Policy,
        Self::TooLarge,
        Self::Internal,
        Self::Restart,
        Self::TryAgain,
        Self::TakenOver,
    ];
}

/// How and why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Close code of the WebSocket.
    pub close: CloseCode,
    /// Code of the goodbye.
    pub code: ErrorCode,
    /// For a person.
    pub reason: String,
}

/// What the shell has to do. `B` is what is submitted; the session only passes it on.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<B> {
    /// Ask the committer where the stream stands, once no older connection of the device submits
    /// any more. Without a name it is the private stream of this connection.
    OpenStream(Option<u64>),
    /// Hand the batch to the committer.
    Submit {
        /// It may leave a gap behind the last admitted sequence number.
        may_skip: bool,
        /// The batch.
        body: B,
    },
    /// Send a welcome or a nack.
    Send(Box<GatewayMessage>),
    /// Send an ack.
    Ack {
        /// The ack.
        ack: Ack,
        /// When the oldest of the batches of this connection that it covers was received.
        received_us: Option<u64>,
    },
    /// Send a ping.
    Ping,
    /// Say goodbye and close. Nothing comes after it.
    Close(Close),
}
