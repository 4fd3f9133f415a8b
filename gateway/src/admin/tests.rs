#![allow(clippy::unwrap_used)]

use super::*;
use std::collections::BTreeMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

struct Running {
    address: SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

async fn start(token: Option<&str>) -> Running {
    let registry = Registry::new();
    registry.counter("gateway_test_total", "A test.", &[]).increment(7);
    let ledger: LedgerSource = Arc::new(|| LedgerSnapshot {
        accepted: 10,
        sinks: vec![SinkLedger {
            epoch: 2,
            name: "store".to_owned(),
            accepted: 10,
            stored: 6,
            quarantined: 1,
            dropped: BTreeMap::from([("unsupported", 1)]),
            pending: 2,
        }],
    });
    let readiness = Readiness::new();
    let of_device: DeviceLedgerSource = Arc::new(|realm, device| {
        Box::pin(async move {
            match device.as_str() {
                "broken" => Err("the disk is gone".to_owned()),
                _ => Ok(serde_json::json!({ "realm": realm, "device": device })),
            }
        })
    });
    let quarantine: QuarantineSource = Arc::new(|query| Ok(json!({ "last": query.after })));
    let sources = Sources { registry, readiness: readiness.clone(), ledger, of_device, quarantine };
    let config = valid::Admin {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: token.map(valid::Secret::new),
    };
    let admin = Admin::bind(&config).await.unwrap();
    let address = admin.address();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(admin.serve(sources, stop.clone()));
    Running { address, readiness, stop, serving }
}

impl Running {
    /// Sends a request with these header lines and returns the whole answer.
    async fn ask(&self, line: &str, headers: &str) -> String {
        let request = format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The gateway may answer and close before it has taken a request that is too large.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path}"), "Host: localhost\r\n").await
    }
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {answer:?}"));
    status.parse().unwrap()
}

