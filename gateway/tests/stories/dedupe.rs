//! A batch that comes again is acknowledged and stored once; another under its number is refused.

use super::support::{
    Home,
    device::{Device, one_reading, value_batch},
    eventually,
};
use proto::{BatchEncoder, ErrorCode, RawValue};

#[tokio::test]
async fn a_resent_batch_is_acknowledged_and_stored_once() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    assert_eq!(device.hello_stream(3).await.acked_seq, None);
    device.send_value(1).await;
    device.send_value(2).await;
    device.acked(2).await;
    // On the same connection, and on another one, and after a restart.
    device.send_value(2).await;
    device.acked(2).await;
    let mut device = Device::connect(&home, &gateway, "d").await;
    let welcome = device.hello_stream(3).await;
    assert_eq!((welcome.acked_seq, welcome.logged_seq), (Some(2), Some(2)));
    device.send_value(1).await;
    device.send_value(2).await;
    device.acked(2).await;
    gateway.kill();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(3).await;
    device.send_value(2).await;
    device.send_value(3).await;
    device.acked(3).await;
    eventually("three are stored", || home.count("d") == 3);
    assert_eq!(gateway.metric("gateway_accepted_readings_total", ""), 3.0);
    assert_eq!(gateway.metric("gateway_store_overwritten_total", ""), 0.0);
}

#[tokio::test]
async fn another_payload_under_a_used_number_is_refused() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(3).await;
    device.send_value(1).await;
    device.acked(1).await;
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(3).await;
    device.send(&one_reading(1, 1_760_000_000_999, &[("value", RawValue::Float(9.0))])).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.refused), (1, ErrorCode::SeqReused, Some(true)));
    // The connection goes on.
    device.send_value(2).await;
    device.acked(2).await;
    eventually("two are stored", || home.count("d") == 2);
}

#[tokio::test]
async fn a_script_without_a_stream_that_runs_twice_stores_twice() {
    let home = Home::new();
    let gateway = home.start();
    for _ in 0..2 {
        let mut device = Device::connect(&home, &gateway, "script").await;
        let mut encoder = BatchEncoder::new();
        encoder.readings(1, 1).reading(Some("m"), None, &[], &[("v", RawValue::Int(1))]);
        device.send(encoder.finish()).await;
        device.welcome().await;
        device.acked(1).await;
    }
    eventually("both are stored", || home.count("script") == 2);
}

#[tokio::test]
async fn the_nack_of_a_repeated_batch_is_repeated() {
    let home = Home::new();
    let gateway = home.start();
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let mut device = Device::connect(&home, &gateway, "d").await;
        device.hello_stream(8).await;
        bytes = one_reading(1, 1_760_000_000_000, &[("v", RawValue::Float(f64::NAN))]);
        device.send(&bytes).await;
        let nack = device.nack().await;
        assert_eq!((nack.seq, nack.code), (1, ErrorCode::NotFinite));
        assert_eq!(nack.readings.len(), 1);
        device.acked(1).await;
    }
    assert!(!bytes.is_empty());
    assert_eq!(gateway.metric("gateway_batches_total", "duplicate"), 1.0);
}

#[tokio::test]
async fn streams_of_a_device_do_not_know_of_each_other() {
    let home = Home::new();
    let gateway = home.start();
    for stream in [1, 2] {
        let mut device = Device::connect(&home, &gateway, "d").await;
        assert_eq!(device.hello_stream(stream).await.acked_seq, None);
        device.send(&value_batch(1)).await;
        device.acked(1).await;
    }
    assert_eq!(gateway.metric("gateway_accepted_readings_total", ""), 2.0);
}
