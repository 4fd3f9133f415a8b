//! The stream under hyper while it reads a request's head.
//!
//! Notices what hyper forgives (a line that ends in a bare LF, bytes sent before the upgrade was
//! answered), and keeps back the bare answers that hyper would write by itself to a request that it
//! does not understand, so that ours goes out instead.

use super::tls::TlsStream;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known of the head, shared with the service.
#[derive(Debug, Default)]
pub(super) struct HeadFacts {
    pub(super) bare_lf: AtomicBool,
    pub(super) early_bytes: AtomicBool,
    pub(super) request_line_done: AtomicBool,
    /// The service answers: from here on hyper's writes go out.
    pub(super) answering: AtomicBool,
    /// Status of the answer that was kept back, 0 if none.
    pub(super) kept_back: AtomicU16,
}

#[derive(Debug)]
pub(super) struct HeadStream {
    io: TlsStream,
    scan: Scan,
    facts: Arc<HeadFacts>,
}

impl HeadStream {
    pub(super) fn new(io: TlsStream, facts: Arc<HeadFacts>) -> Self {
        Self { io, scan: Scan::default(), facts }
    }

    pub(super) fn into_inner(self) -> TlsStream {
        self.io
    }
}

/// Finds the end of the head.
#[derive(Debug, Default)]
struct Scan {
    line_bytes: usize,
    after_cr: bool,
    started: bool,
    done: bool,
}

impl Scan {
    fn feed(&mut self, bytes: &[u8], facts: &HeadFacts) {
        for &byte in bytes {
            if self.done {
                facts.early_bytes.store(true, Ordering::Relaxed);
                return;
            }
            match byte {
                b'\n' => {
                    if !self.after_cr {
                        facts.bare_lf.store(true, Ordering::Relaxed);
                    }
                    if self.line_bytes > 0 {
                        self.started = true;
                        facts.request_line_done.store(true, Ordering::Relaxed);
                    } else if self.started {
                        self.done = true;
                    }
                    self.line_bytes = 0;
                }
                b'\r' => {}
                _ => self.line_bytes += 1,
            }
            self.after_cr = byte == b'\r';
        }
    }
}

impl AsyncRead for HeadStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        std::task::ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.scan.feed(&buf.filled()[before..], &this.facts);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HeadStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.facts.answering.load(Ordering::Relaxed) {
            return Pin::new(&mut self.io).poll_write(cx, buf);
        }
        if self.facts.kept_back.load(Ordering::Relaxed) == 0 {
            self.facts.kept_back.store(status_of(buf), Ordering::Relaxed);
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The status in `HTTP/1.1 431 …`.
fn status_of(answer: &[u8]) -> u16 {
    let digits = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.first_chunk::<3>());
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_bare_line_feeds_and_early_bytes() {
        for (head, bare_lf, early) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], false, false),
            (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", false, false),
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", true, false),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", true, false),
            (b"GET / HTTP/1.1\r\n\r\nx", false, true),
            (b"GET / HTTP/1.1\n\nx", true, true),
        ] {
            for piece in [1, 3, head.len()] {
                let (mut scan, facts) = (Scan::default(), HeadFacts::default());
                for part in head.chunks(piece) {
                    scan.feed(part, &facts);
                }
                let text = String::from_utf8_lossy(head);
                assert_eq!(facts.bare_lf.into_inner(), bare_lf, "{text}");
                assert_eq!(facts.early_bytes.into_inner(), early, "{text}");
            }
        }
    }

    #[test]
    fn reads_the_status_of_an_answer() {
        assert_eq!(status_of(b"HTTP/1.1 431 Request Header Fields Too Large\r\n"), 431);
        assert_eq!(status_of(b"HTTP"), 400);
    }
}
