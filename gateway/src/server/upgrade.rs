//! The HTTP side: from a request's head to a WebSocket, or to a status that says what is wrong.

use super::{
    answer::Refusal,
    head::{HeadFacts, HeadStream},
    tls::{ClientProof, TlsStream},
    watched::linger,
};
use crate::auth::{Authenticator, Denied, Presented, Verified};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Largest head, in bytes; the least that hyper takes for a limit.
const MAX_HEAD_BYTES: usize = 8192;
/// Most header lines.
const MAX_HEADERS: usize = 64;
/// Longest request target, in bytes.
const MAX_TARGET_BYTES: usize = 2048;

/// What decides about a request besides the request.
pub(super) struct Gate<'a> {
    pub(super) auth: &'a Authenticator,
    pub(super) allowed_origins: &'a [String],
    pub(super) proof: &'a ClientProof,
    pub(super) from: IpAddr,
    /// Why nobody is let in right now, if so.
    pub(super) full: Option<Refusal>,
    /// Whether an operator has revoked this identity.
    pub(super) is_revoked: &'a (dyn Fn(&Verified) -> bool + Send + Sync),
    /// Whether this identity must stay away for a while.
    pub(super) backs_off: &'a (dyn Fn(&Verified) -> Option<Duration> + Send + Sync),
}

/// What came of an upgrade.
#[expect(clippy::large_enum_variant, reason = "moved once, and most are accepted")]
pub(super) enum Upgraded {
    /// A WebSocket: the stream, what was read of it already, and who it is.
    Accepted(TlsStream, Bytes, Verified),
    /// Refused with this status; the connection is over.
    Refused(StatusCode),
    /// The client has gone.
    Gone,
}

enum Decision {
    Accept(Verified),
    Refuse(StatusCode),
}

/// Reads a request, which must be complete within `head_time`, and answers it.
pub(super) async fn upgrade(stream: TlsStream, gate: Gate<'_>, head_time: Duration) -> Upgraded {
    let facts = Arc::new(HeadFacts::default());
    let decision = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        facts.answering.store(true, Ordering::Relaxed);
        let (decided, response) = answer(&request, &gate, &facts);
        *decision.lock().unwrap_or_else(PoisonError::into_inner) = Some(decided);
        ready(Ok::<_, Infallible>(response))
    });
    let io = TokioIo::new(HeadStream::new(stream, facts.clone()));
    let mut http = http1::Builder::new();
    // The time limit is ours, so that its answer has a body.
    http.max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .header_read_timeout(None)
        .auto_date_header(false);
    let mut connection = http.serve_connection(io, service);
    let served = poll_fn(|cx| connection.poll_without_shutdown(cx));
    let served = tokio::time::timeout(head_time, served).await;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().into_inner();
    let decided = decision.lock().unwrap_or_else(PoisonError::into_inner).take();
    let refusal = match (decided, served) {
        (Some(Decision::Accept(verified)), Ok(Ok(()))) => {
            // Copied: what little there is would keep the whole buffer of the head.
            let early = Bytes::copy_from_slice(&parts.read_buf);
            return Upgraded::Accepted(stream, early, verified);
        }
        (Some(Decision::Accept(_)), _) => return Upgraded::Gone,
        (Some(Decision::Refuse(status)), _) => {
            linger(&mut stream).await;
            return Upgraded::Refused(status);
        }
        (None, Err(_)) => {
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not come in time")
        }
        (None, Ok(Err(error))) if error.is_parse() => not_understood(&facts),
        (None, _) => return Upgraded::Gone,
    };
    let answered = async {
        stream.write_all(&refusal.bytes()).await?;
        stream.flush().await
    };
    if let Ok(Ok(())) = tokio::time::timeout(head_time, answered).await {
        linger(&mut stream).await;
    }
    Upgraded::Refused(refusal.status)
}

