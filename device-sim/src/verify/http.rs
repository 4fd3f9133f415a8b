//! Questions to a store over HTTP, one at a time on a connection that is kept.
//!
//! The oracle asks and waits, so the client is a blocking one around a runtime of its own. An
//! answer is read as it comes: whole up to a limit, or line by line, so that memory does not grow
//! with it. Asking changes nothing in a store: a question that a resting connection failed is
//! asked once more on a new one.

use crate::dial::{Stream, connector, dial, read_secret};
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Longest silence of a store before its answer and within it.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest time for a question to `influxdb2` and the whole answer.
const ANSWER: Duration = Duration::from_secs(300);
/// Longest answer that is taken as a whole, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longest line of an answer that is taken line by line, in bytes.
const MAX_LINE_BYTES: usize = 16 << 20;
/// How much of a store's own words is passed on.
const MAX_WORDS: usize = 300;

/// How to reach a store, and as whom.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://host:port` or `https://host`, with a path if the store is not at the root.
    pub url: String,
    /// Certificates of the CA that vouches for the store (PEM); without it those of the system.
    pub ca: Option<PathBuf>,
    /// As whom.
    pub credential: Credential,
}

/// As whom a store is asked.
#[derive(Clone)]
pub enum Credential {
    /// As nobody.
    None,
    /// With the token in this file.
    TokenFile(PathBuf),
    /// As a user, with the password in this file.
    User(String, PathBuf),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Credential::None => f.write_str("None"),
            Credential::TokenFile(path) => write!(f, "TokenFile({})", path.display()),
            Credential::User(name, _) => write!(f, "User({name})"),
        }
    }
}

impl Credential {
    pub(super) fn is_user(&self) -> bool {
        matches!(self, Credential::User(..))
    }

