//! Whatever the bytes are: no panic, an end, and nothing believed that is not there.
#![allow(clippy::unwrap_used)]

mod common;

use common::{bytes, device_meaning, vectors};
use proptest::prelude::*;
use proto::{
    Batch, DeviceMessage, ErrorCode, GatewayMessage, Goodbye, Limits, RawReading, Welcome,
    limits::{MAX_DEVICE_ID_BYTES, MIN_MAX_RX},
    message::{AckMode, Window},
};
use serde::de::IgnoredAny;
use std::io::Cursor;

/// What another implementation says: one whole MessagePack value and nothing behind it.
fn sound_elsewhere(bytes: &[u8]) -> bool {
    let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(bytes));
    <IgnoredAny as serde::Deserialize>::deserialize(&mut deserializer).is_ok()
        && deserializer.position() == bytes.len() as u64
}

/// Decodes as either side would; what is taken must be sound for others, too.
fn feed(bytes: &[u8]) {
    let from_device = device_meaning(bytes);
    let from_gateway = GatewayMessage::decode(bytes);
    if from_device.is_ok() || from_gateway.is_ok() {
        assert!(sound_elsewhere(bytes), "taken: {bytes:02x?}");
    }
    if let Ok(message) = from_gateway {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(GatewayMessage::decode(&again), Ok(message));
    }
}

/// The vectors that are small enough to be tried at every byte.
fn samples() -> Vec<Vec<u8>> {
    let samples: Vec<_> = vectors()
        .iter()
        .filter(|vector| vector.get("meaning").is_some())
        .map(bytes)
        .filter(|bytes| bytes.len() <= 250)
        .collect();
    assert!(samples.len() > 80, "{}", samples.len());
    samples
}

#[test]
fn a_message_cut_anywhere_is_malformed() {
    for sample in samples() {
        for length in 0..sample.len() {
            let cut = &sample[..length];
            assert_eq!(device_meaning(cut).unwrap_err().code, ErrorCode::Malformed, "{cut:02x?}");
            assert_eq!(GatewayMessage::decode(cut).unwrap_err().code, ErrorCode::Malformed);
        }
    }
}

#[test]
fn a_message_with_anything_behind_it_is_malformed() {
    for mut sample in samples() {
        for byte in [0x00, 0x80, 0xc0, 0xc1, 0xff] {
            sample.push(byte);
            let errors = [device_meaning(&sample).err(), GatewayMessage::decode(&sample).err()];
            let codes: Vec<_> = errors.iter().flatten().map(|error| error.code).collect();
            assert!(codes.contains(&ErrorCode::Malformed), "{codes:?} {sample:02x?}");
            assert_eq!(codes.len(), 2);
            sample.pop();
        }
    }
}

#[test]
fn any_byte_may_change() {
    // The first byte of every form, and the edges of the forms with lengths in them.
    let edges = [
        0x00, 0x01, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0x91, 0x9f, 0xa0, 0xa1, 0xbf, 0xc0, 0xc1, 0xc4,
        0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcf, 0xd3, 0xd4, 0xd6, 0xd7, 0xd8, 0xd9, 0xdb, 0xdc, 0xdd,
        0xde, 0xdf, 0xe0, 0xff,
    ];
    for mut sample in samples() {
        for place in 0..sample.len() {
            let kept = sample[place];
            let all = 0..=255_u8;
            let few = sample.len() <= 40;
            for byte in all.filter(|byte| few || edges.contains(byte)) {
                sample[place] = byte;
                feed(&sample);
            }
            sample[place] = kept;
        }
    }
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        feed(&bytes);
    }

    /// Random MessagePack heads behind a good start get further than random bytes.
    #[test]
    fn random_bytes_behind_a_good_start(
        start in prop::sample::select(vec![
            &b"\x81\xa5hello\x82"[..],
            b"\x81\xa5batch\x82\xa3seq\x01\xa8readings",
            b"\x81\xa5batch\x82\xa3seq\x01\xa8readings\x91\x82\xa6fields",
            b"\x81\xa5batch\x82\xa3seq\x01\xa7columns\x82\xa6fields\x81\xa1t",
            b"\x81\xa7welcome",
            b"\x81\xa4nack\x83",
        ]),
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xe0_u8, 0..4_u8], 0..60),
    ) {
        feed(&[start, &bytes].concat());
    }
}

