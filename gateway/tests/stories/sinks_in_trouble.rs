//! Each trouble that a destination can be in, one after another: what passes by itself is waited
//! for, what is refused for good is kept aside, and nothing is lost. InfluxDB's are in
//! `influx_trouble`.

use super::support::{
    Gateway, Home,
    device::Device,
    eventually,
    scripted_broker::{ScriptedBroker, Trouble},
};
use gateway::mqtt::packet::{
    ConnectReturnCode as Code, DisconnectReasonCode as Goodbye, PubAckReason as Reason,
};
use std::time::Duration;

fn ledger(gateway: &Gateway, what: &str, sink: &str) -> f64 {
    gateway.metric(&format!("gateway_sink_{what}_readings_total"), sink)
}

#[tokio::test]
async fn an_mqtt_broker_in_trouble_of_each_kind_loses_nothing() {
    let broker = ScriptedBroker::start();
    let home = Home::new();
    let gateway = home.start_with(&format!(
        "[sinks.broker]\ntype = \"mqtt\"\nurl = \"{}\"\nbatch_delay = \"20ms\"\ntimeout = \"500ms\"\n",
        broker.url()
    ));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let reconnecting = |of: Trouble| vec![Trouble::Close, of];
    let mut troubles: Vec<Vec<Trouble>> = vec![
        vec![Trouble::Close],
        vec![Trouble::TakeAndClose],
        vec![Trouble::Hang],
        reconnecting(Trouble::HangAtConnect),
        vec![Trouble::Slow(Duration::from_millis(200))],
        // Longer than the sink waits for an answer.
        vec![Trouble::Slow(Duration::from_millis(800))],
    ];
    let busy = [Code::ServerBusy, Code::ServerUnavailable, Code::QuotaExceeded];
    troubles.extend(busy.map(|code| reconnecting(Trouble::RefuseConnection(code))));
    let later = [Reason::QuotaExceeded, Reason::PacketIdentifierInUse];
    troubles.extend(later.map(|reason| vec![Trouble::Refuse(reason)]));
    let goodbyes = [Goodbye::ServerShuttingDown, Goodbye::ServerBusy, Goodbye::KeepAliveTimeout];
    troubles.extend(goodbyes.map(|reason| vec![Trouble::Disconnect(reason)]));
    let for_good = [
        Reason::NotAuthorized,
        Reason::UnspecifiedError,
        Reason::ImplementationSpecificError,
        Reason::TopicNameInvalid,
        Reason::PayloadFormatInvalid,
    ];
    let passing = troubles.len();
    troubles.extend(for_good.map(|reason| vec![Trouble::Refuse(reason)]));
    // It has taken something: what it refuses from now on is about that message.
    device.send_value(1).await;
    device.acked(1).await;
    eventually("the first is there", || ledger(&gateway, "stored", "broker") == 1.0);
    for (at, trouble) in troubles.iter().enumerate() {
        let seq = at as u64 + 2;
        broker.next(trouble);
        device.send_value(seq).await;
        device.acked(seq).await;
        eventually("the other sink does not notice", || home.count("d") == seq);
        let refused = (at + 1).saturating_sub(passing) as f64;
        eventually(&format!("the cursor passes it after {trouble:?}"), || {
            ledger(&gateway, "stored", "broker") == seq as f64 - refused
                && ledger(&gateway, "quarantined", "broker") == refused
        });
        assert_eq!(broker.left(), 0, "{trouble:?} did not come");
        let text = format!("\"value\":{seq}.0");
        let times = broker.taken().iter().filter(|of| of.contains(&text)).count();
        assert_eq!(times > 0, at < passing, "{trouble:?}: taken {times} times");
    }
    assert_eq!(home.refused("broker").len(), for_good.len());
    assert_eq!(gateway.metric("gateway_ledger_imbalance_readings", "broker"), 0.0);
    println!("tried {}", troubles.len());
}

/// What can be wrong with a file: somebody else has it, for a moment or for long, or the process is
/// killed between a transaction and the answer.
#[tokio::test]
async fn the_embedded_store_in_trouble_of_each_kind_loses_and_doubles_nothing() {
    let home = Home::new();
    let mut gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let (mut seq, mut tried) = (0, 0);
    // Longer than it waits for a lock, so that the batch is tried again, and shorter.
    for held in [50, 500, 5_500] {
        let lock = rusqlite::Connection::open(home.store()).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        for _ in 0..20 {
            seq += 1;
            device.send_value(seq).await;
        }
        device.acked(seq).await;
        tokio::time::sleep(Duration::from_millis(held)).await;
        lock.execute_batch("ROLLBACK").unwrap();
        eventually("all of it is stored", || home.count("d") == seq);
        tried += 1;
    }
    for round in 0..5 {
        for _ in 0..50 {
            seq += 1;
            device.send_value(seq).await;
        }
        device.acked(seq).await;
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        gateway.kill();
        gateway = home.start();
        device = Device::connect(&home, &gateway, "d").await;
        assert_eq!(device.hello_stream(1).await.logged_seq, Some(seq));
        eventually("all of it is stored", || home.count("d") == seq);
        tried += 1;
    }
    eventually("the ledger says so", || ledger(&gateway, "stored", "store") == seq as f64);
    assert_eq!(gateway.metric("gateway_store_overwritten_total", ""), 0.0);
    assert_eq!(gateway.metric("gateway_ledger_imbalance_readings", "store"), 0.0);
    println!("tried {tried}");
}
