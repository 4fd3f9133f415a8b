//! A device that makes series without end is stopped, and it alone.

use super::support::{
    Home,
    device::{Device, now_ms},
    eventually,
};
use proto::{BatchEncoder, ErrorCode, GatewayMessage, RawValue};

/// Sends a batch with a value of the tag for each of these; how many were refused.
async fn sends(device: &mut Device, seq: u64, values: std::ops::Range<u32>) -> usize {
    let mut encoder = BatchEncoder::new();
    encoder.readings(seq, values.len().try_into().unwrap());
    for value in values {
        let tags = [("order", &*value.to_string())];
        encoder.reading(None, Some(now_ms()), &tags, &[("value", RawValue::Int(1))]);
    }
    device.send(encoder.finish()).await;
    let mut refused = 0;
    loop {
        match device.next().await {
            Ok(GatewayMessage::Nack(nack)) => {
                assert!(nack.readings.iter().all(|of| of.code == ErrorCode::SeriesLimit));
                refused = nack.readings.len() + nack.more.unwrap_or(0) as usize;
            }
            Ok(GatewayMessage::Ack(ack)) if ack.seq >= seq => return refused,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_million_values_of_a_tag_stop_at_the_limit_and_hit_nobody_else() {
    let home = Home::new();
    let gateway = home.start();
    let mut greedy = Device::connect(&home, &gateway, "greedy").await;
    let mut honest = Device::connect(&home, &gateway, "honest").await;
    greedy.hello_stream(1).await;
    honest.hello_stream(1).await;
    for n in 0..20 {
        let refused = sends(&mut greedy, u64::from(n) + 1, n * 5_000..(n + 1) * 5_000).await;
        assert_eq!(refused, if n == 0 { 3_000 } else { 5_000 }, "batch {n}");
        assert_eq!(sends(&mut honest, u64::from(n) + 1, n * 50..(n + 1) * 50).await, 0);
    }
    assert_eq!(sends(&mut greedy, 21, 0..2_000).await, 0, "what it has goes on");
    drop(greedy);
    let mut greedy = Device::connect(&home, &gateway, "greedy").await;
    greedy.hello_stream(1).await;
    assert_eq!(sends(&mut greedy, 22, 1_000..3_000).await, 1_000, "a reconnect gives nothing");
    assert_eq!(gateway.metric("gateway_series", ""), 3_000.0);
    let refused = 20.0 * 5_000.0 - 2_000.0 + 1_000.0;
    assert_eq!(gateway.metric("gateway_refused_total", "series_limit"), refused);
    eventually("the honest device is stored", || home.count("honest") == 1_000);
}

#[tokio::test]
async fn when_all_have_enough_a_new_device_still_gets_its_first() {
    let home = Home::new();
    let gateway = home.start_with("[limits]\nseries_per_device = 100\nseries = 250\n");
    let mut refused = Vec::new();
    for name in ["a", "b", "c", "honest"] {
        let mut device = Device::connect(&home, &gateway, name).await;
        device.hello_stream(1).await;
        refused.push(sends(&mut device, 1, 0..120).await);
    }
    assert_eq!(refused, [20, 20, 120 - 50, 120 - 16]);
}
