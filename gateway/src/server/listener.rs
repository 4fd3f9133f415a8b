//! Accepts connections and takes each through TLS and the upgrade.

use super::{
    Shared,
    answer::Refusal,
    connection,
    tls::TlsStream,
    upgrade::{Gate, Upgraded, upgrade},
};
use hyper::StatusCode;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};

/// How long a handshake counts among those that may run at once: two round trips to the far side
/// of the earth.
const TURN_TIME: Duration = Duration::from_millis(600);
/// Connections that the kernel holds until they are accepted: a fleet comes back at once.
const BACKLOG: u32 = 4096;
/// Connections above the limit that are taken through TLS to be told to come back later; further
/// ones are dropped, since each handshake costs as much as many messages.
const REFUSED_AT_ONCE: usize = 64;
/// Pause after the system had no more descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);
/// First byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// When a device that finds the gateway full may come again, in seconds.
const FULL_RETRY_S: u64 = 30;

#[derive(Debug)]
pub(super) struct Listener {
    tcp: TcpListener,
}

/// Counts a connection from accept to end.
struct Counted<'a> {
    shared: &'a Shared,
    full: bool,
}

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared) -> Option<Self> {
        let others = shared.connections.fetch_add(1, Ordering::Relaxed);
        let limit = shared.context.config.max_connections;
        shared.context.metrics.sockets.increment(1.0);
        let counted = Self { shared, full: others >= limit };
        (others < limit + REFUSED_AT_ONCE).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.context.metrics.sockets.decrement(1.0);
    }
}

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for the connections of the last run to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { tcp: socket.listen(BACKLOG)? })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts for ever. Cancel safe: a connection is either accepted and served, or still waits.
    pub(super) async fn accept_all(&self, shared: &Arc<Shared>) {
        let mut exhausted = false;
        loop {
            match self.tcp.accept().await {
                Ok((tcp, from)) => {
                    exhausted = false;
                    shared.context.metrics.accepted.increment(1);
                    let task = serve(shared.clone(), tcp, from);
                    shared.context.tasks.spawn(task);
                }
                Err(error) if is_exhausted(&error) => {
                    if !exhausted {
                        tracing::error!(%error, "cannot accept connections: raise the limit of \
                            open files (ulimit -n, LimitNOFILE)");
                    }
                    exhausted = true;
                    sleep(EXHAUSTED_PAUSE).await;
                }
                // The client has gone before it was accepted.
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

pub(super) async fn serve(shared: Arc<Shared>, tcp: TcpStream, from: SocketAddr) {
    let Some(counted) = Counted::new(&shared) else { return };
    // What a connection needs only until it is upgraded lives in a future of its own, which is
    // gone while the device is idle.
    let admitted = Box::pin(shared.context.shutdown.run_until_cancelled(admit(
        &shared,
        tcp,
        from,
        counted.full,
    )))
    .await;
    if let Some(Some(connection)) = admitted {
        connection.run().await;
    }
}

async fn admit(
    shared: &Arc<Shared>,
    tcp: TcpStream,
    from: SocketAddr,
    full: bool,
) -> Option<Box<connection::Connection>> {
    let metrics = &shared.context.metrics;
    let stream = handshake(shared, tcp).await?;
    let proof = shared.context.tls.proof(&stream);
    let registry = &shared.context.registry;
    let revocations = &shared.context.state.revocations;
    let gate = Gate {
        auth: &shared.context.auth,
        allowed_origins: &shared.context.config.allowed_origins,
        proof: &proof,
        from: from.ip(),
        full: full.then(|| {
            Refusal::later(
                StatusCode::SERVICE_UNAVAILABLE,
                "the gateway has as many connections as it may",
                FULL_RETRY_S,
            )
        }),
        is_revoked: &|verified| revocations.since(&verified.identity).is_some(),
        backs_off: &|verified| registry.backs_off(&verified.identity, Instant::now()),
    };
    match upgrade(stream, gate, shared.context.config.head_time).await {
        Upgraded::Accepted(stream, early, verified) => {
            let entered = registry.enter(verified.identity.clone(), Instant::now());
            if entered.took_over() {
                metrics.takeovers.increment(1);
            }
            // Whoever was revoked since the answer was not found among the connected.
            if revocations.since(&verified.identity).is_some() {
                entered.revoke();
            }
            Some(connection::Connection::new(shared.clone(), stream, early, verified, entered))
        }
        Upgraded::Refused(status) => {
            metrics.refused(status.as_u16());
            tracing::debug!(%from, status = status.as_u16(), "upgrade refused");
            None
        }
        Upgraded::Gone => None,
    }
}

async fn handshake(shared: &Shared, mut tcp: TcpStream) -> Option<TlsStream> {
    let metrics = &shared.context.metrics;
    let time = shared.context.config.handshake_time;
    // Nothing is allocated for a client that says nothing, and it takes nobody's turn.
    let shaken = match timeout(time, speaks_tls(&mut tcp)).await {
        Ok(Ok(())) => shake(shared, tcp).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match shaken {
        Ok(stream) => {
            let kind = stream.get_ref().1.handshake_kind();
            let resumed = kind == Some(rustls::HandshakeKind::Resumed);
            if resumed { &metrics.handshakes_resumed } else { &metrics.handshakes_full }
                .increment(1);
            Some(stream)
        }
        Err(error) => {
            metrics.handshakes_failed.increment(1);
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
    }
}

/// Looks at the first byte without taking it. A client that speaks plain HTTP is told so.
async fn speaks_tls(tcp: &mut TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == TLS_HANDSHAKE {
        return Ok(());
    }
    if first[0].is_ascii_uppercase() {
        tcp.write_all(PLAIN_HTTP.as_bytes()).await?;
        tcp.shutdown().await?;
        // Read what was sent, or closing would take the answer back.
        let mut request = [0; 1024];
        let _ = tcp.read(&mut request).await?;
    }
    Err(io::ErrorKind::InvalidData.into())
}

async fn shake(shared: &Shared, tcp: TcpStream) -> io::Result<TlsStream> {
    let started = Instant::now();
    let turn = shared.handshakes.acquire().await.ok();
    let mut shaking = std::pin::pin!(shared.context.tls.acceptor().accept(tcp));
    let shaken = match timeout(TURN_TIME, shaking.as_mut()).await {
        Ok(shaken) => shaken,
        Err(_) => {
            // A slow client goes on, but out of the way of others.
            drop(turn);
            timeout(shared.context.config.handshake_time, shaking).await?
        }
    };
    if shaken.is_ok() {
        shared.context.metrics.handshake_seconds.record(started.elapsed().as_secs_f64());
    }
    shaken
}

const PLAIN_HTTP: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 48\r\n\r\n\
    This port speaks TLS: connect with wss or https\n";
