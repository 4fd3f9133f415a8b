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
//! Nor does one name 2⁶⁴ − 1. Under that number stands, with one batch at position 0, what the log has
//! of a device: the accepted readings in the place of the sequence number, the refused ones in that
//! of the hash. Without realm and device id it is what was accepted of devices that are not counted.
//! All of them together are what the log has accepted in total; if they are not, they are stale and
//! mean nothing.
//!
//! The parts stand in the log one behind the other; a checkpoint is valid when all are there.

use super::{
    admit::{Admission, Refusals, Seen, WINDOW},
    contents::{Contents, Known},
    counts::{Count, Counts},
};
use crate::record::{Identity, Position, Refusal};
use proto::ErrorCode;
use std::collections::VecDeque;

/// A part is closed once it is longer than this, in bytes.
pub const PART_BYTES: usize = 512 * 1024;
const VERSION: u8 = 1;
/// In the place of a stream: batches that are recognised by content.
const CONTENT: u64 = 0;

/// In the place of a stream: how many readings of a device the log has.
const COUNT: u64 = u64::MAX;

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
    put_counts(&mut bodies, admission.counts());
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

fn put_counts(bodies: &mut Bodies, counts: &Counts) {
    let mut put = |identity: &Identity, Count { accepted, refused }: Count| {
        let in_place =
            Seen { seq: accepted, hash: refused, position: Position::ZERO, refusals: None };
        put_stream(bodies, identity, COUNT, std::iter::once(&in_place));
    };
    if counts.others() > 0 {
        put(&Identity::new("", ""), Count { accepted: counts.others(), refused: 0 });
    }
    for (identity, count) in counts.iter() {
        put(identity, count);
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
        if stream == COUNT {
            let Seen { seq: accepted, hash: refused, .. } = window.pop_back()?;
            let counts = admission.counts_mut();
            match identity.device.is_empty() {
                true => counts.restore_others(accepted),
                false => counts.restore(identity, Count { accepted, refused }),
            }
        } else if stream == CONTENT {
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
#[path = "checkpoint_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
