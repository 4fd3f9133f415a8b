//! Requests that no WebSocket client sends. The plain ones are in the story of the upgrade.

use super::{Arena, Fate, wire::Wire};

/// A request that is accepted.
pub(super) fn good(token: &str) -> Vec<u8> {
    with(token, "")
}

/// A good request with more header lines.
fn with(token: &str, more: &str) -> Vec<u8> {
    format!(
        "GET /v1/telemetry HTTP/1.1\r\n\
         Host: localhost\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: telemetry.v1.msgpack\r\n\
         Authorization: Bearer {token}\r\n{more}\r\n"
    )
    .into_bytes()
}

fn replaced(token: &str, from: &str, to: &str) -> Vec<u8> {
    let request = String::from_utf8(good(token)).unwrap();
    assert!(request.contains(from));
    request.replacen(from, to, 1).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_no_client_sends_get_their_status() {
    let arena = Arena::open().await;
    type Request = Box<dyn Fn(&str) -> Vec<u8>>;
    let more = |lines: &'static str| -> Request { Box::new(move |token| with(token, lines)) };
    let change = |from: &'static str, to: &'static str| -> Request {
        Box::new(move |token| replaced(token, from, to))
    };
    let bytes = |bytes: &'static [u8]| -> Request { Box::new(move |_| bytes.to_vec()) };
    let many: Request = Box::new(|token| with(token, &"X-A: 1\r\n".repeat(100)));
    let early: Request = Box::new(|token| [good(token), b"\x82\x80\0\0\0\0".to_vec()].concat());
    let cases: Vec<(&str, Request, Fate)> = vec![
        ("lower-case method", change("GET", "get"), Fate::Status(405)),
        ("HEAD", change("GET", "HEAD"), Fate::Status(405)),
        ("CONNECT", change("GET /v1/telemetry", "CONNECT a:1"), Fate::Status(404)),
        ("a method of control characters", change("GET", "G\x07T"), Fate::Status(400)),
        ("HTTP/2.0", change("HTTP/1.1", "HTTP/2.0"), Fate::Status(400)),
        ("HTTP/0.9", bytes(b"GET /v1/telemetry\r\n\r\n"), Fate::Status(400)),
        ("the preface of HTTP/2", bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Fate::Status(400)),
        ("another path below", change("telemetry ", "telemetry/x "), Fate::Status(404)),
        ("path traversal", change("/v1/telemetry", "/v1/../v1/telemetry"), Fate::Status(404)),
        ("an escaped path", change("/v1/telemetry", "/v1/%74elemetry"), Fate::Status(404)),
        ("a double slash", change("/v1/telemetry", "//v1/telemetry"), Fate::Status(404)),
        ("a token in the query", change("telemetry ", "telemetry?token=x "), Fate::Status(400)),
        ("an empty query", change("telemetry ", "telemetry? "), Fate::Status(400)),
        ("a space in the target", change("/v1/telemetry", "/v1/tele metry"), Fate::Status(400)),
        ("NUL in the target", change("/v1/telemetry", "/v1/telemetry\0"), Fate::Status(400)),
        ("a folded header", more("X-A: 1\r\n 2\r\n"), Fate::Status(400)),
        ("a header without a colon", more("nonsense\r\n"), Fate::Status(400)),
        ("a space before the colon", more("X-A : 1\r\n"), Fate::Status(400)),
        ("a header without a name", more(": 1\r\n"), Fate::Status(400)),
        ("NUL in a header", more("X-A: a\0b\r\n"), Fate::Status(400)),
        ("a bare CR in a header", more("X-A: a\rb\r\n"), Fate::Status(400)),
        ("a line that ends in LF", more("X-A: 1\n"), Fate::Status(400)),
        (
            "a length and chunks",
            more("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            Fate::Status(400),
        ),
        ("two lengths", more("Content-Length: 0\r\nContent-Length: 1\r\n"), Fate::Status(400)),
        ("a length that is no number", more("Content-Length: -1\r\n"), Fate::Status(400)),
        ("chunks", more("Transfer-Encoding: chunked\r\n"), Fate::Status(400)),
        ("a hundred headers", many, Fate::Status(431)),
        ("a frame before the answer", early, Fate::Status(400)),
        ("the version twice", more("Sec-WebSocket-Version: 13\r\n"), Fate::Status(400)),
        ("the version as text", change("Version: 13", "Version: 13.0"), Fate::Status(426)),
        ("a negative version", change("Version: 13", "Version: -13"), Fate::Status(426)),
        (
            "a key of 15 bytes",
            change("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j"),
            Fate::Status(400),
        ),
        ("an empty key", change("dGhlIHNhbXBsZSBub25jZQ==", ""), Fate::Status(400)),
        (
            "a subprotocol that begins like ours",
            change("v1.msgpack", "v1.msgpackx"),
            Fate::Status(400),
        ),
        ("our subprotocol in capitals", change("telemetry.v1", "TELEMETRY.v1"), Fate::Status(400)),
        ("the origin null", more("Origin: null\r\n"), Fate::Status(403)),
        (
            "an origin that ends like ours",
            more("Origin: https://xlocalhost\r\n"),
            Fate::Status(403),
        ),
        (
            "compression is offered",
            more("Sec-WebSocket-Extensions: permessage-deflate\r\n"),
            Fate::Taken,
        ),
        (
            "an upgrade to something else",
            change("Upgrade: websocket", "Upgrade: h2c"),
            Fate::Status(400),
        ),
    ];
    arena
        .try_all(cases, |device, request| {
            let (arena, request) = (&arena, request(&arena.token(&device)));
            async move {
                match Wire::upgrade(arena.tls().await, &request).await {
                    Ok(_) => Fate::Taken,
                    Err(0) => Fate::Gone,
                    Err(status) => Fate::Status(status),
                }
            }
        })
        .await;
    arena.close().await;
}
