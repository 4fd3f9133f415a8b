//! An ordered stop.

use crate::{
    committer::Mood,
    harness::{Gateway, SOON, batch},
};
use proto::{ErrorCode, GatewayMessage};
use std::{collections::HashSet, time::Duration};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn everyone_is_told_and_given_a_slot() {
    let gateway = Gateway::start().await;
    let mut devices = Vec::new();
    for n in 0..20 {
        devices.push(gateway.hello(&format!("d{n}"), None).await.0);
    }
    gateway.shutdown.cancel();
    let mut slots = HashSet::new();
    for device in &mut devices {
        let (goodbye, close) = device.ending().await;
        let goodbye = goodbye.unwrap();
        assert_eq!((goodbye.code, close), (ErrorCode::ShuttingDown, Some(1001)));
        slots.insert(goodbye.reconnect_after_ms);
    }
    assert!(slots.len() > 10, "{slots:?}");
    timeout(SOON, gateway.served).await.expect("the server ends").unwrap();
    assert!(tokio::net::TcpStream::connect(gateway.address).await.is_err());
}

#[tokio::test]
async fn what_is_under_way_is_acknowledged_first() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    gateway.committer.set(Mood::Held);
    for seq in 1..=10 {
        device.send(batch(seq, &[1.0])).await;
    }
    assert!(device.is_quiet().await);
    gateway.shutdown.cancel();
    assert!(device.is_quiet().await, "no goodbye while batches are under way");
    gateway.committer.set(Mood::Prompt);
    device.acked(10).await;
    let GatewayMessage::Goodbye(goodbye) = device.receive().await else { panic!("goodbye") };
    assert_eq!(goodbye.code, ErrorCode::ShuttingDown);
    timeout(SOON, gateway.served).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_committer_that_hangs_does_not_hold_up_the_stop() {
    let gateway = Gateway::start_with(Default::default(), |config| {
        config.drain = Duration::from_millis(300);
        config.restart = true;
    })
    .await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    gateway.committer.set(Mood::Held);
    device.send(batch(1, &[1.0])).await;
    assert!(device.is_quiet().await);
    gateway.shutdown.cancel();
    assert_eq!(device.ends_with().await, ("restart".to_owned(), 1012));
    timeout(SOON, gateway.served).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn handshakes_do_not_hold_up_the_stop() {
    let gateway = Gateway::start().await;
    let silent = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let handshaken = gateway.tls().await;
    gateway.shutdown.cancel();
    timeout(SOON, gateway.served).await.expect("the server ends").unwrap();
    drop((silent, handshaken));
}

#[tokio::test]
async fn a_device_may_close_in_order() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", None).await;
    device.socket.close(None).await.unwrap();
    let last = timeout(SOON, futures_util::StreamExt::next(&mut device.socket)).await.unwrap();
    assert!(matches!(last, Some(Ok(Message::Close(_))) | None), "{last:?}");
    while !gateway.registry.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let closed = "gateway_connections_closed_total{code=\"device\"}";
    assert_eq!(gateway.metric(closed), 1.0);
}
