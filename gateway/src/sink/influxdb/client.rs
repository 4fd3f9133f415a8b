//! Requests to the store over connections that are kept.
//!
//! A connection is driven by the request that uses it and rests between requests, so nothing runs
//! in the background. One that the store has closed meanwhile is replaced without a word; writes
//! may be repeated, so a request that a resting connection failed is sent once more on a new one.

use super::{
    OpenError, Options, Token,
    answer::{Verdict, judge},
};
use crate::client_tls::client_config;
use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{
    fs,
    io::Write,
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Most bytes of an answer that are read; InfluxDB 3 repeats every line that it refuses.
const MAX_ANSWER_BYTES: usize = 1 << 20;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Body = Full<Bytes>;
type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Body>;
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Connection {
    sender: http1::SendRequest<Body>,
    driver: Pin<Box<Driver>>,
}

/// Writes to one store.
pub(super) struct Client {
    options: Options,
    host: String,
    port: u16,
    /// `Host:` of requests.
    authority: HeaderValue,
    /// What stands before the bucket.
    target: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authorization: Mutex<Option<HeaderValue>>,
    /// Connections that rest; never more than lanes.
    resting: Mutex<Vec<Connection>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({}:{})", self.host, self.port)
    }
}

impl Client {
    pub(super) fn new(options: Options) -> Result<Self, OpenError> {
        let (sink, url) = (options.name.clone(), options.url.clone());
        let wrong = || OpenError::Url { sink: sink.clone(), url: url.clone() };
        let uri: Uri = options.url.parse().map_err(|_| wrong())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong());
        };
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let (tls, port) = match scheme {
            "http" => (None, 80),
            "https" => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                (Some((connector(&options)?, name)), 443)
            }
            _ => return Err(wrong()),
        };
        let path = uri.path().trim_end_matches('/');
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("org", &options.org)
            .append_pair("precision", "ns")
            .finish();
        let authorization = Mutex::new(authorization(&options)?);
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(port),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?,
            target: format!("{path}/api/v2/write?{query}"),
            tls,
            authorization,
            resting: Mutex::default(),
            options,
        })
    }

    /// Sends lines to a bucket.
    pub(super) async fn write(&self, bucket: &str, lines: Bytes) -> Verdict {
        let body = match self.options.gzip {
            false => lines,
            true => match task::spawn_blocking(move || compressed(&lines)).await {
                Ok(Ok(body)) => body,
                Ok(Err(error)) => return again(format!("compressing has failed: {error}")),
                Err(error) => return again(format!("compressing has failed: {error}")),
            },
        };
        let verdict = self.attempt(bucket, body.clone()).await;
        // A token that was replaced in its file is used at once.
        if matches!(verdict, Verdict::Blocked(_)) && self.read_token_again().await {
            return self.attempt(bucket, body).await;
        }
        verdict
    }

    async fn attempt(&self, bucket: &str, body: Bytes) -> Verdict {
        match timeout(self.options.timeout, self.exchange(bucket, body)).await {
            Ok(Ok((status, headers, body))) => judge(status, &headers, &body),
            Ok(Err(error)) => again(format!("{}: {}", self.whom(), causes(&*error))),
            Err(_) => {
                let within = self.options.timeout;
                again(format!("{} did not answer within {within:?}", self.whom()))
            }
        }
    }

    pub(super) fn whom(&self) -> String {
        format!("the store at {}", self.authority())
    }

    async fn exchange(
        &self,
        bucket: &str,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        if let Some(connection) = self.rested().await {
            // Nothing has to be said about a connection that was closed while it rested.
            if let Ok(answer) = self.on(connection, bucket, body.clone()).await {
                return Ok(answer);
            }
        }
        self.on(self.connect().await?, bucket, body).await
    }

    /// A resting connection that is still open.
    async fn rested(&self) -> Option<Connection> {
        loop {
            let mut connection =
                self.resting.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            let ended = std::future::poll_fn(|context| {
                Poll::Ready(connection.driver.as_mut().poll(context).is_ready())
            });
            if !ended.await && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let (sender, driver) = http1::handshake(TokioIo::new(self.dial().await?)).await?;
        Ok(Connection { sender, driver: Box::pin(driver) })
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, Failure> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(tcp),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), tcp).await?),
        })
    }

    /// Carries connections to `listener` to the store, one after another. Ends when the store
    /// cannot be reached or breaks one off.
    pub(super) async fn carry(&self, listener: &TcpListener) -> Failure {
        loop {
            let carried = async {
                let (mut near, _) = listener.accept().await?;
                let (from_far, mut to_far) = tokio::io::split(self.dial().await?);
                let (mut from_near, mut to_near) = near.split();
                let mut from_far = from_far.take(MAX_ANSWER_BYTES as u64);
                // Whichever side ends it: one connection is one request and its answer.
                tokio::select! {
                    end = tokio::io::copy(&mut from_near, &mut to_far) => end?,
                    end = tokio::io::copy(&mut from_far, &mut to_near) => end?,
                };
                Ok::<_, Failure>(to_near.shutdown().await?)
            };
            if let Err(failure) = carried.await {
                return failure;
            }
        }
    }

    /// Its name and port, as requests name it.
    pub(super) fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or(&self.host)
    }

    /// An answer must be complete within this.
    pub(super) fn time_limit(&self) -> Duration {
        self.options.timeout
    }

    /// The token as it is now; empty if there is none.
    pub(super) fn token(&self) -> Result<String, OpenError> {
        token(&self.options)
    }

    /// Sends a request and takes the whole answer; keeps the connection if it can be used again.
    async fn on(
        &self,
        connection: Connection,
        bucket: &str,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        let Connection { mut sender, mut driver } = connection;
        let request = self.request(bucket, body)?;
        let (answer, open) = {
            let exchange = pin!(async {
                let (head, body) = sender.send_request(request).await?.into_parts();
                let (body, whole) = beginning(body).await?;
                Ok::<_, Failure>(((head.status, head.headers, body), whole))
            });
            match select(exchange, driver.as_mut()).await {
                Either::Left((answer, _)) => answer?,
                // The store closes: what it said is there all the same.
                Either::Right((_, exchange)) => (exchange.await?.0, false),
            }
        };
        if open {
            let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
            if resting.len() < self.options.in_flight {
                resting.push(Connection { sender, driver });
            }
        }
        Ok(answer)
    }

    fn request(&self, bucket: &str, body: Bytes) -> Result<Request<Body>, hyper::http::Error> {
        let bucket: String = form_urlencoded::byte_serialize(bucket.as_bytes()).collect();
        let target = format!("{}&bucket={bucket}", self.target);
        let mut request = Request::post(target)
            .header(HOST, self.authority.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.options.gzip {
            request = request.header(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(authorization) = &*authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.body(Full::new(body))
    }

    /// Whether the token in the file is another one than before.
    async fn read_token_again(&self) -> bool {
        let options = self.options.clone();
        let Ok(Ok(new)) = task::spawn_blocking(move || authorization(&options)).await else {
            return false;
        };
        let mut old = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *old != new;
        *old = new;
        is_new
    }
}

/// The beginning of an answer, and whether it is the whole.
async fn beginning(mut body: Incoming) -> Result<(Bytes, bool), hyper::Error> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > MAX_ANSWER_BYTES {
            return Ok((read.freeze(), false));
        }
    }
    Ok((read.freeze(), true))
}

