//! A small gateway within the test: real TLS and WebSocket, the rules of order and dedupe, and
//! whatever fault a test wants. It keeps what it admitted.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod http_store;
pub mod influxdb_2;
pub mod made_up;
pub mod readings;
pub mod servers;
pub mod store;

use device_sim::plan::{Kind, Plan};
use device_sim::profile::Profile;
use device_sim::run::{Credentials, Options};
use futures_util::{SinkExt, StreamExt};
use proto::message::{AckMode, DeviceMessage, RefusedReading, Window};
use proto::{Ack, Batch, ErrorCode, GatewayMessage, Goodbye, Limits, Nack, Welcome};
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

/// What to do with a batch that is next in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Keep it and acknowledge it.
    Ack,
    /// Keep it, stand still for so many milliseconds, acknowledge it.
    Stall(u32),
    /// Keep it and break the connection without a word.
    KeepAndBreak,
    /// Break the connection, keep nothing.
    Break,
    /// Keep nothing; to be sent again after so many milliseconds.
    Retry(u32),
    /// Keep it but for the reading of this index.
    RefuseReading(u32),
    /// Refuse it as a whole.
    RefuseBatch,
    /// Say goodbye and close, keep nothing; the device is to come back after so many milliseconds.
    Goodbye(u32),
}

/// What a device did on its stream.
#[derive(Debug, Default, Clone)]
pub struct Kept {
    pub admitted: u64,
    /// The bodies that were kept, with their readings that were not refused.
    pub bodies: Vec<(u64, Vec<u8>, Option<u32>)>,
    refusals: HashMap<u64, Nack>,
}

type Script = dyn Fn(&str, u64, u32) -> Answer + Send + Sync;

struct Shared {
    kept: Mutex<HashMap<(String, u64), Kept>>,
    connections: Mutex<Vec<(String, std::time::Instant)>>,
    /// How many times each batch of a device came.
    arrivals: Mutex<HashMap<(String, u64), u32>>,
    script: Box<Script>,
    status: StatusCode,
    window: u32,
}

pub struct FakeGateway {
    pub url: String,
    pub ca: PathBuf,
    pub token_key: PathBuf,
    pub folder: tempfile::TempDir,
    shared: Arc<Shared>,
}

impl FakeGateway {
    pub async fn start(script: impl Fn(&str, u64, u32) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(script, StatusCode::SWITCHING_PROTOCOLS).await
    }

    pub async fn start_with(
        script: impl Fn(&str, u64, u32) -> Answer + Send + Sync + 'static,
        status: StatusCode,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
            path
        };
        let ca = write("ca.pem", &issued.cert.pem());
        let token_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let token_key = write("token.key", &token_key.serialize_pem());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key.unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            kept: Mutex::default(),
            connections: Mutex::default(),
            arrivals: Mutex::default(),
            script: Box::new(script),
            status,
            window: 4,
        });
        let state = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (state, acceptor) = (Arc::clone(&state), acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        serve(stream, state).await;
                    }
                });
            }
        });
        let url = format!("wss://localhost:{port}{}", proto::PATH);
        Self { url, ca, token_key, folder, shared }
    }

    /// What was kept of each device, every one on a single stream.
    pub fn kept(&self) -> HashMap<String, Kept> {
        let kept = self.shared.kept.lock().unwrap();
        let by_device: HashMap<_, _> =
            kept.iter().map(|((device, _), kept)| (device.clone(), kept.clone())).collect();
        assert_eq!(by_device.len(), kept.len(), "one stream for each device");
        by_device
    }

    /// Device and time of each connection that was upgraded.
    pub fn connections(&self) -> Vec<(String, std::time::Instant)> {
        self.shared.connections.lock().unwrap().clone()
    }

    pub fn options(&self, plan: Plan) -> Options {
        Options {
            url: self.url.clone(),
            ca: self.ca.clone(),
            credentials: Credentials::from_key(&self.token_key, 60).unwrap(),
            plan,
            drain_timeout: Duration::from_secs(20),
            source_addresses: None,
            journal: Some(self.folder.path().join("run.journal")),
            show: device_sim::run::Show::Nothing,
        }
    }
}

