//! A server on a free port, and devices.

use crate::committer::Committer;
use futures_util::{SinkExt, StreamExt};
use gateway::{
    auth::{Authenticator, TrustRoot},
    ingest::{Guards, Rules},
    metrics::{Registry as Metrics, ServerMetrics, StateMetrics},
    record::Position,
    server::{ClientCa, Config, Context, Registry, Server, Tls, TlsOptions},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::{
    BatchEncoder, GatewayMessage, Hello, RawValue,
    message::{AckMode, Welcome},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, http::Request},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long anything may take in these tests.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// Memory for batches on their way to the committer.
pub(crate) const BUDGET_BYTES: u32 = 64 << 20;

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) committer: Committer,
    pub(crate) budget: Arc<Semaphore>,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    pub(crate) stored: watch::Sender<Position>,
    pub(crate) client_ca: Ca,
    pub(crate) key: KeyPair,
    pub(crate) ca: Ca,
    pub(crate) dir: TempDir,
}

pub(crate) fn authority(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate for `localhost` by this authority.
pub(crate) fn server_certificate(ca: &Ca, dir: &TempDir) -> TlsOptions {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = params.signed_by(&key, ca).unwrap();
    let options = TlsOptions {
        certificate: dir.path().join("server.pem"),
        key: dir.path().join("server.key"),
        client_cas: Vec::new(),
    };
    std::fs::write(&options.certificate, leaf.pem()).unwrap();
    std::fs::write(&options.key, key.serialize_pem()).unwrap();
    options
}

pub(crate) fn unix_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        Self::start_with(AckMode::Durable, |_| {}).await
    }

    pub(crate) async fn start_with(ack_mode: AckMode, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ca, client_ca) = (authority("test CA"), authority("test device CA"));
        let mut options = server_certificate(&ca, &dir);
        let file = dir.path().join("clients.pem");
        std::fs::write(&file, client_ca.pem()).unwrap();
        options.client_cas.push(ClientCa { realm: "plant".to_owned(), file });
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let root = TrustRoot {
            realm: "default".to_owned(),
            public_pem: key.public_key_pem(),
            issuer: None,
        };
        let auth = Arc::new(Authenticator::new(&[root]).unwrap());
        let registry = Arc::new(Registry::default());
        let metrics = Metrics::new();
        let shutdown = CancellationToken::new();
        let (committer, requests) = Committer::spawn();
        let budget = Arc::new(Semaphore::new(BUDGET_BYTES as usize));
        let (stored, ack_position) = watch::channel(Position::ZERO);
        let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
        change(&mut config);
        let file = dir.path().join("state.db");
        let (state, _) = gateway::state::open(&file, 1, StateMetrics::default()).unwrap();
        let server = Server::bind(Context {
            requests,
            budget: budget.clone(),
            rules: Arc::new(Rules::default()),
            guards: Guards::unguarded(),
            state,
            ack_mode,
            ack_position,
            auth: auth.clone(),
            tls: Arc::new(Tls::load(&options).unwrap()),
            registry: registry.clone(),
            config,
            metrics: ServerMetrics::new(&metrics),
            shutdown: shutdown.clone(),
            tasks: TaskTracker::new(),
        })
        .unwrap();
        let address = server.local_addr().unwrap();
        let served = tokio::spawn(server.run());
        Self {
            address,
            committer,
            budget,
            auth,
            registry,
            metrics,
            shutdown,
            served,
            stored,
            client_ca,
            key,
            ca,
            dir,
        }
    }

    /// Signs any claims.
    pub(crate) fn sign(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }

    /// A token that is good for a while.
    pub(crate) fn token(&self, device: &str) -> String {
        self.token_until(device, unix_s() + 3600)
    }

    pub(crate) fn token_until(&self, device: &str, exp: i64) -> String {
        let claims = json!({ "sub": device, "aud": "telemetry", "iat": unix_s(), "exp": exp });
        self.sign(&Header::new(Algorithm::ES256), &claims)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        roots
    }

    pub(crate) async fn tls(&self) -> TlsStream<TcpStream> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        self.tls_with(Arc::new(config)).await.unwrap()
    }

    pub(crate) async fn tls_with(
        &self,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(config).connect(name, tcp).await
    }

    /// TLS with a client certificate by this authority.
    pub(crate) async fn tls_as(
        &self,
        ca: &Ca,
        change: impl FnOnce(&mut CertificateParams),
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let leaf = params.signed_by(&key, ca).unwrap();
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        self.tls_with(Arc::new(config)).await
    }

    /// A connected device; no message was sent yet.
    pub(crate) async fn connect(&self, device: &str) -> Device {
        self.connect_with(&self.token(device)).await
    }

    pub(crate) async fn connect_with(&self, token: &str) -> Device {
        let request = request(Some(token));
        Device::over(self.tls().await, request).await.unwrap()
    }

    /// A device that has said hello and was welcomed.
    pub(crate) async fn hello(&self, device: &str, stream: Option<u64>) -> (Device, Welcome) {
        let mut device = self.connect(device).await;
        device.say_hello(&Hello { stream, ..Hello::default() }).await;
        let welcome = device.welcome().await;
        (device, welcome)
    }

    /// The value of a metric, by its line without the value.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.render();
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(crate) fn request(token: Option<&str>) -> Request<()> {
    let mut request = "wss://localhost/v1/telemetry".into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", proto::SUBPROTOCOL.parse().unwrap());
    if let Some(token) = token {
        headers.insert("Authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

/// A batch of readings of one field each.
pub(crate) fn batch(seq: u64, values: &[f64]) -> Vec<u8> {
    let mut encoder = BatchEncoder::new();
    encoder.readings(seq, values.len() as u32);
    for value in values {
        encoder.reading(Some("air"), None, &[], &[("t", RawValue::Float(*value))]);
    }
    encoder.finish().to_vec()
}

pub(crate) struct Device {
    pub(crate) socket: WebSocketStream<TlsStream<TcpStream>>,
}

/// How a connection ended: the code of the goodbye, and the close code.
pub(crate) type Ending = (Option<proto::Goodbye>, Option<u16>);

impl Device {
    pub(crate) async fn over(
        stream: TlsStream<TcpStream>,
        request: Request<()>,
    ) -> Result<Self, tokio_tungstenite::tungstenite::Error> {
        let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
        assert_eq!(response.headers()["sec-websocket-protocol"], proto::SUBPROTOCOL);
        assert!(!response.headers().contains_key("sec-websocket-extensions"));
        Ok(Self { socket })
    }

    pub(crate) async fn say_hello(&mut self, hello: &Hello) {
        let mut bytes = Vec::new();
        proto::encode::encode_hello(hello, &mut bytes);
        self.send(bytes).await;
    }

    pub(crate) async fn send(&mut self, message: Vec<u8>) {
        self.socket.send(Message::Binary(message.into())).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> GatewayMessage {
        loop {
            let message = timeout(SOON, self.socket.next()).await.expect("an answer in time");
            match message.expect("the connection is open").unwrap() {
                Message::Binary(bytes) => return GatewayMessage::decode(&bytes).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub(crate) async fn welcome(&mut self) -> Welcome {
        match self.receive().await {
            GatewayMessage::Welcome(welcome) => welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) async fn ack(&mut self) -> u64 {
        match self.receive().await {
            GatewayMessage::Ack(ack) => ack.seq,
            other => panic!("no ack but {other:?}"),
        }
    }

    /// Acks until this one has come.
    pub(crate) async fn acked(&mut self, seq: u64) {
        let mut last = 0;
        while last < seq {
            last = self.ack().await;
        }
        assert_eq!(last, seq);
    }

    pub(crate) async fn nack(&mut self) -> proto::Nack {
        match self.receive().await {
            GatewayMessage::Nack(nack) => nack,
            other => panic!("no nack but {other:?}"),
        }
    }

    /// True if nothing comes for a while.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(150), self.socket.next()).await.is_err()
    }

    /// Reads on to the end.
    pub(crate) async fn ending(&mut self) -> Ending {
        let mut ending = (None, None);
        loop {
            match timeout(SOON, self.socket.next()).await.expect("the end in time") {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Ok(GatewayMessage::Goodbye(goodbye)) = GatewayMessage::decode(&bytes) {
                        ending.0 = Some(goodbye);
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    ending.1 = frame.map(|frame| frame.code.into());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return ending,
            }
        }
    }

    /// The goodbye's code and the close code.
    pub(crate) async fn ends_with(&mut self) -> (String, u16) {
        let (goodbye, close) = self.ending().await;
        let code = goodbye.map(|goodbye| goodbye.code.to_string()).unwrap_or_default();
        (code, close.unwrap_or_default())
    }
}
