//! A bad reading costs itself only; a device cannot write as another; numbers are floats.

use super::support::{
    Home,
    device::{Device, End, now_ms, one_reading},
    eventually,
};
use proto::{BatchEncoder, ErrorCode, RawValue};
use rusqlite::types::Value;

#[tokio::test]
async fn one_bad_reading_of_a_hundred_costs_that_reading() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 100);
    let start = now_ms() - 1000;
    for i in 0..100 {
        let value = if i == 41 { f64::NAN } else { f64::from(i) };
        let fields = [("ok", RawValue::Int(1)), ("speed", RawValue::Float(value))];
        encoder.reading(None, Some(start + i64::from(i)), &[], &fields);
    }
    device.send(encoder.finish()).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.refused), (1, ErrorCode::NotFinite, None));
    assert_eq!(nack.readings.len(), 1);
    let refused = &nack.readings[0];
    assert_eq!((refused.index, refused.code), (41, ErrorCode::NotFinite));
    assert_eq!(refused.field.as_deref(), Some("speed"));
    device.acked(1).await;
    eventually("99 readings of two fields are stored", || home.count("d") == 198);
    assert_eq!(gateway.metric("gateway_accepted_readings_total", ""), 99.0);
    assert_eq!(gateway.metric("gateway_refused_total", "not_finite"), 1.0);
}

#[tokio::test]
async fn a_device_cannot_write_as_another() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "mallory").await;
    device.hello_stream(1).await;
    // A tag `device` is refused; keys that this protocol does not know are ignored.
    let mut encoder = BatchEncoder::new();
    let fields = [("v", RawValue::Int(1))];
    encoder.readings(1, 1).reading(None, None, &[("device", "alice")], &fields);
    device.send(encoder.finish()).await;
    let nack = device.nack().await;
    assert_eq!(nack.readings[0].code, ErrorCode::ReservedName);
    assert_eq!(nack.readings[0].field.as_deref(), Some("device"));
    // {"batch": {"seq": 2, "device": "alice", "readings": [{"fields": {"v": 1}, "device": "alice"}]}}
    let mut bytes = vec![0x81, 0xA5];
    bytes.extend_from_slice(b"batch\x83\xA3seq\x02\xA6device\xA5alice\xA8readings\x91\x82");
    bytes.extend_from_slice(b"\xA6fields\x81\xA1v\x01\xA6device\xA5alice");
    device.send(&bytes).await;
    device.acked(2).await;
    eventually("it is stored under its own name", || home.count("mallory") == 1);
    assert_eq!(home.count("alice"), 0);
}

#[tokio::test]
async fn numbers_are_floats_and_other_types_keep_theirs() {
    let home = Home::new();
    // One field with three kinds.
    let gateway = home.start_with("[types]\nguard = false\n");
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let values = [
        RawValue::Int(21),
        RawValue::Float(21.5),
        RawValue::Int(-3),
        RawValue::Bool(true),
        RawValue::Str("open"),
    ];
    for (i, value) in values.into_iter().enumerate() {
        let time = 1_760_000_000_000 + i as i64;
        device.send(&one_reading(1 + i as u64, time, &[("v", value)])).await;
    }
    device.acked(5).await;
    eventually("all are stored", || home.count("d") == 5);
    let stored: Vec<Value> = home.rows("d").into_iter().map(|row| row.value).collect();
    assert_eq!(stored[..3], [21.0, 21.5, -3.0].map(Value::Real));
    assert_eq!(stored[4], Value::Text("open".into()));
    assert_ne!(stored[3], Value::Real(1.0), "a bool is not a number");
}

#[tokio::test]
async fn a_text_message_and_garbage_close_with_their_codes_and_harm_nobody() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::Message;
    let home = Home::new();
    let gateway = home.start();
    let mut honest = Device::connect(&home, &gateway, "honest").await;
    honest.hello_stream(1).await;
    let token = home.token("d");
    let cases: [(Message, u16, ErrorCode); 4] = [
        (Message::text("{}"), 1003, ErrorCode::TextMessage),
        (Message::binary(vec![0xC1]), 1007, ErrorCode::Malformed),
        (Message::binary(vec![0x81, 0xA5, b'b', b'a']), 1007, ErrorCode::Malformed),
        (Message::binary(vec![0; 300 * 1024]), 1009, ErrorCode::TooLarge),
    ];
    for (i, (message, close, code)) in cases.into_iter().enumerate() {
        let mut device = Device::with_token(&gateway, &token).await;
        device.socket.send(message).await.unwrap();
        let (goodbye, end) = device.end().await;
        assert_eq!(end, End::Closed(close), "case {i}");
        assert_eq!(goodbye.map(|g| g.code), Some(code), "case {i}");
        honest.send_value(1 + i as u64).await;
        honest.acked(1 + i as u64).await;
    }
}