pub fn plan(devices: u32, seconds: u64) -> Plan {
    let pace = Kind { interval_ns: 100_000_000, batch: 5, ..Kind::of(Profile::Environment) };
    let kind = Kind { outbox: 64, ..pace };
    Plan {
        run: 77,
        seed: 3,
        prefix: "sim-".to_owned(),
        kinds: vec![kind],
        devices,
        stream: None,
        start_seq: 1,
        base_ns: 0,
        ramp_ns: 100_000_000,
        duration_ns: seconds * 1_000_000_000,
        load: vec![],
        faults: vec![],
        expect: vec![],
        shard: None,
        closed_loop: None,
        replay: None,
    }
}

/// The same plan at another pace.
pub fn paced(plan: Plan, interval_ns: u64, batch: u32) -> Plan {
    let kinds = plan.kinds.iter().map(|kind| Kind { interval_ns, batch, ..kind.clone() }).collect();
    Plan { kinds, ..plan }
}

async fn serve(stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, state: Arc<Shared>) {
    let mut device = String::new();
    let status = state.status;
    #[allow(clippy::result_large_err)]
    let upgrade = |request: &Request, mut response: Response| {
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let mut refused = ErrorResponse::new(None);
            *refused.status_mut() = status;
            return Err(refused);
        }
        assert_eq!(request.uri().path(), proto::PATH);
        let bearer = request.headers()["authorization"].to_str().unwrap();
        let token = bearer.strip_prefix("Bearer ").unwrap();
        let claims = jsonwebtoken::dangerous::insecure_decode::<proto::token::Claims>(token);
        device = claims.unwrap().claims.sub;
        assert_eq!(request.headers()["sec-websocket-protocol"], proto::SUBPROTOCOL);
        let ours = HeaderValue::from_static(proto::SUBPROTOCOL);
        response.headers_mut().insert("sec-websocket-protocol", ours);
        Ok(response)
    };
    let Ok(mut link) = tokio_tungstenite::accept_hdr_async(stream, upgrade).await else { return };
    state.connections.lock().unwrap().push((device.clone(), std::time::Instant::now()));
    let mut talk = Talk { state, device, stream: 0, next: None };
    while let Some(Ok(message)) = link.next().await {
        let Message::Binary(bytes) = message else { continue };
        for answer in talk.take(&bytes) {
            match answer {
                Out::Say(message) => {
                    let mut out = Vec::new();
                    message.encode(&mut out);
                    if link.send(Message::Binary(out.into())).await.is_err() {
                        return;
                    }
                }
                Out::Close => {
                    let frame = CloseFrame { code: 1012.into(), reason: "restart".into() };
                    let _ = link.close(Some(frame)).await;
                }
                Out::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms.into())).await,
                Out::Break => return,
            }
        }
    }
}

enum Out {
    Say(GatewayMessage),
    Wait(u32),
    Close,
    Break,
}

struct Talk {
    state: Arc<Shared>,
    device: String,
    stream: u64,
    next: Option<u64>,
}

impl Talk {
    fn take(&mut self, bytes: &[u8]) -> Vec<Out> {
        let limits = Limits::default();
        match DeviceMessage::decode(bytes, &limits).unwrap() {
            DeviceMessage::Hello(hello) => {
                assert_eq!(hello.measurement.as_deref(), Some("environment"));
                self.stream = hello.stream.expect("a stream of its own");
                vec![Out::Say(GatewayMessage::Welcome(self.welcome()))]
            }
            DeviceMessage::Batch(body) => {
                let seq = Batch::open(body, &limits).unwrap().seq();
                self.batch(seq, body)
            }
            DeviceMessage::Reserved(kind) => panic!("{kind}"),
        }
    }

