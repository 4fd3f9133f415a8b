//! The way to the gateway: TCP, TLS, upgrade.
//!
//! Owns how a device connects and what a person reads when it cannot. Buffers are small, since a
//! fleet has thousands of links.

use super::pipe::Pipe;
use super::tickets::TicketPool;
use super::tls::{self, TlsStream};
use super::upgrade::upgrade;
use crate::plan::Plan;
use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{CertificateError, ClientConfig, RootCertStore, client::Resumption};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, http, protocol::WebSocketConfig};

/// A connection of a device. Boxed: it is passed from hand to hand, and the futures through which
/// it goes would each keep room for it.
pub(super) type Link = Box<WebSocketStream<TlsStream<Pipe>>>;

/// Longest time from the first packet to the end of the upgrade.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest message that is taken from the gateway, in bytes; announced in `hello`.
pub(super) const MAX_RX_BYTES: u32 = 4096;
/// Read buffer of a link, in bytes: acks have some 30. A larger message takes several reads.
const READ_BUFFER_BYTES: usize = 256;
/// Most bytes of tungstenite's own that may wait in a link: pings, answers to them, a close.
const MAX_WRITE_BUFFER_BYTES: usize = 4096;
/// Connections from one address of the loopback, which has 28,000 ports by default.
pub(super) const CONNECTIONS_PER_SOURCE: u32 = 20_000;
/// Port of an address that names none.
const DEFAULT_PORT: u16 = 443;

/// Why a device did not connect, or lost its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkError {
    /// One of a small set of words, for counting.
    pub(super) kind: &'static str,
    /// For a person.
    pub(super) sentence: String,
    /// The gateway's own wish.
    pub(super) retry_after: Option<Duration>,
}

impl LinkError {
    pub(super) fn new(kind: &'static str, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into(), retry_after: None }
    }
}

/// True for errors that repeat themselves until a person does something.
pub(super) fn is_permanent(kind: &str) -> bool {
    matches!(
        kind,
        "no_token"
            | "conflict"
            | "unknown_ca"
            | "wrong_name"
            | "bad_certificate"
            | "bad_request"
            | "http_401"
            | "http_403"
            | "http_404"
            | "http_other"
    )
}

/// Where the gateway is, and what all links share.
pub(super) struct Connector {
    url: String,
    host: String,
    ca: PathBuf,
    addresses: Vec<SocketAddr>,
    /// Index of the address that answered last.
    preferred: AtomicUsize,
    /// Number of source addresses 127.0.0.1, 127.0.0.2, …; 0 leaves it to the system.
    sources: u32,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

impl Connector {
    /// Looks the gateway's name up and prepares TLS.
    ///
    /// # Errors
    /// The URL is not `wss://…`, its host is unknown, or the CA cannot be read.
    pub(super) async fn new(
        url: &str,
        ca: &Path,
        plan: &Plan,
        sources: Option<u32>,
    ) -> Result<Self> {
        // Shards on one machine share its ports: so many addresses as the whole fleet needs.
        let devices = plan.devices;
        let uri: http::Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        ensure!(
            uri.scheme_str() == Some("wss"),
            "{url:?} must begin with wss:// : the gateway speaks WebSocket over TLS only"
        );
        let host = uri.host().with_context(|| format!("{url:?} names no host"))?.to_owned();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((bare, port))
            .await
            .with_context(|| format!("cannot find the host {host}"))?
            .collect();
        // The gateway listens on IPv4 by default, and several sources exist on IPv4 alone.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let first = addresses.first().with_context(|| format!("{host} has no address"))?.ip();
        let sources = match sources {
            Some(count) if count > 0 && first.is_loopback() && first.is_ipv4() => count,
            Some(count) if count > 0 => {
                bail!("--source-addresses works only towards 127.0.0.1, and {host} is {first}")
            }
            None if devices > CONNECTIONS_PER_SOURCE && first.is_loopback() => {
                devices.div_ceil(CONNECTIONS_PER_SOURCE)
            }
            _ => 0,
        };
        ensure!(sources <= 254, "--source-addresses must be at most 254");
        if sources > 0 {
            addresses.retain(SocketAddr::is_ipv4);
        }
        let name = ServerName::try_from(bare.to_owned())
            .with_context(|| format!("{host} is not a host name"))?;
        Ok(Self {
            url: url.to_owned(),
            host,
            ca: ca.to_owned(),
            addresses,
            preferred: AtomicUsize::new(0),
            sources,
            name,
            tls: Arc::new(tls_config(ca, plan.own_count())?),
        })
    }