    fn header(&self, token_scheme: &str) -> Result<Option<HeaderValue>> {
        let text = match self {
            Credential::None => return Ok(None),
            Credential::TokenFile(path) => format!("{token_scheme} {}", read_secret(path)?.trim()),
            Credential::User(name, path) => {
                let password = read_secret(path)?;
                let pair = format!("{name}:{}", password.trim_end_matches(['\r', '\n']));
                format!("Basic {}", base64(pair.as_bytes()))
            }
        };
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| anyhow!("the credential holds characters that none has"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

type Body = Empty<Bytes>;

/// Asks one store.
pub(super) struct Client {
    runtime: Runtime,
    url: String,
    host: String,
    port: u16,
    authority: HeaderValue,
    /// What stands before every path.
    root: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authorization: Option<HeaderValue>,
    credential: Credential,
    connection: Option<SendRequest<Body>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.url)
    }
}

impl Client {
    /// A client that has not connected yet; `token_scheme` stands before a token.
    pub(super) fn new(endpoint: &Endpoint, token_scheme: &str) -> Result<Self> {
        let url = endpoint.url.clone();
        // What stands there may be a secret, and is not said again.
        ensure!(
            !url.contains(['@', '?']),
            "what is given is not http://host:port or https://host, without user, password and query"
        );
        let wrong = || anyhow!("{url:?} is not http://host:port or https://host");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                (Some((connector(endpoint.ca.as_deref())?, name)), 443)
            }
            _ => return Err(wrong()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            runtime: runtime.context("cannot start the runtime")?,
            host,
            port: authority.port_u16().unwrap_or(port),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?,
            root: uri.path().trim_end_matches('/').to_owned(),
            tls,
            authorization: endpoint.credential.header(token_scheme)?,
            credential: endpoint.credential.clone(),
            connection: None,
            url,
        })
    }

    /// The store is not at the root of its address.
    pub(super) fn is_below_a_path(&self) -> bool {
        !self.root.is_empty()
    }

    /// Puts questions through `influxdb2`. That crate is built without TLS, since the one of its
    /// time would bring a second rustls and `ring`: it speaks to a pipe on loopback, which carries
    /// what it says over a connection like all others here, and bounds the answer.
    pub(super) fn influxdb_2<T>(
        &mut self,
        org: &str,
        questions: impl AsyncFnOnce(&influxdb2::Client) -> Result<T>,
    ) -> Result<T> {
        let token = match &self.credential {
            Credential::TokenFile(path) => read_secret(path)?.trim().to_owned(),
            Credential::None | Credential::User(..) => String::new(),
        };
        let unanswered = format!("the store at {} does not answer", self.url);
        let Self { runtime, host, port, authority, tls, .. } = self;
        let to_store = async || dial(host, *port, tls.as_ref()).await;
        let answered = runtime.block_on(async {
            let pipe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let url = format!("http://{}", pipe.local_addr()?);
            let mut headers = reqwest::header::HeaderMap::new();
            headers.insert(reqwest::header::HOST, authority.to_str()?.parse()?);
            let http = reqwest::Client::builder()
                .default_headers(headers)
                .redirect(reqwest::redirect::Policy::none())
                // What the pipe leads to is the store, whatever the environment says.
                .no_proxy()
                // One question, one connection: the pipe carries them one after another.
                .pool_max_idle_per_host(0);
            let api = influxdb2::ClientBuilder::with_builder(http, url, org, token).build()?;
            tokio::select! {
                answer = timeout(ANSWER, questions(&api)) => {
                    answer.with_context(|| format!("no answer within {ANSWER:?}"))?
                }
                failed = carry(&pipe, &to_store) => Err(failed),
            }
        });
        answered.with_context(|| unanswered)
    }

    /// The answer to a question, whole.
    pub(super) fn get(&mut self, path: &str, query: &[(&str, &str)]) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.read(path, query, |bytes| {
            ensure!(answer.len() + bytes.len() <= MAX_ANSWER_BYTES, "the answer is too long");
            answer.extend_from_slice(bytes);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(answer)
    }

    /// Hands each line of the answer to `each`, until it has enough.
    pub(super) fn lines(
        &mut self,
        path: &str,
        query: &[(&str, &str)],
        mut each: impl FnMut(&[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut line = Vec::new();
        self.read(path, query, |mut bytes| {
            while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
                line.extend_from_slice(&bytes[..end]);
                if !line.is_empty() && each(&line)?.is_break() {
                    line.clear();
                    return Ok(ControlFlow::Break(()));
                }
                line.clear();
                bytes = &bytes[end + 1..];
            }
            ensure!(line.len() + bytes.len() <= MAX_LINE_BYTES, "a line is too long");
            line.extend_from_slice(bytes);
            Ok(ControlFlow::Continue(()))
        })?;
        // The last line needs no end.
        if !line.is_empty() {
            let _ = each(&line)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        path: &str,
        query: &[(&str, &str)],
        mut each: impl FnMut(&[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let target = format!("{}{path}?{query}", self.root);
        let unanswered = format!("the store at {} does not answer {path}", self.url);
        let resting = self.connection.take();
        self.connection = self
            .runtime
            .block_on(async {
                let connected = async || connect(&self.host, self.port, self.tls.as_ref()).await;
                let request = || {
                    let mut request = Request::get(&target)
                        .header(HOST, self.authority.clone())
                        .header(USER_AGENT, concat!("device-sim/", env!("CARGO_PKG_VERSION")))
                        .header(ACCEPT, "application/json");
                    if let Some(authorization) = &self.authorization {
                        request = request.header(AUTHORIZATION, authorization.clone());
                    }
                    request.body(Body::new())
                };
                let mut kept = None;
                if let Some(mut sender) = resting {
                    // Nothing has to be said about a connection that was closed while it rested.
                    if let Ok(answer) = ask(&mut sender, request()?).await {
                        kept = Some((sender, answer));
                    }
                }
                let (sender, answer) = match kept {
                    Some(kept) => kept,
                    None => {
                        let mut sender = timeout(SILENCE, connected()).await??;
                        let answer = ask(&mut sender, request()?).await?;
                        (sender, answer)
                    }
                };
                let ended = take(answer, &mut each).await?;
                Ok::<_, anyhow::Error>(ended.is_continue().then_some(sender))
            })
            .context(unanswered)?;
        Ok(())
    }
}

async fn ask(sender: &mut SendRequest<Body>, request: Request<Body>) -> Result<Response<Incoming>> {
    let answer = async {
        sender.ready().await?;
        sender.send_request(request).await
    };
    let late = || format!("no answer within {SILENCE:?}");
    Ok(timeout(SILENCE, answer).await.with_context(late)??)
}

async fn take(
    answer: Response<Incoming>,
    each: &mut impl FnMut(&[u8]) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let (head, mut body) = answer.into_parts();
    let mut refusal = Vec::new();
    let late = || format!("its answer stood still for {SILENCE:?}");
    while let Some(frame) = timeout(SILENCE, body.frame()).await.with_context(late)? {
        let Ok(data) = frame?.into_data() else { continue };
        if head.status.is_success() {
            if each(&data)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        } else if refusal.len() < MAX_WORDS {
            refusal.extend_from_slice(&data);
        }
    }
    if !head.status.is_success() {
        let words: String = String::from_utf8_lossy(&refusal).chars().take(MAX_WORDS).collect();
        bail!("{}: {}", head.status, words.trim());
    }
    Ok(ControlFlow::Continue(()))
}

/// Carries connections to `pipe` to the store, one after another. Ends when the store cannot be
/// reached or breaks one off.
async fn carry(
    pipe: &TcpListener,
    to_store: &impl AsyncFn() -> Result<Box<dyn Stream>>,
) -> anyhow::Error {
    loop {
        let carried = async {
            let (mut near, _) = pipe.accept().await?;
            let far = timeout(SILENCE, to_store()).await??;
            let (from_far, mut to_far) = tokio::io::split(far);
            let (mut from_near, mut to_near) = near.split();
            let mut from_far = from_far.take(MAX_ANSWER_BYTES as u64);
            // Whichever side ends it: one connection is one question and its answer.
            tokio::select! {
                end = tokio::io::copy(&mut from_near, &mut to_far) => end?,
                end = tokio::io::copy(&mut from_far, &mut to_near) => end?,
            };
            ensure!(from_far.limit() > 0, "the answer is too long");
            Ok::<_, anyhow::Error>(to_near.shutdown().await?)
        };
        if let Err(failed) = carried.await {
            return failed;
        }
    }
}

async fn connect(
    host: &str,
    port: u16,
    tls: Option<&(TlsConnector, ServerName<'static>)>,
) -> Result<SendRequest<Body>> {
    let stream = dial(host, port, tls).await?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    // Runs while a question is under way, and ends with the sender. What it has to say about a
    // failure the question says too.
    tokio::spawn(async { driver.await.unwrap_or_default() });
    Ok(sender)
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            out.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Client, Credential, Endpoint};

    #[test]
    fn a_secret_in_an_address_is_not_said_again() {
        for url in ["http://user:hidden@localhost", "http://localhost/?u=user&p=hidden", "hidden@"]
        {
            let endpoint = Endpoint { url: url.into(), ca: None, credential: Credential::None };
            let refused = Client::new(&endpoint, "Token").err().map(|error| format!("{error:?}"));
            let refused = refused.unwrap_or_default();
            assert!(
                refused.contains("without user, password") && !refused.contains("hidden"),
                "{refused}"
            );
        }
    }

    #[test]
    fn base64_is_as_in_rfc_4648() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(super::base64(text.as_bytes()), encoded);
        }
    }
}