fn json(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn metrics_are_in_the_prometheus_format() {
    let gateway = start(None).await;
    let answer = gateway.get("/metrics").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\ngateway_test_total 7\n"), "{answer}");
}

#[tokio::test]
async fn readiness_names_its_reasons_and_health_does_not_depend_on_it() {
    let gateway = start(None).await;
    let answer = gateway.get("/readyz").await;
    assert_eq!(status(&answer), 503);
    assert_eq!(json(&answer)["reasons"][0]["code"], "starting");
    gateway.readiness.clear(NotReady::Starting);
    let answer = gateway.get("/readyz").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(json(&answer)["ready"], true);
    gateway.readiness.set(NotReady::LogPoisoned);
    gateway.readiness.set(NotReady::ShuttingDown);
    let answer = gateway.get("/readyz").await;
    assert_eq!(status(&answer), 503);
    assert_eq!(json(&answer)["reasons"][0]["code"], "log_poisoned");
    assert_eq!(json(&answer)["reasons"][1]["code"], "shutting_down");
    assert_eq!(status(&gateway.get("/healthz").await), 200);
}

#[tokio::test]
async fn the_ledger_is_told_with_its_balance() {
    let gateway = start(None).await;
    let expected = serde_json::json!({
        "accepted": 10,
        "balanced": true,
        "quarantined": 1,
        "sinks": [{
            "name": "store", "epoch": 2, "accepted": 10, "stored": 6, "quarantined": 1,
            "dropped": { "unsupported": 1 }, "pending": 2, "balanced": true,
        }],
    });
    assert_eq!(json(&gateway.get("/api/v1/ledger").await), expected);
    let of = |query: &str| format!("/api/v1/ledger/device{query}");
    let answer = json(&gateway.get(&of("?id=a%2Fb")).await);
    assert_eq!(answer, serde_json::json!({ "realm": "default", "device": "a/b" }));
    let answer = json(&gateway.get(&of("?id=a&realm=plant-2")).await);
    assert_eq!(answer["realm"], "plant-2");
    assert!(gateway.get(&of("")).await.starts_with("HTTP/1.1 400"));
    let page = gateway.get("/api/v1/quarantine?after=7").await;
    assert_eq!(json(&page), serde_json::json!({ "last": 7 }));
    let page = gateway.get("/api/v1/quarantine?limit=all").await;
    assert!(page.starts_with("HTTP/1.1 400") && page.contains("limit (a number)"), "{page}");
    assert!(gateway.get(&of("?id=broken")).await.contains("the disk is gone"));
    let wrong = SinkLedger { accepted: 3, stored: 4, ..SinkLedger::default() };
    assert_eq!(wrong.difference(), -1);
    assert!(!LedgerSnapshot { accepted: 3, sinks: vec![wrong] }.balanced());
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let gateway = start(None).await;
    let answer = gateway.get("/").await;
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("content-security-policy: default-src 'none'"), "{answer}");
    assert!(answer.contains("Not ready: the gateway is starting"), "{answer}");
    assert!(!answer.contains("<script") && !answer.contains("//"), "{answer}");
    assert_eq!(status(&gateway.get("/style.css").await), 200);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem_document() {
    let gateway = start(None).await;
    let table = [
        ("GET /nothing", "Host: localhost\r\n", 404),
        ("GET /api/v1/../../etc/passwd", "Host: localhost\r\n", 404),
        ("POST /metrics", "Host: localhost\r\nContent-Length: 0\r\n", 405),
        ("GET /metrics", "", 403),
        ("GET /metrics", "Host: evil.example\r\n", 403),
        ("GET /metrics", "Host: localhost\r\nHost: localhost\r\n", 403),
        ("GET /metrics", "Host: localhost\r\nOrigin: https://evil.example\r\n", 403),
        ("GET /metrics", "Host: localhost\r\nOrigin: null\r\n", 403),
        ("GET /metrics", "Host: localhost:1\r\nOrigin: http://localhost:2\r\n", 403),
    ];
    for (line, headers, expected) in table {
        let answer = gateway.ask(line, headers).await;
        assert_eq!(status(&answer), expected, "{line} {headers}");
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        assert_eq!(json(&answer)["status"], expected);
    }
    let own = "Host: localhost:1\r\nOrigin: http://localhost:1\r\n";
    assert_eq!(status(&gateway.ask("GET /metrics", own).await), 200);
    let long = format!("GET /metrics?{}", "a".repeat(1_000_000));
    let answer = gateway.ask(&long, "Host: localhost\r\n").await;
    // The rest of the megabyte may reset the connection before the answer is read.
    assert!(answer.is_empty() || [414, 431].contains(&status(&answer)), "{answer}");
    assert_eq!(status(&gateway.get("/healthz").await), 200);
}

#[tokio::test]
async fn a_token_is_demanded_where_there_is_one() {
    let gateway = start(Some("correct-horse-battery")).await;
    let host = "Host: localhost\r\n";
    for path in ["/", "/metrics", "/api/v1/ledger", "/nothing"] {
        let line = format!("GET {path}");
        for credential in [
            "",
            "Authorization: Bearer \r\n",
            "Authorization: Bearer wrong-horse-battery!\r\n",
            "Authorization: Bearer correct-horse-batter\r\n",
            "Authorization: Basic correct-horse-battery\r\n",
        ] {
            let answer = gateway.ask(&line, &format!("{host}{credential}")).await;
            assert_eq!(status(&answer), 401, "{path} {credential}");
            assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        }
    }
    let right = format!("{host}Authorization: bearer correct-horse-battery\r\n");
    assert_eq!(status(&gateway.ask("GET /metrics", &right).await), 200);
    assert_eq!(status(&gateway.ask("GET /healthz", host).await), 200);
    assert_eq!(status(&gateway.ask("GET /readyz", host).await), 503);
}

#[tokio::test]
async fn stops_when_told_although_a_client_keeps_its_connection() {
    let gateway = start(None).await;
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    idle.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    gateway.stop.cancel();
    timeout(Duration::from_secs(5), gateway.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_busy_port_is_one_sentence_that_says_what_to_do() {
    let gateway = start(None).await;
    let config = valid::Admin { listen: gateway.address, token: None };
    let message = Admin::bind(&config).await.unwrap_err().to_string();
    let expected = format!("cannot listen on {} for operators: Address", gateway.address);
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.ends_with("stop what uses it, or set \"admin.listen\""), "{message}");
}