    /// Connects a device. Cancel safe: a dropped attempt leaves nothing behind.
    ///
    /// # Errors
    /// Any step failed, or all of them took too long.
    pub(super) async fn connect(&self, device: u32, token: &str) -> Result<Link, LinkError> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.connect_in_time(device, token))
            .await
            .unwrap_or_else(|_| {
                let seconds = CONNECT_TIMEOUT.as_secs();
                let sentence = format!("{} did not answer within {seconds} s", self.host);
                Err(LinkError::new("connect_timeout", sentence))
            })
    }

    async fn connect_in_time(&self, device: u32, token: &str) -> Result<Link, LinkError> {
        let socket = self.tcp(device).await?;
        let _ = socket.set_nodelay(true);
        let stream = tls::connect(Arc::clone(&self.tls), self.name.clone(), Pipe::new(socket))
            .await
            .map_err(|error| self.tls_error(&error))?;
        let request = self.request(token)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
            .max_message_size(Some(MAX_RX_BYTES as usize))
            .max_frame_size(Some(MAX_RX_BYTES as usize));
        upgrade(request, stream, config).await.map_err(|error| self.upgrade_error(&error))
    }

    async fn tcp(&self, device: u32) -> Result<TcpStream, LinkError> {
        let preferred = self.preferred.load(Relaxed);
        let mut first_error = None;
        for attempt in 0..self.addresses.len() {
            let index = (preferred + attempt) % self.addresses.len();
            let address = self.addresses[index];
            match self.tcp_to(address, device).await {
                Ok(stream) => {
                    self.preferred.store(index, Relaxed);
                    return Ok(stream);
                }
                Err(error) => {
                    first_error.get_or_insert((address, error));
                }
            }
        }
        let (address, error) = first_error.ok_or_else(|| {
            LinkError::new("unreachable", format!("{} has no address", self.host))
        })?;
        Err(match error.kind() {
            std::io::ErrorKind::ConnectionRefused => LinkError::new(
                "connection_refused",
                format!("nothing listens on {address}: is the gateway running?"),
            ),
            std::io::ErrorKind::AddrNotAvailable | std::io::ErrorKind::AddrInUse => LinkError::new(
                "no_local_port",
                format!("no local port is left for {address}: use more --source-addresses"),
            ),
            _ => LinkError::new("unreachable", format!("cannot reach {address}: {error}")),
        })
    }

    async fn tcp_to(&self, address: SocketAddr, device: u32) -> std::io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if self.sources > 0 {
            let last = u8::try_from(1 + device % self.sources).unwrap_or(1);
            let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(address).await
    }

    fn request(&self, token: &str) -> Result<http::Request<()>, LinkError> {
        use tungstenite::client::IntoClientRequest;
        let bad = |what: &dyn std::fmt::Display| {
            LinkError::new("bad_request", format!("cannot make the request: {what}"))
        };
        let mut request = self.url.as_str().into_client_request().map_err(|error| bad(&error))?;
        let mut bearer = http::HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| bad(&"the token holds a character that a header cannot"))?;
        bearer.set_sensitive(true);
        let headers = request.headers_mut();
        headers.insert(http::header::AUTHORIZATION, bearer);
        headers.insert(
            http::header::SEC_WEBSOCKET_PROTOCOL,
            http::HeaderValue::from_static(proto::SUBPROTOCOL),
        );
        Ok(request)
    }

    fn tls_error(&self, error: &std::io::Error) -> LinkError {
        use rustls::Error::InvalidCertificate;
        let (host, ca) = (&self.host, self.ca.display());
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(InvalidCertificate(CertificateError::UnknownIssuer)) => LinkError::new(
                "unknown_ca",
                format!("the certificate of {host} was not issued by the CA in {ca}: use its CA"),
            ),
            Some(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => LinkError::new(
                "wrong_name",
                format!("the certificate is not for {host}: start the gateway with --host {host}"),
            ),
            Some(InvalidCertificate(why)) => LinkError::new(
                "bad_certificate",
                format!("the certificate of {host} is not valid: {why}"),
            ),
            Some(why) => LinkError::new("tls", format!("no TLS with {host}: {why}")),
            None => {
                LinkError::new("tls", format!("{host} closed during the TLS handshake: {error}"))
            }
        }
    }

    fn upgrade_error(&self, error: &tungstenite::Error) -> LinkError {
        let url = &self.url;
        let tungstenite::Error::Http(response) = error else {
            return LinkError::new("upgrade", format!("no WebSocket with {url}: {error}"));
        };
        let retry_after = response
            .headers()
            .get(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        match response.status().as_u16() {
            401 => LinkError::new(
                "http_401",
                format!(
                    "{url} does not accept the token (401): is it signed with the key of this \
                     gateway, and not expired?"
                ),
            ),
            403 => LinkError::new(
                "http_403",
                format!("{url} does not let this device in (403): it may be revoked"),
            ),
            404 => LinkError::new(
                "http_404",
                format!("{url} is not the way in (404): the path is {}", proto::PATH),
            ),
            429 => LinkError { retry_after, ..LinkError::new("http_429", busy(url, 429)) },
            503 => LinkError { retry_after, ..LinkError::new("http_503", busy(url, 503)) },
            status => LinkError::new("http_other", format!("{url} answered with status {status}")),
        }
    }
}

fn busy(url: &str, status: u16) -> String {
    format!("{url} has too much to do ({status})")
}

fn tls_config(ca: &Path, devices: u32) -> Result<ClientConfig> {
    let unreadable = || format!("cannot read the CA {}", ca.display());
    let pem = std::fs::read(ca).with_context(unreadable)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.with_context(unreadable)?).with_context(unreadable)?;
    }
    ensure!(!roots.is_empty(), "{} holds no certificate in PEM", ca.display());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(TicketPool::new(devices as usize)));
    Ok(config)
}
