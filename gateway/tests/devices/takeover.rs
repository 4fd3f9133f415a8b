//! A device has one connection: a newer one takes over.

use crate::{
    committer::{Asked, Mood},
    harness::{Device, Gateway, batch, request},
};
use gateway::{ingest::StreamId, record::Identity};
use proto::Hello;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Error;

#[tokio::test]
async fn the_older_connection_is_told_and_closed() {
    let gateway = Gateway::start().await;
    let (mut older, _) = gateway.hello("d1", Some(1)).await;
    older.send(batch(1, &[1.0])).await;
    older.acked(1).await;
    let (mut newer, welcome) = gateway.hello("d1", Some(1)).await;
    assert_eq!(welcome.acked_seq, Some(1));
    let (goodbye, close) = older.ending().await;
    assert_eq!(close, Some(4001));
    let goodbye = goodbye.unwrap();
    assert_eq!(goodbye.code, proto::ErrorCode::TakenOver);
    assert!(goodbye.reconnect_after_ms >= 1000, "{goodbye:?}");
    newer.send(batch(2, &[1.0])).await;
    newer.acked(2).await;
    assert_eq!(gateway.metric("gateway_takeovers_total"), 1.0);
}

#[tokio::test]
async fn devices_of_other_realms_are_other_devices() {
    let gateway = Gateway::start().await;
    let (mut one, _) = gateway.hello("d1", None).await;
    let stream = gateway
        .tls_as(&gateway.client_ca, |params| {
            params.distinguished_name.push(rcgen::DnType::CommonName, "d1");
        })
        .await
        .unwrap();
    let mut other = Device::over(stream, request(None)).await.unwrap();
    other.say_hello(&Hello::default()).await;
    assert_eq!(other.welcome().await.realm, "plant");
    assert!(one.is_quiet().await);
    assert_eq!(gateway.registry.len(), 2);
}

#[tokio::test]
async fn the_newer_connection_opens_after_the_older_has_stopped() {
    let gateway = Gateway::start().await;
    let (mut older, _) = gateway.hello("d1", Some(1)).await;
    gateway.committer.set(Mood::Held);
    for seq in 1..=5 {
        older.send(batch(seq, &[1.0])).await;
    }
    assert!(older.is_quiet().await);
    let mut newer = gateway.connect("d1").await;
    newer.say_hello(&Hello { stream: Some(1), ..Hello::default() }).await;
    assert!(newer.is_quiet().await, "no welcome before the older batches are decided");
    gateway.committer.set(Mood::Prompt);
    let welcome = newer.welcome().await;
    assert_eq!(welcome.logged_seq, Some(5));
    let asked = gateway.committer.asked();
    let opened = asked.iter().rposition(|asked| matches!(asked, Asked::Open(_))).unwrap();
    assert_eq!(opened, asked.len() - 1, "{asked:?}");
    let Asked::Open(stream) = &asked[opened] else { unreachable!() };
    assert_eq!(stream.stream, StreamId::Named(1));
}

#[tokio::test]
async fn connections_that_fight_have_to_wait() {
    let gateway = Gateway::start().await;
    let mut devices = Vec::new();
    for _ in 0..6 {
        devices.push(gateway.hello("d1", None).await.0);
    }
    let token = gateway.token("d1");
    let refused = Device::over(gateway.tls().await, request(Some(&token))).await;
    let Err(Error::Http(response)) = refused else { panic!("the seventh has to wait") };
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // The one that is connected stays, and others are not concerned.
    assert!(devices.last_mut().unwrap().is_quiet().await);
    gateway.hello("d2", None).await;
}

#[tokio::test]
async fn a_revoked_device_is_closed_within_a_second() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", None).await;
    let (mut other, _) = gateway.hello("d2", None).await;
    gateway.auth.set_revoked([Identity::new("default", "d1")].into());
    gateway.registry.close_revoked(|identity| gateway.auth.is_revoked(identity));
    let ending = tokio::time::timeout(Duration::from_secs(1), device.ends_with()).await;
    assert_eq!(ending.unwrap(), ("revoked".to_owned(), 1008));
    assert!(other.is_quiet().await);
}
