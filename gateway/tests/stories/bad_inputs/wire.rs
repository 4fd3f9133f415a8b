//! A WebSocket by hand: any bytes can be sent as a frame, and what comes back is taken apart.

use super::Fate;
use proto::{ErrorCode, GatewayMessage, Nack};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

pub(super) const BINARY: u8 = 0x82;
pub(super) const TEXT: u8 = 0x81;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;

/// An upgraded connection.
pub(super) struct Wire {
    stream: TlsStream<TcpStream>,
    received: Vec<u8>,
}

impl Wire {
    /// Sends a request. An error is the status of the answer, 0 if there was none.
    pub(super) async fn upgrade(
        mut stream: TlsStream<TcpStream>,
        request: &[u8],
    ) -> Result<Self, u16> {
        // The gateway may refuse before it has read everything.
        let _ = stream.write_all(request).await;
        let _ = stream.flush().await;
        let mut received = Vec::new();
        loop {
            let ended = !matches!(stream.read_buf(&mut received).await, Ok(1..));
            let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            let status = String::from_utf8_lossy(received.get(9..12).unwrap_or_default()).parse();
            match (head, status.unwrap_or(0)) {
                (Some(head), 101) => {
                    received.drain(..head + 4);
                    return Ok(Self { stream, received });
                }
                (_, status) if ended => return Err(status),
                _ => {}
            }
        }
    }

    /// Sends bytes as they are; the gateway may have closed before the last of them.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        // Without this, TLS may keep some of it back.
        let _ = self.stream.flush().await;
    }

    /// Ends the connection's sending half, without a close frame.
    pub(super) async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, length, ..] = *self.received {
                assert!(length < 127, "the gateway sends short messages");
                let (head, length) = match (length, &*self.received) {
                    (126, [_, _, high, low, ..]) => (4, u16::from_be_bytes([*high, *low]).into()),
                    (126, _) => (4, usize::MAX - 4),
                    (short, _) => (2, usize::from(short)),
                };
                if self.received.len() >= head + length {
                    let payload = self.received[head..head + length].to_vec();
                    self.received.drain(..head + length);
                    return Some((first, payload));
                }
            }
            if !matches!(self.stream.read_buf(&mut self.received).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// What comes of the batch that was sent.
    pub(super) async fn fate(&mut self) -> Fate {
        let mut complaint = None;
        let mut goodbye: Option<ErrorCode> = None;
        while let Some((first, payload)) = self.frame().await {
            if first == CLOSE {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                return goodbye.map_or(Fate::Answered(code), |why| Fate::Closed(code, why));
            }
            if first != BINARY {
                continue;
            }
            match GatewayMessage::decode(&payload).unwrap() {
                GatewayMessage::Welcome(_) => {}
                GatewayMessage::Ack(_) => return complaint.unwrap_or(Fate::Taken),
                GatewayMessage::Nack(nack) => {
                    let fate = complaint_of(&nack);
                    if nack.expected.is_some() || nack.code == ErrorCode::SeqReused {
                        return fate;
                    }
                    complaint = Some(fate);
                }
                GatewayMessage::Goodbye(message) => goodbye = Some(message.code),
            }
        }
        Fate::Gone
    }
}

fn complaint_of(nack: &Nack) -> Fate {
    match nack.readings.first() {
        Some(first) => Fate::Reading(first.code),
        None => Fate::Batch(nack.code),
    }
}

/// A masked frame; the mask is zero, so that the payload stands as it is.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        middle @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}