    fn welcome(&self) -> Welcome {
        let mut kept = self.state.kept.lock().unwrap();
        let admitted = kept.entry((self.device.clone(), self.stream)).or_default().admitted;
        // Kept and not acknowledged: as if the sync were under way.
        let logged_seq = (admitted > 0).then_some(admitted);
        Welcome {
            session: "s".to_owned(),
            device: self.device.clone(),
            realm: "default".to_owned(),
            time: 0,
            acked_seq: logged_seq,
            logged_seq,
            window: Window { batches: self.state.window, bytes: 1 << 20 },
            limits: Limits::default(),
            ping_s: 30,
            ack: AckMode::Durable,
        }
    }

    fn batch(&mut self, seq: u64, body: &[u8]) -> Vec<Out> {
        let key = (self.device.clone(), self.stream);
        let mut kept = self.state.kept.lock().unwrap();
        let kept = kept.get_mut(&key).unwrap();
        let next = *self.next.get_or_insert(seq);
        assert!(next > 1 || seq == next, "a new stream begins with 1");
        if seq > next {
            return vec![say(Nack { expected: Some(next), ..nack(seq, ErrorCode::OutOfOrder) })];
        }
        if seq <= kept.admitted {
            let known = kept.bodies.iter().find(|(known, ..)| *known == seq);
            assert!(known.is_none_or(|(_, known, _)| known == body), "another payload under {seq}");
            let repeated = kept.refusals.get(&seq).cloned().map(say);
            return repeated.into_iter().chain([ack(kept.admitted)]).collect();
        }
        let arrivals = {
            let mut arrivals = self.state.arrivals.lock().unwrap();
            let times = arrivals.entry((self.device.clone(), seq)).or_default();
            *times += 1;
            *times
        };
        let answer = (self.state.script)(&self.device, seq, arrivals);
        if matches!(answer, Answer::Break | Answer::Retry(_) | Answer::Goodbye(_)) {
            return match answer {
                Answer::Retry(after) => {
                    vec![say(Nack { retry_after_ms: Some(after), ..nack(seq, ErrorCode::LogFull) })]
                }
                Answer::Goodbye(after) => {
                    let goodbye = Goodbye {
                        code: ErrorCode::Restart,
                        reason: "restart".to_owned(),
                        reconnect_after_ms: after,
                    };
                    vec![Out::Say(GatewayMessage::Goodbye(goodbye)), Out::Close]
                }
                _ => vec![Out::Break],
            };
        }
        assert_eq!(seq, kept.admitted + 1, "without a gap");
        kept.admitted = seq;
        self.next = Some(seq + 1);
        match answer {
            Answer::RefuseBatch => {
                let nack = Nack { refused: Some(true), ..nack(seq, ErrorCode::NotAllowed) };
                kept.refusals.insert(seq, nack.clone());
                vec![say(nack), ack(seq)]
            }
            Answer::RefuseReading(index) => {
                kept.bodies.push((seq, body.to_vec(), Some(index)));
                let code = ErrorCode::NotFinite;
                let reading = RefusedReading { index, code, field: None, detail: None };
                let nack = Nack { readings: vec![reading], ..nack(seq, code) };
                kept.refusals.insert(seq, nack.clone());
                // Said twice: it counts once.
                vec![say(nack.clone()), say(nack), ack(seq)]
            }
            answer => {
                kept.bodies.push((seq, body.to_vec(), None));
                match answer {
                    Answer::KeepAndBreak => vec![Out::Break],
                    Answer::Stall(ms) => vec![Out::Wait(ms), ack(seq)],
                    _ => vec![ack(seq)],
                }
            }
        }
    }
}

fn nack(seq: u64, code: ErrorCode) -> Nack {
    Nack {
        seq,
        code,
        readings: vec![],
        more: None,
        refused: None,
        retry_after_ms: None,
        expected: None,
        detail: None,
    }
}

fn say(nack: Nack) -> Out {
    Out::Say(GatewayMessage::Nack(nack))
}

fn ack(seq: u64) -> Out {
    Out::Say(GatewayMessage::Ack(Ack { seq, time: 0 }))
}
