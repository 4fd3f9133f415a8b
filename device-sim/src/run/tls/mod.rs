//! TLS of a link that holds no buffer while nothing is under way.
//!
//! A buffered connection of rustls keeps its receive buffer, 4 KiB, for as long as it lives; in a
//! fleet that is a third of what a device takes. So rustls' unbuffered connection is driven here:
//! bytes are read into a buffer of the thread, records are written from one, and a link keeps only
//! what cannot be finished yet: the beginning of a record, plaintext that nobody has asked for,
//! records that the socket has not taken.
//!
//! Promises what `tokio_rustls` does: errors of TLS carry the `rustls::Error`, the other side is
//! told by an alert, and an end without `close_notify` is `UnexpectedEof`. What came before an
//! error is read before it is told.

#[cfg(test)]
mod failure_tests;
mod kept;
#[cfg(test)]
mod openssl_tests;
#[cfg(test)]
pub(super) mod tests;

use kept::Kept;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, WriteTraffic};
use rustls::{ClientConfig, Error as TlsError};
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;
/// Most bytes of plaintext that become one record.
const RECORD_BYTES: usize = 16 * 1024;
/// Most bytes that may wait for the end of a record or of a handshake message, which has 64 KiB.
const MAX_INCOMPLETE_BYTES: usize = 96 * 1024;

/// Most bytes of records that may wait for the socket.
const MAX_UNSENT_BYTES: usize = 4 * 1024 * 1024;

thread_local! {
    /// What is read, and records before they are written. Taken for the time of its use, so that a
    /// stream within a stream finds another.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The device's side of a TLS connection.
pub(super) struct TlsStream<IO> {
    io: IO,
    tls: UnbufferedClientConnection,
    /// What rustls has not finished with: the beginning of a record, perhaps records before it
    /// with the beginning of a handshake message. It knows places in it, so it gets it whole.
    incomplete: Vec<u8>,
    /// What was decrypted and not read yet.
    plaintext: Kept,
    /// Records that the socket has not taken yet.
    unsent: Kept,
    /// The other side has said that nothing more will come.
    peer_closed: bool,
    /// This side has said it.
    closed: bool,
    /// Why nothing goes on.
    failed: Option<Box<TlsError>>,
}

/// Connects: returns after the handshake.
///
/// # Errors
/// The handshake failed (`InvalidData`, with the [`TlsError`]), the other side closed
/// (`UnexpectedEof`), or the connection broke. Cancel safe: what is dropped takes `io` with it.
pub(super) async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    io: IO,
) -> io::Result<TlsStream<IO>> {
    let tls = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = TlsStream {
        io,
        tls,
        incomplete: Vec::new(),
        plaintext: Kept::default(),
        unsent: Kept::default(),
        peer_closed: false,
        closed: false,
        failed: None,
    };
    stream.take(&mut [], &mut ReadBuf::new(&mut []));
    std::future::poll_fn(|cx| stream.poll_handshake(cx)).await?;
    Ok(stream)
}

