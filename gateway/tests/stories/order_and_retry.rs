//! Order within a connection, and "try again later" when the log is full.

use super::support::{Home, device::Device, eventually};
use proto::{ErrorCode, GatewayMessage};
use std::collections::BTreeSet;

#[tokio::test]
async fn only_the_next_number_is_taken() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    device.send_value(1).await;
    device.acked(1).await;
    device.send_value(3).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.expected), (3, ErrorCode::OutOfOrder, Some(2)));
    device.send_value(2).await;
    device.send_value(3).await;
    device.acked(3).await;
    eventually("three are stored", || home.count("d") == 3);
}

#[tokio::test]
async fn the_first_batch_of_a_connection_may_leave_a_gap() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    device.send_value(5).await;
    device.acked(5).await;
    let mut device = Device::connect(&home, &gateway, "d").await;
    assert_eq!(device.hello_stream(1).await.acked_seq, Some(5));
    device.send_value(10).await;
    device.acked(10).await;
    assert_eq!(gateway.metric("gateway_sequence_gaps_total", ""), 4.0);
}

/// The log is full because the store cannot write: devices are told to wait, and when there is
/// room again everything is taken, in order, with nothing lost and nothing twice.
#[tokio::test]
async fn a_full_log_says_when_to_try_again_and_recovers_by_itself() {
    let home = Home::new();
    let config = "[log]\nsegment_bytes = \"1MiB\"\nmax_bytes = \"4MiB\"\nkeep_bytes = 0\n\
                  keep_for = \"0s\"\n";
    let gateway = home.start_with(config);
    let lock = rusqlite::Connection::open(home.store()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();

    let mut device = Device::connect(&home, &gateway, "d").await;
    let window = u64::from(device.hello_stream(1).await.window.batches);
    let text = "x".repeat(4000);
    let batch = |seq: u64| {
        let time = 1_760_000_000_000 + i64::try_from(seq).unwrap();
        let mut encoder = proto::BatchEncoder::new();
        encoder.readings(seq, 30);
        for i in 0..30 {
            let time = time * 30 + i;
            let fields = [("text", proto::RawValue::Str(&text))];
            encoder.reading(Some("m"), Some(time / 30 + i * 100_000), &[], &fields);
        }
        encoder.finish().to_vec()
    };
    let (mut next, mut acked) = (1, 0);
    let refused = loop {
        while next <= acked + window / 2 {
            device.send(&batch(next)).await;
            next += 1;
        }
        match device.next().await.unwrap() {
            GatewayMessage::Ack(ack) => acked = ack.seq,
            GatewayMessage::Nack(nack) => break nack,
            other => panic!("{other:?}"),
        }
        assert!(acked < 100, "12 MB are in a log of 4 MiB");
    };
    assert_eq!(refused.code, ErrorCode::LogFull);
    assert!(refused.retry_after_ms.unwrap() > 0);
    assert!(gateway.metric("gateway_batches_total", "retry") > 0.0);

    // What was before it is acknowledged; what was under way behind it comes back as out of
    // order, and names the one to send.
    let mut behind: BTreeSet<u64> = (refused.seq + 1..next).collect();
    while acked < refused.seq - 1 || !behind.is_empty() {
        match device.next().await.unwrap() {
            GatewayMessage::Ack(ack) => acked = ack.seq,
            GatewayMessage::Nack(nack) => {
                assert!(behind.remove(&nack.seq), "{nack:?}");
                assert_eq!(nack.code, ErrorCode::OutOfOrder);
                assert_eq!(nack.expected, Some(refused.seq));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(acked, refused.seq - 1);

    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    let last = acked + 10;
    let mut resend = acked + 1;
    while acked < last {
        device.send(&batch(resend)).await;
        match device.next().await.unwrap() {
            GatewayMessage::Ack(ack) => {
                acked = ack.seq;
                resend = acked + 1;
            }
            GatewayMessage::Nack(nack) => {
                assert_eq!((nack.code, nack.seq), (ErrorCode::LogFull, resend));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    eventually("all are stored once", || home.count("d") == last * 30);
    assert_eq!(gateway.metric("gateway_accepted_readings_total", ""), (last * 30) as f64);
}
