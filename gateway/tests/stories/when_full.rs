//! A log that is full because of a sink: `when_full`.

use super::support::{Home, device::Device, eventually, scripted::Scripted, servers::free_port};
use proto::{BatchEncoder, RawValue};

const SMALL_LOG: &str = "[limits]\nmessage_bytes = \"16KiB\"\n[log]\nsegment_bytes = \"64KiB\"\n\
                         max_bytes = \"2MiB\"\nkeep_bytes = \"64KiB\"\nkeep_for = \"0s\"\n";

/// About 8 KiB.
fn large_batch(seq: u64) -> Vec<u8> {
    let text = "x".repeat(8_000);
    let time = 1_760_000_000_000 + i64::try_from(seq).unwrap();
    let mut encoder = BatchEncoder::new();
    let fields = [("a", RawValue::Str(&text[..4_000])), ("b", RawValue::Str(&text[4_000..]))];
    encoder.readings(seq, 1).reading(None, Some(time), &[], &fields);
    encoder.finish().to_vec()
}

#[tokio::test]
async fn an_optional_sink_that_is_dead_never_stops_the_fleet() {
    let home = Home::new();
    let port = free_port();
    let config = format!(
        "{SMALL_LOG}[sinks.influx]\ntype = \"influxdb\"\nurl = \"http://127.0.0.1:{port}\"\n"
    );
    let gateway = home.start_with(&config);
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    // Much more than the log holds. Every ack is awaited: a refusal would fail the test.
    for seq in 1..=400 {
        device.send(&large_batch(seq)).await;
        device.acked(seq).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    eventually("the other sink has everything", || home.count("d") == 800);
    let skipped = || gateway.metric("gateway_sink_dropped_readings_total", "skipped");
    assert!(skipped() >= 100.0, "{}", skipped());

    let store = Scripted::start_on(port);
    eventually("the store gets what is left", || {
        let stored = store.stored().len();
        stored > 0 && skipped() + stored as f64 == 400.0
    });
    eventually("the ledger balances", || {
        let stored = gateway.metric("gateway_sink_stored_readings_total", "influx");
        stored + skipped() == 400.0
            && gateway.metric("gateway_sink_pending_readings", "influx") == 0.0
    });
}

#[tokio::test]
async fn a_sink_that_holds_makes_the_gateway_refuse_until_it_is_back() {
    let home = Home::new();
    let port = free_port();
    let config = format!(
        "{SMALL_LOG}[sinks.influx]\ntype = \"influxdb\"\nurl = \"http://127.0.0.1:{port}\"\n\
         required = true\n"
    );
    let gateway = home.start_with(&config);
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let mut acked = 0;
    let nack = loop {
        device.send(&large_batch(acked + 1)).await;
        match device.next().await.unwrap() {
            proto::GatewayMessage::Ack(ack) => acked = ack.seq,
            proto::GatewayMessage::Nack(nack) => break nack,
            other => panic!("{other:?}"),
        }
        assert!(acked < 300, "the log took more than it may hold");
    };
    assert_eq!(nack.seq, acked + 1);
    let _store = Scripted::start_on(port);
    let retried = acked + 1;
    eventually("there is room again", || gateway.get("/readyz").0 == 200);
    loop {
        device.send(&large_batch(retried)).await;
        if matches!(device.next().await.unwrap(), proto::GatewayMessage::Ack(_)) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(gateway.metric("gateway_sink_dropped_readings_total", "skipped"), 0.0);
}
