//! A field has one kind: what would poison a store is refused to the device that sent it.

use super::support::{
    Home,
    device::{Device, now_ms, one_reading},
    eventually,
    servers::Influx,
};
use proto::{BatchEncoder, ErrorCode, GatewayMessage, Nack, RawValue};
use rusqlite::types::Value;

const NUMBER: RawValue<'static> = RawValue::Float(21.5);
const TEXT: RawValue<'static> = RawValue::Str("x");

fn influx_sink(influx: &Influx) -> String {
    format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nbucket = \"telemetry\"\n\
         ca_file = {:?}\nbatch_delay = \"50ms\"\n",
        influx.url(),
        influx.ca().display(),
    )
}

/// Sends a reading of one field; what is refused of it, if anything is.
async fn tries(device: &mut Device, seq: u64, value: RawValue<'_>) -> Option<Nack> {
    // Two of them within a millisecond must not be one point.
    let time_ms = now_ms() + i64::try_from(seq).unwrap();
    device.send(&one_reading(seq, time_ms, &[("value", value)])).await;
    answer(device, seq).await
}

/// The nack before the ack of this batch.
async fn answer(device: &mut Device, seq: u64) -> Option<Nack> {
    let mut refused = None;
    loop {
        match device.next().await {
            Ok(GatewayMessage::Nack(nack)) => refused = Some(nack),
            Ok(GatewayMessage::Ack(ack)) if ack.seq >= seq => return refused,
            Ok(GatewayMessage::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn codes(nack: &Nack) -> Vec<(u32, ErrorCode, Option<&str>)> {
    nack.readings.iter().map(|of| (of.index, of.code, of.field.as_deref())).collect()
}

#[tokio::test]
async fn three_conflicting_readings_of_5000_are_refused_and_poison_nothing() {
    let influx = Influx::start(&["telemetry"]);
    let home = Home::new();
    let gateway = home.start_with(&influx_sink(&influx));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    assert_eq!(tries(&mut device, 1, NUMBER).await, None);
    let poisoned = [17, 2_500, 4_999];
    let mut encoder = BatchEncoder::new();
    encoder.readings(2, 5_000);
    for n in 0..5_000 {
        let value = if poisoned.contains(&n) { TEXT } else { RawValue::Int(n) };
        encoder.reading(None, Some(1_760_000_000_000 + n), &[], &[("value", value)]);
    }
    device.send(encoder.finish()).await;
    let nack = answer(&mut device, 2).await.expect("three are refused");
    let conflict = |index| (index, ErrorCode::TypeConflict, Some("value"));
    assert_eq!(codes(&nack), [conflict(17), conflict(2_500), conflict(4_999)]);
    eventually("all others are stored", || influx.count("telemetry", "value", "test") == 1 + 4_997);
    eventually("nothing was set aside", || {
        gateway.metric("gateway_sink_stored_readings_total", "influx") == 4_998.0
    });
    assert_eq!(gateway.metric("gateway_sink_quarantined_readings_total", "influx"), 0.0);
    assert_eq!(gateway.metric("gateway_refused_total", "type_conflict"), 3.0);
    eventually("nor is it in the other store", || home.count("d") == 4_998);
}

#[tokio::test]
async fn the_kind_that_a_store_holds_is_learned_from_its_answer() {
    let influx = Influx::start(&["telemetry"]);
    let home = Home::new();
    let without = home.start_with(&format!("{}[types]\nguard = false\n", influx_sink(&influx)));
    let mut device = Device::connect(&home, &without, "d").await;
    device.hello_stream(1).await;
    tries(&mut device, 1, NUMBER).await;
    eventually("the store holds numbers", || influx.count("telemetry", "value", "test") == 1);
    drop(without);

    let gateway = home.start_with(&influx_sink(&influx));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(2).await;
    // Nothing was learned yet: a text is taken, and only the store knows better.
    assert_eq!(tries(&mut device, 1, TEXT).await, None);
    eventually("the store's word is heard", || {
        gateway.metric("gateway_sink_quarantined_readings_total", "influx") == 1.0
    });
    let nack = tries(&mut device, 2, TEXT).await.expect("it is refused from now on");
    assert_eq!(codes(&nack), [(0, ErrorCode::TypeConflict, Some("value"))]);
    assert_eq!(tries(&mut device, 3, NUMBER).await, None);
    eventually("numbers are stored", || influx.count("telemetry", "value", "test") == 2);
}

#[tokio::test]
async fn a_kind_that_was_acknowledged_survives_kill_9() {
    let home = Home::new();
    for round in 1..=5 {
        let gateway = home.start();
        let field = format!("f{round}");
        let mut device = Device::connect(&home, &gateway, "d").await;
        device.hello_stream(round).await;
        device.send(&one_reading(1, now_ms(), &[(&field, TEXT)])).await;
        assert_eq!(answer(&mut device, 1).await, None);
        gateway.kill();

        let gateway = home.start();
        let mut device = Device::connect(&home, &gateway, "e").await;
        device.hello_stream(round).await;
        device.send(&one_reading(1, now_ms(), &[(&field, NUMBER)])).await;
        let nack = answer(&mut device, 1).await.expect("the field is a text for ever");
        assert_eq!(codes(&nack), [(0, ErrorCode::TypeConflict, Some(&*field))]);
        gateway.kill();
    }
}

#[tokio::test]
async fn of_two_devices_that_bring_a_field_at_once_the_log_holds_one_kind() {
    let home = Home::new();
    let gateway = home.start();
    let mut one = Device::connect(&home, &gateway, "one").await;
    let mut other = Device::connect(&home, &gateway, "other").await;
    one.hello_stream(1).await;
    other.hello_stream(1).await;
    let rounds = 30;
    for round in 1..=rounds {
        let field = format!("f{round}");
        let number = one_reading(round, now_ms(), &[(&field, NUMBER)]);
        let text = one_reading(round, now_ms(), &[(&field, TEXT)]);
        tokio::join!(one.send(&number), other.send(&text));
        let (a, b) = tokio::join!(answer(&mut one, round), answer(&mut other, round));
        assert!(a.is_some() != b.is_some(), "round {round}: {a:?} {b:?}");
    }
    eventually("one of two is stored each time", || {
        home.count("one") + home.count("other") == rounds
    });
    let sql = "SELECT count(DISTINCT field), count(DISTINCT field || kind) FROM readings";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let counts = home.open_store().query_row(sql, [], row).unwrap();
    assert_eq!(counts, (30, 30), "one kind a field");
}

#[tokio::test]
async fn what_was_converted_is_the_same_for_every_sink_and_every_configuration() {
    let home = Home::new();
    let gateway = home.start_with("[types]\non_conflict = \"coerce\"\n");
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    assert_eq!(tries(&mut device, 1, NUMBER).await, None);
    for (seq, value) in [(2, RawValue::Str("-1.50")), (3, RawValue::Bool(true))] {
        assert_eq!(tries(&mut device, seq, value).await, None);
    }
    let nack = tries(&mut device, 4, RawValue::Str("1,5")).await.expect("that is no number");
    assert_eq!(codes(&nack), [(0, ErrorCode::TypeConflict, Some("value"))]);
    assert_eq!(gateway.metric("gateway_coerced_values_total", ""), 2.0);
    let expected = [21.5, -1.5, 1.0].map(Value::Real);
    let values =
        |home: &Home| -> Vec<Value> { home.rows("d").into_iter().map(|row| row.value).collect() };
    eventually("numbers are stored", || values(&home) == expected);
    gateway.kill();

    // A store that is made anew from the log, by a gateway that would refuse them now.
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", home.store().display()));
    }
    let gateway = home.start();
    eventually("the same numbers come from the log", || values(&home) == expected);
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(2).await;
    assert!(tries(&mut device, 1, RawValue::Bool(true)).await.is_some(), "refused now");
}
