//! The TCP connection of a device, which can be made slow.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// A slow link passes bytes in portions of this time.
const PORTION: Duration = Duration::from_millis(50);

/// A TCP connection, perhaps slow.
#[derive(Debug)]
pub(super) struct Pipe {
    stream: TcpStream,
    brake: Option<Box<Brake>>,
}

/// Lets so many bytes pass in a second, in both directions together.
#[derive(Debug)]
struct Brake {
    portion: usize,
    left: usize,
    next: Pin<Box<Sleep>>,
}

impl Pipe {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, brake: None }
    }

    /// Makes the link slow, or as fast as it is.
    pub(super) fn slow_down(&mut self, bytes_per_s: Option<u32>) {
        self.brake = bytes_per_s.map(|bytes_per_s| {
            let portion = (bytes_per_s as usize / (1_000 / PORTION.as_millis() as usize)).max(1);
            let next = Box::pin(sleep_until(Instant::now() + PORTION));
            Box::new(Brake { portion, left: portion, next })
        });
    }
}

impl Brake {
    /// How many bytes may pass now.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if self.left == 0 {
            ready!(self.next.as_mut().poll(cx));
            self.left = self.portion;
            self.next.as_mut().reset(Instant::now() + PORTION);
        }
        Poll::Ready(self.left)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, brake } = &mut *self;
        let Some(brake) = brake else { return Pin::new(stream).poll_read(cx, buf) };
        let pass = ready!(brake.poll_pass(cx)).min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(pass));
        ready!(Pin::new(stream).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        brake.left -= read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, brake } = &mut *self;
        let Some(brake) = brake else { return Pin::new(stream).poll_write(cx, buf) };
        let pass = ready!(brake.poll_pass(cx)).min(buf.len());
        let written = ready!(Pin::new(stream).poll_write(cx, &buf[..pass]))?;
        brake.left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.brake.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| &**buf));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_slow_link_passes_everything_slowly() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        let mut pipe = Pipe::new(stream);
        pipe.slow_down(Some(20_000));
        let sent: Vec<u8> = (0..8_000_u32).map(|n| n as u8).collect();
        let start = Instant::now();
        let mut read = vec![0; sent.len()];
        let (written, got) = tokio::join!(pipe.write_all(&sent), other.read_exact(&mut read));
        written.unwrap();
        assert_eq!((got.unwrap(), &read), (sent.len(), &sent));
        // 1,000 bytes pass at once, each further 1,000 after 50 ms.
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());

        pipe.slow_down(None);
        other.write_all(&sent).await.unwrap();
        pipe.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent);
    }
}
