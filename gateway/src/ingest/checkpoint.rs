//! The state of order and dedupe as records of the log.
//!
//! A checkpoint is one or more records of kind `checkpoint`, each at most [`PART_BYTES`] and a bit.
//! The payload of a part, all numbers LEB128 varints unless said otherwise:
//!
//! - version (1 byte, 1), part number from 0, number of parts, number of streams in this part;
//! - per stream, least recently used first: length and bytes of realm, length and bytes of device
//!   id, stream, number of batches, then per batch, ascending: sequence number less the one before,
//!   position less the one before (the first of each from 0), XXH3-64 of the body (8 bytes,
//!   little-endian), code of a whole refusal (1 byte, 0 if none), number of refused readings,
//!   number of those listed here (at most 16), and for each of these its index (varint) and code
//!   (1 byte).
//!
//! No device names its stream 0. Under that number stand, behind the streams, the batches of a
//! device that are recognised by content alone: in runs of at most 64, one behind the other. Their
//! sequence numbers say nothing; they are written as 1, 2, 3 and so on in each run.
//!
//! The parts stand in the log one behind the other; a checkpoint is valid when all are there.

use super::{
    admit::{Admission, Refusals, Seen, WINDOW},
    contents::{Contents, Known},
};
use crate::record::{Identity, Position, Refusal};
use proto::ErrorCode;
use std::collections::VecDeque;

/// A part is closed once it is longer than this, in bytes.
pub const PART_BYTES: usize = 512 * 1024;
const VERSION: u8 = 1;
/// In the place of a stream: batches that are recognised by content.
const CONTENT: u64 = 0;

/// Why a part cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Written by a newer gateway.
    #[error("checkpoint version {0}, this gateway reads up to 1")]
    Newer(u8),
    /// Not a part.
    #[error("the checkpoint does not decode")]
    Invalid,
}

/// The payloads of a checkpoint's records; at least one.
pub fn encode(admission: &Admission) -> Vec<Vec<u8>> {
    let mut streams: Vec<_> = admission.named().collect();
    streams.sort_unstable_by_key(|(_, _, stream)| stream.used);
    let mut bodies: Bodies = vec![(0, Vec::new())];
    for (key, id, stream) in streams {
        put_stream(&mut bodies, &key.identity, id, stream.window.iter());
    }
    put_contents(&mut bodies, admission.contents());
    let parts = bodies.len() as u64;
    let with_head = |(number, (count, body)): (usize, (u64, Vec<u8>))| {
        let mut part = vec![VERSION];
        for n in [number as u64, parts, count] {
            put(&mut part, n);
        }
        part.extend_from_slice(&body);
        part
    };
    bodies.into_iter().enumerate().map(with_head).collect()
}

/// Number of streams and their bytes, for each part.
type Bodies = Vec<(u64, Vec<u8>)>;

fn put_stream<'a>(
    bodies: &mut Bodies,
    identity: &Identity,
    id: u64,
    window: impl ExactSizeIterator<Item = &'a Seen>,
) {
    if bodies.last().is_some_and(|(_, body)| body.len() > PART_BYTES) {
        bodies.push((0, Vec::new()));
    }
    let Some((count, body)) = bodies.last_mut() else { return };
    *count += 1;
    put_text(body, &identity.realm);
    put_text(body, &identity.device);
    put(body, id);
    put(body, window.len() as u64);
    let (mut seq, mut position) = (0, 0);
    for seen in window {
        put(body, seen.seq - seq);
        put(body, seen.position.0 - position);
        (seq, position) = (seen.seq, seen.position.0);
        body.extend_from_slice(&seen.hash.to_le_bytes());
        put_refusals(body, seen.refusals.as_deref());
    }
}

/// In runs: all batches of one device may be more than fits a part.
fn put_contents(bodies: &mut Bodies, contents: &Contents) {
    for (identity, batches) in contents.iter() {
        let batches: Vec<Known> = batches.collect();
        for run in batches.chunks(WINDOW) {
            let seen: Vec<Seen> = (1..)
                .zip(run)
                .map(|(seq, Known { hash, position, refusals })| Seen {
                    seq,
                    hash: *hash,
                    position: *position,
                    refusals: refusals.clone(),
                })
                .collect();
            put_stream(bodies, identity, CONTENT, seen.iter());
        }
    }
}

