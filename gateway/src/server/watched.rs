//! The stream under a WebSocket: counts bytes for liveness, and holds the limits on frames.

use super::{
    frames::{Excess, FrameWatch},
    tls::TlsStream,
};
use crate::ingest::clock::Clock;
use crate::session::Heard;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[derive(Debug)]
pub(super) struct Watched {
    io: TlsStream,
    clock: Clock,
    frames: FrameWatch,
    last_byte_us: u64,
    received_bytes: u64,
    excess: Option<Excess>,
}

impl Watched {
    /// Watches a stream of which `early` was read already.
    pub(super) fn new(io: TlsStream, clock: Clock, early: &[u8]) -> Self {
        let mut watched = Self {
            io,
            clock,
            frames: FrameWatch::default(),
            last_byte_us: clock.now_us(),
            received_bytes: 0,
            excess: None,
        };
        watched.received(early);
        watched
    }

    /// What has come so far.
    pub(super) fn heard(&self) -> Heard {
        Heard {
            last_byte_us: self.last_byte_us,
            incomplete_since_us: self.frames.incomplete_since_us(),
        }
    }

    /// Bytes received since the last call.
    pub(super) fn take_received_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.received_bytes)
    }

    /// The limit that was exceeded: reading has failed because of it.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess
    }

    fn received(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.last_byte_us = self.clock.now_us();
        self.received_bytes += bytes.len() as u64;
        if let Err(excess) = self.frames.feed(bytes, self.last_byte_us) {
            self.excess = Some(excess);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.received(&buf.filled()[before..]);
        Poll::Ready(match self.excess {
            None => Ok(()),
            Some(_) => Err(io::Error::other("a limit on frames was exceeded")),
        })
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Ends a stream so that the other side gets what was written last: a socket that is closed with
/// bytes unread answers with a reset, which destroys what the other side has not read yet.
pub(super) async fn linger(io: &mut TlsStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// How long to wait for the other side to close, too.
    const LINGER: std::time::Duration = std::time::Duration::from_secs(1);
    /// How much of what it still sends is read and thrown away.
    const LINGER_BYTES: usize = 4 * 1024 * 1024;
    let end = async {
        if io.shutdown().await.is_err() {
            return;
        }
        let mut waste = vec![0; 4096];
        let mut total = 0;
        while let Ok(n @ 1..) = io.read(&mut waste).await {
            total += n;
            if total > LINGER_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, end).await;
}

impl Watched {
    /// See [`linger`].
    pub(super) async fn linger(&mut self) {
        linger(&mut self.io).await;
    }
}
