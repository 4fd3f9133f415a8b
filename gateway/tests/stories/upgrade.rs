//! Every status of the upgrade.

use super::support::{Gateway, Home, PATIENCE, device::tls};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const PROTOCOL: &str = "Sec-WebSocket-Protocol: telemetry.v1.msgpack\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const HOST: &str = "Host: localhost\r\n";

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn ask(gateway: &Gateway, request: &str) -> Answer {
    let mut stream = tls(gateway).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    // The gateway may refuse before it has read everything.
    let _ = stream.flush().await;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    // An upgraded connection stays open: its head is the answer.
    while let Ok(Ok(n)) = timeout(PATIENCE, stream.read(&mut buffer)).await {
        bytes.extend_from_slice(&buffer[..n]);
        if n == 0 || bytes.starts_with(b"HTTP/1.1 101") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn get(path: &str, headers: &[&str]) -> String {
    format!("GET {path} HTTP/1.1\r\n{}\r\n", headers.concat())
}

#[tokio::test]
async fn each_request_gets_its_status() {
    let home = Home::new();
    let gateway = home.start();
    let bearer = format!("Authorization: Bearer {}\r\n", home.token("d"));
    let auth = bearer.as_str();
    let full = [HOST, UPGRADE, KEY, VERSION, PROTOCOL, auth];
    let path = "/v1/telemetry";
    let without = |gone: &str| {
        let kept: Vec<&str> = full.into_iter().filter(|header| *header != gone).collect();
        get(path, &kept)
    };
    let with = |more: &str| get(path, &[&full[..], &[more]].concat());
    let instead = |gone: &str, new: &str| {
        let headers: Vec<&str> =
            full.into_iter().map(|header| if header == gone { new } else { header }).collect();
        get(path, &headers)
    };
    let large = format!("X-Large: {}\r\n", "x".repeat(100_000));
    let cases: Vec<(&str, u16, String)> = vec![
        ("as it should be", 101, get(path, &full)),
        ("an unknown path", 404, get("/v1/other", &full)),
        ("not GET", 405, get(path, &full).replacen("GET", "POST", 1)),
        ("HTTP/1.0", 400, get(path, &full).replacen("HTTP/1.1", "HTTP/1.0", 1)),
        ("no host", 400, without(HOST)),
        ("host twice", 400, with(HOST)),
        ("no key", 400, without(KEY)),
        ("key twice", 400, with(KEY)),
        ("a bad key", 400, instead(KEY, "Sec-WebSocket-Key: abc\r\n")),
        ("no version", 400, without(VERSION)),
        ("version 12", 426, instead(VERSION, "Sec-WebSocket-Version: 12\r\n")),
        ("no upgrade", 400, without(UPGRADE)),
        ("no subprotocol", 400, without(PROTOCOL)),
        ("another subprotocol", 400, instead(PROTOCOL, "Sec-WebSocket-Protocol: mqtt\r\n")),
        ("no credential", 401, without(auth)),
        ("a bad credential", 401, instead(auth, "Authorization: Bearer x.y.z\r\n")),
        ("another scheme", 401, instead(auth, "Authorization: Basic eDp5\r\n")),
        ("a foreign page", 403, with("Origin: https://elsewhere.example\r\n")),
        ("a token in the query", 400, get("/v1/telemetry?token=abc", &full)),
        ("a long path", 414, get(&format!("/{}", "x".repeat(70_000)), &full)),
        ("large headers", 431, with(&large)),
        ("a body", 400, with("Content-Length: 5\r\n") + "hello"),
        ("not HTTP", 400, "\x01\x02\x03 nonsense\r\n\r\n".to_owned()),
    ];
    for (what, status, request) in cases {
        let answer = ask(&gateway, &request).await;
        assert_eq!(answer.status, status, "{what}: {}\n{}", answer.head, answer.body);
        if status != 101 {
            let problem = "content-type: application/problem+json";
            assert!(answer.head.contains(problem), "{what}: {}", answer.head);
            let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(body["status"], status, "{what}: {body}");
        }
        match status {
            101 => assert!(answer.head.contains("telemetry.v1.msgpack"), "{}", answer.head),
            405 => assert!(answer.head.contains("allow: get"), "{}", answer.head),
            426 => assert!(answer.head.contains("sec-websocket-version: 13"), "{}", answer.head),
            _ => {}
        }
    }
}

#[tokio::test]
async fn the_causes_of_401_cannot_be_told_apart() {
    let home = Home::new();
    let gateway = home.start();
    let mut bodies = Vec::new();
    for credential in ["", "Authorization: Bearer x\r\n", "Authorization: Bearer a.b.c\r\n"] {
        let request = get("/v1/telemetry", &[HOST, UPGRADE, KEY, VERSION, PROTOCOL, credential]);
        bodies.push(ask(&gateway, &request).await.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn slow_headers_get_408() {
    let home = Home::new();
    let gateway = home.start_with("[server]\nheader_timeout = \"1s\"\n");
    let answer = ask(&gateway, "GET /v1/telemetry HTTP/1.1\r\nHost: localho").await;
    assert_eq!(answer.status, 408, "{}", answer.head);
}

#[tokio::test]
async fn a_token_may_come_as_a_subprotocol_and_is_not_echoed() {
    let home = Home::new();
    let gateway = home.start();
    let token = home.token("browser");
    let offered = format!("Sec-WebSocket-Protocol: telemetry.v1.msgpack, bearer.{token}\r\n");
    let request = get("/v1/telemetry", &[HOST, UPGRADE, KEY, VERSION, &offered]);
    let answer = ask(&gateway, &request).await;
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert!(!answer.head.contains("bearer"), "{}", answer.head);
    drop(answer);
    let secret = token.rsplit('.').next().unwrap();
    assert!(gateway.lines().iter().all(|line| !line.contains(secret)), "the token is in a log");
}

#[tokio::test]
async fn too_many_connections_get_503_and_a_time_to_wait() {
    let home = Home::new();
    let gateway = home.start_with("[server]\nmax_connections = 1\n");
    let bearer = format!("Authorization: Bearer {}\r\n", home.token("d"));
    let request = get("/v1/telemetry", &[HOST, UPGRADE, KEY, VERSION, PROTOCOL, &bearer]);
    let mut first = tls(&gateway).await;
    first.write_all(request.as_bytes()).await.unwrap();
    first.flush().await.unwrap();
    let mut buffer = [0; 12];
    first.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 101");
    let answer = ask(&gateway, &request).await;
    assert_eq!(answer.status, 503, "{}", answer.head);
    assert!(answer.head.contains("retry-after:"), "{}", answer.head);
}
