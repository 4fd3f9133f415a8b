//! The WebSocket of a device: its limits, and what its errors mean.

use crate::{
    server::{Shared, frames::Excess, watched::Watched},
    session::{Close, CloseCode},
};
use bytes::Bytes;
use proto::ErrorCode;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError,
        error::{CapacityError, ProtocolError},
        protocol::{Role, WebSocketConfig},
    },
};

/// Read at once from the TLS stream; allocated for as long as the connection lives.
const READ_BUFFER_BYTES: usize = 1024;
/// Written at once to the TLS stream.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;
/// Most that waits for a device to read it; then it is closed.
const MAX_WRITE_BUFFER_BYTES: usize = 256 * 1024;
/// Takes over a stream after the upgrade; `early` was read of it already.
pub(super) fn web_socket(
    stream: Watched,
    early: Bytes,
    shared: &Shared,
) -> WebSocketStream<Watched> {
    let message_bytes = shared.settings.limits.message_bytes as usize;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
        .max_message_size(Some(message_bytes))
        .max_frame_size(Some(message_bytes));
    // The constructor is asynchronous in name only.
    let made =
        WebSocketStream::from_partially_read(stream, early.into(), Role::Server, Some(config));
    match futures_util::FutureExt::now_or_never(made) {
        Some(socket) => socket,
        None => unreachable!("a WebSocket without a handshake is made at once"),
    }
}

/// How to close after a read has failed; `None` if the device has gone.
pub(super) fn offence(error: &WsError, excess: Option<Excess>) -> Option<Close> {
    let (close, code, reason) = match error {
        WsError::Io(_) => {
            let reason = match excess? {
                Excess::ControlFrames => "too many control frames",
                Excess::Fragments => "a message in too many pieces",
            };
            (CloseCode::Policy, ErrorCode::Flood, reason.to_owned())
        }
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            let reason = format!("{size} bytes, the limit is {max_size}");
            (CloseCode::TooLarge, ErrorCode::TooLarge, reason)
        }
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)
        | WsError::ConnectionClosed
        | WsError::AlreadyClosed => return None,
        WsError::Protocol(error) => {
            (CloseCode::Protocol, ErrorCode::ProtocolError, error.to_string())
        }
        // Text that is not UTF-8 is text first of all.
        WsError::Utf8(_) => {
            (CloseCode::Unsupported, ErrorCode::TextMessage, "messages are binary".to_owned())
        }
        _ => return None,
    };
    Some(Close { close, code, reason })
}
