//! TLS: versions, tickets, client certificates, and what is no TLS.

use crate::harness::{Device, Gateway, SOON, authority, provider, request, server_certificate};
use gateway::server::{ClientCa, Tls, TlsError};
use proto::Hello;
use rcgen::{DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::{ClientConfig, SupportedProtocolVersion, version};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

fn config(gateway: &Gateway, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(gateway.roots())
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn sessions_are_resumed_in_both_versions() {
    for version in [&version::TLS13, &version::TLS12] {
        let gateway = Gateway::start().await;
        let config = config(&gateway, &[version]);
        for _ in 0..3 {
            let stream = gateway.tls_with(config.clone()).await.unwrap();
            let token = gateway.token("d1");
            let mut device = Device::over(stream, request(Some(&token))).await.unwrap();
            device.say_hello(&Hello::default()).await;
            device.welcome().await;
        }
        assert_eq!(gateway.metric("gateway_tls_handshakes_total{result=\"full\"}"), 1.0);
        assert_eq!(gateway.metric("gateway_tls_handshakes_total{result=\"resumed\"}"), 2.0);
    }
}

#[tokio::test]
async fn plain_http_is_told_so() {
    let gateway = Gateway::start().await;
    let mut tcp = TcpStream::connect(gateway.address).await.unwrap();
    tcp.write_all(b"GET /v1/telemetry HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(SOON, tcp.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
    assert!(body.contains("wss"), "{answer}");
}

#[tokio::test]
async fn what_is_no_tls_is_closed() {
    let gateway = Gateway::start().await;
    for garbage in [&b"\x00\x00\x00"[..], b"\x16\x03\x01\xff\xff\x01garbage", b"\x16\x02\x00"] {
        let mut tcp = TcpStream::connect(gateway.address).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, tcp.read_to_end(&mut answer)).await.expect("closed in time");
        assert!(!answer.starts_with(b"HTTP"));
    }
}

#[tokio::test]
async fn a_certificate_is_a_credential() {
    let gateway = Gateway::start().await;
    let stream = gateway
        .tls_as(&gateway.client_ca, |params| {
            params.subject_alt_names =
                vec![rcgen::SanType::URI("urn:device:pump/7".try_into().unwrap())];
        })
        .await
        .unwrap();
    let mut device = Device::over(stream, request(None)).await.unwrap();
    device.say_hello(&Hello::default()).await;
    let welcome = device.welcome().await;
    assert_eq!((&*welcome.realm, &*welcome.device), ("plant", "pump/7"));
}

#[tokio::test]
async fn certificates_fail_closed() {
    let gateway = Gateway::start().await;
    let stranger = authority("a stranger");
    let client_ca = &gateway.client_ca;
    type Change = fn(&mut rcgen::CertificateParams);
    let cases: [(&str, &crate::harness::Ca, Change); 5] = [
        ("wrong CA", &stranger, |params| params.distinguished_name.push(DnType::CommonName, "d")),
        ("expired", client_ca, |params| {
            params.distinguished_name.push(DnType::CommonName, "d");
            params.not_after = date_time_ymd(2020, 1, 1);
        }),
        ("not yet valid", client_ca, |params| {
            params.distinguished_name.push(DnType::CommonName, "d");
            params.not_before = date_time_ymd(2200, 1, 1);
        }),
        ("wrong usage", client_ca, |params| {
            params.distinguished_name.push(DnType::CommonName, "d");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        ("a name that is no device", client_ca, |params| {
            params.distinguished_name.push(DnType::CommonName, "no device");
        }),
    ];
    for (what, ca, change) in cases {
        let connected = match gateway.tls_as(ca, change).await {
            // With TLS 1.3 the client learns of its refusal only when it reads.
            Ok(stream) => Device::over(stream, request(None)).await.is_ok(),
            Err(_) => false,
        };
        assert!(!connected, "{what}");
    }
    // A token of another device does not help.
    let stream = gateway
        .tls_as(client_ca, |params| params.distinguished_name.push(DnType::CommonName, "d1"))
        .await
        .unwrap();
    let token = gateway.token("d1");
    let refused = Device::over(stream, request(Some(&token))).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(response)) = refused else {
        panic!("two identities");
    };
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn what_is_wrong_with_files_is_said_with_their_names() {
    let gateway = Gateway::start().await;
    let good = server_certificate(&gateway.ca, &gateway.dir);
    let other_dir = tempfile::tempdir().unwrap();
    let other = server_certificate(&gateway.ca, &other_dir);
    let nothing = gateway.dir.path().join("nothing.pem");
    std::fs::write(&nothing, "").unwrap();
    let missing = gateway.dir.path().join("missing.pem");

    let mut options = good.clone();
    options.key = other.key.clone();
    let error = Tls::load(&options).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("replace both"), "{error}");

    for (certificate, key, named) in [
        (&missing, &good.key, "missing.pem"),
        (&nothing, &good.key, "nothing.pem"),
        (&good.certificate, &missing, "missing.pem"),
        (&good.certificate, &nothing, "nothing.pem"),
    ] {
        let mut options = good.clone();
        (options.certificate, options.key) = (certificate.clone(), key.clone());
        let error = Tls::load(&options).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }

    let mut options = good.clone();
    let realm = |realm: &str| ClientCa { realm: realm.to_owned(), file: good.certificate.clone() };
    options.client_cas = vec![realm("a"), realm("b")];
    let error = Tls::load(&options).unwrap_err().to_string();
    assert!(error.contains("another realm"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let gateway = Gateway::start().await;
    let options = server_certificate(&gateway.ca, &gateway.dir);
    let tls = Tls::load(&options).unwrap();
    let key = std::fs::read(&options.key).unwrap();
    let renewed = server_certificate(&gateway.ca, &gateway.dir);
    std::fs::write(&renewed.key, key).unwrap();
    assert!(tls.reload(&renewed).is_err(), "the certificate came before its key");
    let renewed = server_certificate(&gateway.ca, &gateway.dir);
    tls.reload(&renewed).unwrap();
}
