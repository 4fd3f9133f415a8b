//! What is written down comes back, to the byte.

use super::*;
use crate::ingest::{StreamId, StreamKey};

fn filled(streams: u64) -> Admission {
    let mut admission = Admission::default();
    for stream in 1..=streams {
        let identity = Identity::new("default", &format!("device-{}", stream / 3));
        let key = StreamKey { identity, stream: StreamId::Named(stream * 1_000_003) };
        for seq in 1..=(stream % 70) + 1 {
            let refused = match seq % 5 {
                0 => vec![Refusal { index: 3, code: ErrorCode::NotFinite }; 1 + seq as usize],
                _ => Vec::new(),
            };
            let whole = (seq % 11 == 0).then_some(ErrorCode::EmptyBatch);
            admission.admit(
                &key,
                Seen {
                    seq: seq * 2,
                    hash: seq.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                    position: Position(seq * 300 + stream),
                    refusals: Refusals::of(whole, &refused),
                },
            );
        }
    }
    admission.confirm();
    admission
}

#[test]
fn what_is_encoded_comes_back() {
    let before = filled(5_000);
    let parts = encode(&before);
    assert!(parts.len() > 1, "large enough for several parts");
    let mut after = Admission::default();
    for (number, part) in parts.iter().enumerate() {
        assert_eq!(part_of(part).unwrap(), (number as u64, parts.len() as u64));
        restore(part, &mut after).unwrap();
    }
    assert_eq!(before.named().count(), after.named().count());
    for (key, _, stream) in before.named() {
        assert_eq!(after.stream(key).unwrap().window, stream.window);
    }
}

/// Written by version 1. Never changes: a newer version gets a file of its own.
#[test]
fn the_golden_checkpoint_is_read_and_written_to_the_byte() {
    let golden = golden(include_str!("../../tests/golden/checkpoint-v1.hex"));
    let mut admission = Admission::default();
    restore(&golden, &mut admission).unwrap();
    let window = |realm: &str, device: &str, stream| {
        let identity = Identity::new(realm, device);
        let key = StreamKey { identity, stream: StreamId::Named(stream) };
        admission.stream(&key).unwrap().window.clone()
    };
    let refused = |index, code| Refusal { index, code };
    let readings = [refused(3, ErrorCode::NotFinite), refused(260, ErrorCode::TimeInFuture)];
    let seen =
        |seq, hash, position, refusals| Seen { seq, hash, position: Position(position), refusals };
    assert_eq!(
        window("default", "meter-1", 77),
        [
            seen(300, 0x0102_0304_0506_0708, 1000, None),
            seen(301, 0x1112_1314_1516_1718, 1005, Refusals::of(None, &readings)),
        ]
    );
    assert_eq!(
        window("plant", "press/7", (1 << 53) - 1),
        [seen(1, u64::MAX, 1004, Refusals::of(Some(ErrorCode::EmptyBatch), &[]))]
    );
    assert_eq!(encode(&admission), [golden]);
}

fn golden(text: &str) -> Vec<u8> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// Batches that are recognised by content stand under stream 0. Never changes either.
#[test]
fn the_golden_contents_are_read_and_written_to_the_byte() {
    let golden = golden(include_str!("../../tests/golden/checkpoint-v1-contents.hex"));
    let mut admission = Admission::default();
    restore(&golden, &mut admission).unwrap();
    let identity = Identity::new("mqtt", "press/7");
    let refusals = Refusals::of(Some(ErrorCode::EmptyBatch), &[]);
    let known = |hash, position, refusals| Known { hash, position: Position(position), refusals };
    assert_eq!(
        admission.contents().find(&identity, u64::MAX),
        Some(known(u64::MAX, 1004, refusals))
    );
    let other = 0x0102_0304_0506_0708;
    assert_eq!(admission.contents().find(&identity, other), Some(known(other, 1000, None)));
    assert_eq!(encode(&admission), [golden]);
}

