//! Frames that are against RFC 6455, or against what one device may ask of everybody's gateway.

use crate::harness::{Gateway, SOON, batch, request};
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

/// A masked frame; the mask is zero, so the payload stands as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0x80 | 126);
            bytes.extend((long as u16).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// A stream behind a successful upgrade.
async fn upgraded(gateway: &Gateway) -> TlsStream<TcpStream> {
    let device = crate::harness::Device::over(
        gateway.tls().await,
        request(Some(&gateway.token("attacker"))),
    );
    device.await.unwrap().socket.into_inner()
}

/// The close code that the gateway sends, `None` if it only closes.
async fn close_code(stream: &mut TlsStream<TcpStream>) -> Option<u16> {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            if let Some(code) = find_close(&bytes) {
                return Some(code);
            }
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return None;
            }
        }
    };
    timeout(SOON, read).await.expect("the end in time")
}

/// The code in the first complete close frame.
fn find_close(mut rest: &[u8]) -> Option<u16> {
    while let [first, length, ..] = *rest {
        assert!(length < 127, "a short frame");
        let (at, length) = if length == 126 {
            (4, usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?)))
        } else {
            (2, usize::from(length))
        };
        let payload = rest.get(at..at + length)?;
        if first == 0x88 {
            return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        }
        rest = &rest[at + length..];
    }
    None
}

#[tokio::test]
async fn every_offence_gets_its_close_code() {
    let gateway = Gateway::start().await;
    let (mut honest, _) = gateway.hello("honest", Some(1)).await;
    let long = |bytes: [u8; 8]| [&[0x82, 0xff][..], &bytes, &[0; 4]].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![0x82, 0x01, 0xc0], 1002),
        ("RSV1", frame(0xc2, b"x"), 1002),
        ("RSV2", frame(0xa2, b"x"), 1002),
        ("reserved data opcode", frame(0x83, b"x"), 1002),
        ("reserved control opcode", frame(0x8b, b"x"), 1002),
        ("long ping", frame(0x89, &[0; 126]), 1002),
        ("fragmented ping", frame(0x09, b"x"), 1002),
        ("stray continuation", frame(0x80, b"x"), 1002),
        ("data inside fragments", [frame(0x02, b"x"), frame(0x82, b"y")].concat(), 1002),
        ("length with the top bit", long([0xff; 8]), 1009),
        ("length 2^63-1", long((u64::MAX >> 1).to_be_bytes()), 1009),
        ("one byte too large", long((256 * 1024 + 1_u64).to_be_bytes()), 1009),
        ("text", frame(0x81, b"{}"), 1003),
        ("text that is not UTF-8", frame(0x81, b"\xff"), 1003),
        ("not MessagePack", frame(0x82, b"\xc1"), 1007),
        ("close 1005", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("close 999", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("close of one byte", frame(0x88, &[3]), 1002),
        ("close 1000", frame(0x88, &1000_u16.to_be_bytes()), 1000),
        ("ping flood", frame(0x89, b"x").repeat(300), 1008),
        (
            "endless empty fragments",
            [frame(0x02, b""), frame(0x00, b"").repeat(3_000)].concat(),
            1008,
        ),
        (
            "one byte a frame",
            [frame(0x02, b"\x81"), frame(0x00, b"\xa5").repeat(3_000)].concat(),
            1008,
        ),
    ];
    for (what, bytes, code) in cases {
        let mut stream = upgraded(&gateway).await;
        stream.write_all(&bytes).await.unwrap();
        let _ = stream.flush().await;
        assert_eq!(close_code(&mut stream).await, Some(code), "{what}");
        // The registry must not hold this device back for connecting so often.
        while gateway.registry.len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    honest.send(batch(1, &[1.0])).await;
    honest.acked(1).await;
}

#[tokio::test]
async fn a_message_may_come_in_fragments_with_pings_between() {
    let gateway = Gateway::start().await;
    let mut stream = upgraded(&gateway).await;
    let message = batch(1, &[1.0]);
    let mut bytes = Vec::new();
    for (at, byte) in message.iter().enumerate() {
        let last = at + 1 == message.len();
        let first = if at == 0 { 0x02 } else { 0x00 } | if last { 0x80 } else { 0 };
        bytes.extend(frame(first, &[*byte]));
        if at % 10 == 0 {
            bytes.extend(frame(0x89, b"p"));
        }
    }
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|window| window == b"\xa3ack") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
        }
    };
    timeout(SOON, read).await.expect("an ack");
    assert!(answer.windows(3).any(|pong| pong == [0x8a, 1, b'p']));
}

#[tokio::test]
async fn a_message_must_be_complete_in_time() {
    let gateway = Gateway::start_with(Default::default(), |config| {
        config.patience.message_time = Duration::from_millis(400);
        config.patience.ping_after = Duration::from_millis(200);
    })
    .await;
    let mut stream = upgraded(&gateway).await;
    let bytes = frame(0x82, &batch(1, &[1.0; 10]));
    for byte in &bytes[..bytes.len() - 1] {
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(close_code(&mut stream).await, Some(1008));
}

#[tokio::test]
async fn a_device_that_does_not_read_is_closed() {
    let gateway = Gateway::start_with(Default::default(), |config| {
        config.write_time = Duration::from_millis(500);
    })
    .await;
    let (device, _) = gateway.hello("d1", Some(1)).await;
    let (mut write, read) = device.socket.split();
    // Each of these is answered with a nack of kilobytes.
    let send = async {
        let name = "n".repeat(120);
        for seq in 1.. {
            let mut message = proto::BatchEncoder::new();
            message.readings(seq, 17);
            for n in 0..17 {
                let value = if n == 0 { 1.0 } else { f64::NAN };
                let field = (&*name, proto::RawValue::Float(value));
                message.reading(Some("air"), None, &[], &[field]);
            }
            if write.send(Message::Binary(message.finish().to_vec().into())).await.is_err() {
                return;
            }
        }
    };
    let ended = async {
        while gateway.metric("gateway_goodbyes_total{code=\"not_reading\"}") < 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = send => {}
        () = ended => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it goes on for ever"),
    }
    drop(read);
}

#[tokio::test]
async fn half_a_close_is_no_close() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    device.send(batch(1, &[1.0])).await;
    device.acked(1).await;
    // Gone without a close frame: the next connection finds everything in order.
    drop(device);
    let (_, welcome) = gateway.hello("d1", Some(1)).await;
    assert_eq!(welcome.acked_seq, Some(1));
}
