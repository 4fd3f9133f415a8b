//! What an attacker sends, case by case. Beside each table an honest device goes on sending: it has
//! every ack within five seconds, and the gateway outlives them all.

mod credentials;
mod frames;
mod meaning;
mod messages;
mod tls;
mod upgrade;
mod wire;

use super::support::{
    Gateway, Home,
    device::{Device, connector},
    eventually,
};
use futures_util::{StreamExt, stream};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::ErrorCode;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{interval, timeout},
};
use tokio_rustls::client::TlsStream;
use wire::Wire;

/// An ack of the honest device comes within this time, whatever the others do.
const ACK_TIME: Duration = Duration::from_secs(5);
/// How often the honest device sends.
const HONEST_PACE: Duration = Duration::from_millis(10);
/// Cases of a table that run side by side.
const AT_ONCE: usize = 16;

/// Everything is logged, to see that nothing from outside stands in a log as it came.
const CONFIG: &str = "[logging]\nlevel = \"debug\"\n[sinks.store]\nbatch_delay = \"10ms\"\n";

/// What comes of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The upgrade is refused with this status.
    Status(u16),
    /// The batch is acknowledged, nobody complains.
    Taken,
    /// A reading is refused with this code, the batch is acknowledged.
    Reading(ErrorCode),
    /// The batch is refused with this code.
    Batch(ErrorCode),
    /// A goodbye with this code, and this close code.
    Closed(u16, ErrorCode),
    /// The gateway answers the device's own close frame with its code.
    Answered(u16),
    /// The connection ends without a word that could be understood.
    Gone,
}

/// A gateway with an honest device.
struct Arena {
    home: Home,
    gateway: Gateway,
    key: EncodingKey,
    stop: Arc<AtomicBool>,
    honest: JoinHandle<u64>,
    next_address: AtomicU8,
}

impl Arena {
    /// Starts a gateway that logs as much as it can, and a device that sends all the time.
    async fn open() -> Self {
        let home = Home::new();
        let gateway = home.start_with(CONFIG);
        let pem = std::fs::read(home.token_key()).unwrap();
        let device = Device::connect(&home, &gateway, "honest").await;
        let stop = Arc::new(AtomicBool::new(false));
        let honest = tokio::spawn(honest(device, stop.clone()));
        Self {
            home,
            gateway,
            key: EncodingKey::from_ec_pem(&pem).unwrap(),
            stop,
            honest,
            next_address: AtomicU8::new(1),
        }
    }

    /// Signs any claims with the gateway's key.
    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).unwrap()
    }

    /// A good token.
    fn token(&self, device: &str) -> String {
        self.sign(&Header::new(Algorithm::ES256), &claims(device))
    }

    /// A TCP connection from an address of its own: what others guess does not count for it.
    async fn tcp(&self) -> TcpStream {
        let host = self.next_address.fetch_add(1, Ordering::Relaxed);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 7, 7, host], 0).into()).unwrap();
        let tcp = socket.connect(([127, 0, 0, 1], self.gateway.port()).into()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp
    }

    async fn tls(&self) -> TlsStream<TcpStream> {
        let tcp = self.tcp().await;
        connector(&self.gateway).connect("localhost".try_into().unwrap(), tcp).await.unwrap()
    }

    /// An upgraded connection of a device.
    async fn device(&self, device: &str) -> Wire {
        let token = self.token(device);
        match Wire::upgrade(self.tls().await, &upgrade::good(&token)).await {
            Ok(wire) => wire,
            Err(status) => panic!("a good upgrade got {status}"),
        }
    }

    /// Tries each case on a connection of its own, and compares what came of it.
    async fn try_all<T, F: Future<Output = Fate>>(
        &self,
        cases: Vec<(&'static str, T, Fate)>,
        attempt: impl Fn(String, T) -> F,
    ) {
        let others =
            stream::iter(cases.into_iter().enumerate().map(|(n, (what, input, expected))| {
                let attempt = attempt(format!("attacker-{n}"), input);
                async move {
                    let fate = timeout(super::support::PATIENCE, attempt).await;
                    (fate != Ok(expected))
                        .then(|| format!("{what}: {fate:?}, expected {expected:?}"))
                }
            }));
        let wrong: Vec<_> =
            others.buffer_unordered(AT_ONCE).filter_map(|wrong| async { wrong }).collect().await;
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    /// Ends the honest device, which has lost nothing, and the gateway, which is still there.
    async fn close(self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.honest.await.expect("the honest device had every ack in time");
        assert!(sent > 0);
        eventually("all of the honest device is stored", || self.home.count("honest") == sent);
        let (status, said) = self.gateway.stop();
        assert!(status.success(), "{status}");
        for line in &said {
            assert!(!line.contains("panicked"), "{line}");
            assert!(!line.contains(char::is_control), "text from outside in a log: {line:?}");
            assert!(!line.contains("eyJ"), "a token in a log: {line}");
        }
    }
}

/// Sends until it is stopped. Returns how many batches were acknowledged.
async fn honest(mut device: Device, stop: Arc<AtomicBool>) -> u64 {
    device.hello_stream(1).await;
    let mut pace = interval(HONEST_PACE);
    let mut seq = 0;
    while seq == 0 || !stop.load(Ordering::Relaxed) {
        seq += 1;
        device.send_value(seq).await;
        timeout(ACK_TIME, device.acked(seq)).await.expect("an ack in time");
        pace.tick().await;
    }
    seq
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn claims(device: &str) -> Value {
    json!({ "sub": device, "aud": "telemetry", "iat": unix_s(), "exp": unix_s() + 3600 })
}
