//! One device, two connections: the newer one takes over, and knows what the older one left.

use super::support::{
    Home,
    device::{Device, End},
    eventually,
};
use proto::ErrorCode;

#[tokio::test]
async fn the_newer_connection_takes_over() {
    let home = Home::new();
    let gateway = home.start();
    let token = home.token("d");
    let mut older = Device::with_token(&gateway, &token).await;
    older.hello_stream(4).await;
    for seq in 1..=30 {
        older.send_value(seq).await;
    }
    let mut newer = Device::with_token(&gateway, &token).await;
    let welcome = newer.hello_stream(4).await;
    let (goodbye, end) = older.end().await;
    assert_eq!(goodbye.unwrap().code, ErrorCode::TakenOver);
    assert_eq!(end, End::Closed(4001));

    // Everything that the welcome does not know of was not kept: it may be sent without a double.
    let known = welcome.logged_seq.unwrap_or(0);
    assert_eq!(welcome.acked_seq.unwrap_or(0), known);
    for seq in known + 1..=31 {
        newer.send_value(seq).await;
    }
    newer.acked(31).await;
    eventually("each once", || home.count("d") == 31);
    assert_eq!(gateway.metric("gateway_accepted_readings_total", ""), 31.0);
    assert_eq!(gateway.metric("gateway_batches_total", "duplicate"), 0.0);
    assert_eq!(gateway.metric("gateway_takeovers_total", ""), 1.0);
}

#[tokio::test]
async fn another_device_is_not_disturbed() {
    let home = Home::new();
    let gateway = home.start();
    let mut other = Device::connect(&home, &gateway, "other").await;
    other.hello_stream(1).await;
    let token = home.token("d");
    for _ in 0..2 {
        Device::with_token(&gateway, &token).await.hello_stream(1).await;
    }
    other.send_value(1).await;
    other.acked(1).await;
}
