//! Before there is a request.

use super::{Arena, connector};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Handshakes that are begun and not gone on with.
const HALF_OPEN: usize = 200;
/// First byte of a TLS record that holds an alert.
const ALERT: u8 = 0x15;

/// How the gateway ends a connection that is not TLS as it takes it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// An alert with this description.
    Alert(u8),
    /// It only closes.
    Closed,
    /// An answer in HTTP with this status.
    Http(u16),
}

/// A `ClientHello` that offers this version and these extensions, without those of TLS 1.3.
fn client_hello(version: u8, extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, version];
    body.extend([7; 32]);
    // No session, two suites (AES-128-GCM with ECDSA and with RSA), no compression.
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend((body.len() as u16).to_be_bytes());
    handshake.extend(body);
    record(0x16, &handshake)
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 1];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Sends bytes and the end of the stream, and sees how the gateway ends it.
async fn end_of(mut tcp: TcpStream, bytes: &[u8]) -> End {
    let _ = tcp.write_all(bytes).await;
    let _ = tcp.shutdown().await;
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    match *answer {
        [ALERT, _, _, 0, 2, _, description, ..] => End::Alert(description),
        [b'H', b'T', b'T', b'P', ..] => {
            let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
            End::Http(status)
        }
        [] => End::Closed,
        _ => panic!("{answer:02x?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_ends_with_an_alert_or_a_close() {
    let arena = Arena::open().await;
    let cut = client_hello(3, &[])[..20].to_vec();
    let two = [client_hello(3, &[]), client_hello(3, &[])].concat();
    let cases: Vec<(&str, Vec<u8>, End)> = vec![
        ("nothing", vec![], End::Closed),
        ("plain HTTP", b"GET /v1/telemetry HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), End::Http(400)),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), End::Http(400)),
        ("zeros", vec![0; 100], End::Closed),
        ("SSL 3.0", client_hello(0, &[]), End::Alert(40)),
        ("TLS 1.0", client_hello(1, &[]), End::Alert(40)),
        ("TLS 1.1", client_hello(2, &[]), End::Alert(40)),
        ("TLS 1.2 without groups", client_hello(3, &[]), End::Alert(40)),
        ("two hellos", two, End::Alert(40)),
        ("half a hello", cut, End::Closed),
        ("extensions that run over", client_hello(3, &[0, 0, 0xff, 0xff]), End::Alert(50)),
        ("an empty handshake", record(0x16, &[]), End::Alert(50)),
        (
            "a record that is too long",
            [&[0x16, 3, 1, 0xff, 0xff][..], &[1; 100]].concat(),
            End::Alert(50),
        ),
        ("garbage in a handshake", record(0x16, &[0xff; 64]), End::Closed),
        ("a finished message first", record(0x16, &[20, 0, 0, 1, 0]), End::Alert(10)),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, expected) in cases {
        let end = timeout(super::ACK_TIME * 2, end_of(arena.tcp().await, &bytes)).await;
        if end != Ok(expected) {
            wrong.push(format!("{what}: {end:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_never_go_on_keep_nobody_out() {
    let arena = Arena::open().await;
    let mut half_open = Vec::new();
    for n in 0..HALF_OPEN {
        let mut tcp = arena.tcp().await;
        // Some say nothing at all, some begin a hello.
        if n % 2 == 0 {
            tcp.write_all(&client_hello(3, &[])[..n.min(40)]).await.unwrap();
        }
        half_open.push(tcp);
    }
    // Who comes now is served, a byte at a time if it has to be.
    let (ours, theirs) = tokio::io::duplex(1);
    let tcp = arena.tcp().await;
    let relay = tokio::spawn(async move {
        let (mut tcp, mut theirs) = (tcp, theirs);
        let _ = tokio::io::copy_bidirectional(&mut theirs, &mut tcp).await;
    });
    let name = "localhost".try_into().unwrap();
    let shaken = timeout(super::ACK_TIME, connector(&arena.gateway).connect(name, ours)).await;
    assert!(shaken.is_ok_and(|shaken| shaken.is_ok()), "a handshake of single bytes");
    let mut device = arena.device("d").await;
    device.send(&super::wire::frame(super::wire::BINARY, &super::messages::good())).await;
    assert_eq!(device.fate().await, super::Fate::Taken);
    relay.abort();
    drop((half_open, device));
    arena.close().await;
}