fn not_understood(facts: &HeadFacts) -> Refusal {
    match facts.kept_back.load(Ordering::Relaxed) {
        414 => TARGET_TOO_LONG,
        431 if !facts.request_line_done.load(Ordering::Relaxed) => TARGET_TOO_LONG,
        431 => Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the headers are larger than 8 KiB or more than 64",
        ),
        _ => Refusal::bad("not a request of HTTP/1.1"),
    }
}

const TARGET_TOO_LONG: Refusal =
    Refusal::new(StatusCode::URI_TOO_LONG, "the request target is longer than 2048 bytes");

fn answer(
    request: &Request<Incoming>,
    gate: &Gate<'_>,
    facts: &HeadFacts,
) -> (Decision, Response<Full<Bytes>>) {
    match check_head(request, facts).and_then(|handshake| {
        Ok((check_credential(request.headers(), &handshake, gate)?, handshake))
    }) {
        Ok((verified, handshake)) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, handshake.accept);
            headers.insert(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static(proto::SUBPROTOCOL),
            );
            (Decision::Accept(verified), response)
        }
        Err(refusal) => (Decision::Refuse(refusal.status), refusal.response()),
    }
}

struct Handshake<'a> {
    accept: HeaderValue,
    /// A token among the offered subprotocols. It is never echoed or logged.
    bearer: Option<&'a str>,
}

fn check_head<'a>(
    request: &'a Request<Incoming>,
    facts: &HeadFacts,
) -> Result<Handshake<'a>, Refusal> {
    let headers = request.headers();
    if facts.bare_lf.load(Ordering::Relaxed) {
        return Err(Refusal::bad("a line ends in LF without CR"));
    }
    if facts.early_bytes.load(Ordering::Relaxed) {
        return Err(Refusal::bad("bytes were sent before the upgrade was answered"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::bad("the request must be HTTP/1.1"));
    }
    one(headers, header::HOST, "exactly one Host header is required")?;
    let no_body = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
    if headers.contains_key(header::TRANSFER_ENCODING) || !no_body {
        return Err(Refusal::bad("the request must not have a body"));
    }
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > MAX_TARGET_BYTES {
        return Err(TARGET_TOO_LONG);
    }
    if uri.path() != proto::PATH {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "devices connect to /v1/telemetry"));
    }
    if request.method() != Method::GET {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the upgrade is a GET"));
    }
    if uri.query().is_some() {
        return Err(Refusal::bad(
            "the address takes no query; a token goes into the Authorization header",
        ));
    }
    if !lists(headers, header::UPGRADE, "websocket")
        || !lists(headers, header::CONNECTION, "upgrade")
    {
        return Err(Refusal::bad("the request must ask for an upgrade to websocket"));
    }
    let version = one(
        headers,
        header::SEC_WEBSOCKET_VERSION,
        "exactly one Sec-WebSocket-Version header is required",
    )?;
    if version != "13" {
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "the WebSocket version is 13"));
    }
    let key = one(
        headers,
        header::SEC_WEBSOCKET_KEY,
        "exactly one Sec-WebSocket-Key header is required",
    )?;
    if !is_key(key.as_bytes()) {
        return Err(Refusal::bad("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    let bearer = check_subprotocols(headers)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| Refusal::bad("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    Ok(Handshake { accept, bearer })
}

/// Finds ours among the offered subprotocols, and a token behind `bearer.`.
fn check_subprotocols(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut ours = false;
    let mut bearer = None;
    for offered in items(headers, header::SEC_WEBSOCKET_PROTOCOL) {
        if offered == proto::SUBPROTOCOL {
            ours = true;
        } else if let Some(token) = offered.strip_prefix(proto::BEARER_SUBPROTOCOL_PREFIX)
            && bearer.replace(token).is_some()
        {
            return Err(Refusal::bad("more than one credential"));
        }
    }
    if ours {
        Ok(bearer)
    } else {
        Err(Refusal::bad("the subprotocol telemetry.v1.msgpack must be offered"))
    }
}

fn check_credential(
    headers: &HeaderMap,
    handshake: &Handshake<'_>,
    gate: &Gate<'_>,
) -> Result<Verified, Refusal> {
    check_origin(headers, gate.allowed_origins)?;
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let token = match (authorizations.next(), handshake.bearer) {
        (Some(_), Some(_)) => return Err(Refusal::bad("more than one credential")),
        (Some(_), None) if authorizations.next().is_some() => {
            return Err(Refusal::bad("more than one credential"));
        }
        // What is no bearer token is checked as an empty one: it fails, and is counted.
        (Some(value), None) => Some(value.to_str().ok().and_then(bearer_token).unwrap_or_default()),
        (None, bearer) => bearer,
    };
    let certificate = match gate.proof {
        ClientProof::None => None,
        ClientProof::Device(verified) => Some(verified),
        ClientProof::Unusable(error) => {
            tracing::debug!(from = %gate.from, %error, "client certificate refused");
            return Err(Refusal::UNAUTHORIZED);
        }
    };
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let presented = Presented { token, certificate };
    let verified = gate
        .auth
        .check(presented, gate.from, Instant::now(), now_unix_s.cast_signed())
        .map_err(|denied| match denied {
            Denied::Unauthenticated => Refusal::UNAUTHORIZED,
            Denied::Throttled { retry_after } => Refusal::later(
                StatusCode::TOO_MANY_REQUESTS,
                "too many failed attempts from this address",
                retry_after.as_secs().max(1),
            ),
            Denied::Forbidden => Refusal::new(StatusCode::FORBIDDEN, "this device may not connect"),
        })?;
    if (gate.is_revoked)(&verified) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this device was revoked"));
    }
    if let Some(refusal) = &gate.full {
        return Err(refusal.clone());
    }
    if let Some(wait) = (gate.backs_off)(&verified) {
        return Err(Refusal::later(
            StatusCode::TOO_MANY_REQUESTS,
            "connections of this device take over from each other: is its credential in two places?",
            wait.as_secs().max(1),
        ));
    }
    Ok(verified)
}

/// Browsers name the page that connects; a page of somebody else has no business here.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    for origin in headers.get_all(header::ORIGIN) {
        let known = origin.to_str().is_ok_and(|origin| {
            let own = headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .is_some_and(|host| origin.strip_prefix("https://") == Some(host));
            own || allowed.iter().any(|allowed| allowed == origin)
        });
        if !known {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "this Origin may not connect"));
        }
    }
    Ok(())
}

fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn one<'a>(
    headers: &'a HeaderMap,
    name: HeaderName,
    otherwise: &'static str,
) -> Result<&'a HeaderValue, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(Refusal::bad(otherwise)),
    }
}

/// The elements of a comma-separated header, in order.
fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn lists(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted))
}

/// 16 bytes in base64: 22 characters and two signs of padding, the last character with four bits
/// that are zero.
fn is_key(key: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'+' || *byte == b'/';
    key.len() == 24
        && key[..22].iter().all(is_base64)
        && matches!(key[21], b'A' | b'Q' | b'g' | b'w')
        && &key[22..] == b"=="
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (key, good) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("AAAAAAAAAAAAAAAAAAAAAA==", true),
            ("AAAAAAAAAAAAAAAAAAAAAB==", false),
            ("AAAAAAAAAAAAAAAAAAAAAAA=", false),
            ("AAAAAAAAAAAAAAAAAAAAA===", false),
            ("AAAAAAAAAAAA", false),
            ("", false),
            ("!GhlIHNhbXBsZSBub25jZQ==", false),
        ] {
            assert_eq!(is_key(key.as_bytes()), good, "{key}");
        }
    }

    #[test]
    fn bearer_tokens() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("abc", None),
        ] {
            assert_eq!(bearer_token(value), token, "{value}");
        }
    }
}
