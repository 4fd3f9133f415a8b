//! The WebSocket upgrade of a link, which leaves no large buffer behind.
//!
//! tungstenite reads the answer to the upgrade into a buffer of 4 KiB and goes on with that buffer
//! for the life of the link, whatever read buffer it is told to use; in a fleet that is a quarter of
//! what a device takes. So the upgrade is done on a stream that ends with the head of the answer,
//! and the link begins anew with what came after it.

use super::pipe::Pipe;
use super::tls::TlsStream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, http};

/// Upgrades a connection. Cancel safe: a dropped attempt takes its connection with it.
///
/// # Errors
/// The other side closed, or answered anything but a proper upgrade.
pub(super) async fn upgrade(
    request: http::Request<()>,
    stream: TlsStream<Pipe>,
    config: WebSocketConfig,
) -> Result<Box<WebSocketStream<TlsStream<Pipe>>>, tungstenite::Error> {
    let head = Head::new(stream);
    let (link, _) =
        tokio_tungstenite::client_async_with_config(request, head, Some(config)).await?;
    let Head { stream, rest, .. } = link.into_inner();
    let link = WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(config));
    Ok(Box::new(link.await))
}

/// A stream that gives nothing beyond the head of an HTTP answer.
struct Head<S> {
    stream: S,
    /// Nothing of the line has come so far but perhaps the first half of its end.
    line_is_empty: bool,
    ended: bool,
    /// What came after it.
    rest: Vec<u8>,
}

impl<S> Head<S> {
    fn new(stream: S) -> Self {
        Self { stream, line_is_empty: false, ended: false, rest: Vec::new() }
    }

    /// How many of these bytes belong to the head: it ends with the first empty line.
    fn take(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            if self.ended {
                return at;
            }
            match byte {
                b'\n' if self.line_is_empty => self.ended = true,
                b'\n' => self.line_is_empty = true,
                b'\r' => {}
                _ => self.line_is_empty = false,
            }
        }
        bytes.len()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Head<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        let head = self.take(came);
        self.rest.extend_from_slice(&came[head..]);
        buf.set_filled(before + head);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Head<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn the_head_ends_at_the_empty_line_however_it_is_cut() {
        const REST: &[u8] = b"\x82\x06\r\n\r\n\n\n";
        for head in [&b"HTTP/1.1 101 x\r\na: b\r\r\n c\r\n\r\n"[..], b"HTTP/1.1 101 x\na: b\n\n"] {
            let answer = [head, REST].concat();
            for cut in 1..answer.len() {
                let (mut gateway, device) = tokio::io::duplex(answer.len());
                let mut stream = Head::new(device);
                let mut read = vec![0; 2 * answer.len()];
                let mut got = 0;
                for piece in [&answer[..cut], &answer[cut..]] {
                    gateway.write_all(piece).await.unwrap();
                    if got < head.len() {
                        got += stream.read(&mut read[got..]).await.unwrap();
                    }
                }
                assert_eq!(&read[..got], head, "cut at {cut}");
                let mut rest = stream.rest.clone();
                drop(gateway);
                stream.stream.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, REST, "cut at {cut}");
            }
        }
    }
}
