//! SIGTERM under load: goodbye to everyone, nothing acknowledged is lost, exit code 0.

use super::support::{
    Home,
    device::{Device, End},
};
use proto::{ErrorCode, GatewayMessage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_says_goodbye_and_loses_nothing() {
    const DEVICES: usize = 20;
    let home = Home::new();
    let gateway = home.start();
    let mut tasks = Vec::new();
    for i in 0..DEVICES {
        let mut device = Device::connect(&home, &gateway, &format!("d{i}")).await;
        device.hello_stream(1).await;
        tasks.push(tokio::spawn(async move {
            let (mut sent, mut acked) = (0, 0);
            let mut slot = None;
            loop {
                // Keeps eight under way until the gateway closes.
                while sent < acked + 8 && slot.is_none() {
                    sent += 1;
                    device.send_value(sent).await;
                }
                match device.next().await {
                    Ok(GatewayMessage::Ack(ack)) => acked = ack.seq,
                    Ok(GatewayMessage::Goodbye(goodbye)) => {
                        assert_eq!(goodbye.code, ErrorCode::ShuttingDown);
                        slot = Some(goodbye.reconnect_after_ms);
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(end) => return (sent, acked, slot, end),
                }
            }
        }));
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let stopped = tokio::task::spawn_blocking(move || gateway.stop());
    let mut slots = Vec::new();
    let mut ends = Vec::new();
    for task in tasks {
        let (sent, acked, slot, end) = task.await.unwrap();
        assert_eq!(end, End::Closed(1001));
        assert!(acked > 0);
        slots.push(slot.expect("a goodbye"));
        ends.push((sent, acked));
    }
    let (status, said) = stopped.await.unwrap();
    assert_eq!(status.code(), Some(0), "{said:?}");
    slots.sort_unstable();
    slots.dedup();
    assert!(slots.len() > DEVICES / 2, "the fleet does not come back all at once: {slots:?}");
    for (i, (sent, acked)) in ends.into_iter().enumerate() {
        let stored = home.count(&format!("d{i}"));
        assert!(stored >= acked && stored <= sent, "d{i}: {acked} ≤ {stored} ≤ {sent}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let home = Home::new();
    let mut gateway = home.start();
    gateway.terminate();
    gateway.terminate();
    let (status, _) = gateway.wait();
    assert!(matches!(status.code(), Some(0 | 1)), "{status:?}");
}
