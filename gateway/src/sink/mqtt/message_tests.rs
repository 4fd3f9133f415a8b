use super::*;
use crate::{
    mqtt::{
        QoS,
        packet::{Packet, Publish},
    },
    record::{Codec, Dropped, Envelope, Kind, Source},
};
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};

/// A record with so many readings, in turns of two measurements.
fn record(position: u64, readings: u32) -> Record {
    let mut encoder = BatchEncoder::new();
    let mut batch = encoder.readings(1, readings);
    for n in 0..readings {
        let measurement = if n % 2 == 0 { "even" } else { "odd" };
        let tags = [("unit", "°C")];
        let fields = [("x", RawValue::Float(f64::from(n))), ("on", RawValue::Bool(true))];
        batch = batch.reading(Some(measurement), Some(n.into()), &tags, &fields);
    }
    let payload = match DeviceMessage::decode(encoder.finish(), &Limits::unbounded()) {
        Ok(DeviceMessage::Batch(body)) => body.to_vec().into(),
        other => panic!("{other:?}"),
    };
    let envelope = Envelope {
        kind: Kind::Batch,
        source: Source::Device,
        codec: Codec::BatchV1,
        time_unit: TimeUnit::Ms,
        refused_whole: None,
        receive_ns: 1,
        stream: 1,
        seq: 1,
        accepted: readings,
        accepted_total: readings.into(),
        payload_hash: 0,
        identity: Identity::new("plant-2", "press/7"),
        measurement: None,
        refused: Vec::new(),
        adjustments: Vec::new(),
    };
    Record { position: Position(position), envelope, payload }
}

fn batch(records: Vec<Record>) -> Batch {
    Batch {
        first: records[0].position,
        last: records.last().unwrap().position,
        readings: records.iter().map(|record| u64::from(record.envelope.accepted)).sum(),
        records: records.into(),
        accepted_total: 0,
        dropped: Dropped::default(),
        given_up: std::sync::Arc::default(),
    }
}

fn readings(payload: Payload, bytes: &[u8]) -> usize {
    match payload {
        Payload::LineProtocol => bytes.iter().filter(|&&byte| byte == b'\n').count(),
        Payload::Json => {
            let message: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            message["readings"].as_array().unwrap().len()
        }
        Payload::MessagePack => {
            let message: serde_json::Value = rmp_serde::from_slice(bytes).unwrap();
            message["readings"].as_array().unwrap().len()
        }
    }
}

#[test]
fn no_packet_is_larger_than_it_may_be_and_no_reading_is_left_out() {
    for payload in [Payload::Json, Payload::MessagePack, Payload::LineProtocol] {
        for limit in [260, 300, 1_000, 4_000, 1 << 20] {
            let mut encoder = Encoder::new(payload, "r/{realm}/{device}/{measurement}");
            let window = encoder.window(&batch(vec![record(9, 101)]), 0, limit).unwrap();
            assert!(window.too_large.is_empty(), "{payload:?} {limit}");
            let mut points: Vec<PointId> = Vec::new();
            for message in &window.messages {
                let packet = Packet::Publish(Publish {
                    qos: QoS::AtLeastOnce,
                    topic: message.topic.clone(),
                    pkid: 1,
                    payload: message.payload.clone(),
                    ..Publish::default()
                });
                assert!(packet.size() <= limit, "{payload:?}: {} of {limit}", packet.size());
                assert_eq!(readings(payload, &message.payload), message.points.len());
                let even = message.topic == "r/plant-2/press%2F7/even";
                assert!(message.points.iter().all(|point| (point.index % 2 == 0) == even));
                assert!(message.points.is_sorted());
                points.extend(&message.points);
            }
            points.sort_unstable();
            let all = (0..101).map(|index| PointId { position: Position(9), index });
            assert_eq!(points, all.collect::<Vec<_>>(), "{payload:?} {limit}");
            if limit == 1 << 20 {
                assert_eq!(window.messages.len(), 2, "one for each measurement");
            }
        }
    }
}

#[test]
fn a_reading_that_fits_no_packet_is_named() {
    let mut encoder = Encoder::new(Payload::Json, "r");
    let window = encoder.window(&batch(vec![record(9, 3)]), 0, 150).unwrap();
    assert_eq!(window.messages.len(), 0);
    let named: Vec<u32> = window.too_large.iter().map(|point| point.id.index).collect();
    assert_eq!(named, [0, 1, 2]);
    assert!(window.too_large[0].reason.contains("more than the 150"), "{:?}", window.too_large);
}

#[test]
fn a_window_is_bounded_and_the_next_one_goes_on_behind_it() {
    let records: Vec<_> = (1..=40).map(|position| record(position, 500)).collect();
    let batch = batch(records);
    let mut encoder = Encoder::new(Payload::Json, "r/{device}");
    let (mut from, mut windows, mut points) = (0, 0, 0);
    while from < batch.records.len() {
        let window = encoder.window(&batch, from, 1 << 20).unwrap();
        let bytes: usize = window.messages.iter().map(|message| message.payload.len()).sum();
        assert!(bytes < WINDOW_BYTES + 100_000, "{bytes}");
        from += window.ends.len();
        assert_eq!(window.ends.last().unwrap().position, batch.records[from - 1].position);
        points += window.messages.iter().map(|message| message.points.len()).sum::<usize>();
        windows += 1;
    }
    assert!(windows > 1);
    assert_eq!(points, 40 * 500);
}
