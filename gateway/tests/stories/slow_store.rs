//! The store is held up for a while, then drains; nobody notices but the ledger.

use super::support::{Home, device::Device, eventually};

#[tokio::test]
async fn acks_go_on_while_the_store_is_held_up_and_nothing_is_lost() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    device.send_value(1).await;
    device.acked(1).await;
    eventually("the first is stored", || home.count("d") == 1);

    let lock = rusqlite::Connection::open(home.store()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for seq in 2..=500 {
        device.send_value(seq).await;
        device.acked(seq).await;
    }
    assert_eq!(home.count("d"), 1);
    eventually("the ledger shows what waits", || {
        gateway.metric("gateway_sink_pending_readings", "store") == 499.0
    });
    lock.execute_batch("ROLLBACK").unwrap();
    eventually("the rest is stored", || home.count("d") == 500);
    eventually("the ledger balances", || {
        gateway.metric("gateway_sink_stored_readings_total", "store") == 500.0
            && gateway.metric("gateway_sink_pending_readings", "store") == 0.0
    });
}

/// With `ack = "stored"` an ack waits for the store.
#[tokio::test]
async fn an_ack_of_mode_stored_waits_for_the_store() {
    let home = Home::new();
    let gateway = home.start_with("ack = \"stored\"\n");
    let lock = {
        let lock = rusqlite::Connection::open(home.store()).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        lock
    };
    let mut device = Device::connect(&home, &gateway, "d").await;
    let welcome = device.hello_stream(1).await;
    assert_eq!(welcome.ack, proto::message::AckMode::Stored);
    device.send_value(1).await;
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), device.next()).await;
    assert!(early.is_err(), "acknowledged before it was stored: {early:?}");
    // A device that comes back learns that its batch is logged and not yet acknowledged.
    let mut device = Device::connect(&home, &gateway, "d").await;
    let welcome = device.hello_stream(1).await;
    assert_eq!((welcome.acked_seq, welcome.logged_seq), (None, Some(1)));
    device.send_value(1).await;
    device.send_value(2).await;
    lock.execute_batch("ROLLBACK").unwrap();
    device.acked(2).await;
    assert_eq!(home.count("d"), 2, "stored when it is acknowledged");
}
