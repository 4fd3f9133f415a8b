//! Every status of the upgrade.

use crate::harness::{Gateway, SOON, request};
use gateway::record::Identity;
use jsonwebtoken::{Algorithm, Header};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(header))
    }

    fn names(&self, header: &str) -> bool {
        let prefix = format!("{header}:").to_lowercase();
        self.head.lines().any(|line| line.to_lowercase().starts_with(&prefix))
    }
}

async fn ask(gateway: &Gateway, request: &[u8]) -> Answer {
    let mut stream = gateway.tls().await;
    stream.write_all(request).await.unwrap();
    // The gateway may refuse before it has read everything.
    let _ = stream.flush().await;
    answer(&mut stream).await
}

async fn answer(stream: &mut (impl AsyncReadExt + Unpin)) -> Answer {
    let mut bytes = Vec::new();
    let read = async {
        // An upgrade that succeeds leaves the connection open.
        while !bytes.windows(4).any(|end| end == b"\r\n\r\n") || !bytes.starts_with(b"HTTP/1.1 1") {
            if stream.read_buf(&mut bytes).await.unwrap() == 0 {
                break;
            }
        }
    };
    timeout(SOON, read).await.expect("an answer and the end of the connection in time");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer with a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A good request, as lines that a test can change.
struct Lines(Vec<String>);

impl Lines {
    fn good(token: &str) -> Self {
        Self(
            [
                "GET /v1/telemetry HTTP/1.1".to_owned(),
                "Host: localhost".to_owned(),
                "Connection: keep-alive, Upgrade".to_owned(),
                "Upgrade: websocket".to_owned(),
                "Sec-WebSocket-Version: 13".to_owned(),
                format!("Sec-WebSocket-Key: {KEY}"),
                "Sec-WebSocket-Protocol: telemetry.v1.msgpack".to_owned(),
                format!("Authorization: Bearer {token}"),
            ]
            .into(),
        )
    }

    /// Replaces the line that starts like this; with nothing, takes it away.
    fn set(mut self, start: &str, line: &str) -> Self {
        let at = self.0.iter().position(|line| line.starts_with(start)).unwrap();
        if line.is_empty() {
            self.0.remove(at);
        } else {
            self.0[at] = line.to_owned();
        }
        self
    }

    fn add(mut self, line: &str) -> Self {
        self.0.push(line.to_owned());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        (self.0.join("\r\n") + "\r\n\r\n").into_bytes()
    }
}

#[tokio::test]
async fn a_good_request_is_upgraded() {
    let gateway = Gateway::start().await;
    let good = Lines::good(&gateway.token("d1"));
    let answer = ask(&gateway, &good.bytes()).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert!(answer.has("sec-websocket-protocol: telemetry.v1.msgpack"), "{answer:?}");
    assert!(answer.has("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer:?}");
    assert!(!answer.names("sec-websocket-extensions"));
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let gateway = Gateway::start().await;
    let mut stream = gateway.tls().await;
    for byte in Lines::good(&gateway.token("d1")).bytes() {
        stream.write_all(&[byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    assert_eq!(answer(&mut stream).await.status, 101);
}

#[tokio::test]
async fn a_token_may_come_as_a_subprotocol_and_is_not_echoed() {
    let gateway = Gateway::start().await;
    let token = gateway.token("d1");
    let offered = format!("Sec-WebSocket-Protocol: telemetry.v1.msgpack, bearer.{token}");
    let request = Lines::good("x").set("Authorization", "").set("Sec-WebSocket-Protocol", &offered);
    let answer = ask(&gateway, &request.bytes()).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert!(!answer.head.contains(&token));
    assert!(answer.has("sec-websocket-protocol: telemetry.v1.msgpack"));
}

#[tokio::test]
async fn every_mistake_gets_its_status() {
    let gateway = Gateway::start().await;
    let token = gateway.token("d1");
    let good = || Lines::good(&token);
    let long_uri = format!("GET /v1/telemetry{} HTTP/1.1", "x".repeat(2500));
    let endless_uri = format!("GET /{} HTTP/1.1", "x".repeat(20_000));
    let big = format!("X: {}", "x".repeat(9_000));
    let mut many = good();
    for n in 0..70 {
        many = many.add(&format!("X-{n}: 1"));
    }
    let bare = |lines: &Lines| String::from_utf8(lines.bytes()).unwrap().replace("\r\n", "\n");
    let early = [good().bytes(), vec![0x82, 0x80, 0, 0, 0, 0]].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("HTTP/1.0", good().set("GET", "GET /v1/telemetry HTTP/1.0").bytes(), 400),
        ("HTTP/2.0", good().set("GET", "GET /v1/telemetry HTTP/2.0").bytes(), 400),
        ("no version", good().set("GET", "GET /v1/telemetry").bytes(), 400),
        ("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        ("garbage", b"\x00\x01\x02\x03\r\n\r\n".to_vec(), 400),
        ("text", b"hello there\r\n\r\n".to_vec(), 400),
        ("no Host", good().set("Host", "").bytes(), 400),
        ("two Hosts", good().add("Host: localhost").bytes(), 400),
        ("no key", good().set("Sec-WebSocket-Key", "").bytes(), 400),
        ("two keys", good().add(&format!("Sec-WebSocket-Key: {KEY}")).bytes(), 400),
        ("short key", good().set("Sec-WebSocket-Key", "Sec-WebSocket-Key: abc").bytes(), 400),
        ("no version", good().set("Sec-WebSocket-Version", "").bytes(), 400),
        ("two versions", good().add("Sec-WebSocket-Version: 13").bytes(), 400),
        ("version 8", good().set("Sec-WebSocket-V", "Sec-WebSocket-Version: 8").bytes(), 426),
        ("version 130", good().set("Sec-WebSocket-V", "Sec-WebSocket-Version: 130").bytes(), 426),
        ("no Upgrade", good().set("Upgrade", "").bytes(), 400),
        ("no Connection", good().set("Connection", "").bytes(), 400),
        ("h2c", good().set("Upgrade", "Upgrade: h2c").bytes(), 400),
        ("no subprotocol", good().set("Sec-WebSocket-Protocol", "").bytes(), 400),
        (
            "wrong subprotocol",
            good().set("Sec-WebSocket-P", "Sec-WebSocket-Protocol: mqtt").bytes(),
            400,
        ),
        (
            "near miss of the subprotocol",
            good().set("Sec-WebSocket-P", "Sec-WebSocket-Protocol: telemetry.v1").bytes(),
            400,
        ),
        ("Origin", good().add("Origin: https://evil.example").bytes(), 403),
        ("Origin null", good().add("Origin: null").bytes(), 403),
        ("body", good().add("Content-Length: 5").bytes(), 400),
        ("chunked", good().add("Transfer-Encoding: chunked").bytes(), 400),
        ("both", good().add("Content-Length: 5").add("Transfer-Encoding: chunked").bytes(), 400),
        ("two lengths", good().add("Content-Length: 5").add("Content-Length: 6").bytes(), 400),
        ("folded header", good().add("X: a\r\n b").bytes(), 400),
        ("space before the colon", good().add("X : a").bytes(), 400),
        ("NUL in a header", good().add("X: a\0b").bytes(), 400),
        ("bare LF", bare(&good()).into_bytes(), 400),
        ("bytes before the upgrade", early, 400),
        (
            "token in the query",
            good().set("GET", "GET /v1/telemetry?token=x HTTP/1.1").bytes(),
            400,
        ),
        ("unknown path", good().set("GET", "GET /v2/telemetry HTTP/1.1").bytes(), 404),
        ("root", good().set("GET", "GET / HTTP/1.1").bytes(), 404),
        ("path with a slash", good().set("GET", "GET /v1/telemetry/ HTTP/1.1").bytes(), 404),
        ("POST", good().set("GET", "POST /v1/telemetry HTTP/1.1").bytes(), 405),
        ("HEAD", good().set("GET", "HEAD /v1/telemetry HTTP/1.1").bytes(), 405),
        ("CONNECT", good().set("GET", "CONNECT localhost:8443 HTTP/1.1").bytes(), 404),
        ("long path", good().set("GET", &long_uri).bytes(), 414),
        ("endless path", good().set("GET", &endless_uri).bytes(), 414),
        ("large header", good().add(&big).bytes(), 431),
        ("many headers", many.bytes(), 431),
        ("no credential", good().set("Authorization", "").bytes(), 401),
        ("two credentials", good().add("Authorization: Bearer x").bytes(), 400),
    ];
    for (what, request, status) in cases {
        let answer = ask(&gateway, &request).await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(answer.has("content-type: application/problem+json"), "{what}: {answer:?}");
        assert!(answer.names("content-length"), "{what}: {answer:?}");
        if what != "HEAD" {
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(body["status"], status, "{what}");
            assert!(!body["detail"].as_str().unwrap().is_empty(), "{what}");
        }
        match status {
            405 => assert!(answer.has("allow: GET"), "{what}"),
            426 => assert!(answer.has("sec-websocket-version: 13"), "{what}"),
            401 => assert!(answer.has("www-authenticate: Bearer"), "{what}"),
            _ => {}
        }
        if what.contains("subprotocol") {
            assert!(answer.body.contains("telemetry.v1.msgpack"), "{what}");
        }
    }
    // Nobody was harmed.
    gateway.hello("d1", None).await;
    assert_eq!(gateway.metric("gateway_upgrades_refused_total{status=\"405\"}"), 2.0);
}

#[tokio::test]
async fn every_bad_credential_gets_the_same_answer() {
    let gateway = Gateway::start().await;
    let now = crate::harness::unix_s();
    let good = json!({ "sub": "d1", "aud": "telemetry", "iat": now, "exp": now + 60 });
    let with = |key: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[key] = value;
        gateway.sign(&Header::new(Algorithm::ES256), &claims)
    };
    let valid = gateway.token("d1");
    let (head_and_claims, _) = valid.rsplit_once('.').unwrap();
    let none = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.eyJzdWIiOiJkMSJ9.";
    let stranger = Gateway::start().await.token("d1");
    let long = "x".repeat(6000);
    let tokens = [
        "",
        "x",
        "a.b.c",
        "..",
        none,
        &long,
        &format!("{head_and_claims}."),
        &format!("{valid}A"),
        &stranger,
        &with("exp", json!(now - 60)),
    ];
    let mut bodies = Vec::new();
    for (n, token) in tokens.iter().enumerate() {
        let answer = ask(&gateway, &Lines::good(token).bytes()).await;
        assert_eq!(answer.status, 401, "{n}: {answer:?}");
        bodies.push(answer.body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    // That was one more than is taken from one address within a minute.
    let answer = ask(&gateway, &Lines::good("x").bytes()).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.names("retry-after"), "{answer:?}");
    // A valid credential from the same address is none the worse.
    gateway.hello("d1", None).await;
}

#[tokio::test]
async fn a_revoked_device_is_forbidden() {
    let gateway = Gateway::start().await;
    gateway.auth.set_revoked([Identity::new("default", "d1")].into());
    let answer = ask(&gateway, &Lines::good(&gateway.token("d1")).bytes()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    gateway.hello("d2", None).await;
}

#[tokio::test]
async fn known_origins_may_connect() {
    let gateway = Gateway::start_with(Default::default(), |config| {
        config.allowed_origins = vec!["https://fleet.example".to_owned()];
    })
    .await;
    for (origin, status) in [
        ("https://fleet.example", 101),
        ("https://localhost", 101),
        ("http://localhost", 403),
        ("https://fleet.example.org", 403),
    ] {
        let request = Lines::good(&gateway.token("d1")).add(&format!("Origin: {origin}"));
        let answer = ask(&gateway, &request.bytes()).await;
        assert_eq!(answer.status, status, "{origin}: {answer:?}");
    }
}

#[tokio::test]
async fn slow_requests_are_told_so() {
    let gateway = Gateway::start_with(Default::default(), |config| {
        config.head_time = Duration::from_millis(300);
    })
    .await;
    for sent in ["", "GET /v1/telemetry HTTP/1.1\r\nHost: loc"] {
        let answer = ask(&gateway, sent.as_bytes()).await;
        assert_eq!(answer.status, 408, "{answer:?}");
        assert!(answer.has("content-type: application/problem+json"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_full_gateway_names_a_time() {
    let gateway =
        Gateway::start_with(Default::default(), |config| config.max_connections = 1).await;
    let (_first, _) = gateway.hello("d1", None).await;
    let answer = ask(&gateway, &Lines::good(&gateway.token("d2")).bytes()).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.names("retry-after"), "{answer:?}");
}

#[tokio::test]
async fn a_refused_client_of_a_library_sees_the_status() {
    let gateway = Gateway::start().await;
    let refused = crate::harness::Device::over(gateway.tls().await, request(None)).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else {
        panic!("refused with a status");
    };
    assert_eq!(response.status(), 401);
}