/// What the log has of devices stands under stream 2⁶⁴ − 1. Never changes either.
#[test]
fn the_golden_counts_are_read_and_written_to_the_byte() {
    let golden = golden(include_str!("../../tests/golden/checkpoint-v1-counts.hex"));
    let mut admission = Admission::default();
    restore(&golden, &mut admission).unwrap();
    let counts = admission.counts();
    let count = counts.get(&Identity::new("default", "meter-1"));
    assert_eq!(count, Some(Count { accepted: 300, refused: 2 }));
    assert_eq!((counts.others(), counts.total(), admission.named().count()), (7, 307, 0));
    assert_eq!(encode(&admission), [golden]);
}

#[test]
fn more_contents_than_fit_a_part_come_back() {
    let mut admission = Admission::default();
    let key = |device: &str| StreamKey {
        identity: Identity::new("mqtt", device),
        stream: StreamId::Content,
    };
    let refused = [Refusal { index: 3, code: ErrorCode::NotFinite }; 20];
    for n in 0..12_000 {
        let (seq, hash, position) = (7, n, Position(n));
        let refusals = Refusals::of(None, &refused);
        let device = if n % 50 == 0 { "quiet" } else { "busy" };
        admission.admit(&key(device), Seen { seq, hash, position, refusals });
    }
    admission.confirm();
    let parts = encode(&admission);
    assert!(parts.len() > 1 && parts.iter().all(|part| part.len() < PART_BYTES + 64 * 1024));
    let mut after = Admission::default();
    parts.iter().for_each(|part| restore(part, &mut after).unwrap());
    let all = |of: &Admission| -> Vec<(Identity, Vec<Known>)> {
        of.contents().iter().map(|(who, known)| (who.clone(), known.collect())).collect()
    };
    assert_eq!(all(&after), all(&admission));
}

#[test]
fn a_part_fits_a_record_however_much_was_refused() {
    let refused: Vec<_> =
        (0..10_000).map(|index| Refusal { index, code: ErrorCode::NotFinite }).collect();
    let mut admission = Admission::default();
    for stream in 1..=200 {
        let key = StreamKey {
            identity: Identity::new("default", &format!("device-{stream}")),
            stream: StreamId::Named(u64::MAX >> 11),
        };
        for seq in 1..=WINDOW as u64 {
            let refusals = Refusals::of(None, &refused);
            let seen = Seen { seq, hash: seq, position: Position(stream * 1000 + seq), refusals };
            admission.admit(&key, seen);
        }
    }
    let parts = encode(&admission);
    let largest = parts.iter().map(Vec::len).max().unwrap();
    assert!(largest < PART_BYTES + 64 * 1024, "{largest} bytes");
    let mut after = Admission::default();
    parts.iter().for_each(|part| restore(part, &mut after).unwrap());
    for (key, _, stream) in admission.named() {
        assert_eq!(after.stream(key).unwrap().window, stream.window);
    }
}

#[test]
fn a_private_stream_is_not_kept() {
    let mut admission = Admission::default();
    let identity = Identity::new("default", "d");
    let seen = Seen { seq: 1, hash: 1, position: Position(1), refusals: None };
    admission.admit(&StreamKey { identity, stream: StreamId::Private(1) }, seen);
    let mut after = Admission::default();
    restore(&encode(&admission)[0], &mut after).unwrap();
    assert_eq!(after.named().count(), 0);
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let part = &encode(&filled(20))[0];
    for end in 0..part.len() {
        assert!(restore(&part[..end], &mut Admission::default()).is_err(), "cut at {end}");
    }
    for at in 0..part.len() {
        let mut bad = part.clone();
        bad[at] ^= 0x80;
        let _ = restore(&bad, &mut Admission::default());
    }
    assert_eq!(part_of(&[2, 0, 1, 0]), Err(PartError::Newer(2)));
}
