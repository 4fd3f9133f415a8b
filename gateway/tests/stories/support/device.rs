//! A device as a test sees it: one real TLS WebSocket.

use super::{Gateway, Home, PATIENCE};
use futures_util::{SinkExt, StreamExt};
use proto::{
    Ack, BatchEncoder, GatewayMessage, Goodbye, Hello, Nack, RawValue, SUBPROTOCOL, Welcome,
    encode::encode_hello,
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{sync::Arc, time::SystemTime};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        http::HeaderValue,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// A connected device.
pub struct Device {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
}

/// What came instead of a message.
#[derive(Debug, PartialEq)]
pub enum End {
    /// The gateway closed with this code.
    Closed(u16),
    /// The connection ended without a close frame.
    Gone,
}

/// TLS that trusts the gateway's own CA.
pub fn connector(gateway: &Gateway) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(gateway.ca()).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A TLS connection to the gateway.
pub async fn tls(gateway: &Gateway) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(("127.0.0.1", gateway.port())).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    connector(gateway).connect(name, tcp).await.unwrap()
}

impl Device {
    /// Connects as `device`, with a token of the command line.
    pub async fn connect(home: &Home, gateway: &Gateway, device: &str) -> Self {
        Self::with_token(gateway, &home.token(device)).await
    }

    /// Connects with a token.
    pub async fn with_token(gateway: &Gateway, token: &str) -> Self {
        match Self::attempt(gateway, token).await {
            Ok(device) => device,
            Err(status) => panic!("refused with {status}"),
        }
    }

    /// Tries to connect with a token; the status if it is refused.
    pub async fn attempt(gateway: &Gateway, token: &str) -> Result<Self, u16> {
        let mut request = gateway.url.as_str().into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("Authorization", HeaderValue::try_from(format!("Bearer {token}")).unwrap());
        headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static(SUBPROTOCOL));
        match client_async(request, tls(gateway).await).await {
            Ok((socket, answer)) => {
                assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], SUBPROTOCOL);
                Ok(Self { socket })
            }
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// Sends bytes as one binary message.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// Sends `hello` and takes the welcome.
    pub async fn hello(&mut self, hello: &Hello) -> Welcome {
        let mut bytes = Vec::new();
        encode_hello(hello, &mut bytes);
        self.send(&bytes).await;
        self.welcome().await
    }

    /// Says hello with a stream of its own.
    pub async fn hello_stream(&mut self, stream: u64) -> Welcome {
        self.hello(&Hello {
            stream: Some(stream),
            measurement: Some("test".into()),
            ..Hello::default()
        })
        .await
    }

    /// The next message.
    pub async fn next(&mut self) -> Result<GatewayMessage, End> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("an answer in time");
            return match message {
                Some(Ok(Message::Binary(bytes))) => Ok(GatewayMessage::decode(&bytes).unwrap()),
                Some(Ok(Message::Close(Some(CloseFrame { code, .. })))) => {
                    Err(End::Closed(code.into()))
                }
                Some(Ok(Message::Close(None))) => Err(End::Closed(CloseCode::Status.into())),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Err(End::Gone),
            };
        }
    }

    pub async fn welcome(&mut self) -> Welcome {
        match self.next().await {
            Ok(GatewayMessage::Welcome(welcome)) => welcome,
            other => panic!("expected a welcome: {other:?}"),
        }
    }

    pub async fn ack(&mut self) -> Ack {
        match self.next().await {
            Ok(GatewayMessage::Ack(ack)) => ack,
            other => panic!("expected an ack: {other:?}"),
        }
    }

    pub async fn nack(&mut self) -> Nack {
        match self.next().await {
            Ok(GatewayMessage::Nack(nack)) => nack,
            other => panic!("expected a nack: {other:?}"),
        }
    }

    /// Takes acks until `seq` is covered.
    pub async fn acked(&mut self, seq: u64) {
        while self.ack().await.seq < seq {}
    }

    /// Reads on until the gateway closes: its goodbye, if one came, and how it ended.
    pub async fn end(&mut self) -> (Option<Goodbye>, End) {
        let mut goodbye = None;
        loop {
            match self.next().await {
                Ok(GatewayMessage::Goodbye(message)) => goodbye = Some(message),
                Ok(_) => {}
                Err(end) => return (goodbye, end),
            }
        }
    }

    /// Sends a batch of one reading: `value = seq` at a time that follows from `seq`.
    pub async fn send_value(&mut self, seq: u64) {
        let bytes = value_batch(seq);
        self.send(&bytes).await;
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// A batch of one reading: `value = seq` at a time that follows from `seq`.
pub fn value_batch(seq: u64) -> Vec<u8> {
    let time = 1_760_000_000_000 + i64::try_from(seq).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    one_reading(seq, time, &[("value", RawValue::Float(seq as f64))])
}

/// A batch of one reading in the measurement of `hello`.
pub fn one_reading(seq: u64, time_ms: i64, fields: &[(&str, RawValue<'_>)]) -> Vec<u8> {
    let mut encoder = BatchEncoder::new();
    encoder.readings(seq, 1).reading(None, Some(time_ms), &[], fields);
    encoder.finish().to_vec()
}