/// Number of this part and number of parts.
///
/// # Errors
/// It is not a part, or of a newer version.
pub fn part_of(payload: &[u8]) -> Result<(u64, u64), PartError> {
    let mut input = Input(payload);
    match input.byte().ok_or(PartError::Invalid)? {
        VERSION => {}
        newer => return Err(PartError::Newer(newer)),
    }
    input.varint().zip(input.varint()).ok_or(PartError::Invalid)
}

/// Puts the streams of a part back.
///
/// # Errors
/// It is not a part, or of a newer version; streams before the fault are restored.
pub fn restore(payload: &[u8], admission: &mut Admission) -> Result<(), PartError> {
    part_of(payload)?;
    let mut input = Input(payload);
    read_streams(&mut input, admission).filter(|()| input.0.is_empty()).ok_or(PartError::Invalid)
}

fn read_streams(input: &mut Input<'_>, admission: &mut Admission) -> Option<()> {
    input.byte()?;
    input.varint()?;
    input.varint()?;
    for _ in 0..input.varint()? {
        let identity = Identity::new(input.text()?, input.text()?);
        let stream = input.varint()?;
        let batches = input.varint()?;
        let mut window = VecDeque::new();
        let (mut seq, mut position) = (0u64, 0u64);
        for _ in 0..batches {
            seq = seq.checked_add(input.varint()?)?;
            position = position.checked_add(input.varint()?)?;
            let hash = input.eight()?;
            let refusals = input.refusals()?;
            if window.len() == WINDOW {
                window.pop_front();
            }
            window.push_back(Seen { seq, hash, position: Position(position), refusals });
        }
        if stream == CONTENT {
            let known = |Seen { hash, position, refusals, .. }| Known { hash, position, refusals };
            admission.contents_mut().restore(&identity, window.into_iter().map(known));
        } else {
            admission.restore(identity, stream, window);
        }
    }
    Some(())
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7F) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_refusals(out: &mut Vec<u8>, refusals: Option<&Refusals>) {
    let Some(refusals) = refusals else {
        out.extend_from_slice(&[0, 0, 0]);
        return;
    };
    out.push(refusals.whole.map_or(0, |code| code as u8));
    put(out, u64::from(refusals.total));
    put(out, refusals.readings.len() as u64);
    for refusal in refusals.readings.iter() {
        put(out, u64::from(refusal.index));
        out.push(refusal.code as u8);
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return None;
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    fn eight(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*head))
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(head).ok()
    }

    #[expect(clippy::option_option, reason = "outer: does it decode; inner: is anything refused")]
    fn refusals(&mut self) -> Option<Option<Box<Refusals>>> {
        let whole = match self.byte()? {
            0 => None,
            number => Some(ErrorCode::from_number(number)?),
        };
        let total = u32::try_from(self.varint()?).ok()?;
        let count = usize::try_from(self.varint()?).ok().filter(|&n| n <= self.0.len())?;
        let mut readings = Vec::with_capacity(count);
        for _ in 0..count {
            let index = u32::try_from(self.varint()?).ok()?;
            readings.push(Refusal { index, code: ErrorCode::from_number(self.byte()?)? });
        }
        let refused = whole.is_some() || total > 0;
        Some(refused.then(|| Box::new(Refusals { whole, readings: readings.into(), total })))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
        let seen = |seq, hash, position, refusals| Seen {
            seq,
            hash,
            position: Position(position),
            refusals,
        };
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
        let known =
            |hash, position, refusals| Known { hash, position: Position(position), refusals };
        assert_eq!(
            admission.contents().find(&identity, u64::MAX),
            Some(known(u64::MAX, 1004, refusals))
        );
        let other = 0x0102_0304_0506_0708;
        assert_eq!(admission.contents().find(&identity, other), Some(known(other, 1000, None)));
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
                let seen =
                    Seen { seq, hash: seq, position: Position(stream * 1000 + seq), refusals };
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
}
