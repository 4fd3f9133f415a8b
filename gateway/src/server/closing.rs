//! How a connection ends: goodbye, close frame, and the wait for the other side.

use super::{Shared, watched::Watched};
use crate::session::{Close, CloseCode};
use futures_util::{Sink, SinkExt, StreamExt};
use proto::{ErrorCode, GatewayMessage, Goodbye};
use std::{pin::Pin, time::Duration};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Message,
        protocol::{CloseFrame, frame::coding},
    },
};

/// Time for goodbye, close frame and the other side's answer together.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(3);
/// Longest reason in a close frame, in bytes (RFC 6455: 125 with the code).
const MAX_CLOSE_REASON_BYTES: usize = 123;
/// Longest reason in a goodbye, in bytes.
const MAX_REASON_BYTES: usize = 200;
/// When a device may come back that was taken over by itself: not at once, or its two connections
/// would go on taking over from each other.
const TAKEN_OVER_WAIT: Duration = Duration::from_secs(30);
/// When a device may come back that was sent away for what it did.
const OFFENDER_WAIT: Duration = Duration::from_secs(5);

/// Says goodbye and closes. Everything that was handed to the socket before still goes out.
pub(super) async fn close(shared: &Shared, socket: &mut WebSocketStream<Watched>, close: &Close) {
    shared.context.metrics.closed(close.close as u16);
    shared.context.metrics.goodbyes.add(close.code, 1);
    let goodbye = GatewayMessage::Goodbye(Goodbye {
        code: close.code,
        reason: cut(&close.reason, MAX_REASON_BYTES).to_owned(),
        reconnect_after_ms: reconnect_after_ms(shared, close),
    });
    let frame = CloseFrame {
        code: coding::CloseCode::from(close.close as u16),
        reason: cut(&close.reason, MAX_CLOSE_REASON_BYTES).into(),
    };
    let end = async {
        // Errors do not matter here: whoever does not listen any more is not told.
        let _ = send(socket, &goodbye);
        let _ = Pin::new(&mut *socket).start_send(Message::Close(Some(frame)));
        if SinkExt::<Message>::flush(socket).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIME, end).await;
    socket.get_mut().linger().await;
}

/// Answers the close frame of a device.
pub(super) async fn answer(socket: &mut WebSocketStream<Watched>) {
    // The answer is in the socket's buffer already.
    let _ = tokio::time::timeout(CLOSE_TIME, SinkExt::<Message>::flush(socket)).await;
    socket.get_mut().linger().await;
}

/// Puts a message into the socket's buffer; it goes out with the next flush.
pub(super) fn send(
    socket: &mut WebSocketStream<Watched>,
    message: &GatewayMessage,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let mut bytes = Vec::with_capacity(64);
    message.encode(&mut bytes);
    Pin::new(socket).start_send(Message::Binary(Bytes::from(bytes)))
}

/// Each device gets its own slot, so that a fleet does not come back in one second.
fn reconnect_after_ms(shared: &Shared, close: &Close) -> u32 {
    let least = match (close.close, close.code) {
        (CloseCode::TakenOver, _) => TAKEN_OVER_WAIT,
        (CloseCode::GoingAway | CloseCode::Restart, _) => Duration::from_secs(1),
        (_, ErrorCode::Expired | ErrorCode::IdleTimeout) => Duration::ZERO,
        _ => OFFENDER_WAIT,
    };
    let spread_ms =
        u32::try_from(shared.context.config.reconnect_spread.as_millis()).unwrap_or(u32::MAX);
    let least_ms = u32::try_from(least.as_millis()).unwrap_or(u32::MAX);
    least_ms.saturating_add(fastrand::u32(0..=spread_ms))
}

fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_reason_is_cut_between_characters() {
        for (text, bytes, expected) in
            [("", 3, ""), ("abc", 3, "abc"), ("abcd", 3, "abc"), ("aää", 4, "aä"), ("ä", 1, "")]
        {
            assert_eq!(cut(text, bytes), expected);
        }
    }
}