fn again(why: String) -> Verdict {
    Verdict::Again { after: None, why }
}

/// An error with its causes.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn compressed(lines: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
    encoder.write_all(lines)?;
    encoder.finish().map(Bytes::from)
}

fn wrong_token(options: &Options, why: String) -> OpenError {
    OpenError::Token { sink: options.name.clone(), why }
}

/// Empty if there is none.
fn token(options: &Options) -> Result<String, OpenError> {
    let text = match &options.token {
        Token::None => return Ok(String::new()),
        Token::Text(token) => token.clone(),
        Token::File(path) => fs::read_to_string(path).map_err(|error| {
            wrong_token(options, format!("cannot read {}: {error}", path.display()))
        })?,
    };
    Ok(text.trim().to_owned())
}

fn authorization(options: &Options) -> Result<Option<HeaderValue>, OpenError> {
    if options.token == Token::None {
        return Ok(None);
    }
    let mut value = HeaderValue::try_from(format!("Token {}", token(options)?))
        .map_err(|_| wrong_token(options, "it holds characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn connector(options: &Options) -> Result<TlsConnector, OpenError> {
    let config = client_config(options.ca_file.as_deref(), None);
    config.map(TlsConnector::from).map_err(|bad| OpenError::Ca {
        sink: options.name.clone(),
        path: bad.path,
        why: bad.why,
    })
}
