//! Against the buffered TLS of others: everything goes through, however it is cut.

#![allow(clippy::unwrap_used)]

use super::*;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio_rustls::{TlsAcceptor, server};

/// Trials of what goes through, each with its seed.
const TRIALS: u64 = 48;

/// A certificate for `localhost` and what trusts it.
pub(in crate::run) struct Pki {
    pub(super) issued: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Pki {
    pub(in crate::run) fn new() -> Self {
        Self { issued: rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap() }
    }

    pub(in crate::run) fn client(
        &self,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issued.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    pub(in crate::run) fn server(&self, fragment: Option<usize>) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(self.issued.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.issued.cert.der().clone()], key.unwrap())
            .unwrap();
        config.max_fragment_size = fragment;
        TlsAcceptor::from(Arc::new(config))
    }
}

pub(in crate::run) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Passes a few bytes at a time, and often none although there are some.
struct Chopped<IO> {
    io: IO,
    dice: fastrand::Rng,
    most: usize,
}

impl<IO> Chopped<IO> {
    fn stalls(&mut self, cx: &Context<'_>) -> bool {
        let stalls = self.dice.u8(..4) == 0;
        if stalls {
            cx.waker().wake_by_ref();
        }
        stalls
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Chopped<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stalls(cx) {
            return Poll::Pending;
        }
        let most = self.most;
        let count = self.dice.usize(1..=most).min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(count));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Chopped<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.stalls(cx) {
            return Poll::Pending;
        }
        let most = self.most;
        let count = self.dice.usize(1..=most).min(buf.len());
        Pin::new(&mut self.io).poll_write(cx, &buf[..count])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stalls(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A server that asks for new keys at times.
struct Rekeying {
    stream: server::TlsStream<DuplexStream>,
    dice: fastrand::Rng,
    rekeys: bool,
}

impl AsyncRead for Rekeying {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rekeying {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.rekeys && self.dice.u8(..4) == 0 {
            self.stream.get_mut().1.refresh_traffic_keys().unwrap();
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sends some bytes in pieces of all sizes and closes its direction, while it reads to the end.
async fn exchange<S>(stream: S, mut dice: fastrand::Rng, send: &[u8]) -> (Vec<u8>, S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, mut write) = split(stream);
    let largest = [300, 40_000][dice.usize(..2)];
    let sending = async {
        let mut rest = send;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(dice.usize(1..=largest).min(rest.len()));
            write.write_all(piece).await.unwrap();
            if dice.bool() {
                write.flush().await.unwrap();
            }
            rest = after;
        }
        write.shutdown().await.unwrap();
        write
    };
    let reading = async {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        (got, read)
    };
    let (write, (got, read)) = tokio::join!(sending, reading);
    (got, read.unsplit(write))
}

#[tokio::test]
async fn everything_goes_through_however_it_is_cut() {
    let pki = Pki::new();
    for seed in 0..TRIALS {
        let mut dice = fastrand::Rng::with_seed(seed);
        let version = [&version::TLS12, &version::TLS13][dice.usize(..2)];
        // The handshake's messages, tickets among them, in records of so many bytes.
        let fragment = [None, Some(40), Some(600)][dice.usize(..3)];
        let most = [1, 9, 700, 40_000][dice.usize(..4)];
        println!("seed {seed}: {version:?}, records {fragment:?}, up to {most} bytes at once");
        let sizes = if most < 100 { ..20_000 } else { ..400_000 };
        let (up, down) = (dice.usize(sizes), dice.usize(sizes));
        let up: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(up).collect();
        let down: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(down).collect();
        let (near, far) = duplex(dice.usize(50..60_000));

        let gateway = async {
            let stream = pki.server(fragment).accept(far).await.unwrap();
            let rekeys = version.version == rustls::ProtocolVersion::TLSv1_3;
            let stream = Rekeying { stream, dice: dice.fork(), rekeys };
            exchange(stream, fastrand::Rng::with_seed(seed), &down).await.0
        };
        let near = Chopped { io: near, dice: fastrand::Rng::with_seed(!seed), most };
        let device = async {
            let stream = connect(pki.client(version), localhost(), near).await.unwrap();
            exchange(stream, fastrand::Rng::with_seed(seed + 1), &up).await
        };
        let (came_up, (came_down, stream)) = tokio::join!(gateway, device);
        assert!(came_up == up, "seed {seed}: {} of {} bytes went up", came_up.len(), up.len());
        assert!(came_down == down, "seed {seed}: {} of {}", came_down.len(), down.len());
        assert_eq!(stream.memory(), 0, "seed {seed}: bytes held by a link at rest");
    }
}

impl<IO> TlsStream<IO> {
    /// Bytes that its buffers hold.
    pub(in crate::run) fn memory(&self) -> usize {
        self.incomplete.capacity() + self.plaintext.memory() + self.unsent.memory()
    }
}

#[tokio::test]
async fn a_full_socket_holds_one_record_and_no_more() {
    let pki = Pki::new();
    let (near, far) = duplex(4_096);
    let server = pki.server(None);
    let (stream, far) =
        tokio::join!(connect(pki.client(&version::TLS13), localhost(), near), server.accept(far));
    let (mut stream, mut far) = (stream.unwrap(), far.unwrap());
    let sent = vec![3; 200_000];
    let written = std::future::poll_fn(|cx| {
        let first = Pin::new(&mut stream).poll_write(cx, &sent);
        let Poll::Ready(Ok(written)) = first else { panic!("{first:?}") };
        assert!(Pin::new(&mut stream).poll_write(cx, &sent[written..]).is_pending());
        Poll::Ready(written)
    });
    let written = written.await;
    assert!(written <= RECORD_BYTES, "{written} bytes were taken");
    assert!(stream.memory() <= RECORD_BYTES + 100, "{} bytes are held", stream.memory());
    let mut got = vec![0; sent.len()];
    let (sending, _) = tokio::join!(
        async {
            stream.write_all(&sent[written..]).await?;
            stream.flush().await
        },
        async { far.read_exact(&mut got).await.unwrap() }
    );
    sending.unwrap();
    assert!(got == sent);
    assert_eq!(stream.memory(), 0);

    // What is put into it has to wait, but not without end.
    stream.put(b"x").unwrap();
    stream.put(&vec![0; MAX_UNSENT_BYTES]).unwrap_err();
    let (closed, rest) = tokio::join!(stream.shutdown(), far.read_to_end(&mut got));
    closed.unwrap();
    assert_eq!((rest.unwrap(), got.last()), (1, Some(&b'x')));
    assert_eq!(stream.put(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(stream.memory(), 0);
    assert_eq!(format!("{stream:?}"), "TlsStream { failed: None, .. }", "it shows no bytes");
}
