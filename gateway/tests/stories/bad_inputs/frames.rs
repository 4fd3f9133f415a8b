//! Frames that are against RFC 6455, or more of them than one device may send.

use super::{
    Arena, Fate,
    messages::good,
    wire::{BINARY, CLOSE, PING, TEXT, frame},
};
use proto::ErrorCode::{Flood, Malformed, ProtocolError, TextMessage, TooLarge};

/// A frame that claims a length of 64 bits, and nothing of what it claims.
fn claims(length: u64) -> Vec<u8> {
    [&[BINARY, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat()
}

fn close(code: u16) -> Vec<u8> {
    frame(CLOSE, &code.to_be_bytes())
}

fn close_with(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_offence_gets_its_close_code() {
    let arena = Arena::open().await;
    let against_rfc = Fate::Closed(1002, ProtocolError);
    let too_large = Fate::Closed(1009, TooLarge);
    let flood = Fate::Closed(1008, Flood);
    let message = good();
    let (first, rest) = message.split_at(10);
    let pieces = |pieces: usize| {
        [frame(0x02, b"\x81"), frame(0x00, b"\xa5").repeat(pieces), frame(0x80, b"")].concat()
    };
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        (
            "a message in three frames with a ping between",
            [frame(0x02, first), frame(PING, b"p"), frame(0x00, b""), frame(0x80, rest)].concat(),
            Fate::Taken,
        ),
        (
            "a length in 64 bits that needs 7",
            [&[BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0, message.len() as u8, 0, 0, 0, 0], &*message]
                .concat(),
            Fate::Taken,
        ),
        ("unmasked", [&[BINARY, message.len() as u8], &*message].concat(), against_rfc),
        ("unmasked ping", vec![PING, 0], against_rfc),
        ("RSV1", frame(BINARY | 0x40, &message), against_rfc),
        ("RSV2", frame(BINARY | 0x20, &message), against_rfc),
        ("RSV3", frame(BINARY | 0x10, &message), against_rfc),
        ("opcode 3", frame(0x83, &message), against_rfc),
        ("opcode 7", frame(0x87, &message), against_rfc),
        ("opcode 11", frame(0x8b, b""), against_rfc),
        ("opcode 15", frame(0x8f, b""), against_rfc),
        ("a ping of 126 bytes", frame(PING, &[0; 126]), against_rfc),
        ("a ping in two frames", frame(0x09, b""), against_rfc),
        ("a close in two frames", frame(0x08, b""), against_rfc),
        ("a continuation of nothing", frame(0x80, &message), against_rfc),
        (
            "a continuation after a message",
            [frame(0x02, b""), frame(0x80, b"\xc0"), frame(0x80, b"")].concat(),
            Fate::Closed(1007, Malformed),
        ),
        (
            "a message inside another",
            [frame(0x02, first), frame(BINARY, rest)].concat(),
            against_rfc,
        ),
        ("a length with the top bit", claims(u64::MAX), too_large),
        ("a length of 2^63-1", claims(u64::MAX >> 1), too_large),
        ("a length of 2^32", claims(1 << 32), too_large),
        ("one byte more than the limit", claims(256 * 1024 + 1), too_large),
        (
            "one byte more than the limit in two frames",
            [frame(0x02, &[0; 256 * 1024]), frame(0x80, b"x")].concat(),
            too_large,
        ),
        ("an empty text", frame(TEXT, b""), Fate::Closed(1003, TextMessage)),
        (
            "text in two frames",
            [frame(0x01, b"{"), frame(0x80, b"}")].concat(),
            Fate::Closed(1003, TextMessage),
        ),
        ("text that is not UTF-8", frame(TEXT, b"\xff"), Fate::Closed(1003, TextMessage)),
        ("an empty message", frame(BINARY, b""), Fate::Closed(1007, Malformed)),
        ("300 pings", frame(PING, b"x").repeat(300), flood),
        ("300 pongs", frame(0x8a, b"x").repeat(300), flood),
        (
            "endless empty frames",
            [frame(0x02, b""), frame(0x00, b"").repeat(3_000)].concat(),
            flood,
        ),
        ("3,000 frames of a byte", pieces(3_000), flood),
        ("close 1000", close(1000), Fate::Answered(1000)),
        ("close 1000 with a reason", close_with(1000, b"bye"), Fate::Answered(1000)),
        ("close 4999", close(4999), Fate::Answered(4999)),
        ("close without a code", frame(CLOSE, b""), Fate::Answered(1005)),
        ("close 0", close(0), Fate::Answered(1002)),
        ("close 999", close(999), Fate::Answered(1002)),
        ("close 1004", close(1004), Fate::Answered(1002)),
        ("close 1005", close(1005), Fate::Answered(1002)),
        ("close 1006", close(1006), Fate::Answered(1002)),
        ("close 1015", close(1015), Fate::Answered(1002)),
        ("close 65535", close(65535), Fate::Answered(1002)),
        ("close of one byte", frame(CLOSE, b"\x03"), against_rfc),
        // All that the library says of it is that it is not UTF-8.
        (
            "close with a reason that is not UTF-8",
            close_with(1000, b"\xff"),
            Fate::Closed(1003, TextMessage),
        ),
        ("data after close", [close(1000), frame(BINARY, &message)].concat(), Fate::Answered(1000)),
        (
            "a message, and half of the next, and the end",
            [frame(BINARY, &message), frame(BINARY, &message)[..20].to_vec()].concat(),
            Fate::Taken,
        ),
    ];
    arena
        .try_all(cases, |device, bytes| {
            let arena = &arena;
            async move {
                let mut wire = arena.device(&device).await;
                wire.send(&bytes).await;
                wire.fate().await
            }
        })
        .await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_before_a_half_close_is_taken() {
    let arena = Arena::open().await;
    let mut wire = arena.device("d").await;
    wire.send(&frame(BINARY, &good())).await;
    wire.half_close().await;
    // Whether the ack still arrives is the device's luck; its batch is not lost.
    let _ = wire.fate().await;
    super::eventually("the batch is stored", || arena.home.count("d") == 1);
    arena.close().await;
}
