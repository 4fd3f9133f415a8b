//! What goes wrong is told as the buffered TLS of others tells it.

#![allow(clippy::unwrap_used)]

use super::tests::{Pki, localhost};
use super::*;
use rustls::version;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

/// What a server does to its device.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Closes in the handshake, after so many bytes.
    Cut(usize),
    /// Is no server of TLS.
    Garbage,
    /// Says so much, then closes the connection, with or without a word.
    Say(usize, bool),
    /// Says something, then sends bytes that are no record, a record that does not decrypt, one
    /// that is too long.
    Raw(&'static [u8]),
}

/// What both sides saw of it: the bytes that came or the kind and the reason of the failure.
type Seen = (Result<Vec<u8>, (io::ErrorKind, Option<TlsError>)>, Option<TlsError>);

fn reason(error: &io::Error) -> Option<TlsError> {
    error.get_ref()?.downcast_ref().cloned()
}

/// Lets a device go through it, with the stream of `buffered` TLS or with ours.
async fn see(
    act: Act,
    pki: &Pki,
    (config, name): (Arc<ClientConfig>, ServerName<'static>),
    buffered: bool,
) -> Seen {
    let (near, far) = duplex(100_000);
    let device = async {
        let stream: io::Result<Box<dyn crate::dial::Stream>> = if buffered {
            TlsConnector::from(config).connect(name, near).await.map(|stream| Box::new(stream) as _)
        } else {
            connect(config, name, near).await.map(|stream| Box::new(stream) as _)
        };
        let mut got = Vec::new();
        let read = async { stream?.read_to_end(&mut got).await };
        match read.await {
            Ok(_) => Ok(got),
            Err(error) => Err((error.kind(), reason(&error))),
        }
    };
    let server = async {
        if let Act::Garbage = act {
            let mut far = far;
            far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = far.read_to_end(&mut Vec::new()).await;
            return None;
        }
        let limit = if let Act::Cut(bytes) = act { bytes } else { usize::MAX };
        let mut stream = match pki.server(None).accept(Cut { io: far, left: limit }).await {
            Ok(stream) => stream,
            Err(error) => return reason(&error),
        };
        match act {
            Act::Say(bytes, in_order) => {
                let said = stream.write_all(&vec![7; bytes]).await.and(stream.flush().await);
                if said.is_ok() && in_order {
                    stream.shutdown().await.unwrap();
                }
                None
            }
            Act::Raw(bytes) => {
                stream.write_all(b"hello").await.unwrap();
                stream.flush().await.unwrap();
                stream.get_mut().0.write_all(bytes).await.unwrap();
                stream.read_to_end(&mut Vec::new()).await.err().as_ref().and_then(reason)
            }
            Act::Cut(_) | Act::Garbage => None,
        }
    };
    tokio::join!(device, server)
}

/// Closes after so many bytes were written.
struct Cut {
    io: DuplexStream,
    left: usize,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = buf.len().min(self.left);
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..count]))?;
        self.left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn failures_are_those_of_the_buffered_stream() {
    let (pki, other) = (Pki::new(), Pki::new());
    let elsewhere = ServerName::try_from("elsewhere.example").unwrap();
    let mut acts = vec![
        Act::Garbage,
        Act::Say(0, true),
        Act::Say(50_000, true),
        Act::Say(0, false),
        Act::Say(50_000, false),
        // No kind of record; a record of 17 bytes that were not encrypted; one of 20,000 bytes.
        Act::Raw(b"\x50\x03\x03\x00\x05hello"),
        Act::Raw(b"\x17\x03\x03\x00\x11aaaaaaaaaaaaaaaaa"),
        Act::Raw(b"\x17\x03\x03\x4e\x20aaaa"),
        // An alert and a message of the handshake that were not encrypted.
        Act::Raw(b"\x15\x03\x03\x00\x02\x02\x28"),
        Act::Raw(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00"),
    ];
    acts.extend((0..1_400).step_by(55).map(Act::Cut));
    for version in [&version::TLS12, &version::TLS13] {
        for &act in &acts {
            let way = || (pki.client(version), localhost());
            let (theirs, ours) =
                (see(act, &pki, way(), true).await, see(act, &pki, way(), false).await);
            if !matches!(act, Act::Say(_, true)) {
                assert!(ours.0.is_err(), "{version:?}, {act:?}: {ours:?}");
            }
            assert_eq!(ours, theirs, "{version:?}, {act:?}");
        }
        for (config, name) in
            [(other.client(version), localhost()), (pki.client(version), elsewhere.clone())]
        {
            let act = Act::Say(5, true);
            let ours = see(act, &pki, (Arc::clone(&config), name.clone()), false).await;
            let told = ours.0.as_ref().unwrap_err();
            assert!(matches!(told.1, Some(TlsError::InvalidCertificate(_))), "{ours:?}");
            assert!(matches!(ours.1, Some(TlsError::AlertReceived(_))), "{ours:?}");
            assert_eq!(ours, see(act, &pki, (config, name), true).await, "{version:?}");
        }
    }
}

#[tokio::test]
async fn what_came_before_a_failure_is_read_first() {
    let pki = Pki::new();
    let (near, far) = duplex(100_000);
    let server = async {
        let mut stream = pki.server(None).accept(far).await.unwrap();
        stream.write_all(&[5; 30_000]).await.unwrap();
        stream.flush().await.unwrap();
        stream.get_mut().0.write_all(b"no record").await.unwrap();
        stream
    };
    let (stream, server) =
        tokio::join!(connect(pki.client(&version::TLS13), localhost(), near), server);
    let (mut stream, mut got) = (stream.unwrap(), vec![0; 30_000]);
    for piece in got.chunks_mut(999) {
        stream.read_exact(piece).await.unwrap();
    }
    assert!(got == [5; 30_000]);
    for _ in 0..2 {
        let error = stream.read(&mut got).await.unwrap_err();
        assert!(matches!(reason(&error), Some(TlsError::InvalidMessage(_))), "{error:?}");
    }
    let error = stream.write(b"x").await.unwrap_err();
    assert!(matches!(reason(&error), Some(TlsError::InvalidMessage(_))), "{error:?}");
    stream.shutdown().await.unwrap();
    assert_eq!(stream.memory(), 0);
    drop(server);
}