#[test]
fn depth_is_refused_without_recursion() {
    for levels in [9, 1_000, 80_000] {
        for (open, close) in [(&b"\x91"[..], &b"\x01"[..]), (b"\x81\xa1k", b"\x01")] {
            let nested = [open.repeat(levels), close.to_vec()].concat();
            for start in [
                &b""[..],
                b"\x81\xa5hello\x81\xa1x",
                b"\x81\xa6result",
                b"\x81\xa5batch\x82\xa3seq\x01\xa8readings",
                b"\x81\xa5batch\x82\xa3seq\x01\xa8readings\x91",
                b"\x81\xa5batch\x82\xa3seq\x01\xa8readings\x91\x81\xa4time",
                b"\x81\xa5batch\x82\xa3seq\x01\xa7columns\x81\xa6fields\x81\xa1t",
                b"\x81\xa5batch\x82\xa3seq\x01\xa1x",
            ] {
                let error = device_meaning(&[start, &nested].concat()).unwrap_err();
                let no_message = start.is_empty() && open == b"\x91";
                let expected = if no_message { ErrorCode::Malformed } else { ErrorCode::TooDeep };
                assert_eq!(error.code, expected, "{levels} {start:?}");
            }
            let unknown = [b"\x81\xa7command", &nested[..]].concat();
            assert_eq!(GatewayMessage::decode(&unknown).unwrap_err().code, ErrorCode::TooDeep);
        }
    }
}

#[test]
fn depth_limit_follows_the_configuration() {
    let body = |levels: usize| {
        let nested = [&b"\x91".repeat(levels)[..], b"\x01"].concat();
        [b"\x82\xa3seq\x01\xa8readings\x91\x81\xa6fields\x81\xa1t", &nested[..]].concat()
    };
    // The value of a field is at level 6.
    for (depth, deepest) in [(8, 3), (12, 7), (32, 27), (u32::MAX, 27)] {
        let limits = Limits { depth, ..Limits::default() };
        assert!(common::batch(&body(deepest), &limits).is_ok(), "{depth}");
        let code = common::batch(&body(deepest + 1), &limits).unwrap_err().code;
        assert_eq!(code, ErrorCode::TooDeep, "{depth}");
    }
}

#[test]
fn a_message_may_be_as_large_as_the_limit() {
    let hello = b"\x81\xa5hello\x80";
    let limit = |message_bytes| Limits { message_bytes, ..Limits::default() };
    assert!(DeviceMessage::decode(hello, &limit(8)).is_ok());
    let error = DeviceMessage::decode(hello, &limit(7)).unwrap_err();
    assert_eq!(error.code, ErrorCode::TooLarge);
    assert_eq!(error.detail, "8 bytes, the limit is 7");
}

#[test]
fn a_refused_reading_does_not_grow_the_buffers() {
    let mut body = b"\x82\xa3seq\x01\xa8readings\x91\x82\xa6fields\xde\xff\xff".to_vec();
    body.extend(b"\xa1t\x01".repeat(0xffff));
    body.extend(b"\xa4tags\xde\xff\xff");
    body.extend(b"\xa1t\xa1x".repeat(0xffff));
    let mut reading = RawReading::default();
    let batch = Batch::open(&body, &Limits::default()).unwrap();
    let mut readings = batch.readings();
    let fault = readings.next(&mut reading).unwrap().unwrap().unwrap_err();
    assert_eq!((fault.code, fault.field), (ErrorCode::TooManyFields, Some("fields")));
    assert_eq!(readings.next(&mut reading), Ok(None));
    assert_eq!((reading.fields.capacity(), reading.tags.capacity()), (0, 0));
}

#[test]
fn a_claim_beyond_the_bytes_is_refused_at_its_head() {
    for claim in [&b"\xdd\xff\xff\xff\xff\x01"[..], b"\xdf\xff\xff\xff\xff\xa1t\x01", b"\x92\x01"] {
        let error = device_meaning(&[b"\x81\xa5hello\x81\xa1x", claim].concat()).unwrap_err();
        assert_eq!(error.code, ErrorCode::Malformed);
        assert!(error.detail.contains("claims more elements"), "{error}");
    }
}

#[test]
fn an_error_says_what_and_where() {
    let error = device_meaning(b"\x81\xa5batch\x81\xa3seq\x00").unwrap_err();
    assert_eq!(
        error.to_string(),
        "malformed: `seq` is not an integer from 1 to 2^53-1 (read up to byte 6)"
    );
    let error = device_meaning(b"\x81\xa3bad\x80").unwrap_err();
    assert_eq!(error.to_string(), "unknown_kind: unknown kind \"bad\"");
}

#[test]
fn the_smallest_device_can_take_every_welcome_and_goodbye() {
    let longest = "x".repeat(MAX_DEVICE_ID_BYTES);
    let welcome = GatewayMessage::Welcome(Welcome {
        session: "x".repeat(36),
        device: longest.clone(),
        realm: longest.clone(),
        time: i64::MAX,
        acked_seq: Some(proto::MAX_SEQ),
        logged_seq: Some(proto::MAX_SEQ),
        window: Window { batches: u32::MAX, bytes: u32::MAX },
        limits: Limits::unbounded(),
        ping_s: u32::MAX,
        ack: AckMode::Durable,
    });
    let goodbye = GatewayMessage::Goodbye(Goodbye {
        code: ErrorCode::UnexpectedHello,
        reason: longest.repeat(4),
        reconnect_after_ms: u32::MAX,
    });
    for message in [welcome, goodbye] {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert!(bytes.len() <= MIN_MAX_RX as usize, "{}", bytes.len());
    }
}
