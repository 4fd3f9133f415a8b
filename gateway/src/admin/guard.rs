//! Who may ask.

use super::problem;
use crate::config::valid::Secret;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Paths that tell nothing but up or down: probes of an orchestrator carry no secrets.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// The rules of one listener.
#[derive(Debug)]
pub(super) struct Guard {
    loopback: bool,
    token: Option<Secret>,
}

impl Guard {
    pub(super) fn new(listen: SocketAddr, token: Option<Secret>) -> Self {
        Self { loopback: listen.ip().is_loopback(), token }
    }

    /// `None`: let it in.
    fn refusal(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        let host = single(headers, header::HOST);
        // A page of another site can make a browser resolve its own name to 127.0.0.1; the name
        // stays in Host. Off loopback the token protects, which such a page does not have.
        if self.loopback && !host.is_some_and(is_local) {
            let detail = "the Host header must name this machine: localhost, 127.0.0.1 or [::1]";
            return Some(problem(StatusCode::FORBIDDEN, detail));
        }
        if headers.contains_key(header::ORIGIN) {
            let origin = single(headers, header::ORIGIN).and_then(|origin| {
                origin.strip_prefix("http://").or(origin.strip_prefix("https://"))
            });
            let ours = origin.zip(host).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
            if !ours {
                let detail = "pages of other origins may not ask";
                return Some(problem(StatusCode::FORBIDDEN, detail));
            }
        }
        let token = self.token.as_ref()?;
        if OPEN.contains(&path) || bearer(headers).is_some_and(|given| same(given, token.expose()))
        {
            return None;
        }
        let detail = "send the token of \"admin.token_file\" as Authorization: Bearer";
        let mut response = problem(StatusCode::UNAUTHORIZED, detail);
        let challenge = HeaderValue::from_static("Bearer realm=\"gateway\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        Some(response)
    }
}

/// The middleware.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    match guard.refusal(request.uri().path(), request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

/// The value of a header that is there exactly once, as text.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

fn is_local(host: &str) -> bool {
    // "[::1]:8080", "127.0.0.1:8080", "localhost"
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = single(headers, header::AUTHORIZATION)?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().as_bytes())
}

/// Compares in a time that depends on the lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    let different = a.iter().zip(b).fold(0, |different, (a, b)| black_box(different | (a ^ b)));
    a.len() == b.len() && different == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_this_machine_from_others() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080"] {
            assert!(is_local(host), "{host} was refused");
        }
        let foreign = [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]:1",
            "127.0.0.1.nip.io",
        ];
        for host in foreign {
            assert!(!is_local(host), "{host} was taken");
        }
    }

    #[test]
    fn compares_whole_tokens() {
        assert!(same(b"abc", b"abc"));
        for other in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert!(!same(other, b"abc"));
        }
    }
}