impl<IO> std::fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl<IO> TlsStream<IO> {
    /// What is under TLS.
    pub(super) fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Takes all of this at once, as the next flush will send it.
    ///
    /// # Errors
    /// The stream was closed or has failed, or `MAX_UNSENT_BYTES` wait for the socket.
    pub(super) fn put(&mut self, plaintext: &[u8]) -> io::Result<()> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.unsent.bytes().len() + plaintext.len() > MAX_UNSENT_BYTES {
            return Err(io::Error::other("the socket takes nothing"));
        }
        for plaintext in plaintext.chunks(RECORD_BYTES) {
            let mut records = SCRATCH.take();
            let bytes = self.encrypt(&mut records, |traffic, to| traffic.encrypt(plaintext, to));
            if let Ok(bytes) = bytes {
                self.unsent.append(|to| to.extend_from_slice(&records[..bytes]));
            }
            SCRATCH.set(records);
            bytes?;
        }
        Ok(())
    }

    /// Lets rustls go on with `incoming` until it wants more or is at rest. Returns how many bytes
    /// from the front it has finished with, and what `at_rest` returned if traffic may be sent.
    /// Plaintext goes to `read` as far as there is room; what is to be sent waits in `unsent`.
    fn advance<T>(
        &mut self,
        incoming: &mut [u8],
        read: &mut ReadBuf<'_>,
        at_rest: impl FnOnce(&mut WriteTraffic<'_, ClientConnectionData>) -> T,
    ) -> (usize, Option<T>) {
        let mut done = 0;
        // After an error nothing is left to do but to send the alert that it has left.
        while self.failed.is_none() || self.tls.wants_write() {
            let status = self.tls.process_tls_records(&mut incoming[done..]);
            let mut discard = status.discard;
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    while let Some(record) = records.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                self.plaintext.give_or_keep(record.payload, read);
                            }
                            Err(error) => self.failed = Some(Box::new(error)),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    self.unsent.append(|to| encode(&mut record, to));
                }
                // Whoever asks next finds it in `unsent`, and nothing goes past it.
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return (done + discard, Some(at_rest(&mut traffic)));
                }
                // It wants more, or both sides have closed.
                Ok(_) => return (done + discard, None),
                Err(error) => {
                    self.failed.get_or_insert_with(|| Box::new(error));
                }
            }
            done += discard;
        }
        (done, None)
    }

    /// Takes what came, which begins with `incomplete`, and keeps what is not complete.
    fn take(&mut self, came: &mut [u8], read: &mut ReadBuf<'_>) {
        let (done, _) = self.advance(came, read, |_| ());
        let goes_on = !self.peer_closed && self.failed.is_none();
        self.incomplete = if goes_on { came[done..].to_vec() } else { Vec::new() };
    }

    /// Has something encrypted into the front of `records`; returns how many bytes it became.
    fn encrypt(
        &mut self,
        records: &mut Vec<u8>,
        mut write: impl FnMut(
            &mut WriteTraffic<'_, ClientConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> io::Result<usize> {
        let mut incomplete = std::mem::take(&mut self.incomplete);
        let (done, encrypted) = self.advance(&mut incomplete, &mut ReadBuf::new(&mut []), |to| {
            loop {
                match write(to, records) {
                    Err(EncryptError::InsufficientSize(size)) => {
                        records.resize(size.required_size, 0);
                    }
                    result => return result,
                }
            }
        });
        incomplete.drain(..done);
        self.incomplete = incomplete;
        match (encrypted, self.failed()) {
            (Some(Ok(bytes)), _) => Ok(bytes),
            (Some(Err(error)), _) => Err(io::Error::other(error)),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn failed(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(io::Error::new(io::ErrorKind::InvalidData, (**error).clone())),
            None => Ok(()),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Err(error) = self.failed() {
                // The other side is told why if there is room for it.
                let _ = self.poll_send(cx);
                return Poll::Ready(Err(error));
            }
            ready!(self.poll_send(cx))?;
            if !self.tls.is_handshaking() {
                return Pin::new(&mut self.io).poll_flush(cx);
            }
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
        }
    }

    /// Hands to the socket what waits for it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, self.unsent.bytes()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends records, which come after all that wait; keeps what the socket does not take.
    fn send(&mut self, cx: &mut Context<'_>, records: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while self.unsent.is_empty() && sent < records.len() {
            match Pin::new(&mut self.io).poll_write(cx, &records[sent..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => sent += bytes,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.unsent.append(|to| to.extend_from_slice(&records[sent..]));
        Ok(())
    }

    /// Reads from the socket once and takes what came.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let kept = self.incomplete.len();
        if kept > MAX_INCOMPLETE_BYTES {
            let why = "a record or a handshake message without end";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let mut scratch = SCRATCH.take();
        if scratch.len() < kept + READ_BYTES {
            scratch.resize(kept + READ_BYTES, 0);
        }
        let mut room = ReadBuf::new(&mut scratch[kept..]);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut room);
        let came = room.filled().len();
        if came > 0 {
            scratch[..kept].copy_from_slice(&self.incomplete);
            self.take(&mut scratch[..kept + came], read);
        }
        SCRATCH.set(scratch);
        ready!(polled)?;
        if came == 0 {
            let why = if self.tls.is_handshaking() {
                "tls handshake eof"
            } else {
                "the other side closed without the close_notify of TLS"
            };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.plaintext.give(buf);
        while buf.filled().len() == before && buf.remaining() > 0 {
            if self.peer_closed {
                break;
            }
            self.failed()?;
            ready!(self.poll_receive(cx, buf))?;
            // What it made rustls say. If it cannot be sent, whoever writes next is told why.
            let _ = self.poll_send(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut written = 0;
        for plaintext in buf.chunks(RECORD_BYTES) {
            match self.poll_send(cx) {
                Poll::Ready(Ok(())) => {}
                // What was written before is told first; the error comes again.
                _ if written > 0 => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            let mut records = SCRATCH.take();
            let sent = self
                .encrypt(&mut records, |traffic, to| traffic.encrypt(plaintext, to))
                .and_then(|bytes| self.send(cx, &records[..bytes]));
            SCRATCH.set(records);
            sent?;
            written += plaintext.len();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed && self.failed.is_none() {
            let mut alert = Vec::new();
            let bytes = self.encrypt(&mut alert, |to, alert| to.queue_close_notify(alert))?;
            self.unsent.append(|to| to.extend_from_slice(&alert[..bytes]));
        }
        self.closed = true;
        ready!(self.poll_send(cx))?;
        match ready!(Pin::new(&mut self.io).poll_shutdown(cx)) {
            // The other side was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

/// Appends a record that rustls has made.
fn encode(record: &mut EncodeTlsData<'_, ClientConnectionData>, to: &mut Vec<u8>) {
    let before = to.len();
    // The first call only asks how long it is.
    if let Err(EncodeError::InsufficientSize(size)) = record.encode(&mut []) {
        to.resize(before + size.required_size, 0);
        record.encode(&mut to[before..]).expect("there is as much room as it asked for");
    }
}
