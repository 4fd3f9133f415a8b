//! The log is full: batches are put off, and it goes on by itself once there is room.

use super::support::{
    Home,
    device::{Device, now_ms, one_reading},
    eventually,
};
use proto::{ErrorCode, GatewayMessage, RawValue};

/// Four small segments at most, and half of them are kept although every sink has them.
const SMALL: &str = r#"
[limits]
message_bytes = "16KiB"
[log]
segment_bytes = "64KiB"
max_bytes = "256KiB"
keep_bytes = "128KiB"
"#;

fn large_batch(seq: u64) -> Vec<u8> {
    let text = "x".repeat(4000);
    let fields = ["a", "b", "c"].map(|name| (name, RawValue::Str(&text)));
    one_reading(seq, now_ms() + i64::try_from(seq).unwrap(), &fields)
}

#[tokio::test]
async fn a_full_log_is_ready_again_before_any_device_comes() {
    let home = Home::new();
    let gateway = home.start_with(SMALL);
    let lock = rusqlite::Connection::open(home.store()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let mut seq = 0;
    let refused = loop {
        seq += 1;
        assert!(seq < 100, "never full");
        device.send(&large_batch(seq)).await;
        match device.next().await {
            Ok(GatewayMessage::Ack(ack)) => assert_eq!(ack.seq, seq),
            Ok(GatewayMessage::Nack(nack)) => break nack,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((refused.seq, refused.code), (seq, ErrorCode::LogFull));
    assert!(refused.retry_after_ms.is_some());
    eventually("it is not ready", || gateway.get("/readyz").0 == 503);
    drop(device);
    lock.execute_batch("ROLLBACK").unwrap();
    eventually("it is ready again", || gateway.get("/readyz").0 == 200);

    let mut device = Device::connect(&home, &gateway, "d").await;
    assert_eq!(device.hello_stream(1).await.acked_seq, Some(seq - 1));
    for seq in seq..seq + 30 {
        device.send(&large_batch(seq)).await;
        device.acked(seq).await;
        // A store that keeps up: the log is never full again.
        eventually("it is stored", || home.count("d") == 3 * seq);
    }
}
